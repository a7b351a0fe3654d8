// y_j = x_j / s, s = sum_k x_k over the last axis, for x > 0.
// dy_j/dx_i = (delta_ij - y_j) / s, so  dx_i = (dy_i - sum_j dy_j y_j) / s.
#include "support.hpp"

namespace dirigo::ops {
namespace {

template <class T>
void forward_row(std::int64_t cols, const T* x, T* y, T& sum) {
  double total = 0;
  for (std::int64_t j = 0; j < cols; ++j) total += double(x[j]);
  sum = T(total);
  for (std::int64_t j = 0; j < cols; ++j) y[j] = x[j] / sum;
}

template <class T>
void vjp_row(std::int64_t cols, const T* y, T sum, const T* dy, T* dx) {
  double dot = 0;
  for (std::int64_t j = 0; j < cols; ++j) dot += double(dy[j]) * double(y[j]);
  for (std::int64_t j = 0; j < cols; ++j) dx[j] = (dy[j] - T(dot)) / sum;
}

Values reference(Tensors v) {
  Values y = v[0].to_vector();
  const auto cols = std::size_t(v[0].shape()[-1]);
  for (std::size_t row = 0; row < y.size(); row += cols) {
    double sum = 0;
    for (std::size_t j = 0; j < cols; ++j) sum += y[row + j];
    for (std::size_t j = 0; j < cols; ++j) y[row + j] /= sum;
  }
  return y;
}

}  // namespace

Variable normalize(const Variable& x) {
  const Context& context = x.context();
  const Matrix size = rows_of("normalize", x.shape());
  const Tensor in = row_major(x);
  Tensor y = Tensor::empty(context, x.shape(), x.dtype());
  Tensor sums = Tensor::empty(context, {size.rows}, x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = in.data<T>();
    T *to = y.data<T>(), *sum = sums.data<T>();
    context.parallel_for<T>(size.rows, row_grain(size.cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        forward_row(size.cols, from + i * size.cols, to + i * size.cols, sum[i]);
      }
    });
  });
  return x.tape().record("normalize", {x}, y, [y, sums, size](Backward& pass) {
    Tensor dx = Tensor::empty(pass.context(), y.shape(), y.dtype());
    visit_dtype(y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T *fractions = y.data<T>(), *sum = sums.data<T>(), *dy = pass.gradient().data<T>();
      T* to = dx.data<T>();
      pass.context().parallel_for<T>(size.rows, row_grain(size.cols),
                                     [&](std::int64_t begin, std::int64_t end) {
                                       for (std::int64_t i = begin; i < end; ++i) {
                                         const std::int64_t at = i * size.cols;
                                         vjp_row(size.cols, fractions + at, sum[i], dy + at, to + at);
                                       }
                                     });
    });
    pass.add(0, dx);
  });
}

std::vector<OpCase> normalize_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return normalize(x[0]); };
  return {
      {.name = "matrix", .inputs = {uniform(context, {4, 3}, 1, 0.5, 3)}, .op = op, .reference = reference},
      {.name = "leading axes",
       .inputs = {uniform(context, {2, 2, 5}, 2, 0.5, 3)},
       .op = op,
       .reference = reference},
      {.name = "strided view",
       .inputs = {uniform(context, {4, 3}, 3, 0.5, 3).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {0, 3}, 4)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
