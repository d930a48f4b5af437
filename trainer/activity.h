// What a rank is doing, for messages about it.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

namespace wuneng::trainer {

// Written by the main thread; read by the watchdog's and by signal handlers.
struct Activity {
  std::atomic<std::int64_t> step = 0;        // 0: before the first step
  std::atomic<const char*> phase = "start";  // a string literal

  // "step 12, backward"; the form with a buffer, which returns the length, is safe in a signal handler.
  template <std::size_t size>
  std::size_t describe(char (&buffer)[size]) const {
    const auto out = step > 0 ? fmt::format_to_n(buffer, size, "step {}, {}", step.load(), phase.load())
                              : fmt::format_to_n(buffer, size, "{}", phase.load());
    return std::min(out.size, size);
  }
  std::string describe() const {
    char text[128];
    return {text, describe(text)};
  }
};

}  // namespace wuneng::trainer
