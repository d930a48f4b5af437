#include "trainer/ablate/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace wuneng::trainer::ablate {
namespace {

constexpr std::size_t colours = 8;  // after the reference's; more series have dashes

// Okabe and Ito's palette, told apart by the colour-blind, and lighter tones of it for a dark page.
constexpr const char* light[colours] = {"#0072b2", "#d55e00", "#009e73", "#b8478f",
                                        "#a87900", "#3b8fc4", "#7a4fb5", "#8a3b2a"};
constexpr const char* dark[colours] = {"#5db7f0", "#ff9a57", "#3fd6a8", "#f08cc8",
                                       "#f0c53f", "#9ad4f7", "#b99af0", "#e0907c"};

std::string classes_of(std::size_t style) {
  if (style == 0) return "ref";
  const std::size_t round = (style - 1) / colours;
  return fmt::format("s{}{}", (style - 1) % colours, round == 0 ? "" : round == 1 ? " dash" : " dot");
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return !(low <= high); }
  Range padded(double share) const {
    double pad = share * (high - low);
    if (pad <= 0.0) pad = std::max(1e-3, 0.05 * std::abs(high));
    return {low - pad, high + pad};
  }
};

// A few round numbers inside the range.
std::vector<double> ticks(const Range& range, int wanted) {
  const double rough = (range.high - range.low) / wanted,
               power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough <= 1.0 * power   ? 1.0
                               : rough <= 2.0 * power ? 2.0
                               : rough <= 5.0 * power ? 5.0
                                                      : 10.0);
  std::vector<double> list;
  for (double k = std::ceil(range.low / step - 1e-9); k * step <= range.high + 1e-9 * step; k += 1.0)
    list.push_back(k == 0.0 ? 0.0 : k * step);
  return list;
}

// "1.5M", "0.25": as many digits as the ticks need to differ.
std::string tick_text(double value, double step) {
  constexpr const char* prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  std::size_t prefix = 0;
  for (; std::abs(value) >= 1000.0 && prefix + 1 < std::size(prefixes); ++prefix) {
    value /= 1000.0;
    step /= 1000.0;
  }
  int digits = 0;
  while (digits < 6 &&
         std::abs(step * std::pow(10.0, digits) - std::round(step * std::pow(10.0, digits))) > 1e-6)
    ++digits;
  return fmt::format("{:.{}f}{}", value, digits, prefixes[prefix]);
}

struct Frame {
  double left, top, right, bottom;  // of the inside, in units of the SVG
  Range x, y;

  double to_x(double value) const { return left + (value - x.low) / (x.high - x.low) * (right - left); }
  double to_y(double value) const { return bottom - (value - y.low) / (y.high - y.low) * (bottom - top); }
};

std::string text_at(double x, double y, const char* anchor, const std::string& css, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>\n", x, y,
                     anchor, css, escape_html(text));
}

std::string line_from(double x1, double y1, double x2, double y2, const std::string& css) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1,
                     x2, y2, css);
}

std::string x_axis(const Frame& frame, const std::string& label) {
  std::string svg;
  const std::vector<double> marks = ticks(frame.x, 5);
  const double step = marks.size() > 1 ? marks[1] - marks[0] : 1.0;
  for (const double mark : marks) {
    svg += line_from(frame.to_x(mark), frame.top, frame.to_x(mark), frame.bottom, "grid");
    svg += text_at(frame.to_x(mark), frame.bottom + 16, "middle", "tick", tick_text(mark, step));
  }
  return svg + text_at((frame.left + frame.right) / 2, frame.bottom + 34, "middle", "label", label);
}

std::string y_axis(const Frame& frame, const std::string& label) {
  std::string svg;
  const std::vector<double> marks = ticks(frame.y, 5);
  const double step = marks.size() > 1 ? marks[1] - marks[0] : 1.0;
  for (const double mark : marks) {
    svg += line_from(frame.left, frame.to_y(mark), frame.right, frame.to_y(mark), "grid");
    svg += text_at(frame.left - 6, frame.to_y(mark) + 4, "end", "tick", tick_text(mark, step));
  }
  const double middle = (frame.top + frame.bottom) / 2;
  return svg + fmt::format(
                   "<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\" "
                   "class=\"label\">{}</text>\n",
                   middle, escape_html(label));
}

std::string band_and_line(const Frame& frame, const Series& series) {
  std::string there, back, line;
  for (const CurvePoint& point : series.curve) {
    const double x = frame.to_x(point.x);
    there += fmt::format("{:.1f},{:.1f} ", x, frame.to_y(point.high));
    back = fmt::format("{:.1f},{:.1f} ", x, frame.to_y(point.low)) + back;
    line += fmt::format("{:.1f},{:.1f} ", x, frame.to_y(point.mean));
  }
  const std::string css = classes_of(series.style);
  std::string svg = fmt::format("<polygon points=\"{}\" class=\"band {}\"/>\n", there + back, css);
  svg += fmt::format("<polyline points=\"{}\" class=\"curve {}\"/>\n", line, css);
  if (series.curve.size() > 12) return svg;
  for (const CurvePoint& point : series.curve)
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" class=\"point {}\"/>\n",
                       frame.to_x(point.x), frame.to_y(point.mean), css);
  return svg;
}

// Names beside the right ends of their lines, pushed apart where they would overlap.
std::string names_at_ends(const Frame& frame, const std::vector<Series>& all) {
  struct Name {
    const Series* series;
    double end, y;
  };
  std::vector<Name> names;
  for (const Series& series : all) {
    if (series.curve.empty()) continue;
    const double end = std::clamp(frame.to_y(series.curve.back().mean), frame.top, frame.bottom);
    names.push_back({&series, end, end});
  }
  std::ranges::stable_sort(names, {}, &Name::end);
  constexpr double apart = 14.0;
  for (std::size_t i = 1; i < names.size(); ++i) names[i].y = std::max(names[i].y, names[i - 1].y + apart);
  double limit = frame.bottom + 4;
  for (auto name = names.rbegin(); name != names.rend(); ++name, limit -= apart) {
    if (name->y <= limit) break;
    name->y = limit;
  }
  std::string svg;
  for (const Name& name : names) {
    const std::string css = classes_of(name.series->style);
    svg += line_from(frame.to_x(name.series->curve.back().x) + 2, name.end, frame.right + 16, name.y,
                     "lead " + css);
    svg += text_at(frame.right + 20, name.y + 4, "start", "name " + css, name.series->name);
  }
  return svg;
}

std::string open_svg(double width, double height, const std::string& title) {
  return fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n", width, height,
                     escape_html(title)) +
         text_at(10, 18, "start", "title", title);
}

std::size_t longest_name(const std::vector<Series>& series) {
  std::size_t longest = 0;
  for (const Series& one : series) longest = std::max(longest, one.name.size());
  return longest;
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string plot_style() {
  std::string style =
      "svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}\n"
      ".title{font-size:14px;font-weight:600;fill:var(--fg)}.label{fill:var(--muted)}.tick{fill:var(--muted);"
      "font-size:11px}\n"
      ".grid{stroke:var(--grid);stroke-width:1}.zero{stroke:var(--fg);stroke-width:1.2}.noise{fill:var(--"
      "grid)}\n"
      ".curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}.band{fill:var(--c);opacity:."
      "16}\n"
      ".point{fill:var(--c)}.lead{stroke:var(--c);stroke-width:1;opacity:.6}.name{fill:var(--c);font-weight:"
      "600}\n"
      ".bar{stroke:var(--c);stroke-width:2.2}.ref{--c:var(--fg)}.curve.ref{stroke-width:2.4}\n"
      ".curve.dash{stroke-dasharray:6 3}.curve.dot{stroke-dasharray:2 3}\n";
  std::string by_day, by_night;
  for (std::size_t i = 0; i < colours; ++i) {
    style += fmt::format(".s{}{{--c:var(--s{})}}", i, i);
    by_day += fmt::format("--s{}:{};", i, light[i]);
    by_night += fmt::format("--s{}:{};", i, dark[i]);
  }
  return fmt::format("{}\n:root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n", style,
                     by_day, by_night);
}

std::string to_svg(const LineChart& chart) {
  Range x, y;
  for (const Series& series : chart.series)
    for (const CurvePoint& point : series.curve) x.add(point.x);
  for (const Series& series : chart.series)
    for (const CurvePoint& point : series.curve)
      if (series.curve.size() < 4 || point.x >= 0.1 * x.high) {
        y.add(point.low);
        y.add(point.high);
      }
  if (x.empty() || y.empty()) return "";
  const double names = 34.0 + 7.2 * static_cast<double>(longest_name(chart.series)), width = 560.0 + names;
  constexpr double height = 340.0;
  if (x.high <= x.low) x = x.padded(0.5);
  const Frame frame{62, 34, width - names, height - 46, x, chart.shares ? Range{0.0, 1.0} : y.padded(0.05)};
  // A clip path's name must be the page's only one.
  const std::string clip = fmt::format("clip{:x}", std::hash<std::string>{}(chart.title + chart.x_label));
  std::string svg =
      open_svg(width, height, chart.title) + x_axis(frame, chart.x_label) + y_axis(frame, chart.y_label);
  svg += fmt::format(
      "<clipPath id=\"{}\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>"
      "</clipPath>\n<g clip-path=\"url(#{})\">\n",
      clip, frame.left, frame.top - 3, frame.right - frame.left + 4, frame.bottom - frame.top + 6, clip);
  for (const Series& series : chart.series)
    if (!series.curve.empty()) svg += band_and_line(frame, series);
  return svg + "</g>\n" + names_at_ends(frame, chart.series) + "</svg>\n";
}

std::string to_svg(const IntervalChart& chart) {
  Range x;
  x.add(-1.2 * chart.noise);
  x.add(1.2 * chart.noise);
  std::size_t longest = 0;
  for (const IntervalChart::Row& row : chart.rows) {
    longest = std::max(longest, row.name.size());
    x.add(row.interval.mean);
    if (!std::isfinite(row.interval.half_width)) continue;
    x.add(row.interval.low());
    x.add(row.interval.high());
  }
  const double left = 24.0 + 7.2 * static_cast<double>(longest), width = left + 520.0;
  const double height = 80.0 + 26.0 * static_cast<double>(chart.rows.size());
  const Frame frame{left, 32, width - 20, height - 44, x.padded(0.06), {0.0, 1.0}};
  std::string svg = open_svg(width, height, chart.title);
  svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" class=\"noise\"/>\n",
                     frame.to_x(-chart.noise), frame.top, frame.to_x(chart.noise) - frame.to_x(-chart.noise),
                     frame.bottom - frame.top);
  svg +=
      x_axis(frame, chart.x_label) + line_from(frame.to_x(0), frame.top, frame.to_x(0), frame.bottom, "zero");
  for (std::size_t i = 0; i < chart.rows.size(); ++i) {
    const IntervalChart::Row& row = chart.rows[i];
    const double y = frame.top + 20.0 + 26.0 * static_cast<double>(i), mean = frame.to_x(row.interval.mean);
    const std::string css = classes_of(row.style);
    svg += text_at(left - 8, y + 4, "end", "name " + css, row.name);
    if (std::isfinite(row.interval.half_width)) {
      const double low = frame.to_x(row.interval.low()), high = frame.to_x(row.interval.high());
      svg += line_from(low, y, high, y, "bar " + css) + line_from(low, y - 5, low, y + 5, "bar " + css) +
             line_from(high, y - 5, high, y + 5, "bar " + css);
    }
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" class=\"point {}\"/>\n", mean, y, css);
  }
  return svg + "</svg>\n";
}

}  // namespace wuneng::trainer::ablate
