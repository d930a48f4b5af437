// The file of an ablation as somebody wrote it: strict YAML in, everything with the place where it stands.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/config_file.h"

namespace wuneng::trainer::ablate {

// How long each run is: so many steps, tokens (of global batches of full sequences), or floating-point
// operations (forward and backward).
struct Budget {
  enum class Unit { steps, tokens, flops };
  Unit unit = Unit::steps;
  double amount = 0.0;
};

// What the feed-forward's width makes equal between the variants.
enum class Match { parameters, flops, none };

// What runs are compared by, at their last evaluation.
struct Metric {
  std::string name;  // "validation_loss"; "accuracy": the mean over all lengths; "accuracy@128"

  bool is_loss() const { return name == "validation_loss"; }
  bool lower_is_better() const { return is_loss(); }
  double noise() const { return is_loss() ? 0.005 : 0.01; }  // differences up to it are taken for noise
  const char* unit() const { return is_loss() ? "nats" : "of the answers"; }
};

struct WrittenVariant {
  std::string name;
  std::string subject;  // "x.yaml:12: variants.gated", which opens errors about it
  std::vector<Setting> settings;
};

struct PlanFile {
  std::filesystem::path path;
  std::string question;
  std::filesystem::path base;            // configuration that all start from
  std::vector<Setting> overrides;        // of all
  std::vector<WrittenVariant> variants;  // with those of the grids
  std::string reference;                 // the variant that the others are compared with
  std::vector<std::int64_t> seeds;
  Budget budget;
  Match match = Match::parameters;
  std::vector<Metric> metrics;
};

// What the command line changes.
struct Choices {
  std::string size;                    // a name under `sizes:`; empty: as the file says
  std::vector<std::string> overrides;  // "a.b.c=value", of all variants
  std::string seeds, budget;           // "1,2,3" and "steps=100"; empty: as the file says
};

// Throws UsageError with file and line for unknown, missing, repeated or misspelt names, values of the wrong
// type, repeated seeds, and overrides of what the ablation itself decides.
PlanFile read_plan_file(const std::filesystem::path& path, const Choices& choices);

}  // namespace wuneng::trainer::ablate
