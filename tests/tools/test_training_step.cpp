// A step cuts its batch into shares and parts: it must be the step of the whole batch.
#include <doctest/doctest.h>

#include <algorithm>

#include "dirigo/core/ignored_target.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/objective.hpp"
#include "training_step.hpp"

using namespace dirigo;
using namespace dirigo::tools;

namespace {

constexpr std::int64_t vocabulary = 9;

meta::Config small_config() {
  meta::Config config = meta::preset("tiny");
  config.model.d_model = 16;
  config.model.heads = 2;
  config.model.layers = 2;
  config.model.max_len = 100;
  config.router.hidden = 8;
  config.attention.window = 8;
  config.train.seq_len = 100;
  config.train.batch = 27;  // shares of 3 and 4 sequences, parts of 2
  config.objective.cost_lambda = 0.01;
  config.objective.entropy_bonus = 0.02;
  meta::resolve(config);
  return config;
}

Batch random_batch(const meta::TrainConfig& train) {
  const auto size = std::size_t(train.batch * train.seq_len);
  Batch batch{train.batch, train.seq_len, std::vector<std::int32_t>(size), std::vector<std::int32_t>(size)};
  PhiloxStream random(random_key(1, 0, Purpose::test), 0);
  for (auto* tokens : {&batch.inputs, &batch.targets})
    std::generate(tokens->begin(), tokens->end(), [&] { return std::int32_t(random.below(vocabulary)); });
  return batch;
}

// The same step on one tape, without the update.
StepReport on_one_tape(const Context& context, meta::LanguageModel& model, const Batch& batch) {
  const meta::Config& config = model.config();
  const nn::Adam adam = make_optimiser(context, model);
  meta::ForwardOptions options;
  options.training = true;
  options.seed = std::uint64_t(config.train.seed);
  Tape tape(context);
  const meta::Forward forward = model(tape, batch.inputs, batch.rows, batch.length, options);
  StepReport report;
  const meta::Loss loss = meta::objective(model, forward, batch.targets, config.objective,
                                          config.objective.w_kl.at(0, config.train.steps));
  tape.backward(loss.total);
  report.loss = loss.total.value().item();
  report.nll = loss.nll;
  if (!loss.kl.empty()) report.kl = (loss.kl[0] + loss.kl[1]) / 2;
  report.grad_norm = adam.gradient_norm();
  for (const meta::LayerRouting& layer : forward.layers) {
    StepReport::Routing routing{std::vector<double>(3), std::vector<double>(3)};
    for (std::size_t token = 0; token < layer.chosen.size(); ++token) {
      routing.fraction_argmax[std::size_t(layer.chosen[token])] += 1 / double(layer.chosen.size());
      for (std::size_t k = 0; k < 3; ++k)
        routing.mean_weights[k] +=
            double(layer.mean.span<float>()[3 * token + k]) / double(layer.chosen.size());
    }
    report.routing.push_back(routing);
  }
  return report;
}

void check_close(double got, double expected) {
  CHECK(got == doctest::Approx(expected).epsilon(1e-5));
}

void check_close(const StepReport& got, const StepReport& expected) {
  check_close(got.loss, expected.loss);
  check_close(got.nll, expected.nll);
  CHECK(got.kl.has_value() == expected.kl.has_value());
  if (got.kl) check_close(*got.kl, *expected.kl);
  check_close(got.grad_norm, expected.grad_norm);
  REQUIRE(got.routing.size() == expected.routing.size());
  for (std::size_t layer = 0; layer < got.routing.size(); ++layer) {
    for (std::size_t k = 0; k < 3; ++k) {
      check_close(got.routing[layer].mean_weights[k], expected.routing[layer].mean_weights[k]);
      check_close(got.routing[layer].fraction_argmax[k], expected.routing[layer].fraction_argmax[k]);
    }
  }
}

}  // namespace

TEST_CASE("training step: cut into shares, it is the step of the whole batch") {
  meta::Config config = small_config();
  bool ignore = false;
  SUBCASE("mean over sequences") {}
  SUBCASE("mean over the scored tokens, in unequal numbers and in some shares none") {
    ignore = true;
  }
  SUBCASE("free bits, which look at the whole batch") {
    config.objective.free_bits = 0.1;
  }
  SUBCASE("load balancing, which looks at the whole batch") {
    config.objective.load_balance = 0.5;
  }
  for (const int threads : {1, 2}) {
    const Context context({.threads = threads});
    meta::LanguageModel model(context, config, vocabulary, 1);
    Batch batch = random_batch(config.train);
    for (std::size_t i = 0; ignore && i < batch.targets.size(); ++i) {
      const std::size_t row = i / std::size_t(batch.length);
      if (row < 5 || i % (row + 1) != 0) batch.targets[i] = ignored_target;
    }
    const StepReport expected = on_one_tape(context, model, batch);
    for (const auto& [name, parameter] : model.parameters()) parameter->gradient = Tensor{};
    nn::Adam adam = make_optimiser(context, model);
    TrainingStep step(context, model, adam);
    check_close(step(batch, 0), expected);
  }
}

TEST_CASE("training step: one that follows asks the system for no memory") {
  const meta::Config config = small_config();
  const Context context({.threads = 1});
  meta::LanguageModel model(context, config, vocabulary, 1);
  nn::Adam adam = make_optimiser(context, model);
  TrainingStep step(context, model, adam);
  const Batch batch = random_batch(config.train);
  step(batch, 0);
  step(batch, 1);
  const auto before = context.allocator()->statistics().system_allocations;
  step(batch, 2);
  CHECK(context.allocator()->statistics().system_allocations == before);
}
