#include "trainer/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string_view>
#include <utility>

namespace wuneng::trainer {
namespace {

constexpr int widest_bar = 24, narrowest_bar = 8;
constexpr auto interval = std::chrono::milliseconds(100);
constexpr double recent = 0.1;  // weight of the last step in the running mean
constexpr const char* erase_line = "\r\x1b[K";

// "84", "2.1k": two or three digits and a prefix.
template <std::size_t n>
std::string short_number(double value, double base, const std::array<std::string_view, n>& prefixes) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  std::size_t i = 0;
  for (; value >= 999.5 && i + 1 < n; ++i) value /= base;
  return fmt::format("{:.{}f}{}", value, value < 9.95 && (i > 0 || value != std::floor(value)) ? 1 : 0,
                     prefixes[i]);
}

std::string rate(double per_second, std::string_view unit) {
  constexpr std::array<std::string_view, 5> prefixes{"", "k", "M", "G", "T"};
  return fmt::format("{} {}/s", short_number(per_second, 1e3, prefixes), unit);
}

std::string flops(double per_second) {
  constexpr std::array<std::string_view, 4> units{" MFLOP/s", " GFLOP/s", " TFLOP/s", " PFLOP/s"};
  return short_number(per_second / 1e6, 1e3, units);
}

std::string memory(std::int64_t bytes) {
  constexpr std::array<std::string_view, 3> units{" MiB", " GiB", " TiB"};
  return short_number(static_cast<double>(bytes) / (1 << 20), 1024.0, units);
}

std::string bar(std::int64_t step, std::int64_t steps, std::size_t width) {
  const std::size_t room = width - 2;
  const double share =
      steps > 0 ? std::clamp(static_cast<double>(step) / static_cast<double>(steps), 0.0, 1.0) : 0.0;
  const auto done = static_cast<std::size_t>(share * static_cast<double>(room));
  std::string inside(done, '=');
  if (done < room) inside += '>';
  inside.resize(room, ' ');
  return "[" + inside + "]";
}

// Resident memory of this process.
std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t all_pages = 0, resident_pages = 0;
  file >> all_pages >> resident_pages;
  return resident_pages * ::sysconf(_SC_PAGESIZE);
}

}  // namespace

std::string duration_text(double seconds) {
  constexpr double longest = 1e9;
  if (!(seconds >= 0.0 && seconds < longest)) return "?";
  const auto s = std::llround(seconds);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
  return fmt::format("{}d{:02}h", s / 86400, s % 86400 / 3600);
}

int terminal_columns() {
  constexpr int usual = 80;
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : usual;
}

std::string progress_text(const ProgressLine::State& state, std::int64_t memory_bytes, int columns) {
  const auto width = static_cast<std::size_t>(std::max(0, columns));
  const double left = static_cast<double>(state.steps - state.step) * state.seconds_per_step;
  struct Field {
    std::string text;
    int rank;  // the lowest is the last to go
  };
  std::array<Field, 5> fields{{{fmt::format("loss {:.3f}", state.loss), 0},
                               {rate(state.tokens_per_second, "tok"), 2},
                               {flops(state.flops_per_second), 3},
                               {memory_bytes > 0 ? memory(memory_bytes) : "", 4},
                               {"ETA " + duration_text(left), 1}}};
  const std::string head = fmt::format("step {}/{}", state.step, state.steps);
  const auto joined = [&](int ranks) {
    std::string text;
    for (const Field& field : fields)
      if (field.rank < ranks && !field.text.empty()) text += "  " + field.text;
    return text;
  };
  constexpr int all = fields.size();
  int ranks = all;
  while (ranks > 0 && head.size() + joined(ranks).size() > width) --ranks;
  const std::string tail = joined(ranks);
  const std::size_t used = head.size() + tail.size() + 1;
  if (ranks < all || used + narrowest_bar > width) return (head + tail).substr(0, width);
  return head + " " + bar(state.step, state.steps, std::min<std::size_t>(widest_bar, width - used)) +
         tail.substr(1);
}

ProgressLine::ProgressLine(bool enabled, bool always)
    : active_(enabled && (always || ::isatty(STDERR_FILENO) == 1)) {}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::show(const State& state) {
  if (!active_) return;
  const double before = seconds_per_step_.value_or(state.seconds_per_step);
  seconds_per_step_ = (1.0 - recent) * before + recent * state.seconds_per_step;
  const auto now = std::chrono::steady_clock::now();
  if (shown_ && state.step < state.steps && now - *shown_ < interval) return;
  shown_ = now;
  visible_ = true;
  State smooth = state;
  smooth.seconds_per_step = *seconds_per_step_;
  // The last column stays free: some terminals begin a new line once it is filled.
  fmt::print(stderr, "{}{}", erase_line, progress_text(smooth, resident_bytes(), terminal_columns() - 1));
  std::fflush(stderr);
}

void ProgressLine::clear() {
  shown_.reset();
  if (!std::exchange(visible_, false)) return;
  std::fputs(erase_line, stderr);
  std::fflush(stderr);
}

}  // namespace wuneng::trainer
