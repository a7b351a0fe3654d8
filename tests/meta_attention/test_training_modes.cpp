// Ways to train that a study compares: leaky experts, empirical Bayes, gated straight-through.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/meta_attention/empirical_bayes.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/objective.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "dirigo/meta_attention/score.hpp"
#include "dirigo/meta_attention/session.hpp"
#include "dirigo/nn/safetensors.hpp"

#include "../nn/temporary_directory.hpp"

using namespace dirigo;
using namespace dirigo::meta;

namespace {

constexpr std::int64_t vocabulary = 11, length = 30, window = 5;

Config small_config(Projections projections, std::int64_t layers = 2) {
  Config c = preset("tiny");
  c.model.positions = Positions::learned;
  c.model.bias_slope = 0;
  c.model.d_model = 16;
  c.model.heads = 2;
  c.model.layers = layers;
  c.model.init_std = c.model.embedding_std = nn::initial_deviation;  // stir() moves them
  c.router.hidden = 8;
  c.attention.projections = projections;
  c.attention.window = window;
  c.attention.chunk = 8;
  c.train.seq_len = length;
  c.train.dropout = 0;
  resolve(c);
  return c;
}

// Weights far from their small initial values, so that routing differs from token to token.
void stir(LanguageModel& model) {
  std::uint32_t site = 0;
  for (const auto& named : model.parameters()) {
    PhiloxStream stream(random_key(5, 0, Purpose::test, site++), 0);
    visit_dtype(named.parameter->value.dtype(), [&](auto zero) {
      using T = decltype(zero);
      for (T& v : named.parameter->value.span<T>()) v += T(0.3 * stream.normal());
    });
  }
}

std::vector<std::int32_t> tokens(std::int64_t n, std::uint32_t seed) {
  std::vector<std::int32_t> t(static_cast<std::size_t>(n));
  PhiloxStream stream(random_key(seed, 0, Purpose::test, 1000), 0);
  for (auto& token : t) token = std::int32_t(stream.below(vocabulary));
  return t;
}

std::vector<double> logits(const Context& context, LanguageModel& model, std::span<const std::int32_t> text,
                           const ForwardOptions& options) {
  Tape tape(context, options.training ? Tape::Mode::training : Tape::Mode::inference);
  const std::int64_t batch = std::int64_t(text.size()) / length;
  return model(tape, text, batch, length, options).logits.value().to_vector();
}

// The first position whose logits differ between a text and the same with another token at `changed`.
std::int64_t first_difference(const Context& context, LanguageModel& model, std::int64_t changed,
                              const ForwardOptions& options) {
  const auto text = tokens(length, 1);
  auto other = text;
  other[std::size_t(changed)] = (other[std::size_t(changed)] + 1) % vocabulary;
  const auto a = logits(context, model, text, options), b = logits(context, model, other, options);
  const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
  return at / vocabulary;
}

ForwardOptions forced(ExpertKind kind) {
  ForwardOptions options;
  options.forced_expert = kind;
  return options;
}

template <class Error, class Work>
std::string message_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// An evaluation text of random tokens.
EvaluationText random_text(std::int64_t windows) {
  EvaluationText text;
  text.windows = windows;
  text.length = length;
  text.window = [](std::int64_t index, const EvaluationWindow& to) {
    const auto random = tokens(length + 1, std::uint32_t(100 + index));
    std::copy(random.begin(), random.end() - 1, to.inputs.begin());
    std::copy(random.begin() + 1, random.end(), to.targets.begin());
  };
  return text;
}

// The mutual information that half the tokens of a layer stay below.
double median_information(const Context& context, LanguageModel& model, std::span<const std::int32_t> text,
                          std::size_t layer) {
  Tape tape(context, Tape::Mode::inference);
  const Forward forward = model(tape, text, std::int64_t(text.size()) / length, length, {});
  std::vector<double> information;
  for (std::size_t t = 0; t < text.size(); ++t) {
    std::vector<double> b;
    for (std::int64_t k = 0; k < 3; ++k)
      b.push_back(forward.layers[layer].concentration.at({std::int64_t(t), k}));
    information.push_back(dirichlet::mutual_information(b));
  }
  std::sort(information.begin(), information.end());
  return information[information.size() / 2];
}

}  // namespace

// --- attention.leaky ---------------------------------------------------------------------------------------

TEST_CASE("leaky: linear sees all that follows, local w tokens of it, full nothing; without it nobody does") {
  const Context context({.threads = 2});
  for (const auto projections : {Projections::shared, Projections::per_expert}) {
    for (const auto positions : {Positions::learned, Positions::rotary}) {
      for (const bool leaky : {false, true}) {
        CAPTURE(int(projections));
        CAPTURE(int(positions));
        CAPTURE(leaky);
        Config config = small_config(projections, 1);  // one layer: the reach of one attention
        config.model.positions = positions;
        config.attention.leaky = leaky;
        resolve(config);
        LanguageModel model(context, config, vocabulary, 3);
        stir(model);
        const auto first = [&](std::int64_t changed, const ForwardOptions& options) {
          return first_difference(context, model, changed, options);
        };
        ForwardOptions soft, hard, training;
        hard.routing = RoutingMode::hard;
        training.training = true;
        const std::int64_t last = length - 1;
        CHECK(first(last, forced(ExpertKind::full)) == last);
        CHECK(first(last, forced(ExpertKind::linear)) == (leaky ? 0 : last));
        CHECK(first(last, forced(ExpertKind::local)) == (leaky ? last - window : last));
        CHECK(first(20, forced(ExpertKind::local)) == (leaky ? 20 - window : 20));
        CHECK(first(last, soft) == (leaky ? 0 : last));
        CHECK(first(last, training) == (leaky ? 0 : last));
        CHECK((first(last, hard) < last) == leaky);
      }
    }
  }
}

TEST_CASE("leaky: where nothing follows it is the causal expert") {
  const Context context({.threads = 1});
  for (const auto projections : {Projections::shared, Projections::per_expert}) {
    Config config = small_config(projections, 1);
    config.model.positions = Positions::rotary;
    resolve(config);
    LanguageModel causal(context, config, vocabulary, 3, DType::f64);
    config.attention.leaky = true;
    LanguageModel leaky(context, config, vocabulary, 3, DType::f64);
    stir(causal);
    stir(leaky);
    const auto text = tokens(length, 1);
    std::vector<ForwardOptions> modes{
        {}, forced(ExpertKind::full), forced(ExpertKind::linear), forced(ExpertKind::local)};
    for (const ForwardOptions& options : modes) {
      const auto a = logits(context, causal, text, options), b = logits(context, leaky, text, options);
      for (std::size_t i = a.size() - vocabulary; i < a.size(); ++i)
        CHECK(b[i] == doctest::Approx(a[i]).epsilon(1e-10));
      const bool full = options.forced_expert == ExpertKind::full;
      CHECK((a[0] == doctest::Approx(b[0]).epsilon(1e-10)) == full);
    }
  }
}

TEST_CASE("leaky: trained and evaluated densely, with the same bits for any number of threads") {
  Config config = small_config(Projections::per_expert);
  config.attention.leaky = true;
  resolve(config);
  std::vector<std::vector<double>> outputs;
  std::vector<double> nll;
  for (const int threads : {1, 3}) {
    const Context context({.threads = threads});
    LanguageModel model(context, config, vocabulary, 3);
    stir(model);
    ForwardOptions hard;
    hard.routing = RoutingMode::hard;
    outputs.push_back(logits(context, model, tokens(4 * length, 1), hard));
    EvaluationOptions options;
    options.deltas = true;
    const Evaluation evaluation = evaluate(context, model, random_text(6), options);
    CHECK(evaluation.reads_the_future);
    CHECK(to_json(evaluation).find("\"reads_the_future\": true") != std::string::npos);
    for (const auto& layer : evaluation.executed.tokens_per_expert)
      CHECK(layer == std::vector<std::int64_t>(3, 6 * length));
    nll.push_back(evaluation.nll);
  }
  CHECK(outputs[0] == outputs[1]);
  CHECK(nll[0] == nll[1]);
  const Context context({.threads = 1});
  LanguageModel causal(context, small_config(Projections::shared), vocabulary, 3);
  CHECK(to_json(evaluate(context, causal, random_text(2), {})).find("future") == std::string::npos);
}

TEST_CASE("leaky: a static router trains and evaluates its own expert") {
  const Context context({.threads = 1});
  Config config = small_config(Projections::per_expert, 1);
  config.router.kind = RouterKind::static_expert;
  config.router.expert = ExpertKind::linear;
  config.attention.leaky = true;
  resolve(config);
  LanguageModel model(context, config, vocabulary, 3);
  stir(model);
  ForwardOptions training;
  training.training = true;
  const auto text = tokens(length, 1);
  CHECK(logits(context, model, text, training) == logits(context, model, text, {}));
  CHECK(first_difference(context, model, length - 1, {}) == 0);
  CHECK_THROWS_AS(logits(context, model, text, forced(ExpertKind::full)), ValueError);
}

TEST_CASE("leaky: whoever goes token by token, or routes, refuses it in one line") {
  const Context context({.threads = 1});
  Config config = small_config(Projections::shared);
  config.attention.leaky = true;
  resolve(config);
  LanguageModel model(context, config, vocabulary, 3);
  CHECK(message_of<ValueError>([&] { const InferenceModel ready(context, model); }) ==
        "[session] attention.leaky: expected a model that does not read the future, got one");
  const std::vector<std::uint8_t> bytes{'a', 'b'};
  CHECK(message_of<ValueError>([&] {
          score_text(context, model, bytes, bytes, {}, [](const ByteScore&) {});
        }) == "[score] attention.leaky: expected a model that does not read the future, got one");
  const auto experts = make_experts(config.model, config.attention);
  Tape tape(context, Tape::Mode::inference);
  const Variable x = tape.constant(Tensor::zeros(context, Shape{1, 4, 16}));
  const Variable q = tape.constant(Tensor::zeros(context, Shape{1, 16}));
  CHECK_THROWS_AS(experts[1]->attend(q, x, x, std::vector<std::int32_t>{2}), ValueError);

  config.train.hard_routed = 0.5;
  CHECK(message_of<ValueError>([&] { resolve(config); }).find("train.hard_routed: expected off") !=
        std::string::npos);
  config.train.hard_routed = 0;
  config.model.positions = Positions::window_bias;
  CHECK(message_of<ValueError>([&] { resolve(config); }).find("attention.leaky: expected false") !=
        std::string::npos);
}

// --- router.empirical_bayes --------------------------------------------------------------------------------

TEST_CASE("empirical Bayes: each layer gets the prior that its own posteriors are least far from") {
  const Context context({.threads = 2});
  Config config = small_config(Projections::shared);
  config.router.empirical_bayes = true;
  resolve(config);
  LanguageModel model(context, config, vocabulary, 3);
  stir(model);
  const auto text = tokens(4 * length, 1), targets = tokens(4 * length, 2);
  Tape tape(context, Tape::Mode::inference);
  const Forward forward = model(tape, text, 4, length, {});

  std::vector<std::vector<double>> mean_log, before(2), by_hand(2);
  const auto row = [&](std::size_t l, std::int64_t t) {
    std::vector<double> b;
    for (std::int64_t k = 0; k < 3; ++k) b.push_back(forward.layers[l].concentration.at({t, k}));
    return b;
  };
  const auto mean_kl = [&](std::size_t l, const std::vector<double>& prior) {
    double total = 0;
    for (std::int64_t t = 0; t < 4 * length; ++t)
      total += dirichlet::kl(row(l, t), prior) / double(4 * length);
    return total;
  };
  for (std::size_t l = 0; l < 2; ++l) {
    mean_log.push_back(mean_log_weights(context, forward.layers[l]));
    before[l].assign(model.prior(l).begin(), model.prior(l).end());
    CHECK(before[l] == prior_concentration(config.router, model.costs()));
  }
  estimate_priors(model, mean_log);
  const Loss loss = objective(model, forward, targets, config.objective, 0.1);
  for (std::size_t l = 0; l < 2; ++l) {
    CAPTURE(l);
    const std::vector<double> prior(model.prior(l).begin(), model.prior(l).end());
    CHECK(mean_kl(l, prior) < mean_kl(l, before[l]));
    for (std::size_t k = 0; k < 3; ++k) {
      for (const double factor : {0.99, 1.01}) {
        std::vector<double> beside = prior;
        beside[k] *= factor;
        CHECK(mean_kl(l, beside) > mean_kl(l, prior));
      }
    }
    // The objective takes the KL against the layer's own prior.
    CHECK(loss.kl[l] == doctest::Approx(mean_kl(l, prior)).epsilon(1e-5));
  }
  CHECK(model.prior(0)[0] != model.prior(1)[0]);
  CHECK(std::vector<double>(model.prior().begin(), model.prior().end()) == before[0]);
  CHECK_THROWS_AS(model.set_priors({{1, 1, 1}}), ValueError);
  CHECK_THROWS_AS(model.set_priors({{1, 1, 1}, {1, 0, 1}}), ValueError);
  CHECK_THROWS_AS(model.set_priors({{1, 1, 1}, {1, 1}}), ValueError);
}

TEST_CASE("empirical Bayes: evaluation measures against each layer's prior, the null router emits it") {
  const Context context({.threads = 1});
  Config config = small_config(Projections::shared);
  config.router.empirical_bayes = true;
  resolve(config);
  LanguageModel model(context, config, vocabulary, 3);
  stir(model);
  const Evaluation old = evaluate(context, model, random_text(3), {});
  const std::vector<std::vector<double>> priors{{2, 1, 1}, {0.5, 0.5, 3}};
  model.set_priors(priors);
  EvaluationOptions options;
  options.deltas = true;
  const Evaluation evaluation = evaluate(context, model, random_text(3), options);
  CHECK(evaluation.nll == old.nll);  // the posterior `free` does not know the prior
  double sampled = 0, cost = 0;
  for (std::size_t l = 0; l < 2; ++l) {
    CHECK(evaluation.layers[l].kl != old.layers[l].kl);
    sampled += 50 * dirichlet::expected_categorical_entropy(priors[l]) / std::log(3.0);
    const double sum = priors[l][0] + priors[l][1] + priors[l][2];
    double aggregate = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      const double mean = evaluation.layers[l].mean_weights[k];
      aggregate += mean * std::log(mean / (priors[l][k] / sum));
      cost += 50 * priors[l][k] / sum * model.costs()[k];
    }
    CHECK(evaluation.layers[l].kl_aggregate == doctest::Approx(aggregate));
  }
  CHECK(*evaluation.null.entropy_sampled_pct == doctest::Approx(sampled));
  CHECK(evaluation.null.projected_cost_pct == doctest::Approx(cost));
  CHECK(evaluation.null.fraction_argmax == std::vector<double>{0.5, 0, 0.5});

  // prior_delta_nll: every m of layer l is the mean of that layer's prior.
  const auto text = random_text(3);
  double nll = 0;
  for (std::int64_t w = 0; w < 3; ++w) {
    std::vector<std::int32_t> inputs(length), targets(length);
    text.window(w, {inputs, targets, {}, {}});
    std::vector<Tensor> means;
    for (const auto& prior : priors) {
      Tensor mean = Tensor::empty(context, Shape{length, 3});
      for (std::int64_t i = 0; i < 3 * length; ++i)
        mean.data<float>()[i] = float(prior[std::size_t(i % 3)] / (prior[0] + prior[1] + prior[2]));
      means.push_back(mean);
    }
    ForwardOptions replaced;
    replaced.replaced_means = means;
    Tape tape(context, Tape::Mode::inference);
    const Variable out = model(tape, inputs, 1, length, replaced).logits;
    nll += ops::cross_entropy(out, targets).value().item() / 3;
  }
  CHECK(evaluation.nll + evaluation.deltas->prior == doctest::Approx(nll).epsilon(1e-6));
}

TEST_CASE("empirical Bayes: weight files keep the priors exactly, and damaged ones are refused by name") {
  const Context context({.threads = 1});
  Config config = small_config(Projections::shared);
  config.router.empirical_bayes = true;
  resolve(config);
  LanguageModel model(context, config, vocabulary, 3), other(context, config, vocabulary, 4);
  const std::vector<std::vector<double>> priors{{1.0 / 3, 2e-7, 0.1}, {std::sqrt(2.0), 1e3 / 7, 0.71}};
  model.set_priors(priors);
  const TemporaryDirectory directory;
  const std::string file = directory.file("model.safetensors");
  write_weights(file, model);
  read_weights(context, file, other);
  for (std::size_t l = 0; l < 2; ++l)
    CHECK(std::vector<double>(other.prior(l).begin(), other.prior(l).end()) == priors[l]);

  const nn::SafetensorsFile content = nn::read_safetensors(context, file);
  CHECK(content.metadata.at("format_version") == "1");
  for (const char* damaged : {"", "[[1,1,1]]", "[[1,1,1],[1,1,-1]]", "[[1,1,1],[1,\"a\",1]]", "7", "[["}) {
    CAPTURE(damaged);
    auto metadata = content.metadata;
    metadata["priors"] = damaged;
    nn::write_safetensors(file, content.tensors, metadata);
    CHECK(message_of<IoError>([&] { read_weights(context, file, other); }).find("metadata priors") !=
          std::string::npos);
  }
  nn::write_safetensors(file, content.tensors, {{"format_version", "1"}});
  CHECK_THROWS_AS(read_weights(context, file, other), IoError);

  // Without it a file says nothing of priors.
  LanguageModel plain(context, small_config(Projections::shared), vocabulary, 3);
  write_weights(file, plain);
  CHECK(nn::read_safetensors(context, file).metadata.size() == 1);
  read_weights(context, file, plain);
}

// --- train.straight_through=gated --------------------------------------------------------------------------

TEST_CASE("gated straight-through: certain tokens are one-hot, the others mix, as gated evaluation does") {
  const Context context({.threads = 1});
  for (const auto projections : {Projections::shared, Projections::per_expert}) {
    for (const Gate gate : {Gate::entropy, Gate::mi, Gate::max_mean}) {
      CAPTURE(int(gate));
      Config config = small_config(projections, 1);
      config.train.sampling = Sampling::mean;
      LanguageModel model(context, config, vocabulary, 3, DType::f64);
      stir(model);
      const auto text = tokens(length, 1);
      Tape probe(context, Tape::Mode::inference);
      const LayerRouting routing = model(probe, text, 1, length, {}).layers[0];
      std::vector<double> measure;
      for (std::int64_t t = 0; t < length; ++t) {
        std::vector<double> b, m;
        for (std::int64_t k = 0; k < 3; ++k) {
          b.push_back(routing.concentration.at({t, k}));
          m.push_back(routing.mean.at({t, k}));
        }
        measure.push_back(gate == Gate::entropy ? dirichlet::entropy(b)
                          : gate == Gate::mi    ? dirichlet::mutual_information(b)
                                                : -*std::max_element(m.begin(), m.end()));
      }
      std::sort(measure.begin(), measure.end());
      const double eta = (measure[11] + measure[12]) / 2;  // twelve tokens are certain

      ForwardOptions evaluation, training;
      evaluation.routing = RoutingMode::gated;
      training.training = training.gated_straight_through = true;
      evaluation.gate = training.gate = gate;
      evaluation.eta = training.eta = gate == Gate::max_mean ? -eta : eta;
      Tape tape(context);
      const Forward forward = model(tape, text, 1, length, training);
      CHECK(forward.layers[0].one_hot == 12);
      const auto trained = forward.logits.value().to_vector(),
                 gated = logits(context, model, text, evaluation), soft = logits(context, model, text, {});
      for (std::size_t i = 0; i < gated.size(); ++i)
        CHECK(trained[i] == doctest::Approx(gated[i]).epsilon(1e-9));
      CHECK(trained != soft);
    }
  }
}

TEST_CASE("gated straight-through: causal, and the same bits in any batch and for any number of threads") {
  for (const auto projections : {Projections::shared, Projections::per_expert}) {
    std::vector<std::vector<float>> gradients;
    for (const int threads : {1, 2, 3}) {
      const Context context({.threads = threads});
      const Config config = small_config(projections);
      LanguageModel model(context, config, vocabulary, 3);
      stir(model);
      ForwardOptions options;
      options.training = options.gated_straight_through = true;
      options.gate = Gate::mi;
      options.eta = median_information(context, model, tokens(6 * length, 1), 1);
      for (const std::int64_t changed : {1, 13, 29})
        CHECK(first_difference(context, model, changed, options) == changed);

      const auto text = tokens(6 * length, 1), targets = tokens(6 * length, 2);
      Tape tape(context);
      const Forward forward = model(tape, text, 6, length, options);
      CHECK(forward.layers[1].one_hot > 0);
      CHECK(forward.layers[1].one_hot < 6 * length);
      // Rows 2 and 3 alone, as a part of that batch.
      ForwardOptions part = options;
      part.first_row = 2 * length;
      const auto whole = forward.logits.value().to_vector(),
                 alone = logits(context, model, std::span(text).subspan(2 * length, 2 * length), part);
      CHECK(std::equal(alone.begin(), alone.end(), whole.begin() + 2 * length * vocabulary));

      tape.backward(objective(model, forward, targets, config.objective, 0.1).total);
      std::vector<float> all;
      for (const auto& named : model.parameters()) {
        const auto g = named.parameter->gradient.span<float>();
        all.insert(all.end(), g.begin(), g.end());
      }
      gradients.push_back(all);
    }
    for (const std::size_t other : {1u, 2u})
      CHECK(std::memcmp(gradients[0].data(), gradients[other].data(), gradients[0].size() * sizeof(float)) ==
            0);
  }
}

// --- what is measured, and the configuration ---------------------------------------------------------------

TEST_CASE("active units: experts whose weight varies over tokens by more than 0.01") {
  const Context context({.threads = 1});
  for (const float spread : {0.0f, 0.1f, 30.0f}) {
    CAPTURE(spread);
    LanguageModel model(context, small_config(Projections::shared), vocabulary, 3);
    stir(model);
    // The controller's output, and so the variance, grows with its last layer.
    for (const auto& named : model.parameters()) {
      if (named.name != "blocks.0.controller.fc2.weight") continue;
      for (float& weight : named.parameter->value.span<float>()) weight *= spread;
    }
    const auto text = random_text(4);
    std::vector<std::int32_t> inputs, targets(length);
    for (std::int64_t w = 0; w < 4; ++w) {
      std::vector<std::int32_t> part(length);
      text.window(w, {part, targets, {}, {}});
      inputs.insert(inputs.end(), part.begin(), part.end());
    }
    Tape tape(context, Tape::Mode::inference);
    const Forward forward = model(tape, inputs, 4, length, {});
    const Evaluation evaluation = evaluate(context, model, text, {});
    double total = 0;
    for (std::size_t l = 0; l < 2; ++l) {
      double active = 0;
      for (std::int64_t k = 0; k < 3; ++k) {
        double mean = 0, variance = 0;
        for (std::int64_t t = 0; t < 4 * length; ++t)
          mean += forward.layers[l].mean.at({t, k}) / (4 * length);
        for (std::int64_t t = 0; t < 4 * length; ++t)
          variance += std::pow(forward.layers[l].mean.at({t, k}) - mean, 2) / (4 * length);
        active += variance > 0.01;
      }
      CHECK(evaluation.layers[l].active_units == active);
      total += active;
    }
    CHECK(evaluation.overall.active_units == total / 2);
    if (spread < 1) CHECK(evaluation.layers[0].active_units == 0);
    if (spread > 1) CHECK(evaluation.layers[0].active_units >= 2);
    CHECK(nlohmann::json::parse(to_json(evaluation))["routing"]["layers"][1]["active_units"] ==
          evaluation.layers[1].active_units);
  }
}

TEST_CASE("configuration: the modes are read, written, and refused where they have no meaning") {
  using Rule = StraightThrough::Rule;
  Config config = preset("tiny");
  const auto fault = [&] { return message_of<ValueError>([&] { resolve(config); }); };
  for (const auto& [word, expected] :
       {std::pair{"auto", StraightThrough{0, Rule::automatic}},
        std::pair{"gated", StraightThrough{0, Rule::gated}}, std::pair{"off", StraightThrough{}},
        std::pair{"0.25", StraightThrough{0.25, Rule::last}}}) {
    set_field(config, "train.straight_through", word);
    resolve(config);
    CHECK(config.train.straight_through == expected);
    CHECK(config_from_json(config_to_json(config), "test").train.straight_through == expected);
  }
  for (const char* wrong : {"0", "1.5", "automatic", "true"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(set_field(config, "train.straight_through", wrong),
                         doctest::Contains("off, auto, gated or a fraction in (0, 1]"), ValueError);
  }
  CHECK(config.train.straight_through == StraightThrough{0.25, Rule::last});

  CHECK_FALSE(config.train.eta.has_value());
  set_field(config, "train.eta", "-2.5");
  CHECK(*config_from_json(config_to_json(config), "test").train.eta == -2.5);
  set_field(config, "train.eta", "default");
  CHECK_FALSE(config_from_json(config_to_json(config), "test").train.eta.has_value());
  CHECK_THROWS_AS(set_field(config, "train.eta", "much"), ValueError);
  CHECK_THROWS_AS(set_field(config, "train.gate", "mii"), ValueError);
  CHECK_THROWS_AS(set_field(config, "train.auto_drop", "0"), ValueError);
  CHECK_THROWS_AS(set_field(config, "train.auto_hold", "0"), ValueError);
  CHECK_THROWS_AS(set_field(config, "router.empirical_bayes_every", "0"), ValueError);

  set_field(config, "router.empirical_bayes", "true");
  set_field(config, "router.posterior", "additive");
  CHECK(fault().find("router.posterior: expected free") != std::string::npos);
  set_field(config, "router.posterior", "free");
  resolve(config);
  config.router.kind = RouterKind::softmax;
  config.objective.w_kl.value = 0;
  CHECK(fault().find("router.empirical_bayes: expected false") != std::string::npos);
  config.router.empirical_bayes = false;
  set_field(config, "train.straight_through", "gated");
  CHECK(fault().find("train.gate: expected max_mean") != std::string::npos);
  set_field(config, "train.gate", "max_mean");
  resolve(config);

  // A constant router has nothing to switch, gate, estimate or replace.
  config.router.kind = RouterKind::static_expert;
  config.router.empirical_bayes = config.train.log_deltas = true;
  resolve(config);
  CHECK(config.train.straight_through == StraightThrough{});
  CHECK_FALSE(config.router.empirical_bayes);
  CHECK_FALSE(config.train.log_deltas);
}
