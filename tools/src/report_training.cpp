// The charts of a training.
#include <fmt/format.h>

#include <algorithm>

#include "dirigo/meta_attention/config.hpp"
#include "report.hpp"
#include "report_chart.hpp"

namespace dirigo::tools {

namespace {

constexpr const char* step_title = "training step";

ChartSeries series_of(const std::vector<CurvePoint>& curve, const char* name, const char* style,
                      std::optional<double> CurvePoint::*value) {
  ChartSeries series{name, {}, true, style};
  for (const CurvePoint& point : curve) {
    if (const auto y = point.*value) series.points.push_back({double(point.step), *y});
  }
  return series;
}

Chart loss_chart(const std::vector<CurvePoint>& curve, std::optional<double> entropy_floor) {
  Chart chart{"Loss",
              "NLL of training batches and of held-out text, soft routing.",
              {step_title},
              {"NLL, nats per byte"},
              {}};
  chart.series = {series_of(curve, "training", "quiet", &CurvePoint::nll),
                  series_of(curve, "held-out", "", &CurvePoint::valid_nll)};
  if (entropy_floor && !curve.empty()) {
    const double last = double(curve.back().step);
    chart.series.push_back({fmt::format("entropy floor {:.3f}", *entropy_floor),
                            {{0, *entropy_floor}, {last, *entropy_floor}},
                            true,
                            "bound"});
  }
  return chart;
}

Chart share_chart(const std::vector<CurvePoint>& curve, std::size_t layer) {
  Chart chart{fmt::format("Experts in layer {}", layer),
              "Share of a batch's tokens whose largest weight is that expert's.",
              {step_title},
              {"% of tokens"},
              {}};
  for (int k = 0; k < meta::expert_count; ++k) {
    const std::string name(meta::expert_name(meta::ExpertKind(k)));
    ChartSeries series{name, {}, true, name};
    for (const CurvePoint& point : curve) {
      if (layer < point.fraction_argmax.size())
        series.points.push_back({double(point.step), 100 * point.fraction_argmax[layer][std::size_t(k)]});
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

Chart need_chart(const std::vector<CurvePoint>& curve) {
  std::map<std::string, ChartSeries> by_need;
  for (const CurvePoint& point : curve) {
    for (const auto& [need, nll] : point.need_nll) by_need[need].points.push_back({double(point.step), nll});
  }
  Chart chart{"Loss by need",
              "Held-out NLL by what predicting the next byte needs.",
              {step_title},
              {"NLL, nats per byte"},
              {}};
  for (auto& [need, series] : by_need) {
    series.name = need;
    chart.series.push_back(std::move(series));
  }
  return chart;
}

}  // namespace

std::string training_charts(const std::vector<CurvePoint>& curve, std::optional<double> entropy_floor) {
  std::size_t layers = 0;
  for (const CurvePoint& point : curve) layers = std::max(layers, point.fraction_argmax.size());
  if (curve.empty()) return "<p>No training was logged.</p>\n";
  std::string html = "<div class=\"charts\">\n" + chart_html(loss_chart(curve, entropy_floor));
  if (const Chart needs = need_chart(curve); !needs.series.empty()) html += chart_html(needs);
  for (std::size_t l = 0; l < layers; ++l) html += chart_html(share_chart(curve, l));
  ChartSeries kl = series_of(curve, "KL", "", &CurvePoint::kl);
  if (!kl.points.empty()) {
    html += chart_html(
        {"KL",
         "Divergence of the posterior from the prior, per token, mean over layers: near 0 is collapse.",
         {step_title},
         {"nats per token"},
         {std::move(kl)}});
  }
  return html + "</div>\n";
}

}  // namespace dirigo::tools
