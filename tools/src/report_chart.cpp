#include "report_chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report_json.hpp"
#include "report_text.hpp"

namespace dirigo::tools {

namespace {

using Points = std::vector<ChartPoint>;

constexpr std::size_t most_points = 400;  // of a line; more could not be told apart
constexpr std::size_t tall_from = 9;      // names on the vertical axis, or series in the legend

Points drawable(const Chart& chart, const Points& points) {
  const auto fits = [](double value, const ChartAxis& axis) {
    return std::isfinite(value) && (!axis.logarithmic || value > 0);
  };
  Points kept;
  std::copy_if(points.begin(), points.end(), std::back_inserter(kept),
               [&](const ChartPoint& p) { return fits(p.x, chart.x) && fits(p.y, chart.y); });
  return kept;
}

Points thin_out(const Points& points) {
  const std::size_t per_point = (points.size() + most_points - 1) / most_points;
  if (per_point <= 1) return points;
  Points thinned;
  for (std::size_t begin = 0; begin < points.size(); begin += per_point) {
    const std::size_t end = std::min(begin + per_point, points.size());
    ChartPoint mean;
    for (std::size_t i = begin; i < end; ++i) {
      mean.x += points[i].x / double(end - begin);
      mean.y += points[i].y / double(end - begin);
    }
    thinned.push_back(mean);
  }
  return thinned;
}

// Five digits are more than anyone sees, and half the size.
Json rounded(double value) {
  return std::isfinite(value) ? Json(std::stod(fmt::format("{:.6g}", value))) : Json(nullptr);
}

Json point_json(const ChartPoint& point) {
  Json json = Json::array({rounded(point.x), rounded(point.y)});
  if (point.interval || !point.label.empty()) {
    json.push_back(point.interval ? rounded(point.interval->low) : Json(nullptr));
    json.push_back(point.interval ? rounded(point.interval->high) : Json(nullptr));
  }
  if (!point.label.empty()) json.push_back(point.label);
  return json;
}

Json axis_json(const ChartAxis& axis) {
  Json json{{"title", axis.title}, {"scale", axis.logarithmic ? "logarithmic" : "linear"}};
  if (!axis.labels.empty()) json["labels"] = axis.labels;
  return json;
}

}  // namespace

std::string chart_html(const Chart& chart) {
  Json series = Json::array();
  for (const ChartSeries& one : chart.series) {
    const Points points = drawable(chart, one.points);
    if (points.empty()) continue;
    Json json{{"name", one.name}, {"line", one.line}};
    if (!one.style.empty()) json["style"] = one.style;
    if (!one.detail.empty()) json["detail"] = one.detail;
    json["points"] = Json::array();
    for (const ChartPoint& point : one.line ? thin_out(points) : points)
      json["points"].push_back(point_json(point));
    series.push_back(std::move(json));
  }
  const std::string caption = fmt::format("<figcaption><b>{}</b>. {}</figcaption>\n",
                                          escape_html(chart.title), escape_html(chart.note));
  if (series.empty()) return fmt::format("<figure>{}<p>Nothing to draw.</p></figure>\n", caption);
  const bool tall = chart.y.labels.size() >= tall_from || series.size() >= tall_from;
  const Json spec{{"x", axis_json(chart.x)},
                  {"y", axis_json(chart.y)},
                  {"errors", chart.interval_along_x ? "x" : "y"},
                  {"series", std::move(series)}};
  return fmt::format(
      "<figure class=\"chart\">{}<div class=\"canvas{}\"><canvas tabindex=\"0\" role=\"img\" "
      "aria-label=\"{}; "
      "arrow keys read its points\"></canvas></div>\n<output aria-live=\"polite\"></output>\n"
      "<details><summary>Numbers of this chart</summary><div class=\"scroll\" tabindex=\"0\"><table></table>"
      "</div></details>\n{}</figure>\n",
      caption, tall ? " tall" : "", escape_html(chart.title),
      json_script(spec.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

}  // namespace dirigo::tools
