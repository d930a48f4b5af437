// Plots as SVG text, to stand inside a page that has plot_style().
#pragma once

#include <string>
#include <vector>

#include "trainer/ablate/summary.h"

namespace wuneng::trainer::ablate {

// Colours by CSS variable, so that light, dark and print differ in a few lines: series 0 is the reference.
std::string plot_style();

struct Series {
  std::string name;
  std::size_t style = 0;  // 0: the reference
  Curve curve;
};

struct LineChart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  bool shares = false;  // y runs from 0 to 1
};
// Lines with the band of their seeds, named at their right ends. What lies above the values after the first
// tenth of the x axis is cut off, so that the first steps do not flatten the rest.
std::string to_svg(const LineChart& chart);

struct IntervalChart {
  struct Row {
    std::string name;
    std::size_t style = 0;
    Interval interval;
  };
  std::string title, x_label;
  std::vector<Row> rows = {};
  double noise = 0.0;  // half width of the shaded middle
};
std::string to_svg(const IntervalChart& chart);

std::string escape_html(const std::string& text);

}  // namespace wuneng::trainer::ablate
