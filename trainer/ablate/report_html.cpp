#include <fmt/format.h>

#include <set>

#include "trainer/ablate/plot.h"
#include "trainer/ablate/report.h"

namespace wuneng::trainer::ablate {
namespace {

constexpr const char* page_style =
    ":root{--bg:#fff;--fg:#1a1a1a;--muted:#595959;--grid:#e4e4e4;--head:#f4f4f4;color-scheme:light dark}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--bg:#16181c;--fg:#ececec;--muted:#a8adb5;"
    "--grid:#33373e;--head:#202329}}\n"
    "body{margin:0 auto;max-width:1240px;padding:24px 20px 48px;background:var(--bg);color:var(--fg);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:24px;line-height:1.25;margin:0 0 8px}h2{font-size:18px;margin:32px 0 8px}p{margin:8px 0}\n"
    ".muted{color:var(--muted);font-size:13px}li{margin:4px 0}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:20px}\n"
    "figure{margin:0;max-width:660px;break-inside:avoid}\n"
    ".wide{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:5px 8px;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}\n"
    "th{background:var(--head);font-weight:600;vertical-align:bottom}td{white-space:nowrap}\n"
    "th:first-child,td:first-child{text-align:left;font-weight:600}\n"
    "table.words th,table.words td{text-align:left}table.words td:nth-child(n+2){white-space:normal}\n"
    "@media print{body{max-width:none;padding:0;font-size:11px}h2{break-after:avoid}\n"
    "table{font-size:8.5px}th,td{padding:2px 4px}td{white-space:normal}.wide{overflow:visible}\n"
    ".muted{font-size:9.5px}.plots{display:block}figure{display:inline-block;width:49%}}\n";

std::string html_table(const Table& table, const char* css) {
  std::string html = fmt::format("<div class=\"wide\"><table class=\"{}\">\n<thead><tr>", css);
  for (const std::string& cell : table.header) html += "<th>" + escape_html(cell) + "</th>";
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (const std::string& cell : row) html += "<td>" + escape_html(cell) + "</td>";
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

// The style of a variant: the reference is 0, the others count on in the order of the plan.
std::size_t style_of(const Plan& plan, std::size_t variant) {
  if (variant == plan.reference) return 0;
  return variant < plan.reference ? variant + 1 : variant;
}

template <class CurveOf>
std::vector<Series> series(const Plan& plan, const CurveOf& curve_of) {
  std::vector<Series> all;
  for (std::size_t v = 0; v < plan.variants.size(); ++v)
    all.push_back({plan.variants[v].name, style_of(plan, v), curve_of(v)});
  return all;
}

std::string figure(const std::string& svg) { return svg.empty() ? "" : "<figure>\n" + svg + "</figure>\n"; }

std::string difference_plots(const ReportData& data) {
  std::string html;
  const Plan& plan = data.plan;
  for (std::size_t m = 0; m < plan.file.metrics.size(); ++m) {
    const Metric& metric = plan.file.metrics[m];
    IntervalChart chart{
        .title = fmt::format("{}: difference to {}, paired by seed", metric.name, plan.file.reference),
        .x_label = fmt::format("{}; {} is better; shaded: noise", metric.unit(),
                               metric.lower_is_better() ? "left" : "right"),
        .noise = metric.noise()};
    for (std::size_t v = 0; v < plan.variants.size(); ++v) {
      const Interval& difference = data.summary.variants[v].comparisons[m].difference;
      if (difference.count > 0) chart.rows.push_back({plan.variants[v].name, style_of(plan, v), difference});
    }
    if (!chart.rows.empty()) html += figure(to_svg(chart));
  }
  return html;
}

std::string curve_plots(const ReportData& data) {
  const Plan& plan = data.plan;
  constexpr const char* labels[] = {"training tokens", "training FLOPs",
                                    "seconds of training, without validation"};
  constexpr Axis axes[] = {Axis::tokens, Axis::flops, Axis::seconds};
  std::string html;
  for (const Metric& metric : plan.file.metrics)
    for (std::size_t a = 0; a < std::size(axes); ++a)
      html += figure(to_svg(LineChart{
          fmt::format("{} against {}", metric.name,
                      a == 0   ? "tokens"
                      : a == 1 ? "FLOPs"
                               : "seconds"),
          labels[a], metric.is_loss() ? "nats per token" : "share right",
          series(plan,
                 [&](std::size_t v) { return validation_curve(plan, data.results, v, metric, axes[a]); }),
          !metric.is_loss()}));
  constexpr std::size_t pieces = 60;
  for (std::size_t a = 0; a < std::size(axes); ++a)
    html += figure(to_svg(LineChart{
        fmt::format("training loss against {}", a == 0   ? "tokens"
                                                : a == 1 ? "FLOPs"
                                                         : "seconds"),
        labels[a], "nats per token",
        series(plan, [&](std::size_t v) { return training_curve(plan, data.results, v, axes[a], pieces); }),
        false}));
  std::set<std::string> families;
  for (const std::string& name : accuracy_names(data)) families.insert(name.substr(0, name.find('@')));
  for (const std::string& family : families)
    html += figure(to_svg(LineChart{
        family + " at the end by length", "sequence length", "share right",
        series(plan, [&](std::size_t v) { return accuracy_by_length(plan, data.results, v, family); }),
        true}));
  return html;
}

}  // namespace

std::string report_html(const ReportData& data) {
  const std::string question = escape_html(data.plan.file.question);
  const Table accuracy = accuracy_table(data), problems = problems_table(data);
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n"
      "<style>\n{}{}</style>\n</head>\n<body>\n<h1>{}</h1>\n<p>{}</p>\n",
      question, page_style, plot_style(), question, escape_html(summary_line(data)));
  html += "<h2>What was seen</h2>\n<ul>\n";
  for (const std::string& line : sentences(data)) html += "<li>" + escape_html(line) + "</li>\n";
  html += "</ul>\n<p class=\"muted\">" + escape_html(rule_text(data.plan)) + "</p>\n";
  html += "<div class=\"plots\">\n" + difference_plots(data) + "</div>\n";
  html += "<h2>Results</h2>\n" + html_table(results_table(data), "");
  for (const std::string& note : notes(data)) html += "<p class=\"muted\">" + escape_html(note) + "</p>\n";
  if (!accuracy.rows.empty())
    html += "<h2>Accuracy in percent, at the end (range over seeds)</h2>\n" + html_table(accuracy, "");
  html +=
      "<h2>Curves</h2>\n<p class=\"muted\">Lines: means over the seeds; bands: from the lowest seed to the "
      "highest, "
      "where all have come so far.</p>\n<div class=\"plots\">\n" +
      curve_plots(data) + "</div>\n";
  if (!problems.rows.empty())
    html += "<h2>Runs that have not finished</h2>\n" + html_table(problems, "words");
  html += "<h2>Settings of the variants</h2>\n" + html_table(overrides_table(data), "words");
  return html +
         "<p class=\"muted\">Each run's whole configuration is runs/NAME/config.yaml beside this file.</p>\n"
         "</body>\n</html>\n";
}

}  // namespace wuneng::trainer::ablate
