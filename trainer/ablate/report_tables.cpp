#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "common/hash.h"
#include "data/tasks/task.h"
#include "trainer/ablate/report.h"
#include "trainer/launch.h"

namespace wuneng::trainer::ablate {
namespace {

std::string bytes_text(double bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024.0 && unit + 1 < std::size(units); ++unit) bytes /= 1024.0;
  return fmt::format("{:.{}f} {}", bytes, bytes < 10.0 && unit > 0 ? 1 : 0, units[unit]);
}

std::string number_text(std::int64_t value) {
  std::string text = fmt::format("{}", value);
  for (std::ptrdiff_t at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

std::string value_text(const Interval& value) {
  if (value.count == 0) return "-";
  if (value.count == 1) return fmt::format("{:.4f}", value.mean);
  return fmt::format("{:.4f} ± {:.4f}", value.mean, value.half_width);
}

std::string difference_text(const Interval& difference) {
  if (difference.count == 0) return "-";
  if (difference.count == 1) return fmt::format("{:+.4f}", difference.mean);
  return fmt::format("{:+.4f} ({:+.4f} to {:+.4f})", difference.mean, difference.low(), difference.high());
}

const char* word(Verdict verdict) {
  constexpr const char* words[] = {"better", "worse", "not distinguishable", "cannot tell"};
  return words[static_cast<int>(verdict)];
}

}  // namespace

Table results_table(const ReportData& data) {
  const Plan& plan = data.plan;
  Table table{{"variant", "parameters", "match error", "MFLOP/token", "state", "cache"}, {}};
  for (const Metric& metric : plan.file.metrics)
    for (const std::string& column : {metric.name, fmt::format("difference to {}", plan.file.reference),
                                      std::string("p (Holm)"), std::string("verdict")})
      table.header.push_back(column);
  for (const char* column : {"seeds", "tokens/s", "peak memory"}) table.header.push_back(column);
  for (std::size_t v = 0; v < plan.variants.size(); ++v) {
    const Variant& variant = plan.variants[v];
    const VariantSummary& summary = data.summary.variants[v];
    std::vector<std::string> row{variant.name,
                                 number_text(variant.parameters),
                                 fmt::format("{:+.2f} %", 100.0 * variant.match_error),
                                 fmt::format("{:.3f}", variant.flops_per_token / 1e6),
                                 bytes_text(variant.bytes.states),
                                 bytes_text(variant.bytes.key_value_cache)};
    for (const Comparison& comparison : summary.comparisons) {
      row.push_back(value_text(comparison.value));
      const bool reference = v == plan.reference, told = comparison.difference.count > 1;
      row.push_back(reference ? "reference" : difference_text(comparison.difference));
      row.push_back(reference || !told ? "-" : fmt::format("{:.3f}", comparison.corrected_p));
      row.push_back(reference ? "-" : word(comparison.verdict));
    }
    row.push_back(fmt::format("{} of {}", summary.finished, summary.planned));
    row.push_back(summary.tokens_per_second > 0.0 ? number_text(std::llround(summary.tokens_per_second))
                                                  : "-");
    row.push_back(summary.peak_bytes > 0 ? bytes_text(static_cast<double>(summary.peak_bytes)) : "-");
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::vector<std::string> accuracy_names(const ReportData& data) {
  std::vector<std::string> all;
  for (const RunResult& result : data.results)
    for (const EvaluationPoint& point : result.evaluations)
      for (const Accuracy& accuracy : point.accuracies)
        if (std::ranges::find(all, accuracy.name()) == all.end()) all.push_back(accuracy.name());
  return all;
}

Table accuracy_table(const ReportData& data) {
  Table table;
  const std::vector<std::string> all = accuracy_names(data);
  if (all.empty()) return table;
  table.header = {"variant"};
  for (const std::string& name : all) table.header.push_back(name);
  for (std::size_t v = 0; v < data.plan.variants.size(); ++v) {
    std::vector<std::string> row{data.plan.variants[v].name};
    for (const std::string& name : all) {
      std::vector<double> values;
      for (std::size_t r = 0; r < data.results.size(); ++r)
        if (data.plan.runs[r].variant == v)
          if (const auto value = data.results[r].final_value({name})) values.push_back(*value);
      if (values.empty()) {
        row.emplace_back("-");
        continue;
      }
      const auto [low, high] = std::ranges::minmax(values);
      row.push_back(fmt::format("{:.1f} ({:.1f} to {:.1f})", 100.0 * interval_of(values).mean, 100.0 * low,
                                100.0 * high));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table overrides_table(const ReportData& data) {
  Table table{{"variant", "overrides", "configuration"}, {}};
  for (const Variant& variant : data.plan.variants)
    table.rows.push_back(
        {variant.name,
         variant.overrides.empty() ? "none" : fmt::format("{}", fmt::join(variant.overrides, " ")),
         hex(identity_hash(variant.config))});
  return table;
}

Table problems_table(const ReportData& data) {
  Table table{{"run", "status", "steps", "message"}, {}};
  for (std::size_t r = 0; r < data.results.size(); ++r) {
    const RunResult& result = data.results[r];
    if (result.status == RunStatus::finished) continue;
    const std::int64_t steps = result.training.empty() ? 0 : result.training.back().at.step;
    table.rows.push_back({data.plan.runs[r].name, to_text(result.status),
                          fmt::format("{} of {}", steps, data.plan.runs[r].config.trainer.steps),
                          result.message});
  }
  return table;
}

std::string summary_line(const ReportData& data) {
  const PlanFile& file = data.plan.file;
  const auto finished = std::ranges::count(data.results, RunStatus::finished, &RunResult::status);
  const Config& config = data.plan.variants[data.plan.reference].config;
  return fmt::format(
      "{} variants x {} seeds ({}), {} of {} runs finished. Budget: {} for each run; matched: {}; reference: "
      "{}, "
      "{} parameters, sequences of {} tokens.",
      data.plan.variants.size(), file.seeds.size(), fmt::join(file.seeds, ", "), finished,
      data.results.size(), to_text(file.budget), to_text(file.match), file.reference,
      number_text(data.plan.variants[data.plan.reference].parameters), config.data.sequence_length);
}

std::vector<std::string> sentences(const ReportData& data) {
  std::vector<std::string> list;
  for (std::size_t m = 0; m < data.plan.file.metrics.size(); ++m)
    for (std::size_t v = 0; v < data.plan.variants.size(); ++v)
      if (v != data.plan.reference) list.push_back(sentence(data.plan, data.summary, v, m));
  return list;
}

std::vector<std::string> notes(const ReportData& data) {
  const Config& config = data.plan.variants[data.plan.reference].config;
  const bool task = config.data.task.name != data::TaskName::none;
  const std::string trained =
      task ? fmt::format("task {}", data::spelling(config.data.task.name)) : config.data.train;
  const std::string validation = task ? "its tests" : config.data.validation;
  return {
      "± and brackets: 95 % t intervals over seeds. Differences are paired: a variant's value minus the "
      "reference's "
      "of the same seed, which has the same data in the same order.",
      fmt::format(
          "MFLOP/token: forward and backward, in sequences of {} tokens. State and cache: bytes that such a "
          "sequence takes while generating, in float32. Tokens/s: the median step of a run, validation left "
          "out, mean over runs. Peak memory: resident, of the largest process of any run.",
          config.data.sequence_length),
      fmt::format("Data: {}; validation: {}. Program: {}.", trained.empty() ? "none" : trained,
                  validation.empty() ? "none" : validation, build_identity())};
}

}  // namespace wuneng::trainer::ablate
