#include "training_step.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <span>
#include <string>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/ignored_target.hpp"
#include "dirigo/meta_attention/empirical_bayes.hpp"
#include "dirigo/meta_attention/objective.hpp"

namespace dirigo::tools {
namespace {

bool all_finite(const Tensor& tensor) {
  if (!tensor.defined()) return true;
  const auto values = tensor.span<float>();
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// Where the first values that are not finite are: parameters, then the forward pass in its order (null: not
// at hand), then gradients.
std::string locate_non_finite(meta::LanguageModel& model, const meta::Forward* forward) {
  const auto parameters = model.parameters();
  for (const auto& [name, parameter] : parameters) {
    if (!all_finite(parameter->value)) return "parameter " + name;
  }
  for (std::size_t layer = 0; forward != nullptr && layer < forward->layers.size(); ++layer) {
    const meta::LayerRouting& routing = forward->layers[layer];
    if (!all_finite(routing.mean) || !all_finite(routing.concentration))
      return fmt::format("routing of layer {}", layer);
  }
  if (forward != nullptr && !all_finite(forward->logits.value()))
    return fmt::format("logits (after layer {})", forward->layers.size() - 1);
  // Backward runs from the output to the input: the last parameter is reached first.
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    if (!all_finite(it->parameter->gradient)) return "gradient of " + it->name;
  }
  return "loss";
}

void require_finite(const char* what, double value, std::int64_t step, meta::LanguageModel& model,
                    const meta::Forward* forward) {
  if (std::isfinite(value)) return;
  throw NumericError(fmt::format("[train] {} at step {}: expected a finite number, got {} (first in: {})",
                                 what, step, value, locate_non_finite(model, forward)));
}

void add(const std::vector<double>& from, std::vector<double>& to) {
  to.resize(from.size());
  std::transform(from.begin(), from.end(), to.begin(), to.begin(), std::plus<>());
}

// Adds `weight` times the routing of these tokens.
void add_routing(const meta::LayerRouting& layer, double weight, StepReport::Routing& sum) {
  const auto mean = layer.mean.span<float>();
  const double share = weight / static_cast<double>(layer.chosen.size());
  sum.mean_weights.resize(meta::expert_count);
  sum.fraction_argmax.resize(meta::expert_count);
  for (std::size_t i = 0; i < mean.size(); ++i)
    sum.mean_weights[i % meta::expert_count] += share * double(mean[i]);
  for (const std::int32_t expert : layer.chosen)
    sum.fraction_argmax[static_cast<std::size_t>(expert)] += share;
  for (std::size_t i = 0; i < mean.size(); i += meta::expert_count) {
    const std::array<double, meta::expert_count> m{double(mean[i]), double(mean[i + 1]), double(mean[i + 2])};
    sum.entropy += share * dirichlet::categorical_entropy(m) / std::log(double(meta::expert_count));
  }
  sum.one_hot += share * static_cast<double>(layer.one_hot);
}

// Adds what a part of the batch measured; parts come weighted.
void add_part(const StepReport& part, StepReport& sum) {
  sum.loss += part.loss;
  sum.nll += part.nll;
  if (part.kl) sum.kl = sum.kl.value_or(0) + *part.kl;
  sum.routing.resize(part.routing.size());
  for (std::size_t layer = 0; layer < part.routing.size(); ++layer) {
    const StepReport::Routing& from = part.routing[layer];
    StepReport::Routing& to = sum.routing[layer];
    add(from.mean_weights, to.mean_weights);
    add(from.fraction_argmax, to.fraction_argmax);
    add(from.mean_log, to.mean_log);
    to.entropy += from.entropy;
    to.one_hot += from.one_hot;
  }
}

// A share writes gradients of its own, which must be little beside its work: so many tokens are worth one.
// Even small batches are cut for the threads of a small machine.
constexpr std::int64_t tokens_per_share = 512, least_shares = 4, most_shares = 8;
// A tape takes this many tokens at once, or one sequence: what it keeps should stay in a second-level cache.
constexpr std::int64_t tokens_per_part = 256;

std::int64_t share_count(const Batch& batch, const meta::ObjectiveConfig& objective) {
  if (!meta::is_mean_over_sequences(objective)) return 1;
  const std::int64_t wanted = batch.rows * batch.length / tokens_per_share;
  return std::min(batch.rows, std::clamp(wanted, least_shares, most_shares));
}

// Whether to give each thread shares of its own, rather than run them one after another with all threads in
// every operation: not if the last round would leave many threads idle. Does not change the result.
bool worth_a_thread_each(std::int64_t shares, std::int64_t threads) {
  const std::int64_t rounds = (shares + threads - 1) / threads;
  return shares > 1 && 4 * shares >= 3 * rounds * threads;
}

}  // namespace

nn::Adam make_optimiser(const Context& context, meta::LanguageModel& model) {
  const meta::TrainConfig& train = model.config().train;
  nn::AdamOptions options;
  options.beta2 = train.beta2;
  if (train.optimiser == meta::Optimiser::adamw) options.weight_decay = train.weight_decay;
  return nn::Adam(context, model.parameters(), options);
}

TrainingStep::TrainingStep(const Context& context, meta::LanguageModel& model, nn::Adam& adam)
    : context_(context), model_(model), adam_(adam), shares_(model.parameters(), most_shares) {}

meta::ForwardOptions TrainingStep::forward_options(std::int64_t step) const {
  const meta::TrainConfig& train = model_.config().train;
  meta::ForwardOptions options;
  options.training = true;
  const auto in_last = [&](double fraction) {
    return fraction > 0 && static_cast<double>(step) >= static_cast<double>(train.steps) * (1 - fraction);
  };
  using Rule = meta::StraightThrough::Rule;
  const Rule rule = train.straight_through.rule;
  options.straight_through = rule == Rule::automatic
                                 ? entropy_drop_.switched_at >= 0 && step >= entropy_drop_.switched_at
                                 : in_last(train.straight_through.fraction);
  options.gated_straight_through = rule == Rule::gated;
  options.gate = train.gate;
  options.eta = train.eta.value_or(meta::default_eta(train.gate));
  options.hard_routed = in_last(train.hard_routed);
  options.seed = static_cast<std::uint64_t>(train.seed);
  options.step = static_cast<std::uint32_t>(step);
  return options;
}

// Derivation: docs/mathematics/empirical-bayes.md
// While the controllers wait their posteriors say nothing yet.
bool TrainingStep::estimates_priors(std::int64_t step) const {
  const meta::RouterConfig& router = model_.config().router;
  return router.empirical_bayes && step >= router.warmup && (step + 1) % router.empirical_bayes_every == 0;
}

void TrainingStep::adapt(std::int64_t step, StepReport& report) {
  const meta::Config& config = model_.config();
  if (estimates_priors(step)) {
    std::vector<std::vector<double>> mean_log;
    for (const StepReport::Routing& layer : report.routing) mean_log.push_back(layer.mean_log);
    meta::estimate_priors(model_, mean_log);
  }
  for (std::size_t l = 0; config.router.empirical_bayes && l < report.routing.size(); ++l) {
    const auto prior = model_.prior(l);
    report.priors.emplace_back(prior.begin(), prior.end());
  }
  const meta::TrainConfig& train = config.train;
  if (train.straight_through.rule != meta::StraightThrough::Rule::automatic || step < config.router.warmup)
    return;
  const nn::EntropyDrop rule{train.auto_drop, train.auto_hold, train.steps * 4 / 5};
  std::vector<double> entropy;
  for (const StepReport::Routing& layer : report.routing) entropy.push_back(layer.entropy);
  report.switched = rule.observe(entropy_drop_, step, entropy);
}

void TrainingStep::finished(StepObserver::Part part) const {
  if (observer_ != nullptr) observer_->finished(part);
}

void TrainingStep::run_part(const Batch& batch, std::int64_t begin, std::int64_t end, const Outlets& outlets,
                            StepReport& report) {
  const std::span inputs(batch.inputs), targets(batch.targets);
  const auto first = static_cast<std::size_t>(begin * batch.length),
             count = static_cast<std::size_t>((end - begin) * batch.length);
  const double weight = static_cast<double>(end - begin) / static_cast<double>(batch.rows);
  meta::ForwardOptions options = forward_options(report.step - 1);
  options.first_row = begin * batch.length;

  Tape tape(context_, Tape::Mode::training);
  tape.redirect(outlets.sinks);
  tape.use(outlets.weights);
  tape.observe(observer_);
  const meta::Forward forward =
      model_(tape, inputs.subspan(first, count), end - begin, batch.length, options);
  const meta::Loss loss =
      meta::objective(model_, forward, targets.subspan(first, count), model_.config().objective, report.w_kl,
                      outlets.tokens_per_sequence * static_cast<double>(end - begin));
  const double total = loss.total.value().item();
  require_finite("loss", total, report.step, model_, &forward);
  finished(StepObserver::Part::forward);
  tape.backward(loss.total, Tensor::full(context_, loss.total.shape(), weight));
  finished(StepObserver::Part::backward);

  report.loss += weight * total;
  report.nll += weight * loss.nll;
  for (const double kl : loss.kl)
    report.kl = report.kl.value_or(0) + weight * kl / static_cast<double>(loss.kl.size());
  report.routing.resize(forward.layers.size());
  for (std::size_t layer = 0; layer < forward.layers.size(); ++layer)
    add_routing(forward.layers[layer], weight, report.routing[layer]);
  for (std::size_t l = 0; estimates_priors(report.step - 1) && l < forward.layers.size(); ++l) {
    std::vector<double> mean_log = meta::mean_log_weights(context_, forward.layers[l]);
    for (double& value : mean_log) value *= weight;
    add(mean_log, report.routing[l].mean_log);
  }
}

StepReport TrainingStep::run_share(const Batch& batch, std::int64_t begin, std::int64_t end,
                                   const StepReport& step, const Outlets& outlets) {
  StepReport report;
  report.step = step.step;
  report.w_kl = step.w_kl;
  // An objective that is no mean over sequences needs the whole share, which is the batch, on one tape.
  const std::int64_t part =
      outlets.sinks != nullptr ? std::max<std::int64_t>(1, tokens_per_part / batch.length) : end - begin;
  for (std::int64_t at = begin; at < end; at += part)
    run_part(batch, at, std::min(at + part, end), outlets, report);
  return report;
}

std::vector<StepReport> TrainingStep::run_shares(const Batch& batch, std::int64_t count,
                                                 const StepReport& step) {
  std::vector<StepReport> parts(static_cast<std::size_t>(count));
  const auto scored =
      static_cast<double>(batch.targets.size()) -
      static_cast<double>(std::count(batch.targets.begin(), batch.targets.end(), ignored_target));
  PackedWeights weights;
  shares_.clear();  // an earlier step may have thrown
  const auto run = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const auto share = static_cast<std::size_t>(i);
      const Outlets outlets{count > 1 ? &shares_.sinks(share) : nullptr, &weights,
                            scored / static_cast<double>(batch.rows)};
      parts[share] = run_share(batch, i * batch.rows / count, (i + 1) * batch.rows / count, step, outlets);
    }
  };
  if (observer_ == nullptr && worth_a_thread_each(count, context_.free_threads())) {
    context_.parallel_for<float>(count, 1, run);
  } else {
    run(0, count);
  }
  return parts;
}

StepReport TrainingStep::operator()(const Batch& batch, std::int64_t step) {
  const meta::Config& config = model_.config();
  StepReport report;
  report.step = step + 1;
  report.lr = config.train.lr.at(step, config.train.steps);
  report.w_kl = config.objective.w_kl.at(step, config.train.steps);
  model_.hold_controllers(step < config.router.warmup);

  const std::int64_t count = share_count(batch, config.objective);
  const std::vector<StepReport> parts = run_shares(batch, count, report);
  for (const StepReport& part : parts) add_part(part, report);
  if (count > 1) shares_.add_up(context_);
  report.grad_norm = adam_.gradient_norm();
  require_finite("gradient norm", report.grad_norm, report.step, model_, nullptr);
  adam_.step(report.lr, nn::clip_factor(report.grad_norm, config.train.clip));
  finished(StepObserver::Part::optimiser);
  adapt(step, report);
  return report;
}

}  // namespace dirigo::tools
