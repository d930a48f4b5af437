#include "trainer/ablate/results.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"
#include "common/json.h"

namespace wuneng::trainer::ablate {
namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

std::optional<double> number(const Json& line, const char* name) {
  const auto found = line.find(name);
  if (found == line.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

EvaluationPoint evaluation_of(const Json& line, const Progress& at) {
  EvaluationPoint point{.at = at, .loss = number(line, "validation_loss")};
  point.at.step = line["step"].get<std::int64_t>();
  for (const auto& [name, values] : line.items())
    if (name.starts_with("accuracy") && values.is_object())
      for (const auto& [length, share] : values.items())
        if (share.is_number()) point.accuracies.push_back({name, length, share.get<double>()});
  return point;
}

// The object of a line, or null for a last line that was cut.
Json line_of(std::string_view text, bool is_last, const std::filesystem::path& file, std::int64_t number) {
  Json line = Json::parse(text, nullptr, false);
  if (line.is_object() && line.contains("step") && line["step"].is_number_integer()) return line;
  WN_REQUIRE(is_last,
             "{}:{}: is not a JSON object with a step; remove the line, or move the run's folder away",
             file.string(), number);
  return nullptr;
}

}  // namespace

std::optional<double> EvaluationPoint::value(const Metric& metric) const {
  if (metric.is_loss()) return loss;
  double sum = 0.0, count = 0.0;
  for (const Accuracy& accuracy : accuracies) {
    if (accuracy.name() == metric.name) return accuracy.share;
    if (accuracy.family != metric.name) continue;
    sum += accuracy.share;
    count += 1.0;
  }
  return count > 0.0 ? std::optional(sum / count) : std::nullopt;
}

std::optional<double> RunResult::final_value(const Metric& metric) const {
  if (status != RunStatus::finished || evaluations.empty()) return std::nullopt;
  return evaluations.back().value(metric);
}

const char* to_text(RunStatus status) {
  constexpr const char* names[] = {"waiting", "unfinished", "finished", "failed"};
  return names[static_cast<int>(status)];
}

RunResult read_metrics(const std::filesystem::path& file, double flops_per_token) {
  RunResult result;
  if (!std::filesystem::exists(file)) return result;
  const std::string text = read_text(file);
  std::vector<double> speeds;
  Progress at;
  std::int64_t count = 0;
  for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    const Json line =
        line_of(std::string_view(text).substr(begin, end - begin), end == text.size(), file, ++count);
    if (line.is_null()) break;
    const auto loss = number(line, "loss"), seconds = number(line, "step_seconds");
    if (!loss && !seconds) {
      result.evaluations.push_back(evaluation_of(line, at));
      continue;
    }
    at.step = line["step"].get<std::int64_t>();
    at.tokens = number(line, "tokens").value_or(at.tokens);
    at.flops = at.tokens * flops_per_token;
    at.seconds += seconds.value_or(0.0);
    if (const auto speed = number(line, "tokens_per_second")) speeds.push_back(*speed);
    if (loss) result.training.push_back({at, *loss});
  }
  result.tokens_per_second = median(std::move(speeds));
  return result;
}

std::vector<RunResult> read_results(const Plan& plan, const Folder& folder) {
  std::vector<RunResult> results;
  for (const PlannedRun& run : plan.runs) {
    RunResult result;
    try {
      result = read_metrics(folder.metrics(run), plan.variant_of(run).flops_per_token);
      const std::optional<RunRecord> record = folder.read_record(run);
      if (record) result.peak_bytes = record->peak_bytes;
      if (folder.finished(run)) {
        result.status = RunStatus::finished;
      } else if (record && record->exit_code != 0 &&
                 record->exit_code != static_cast<int>(ExitCode::stopped)) {
        result.status = RunStatus::failed;
        result.message = record->message;
      } else if (!result.training.empty()) {
        result.status = RunStatus::unfinished;
      }
    } catch (const Error& error) {
      result.status = RunStatus::failed;
      result.message = error.what();
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace wuneng::trainer::ablate
