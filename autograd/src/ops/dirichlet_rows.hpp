// Per-token functions of a row of K concentrations, in double.
#pragma once

#include "dirigo/core/dirichlet_math.hpp"
#include "support.hpp"

namespace dirigo::ops {

// Calls f(first row, the doubles of a block of rows) for every block of rows of x (N, K).
template <class F>
void for_dirichlet_blocks(const Context& context, const Tensor& x, F f) {
  const std::int64_t rows = x.shape()[0], cols = x.shape()[1];
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    context.parallel_for<T>(rows, dirichlet_grain, [&](std::int64_t begin, std::int64_t end) {
      const Values block(in + begin * cols, in + end * cols);
      f(begin, std::span<const double>(block));
    });
  });
}

// Calls f(row index, its K values as doubles) for every row of x (N, K).
template <class F>
void for_dirichlet_rows(const Context& context, const Tensor& x, F f) {
  const std::size_t cols = std::size_t(x.shape()[1]);
  for_dirichlet_blocks(context, x, [&](std::int64_t begin, std::span<const double> block) {
    for (std::size_t at = 0; at < block.size(); at += cols)
      f(begin + std::int64_t(at / cols), block.subspan(at, cols));
  });
}

// The kernels that a tensor of this type runs on.
inline const GammaKernels& gamma_kernels(const Context& context, DType dtype) {
  return dtype == DType::f32 ? context.kernels<float>().gamma : context.kernels<double>().gamma;
}

// y_i = f(row i): (N, K) -> (N)
template <class F>
Tensor map_dirichlet_rows(const Context& context, const Tensor& x, F f) {
  Tensor y = Tensor::empty(context, {x.shape()[0]}, x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    for_dirichlet_rows(context, x, [&](std::int64_t i, std::span<const double> row) { out[i] = T(f(row)); });
  });
  return y;
}

// dx_i = dy_i gradient(row i): (N) -> (N, K); gradient(row, out) writes K values.
template <class F>
Tensor dirichlet_rows_vjp(const Context& context, const Tensor& x, const Tensor& dy, F gradient) {
  Tensor dx = Tensor::empty(context, x.shape(), x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = dy.data<T>();
    T* out = dx.data<T>();
    for_dirichlet_rows(context, x, [&](std::int64_t i, std::span<const double> row) {
      Values slope(row.size());
      gradient(row, std::span<double>(slope));
      T* to = out + i * std::int64_t(row.size());
      for (std::size_t k = 0; k < slope.size(); ++k) to[k] = T(double(in[i]) * slope[k]);
    });
  });
  return dx;
}

inline void require_concentration(std::string_view op, const Variable& x) {
  require_rank(op, "concentration", x.shape(), 2, "(N, K)");
  if (x.shape()[1] == 0) throw_shape(op, "concentration", "at least one column", x.shape());
}

}  // namespace dirigo::ops
