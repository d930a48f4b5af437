#include "trainer/ablate/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/json.h"

namespace wuneng::trainer::ablate {
namespace {

// Rows as objects with the same names in each.
std::vector<Json> rows_of(const ReportData& data) {
  std::vector<Json> rows;
  for (std::size_t r = 0; r < data.results.size(); ++r) {
    const PlannedRun& run = data.plan.runs[r];
    const Variant& variant = data.plan.variant_of(run);
    const RunResult& result = data.results[r];
    std::vector<EvaluationPoint> points = result.evaluations;
    const bool none = points.empty();
    if (none) points.emplace_back();
    for (const EvaluationPoint& point : points) {
      Json row{{"run", run.name},
               {"variant", variant.name},
               {"seed", run.seed},
               {"status", to_text(result.status)},
               {"message", result.message},
               {"parameters", variant.parameters},
               {"match_error", variant.match_error},
               {"flops_per_token", variant.flops_per_token},
               {"step", none ? Json() : Json(point.at.step)},
               {"tokens", none ? Json() : Json(point.at.tokens)},
               {"flops", none ? Json() : Json(point.at.flops)},
               {"seconds", none ? Json() : Json(point.at.seconds)},
               {"validation_loss", point.loss ? Json(*point.loss) : Json()},
               {"accuracy", Json::object()},
               {"tokens_per_second", result.tokens_per_second},
               {"peak_bytes", result.peak_bytes}};
      for (const Accuracy& accuracy : point.accuracies) row["accuracy"][accuracy.name()] = accuracy.share;
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string csv_cell(const Json& value) {
  if (value.is_null()) return "";
  const std::string text = value.is_string() ? value.get<std::string>() : dump(value);
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string markdown_cell(const std::string& text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? std::string("\\|") : std::string(1, c == '\n' ? ' ' : c);
  return cell;
}

std::string markdown_table(const Table& table) {
  const auto line = [](const std::vector<std::string>& cells) {
    std::string text = "|";
    for (const std::string& cell : cells) text += " " + markdown_cell(cell) + " |";
    return text + "\n";
  };
  std::string text = line(table.header) + "|";
  for (std::size_t i = 0; i < table.header.size(); ++i) text += "---|";
  text += "\n";
  for (const auto& row : table.rows) text += line(row);
  return text;
}

}  // namespace

ReportData read_report_data(const Plan& plan, const Folder& folder) {
  ReportData data{plan, read_results(plan, folder), {}};
  data.summary = summarise(plan, data.results);
  return data;
}

std::string results_jsonl(const ReportData& data) {
  std::string text;
  for (const Json& row : rows_of(data)) text += dump(row) + "\n";
  return text;
}

std::string results_csv(const ReportData& data) {
  const std::vector<Json> rows = rows_of(data);
  const std::vector<std::string> accuracies = accuracy_names(data);
  std::string text;
  const auto add_row = [&](const std::vector<std::string>& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) text += (i ? "," : "") + cells[i];
    text += "\n";
  };
  std::vector<std::string> header;
  for (const auto& [name, value] : rows.front().items())
    if (name != "accuracy") header.push_back(name);
  for (const std::string& name : accuracies) header.push_back(csv_cell(name));
  add_row(header);
  for (const Json& row : rows) {
    std::vector<std::string> cells;
    for (const auto& [name, value] : row.items())
      if (name != "accuracy") cells.push_back(csv_cell(value));
    for (const std::string& name : accuracies) cells.push_back(csv_cell(row["accuracy"].value(name, Json())));
    add_row(cells);
  }
  return text;
}

std::string report_markdown(const ReportData& data) {
  const Table accuracy = accuracy_table(data), problems = problems_table(data);
  std::string text = fmt::format("# {}\n\n{}\n\n", data.plan.file.question, summary_line(data));
  text += "## What was seen\n\n";
  for (const std::string& line : sentences(data)) text += "- " + line + "\n";
  text += "\n" + rule_text(data.plan) + "\n\n## Results\n\n" + markdown_table(results_table(data)) + "\n";
  for (const std::string& note : notes(data)) text += note + "\n\n";
  if (!accuracy.rows.empty())
    text += "## Accuracy in percent, at the end (range over seeds)\n\n" + markdown_table(accuracy) + "\n";
  if (!problems.rows.empty()) text += "## Runs that have not finished\n\n" + markdown_table(problems) + "\n";
  text += "## Settings of the variants\n\n" + markdown_table(overrides_table(data)) +
          "\nThe configuration of each run is runs/NAME/config.yaml; curves are in report.html.\n";
  return text;
}

void write_report(const ReportData& data, const Folder& folder) {
  write_file_atomically(folder.path() / "results.jsonl", results_jsonl(data));
  write_file_atomically(folder.path() / "results.csv", results_csv(data));
  write_file_atomically(folder.path() / "report.md", report_markdown(data));
  write_file_atomically(folder.path() / "report.html", report_html(data));
}

}  // namespace wuneng::trainer::ablate
