// What the runs of an ablation have reported so far, read from their metrics.jsonl.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/ablate/folder.h"
#include "trainer/ablate/plan.h"

namespace wuneng::trainer::ablate {

// How far a run was when something was measured: training only, without validation.
struct Progress {
  std::int64_t step = 0;
  double tokens = 0.0, flops = 0.0, seconds = 0.0;
};

struct TrainingPoint {
  Progress at;
  double loss = 0.0;  // of one step, nats
};

// One accuracy of a task on the examples of one length: 0..1.
struct Accuracy {
  std::string family;  // "accuracy", "accuracy_moved"
  std::string length;  // "128", or whatever else tells one test from another
  double share = 0.0;

  std::string name() const { return family + "@" + length; }
};

struct EvaluationPoint {
  Progress at;
  std::optional<double> loss = {};  // validation, nats
  std::vector<Accuracy> accuracies = {};

  std::optional<double> value(const Metric& metric) const;
};

enum class RunStatus { waiting, unfinished, finished, failed };
const char* to_text(RunStatus status);

struct RunResult {
  RunStatus status = RunStatus::waiting;
  std::string message;  // of a failure
  std::vector<TrainingPoint> training;
  std::vector<EvaluationPoint> evaluations;
  double tokens_per_second = 0.0;  // median of the steps; 0: none yet
  std::int64_t peak_bytes = 0;     // 0: unknown

  // The metric at the end of a finished run.
  std::optional<double> final_value(const Metric& metric) const;
};

// Of every run of the plan, in its order. A last line that a crash has cut is left out; a file that is
// damaged elsewhere makes its run a failed one.
std::vector<RunResult> read_results(const Plan& plan, const Folder& folder);

// The lines of a metrics.jsonl, whichever they are.
RunResult read_metrics(const std::filesystem::path& file, double flops_per_token);

}  // namespace wuneng::trainer::ablate
