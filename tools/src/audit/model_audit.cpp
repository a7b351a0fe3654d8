// The gradient of the whole training objective against finite differences, parameter by parameter, at fixed
// noise.
//
// Fixed noise: dropout masks and Gumbel noise are functions of (seed, step) and stay as they are. A sampled
// Dirichlet route is not a smooth function of its concentrations at fixed random bits (rejection jumps); the
// implicit gradient is that of the draw at a fixed quantile. So the finite differences replay the model with
// every log Gamma draw moved to the quantile u = P(b, e^y) that it had, found by Newton's method on P's power
// series.
//
// The salience feature is detached on purpose: its column in the controllers is set to 0, so that no path is
// left out and every parameter can be compared.
#include <functional>

#include "audit/areas.hpp"
#include "audit/checks.hpp"
#include "audit/small_model.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::tools {
namespace {

using Values = std::vector<double>;

constexpr std::int64_t batch = 2, length = 10;
constexpr double w_kl = 0.7;
constexpr double gradient_bound = 1e-8;  // of |gradient - difference| / (|difference| + 0.01)
constexpr double replay_bound = 1e-12;
constexpr const char* file = "meta_attention/src/objective.cpp";
constexpr const char* section = "5 Objective";

// --- the quantile of a draw --------------------------------------------------------------------------------

// log P(a, x) at x = e^y, P the regularised lower incomplete gamma function:
//   P(a, x) = x^a e^-x / Gamma(a + 1) * (1 + x/(a+1) + x^2/((a+1)(a+2)) + ...)
double log_lower_gamma(double a, double y) {
  const double x = std::exp(y);
  double term = 1, sum = 1;
  for (int n = 1; term > 1e-18 * sum; ++n) sum += term *= x / (a + n);
  return a * y - x - special::lgamma(a + 1) + std::log(sum);
}

// The y at which a Gamma(b) draw has the quantile that y0 has for Gamma(b0). The slope of log P in y is
// x^a e^-x / (Gamma(a) P).
double same_quantile(double b0, double y0, double b) {
  const double target = log_lower_gamma(b0, y0);
  double y = y0;
  for (int i = 0; i < 20; ++i) {
    const double now = log_lower_gamma(b, y);
    const double slope = std::exp(b * y - std::exp(y) - special::lgamma(b) - now);
    const double step = (target - now) / slope;
    y += step;
    if (std::abs(step) < 1e-15 * std::fmax(1.0, std::abs(y))) break;
  }
  return y;
}

// --- a model and its loss as a function of the parameters
// ----------------------------------------------------

class Subject {
 public:
  Subject(const Context& context, const meta::Config& config)
      : context_(context),
        model_(context, config, small_vocabulary, 3, DType::f64),
        text_(small_text(batch * length, 9)),
        targets_(small_text(batch * length, 10)) {
    stir(model_);
    options_.training = true;
    options_.seed = 11;
    options_.step = 3;
    const std::int64_t salience = config.model.d_model;  // after the features of the token
    for (const auto& named : model_.parameters()) {
      if (named.name.find("controller.fc1.weight") == std::string::npos) continue;
      Tensor& weight = named.parameter->value;
      for (std::int64_t row = 0; row < weight.shape()[0]; ++row)
        weight.data<double>()[row * weight.shape()[1] + salience] = 0;
    }
  }

  meta::LanguageModel& model() { return model_; }

  // One training pass, which leaves the gradients in the parameters. Returns the loss.
  double backward() {
    Tape tape(context_);
    const meta::Forward forward = model_(tape, text_, batch, length, options_);
    const meta::Loss loss = objective(forward);
    tape.backward(loss.total);
    if (sampled()) keep_draws(forward);
    return loss.total.value().item();
  }

  // The loss at the present parameters and the noise of backward().
  double loss() {
    if (sampled()) return replayed_loss();
    Tape tape(context_);
    return objective(model_(tape, text_, batch, length, options_)).total.value().item();
  }

 private:
  bool sampled() const {
    const meta::Config& config = model_.config();
    return config.router.kind == meta::RouterKind::bayes &&
           config.train.sampling == meta::Sampling::posterior;
  }

  meta::Loss objective(const meta::Forward& forward) const {
    return meta::objective(model_, forward, targets_, model_.config().objective, w_kl);
  }

  // The draws of the training pass, made again from their random key.
  void keep_draws(const meta::Forward& forward) {
    draws_.clear();
    for (std::uint32_t layer = 0; layer < forward.layers.size(); ++layer) {
      const RandomKey key = random_key(options_.seed, options_.step, Purpose::dirichlet, layer);
      Draws draws{forward.layers[layer].concentration.to_vector(), {}};
      draws.y.resize(draws.concentration.size());
      for (std::size_t row = 0; row < draws.y.size() / meta::expert_count; ++row) {
        PhiloxStream stream(key, std::uint32_t(row));
        double alpha[meta::expert_count];
        const std::size_t at = row * meta::expert_count;
        dirichlet::sample({&draws.concentration[at], meta::expert_count}, stream,
                          {&draws.y[at], meta::expert_count}, alpha);
      }
      draws_.push_back(std::move(draws));
    }
  }

  // alpha at the kept quantiles for these concentrations.
  Tensor moved_draws(const meta::LayerRouting& routing, std::size_t layer) const {
    const Draws& draws = draws_[layer];
    const Values b = routing.concentration.to_vector();
    Values alpha;
    for (std::size_t row = 0; row < b.size(); row += meta::expert_count) {
      double y[meta::expert_count], total = 0, largest = -HUGE_VAL;
      for (std::size_t k = 0; k < meta::expert_count; ++k) {
        y[k] = same_quantile(draws.concentration[row + k], draws.y[row + k], b[row + k]);
        largest = std::fmax(largest, y[k]);
      }
      for (const double value : y) total += std::exp(value - largest);
      for (const double value : y) alpha.push_back(std::exp(value - largest) / total);
    }
    return Tensor::from<double>(context_, routing.concentration.shape(), alpha);
  }

  // Evaluation with the routing weights replaced by the moved draws. A layer's concentrations depend on the
  // weights of the layers before it: each pass settles one more layer.
  double replayed_loss() {
    std::vector<Tensor> weights;
    for (const Draws& draws : draws_) {
      const auto rows = std::int64_t(draws.y.size()) / meta::expert_count;
      weights.push_back(
          Tensor::full(context_, {rows, meta::expert_count}, 1.0 / meta::expert_count, DType::f64));
    }
    meta::ForwardOptions options;
    options.replaced_means = weights;
    double loss = 0;
    for (std::size_t settled = 0; settled <= weights.size(); ++settled) {
      Tape tape(context_, Tape::Mode::inference);
      const meta::Forward forward = model_(tape, text_, batch, length, options);
      if (settled < weights.size()) weights[settled] = moved_draws(forward.layers[settled], settled);
      if (settled == weights.size()) loss = objective(forward).total.value().item();
    }
    return loss;
  }

  struct Draws {
    Values concentration, y;  // b and log g, rows of K
  };

  const Context& context_;
  meta::LanguageModel model_;
  std::vector<std::int32_t> text_, targets_;
  meta::ForwardOptions options_;
  std::vector<Draws> draws_;  // per layer
};

// --- finite differences
// --------------------------------------------------------------------------------------

// d loss / d parameter along `direction`, by a fourth-order central difference.
double difference(Subject& subject, std::span<double> parameter, const Values& direction, double h) {
  const Values at(parameter.begin(), parameter.end());
  const auto loss_at = [&](double step) {
    for (std::size_t i = 0; i < at.size(); ++i) parameter[i] = at[i] + step * direction[i];
    const double loss = subject.loss();
    std::copy(at.begin(), at.end(), parameter.begin());
    return loss;
  };
  return (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
}

// The worst error of one parameter tensor: along a random direction, which touches all elements, and in three
// of them.
double parameter_error(Subject& subject, const nn::NamedParameter& named, std::uint32_t site) {
  if (!named.parameter->gradient.defined()) return HUGE_VAL;
  const auto gradient = named.parameter->gradient.span<double>();
  const std::size_t size = gradient.size();
  std::vector<Values> directions(1);
  PhiloxStream stream(random_key(6, 0, Purpose::test, site), 0);
  for (std::size_t i = 0; i < size; ++i) directions[0].push_back(stream.normal() / std::sqrt(double(size)));
  for (const std::size_t element : {std::size_t(0), size / 2, size - 1}) {
    directions.emplace_back(size, 0.0);
    directions.back()[element] = 1;
  }
  Worst worst;
  for (const Values& direction : directions) {
    double slope = 0;
    for (std::size_t i = 0; i < size; ++i) slope += gradient[i] * direction[i];
    // ELU has a kink in its second derivative: where one lies within a step, the shorter step misses it.
    double least = HUGE_VAL;
    for (const double h : {1e-3, 1e-4}) {
      const double expected = difference(subject, named.parameter->value.span<double>(), direction, h);
      least = std::fmin(least, std::abs(slope - expected) / (std::abs(expected) + 0.01));
    }
    worst.see(least);
  }
  return worst.value();
}

std::vector<std::pair<std::string, double>> parameter_errors(Subject& subject) {
  std::vector<std::pair<std::string, double>> errors;
  std::uint32_t site = 0;
  for (const auto& named : subject.model().parameters())
    errors.emplace_back(named.name, parameter_error(subject, named, site++));
  return errors;
}

meta::Config sampled_config(meta::Projections projections) {
  meta::Config config = small_model_config(projections, meta::RouterKind::bayes);
  config.train.sampling = meta::Sampling::posterior;
  return config;
}

// Deterministic weights, with dropout everywhere and the terms of the objective that need no Dirichlet.
meta::Config smooth_config(meta::Projections projections, meta::RouterKind kind) {
  meta::Config config = small_model_config(projections, kind);
  config.train.sampling = meta::Sampling::mean;
  config.train.dropout = 0.1;
  config.train.dropout_sites = meta::DropoutSites::all;
  if (kind == meta::RouterKind::softmax || kind == meta::RouterKind::gumbel) {
    config.objective.cost_lambda = 0.3;
    config.objective.entropy_bonus = 0.2;
    config.objective.load_balance = 0.1;
  }
  return config;
}

const char* name_of(meta::Projections projections) {
  return projections == meta::Projections::shared ? "shared projections" : "per-expert projections";
}

const std::string difference_how =
    "fourth-order central difference, h = 1e-3 or 1e-4, along a random direction and in 3 elements; relative "
    "to |.| "
    "+ 0.01";

std::vector<Claim> sampled_claims(const Context& context, meta::Projections projections,
                                  const std::string& task) {
  Subject subject(context, sampled_config(projections));
  const double trained = subject.backward();
  std::vector<Claim> claims{{task + ": replayed at the same quantiles, the loss is that of training",
                             "|difference|, every draw found again by its quantile",
                             std::abs(trained - subject.loss()), replay_bound, file, section}};
  for (const auto& [name, error] : parameter_errors(subject)) {
    claims.push_back({task + ": gradient of " + name, "draws at fixed quantiles; " + difference_how, error,
                      gradient_bound, file, section});
  }
  return claims;
}

AuditTask sampled_task(const std::string& name, meta::Projections projections) {
  return {name, [=](const Context& context) { return sampled_claims(context, projections, name); }};
}

struct Router {
  const char* name;
  meta::RouterKind kind;
};

std::vector<Claim> smooth_claims(const Context& context, const Router& router) {
  std::vector<Claim> claims;
  for (const auto projections : {meta::Projections::shared, meta::Projections::per_expert}) {
    Subject subject(context, smooth_config(projections, router.kind));
    subject.backward();
    Worst worst;
    std::size_t count = 0;
    for (const auto& [name, error] : parameter_errors(subject)) {
      worst.see(error);
      ++count;
    }
    claims.push_back(
        {std::string("model/") + router.name + ": gradient of all parameters, " + name_of(projections),
         std::to_string(count) + " tensors, fixed dropout; " + difference_how, worst.value(), gradient_bound,
         file, section});
  }
  return claims;
}

}  // namespace

std::vector<AuditTask> model_audit() {
  std::vector<AuditTask> tasks{sampled_task("model/objective", meta::Projections::shared),
                               sampled_task("model/objective_per_expert", meta::Projections::per_expert)};
  for (const Router router :
       {Router{"bayes_mean", meta::RouterKind::bayes}, Router{"softmax", meta::RouterKind::softmax},
        Router{"gumbel", meta::RouterKind::gumbel}, Router{"prior_mixture", meta::RouterKind::prior_mixture},
        Router{"static", meta::RouterKind::static_expert}}) {
    tasks.push_back({std::string("model/") + router.name,
                     [router](const Context& context) { return smooth_claims(context, router); }});
  }
  return tasks;
}

}  // namespace dirigo::tools
