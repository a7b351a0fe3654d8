// The loss curve: an inline SVG whose colours follow the page, light or dark.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report.hpp"

namespace dirigo::tools {

namespace {

constexpr double width = 720, height = 320;
constexpr double left = 56, right = 16, top = 16, bottom = 44;
constexpr std::size_t most_points = 400;  // more could not be told apart at this width

struct Point {
  double x, y;
};
using Series = std::vector<Point>;

// Means over runs of neighbours, so that at most `most_points` remain.
Series thin_out(const Series& series) {
  const std::size_t per_point = (series.size() + most_points - 1) / most_points;
  if (per_point <= 1) return series;
  Series thinned;
  for (std::size_t begin = 0; begin < series.size(); begin += per_point) {
    const std::size_t end = std::min(begin + per_point, series.size());
    Point mean{0, 0};
    for (std::size_t i = begin; i < end; ++i) mean = {mean.x + series[i].x, mean.y + series[i].y};
    thinned.push_back({mean.x / double(end - begin), mean.y / double(end - begin)});
  }
  return thinned;
}

Series select(const std::vector<CurvePoint>& curve, std::optional<double> CurvePoint::*value) {
  Series series;
  for (const CurvePoint& point : curve) {
    const auto y = point.*value;
    if (y && std::isfinite(*y)) series.push_back({double(point.step), *y});
  }
  return series;
}

// A step of 1, 2 or 5 times a power of ten that divides `range` into about five.
double tick_step(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 5)));
  const double rest = range / 5 / power;
  return power * (rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 5 ? 5 : 10);
}

struct Axis {
  double low = 0, high = 1, step = 1;

  static Axis covering(double low, double high) {
    if (high - low < 1e-9) high = low + 1;
    const double step = tick_step(high - low);
    return {std::floor(low / step + 1e-9) * step, std::ceil(high / step - 1e-9) * step, step};
  }
  double share(double value) const { return (value - low) / (high - low); }
  std::vector<double> ticks() const {
    std::vector<double> values;
    for (int i = 0; low + i * step <= high + step * 1e-6; ++i) values.push_back(low + i * step);
    return values;
  }
};

class Chart {
 public:
  Chart(Axis x, Axis y) : x_(x), y_(y) { draw_axes(); }

  void line(const Series& series, const char* style) {
    std::string points;
    for (const Point& p : series)
      fmt::format_to(std::back_inserter(points), "{:.1f},{:.1f} ", px(p.x), py(p.y));
    add("<polyline class=\"{}\" points=\"{}\"/>", style, points);
  }

  void horizontal(double value, const char* style) {
    add(R"(<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>)", style, left, width - right,
        py(value), py(value));
  }

  std::string finish(const std::string& description) const {
    return fmt::format(
        "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n", width,
        height, escape_html(description), body_);
  }

 private:
  void draw_axes() {
    for (const double value : y_.ticks()) {
      horizontal(value, "grid");
      add(R"(<text x="{}" y="{:.1f}" text-anchor="end">{:.4g}</text>)", left - 6, py(value) + 4, value);
    }
    for (const double value : x_.ticks()) {
      add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>)", px(value), height - bottom + 18,
          value);
    }
    add(R"(<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>)", left, width - right, height - bottom);
    add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">training step</text>)", (left + width - right) / 2,
        height - 6);
    add(R"_(<text transform="rotate(-90)" x="{:.1f}" y="14" text-anchor="middle">NLL, nats per byte</text>)_",
        -(top + height - bottom) / 2);
  }

  template <class... Values>
  void add(fmt::format_string<Values...> format, Values&&... values) {
    fmt::format_to(std::back_inserter(body_), format, std::forward<Values>(values)...);
    body_ += '\n';
  }

  double px(double x) const { return left + x_.share(x) * (width - left - right); }
  double py(double y) const { return height - bottom - y_.share(y) * (height - top - bottom); }

  Axis x_, y_;
  std::string body_;
};

}  // namespace

std::string loss_chart(const std::vector<CurvePoint>& curve, std::optional<double> entropy_floor) {
  const Series train = thin_out(select(curve, &CurvePoint::nll));
  const Series valid = thin_out(select(curve, &CurvePoint::valid_nll));
  Series all = train;
  all.insert(all.end(), valid.begin(), valid.end());
  if (all.empty()) return "<p>No loss was logged.</p>\n";

  const auto by_x = [](const Point& a, const Point& b) { return a.x < b.x; };
  const auto by_y = [](const Point& a, const Point& b) { return a.y < b.y; };
  const double lowest = std::min_element(all.begin(), all.end(), by_y)->y;
  const double last_step = std::max_element(all.begin(), all.end(), by_x)->x;
  const double steps = std::max(last_step, 1.0);
  Chart chart(Axis{0, steps, std::max(1.0, tick_step(steps))},
              Axis::covering(std::min(lowest, entropy_floor.value_or(lowest)),
                             std::max_element(all.begin(), all.end(), by_y)->y));
  if (entropy_floor) chart.horizontal(*entropy_floor, "floor");
  chart.line(train, "train");
  chart.line(valid, "valid");

  std::string key;
  if (!train.empty()) key += R"(<span><i class="key train"></i>training</span> )";
  if (!valid.empty()) key += R"(<span><i class="key valid"></i>held-out</span> )";
  if (entropy_floor)
    key += fmt::format(R"(<span><i class="key floor"></i>entropy floor {:.3f}</span>)", *entropy_floor);
  std::string description = fmt::format("NLL over {:g} training steps.", last_step);
  if (!train.empty())
    description += fmt::format(" Training: from {:.3f} to {:.3f}.", train.front().y, train.back().y);
  if (!valid.empty())
    description += fmt::format(" Held-out: from {:.3f} to {:.3f}.", valid.front().y, valid.back().y);
  return chart.finish(description) + fmt::format("<p class=\"legend\">{}</p>\n", key);
}

}  // namespace dirigo::tools
