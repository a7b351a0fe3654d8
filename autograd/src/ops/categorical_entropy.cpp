// H_i = -sum_k w_ik log w_ik with 0 log 0 = 0, for rows of probabilities: dw_ik = -dH_i (log w_ik + 1).
// At w = 0 the derivative is infinite; there log w is replaced by that of the least normal number.
#include <limits>

#include "support.hpp"

namespace dirigo::ops {
namespace {

Values reference(Tensors v) {
  const std::int64_t cols = v[0].shape()[1];
  const Values w = v[0].to_vector();
  Values y(std::size_t(v[0].shape()[0]));
  for (std::size_t i = 0; i < w.size(); ++i) {
    if (w[i] > 0) y[i / std::size_t(cols)] -= w[i] * std::log(w[i]);
  }
  return y;
}

}  // namespace

Variable categorical_entropy(const Variable& weights) {
  require_rank("categorical_entropy", "weights", weights.shape(), 2, "(N, K)");
  const std::int64_t rows = weights.shape()[0], cols = weights.shape()[1];
  const Tensor in = row_major(weights);
  Tensor y = Tensor::empty(weights.context(), {rows}, weights.dtype());
  visit_dtype(in.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* w = in.data<T>();
    T* to = y.data<T>();
    weights.context().parallel_for<T>(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        double entropy = 0;
        for (std::int64_t k = 0; k < cols; ++k) {
          const auto p = double(w[i * cols + k]);
          if (p != 0) entropy -= p * std::log(p);
        }
        to[i] = T(entropy);
      }
    });
  });
  return weights.tape().record("categorical_entropy", {weights}, y, [in, rows, cols](Backward& pass) {
    Tensor dx = Tensor::empty(pass.context(), in.shape(), in.dtype());
    visit_dtype(in.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T *w = in.data<T>(), *dy = pass.gradient().data<T>();
      T* to = dx.data<T>();
      pass.context().parallel_for<T>(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * cols; i < end * cols; ++i) {
          to[i] = -dy[i / cols] * (std::log(std::max(w[i], std::numeric_limits<T>::min())) + 1);
        }
      });
    });
    pass.add(0, dx);
  });
}

std::vector<OpCase> categorical_entropy_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables v) { return categorical_entropy(v[0]); };
  return {
      {.name = "rows", .inputs = {uniform(context, {4, 3}, 1, 0.1, 0.9)}, .op = op, .reference = reference},
      {.name = "after normalize",
       .inputs = {uniform(context, {3, 4}, 2, 0.5, 2)},
       .op = [](Tape&, Variables v) { return categorical_entropy(normalize(v[0])); },
       .reference =
           [](Tensors v) {
             Values y;
             for (std::int64_t i = 0; i < 3; ++i) {
               double sum = 0, entropy = 0;
               for (std::int64_t k = 0; k < 4; ++k) sum += v[0].at({i, k});
               for (std::int64_t k = 0; k < 4; ++k)
                 entropy -= v[0].at({i, k}) / sum * std::log(v[0].at({i, k}) / sum);
               y.push_back(entropy);
             }
             return y;
           }},
      {.name = "certain",
       .inputs = {tensor(context, {2, 3}, {0, 1, 0, 0.5, 0, 0.5})},
       .op = op,
       .reference = reference,
       .differentiable = {false}},
      {.name = "strided view",
       .inputs = {uniform(context, {3, 4}, 3, 0.1, 0.9).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "zero rows", .inputs = {uniform(context, {0, 3}, 4)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
