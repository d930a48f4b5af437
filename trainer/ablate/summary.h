// The runs of an ablation put together: what each variant reached, and whether that differs from the
// reference.
#pragma once

#include <string>
#include <vector>

#include "trainer/ablate/results.h"
#include "trainer/ablate/statistics.h"

namespace wuneng::trainer::ablate {

// Of one variant and one metric.
struct Comparison {
  Interval value = {};       // over seeds
  Interval difference = {};  // to the reference, paired by seed; no values for the reference itself
  double corrected_p = 1.0;  // of the difference, by Holm's correction over all variants
  Verdict verdict = Verdict::too_few_seeds;
};

struct VariantSummary {
  std::size_t finished = 0, failed = 0, planned = 0;  // runs
  double tokens_per_second = 0.0;                     // mean over runs; 0: none
  std::int64_t peak_bytes = 0;                        // largest over runs; 0: unknown
  std::vector<Comparison> comparisons;                // in the order of the metrics
};

struct Summary {
  std::vector<VariantSummary> variants;  // in the order of the plan
};

Summary summarise(const Plan& plan, const std::vector<RunResult>& results);

// The rule behind every sentence, in words.
std::string rule_text(const Plan& plan);

// "gated is better than concat: validation_loss lower by 0.0312 nats (95 % interval ...)".
std::string sentence(const Plan& plan, const Summary& summary, std::size_t variant, std::size_t metric);

// One measure over training, of all seeds of a variant at the places where every one of them has it.
struct CurvePoint {
  double x = 0.0, mean = 0.0, low = 0.0, high = 0.0;  // low, high: over the seeds
};
using Curve = std::vector<CurvePoint>;
enum class Axis { tokens, flops, seconds };

// Of one variant. Training losses are means of up to `pieces` equal stretches of the run.
Curve validation_curve(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant,
                       const Metric& metric, Axis axis);
Curve training_curve(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant, Axis axis,
                     std::size_t pieces);
// Accuracy of finished runs at their end, x being the length.
Curve accuracy_by_length(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant,
                         const std::string& family);

}  // namespace wuneng::trainer::ablate
