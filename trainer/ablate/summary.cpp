#include "trainer/ablate/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

namespace wuneng::trainer::ablate {
namespace {

// The finals of a metric by seed, of the runs of one variant that have it.
std::map<std::int64_t, double> finals(const Plan& plan, const std::vector<RunResult>& results,
                                      std::size_t variant, const Metric& metric) {
  std::map<std::int64_t, double> values;
  for (std::size_t r = 0; r < results.size(); ++r)
    if (plan.runs[r].variant == variant)
      if (const auto value = results[r].final_value(metric)) values[plan.runs[r].seed] = *value;
  return values;
}

Interval over_seeds(const std::map<std::int64_t, double>& values) {
  std::vector<double> list;
  for (const auto& [seed, value] : values) list.push_back(value);
  return interval_of(list);
}

Interval paired(const std::map<std::int64_t, double>& values,
                const std::map<std::int64_t, double>& reference) {
  std::vector<double> differences;
  for (const auto& [seed, value] : values)
    if (const auto other = reference.find(seed); other != reference.end())
      differences.push_back(value - other->second);
  return interval_of(differences);
}

void compare(const Plan& plan, const std::vector<RunResult>& results, Summary& summary) {
  for (const Metric& metric : plan.file.metrics) {
    const auto reference = finals(plan, results, plan.reference, metric);
    std::vector<double> p;
    for (std::size_t v = 0; v < plan.variants.size(); ++v) {
      const auto values = finals(plan, results, v, metric);
      Comparison comparison{.value = over_seeds(values)};
      if (v != plan.reference) {
        comparison.difference = paired(values, reference);
        comparison.verdict = judge(comparison.difference, metric.noise(), metric.lower_is_better());
        p.push_back(comparison.difference.p);
      }
      summary.variants[v].comparisons.push_back(comparison);
    }
    const std::vector<double> corrected = holm(p);
    for (std::size_t v = 0, other = 0; v < plan.variants.size(); ++v)
      if (v != plan.reference) summary.variants[v].comparisons.back().corrected_p = corrected[other++];
  }
}

double axis_value(const Progress& at, Axis axis) {
  switch (axis) {
    case Axis::tokens:
      return at.tokens;
    case Axis::flops:
      return at.flops;
    case Axis::seconds:
      return at.seconds;
  }
  return 0.0;
}

// Points (x, y) of all seeds at one place become one, where all `seeds` have it.
struct Gathered {
  std::vector<double> x, y;
};

Curve curve_of(const std::map<double, Gathered>& places, std::size_t seeds) {
  Curve curve;
  for (const auto& [place, points] : places) {
    if (points.y.size() != seeds) continue;
    const auto [low, high] = std::ranges::minmax(points.y);
    curve.push_back({interval_of(points.x).mean, interval_of(points.y).mean, low, high});
  }
  return curve;
}

// Calls `add` for each run of the variant that has begun; returns their number.
template <class Add>
std::size_t for_runs(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant,
                     const Add& add) {
  std::size_t count = 0;
  for (std::size_t r = 0; r < results.size(); ++r) {
    if (plan.runs[r].variant != variant || results[r].training.empty()) continue;
    add(results[r]);
    ++count;
  }
  return count;
}

}  // namespace

Summary summarise(const Plan& plan, const std::vector<RunResult>& results) {
  Summary summary;
  summary.variants.resize(plan.variants.size());
  std::vector<std::vector<double>> speeds(plan.variants.size());
  for (std::size_t r = 0; r < results.size(); ++r) {
    const RunResult& result = results[r];
    VariantSummary& variant = summary.variants[plan.runs[r].variant];
    variant.planned += 1;
    variant.finished += result.status == RunStatus::finished;
    variant.failed += result.status == RunStatus::failed;
    variant.peak_bytes = std::max(variant.peak_bytes, result.peak_bytes);
    if (result.tokens_per_second > 0.0) speeds[plan.runs[r].variant].push_back(result.tokens_per_second);
  }
  for (std::size_t v = 0; v < speeds.size(); ++v)
    summary.variants[v].tokens_per_second = interval_of(speeds[v]).mean;
  compare(plan, results, summary);
  return summary;
}

std::string rule_text(const Plan& plan) {
  std::string noise;
  for (const Metric& metric : plan.file.metrics)
    noise +=
        fmt::format("{}{} {} for {}", noise.empty() ? "" : ", ", metric.noise(), metric.unit(), metric.name);
  return fmt::format(
      "A variant is called better or worse than {} only when (1) at least {} seeds of both have ended, (2) "
      "the 95 % "
      "t interval of the differences paired by seed leaves 0 out, and (3) the mean difference is larger than "
      "what "
      "the literature on such comparisons takes for noise between equal models ({}). Everything else is "
      "called not "
      "distinguishable, which does not mean equal. With {} comparisons at 95 % each, one in twenty of those "
      "between "
      "equal models would pass (2) by chance; p values are of the paired t test, corrected for that by "
      "Holm's method.",
      plan.file.reference, fewest_seeds, noise, plan.variants.size() - 1);
}

std::string sentence(const Plan& plan, const Summary& summary, std::size_t variant, std::size_t metric) {
  const Metric& measure = plan.file.metrics[metric];
  const Comparison& comparison = summary.variants[variant].comparisons[metric];
  const Interval& d = comparison.difference;
  const std::string &name = plan.variants[variant].name, &reference = plan.file.reference;
  const auto numbers = [&] {
    return fmt::format("{} differs by {:+.4f} {} (95 % interval {:+.4f} to {:+.4f}, {} seeds)", measure.name,
                       d.mean, measure.unit(), d.low(), d.high(), d.count);
  };
  if (d.count == 0) {
    const std::size_t failed = summary.variants[variant].failed;
    return fmt::format("{}: cannot tell; no seed of it and of {} has ended{}.", name, reference,
                       failed > 0 ? fmt::format(", and {} of its runs failed", failed) : "");
  }
  if (comparison.verdict == Verdict::too_few_seeds)
    return fmt::format(
        "{}: cannot tell; {} {} of it and of {} ended, and it takes {} ({} differs by {:+.4f} {}).", name,
        d.count, d.count == 1 ? "seed" : "seeds", reference, fewest_seeds, measure.name, d.mean,
        measure.unit());
  if (comparison.verdict == Verdict::indistinguishable)
    return fmt::format("{}: not distinguishable from {}; {}.", name, reference, numbers());
  const double range =
      std::max(comparison.value.range, summary.variants[plan.reference].comparisons[metric].value.range);
  return fmt::format(
      "{}: {} than {}; {}, {:.1f} times the larger range over seeds{}.", name,
      comparison.verdict == Verdict::better ? "better" : "worse", reference, numbers(),
      range > 0.0 ? std::abs(d.mean) / range : 0.0,
      comparison.corrected_p <= 1.0 - confidence
          ? ""
          : fmt::format("; looked at together with the other comparisons it could be chance (p {:.3f} "
                        "by Holm's correction)",
                        comparison.corrected_p));
}

Curve validation_curve(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant,
                       const Metric& metric, Axis axis) {
  std::map<double, Gathered> places;
  const std::size_t seeds = for_runs(plan, results, variant, [&](const RunResult& result) {
    for (const EvaluationPoint& point : result.evaluations)
      if (const auto value = point.value(metric)) {
        Gathered& place = places[static_cast<double>(point.at.step)];
        place.x.push_back(axis_value(point.at, axis));
        place.y.push_back(*value);
      }
  });
  return curve_of(places, seeds);
}

Curve training_curve(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant, Axis axis,
                     std::size_t pieces) {
  const std::int64_t steps = plan.variants[variant].config.trainer.steps;
  const std::int64_t stretch = std::max<std::int64_t>(1, steps / static_cast<std::int64_t>(pieces));
  std::map<double, Gathered> places;
  const std::size_t seeds = for_runs(plan, results, variant, [&](const RunResult& result) {
    double sum = 0.0;
    std::int64_t count = 0;
    for (const TrainingPoint& point : result.training) {
      sum += point.loss;
      if (++count < stretch && point.at.step != steps) continue;
      Gathered& place = places[static_cast<double>(point.at.step)];
      place.x.push_back(axis_value(point.at, axis));
      place.y.push_back(sum / static_cast<double>(count));
      sum = 0.0;
      count = 0;
    }
  });
  return curve_of(places, seeds);
}

Curve accuracy_by_length(const Plan& plan, const std::vector<RunResult>& results, std::size_t variant,
                         const std::string& family) {
  std::map<double, Gathered> places;
  std::size_t seeds = 0;
  for_runs(plan, results, variant, [&](const RunResult& result) {
    if (result.status != RunStatus::finished || result.evaluations.empty()) return;
    ++seeds;
    for (const Accuracy& accuracy : result.evaluations.back().accuracies) {
      const std::string& text = accuracy.length;
      double x = 0.0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x);
      const bool number = error == std::errc() && end == text.data() + text.size();
      if (accuracy.family != family || !number) continue;
      places[x].x.push_back(x);
      places[x].y.push_back(accuracy.share);
    }
  });
  return curve_of(places, seeds);
}

}  // namespace wuneng::trainer::ablate
