// What an ablation leaves to read: results.jsonl, results.csv, report.md and report.html, made anew from the
// metrics of the runs, each time and whole, so that nothing is lost when one is cut or deleted.
#pragma once

#include <string>
#include <vector>

#include "trainer/ablate/summary.h"

namespace wuneng::trainer::ablate {

// Everything that a report is made of.
struct ReportData {
  const Plan& plan;
  std::vector<RunResult> results;
  Summary summary;
};
ReportData read_report_data(const Plan& plan, const Folder& folder);

// Writes all four, each atomically.
void write_report(const ReportData& data, const Folder& folder);

// One row for every evaluation of every run, and one for a run without any.
std::string results_jsonl(const ReportData& data);
std::string results_csv(const ReportData& data);
std::string report_markdown(const ReportData& data);
// One page without outside resources and without scripts; its plots follow the reader's light or dark mode
// and are dark on white in print.
std::string report_html(const ReportData& data);

// ---- tables that both reports share ----

struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};
Table results_table(const ReportData& data);  // a row per variant
Table accuracy_table(
    const ReportData& data);  // a row per variant, a column per accuracy; empty without tasks
// "accuracy@128" ...: all that the evaluations have, in the order in which they come.
std::vector<std::string> accuracy_names(const ReportData& data);
Table overrides_table(const ReportData& data);  // the exact settings of each variant
Table problems_table(const ReportData& data);   // runs that have failed or not ended
std::string summary_line(const ReportData& data);
std::vector<std::string> sentences(const ReportData& data);  // the reference's left out
// What the report's columns mean, and what it was made from.
std::vector<std::string> notes(const ReportData& data);

}  // namespace wuneng::trainer::ablate
