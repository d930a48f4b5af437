// What a run reports: metrics.jsonl, tensorboard/ and the progress line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "common/file.h"
#include "common/json.h"

namespace wuneng::trainer {

// RUN/metrics.jsonl: one JSON object a line. Training lines hold step, samples, tokens, loss, grad_norm, lr, tokens_per_second, step_seconds;
// evaluation lines step, validation_loss, validation_tokens. Floats round-trip.
class MetricsFile {
 public:
  // Opens for appending; lines of steps after `last_step` (and a last line cut by a crash) are dropped first, since a resumed run writes
  // them again.
  MetricsFile(const std::filesystem::path& file, std::int64_t last_step);
  void write(const Json& line);

 private:
  OutputFile file_;
};

// TensorBoard event files: records of a hand-encoded Event message with masked CRC-32C, as `tensorboard --logdir RUN` reads them.
class TensorBoard {
 public:
  explicit TensorBoard(const std::filesystem::path& folder);
  void scalar(const std::string& tag, double value, std::int64_t step);

 private:
  OutputFile file_;
};

// One line that overwrites itself on a terminal; nothing elsewhere (log lines do the job in a file).
class ProgressLine {
 public:
  // `enabled`: rank 0 only. Shown when standard error is a terminal, or `always`.
  ProgressLine(bool enabled, bool always);
  ~ProgressLine();
  struct State {
    std::int64_t step = 0, steps = 0, tokens = 0;
    double loss = 0.0, tokens_per_second = 0.0, flops_per_second = 0.0, seconds_per_step = 0.0;
  };
  void show(const State& state);   // step, loss, tokens/s, GFLOP/s, memory of this process, ETA
  void clear();                    // before a log line

 private:
  bool active_;
};

// The text of a progress line, at most `columns` wide: "step 120/600 [=====>     ] loss 3.214  2.1k tok/s  84 GFLOP/s  1.2 GiB  ETA 3m12s".
std::string progress_text(const ProgressLine::State& state, std::int64_t memory_bytes, int columns);

}  // namespace wuneng::trainer
