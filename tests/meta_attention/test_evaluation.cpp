// evaluate(), null_router() and score_text() against the same quantities computed token by token from their
// definitions (docs/mathematics.md, section 6).
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/score.hpp"

using namespace dirigo;
using namespace dirigo::meta;

namespace {

constexpr std::int64_t vocabulary = 7, windows = 5, length = 6;
constexpr std::size_t layers = 2;
using Row = std::array<double, expert_count>;

Config two_layers() {
  Config c = preset("tiny");
  c.model.positions = Positions::learned;
  c.model.d_model = 16;
  c.model.heads = 2;
  c.model.layers = layers;
  c.model.max_len = 8;
  c.router.hidden = 8;
  c.attention.window = 3;
  c.attention.chunk = 4;
  c.train.seq_len = 8;
  resolve(c);
  return c;
}

// Weights far from their small initial values, so that routing differs from token to token.
void stir(LanguageModel& model) {
  std::uint32_t site = 0;
  for (const auto& named : model.parameters()) {
    PhiloxStream stream(random_key(2, 0, Purpose::test, site++), 0);
    for (float& v : named.parameter->value.span<float>()) v += float(0.5 * stream.normal());
  }
}

std::int32_t token(std::int64_t window, std::int64_t t) {
  return std::int32_t((window * window + 3 * t * t + t * (window % 3)) % vocabulary);
}

std::uint8_t need(std::int64_t window, std::int64_t t) {
  return std::uint8_t((window + t * t) % 4);
}

// How far back the target was told: nowhere, or 1 to 6 bytes.
std::int32_t gap(std::int64_t window, std::int64_t t) {
  return std::int32_t((2 * window + t * t) % 7);
}

EvaluationText tagged_text() {
  EvaluationText text;
  text.windows = windows;
  text.length = length;
  text.need_names = {"text", "first", "recall_near", "recall_far"};
  text.window = [](std::int64_t index, const EvaluationWindow& to) {
    for (std::int64_t t = 0; t < length; ++t) {
      to.inputs[std::size_t(t)] = token(index, t);
      to.targets[std::size_t(t)] = token(index, t + 1);
      to.needs[std::size_t(t)] = need(index, t);
      to.gaps[std::size_t(t)] = gap(index, t);
    }
  };
  return text;
}

double negative_log_likelihood(std::span<const float> logits, std::int32_t target) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double(logit) - double(logits[std::size_t(target)]));
  return std::log(sum);
}

struct Token {
  double nll = 0;
  bool right = false;     // no logit is larger than the target's
  std::vector<double> p;  // the model's distribution
  std::array<Row, layers> m{}, b{};
  std::array<std::size_t, layers> chosen{};
};

// One window at a time. `means`, if any, replaces the routing: means(layer, token of the text).
using Means = std::function<Row(std::size_t, std::int64_t)>;

std::vector<Token> by_hand(const Context& context, LanguageModel& model, const Means& means = nullptr) {
  std::vector<Token> result;
  for (std::int64_t w = 0; w < windows; ++w) {
    std::vector<std::int32_t> inputs;
    for (std::int64_t t = 0; t < length; ++t) inputs.push_back(token(w, t));
    std::vector<Tensor> replaced;
    for (std::size_t l = 0; means && l < layers; ++l) {
      std::vector<float> values;
      for (std::int64_t t = 0; t < length; ++t) {
        for (const double m : means(l, w * length + t)) values.push_back(float(m));
      }
      replaced.push_back(Tensor::from<float>(context, {length, expert_count}, values));
    }
    ForwardOptions options;
    options.replaced_means = replaced;
    Tape tape(context, Tape::Mode::inference);
    const Forward forward = model(tape, inputs, 1, length, options);
    const auto logits = forward.logits.value().span<float>();
    for (std::int64_t t = 0; t < length; ++t) {
      Token one;
      const auto row = logits.subspan(std::size_t(t * vocabulary), vocabulary);
      one.nll = negative_log_likelihood(row, token(w, t + 1));
      for (std::int32_t v = 0; v < vocabulary; ++v)
        one.p.push_back(std::exp(-negative_log_likelihood(row, v)));
      one.right = *std::max_element(row.begin(), row.end()) == row[std::size_t(token(w, t + 1))];
      for (std::size_t l = 0; l < layers; ++l) {
        for (std::int64_t k = 0; k < expert_count; ++k) {
          one.m[l][std::size_t(k)] = forward.layers[l].mean.at({t, k});
          one.b[l][std::size_t(k)] = forward.layers[l].concentration.at({t, k});
        }
        one.chosen[l] = std::size_t(std::max_element(one.m[l].begin(), one.m[l].end()) - one.m[l].begin());
      }
      result.push_back(one);
    }
  }
  return result;
}

double mean_nll(const std::vector<Token>& tokens) {
  double sum = 0;
  for (const Token& one : tokens) sum += one.nll;
  return sum / double(tokens.size());
}

doctest::Approx about(double value) {
  return doctest::Approx(value).epsilon(2e-6).scale(1e-3);
}

// The statistics of those tokens of which is_in(number) holds.
void check_statistics(const NeedStatistics& s, const std::vector<Token>& tokens,
                      const std::function<bool(std::int64_t)>& is_in) {
  std::int64_t count = 0, right = 0;
  double nll = 0;
  std::array<Row, layers> chosen{};
  for (std::int64_t i = 0; i < windows * length; ++i) {
    if (!is_in(i)) continue;
    const Token& one = tokens[std::size_t(i)];
    ++count;
    nll += one.nll;
    right += one.right ? 1 : 0;
    for (std::size_t l = 0; l < layers; ++l) chosen[l][one.chosen[l]] += 1;
  }
  REQUIRE(count > 0);
  CHECK(s.tokens == count);
  CHECK(s.nll == about(nll / double(count)));
  CHECK(s.accuracy == double(right) / double(count));
  for (std::size_t l = 0; l < layers; ++l) {
    for (std::size_t k = 0; k < 3; ++k) {
      CHECK(s.fraction_argmax_by_layer[l][k] == about(chosen[l][k] / double(count)));
    }
  }
}

struct Measured {
  Context context{Context::Options{.threads = 1}};
  LanguageModel model{context, two_layers(), vocabulary, 3};
  Evaluation evaluation;
  std::vector<Token> tokens;

  Measured() {
    stir(model);
    EvaluationOptions options;
    options.batch_tokens = 2 * length;  // batches of 2, 2 and 1 windows
    options.deltas = true;
    evaluation = evaluate(context, model, tagged_text(), options);
    tokens = by_hand(context, model);
  }
};

}  // namespace

TEST_CASE("evaluation: NLL, its standard error over windows, and NLL by context") {
  const Measured measured;
  const auto& [context, model, evaluation, tokens] = measured;
  CHECK(evaluation.tokens == windows * length);
  CHECK(evaluation.nll == about(mean_nll(tokens)));
  double squares = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    double sum = 0;
    for (std::size_t t = 0; t < length; ++t) sum += tokens[w * length + t].nll;
    squares += std::pow(sum / double(length) - mean_nll(tokens), 2);
  }
  CHECK(evaluation.nll_se == about(std::sqrt(squares / (windows - 1) / windows)));

  const std::int64_t bounds[][2] = {{1, 1}, {2, 2}, {3, 4}, {5, 6}};
  REQUIRE(evaluation.nll_by_context.size() == 4);
  for (std::size_t g = 0; g < 4; ++g) {
    const auto [from, to] = bounds[g];
    double sum = 0;
    for (std::int64_t i = 0; i < windows * length; ++i) {
      if (i % length + 1 >= from && i % length + 1 <= to) sum += tokens[std::size_t(i)].nll;
    }
    CHECK(evaluation.nll_by_context[g].from == from);
    CHECK(evaluation.nll_by_context[g].to == to);
    CHECK(evaluation.nll_by_context[g].nll == about(sum / double(windows * (to - from + 1))));
  }
}

TEST_CASE("evaluation: the routing statistics of each layer, and their mean over layers") {
  const Measured measured;
  const auto& [context, model, evaluation, tokens] = measured;
  const auto costs = model.costs(), prior = model.prior();
  const double n = windows * length, log_k = std::log(3.0);
  Row prior_mean{};
  for (std::size_t k = 0; k < 3; ++k) prior_mean[k] = prior[k] / (prior[0] + prior[1] + prior[2]);
  RoutingStatistics overall;
  overall.mean_weights = overall.fraction_argmax = {0, 0, 0};
  double kl_overall = 0, sampled_overall = 0, uncertainty_overall = 0;
  for (std::size_t l = 0; l < layers; ++l) {
    CAPTURE(l);
    Row mean{}, fraction{};
    double entropy = 0, expected = 0, kl = 0, uncertainty = 0, argmax_cost = 0;
    for (const Token& one : tokens) {
      for (std::size_t k = 0; k < 3; ++k) {
        mean[k] += one.m[l][k] / n;
        entropy -= one.m[l][k] * std::log(one.m[l][k]) / n;
      }
      fraction[one.chosen[l]] += 1 / n;
      argmax_cost += costs[one.chosen[l]] / n;
      expected += dirichlet::expected_categorical_entropy(one.b[l]) / n;
      kl += dirichlet::kl(one.b[l], prior) / n;
      uncertainty += dirichlet::entropy(one.b[l]) / n;
    }
    double cost = 0, entropy_of_mean = 0, kl_aggregate = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      cost += mean[k] * costs[k];
      entropy_of_mean -= mean[k] * std::log(mean[k]);
      kl_aggregate += mean[k] * std::log(mean[k] / prior_mean[k]);
    }
    const RoutingStatistics& s = evaluation.layers[l];
    for (std::size_t k = 0; k < 3; ++k) {
      CHECK(s.mean_weights[k] == about(mean[k]));
      CHECK(s.fraction_argmax[k] == about(fraction[k]));
      overall.mean_weights[k] += mean[k] / layers;
      overall.fraction_argmax[k] += fraction[k] / layers;
    }
    CHECK(s.entropy_mean_pct == about(100 * entropy / log_k));
    CHECK(s.projected_cost_pct == about(100 * cost));
    CHECK(s.argmax_cost_pct == about(100 * argmax_cost));
    CHECK(s.mi_token_expert == about(entropy_of_mean - entropy));
    CHECK(s.kl_aggregate == about(kl_aggregate));
    CHECK(*s.entropy_sampled_pct == about(100 * expected / log_k));
    CHECK(*s.kl == about(kl));
    CHECK(*s.uncertainty_mean == about(uncertainty));
    overall.entropy_mean_pct += 100 * entropy / log_k / layers;
    overall.projected_cost_pct += 100 * cost / layers;
    overall.argmax_cost_pct += 100 * argmax_cost / layers;
    kl_overall += kl / layers;
    sampled_overall += 100 * expected / log_k / layers;
    uncertainty_overall += uncertainty / layers;
  }
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(evaluation.overall.mean_weights[k] == about(overall.mean_weights[k]));
    CHECK(evaluation.overall.fraction_argmax[k] == about(overall.fraction_argmax[k]));
  }
  CHECK(evaluation.overall.entropy_mean_pct == about(overall.entropy_mean_pct));
  CHECK(evaluation.overall.projected_cost_pct == about(overall.projected_cost_pct));
  CHECK(evaluation.overall.argmax_cost_pct == about(overall.argmax_cost_pct));
  CHECK(*evaluation.overall.kl == about(kl_overall));
  CHECK(*evaluation.overall.entropy_sampled_pct == about(sampled_overall));
  CHECK(*evaluation.overall.uncertainty_mean == about(uncertainty_overall));
}

TEST_CASE("evaluation: NLL, accuracy and experts by need; recall is near and far together") {
  const Measured measured;
  const auto& [context, model, evaluation, tokens] = measured;
  const std::vector<std::pair<std::string, std::vector<int>>> groups{
      {"text", {0}}, {"first", {1}}, {"recall_near", {2}}, {"recall_far", {3}}, {"recall", {2, 3}}};
  CHECK(evaluation.by_need.size() == groups.size());
  for (const auto& group : groups) {
    const std::vector<int>& tags = group.second;
    CAPTURE(group.first);
    check_statistics(evaluation.by_need.at(group.first), tokens, [&](std::int64_t i) {
      return std::find(tags.begin(), tags.end(), int(need(i / length, i % length))) != tags.end();
    });
  }
  const auto right = std::count_if(tokens.begin(), tokens.end(), [](const Token& one) { return one.right; });
  CHECK(right > 0);
  CHECK(evaluation.accuracy == double(right) / double(windows * length));
}

TEST_CASE("evaluation: NLL, accuracy and experts by how far back the target was told") {
  const Measured measured;
  const auto& [context, model, evaluation, tokens] = measured;
  const std::int64_t bounds[][2] = {{1, 1}, {2, 3}, {4, 7}};
  REQUIRE(evaluation.by_gap.size() == 3);
  for (std::size_t g = 0; g < 3; ++g) {
    const std::int64_t from = bounds[g][0], to = bounds[g][1];
    CAPTURE(from);
    CHECK(evaluation.by_gap[g].from == from);
    CHECK(evaluation.by_gap[g].to == to);
    check_statistics(evaluation.by_gap[g], tokens, [&](std::int64_t i) {
      return gap(i / length, i % length) >= from && gap(i / length, i % length) <= to;
    });
  }
}

TEST_CASE("evaluation: what replacing the routing costs") {
  Measured measured;
  LanguageModel& model = measured.model;
  const std::vector<Token>& tokens = measured.tokens;
  const double soft = mean_nll(tokens);
  // The permutation is that of the seed (Fisher and Yates).
  std::vector<std::size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  PhiloxStream stream(random_key(1, 0, Purpose::permutation), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[stream.below(i)]);
  const auto permuted = [&](std::size_t l, std::int64_t i) { return tokens[order[std::size_t(i)]].m[l]; };
  const auto prior = [&](std::size_t, std::int64_t) {
    Row row{};
    const auto b = model.prior();
    for (std::size_t k = 0; k < 3; ++k) row[k] = b[k] / (b[0] + b[1] + b[2]);
    return row;
  };
  const auto by_position = [&](std::size_t l, std::int64_t i) {
    Row row{};
    for (std::int64_t w = 0; w < windows; ++w) {
      const Row& m = tokens[std::size_t(w * length + i % length)].m[l];
      for (std::size_t k = 0; k < 3; ++k) row[k] += m[k] / windows;
    }
    return row;
  };
  const auto nll = [&](const Means& means) { return mean_nll(by_hand(measured.context, model, means)); };
  REQUIRE(measured.evaluation.deltas.has_value());
  const Deltas& deltas = *measured.evaluation.deltas;
  CHECK(soft + deltas.permutation == about(nll(permuted)));
  CHECK(soft + deltas.prior == about(nll(prior)));
  CHECK(soft + deltas.position_only == about(nll(by_position)));
}

TEST_CASE("evaluation: executed FLOPs, in absolute terms and against full attention") {
  const Context context({.threads = 1});
  LanguageModel model(context, two_layers(), vocabulary, 3);
  stir(model);
  EvaluationOptions options;
  options.batch_tokens = 2 * length;
  const Evaluation evaluation = evaluate(context, model, tagged_text(), options);
  const auto attention = double(context.flops().attention.load()),
             products = double(context.flops().products.load());
  CHECK(evaluation.executed.attention_flops == attention);
  CHECK(evaluation.executed.model_flops == attention + products);
  const auto full = model.full_attention_flops(windows, length);
  CHECK(evaluation.executed.attention_flops_vs_full == about(attention / full.attention));
  CHECK(evaluation.executed.model_flops_vs_full == about((attention + products) / full.model));
  for (const auto& layer : evaluation.executed.tokens_per_expert) {
    for (const std::int64_t count : layer)
      CHECK(count == windows * length);  // soft: every expert on every token
  }
}

TEST_CASE("evaluation: ignored targets count nowhere but in routing, and windows by their scored tokens") {
  const Context context({.threads = 1});
  LanguageModel model(context, two_layers(), vocabulary, 3);
  stir(model);
  // Window 0 is scored at one position, position 1 in no window.
  const auto ignored = [](std::int64_t window, std::int64_t t) {
    return t == 1 || (window == 0 ? t != 2 : (window + t) % 3 == 0);
  };
  EvaluationText text = tagged_text();
  text.window = [&, all = text.window](std::int64_t index, const EvaluationWindow& to) {
    all(index, to);
    for (std::int64_t t = 0; t < length; ++t) {
      to.needs[std::size_t(t)] = ignored(index, t) ? 3 : need(index, t) % 3;
      if (ignored(index, t)) to.targets[std::size_t(t)] = -1;
    }
  };
  // An exact distribution over three of the tokens.
  const auto exact = [](std::int64_t i, std::size_t v) { return v < 3 ? double(1 + (i + v) % 3) / 6 : 0.0; };
  text.predictive = [&](std::int64_t window) {
    std::vector<double> p;
    for (std::int64_t t = 0; t < length; ++t) {
      for (std::size_t v = 0; v < vocabulary; ++v)
        p.push_back(ignored(window, t) ? 0 : exact(window * length + t, v));
    }
    return p;
  };
  EvaluationOptions options;
  options.batch_tokens = 2 * length;
  options.deltas = true;
  const Evaluation evaluation = evaluate(context, model, text, options);

  const std::vector<Token> tokens = by_hand(context, model);
  double nll = 0, right = 0, count = 0, bits = 0;
  std::array<double, windows> sums{}, counts{};
  double text_bits = 0, text_count = 0;
  for (std::int64_t i = 0; i < windows * length; ++i) {
    if (ignored(i / length, i % length)) continue;
    const Token& one = tokens[std::size_t(i)];
    nll += one.nll;
    right += one.right ? 1 : 0;
    count += 1;
    sums[std::size_t(i / length)] += one.nll;
    counts[std::size_t(i / length)] += 1;
    double divergence = 0;
    for (std::size_t v = 0; v < 3; ++v) divergence += exact(i, v) * std::log2(exact(i, v) / one.p[v]);
    bits += divergence;
    if (need(i / length, i % length) % 3 != 0) continue;
    text_bits += divergence;
    text_count += 1;
  }
  CHECK(evaluation.tokens == std::int64_t(count));
  CHECK(evaluation.windows == windows);
  CHECK(evaluation.nll == about(nll / count));
  CHECK(evaluation.accuracy == about(right / count));
  REQUIRE(evaluation.posterior_error_bits);
  CHECK(*evaluation.posterior_error_bits == about(bits / count));
  CHECK(*evaluation.by_need.at("text").posterior_error_bits == about(text_bits / text_count));
  CHECK(evaluation.window_nll[0] == about(tokens[2].nll));
  double squares = 0;  // of a ratio of means over windows
  for (std::size_t w = 0; w < windows; ++w) squares += std::pow(sums[w] - nll / count * counts[w], 2);
  CHECK(evaluation.nll_se == about(std::sqrt(squares / (windows - 1) / windows) / (count / windows)));

  const NeedStatistics& unscored = evaluation.by_need.at("recall_far");
  CHECK(unscored.tokens == windows * length - std::int64_t(count));
  CHECK(unscored.scored == 0);
  CHECK(unscored.nll == 0);
  CHECK(!unscored.posterior_error_bits);
  double share = 0;
  for (const double fraction : unscored.fraction_argmax_by_layer[1]) share += fraction;
  CHECK(share == about(1));
  REQUIRE(evaluation.nll_by_context.size() == 3);  // 1, 3-4, 5-6: nobody asks with 2 bytes of context
  CHECK(evaluation.nll_by_context[1].from == 3);
  double fifth = 0, fifths = 0;
  for (std::int64_t i = 0; i < windows * length; ++i) {
    if (i % length < 4 || ignored(i / length, i % length)) continue;
    fifth += tokens[std::size_t(i)].nll;
    fifths += 1;
  }
  CHECK(evaluation.nll_by_context[2].nll == about(fifth / fifths));
  const auto null_means = [&](std::size_t, std::int64_t) {
    Row row{};
    const auto b = model.prior();
    for (std::size_t k = 0; k < 3; ++k) row[k] = b[k] / (b[0] + b[1] + b[2]);
    return row;
  };
  const std::vector<Token> by_prior = by_hand(context, model, null_means);
  double prior_nll = 0;
  for (std::int64_t i = 0; i < windows * length; ++i)
    prior_nll += ignored(i / length, i % length) ? 0 : by_prior[std::size_t(i)].nll / count;
  CHECK(evaluation.nll + evaluation.deltas->prior == about(prior_nll));

  const std::string json = to_json(evaluation);
  CHECK(json.find("\"posterior_error_bits\"") != std::string::npos);
  CHECK(json.find("\"nll\": null") != std::string::npos);

  text.window = [all = text.window](std::int64_t index, const EvaluationWindow& to) {
    all(index, to);
    std::fill(to.targets.begin(), to.targets.end(), -1);
  };
  CHECK_THROWS_WITH_AS(evaluate(context, model, text, {}), doctest::Contains("at least one scored target"),
                       ValueError);
}

TEST_CASE("the null row: argmax and uncertainty of the prior itself") {
  const Context context({.threads = 1});
  const LanguageModel model(context, two_layers(), vocabulary, 3);
  const RoutingStatistics null = null_router(model);
  CHECK(null.fraction_argmax == std::vector<double>{0, 1, 0});  // linear, the cheapest
  CHECK(null.argmax_cost_pct == doctest::Approx(100 * model.costs()[1]));
  CHECK(*null.uncertainty_mean == doctest::Approx(dirichlet::entropy(model.prior())));
  CHECK(*null.kl == 0);
}

TEST_CASE("score: each byte's NLL given the bytes before it, and the routing behind it") {
  const Context context({.threads = 1});
  LanguageModel model(context, two_layers(), vocabulary, 3);
  stir(model);
  const std::vector<std::uint8_t> bytes{'a', 'b', 'c', 'd', 'e', 'f', 'g'},
      text{'c', 'a', '?', 'f', 'b', 'b'};
  std::vector<ByteScore> scores;
  score_text(context, model, bytes, text, {}, [&](const ByteScore& score) { scores.push_back(score); });
  REQUIRE(scores.size() == text.size());
  const std::vector<std::int32_t> tokens{2, 0, 5, 1, 1};  // without the unknown byte
  Tape tape(context, Tape::Mode::inference);
  const Forward forward = model(tape, tokens, 1, 5, {});
  const auto logits = forward.logits.value().span<float>();
  CHECK(scores[2].skipped);
  std::size_t t = 0;
  for (const ByteScore& score : scores) {
    if (score.skipped) continue;
    CHECK(score.nll.has_value() == (t > 0));
    if (t > 0) {
      CHECK(*score.nll ==
            about(negative_log_likelihood(logits.subspan((t - 1) * vocabulary, vocabulary), tokens[t])));
    }
    for (std::size_t l = 0; l < layers; ++l) {
      Row b{};
      for (std::size_t k = 0; k < 3; ++k) {
        b[k] = forward.layers[l].concentration.at({std::int64_t(t), std::int64_t(k)});
      }
      CHECK(*score.layers[l].uncertainty == about(dirichlet::entropy(b)));
      CHECK(*score.layers[l].mi == about(dirichlet::mutual_information(b)));
    }
    ++t;
  }
}
