// Costs, prior, routing distributions, objective and the model itself against the formulas of
// docs/mathematics.md, written out in plain loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/meta_attention/expert.hpp"
#include "dirigo/meta_attention/objective.hpp"

using namespace dirigo;
using namespace dirigo::meta;

namespace {

constexpr std::int64_t vocabulary = 7, batch = 2, length = 9;
using Values = std::vector<double>;

Config one_layer(RouterKind kind = RouterKind::bayes, ExpertKind expert = ExpertKind::full) {
  Config c = preset("tiny");
  c.model.positions = Positions::learned;
  c.model.d_model = 8;
  c.model.heads = 2;
  c.model.layers = 1;
  c.model.max_len = 12;
  c.model.init_std = c.model.embedding_std = nn::initial_deviation;  // stir() moves them
  c.router.hidden = 4;
  c.router.kind = kind;
  c.router.expert = expert;
  c.attention.window = 3;
  c.attention.chunk = 4;
  c.train.seq_len = 12;
  c.train.dropout = 0;
  c.train.sampling = Sampling::mean;
  if (kind != RouterKind::bayes) c.objective.w_kl.value = 0;
  resolve(c);
  return c;
}

void stir(LanguageModel& model) {
  std::uint32_t site = 0;
  for (const auto& named : model.parameters()) {
    PhiloxStream stream(random_key(4, 0, Purpose::test, site++), 0);
    for (double& v : named.parameter->value.span<double>()) v += 0.5 * stream.normal();
  }
}

std::vector<std::int32_t> text(std::int64_t shift) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = shift; i < shift + batch * length; ++i) {
    tokens.push_back(std::int32_t((i * i + i / 3) % vocabulary));
  }
  return tokens;
}

double sigma(double x) {
  return std::log1p(std::exp(x));  // softplus
}

double gelu(double x) {
  return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}

Values row_of(const Tensor& matrix, std::int64_t row) {
  Values values;
  for (std::int64_t j = 0; j < matrix.shape()[1]; ++j) values.push_back(matrix.at({row, j}));
  return values;
}

// The weights of a model by name, and the layers that use them, in plain loops.
struct Reference {
  std::map<std::string, Tensor> weights;

  explicit Reference(LanguageModel& model) {
    for (const auto& named : model.parameters()) weights[named.name] = named.parameter->value;
  }

  Values linear(const std::string& name, const Values& x) const {
    const Tensor& w = weights.at(name + ".weight");
    Values y(std::size_t(w.shape()[0]));
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (weights.count(name + ".bias") > 0) y[i] = weights.at(name + ".bias").at({std::int64_t(i)});
      for (std::size_t j = 0; j < x.size(); ++j) y[i] += w.at({std::int64_t(i), std::int64_t(j)}) * x[j];
    }
    return y;
  }

  Values layer_norm(const std::string& name, const Values& x) const {
    double mean = 0, variance = 0;
    for (const double v : x) mean += v / double(x.size());
    for (const double v : x) variance += (v - mean) * (v - mean) / double(x.size());
    Values y;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::int64_t at = std::int64_t(i);
      y.push_back((x[i] - mean) / std::sqrt(variance + 1e-5) * weights.at(name + ".weight").at({at}) +
                  weights.at(name + ".bias").at({at}));
    }
    return y;
  }

  Values embed(std::int32_t token, std::int64_t position) const {
    Values x = row_of(weights.at("embed.weight"), token);
    const Values p = row_of(weights.at("pos.weight"), position);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += p[i];
    return x;
  }
};

Values sum(Values a, const Values& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

doctest::Approx about(double value) {
  return doctest::Approx(value).epsilon(1e-10).scale(1);
}

Forward forward_of(Tape& tape, LanguageModel& model, const ForwardOptions& options) {
  return model(tape, text(0), batch, length, options);
}

}  // namespace

TEST_CASE("the analytic costs count each expert's multiply-adds") {
  Config config = one_layer();
  config.router.cost_model = CostModel::analytic;
  for (const std::int64_t t : {2, 3, 20}) {  // shorter than, equal to, longer than the window
    CAPTURE(t);
    const double d = 8, head = 4, projections = 4 * d * d;
    double full = 0, local = 0;
    for (std::int64_t i = 0; i < t; ++i) {  // QK and PV: D multiply-adds each for every visible key
      full += 2 * d * double(i + 1) / double(t);
      local += 2 * d * double(std::min<std::int64_t>(i + 1, 3)) / double(t);
    }
    const double linear = 2 * 2 * head * (head + 1);  // per head: take in a key, answer a query
    const double most = projections + std::max({full, linear, local});
    const Values costs = expert_costs(config, t);
    CHECK(costs[0] == about((projections + full) / most));
    CHECK(costs[1] == about((projections + linear) / most));
    CHECK(costs[2] == about((projections + local) / most));
  }
}

TEST_CASE("the prior falls with the cost, and its mean is a distribution") {
  RouterConfig router;
  router.eps = 0.05;
  router.beta0 = 2;
  const Values costs{1.0, 0.15, 0.3}, beta = prior_concentration(router, costs),
                                      mean = prior_mean(router, costs);
  const double sum = 0.05 + 1.75 + 1.45;
  CHECK(beta[0] == about(0.05));
  CHECK(beta[1] == about(1.75));
  CHECK(beta[2] == about(1.45));
  for (std::size_t k = 0; k < 3; ++k) CHECK(mean[k] == about(beta[k] / sum));
}

TEST_CASE("routing distributions: additive and free posterior, softmax") {
  const Context context({.threads = 1});
  const Values h{-1.5, 0.2, 2.5}, prior{0.01, 0.86, 0.71};
  Tape tape(context);
  const Variable variable = tape.leaf(Tensor::from<double>(context, {1, 3}, h));
  RouterConfig router;
  for (const Posterior posterior : {Posterior::additive, Posterior::free}) {
    router.posterior = posterior;
    const RoutingDistribution distribution = routing_distribution(router, prior, variable);
    Values b;
    for (std::size_t k = 0; k < 3; ++k) {
      b.push_back((posterior == Posterior::additive ? prior[k] : router.eps) + sigma(h[k]));
    }
    for (std::int64_t k = 0; k < 3; ++k) {
      CHECK(distribution.concentration.value().at({0, k}) == about(b[std::size_t(k)]));
      CHECK(distribution.mean.value().at({0, k}) == about(b[std::size_t(k)] / (b[0] + b[1] + b[2])));
    }
  }
  router.kind = RouterKind::softmax;
  const Variable mean = routing_distribution(router, prior, variable).mean;
  double total = 0;
  for (const double value : h) total += std::exp(value);
  for (std::int64_t k = 0; k < 3; ++k)
    CHECK(mean.value().at({0, k}) == about(std::exp(h[std::size_t(k)]) / total));
}

TEST_CASE("argmax: the largest weight; ties go to the lowest cost, then to the lowest index") {
  const Context context({.threads = 1});
  const auto chosen = [&](const Values& weights, const Values& costs) {
    return argmax_rows(Tensor::from<double>(context, {1, 3}, weights), costs)[0];
  };
  CHECK(chosen({0.5, 0.3, 0.2}, {1, 0.15, 0.3}) == 0);
  CHECK(chosen({0.2, 0.3, 0.5}, {1, 0.15, 0.3}) == 2);
  CHECK(chosen({0.3, 0.35, 0.35}, {1, 0.15, 0.3}) == 1);
  CHECK(chosen({0.3, 0.35, 0.35}, {1, 0.3, 0.15}) == 2);
  CHECK(chosen({0.4, 0.2, 0.4}, {0.1, 0.15, 0.3}) == 0);
  CHECK(chosen({0.35, 0.35, 0.3}, {0.5, 0.5, 0.1}) == 0);
}

TEST_CASE("a tie of the router goes to the cheapest expert") {
  const Context context({.threads = 1});
  Config config = one_layer(RouterKind::softmax);
  config.router.costs = {0.2, 0.9, 0.5};
  LanguageModel model(context, config, vocabulary, 3, DType::f64);
  for (const auto& named : model.parameters()) {
    if (named.name.find("controller.fc2") == std::string::npos) continue;
    for (double& v : named.parameter->value.span<double>()) v = 0;  // every expert equally likely
  }
  Tape tape(context, Tape::Mode::inference);
  const Forward forward = forward_of(tape, model, {});
  for (const std::int32_t k : forward.layers[0].chosen) CHECK(k == 0);
}

TEST_CASE("a layer's router, feature by feature") {
  const Context context({.threads = 1});
  LanguageModel model(context, one_layer(), vocabulary, 3, DType::f64);
  stir(model);
  Tape tape(context, Tape::Mode::inference);
  const Forward forward = forward_of(tape, model, {});
  const Reference reference(model);
  const auto tokens = text(0);
  for (std::int64_t row = 0; row < batch * length; ++row) {
    const Values x = reference.embed(tokens[std::size_t(row)], row % length);
    Values features = reference.layer_norm("blocks.0.ln1", x);
    double squares = 0;
    for (const double v : x) squares += v * v;
    features.push_back(std::sqrt(squares / 8));
    features.push_back(double(row % length) / 12);
    Values hidden = reference.linear("blocks.0.controller.fc1", features);
    for (double& v : hidden) v = gelu(v);
    const Values h = reference.linear("blocks.0.controller.fc2", hidden);
    for (std::int64_t k = 0; k < 3; ++k) {
      CHECK(forward.layers[0].concentration.at({row, k}) == about(0.01 + sigma(h[std::size_t(k)])));
    }
  }
}

TEST_CASE("the logits of a model with softmax attention, full and local, in plain loops") {
  const Context context({.threads = 1});
  for (const ExpertKind expert : {ExpertKind::full, ExpertKind::local}) {
    LanguageModel model(context, one_layer(RouterKind::static_expert, expert), vocabulary, 3, DType::f64);
    stir(model);
    Tape tape(context, Tape::Mode::inference);
    const Forward forward = forward_of(tape, model, {});
    const Reference reference(model);
    std::string attention = "blocks.0.attn";
    if (reference.weights.count(attention + ".q.weight") == 0)
      attention.append(".").append(expert_name(expert));
    const auto tokens = text(0);
    const std::int64_t window = expert == ExpertKind::local ? 3 : length;
    for (std::int64_t b = 0; b < batch; ++b) {
      std::vector<Values> x, k, v;
      for (std::int64_t t = 0; t < length; ++t) {
        x.push_back(reference.embed(tokens[std::size_t(b * length + t)], t));
        const Values normed = reference.layer_norm("blocks.0.ln1", x.back());
        k.push_back(reference.linear(attention + ".k", normed));
        v.push_back(reference.linear(attention + ".v", normed));
        const Values q = reference.linear(attention + ".q", normed);
        Values out(8);
        for (std::size_t head = 0; head < 8; head += 4) {
          double total = 0;
          for (std::int64_t j = std::max<std::int64_t>(0, t - window + 1); j <= t; ++j) {
            double score = 0;
            for (std::size_t c = head; c < head + 4; ++c) score += q[c] * k[std::size_t(j)][c];
            const double weight = std::exp(score / 2);  // sqrt(d) = 2
            total += weight;
            for (std::size_t c = head; c < head + 4; ++c) out[c] += weight * v[std::size_t(j)][c];
          }
          for (std::size_t c = head; c < head + 4; ++c) out[c] /= total;
        }
        const Values attended = sum(x.back(), reference.linear(attention + ".o", out));
        Values hidden = reference.linear("blocks.0.ffn.fc1", reference.layer_norm("blocks.0.ln2", attended));
        for (double& value : hidden) value = gelu(value);
        const Values y = sum(attended, reference.linear("blocks.0.ffn.fc2", hidden));
        const Values logits = reference.linear("embed", reference.layer_norm("ln_f", y));
        for (std::int64_t token = 0; token < vocabulary; ++token) {
          CHECK(forward.logits.value().at({b * length + t, token}) == about(logits[std::size_t(token)]));
        }
      }
    }
  }
}

TEST_CASE("training and executed mixtures agree, soft and straight-through") {
  const Context context({.threads = 1});
  for (const Projections projections : {Projections::shared, Projections::per_expert}) {
    Config config = one_layer();
    config.attention.projections = projections;
    LanguageModel model(context, config, vocabulary, 3, DType::f64);
    stir(model);
    for (const bool hard : {false, true}) {
      ForwardOptions training, evaluation;
      training.training = true;
      training.straight_through = hard;
      evaluation.routing = hard ? RoutingMode::hard : RoutingMode::soft;
      Tape recorded(context), tape(context, Tape::Mode::inference);
      const Values dense = forward_of(recorded, model, training).logits.value().to_vector();
      const Values executed = forward_of(tape, model, evaluation).logits.value().to_vector();
      for (std::size_t i = 0; i < dense.size(); ++i) CHECK(dense[i] == about(executed[i]));
    }
  }
}

TEST_CASE("gated routing: a certain token runs one expert, another one all") {
  const Context context({.threads = 1});
  LanguageModel model(context, one_layer(), vocabulary, 3, DType::f64);
  stir(model);
  Tape tape(context, Tape::Mode::inference);
  const LayerRouting soft = forward_of(tape, model, {}).layers[0];
  for (const Gate gate : {Gate::entropy, Gate::mi, Gate::max_mean}) {
    CAPTURE(int(gate));
    Values measure;
    for (std::int64_t row = 0; row < batch * length; ++row) {
      const Values b = row_of(soft.concentration, row), m = row_of(soft.mean, row);
      measure.push_back(gate == Gate::entropy ? dirichlet::entropy(b)
                        : gate == Gate::mi    ? dirichlet::mutual_information(b)
                                              : -*std::max_element(m.begin(), m.end()));
    }
    Values sorted = measure;
    std::sort(sorted.begin(), sorted.end());
    const double eta = (sorted[5] + sorted[6]) / 2;  // six tokens are certain
    std::array<std::int64_t, 3> expected{};
    for (std::size_t row = 0; row < measure.size(); ++row) {
      for (std::size_t k = 0; k < 3; ++k) {
        expected[k] += measure[row] > eta || soft.chosen[row] == std::int32_t(k);
      }
    }
    ForwardOptions gated;
    gated.routing = RoutingMode::gated;
    gated.gate = gate;
    gated.eta = gate == Gate::max_mean ? -eta : eta;
    CHECK(forward_of(tape, model, gated).layers[0].tokens_per_expert == expected);
  }
}

TEST_CASE("training draws another posterior sample in every step and layer, and not the mean") {
  const Context context({.threads = 1});
  Config config = one_layer();
  config.model.layers = 2;
  const auto logits = [&](Sampling sampling, std::uint32_t step, int silent) {
    config.train.sampling = sampling;
    LanguageModel model(context, config, vocabulary, 3, DType::f64);
    stir(model);
    // Both layers are the same, but one of them adds nothing to the residual stream.
    std::map<std::string, nn::Parameter*> parameters;
    for (const auto& named : model.parameters()) parameters[named.name] = named.parameter;
    const std::string mute = "blocks." + std::to_string(silent) + ".";
    for (const auto& [name, parameter] : parameters) {
      if (name.rfind("blocks.1.", 0) == 0) {
        parameter->value = parameters.at("blocks.0." + name.substr(9))->value.clone(context);
      }
    }
    for (const auto& [name, parameter] : parameters) {
      const std::string end = name.rfind(mute, 0) == 0 ? name.substr(mute.size()) : "";
      if (end != "attn.o.weight" && end != "ffn.fc2.weight" && end != "ffn.fc2.bias") continue;
      for (double& v : parameter->value.span<double>()) v = 0;
    }
    ForwardOptions options;
    options.training = true;
    options.step = step;
    Tape tape(context);
    return forward_of(tape, model, options).logits.value().to_vector();
  };
  CHECK(logits(Sampling::mean, 0, 0) == logits(Sampling::mean, 0, 1));
  CHECK(logits(Sampling::mean, 0, 0) == logits(Sampling::mean, 1, 0));
  CHECK(logits(Sampling::posterior, 0, 0) == logits(Sampling::posterior, 0, 0));
  CHECK(logits(Sampling::posterior, 0, 0) != logits(Sampling::mean, 0, 0));
  CHECK(logits(Sampling::posterior, 0, 0) != logits(Sampling::posterior, 1, 0));
  CHECK(logits(Sampling::posterior, 0, 0) != logits(Sampling::posterior, 0, 1));
}

TEST_CASE("the Gumbel router: softmax((h + g) / temperature) in training") {
  const Context context({.threads = 1});
  ForwardOptions training;
  training.training = true;
  training.seed = 5;
  training.step = 7;
  for (const double temperature : {1.0, 2.5}) {
    Config config = one_layer(RouterKind::gumbel);
    config.router.temperature = temperature;
    LanguageModel model(context, config, vocabulary, 3, DType::f64);
    stir(model);
    Tape recorded(context), tape(context, Tape::Mode::inference);
    const Tensor sampled = forward_of(recorded, model, training).layers[0].mean;
    const Tensor plain = forward_of(tape, model, {}).layers[0].mean;  // softmax(h)
    for (std::int64_t row = 0; row < batch * length; ++row) {
      PhiloxStream stream(random_key(5, 7, Purpose::gumbel, 0), std::uint32_t(row));
      Values exponent;
      for (std::int64_t k = 0; k < 3; ++k) {
        const double gumbel = -std::log(-std::log(stream.uniform()));
        exponent.push_back((std::log(plain.at({row, k})) + gumbel) / temperature);
      }
      const double total = dirichlet::log_sum_exp(exponent);
      for (std::int64_t k = 0; k < 3; ++k) {
        CHECK(sampled.at({row, k}) == about(std::exp(exponent[std::size_t(k)] - total)));
      }
    }
  }
}

TEST_CASE("the objective, term by term") {
  const Context context({.threads = 1});
  LanguageModel model(context, one_layer(), vocabulary, 3, DType::f64);
  stir(model);
  const auto targets = text(1);
  ForwardOptions training;
  training.training = true;
  Tape tape(context);
  const Forward forward = forward_of(tape, model, training);
  const LayerRouting& layer = forward.layers[0];
  const double n = batch * length;
  double nll = 0, kl = 0, cost = 0, entropy = 0;
  std::array<double, 3> fraction{}, mean{};
  for (std::int64_t row = 0; row < batch * length; ++row) {
    const Values logits = row_of(forward.logits.value(), row), m = row_of(layer.mean, row);
    nll += (dirichlet::log_sum_exp(logits) - logits[std::size_t(targets[std::size_t(row)])]) / n;
    kl += dirichlet::kl(row_of(layer.concentration, row), model.prior()) / n;
    for (std::size_t k = 0; k < 3; ++k) {
      cost += m[k] * model.costs()[k] / n;
      entropy -= m[k] * std::log(m[k]) / n;
      mean[k] += m[k] / n;
    }
    fraction[std::size_t(std::max_element(m.begin(), m.end()) - m.begin())] += 1 / n;
  }
  double balance = 0;
  for (std::size_t k = 0; k < 3; ++k) balance += 3 * fraction[k] * mean[k];
  const auto total = [&](const ObjectiveConfig& terms, double w_kl) {
    return objective(model, forward, targets, terms, w_kl).total.value().item();
  };
  ObjectiveConfig terms;
  CHECK(total(terms, 0) == about(nll));
  CHECK(total(terms, 0.3) == about(nll + 0.3 * kl));
  CHECK(objective(model, forward, targets, terms, 0.3).kl[0] == about(kl));
  terms.free_bits = 1.01 * kl;
  CHECK(total(terms, 0.3) == about(nll));
  terms = {};
  terms.cost_lambda = 0.7;
  CHECK(total(terms, 0) == about(nll + 0.7 * cost));
  terms = {};
  terms.entropy_bonus = 0.7;
  CHECK(total(terms, 0) == about(nll - 0.7 * entropy));
  terms = {};
  terms.load_balance = 0.7;
  CHECK(total(terms, 0) == about(nll + 0.7 * balance));
}
