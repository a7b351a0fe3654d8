#include "training_step.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/objective.hpp"

namespace dirigo::tools {
namespace {

bool all_finite(const Tensor& tensor) {
  if (!tensor.defined()) return true;
  const auto values = tensor.span<float>();
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// Where the first values that are not finite are: parameters, then the forward pass in its order, then
// gradients.
std::string locate_non_finite(meta::LanguageModel& model, const meta::Forward& forward) {
  const auto parameters = model.parameters();
  for (const auto& [name, parameter] : parameters) {
    if (!all_finite(parameter->value)) return "parameter " + name;
  }
  for (std::size_t layer = 0; layer < forward.layers.size(); ++layer) {
    const meta::LayerRouting& routing = forward.layers[layer];
    if (!all_finite(routing.mean) || !all_finite(routing.concentration))
      return fmt::format("routing of layer {}", layer);
  }
  if (!all_finite(forward.logits.value())) {
    return fmt::format("logits (after layer {})", forward.layers.size() - 1);
  }
  // Backward runs from the output to the input: the last parameter is reached first.
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    if (!all_finite(it->parameter->gradient)) return "gradient of " + it->name;
  }
  return "loss";
}

StepReport::Routing routing_of(const meta::LayerRouting& layer) {
  StepReport::Routing routing{std::vector<double>(meta::expert_count),
                              std::vector<double>(meta::expert_count)};
  const auto mean = layer.mean.span<float>();
  const double share = 1.0 / static_cast<double>(layer.chosen.size());
  for (std::size_t i = 0; i < mean.size(); ++i)
    routing.mean_weights[i % meta::expert_count] += share * double(mean[i]);
  for (const std::int32_t expert : layer.chosen)
    routing.fraction_argmax[static_cast<std::size_t>(expert)] += share;
  return routing;
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
    : context_(context), model_(model), adam_(adam) {}

meta::ForwardOptions TrainingStep::forward_options(std::int64_t step) const {
  const meta::TrainConfig& train = model_.config().train;
  meta::ForwardOptions options;
  options.training = true;
  const auto in_last = [&](double fraction) {
    return fraction > 0 && static_cast<double>(step) >= static_cast<double>(train.steps) * (1 - fraction);
  };
  options.straight_through = in_last(train.straight_through);
  options.hard_routed = in_last(train.hard_routed);
  options.seed = static_cast<std::uint64_t>(train.seed);
  options.step = static_cast<std::uint32_t>(step);
  return options;
}

StepReport TrainingStep::operator()(const Batch& batch, std::int64_t step) {
  const meta::Config& config = model_.config();
  StepReport report;
  report.step = step + 1;
  report.lr = config.train.lr.at(step, config.train.steps);
  report.w_kl = config.objective.w_kl.at(step, config.train.steps);

  const auto finished = [this](StepObserver::Part part) {
    if (observer_ != nullptr) observer_->finished(part);
  };
  model_.hold_controllers(step < config.router.warmup);
  Tape tape(context_, Tape::Mode::training);
  tape.observe(observer_);
  const meta::Forward forward = model_(tape, batch.inputs, batch.rows, batch.length, forward_options(step));
  const meta::Loss loss = meta::objective(model_, forward, batch.targets, config.objective, report.w_kl);
  const auto check = [&](const char* what, double value) {
    if (std::isfinite(value)) return;
    throw NumericError(fmt::format("[train] {} at step {}: expected a finite number, got {} (first in: {})",
                                   what, report.step, value, locate_non_finite(model_, forward)));
  };
  report.loss = loss.total.value().item();
  check("loss", report.loss);
  finished(StepObserver::Part::forward);
  tape.backward(loss.total);
  finished(StepObserver::Part::backward);
  report.grad_norm = adam_.gradient_norm();
  check("gradient norm", report.grad_norm);
  adam_.step(report.lr, nn::clip_factor(report.grad_norm, config.train.clip));
  finished(StepObserver::Part::optimiser);

  report.nll = loss.nll;
  if (!loss.kl.empty()) {
    double sum = 0;
    for (const double kl : loss.kl) sum += kl;
    report.kl = sum / static_cast<double>(loss.kl.size());
  }
  for (const meta::LayerRouting& layer : forward.layers) report.routing.push_back(routing_of(layer));
  return report;
}

}  // namespace dirigo::tools
