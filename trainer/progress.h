// The progress line of a run.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace wuneng::trainer {

// One line that overwrites itself on a terminal; nothing elsewhere (log lines do the job in a file).
class ProgressLine {
 public:
  // `enabled`: rank 0 only. Shown when standard error is a terminal, or `always`.
  ProgressLine(bool enabled, bool always);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  struct State {
    std::int64_t step = 0, steps = 0;
    double loss = 0.0, tokens_per_second = 0.0, flops_per_second = 0.0, seconds_per_step = 0.0;
  };
  // Shows the line: at most ten times a second, but always for the first one, after clear(), and for the last
  // step. The time left is estimated from the recent steps, not from the last one alone.
  void show(const State& state);
  void clear();  // before a log line

 private:
  bool active_, visible_ = false;
  std::optional<std::chrono::steady_clock::time_point> shown_;  // none: show the next one at once
  std::optional<double> seconds_per_step_;                      // running mean
};

// The text of a progress line, at most `columns` wide: "step 120/600 [=====>     ] loss 3.214  2.1k tok/s  84
// GFLOP/s  1.2 GiB  ETA 3m12s". Where there is no room for all, the bar goes first, then memory, speeds, ETA
// and loss. `memory_bytes` 0: unknown, left out.
std::string progress_text(const ProgressLine::State& state, std::int64_t memory_bytes, int columns);

// "42s", "3m12s", "2h05m", "3d04h"; "?" for what is negative or too long.
std::string duration_text(double seconds);

// Of the terminal at standard error; 80 when it does not say.
int terminal_columns();

}  // namespace wuneng::trainer
