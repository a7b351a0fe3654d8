// y_j = e^x_j / sum_k e^x_k over the last axis (shifted by the maximum, which cancels).
// dy_j/dx_i = y_j (delta_ij - y_i), so  dx_i = y_i (dy_i - sum_j y_j dy_j).
#include "support.hpp"

namespace dirigo::ops {
namespace {

Values reference(Tensors v) {
  Values y = v[0].to_vector();
  const auto cols = std::size_t(v[0].shape()[-1]);
  for (std::size_t row = 0; row < y.size(); row += cols) {
    double sum = 0;
    for (std::size_t j = 0; j < cols; ++j) sum += std::exp(y[row + j]);
    for (std::size_t j = 0; j < cols; ++j) y[row + j] = std::exp(y[row + j]) / sum;
  }
  return y;
}

}  // namespace

Variable softmax(const Variable& x) {
  const Context& context = x.context();
  const Matrix size = rows_of("softmax", x.shape());
  const std::int64_t rows = size.rows, n = size.cols;
  const Tensor in = row_major(x);
  Tensor y = Tensor::empty(context, x.shape(), x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = in.data<T>();
    T* to = y.data<T>();
    context.parallel_for<T>(rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      context.kernels<T>().softmax(end - begin, n, from + begin * n, to + begin * n);
    });
  });
  return x.tape().record("softmax", {x}, y, [y, rows, n](Backward& pass) {
    Tensor dx = Tensor::empty(pass.context(), y.shape(), y.dtype());
    visit_dtype(y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T *probabilities = y.data<T>(), *dy = pass.gradient().data<T>();
      T* to = dx.data<T>();
      pass.context().parallel_for<T>(rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
        pass.context().kernels<T>().softmax_vjp(end - begin, n, probabilities + begin * n, dy + begin * n,
                                                to + begin * n);
      });
    });
    pass.add(0, dx);
  });
}

std::vector<OpCase> softmax_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return softmax(x[0]); };
  return {
      {.name = "matrix", .inputs = {uniform(context, {4, 7}, 1)}, .op = op, .reference = reference},
      {.name = "leading axes", .inputs = {uniform(context, {2, 3, 5}, 2)}, .op = op, .reference = reference},
      {.name = "long rows", .inputs = {uniform(context, {2, 37}, 3)}, .op = op, .reference = reference},
      {.name = "one column", .inputs = {uniform(context, {3, 1}, 4)}, .op = op, .reference = reference},
      // elu1(x) = e^x for x <= 0
      {.name = "negative, composed",
       .inputs = {uniform(context, {3, 4}, 5, -9, -0.1)},
       .op = op,
       .reference = reference,
       .composed = [](Tape&, Variables x) { return normalize(elu1(x[0])); }},
      {.name = "large",
       .inputs = {tensor(context, {2, 3}, {700, 699, 690, -700, -699, -690})},
       .op = op,
       .reference = reference,
       .value_tolerance = 1e-11},
      {.name = "strided view",
       .inputs = {uniform(context, {4, 3}, 6).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {0, 3}, 7)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
