// RUN/metrics.jsonl: what every step of a run reported.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/file.h"
#include "common/json.h"

namespace wuneng::trainer {

// One JSON object a line, each with its step. Training lines hold step, samples, tokens, loss, grad_norm, lr,
// tokens_per_second, step_seconds; evaluation lines step, validation_loss, validation_tokens and,
// on a task, an object for each metric with a number for each test: "accuracy": {"64": 0.99, "128": 0.7}.
// Floats round-trip; those that are not finite become null.
class MetricsFile {
 public:
  // Opens for appending; lines of steps after `last_step` (and a last line cut by a crash) are dropped first,
  // since a resumed run writes them again. Throws UsageError with the line's number when any other line is
  // not an object with a step.
  MetricsFile(const std::filesystem::path& file, std::int64_t last_step);
  void write(const Json& line);  // in one piece: no reader sees half a line, unless the disk is full

 private:
  OutputFile file_;
};

}  // namespace wuneng::trainer
