// y = the one-hot row at the largest weight. Its derivative is 0 almost everywhere, so the backward pass
// takes that of w instead (straight-through, Bengio, Leonard, Courville 2013): y = onehot + w -
// stop_gradient(w), dw = dy. Ties go to the lowest cost, then to the lowest index. Rows that are to stay soft
// are y = w, whose derivative is the same.
// Derivation: docs/mathematics/straight-through.md
#include "support.hpp"

namespace dirigo::ops {
namespace {

template <class T>
std::int64_t choose(std::int64_t cols, const T* weights, std::span<const double> costs) {
  std::int64_t best = 0;
  for (std::int64_t k = 1; k < cols; ++k) {
    const bool cheaper = !costs.empty() && costs[std::size_t(k)] < costs[std::size_t(best)];
    if (weights[k] > weights[best] || (weights[k] == weights[best] && cheaper)) best = k;
  }
  return best;
}

// Sorts the entries of each row: largest weight, then lowest cost, then lowest index.
Values reference(const Tensor& weights, const Values& costs, const std::vector<std::uint8_t>& hard) {
  const std::int64_t rows = weights.shape()[0], cols = weights.shape()[1];
  Values y(std::size_t(rows * cols));
  for (std::int64_t i = 0; i < rows; ++i) {
    if (!hard.empty() && hard[std::size_t(i)] == 0) {
      for (std::int64_t k = 0; k < cols; ++k) y[std::size_t(i * cols + k)] = weights.at({i, k});
      continue;
    }
    std::vector<std::array<double, 3>> order;
    for (std::int64_t k = 0; k < cols; ++k) {
      order.push_back({-weights.at({i, k}), costs.empty() ? 0.0 : costs[std::size_t(k)], double(k)});
    }
    y[std::size_t(i * cols) + std::size_t((*std::min_element(order.begin(), order.end()))[2])] = 1;
  }
  return y;
}

}  // namespace

Variable one_hot_straight_through(const Variable& weights, std::span<const double> costs,
                                  std::span<const std::uint8_t> hard) {
  const auto [rows, cols] = rows_of("one_hot_straight_through", weights.shape());
  if (cols == 0) throw_shape("one_hot_straight_through", "weights", "at least one column", weights.shape());
  if (!costs.empty() && std::int64_t(costs.size()) != cols) {
    throw_value("one_hot_straight_through", "costs", std::to_string(cols) + " values",
                std::to_string(costs.size()));
  }
  if (!hard.empty() && std::int64_t(hard.size()) != rows) {
    throw_value("one_hot_straight_through", "hard", std::to_string(rows) + " values",
                std::to_string(hard.size()));
  }
  const Tensor in = row_major(weights);
  Tensor y = Tensor::zeros(weights.context(), weights.shape(), weights.dtype());
  visit_dtype(in.dtype(), [&, row_count = rows, n = cols](auto zero) {
    using T = decltype(zero);
    const T* from = in.data<T>();
    T* to = y.data<T>();
    for (std::int64_t i = 0; i < row_count; ++i) {
      if (hard.empty() || hard[std::size_t(i)] != 0) {
        to[i * n + choose(n, from + i * n, costs)] = 1;
      } else {
        std::copy_n(from + i * n, n, to + i * n);
      }
    }
  });
  return weights.tape().record("one_hot_straight_through", {weights}, y,
                               [](Backward& pass) { pass.add(0, pass.gradient()); });
}

std::vector<OpCase> one_hot_straight_through_cases(const Context& context) {
  const auto make = [](const char* name, Tensor weights, Values costs, std::vector<std::uint8_t> hard = {}) {
    return OpCase{
        .name = name,
        .inputs = {std::move(weights)},
        .op = [costs, hard](Tape&, Variables v) { return one_hot_straight_through(v[0], costs, hard); },
        .reference = [costs, hard](Tensors v) { return reference(v[0], costs, hard); },
        .reference_vjp = [](Tensors, const Tensor& dy) { return std::vector<Tensor>{dy}; }};
  };
  return {
      make("no costs", uniform(context, {5, 3}, 1, 0, 1), {}),
      make("ties by cost", tensor(context, {4, 3}, {.4, .4, .2, .2, .4, .4, .3, .3, .3, .5, .1, .4}),
           {1, .15, .3}),
      make("ties by index", tensor(context, {3, 3}, {.4, .4, .2, .2, .4, .4, .3, .3, .3}), {}),
      make("equal costs", tensor(context, {2, 3}, {.2, .4, .4, .3, .3, .3}), {.5, .5, .5}),
      make("strided view", uniform(context, {3, 4}, 2, 0, 1).transpose(0, 1), {1, .5, 0}),
      make("some rows stay soft", uniform(context, {5, 3}, 4, 0, 1), {1, .15, .3}, {1, 0, 0, 1, 0}),
      make("zero rows", uniform(context, {0, 3}, 3), {}),
  };
}

}  // namespace dirigo::ops
