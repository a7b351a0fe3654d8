#include "studies/gates.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "dirigo/core/dirichlet_math.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;
using Progress = std::function<bool(double)>;

constexpr std::array<meta::Gate, 3> gates{meta::Gate::entropy, meta::Gate::mi, meta::Gate::max_mean};
constexpr int thresholds = 9;  // at which 10%, 20%, ..., 90% of the tokens are certain
constexpr std::size_t bins = 15, coverage_steps = 20;

// Numbers of `values` in ascending or descending order.
std::vector<std::size_t> order_of(const std::vector<double>& values, bool descending) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return descending ? values[a] > values[b] : values[a] < values[b];
  });
  return order;
}

// What one layer chose for every token of the text, and what each expert in that layer would have cost.
struct LayerChoices {
  std::vector<std::int32_t> chosen;
  std::array<std::vector<double>, gates.size()> statistic;         // what a gate compares with eta
  std::array<std::vector<double>, meta::expert_count> forced_nll;  // of the token's own prediction
};

class GateProbe {
 public:
  GateProbe(const Context& context, meta::LanguageModel& model, const meta::EvaluationText& text,
            const Progress& progress)
      : context_(context),
        model_(model),
        text_(text),
        progress_(progress),
        layers_(static_cast<std::size_t>(model.config().model.layers)),
        passes_(1 + meta::expert_count * layers_.size() + 2 + gates.size() * thresholds) {}

  Json measure() {
    choose();
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      for (int expert = 0; expert < meta::expert_count; ++expert) force(layer, expert);
    }
    Json json{{"format_version", 1}, {"epsilon", oracle_epsilon}};
    for (const char* key :
         {"sweep", "calibration", "gates", "risk_coverage", "reliability", "raw_reliability"})
      json[key] = Json::array();
    const meta::Evaluation soft = evaluate(meta::RoutingMode::soft, gates[0], 0);
    const meta::Evaluation hard = evaluate(meta::RoutingMode::hard, gates[0], 0);
    for (std::size_t g = 0; g < gates.size(); ++g) {
      const double auroc = judge(g, json);
      json["gates"].push_back({{"gate", name(g)},
                               {"auroc", std::isfinite(auroc) ? Json(auroc) : Json(nullptr)},
                               {"gain", sweep(g, soft, hard, json)}});
    }
    return json;
  }

 private:
  static std::string name(std::size_t gate) { return std::string(meta::name_of(gates[gate])); }

  void report(double fraction) {
    if (progress_ && !progress_((static_cast<double>(done_) + fraction) / static_cast<double>(passes_)))
      throw meta::Interrupted("[gates] stopped before the end");
  }

  // visit(forward, losses) for every batch; means(first token, tokens) may replace the routing.
  template <class Visit, class Means>
  void pass(Visit visit, Means means) {
    const std::int64_t at_once =
        std::max<std::int64_t>(1, meta::EvaluationOptions{}.batch_tokens / text_.length);
    for (std::int64_t first = 0; first < text_.windows; first += at_once) {
      const std::int64_t windows = std::min(at_once, text_.windows - first);
      const auto tokens = static_cast<std::size_t>(windows * text_.length);
      std::vector<std::int32_t> inputs(tokens), targets(tokens);
      for (std::int64_t w = 0; w < windows; ++w) {
        const auto begin = static_cast<std::size_t>(w * text_.length),
                   length = static_cast<std::size_t>(text_.length);
        text_.window(
            first + w,
            {std::span(inputs).subspan(begin, length), std::span(targets).subspan(begin, length), {}, {}});
      }
      meta::ForwardOptions options;
      options.routing = meta::RoutingMode::hard;
      const std::vector<Tensor> replaced = means(static_cast<std::size_t>(first * text_.length), tokens);
      options.replaced_means = replaced;
      Tape tape(context_, Tape::Mode::inference);
      const meta::Forward forward = model_(tape, inputs, windows, text_.length, options);
      visit(forward, losses(forward.logits.value(), targets));
      report(static_cast<double>(first + windows) / static_cast<double>(text_.windows));
    }
    ++done_;
  }

  std::vector<double> losses(const Tensor& logits, const std::vector<std::int32_t>& targets) const {
    const std::int64_t classes = logits.shape()[1];
    const auto values = logits.span<float>();
    std::vector<double> result, row(static_cast<std::size_t>(classes));
    for (std::size_t i = 0; i < targets.size(); ++i) {
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(i) * classes, classes, row.begin());
      result.push_back(dirichlet::log_sum_exp(row) - row[static_cast<std::size_t>(targets[i])]);
    }
    return result;
  }

  // The hard pass: what every layer chooses, and how certain it is.
  void choose() {
    pass(
        [&](const meta::Forward& forward, const std::vector<double>& nll) {
          for (std::size_t l = 0; l < layers_.size(); ++l) {
            const meta::LayerRouting& routing = forward.layers[l];
            layers_[l].chosen.insert(layers_[l].chosen.end(), routing.chosen.begin(), routing.chosen.end());
            for (std::size_t t = 0; t < nll.size(); ++t) add_statistics(routing, t, layers_[l]);
          }
        },
        [](std::size_t, std::size_t) { return std::vector<Tensor>{}; });
  }

  static void add_statistics(const meta::LayerRouting& routing, std::size_t t, LayerChoices& layer) {
    const auto row = [&](const Tensor& matrix) {
      std::array<double, meta::expert_count> values{};
      const auto all = matrix.span<float>();
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(t) * meta::expert_count, meta::expert_count,
                  values.begin());
      return values;
    };
    const auto m = row(routing.mean), b = row(routing.concentration);
    layer.statistic[0].push_back(dirichlet::entropy(b));
    layer.statistic[1].push_back(dirichlet::mutual_information(b));
    layer.statistic[2].push_back(*std::max_element(m.begin(), m.end()));
  }

  // The hard pass again, with every token of one layer at one expert and the other layers as they chose.
  void force(std::size_t layer, int expert) {
    auto& nll = layers_[layer].forced_nll[static_cast<std::size_t>(expert)];
    pass([&](const meta::Forward&,
             const std::vector<double>& batch) { nll.insert(nll.end(), batch.begin(), batch.end()); },
         [&](std::size_t first, std::size_t tokens) {
           std::vector<Tensor> means;
           for (std::size_t l = 0; l < layers_.size(); ++l) {
             Tensor one_hot =
                 Tensor::zeros(context_, Shape{static_cast<std::int64_t>(tokens), meta::expert_count});
             for (std::size_t t = 0; t < tokens; ++t) {
               const int chosen = l == layer ? expert : layers_[l].chosen[first + t];
               one_hot.data<float>()[t * meta::expert_count + static_cast<std::size_t>(chosen)] = 1;
             }
             means.push_back(one_hot);
           }
           return means;
         });
  }

  // Whether a choice costs more than epsilon over the best expert for its own prediction.
  static bool is_wrong(const LayerChoices& layer, std::size_t t) {
    double best = layer.forced_nll[0][t];
    for (const auto& nll : layer.forced_nll) best = std::min(best, nll[t]);
    return layer.forced_nll[static_cast<std::size_t>(layer.chosen[t])][t] - best > oracle_epsilon;
  }

  // Entropy and MI are low where the posterior is certain, the largest weight is high.
  static double certainty(std::size_t gate, double statistic) {
    return gates[gate] == meta::Gate::max_mean ? statistic : -statistic;
  }

  static Judged judged(const LayerChoices& layer, std::size_t gate, std::size_t begin, std::size_t end) {
    Judged result;
    for (std::size_t t = begin; t < end; ++t) {
      result.certainty.push_back(certainty(gate, layer.statistic[gate][t]));
      result.wrong.push_back(is_wrong(layer, t));
    }
    return result;
  }

  static Json curve(const Reliability& r, const std::string& gate, std::size_t layer) {
    return {{"gate", gate},
            {"layer", layer},
            {"predicted", r.predicted},
            {"observed", r.observed},
            {"tokens", r.tokens}};
  }

  // Adds the records of a gate: of every layer, and their mean. Returns the mean AUROC over the layers.
  double judge(std::size_t gate, Json& json) const {
    std::vector<Json> records;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const std::size_t tokens = layers_[l].chosen.size();
      const Judged fitted = judged(layers_[l], gate, 0, tokens / 2);
      const Judged rest = judged(layers_[l], gate, tokens / 2, tokens);
      const auto wrong = static_cast<double>(std::count(rest.wrong.begin(), rest.wrong.end(), true));
      const auto area = auroc(rest);
      const RiskCoverage risk = risk_coverage(rest);
      const Reliability fit = reliability(calibrated(fitted, rest), rest.wrong);
      Json record{{"gate", name(gate)}, {"layer", l}};
      record["error_rate"] = wrong / static_cast<double>(rest.wrong.size());
      record["auroc"] = area ? Json(*area) : Json(nullptr);
      record["aurc"] = risk.area;
      record["ece"] = fit.ece;
      record["brier"] = fit.brier;
      record["raw_ece"] = record["raw_brier"] = nullptr;
      json["reliability"].push_back(curve(fit, name(gate), l));
      if (gates[gate] == meta::Gate::max_mean) {  // a probability as it is
        const Reliability raw = reliability(rest.certainty, rest.wrong);
        record["raw_ece"] = raw.ece;
        record["raw_brier"] = raw.brier;
        json["raw_reliability"].push_back(curve(raw, name(gate), l));
      }
      json["risk_coverage"].push_back(
          {{"gate", name(gate)}, {"layer", l}, {"coverage", risk.coverage}, {"risk", risk.risk}});
      records.push_back(std::move(record));
    }
    for (const Json& record : records) json["calibration"].push_back(record);
    json["calibration"].push_back(mean_record(records));
    const Json& mean = json["calibration"].back()["auroc"];
    return mean.is_number() ? mean.get<double>() : std::nan("");
  }

  // Tokens of different layers are never pooled. Null where a layer has null.
  static Json mean_record(const std::vector<Json>& records) {
    Json mean = records.front();
    mean["layer"] = nullptr;
    for (const auto& [key, value] : records.front().items()) {
      if (key == "gate" || key == "layer") continue;
      double sum = 0;
      const bool all = std::all_of(records.begin(), records.end(),
                                   [name = key](const Json& record) { return record[name].is_number(); });
      for (std::size_t i = 0; all && i < records.size(); ++i) sum += records[i][key].get<double>();
      mean[key] = all ? Json(sum / static_cast<double>(records.size())) : Json(nullptr);
    }
    return mean;
  }

  meta::Evaluation evaluate(meta::RoutingMode mode, meta::Gate gate, double eta) {
    meta::EvaluationOptions options;
    options.routing = mode;
    options.gate = gate;
    options.eta = eta;
    options.progress = [&](double fraction) {
      report(fraction);
      return true;
    };
    const meta::Evaluation evaluation = meta::evaluate(context_, model_, text_, options);
    ++done_;
    return evaluation;
  }

  // Values of eta that part the tokens of all layers at equal shares, the most certain first.
  std::vector<double> etas(std::size_t gate) const {
    std::vector<double> all;
    for (const LayerChoices& layer : layers_)
      all.insert(all.end(), layer.statistic[gate].begin(), layer.statistic[gate].end());
    const auto order = order_of(all, gates[gate] == meta::Gate::max_mean);
    std::vector<double> result;
    for (std::size_t i = 1; i <= thresholds; ++i)
      result.push_back(all[order[i * all.size() / (thresholds + 1)]]);
    return result;
  }

  // The share of tokens and layers that ran one expert: a soft one runs all three.
  double certain_share(const meta::Evaluation& evaluation) const {
    double queries = 0;
    for (const auto& layer : evaluation.executed.tokens_per_expert)
      queries += static_cast<double>(std::accumulate(layer.begin(), layer.end(), std::int64_t{0}));
    const double each =
        queries / static_cast<double>(evaluation.tokens) / static_cast<double>(layers_.size());
    return (meta::expert_count - each) / (meta::expert_count - 1);
  }

  // Adds the gate's curve. Returns how far it lies below the chord from all hard to all soft, mean over the
  // thresholds: tokens picked by lot would lie about on it.
  double sweep(std::size_t gate, const meta::Evaluation& soft, const meta::Evaluation& hard, Json& json) {
    Json curve{{"gate", name(gate)}};
    for (const char* key :
         {"eta", "certain", "nll", "attention_flops", "model_flops", "attention_flops_vs_full", "wall_s"})
      curve[key] = Json::array();
    const auto add = [&](const Json& eta, double certain, const meta::Evaluation& e) {
      curve["eta"].push_back(eta);
      curve["certain"].push_back(certain);
      curve["nll"].push_back(e.nll);
      curve["attention_flops"].push_back(e.executed.attention_flops);
      curve["model_flops"].push_back(e.executed.model_flops);
      curve["attention_flops_vs_full"].push_back(e.executed.attention_flops_vs_full);
      curve["wall_s"].push_back(e.executed.wall_s);
    };
    add(nullptr, 0, soft);
    double gain = 0;
    const double flops = soft.executed.attention_flops - hard.executed.attention_flops;
    for (const double eta : etas(gate)) {
      const meta::Evaluation e = evaluate(meta::RoutingMode::gated, gates[gate], eta);
      add(eta, certain_share(e), e);
      const double softness = (e.executed.attention_flops - hard.executed.attention_flops) / flops;
      gain += (hard.nll + softness * (soft.nll - hard.nll) - e.nll) / thresholds;
    }
    add(nullptr, 1, hard);
    json["sweep"].push_back(std::move(curve));
    return gain;
  }

  const Context& context_;
  meta::LanguageModel& model_;
  const meta::EvaluationText& text_;
  const Progress& progress_;
  std::vector<LayerChoices> layers_;
  std::size_t passes_, done_ = 0;
};

}  // namespace

// Mann-Whitney: ranks of the right ones, ties at the middle of their ranks.
std::optional<double> auroc(const Judged& judged) {
  const auto order = order_of(judged.certainty, false);
  double rank_sum = 0, right = 0;
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && judged.certainty[order[end]] == judged.certainty[order[begin]]) ++end;
    const double rank = static_cast<double>(begin + end + 1) / 2;  // the mean of begin + 1 to end
    for (std::size_t i = begin; i < end; ++i) {
      if (judged.wrong[order[i]]) continue;
      rank_sum += rank;
      right += 1;
    }
  }
  const double wrong = static_cast<double>(order.size()) - right;
  if (right == 0 || wrong == 0) return std::nullopt;
  return (rank_sum - right * (right + 1) / 2) / (right * wrong);
}

RiskCoverage risk_coverage(const Judged& judged) {
  const auto order = order_of(judged.certainty, true);
  const auto n = order.size();
  std::vector<double> risk(n);
  double wrong_before = 0;
  for (std::size_t begin = 0, end = 0; begin < n; begin = end) {
    double wrong = 0;
    for (; end < n && judged.certainty[order[end]] == judged.certainty[order[begin]]; ++end)
      wrong += judged.wrong[order[end]] ? 1 : 0;
    const double each = wrong / static_cast<double>(end - begin);  // in whatever order ties come
    for (std::size_t i = begin; i < end; ++i)
      risk[i] = (wrong_before + each * static_cast<double>(i + 1 - begin)) / static_cast<double>(i + 1);
    wrong_before += wrong;
  }
  RiskCoverage result;
  result.area = std::accumulate(risk.begin(), risk.end(), 0.0) / static_cast<double>(n);
  for (std::size_t i = 1; i <= coverage_steps; ++i) {
    const std::size_t count = std::max<std::size_t>(1, i * n / coverage_steps);
    result.coverage.push_back(static_cast<double>(count) / static_cast<double>(n));
    result.risk.push_back(risk[count - 1]);
  }
  return result;
}

Reliability reliability(std::span<const double> probability, const std::vector<bool>& wrong) {
  std::vector<double> predicted(bins), right(bins);
  std::vector<std::int64_t> tokens(bins);
  Reliability result;
  const auto n = static_cast<double>(probability.size());
  for (std::size_t i = 0; i < probability.size(); ++i) {
    const auto bin = std::min(bins - 1, static_cast<std::size_t>(probability[i] * bins));
    const double outcome = wrong[i] ? 0 : 1;
    predicted[bin] += probability[i];
    right[bin] += outcome;
    tokens[bin] += 1;
    result.brier += (probability[i] - outcome) * (probability[i] - outcome) / n;
  }
  for (std::size_t bin = 0; bin < bins; ++bin) {
    if (tokens[bin] == 0) continue;
    const auto count = static_cast<double>(tokens[bin]);
    result.predicted.push_back(predicted[bin] / count);
    result.observed.push_back(right[bin] / count);
    result.tokens.push_back(tokens[bin]);
    result.ece += std::abs(predicted[bin] - right[bin]) / n;
  }
  return result;
}

std::vector<double> calibrated(const Judged& fitted, const Judged& judged) {
  const auto order = order_of(fitted.certainty, false);
  std::vector<double> highest, share;  // of each bin
  for (std::size_t bin = 0; bin < bins; ++bin) {
    const std::size_t begin = bin * order.size() / bins, end = (bin + 1) * order.size() / bins;
    if (begin == end) continue;
    double right = 0;
    for (std::size_t i = begin; i < end; ++i) right += fitted.wrong[order[i]] ? 0 : 1;
    highest.push_back(fitted.certainty[order[end - 1]]);
    share.push_back(right / static_cast<double>(end - begin));
  }
  std::vector<double> probability;
  for (const double certainty : judged.certainty) {
    const auto bin = std::lower_bound(highest.begin(), highest.end(), certainty) - highest.begin();
    const auto last = static_cast<std::ptrdiff_t>(share.size()) - 1;
    probability.push_back(last < 0 ? 0.5 : share[static_cast<std::size_t>(std::min(bin, last))]);
  }
  return probability;
}

std::string measure_gates(const Context& context, meta::LanguageModel& model,
                          const meta::EvaluationText& text, const std::function<bool(double)>& progress) {
  return GateProbe(context, model, text, progress).measure().dump(2) + "\n";
}

}  // namespace dirigo::tools
