// The runs of an ablation: every variant at the reference's cost, with every seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/cost.h"
#include "trainer/ablate/plan_file.h"
#include "trainer/config.h"

namespace wuneng::trainer::ablate {

struct Variant {
  std::string name;
  std::vector<std::string> overrides = {};  // "model.fusion.mode=gated", with the width that `match` chose
  Config config = {};                       // resolved; of the first seed
  std::int64_t parameters = 0;
  double flops_per_token = 0.0;     // forward and backward, in training sequences
  double match_error = 0.0;         // of what `match` makes equal, relative to the reference
  model::SequenceBytes bytes = {};  // of a sequence of the training length while generating
  double tokens() const;            // of a run: steps x global batch x sequence length
  double flops() const { return flops_per_token * tokens(); }  // of a run
};

struct PlannedRun {
  std::string name;  // "gated-seed1": also its folder's
  std::size_t variant = 0;
  std::int64_t seed = 0;
  Config config;
};

struct Plan {
  PlanFile file;
  std::vector<Variant> variants = {};
  std::size_t reference = 0;
  std::vector<PlannedRun> runs = {};  // all variants of the first seed, then of the next

  const Variant& variant_of(const PlannedRun& run) const { return variants[run.variant]; }
};

// Throws UsageError as read_plan_file() does, and for variants that are no valid configuration, that cannot
// be matched (with the nearest that can be reached), or that resolve to the same configuration.
Plan make_plan(const std::filesystem::path& path, const Choices& choices);

// "steps = 100", "parameters": as files write them.
std::string to_text(const Budget& budget);
std::string to_text(Match match);

// The settings in which `variant` differs from `reference`, as "key=value" with the variant's value.
std::vector<std::string> settings_apart(const Config& variant, const Config& reference);

}  // namespace wuneng::trainer::ablate
