// A chart of the report: numbers and names. tools/report/charts.js draws it and lists its numbers in a table.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "statistics.hpp"

namespace dirigo::tools {

struct ChartPoint {
  double x = 0, y = 0;  // on an axis with labels: their index
  std::optional<Interval> interval = {};
  std::string label = {};  // besides the series' name
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;
  bool line = true;         // joins its points
  std::string style = {};   // full, linear, local, quiet, bound, or empty: a colour for every name
  std::string detail = {};  // which of several series of that name
};

struct ChartAxis {
  std::string title;
  bool logarithmic = false;              // values that are not > 0 are left out
  std::vector<std::string> labels = {};  // names instead of numbers
};

struct Chart {
  std::string title, note;
  ChartAxis x, y;
  std::vector<ChartSeries> series;
  bool interval_along_x = false;
};

// A <figure>; without a finite point only a line that says so. Long lines are thinned out: means over runs of
// neighbours, which could not be told apart. Everything is escaped.
std::string chart_html(const Chart& chart);

}  // namespace dirigo::tools
