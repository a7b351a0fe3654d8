// L = 1/N sum_i (log sum_v e^x_iv - x_i,target[i]): the mean negative log likelihood under softmax(x), over
// the N rows i that have a target.
// d log-sum-exp / dx_v = softmax(x)_v, so  dx_iv = dL/N (softmax(x_i)_v - [v = target_i]), 0 in other rows.
// That difference is computed in the forward pass, while the row is in cache, and kept.
// Derivation: docs/mathematics/cross-entropy.md
#include <numeric>

#include "dirigo/core/ignored_target.hpp"
#include "support.hpp"

namespace dirigo::ops {
namespace {

Values reference(const Tensor& logits, const std::vector<std::int32_t>& targets) {
  const std::int64_t rows = logits.shape()[0], cols = logits.shape()[1];
  double total = 0, scored = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    if (targets[std::size_t(i)] == ignored_target) continue;
    scored += 1;
    double sum = 0;
    const double at_target = logits.at({i, targets[std::size_t(i)]});
    for (std::int64_t j = 0; j < cols; ++j) sum += std::exp(logits.at({i, j}) - at_target);
    total += std::log(sum);
  }
  return {total / scored};
}

// How many there are beside those that are ignored.
double check_targets(std::span<const std::int32_t> targets, std::int64_t classes) {
  double scored = 0;
  for (const std::int32_t target : targets) {
    if (target == ignored_target) continue;
    require_indices("cross_entropy", {&target, 1}, classes);
    scored += 1;
  }
  return scored;
}

}  // namespace

Variable cross_entropy(const Variable& logits, std::span<const std::int32_t> targets,
                       std::optional<double> tokens) {
  const Context& context = logits.context();
  require_rank("cross_entropy", "logits", logits.shape(), 2, "(N, V)");
  const std::int64_t rows = logits.shape()[0], cols = logits.shape()[1];
  if (rows == 0) throw_value("cross_entropy", "logits", "at least one row", "none");
  if (std::int64_t(targets.size()) != rows) {
    throw_shape("cross_entropy", "logits", "(" + std::to_string(targets.size()) + ", V)", logits.shape());
  }
  const double divisor = tokens.value_or(check_targets(targets, cols));
  if (!(divisor > 0)) throw_value("cross_entropy", "tokens", "more than 0", std::to_string(divisor));
  const Tensor in = row_major(logits);
  const bool wants_gradient = logits.requires_gradient();
  Tensor difference = wants_gradient ? Tensor::empty(context, logits.shape(), logits.dtype()) : Tensor();
  Tensor y = Tensor::empty(context, {}, logits.dtype());
  visit_dtype(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Scratch<T> losses(*context.allocator(), std::size_t(rows));
    const T* from = in.data<T>();
    T* to = wants_gradient ? difference.data<T>() : nullptr;
    context.parallel_for<T>(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      context.kernels<T>().cross_entropy(end - begin, cols, from + begin * cols, targets.data() + begin,
                                         losses.data() + begin, to != nullptr ? to + begin * cols : nullptr);
    });
    *y.data<T>() = T(std::accumulate(losses.data(), losses.data() + rows, 0.0) / divisor);
  });
  return logits.tape().record("cross_entropy", {logits}, y, [difference, divisor](Backward& pass) {
    const double factor = pass.gradient().item() / divisor;
    pass.add(0, map(pass.context(), difference,
                    [factor](const auto& kernels, std::int64_t n, const auto* from, auto* to) {
                      kernels.scale(n, std::remove_pointer_t<decltype(to)>(factor), from, to);
                    }));
  });
}

std::vector<OpCase> cross_entropy_cases(const Context& context) {
  const auto make = [](const char* name, Tensor logits, std::vector<std::int32_t> targets) {
    return OpCase{.name = name,
                  .inputs = {std::move(logits)},
                  .op = [targets](Tape&, Variables v) { return cross_entropy(v[0], targets); },
                  .reference = [targets](Tensors v) { return reference(v[0], targets); }};
  };
  // With two classes the loss is softplus(other logit - target's logit).
  OpCase binary = make("two classes, composed", uniform(context, {3, 2}, 1), {1, 0, 1});
  binary.composed = [](Tape& tape, Variables v) {
    const Variable sign = tape.constant(tensor(tape.context(), {3, 2}, {1, -1, -1, 1, 1, -1}));
    return mean(softplus(sum(multiply(v[0], sign), 1)));
  };
  // Half of these rows: the other half's mean is missing.
  OpCase part = make("part of the tokens", uniform(context, {3, 4}, 6), {2, ignored_target, 1});
  part.op = [](Tape&, Variables v) {
    return cross_entropy(v[0], std::vector<std::int32_t>{2, ignored_target, 1}, 4.0);
  };
  part.reference = [](Tensors v) { return Values{reference(v[0], {2, ignored_target, 1})[0] / 2}; };
  return {
      make("matrix", uniform(context, {4, 7}, 2), {6, 0, 3, 3}),
      make("long rows", uniform(context, {2, 41}, 3, -6, 6), {40, 5}),
      make("large logits", tensor(context, {2, 3}, {500, 498, -500, -500, -499, 3}), {0, 2}),
      make("strided view", uniform(context, {3, 4}, 4).transpose(0, 1), {2, 1, 0, 2}),
      make("one class", uniform(context, {2, 1}, 5), {0, 0}),
      make("ignored targets", uniform(context, {5, 7}, 7),
           {ignored_target, 3, ignored_target, ignored_target, 0}),
      part,
      binary,
  };
}

}  // namespace dirigo::ops
