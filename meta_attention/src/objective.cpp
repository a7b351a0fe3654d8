// Derivation: docs/mathematics/elbo.md
#include "dirigo/meta_attention/objective.hpp"

#include "dirigo/autograd/ops.hpp"

namespace dirigo::meta {

namespace {

// K values as a constant row (1, K), times `factor`.
Variable row_of(const Variable& like, std::span<const double> values, double factor) {
  Tensor row = Tensor::empty(like.context(), Shape{1, std::int64_t(values.size())}, like.dtype());
  visit_dtype(like.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = row.data<T>();
    for (const double value : values) *out++ = T(factor * value);
  });
  return like.tape().constant(row);
}

// K sum_k f_k P_k: f_k the fraction of tokens whose largest weight is k (constant), P_k the mean weight
// (Fedus, Zoph, Shazeer 2021, equation 4).
Variable load_balance(const LayerRouting& layer) {
  std::vector<double> fraction(expert_count, 0.0);
  for (const std::int32_t k : layer.chosen) fraction[std::size_t(k)] += 1.0 / double(layer.chosen.size());
  const Variable mean = ops::reshape(ops::mean(layer.mean_variable, 0), Shape{1, expert_count});
  return ops::sum(ops::multiply(mean, row_of(mean, fraction, expert_count)));
}

}  // namespace

bool is_mean_over_sequences(const ObjectiveConfig& objective) {
  return objective.free_bits == 0 && objective.load_balance == 0;
}

Loss objective(const LanguageModel& model, const Forward& forward, std::span<const std::int32_t> targets,
               const ObjectiveConfig& objective, double w_kl) {
  Loss loss;
  loss.total = ops::cross_entropy(forward.logits, targets);
  loss.nll = loss.total.value().item();
  const auto add = [&](const Variable& term, double weight) {
    loss.total = ops::add(loss.total, ops::scale(term, weight));
  };
  for (std::size_t l = 0; l < forward.layers.size(); ++l) {
    const LayerRouting& layer = forward.layers[l];
    if (layer.concentration_variable.defined()) {
      const Variable kl = ops::mean(ops::dirichlet_kl(layer.concentration_variable, model.prior(l)));
      loss.kl.push_back(kl.value().item());
      // max(free_bits, KL): below the allowance the KL is a constant, without gradient.
      if (w_kl > 0 && loss.kl.back() > objective.free_bits) add(kl, w_kl);
    }
    if (!layer.mean_variable.defined()) continue;
    const double rows = double(layer.mean.shape()[0]);
    if (objective.cost_lambda > 0) {
      add(ops::sum(ops::multiply(layer.mean_variable, row_of(layer.mean_variable, model.costs(), 1 / rows))),
          objective.cost_lambda);
    }
    if (objective.entropy_bonus > 0)
      add(ops::mean(ops::categorical_entropy(layer.mean_variable)), -objective.entropy_bonus);
    if (objective.load_balance > 0) add(load_balance(layer), objective.load_balance);
  }
  return loss;
}

}  // namespace dirigo::meta
