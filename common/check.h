// Errors and the checks that throw them. A message names the place, the value and the remedy; the top level
// of the program (trainer/main.cpp) adds rank and host, prints it once and turns the type into the exit code.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace wuneng {

// Exit codes of the program; the contract with scripts and schedulers.
enum class ExitCode : int {
  done = 0,
  failed = 1,   // failed while running
  usage = 2,    // wrong usage, configuration or data: nothing was started
  stopped = 3,  // stopped early by a signal, after saving: run the same command again to go on
};

// Something went wrong while running (exit code 1).
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::failed)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// The user asked for something impossible: wrong flags, configuration, data or checkpoint (exit code 2).
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(message, ExitCode::usage) {}
};

}  // namespace wuneng

// WN_CHECK(condition, format, values...): throws Error unless the condition holds. For states that a correct
// program never reaches and for failures of the machine.
#define WN_CHECK(condition, ...)                       \
  do {                                                 \
    if (!(condition)) [[unlikely]]                     \
      throw ::wuneng::Error(fmt::format(__VA_ARGS__)); \
  } while (false)

// WN_REQUIRE(condition, format, values...): the same for what a user hands in; throws UsageError.
#define WN_REQUIRE(condition, ...)                          \
  do {                                                      \
    if (!(condition)) [[unlikely]]                          \
      throw ::wuneng::UsageError(fmt::format(__VA_ARGS__)); \
  } while (false)
