#include "trainer/ablate/plan.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/check.h"
#include "trainer/feed_forward_match.h"

namespace wuneng::trainer::ablate {
namespace {

double tokens_per_step(const Config& config) {
  return static_cast<double>(config.trainer.global_batch * config.data.sequence_length);
}

double training_flops_per_token(const Config& config) {
  return 3.0 * model::forward_flops(config.model, config.data.sequence_length).total();
}

std::int64_t steps_of(const Budget& budget, const Config& config) {
  double steps = budget.amount;
  if (budget.unit != Budget::Unit::steps) steps /= tokens_per_step(config);
  if (budget.unit == Budget::Unit::flops) steps /= training_flops_per_token(config);
  WN_REQUIRE(steps < 1e9, "budget: {} is {} steps, more than 1e9; lower it", to_text(budget), steps);
  return std::max<std::int64_t>(1, std::llround(steps));
}

// Runs `work`; what is wrong is wrong with this variant.
template <class Work>
auto about(const WrittenVariant& variant, const Work& work) {
  try {
    return work();
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", variant.subject, error.what()));
  }
}

Variant written(const PlanFile& file, const std::vector<Setting>& base, const WrittenVariant& written) {
  Variant variant{.name = written.name};
  std::vector<Setting> settings = base;
  settings.insert(settings.end(), file.overrides.begin(), file.overrides.end());
  settings.insert(settings.end(), written.settings.begin(), written.settings.end());
  for (const Setting& setting : settings) set_value(*setting.key, setting.value, variant.config);
  for (const Setting& setting : written.settings)
    variant.overrides.push_back(fmt::format("{}={}", setting.key->path, setting.value.text));
  variant.config.seed = file.seeds.front();
  about(written, [&] { model::check(variant.config.model); });  // before its parameters are counted
  return variant;
}

void match(const PlanFile& file, const Variant& reference, const WrittenVariant& written, Variant& variant) {
  const MatchedCost kind = file.match == Match::flops ? MatchedCost::flops : MatchedCost::parameters;
  const double target = cost_of(reference.config, kind);
  if (file.match != Match::none && variant.name != reference.name) {
    const FeedForwardMatch found = match_feed_forward(variant.config, target, kind);
    WN_REQUIRE(found.within_tolerance(), "{}: cannot be matched to {}: {}", written.subject, reference.name,
               found.problem());
    variant.config.model.feed_forward.hidden = found.hidden;
    variant.overrides.push_back(fmt::format("model.ffn.hidden={}", found.hidden));
  }
  variant.match_error = cost_of(variant.config, kind) / target - 1.0;
}

void finish(const PlanFile& file, const WrittenVariant& written, Variant& variant) {
  Config& config = variant.config;
  variant.parameters = count_parameters(config.model);
  variant.flops_per_token = training_flops_per_token(config);
  variant.bytes = model::sequence_bytes(config.model, config.data.sequence_length);
  about(written, [&] {
    config.trainer.steps = steps_of(file.budget, config);
    check(config);
  });
}

void refuse_equals(const Plan& plan) {
  std::map<std::string, std::string> seen;  // configuration -> variant
  for (const Variant& variant : plan.variants) {
    const auto [first, is_new] = seen.emplace(to_yaml(variant.config), variant.name);
    WN_REQUIRE(is_new,
               "{}: the variants {} and {} resolve to the same configuration, so that they would make equal "
               "runs; change or remove one",
               plan.file.path.string(), first->second, variant.name);
  }
}

}  // namespace

double Variant::tokens() const { return static_cast<double>(config.trainer.steps) * tokens_per_step(config); }

Plan make_plan(const std::filesystem::path& path, const Choices& choices) {
  Plan plan{.file = read_plan_file(path, choices)};
  const PlanFile& file = plan.file;
  const std::vector<Setting> base = read_config_file(file.base);
  for (const WrittenVariant& variant : file.variants) {
    if (variant.name == file.reference) plan.reference = plan.variants.size();
    plan.variants.push_back(written(file, base, variant));
  }
  refuse_equals(plan);  // before matching tells them apart by a width
  const Variant reference = plan.variants[plan.reference];
  for (std::size_t v = 0; v < plan.variants.size(); ++v) {
    match(file, reference, file.variants[v], plan.variants[v]);
    finish(file, file.variants[v], plan.variants[v]);
  }
  for (const std::int64_t seed : file.seeds)
    for (std::size_t v = 0; v < plan.variants.size(); ++v) {
      PlannedRun run{fmt::format("{}-seed{}", plan.variants[v].name, seed), v, seed, plan.variants[v].config};
      run.config.seed = seed;
      plan.runs.push_back(std::move(run));
    }
  return plan;
}

std::string to_text(const Budget& budget) {
  constexpr const char* units[] = {"steps", "tokens", "flops"};
  return fmt::format("{} = {:g}", units[static_cast<int>(budget.unit)], budget.amount);
}

std::string to_text(Match match) {
  constexpr const char* names[] = {"parameters", "flops", "none"};
  return names[static_cast<int>(match)];
}

std::vector<std::string> settings_apart(const Config& variant, const Config& reference) {
  std::vector<std::string> apart;
  for (const Key& key : config_keys()) {
    const std::string value = value_text(key, variant);
    if (value != value_text(key, reference)) apart.push_back(fmt::format("{}={}", key.path, value));
  }
  return apart;
}

}  // namespace wuneng::trainer::ablate
