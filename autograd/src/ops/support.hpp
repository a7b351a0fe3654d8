// What the operations share: shape checks, parallel loops, column sums, tensors for the cases.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dirigo/autograd/op_list.hpp"
#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/kernels.hpp"

namespace dirigo::ops {

// --- checks ------------------------------------------------------------------------------------------------

[[noreturn]] inline void throw_shape(std::string_view op, std::string_view what, const std::string& expected,
                                     const Shape& got) {
  throw ShapeError("[" + std::string(op) + "] " + std::string(what) + ": expected " + expected + ", got " +
                   got.to_string());
}

[[noreturn]] inline void throw_value(std::string_view op, std::string_view what, const std::string& expected,
                                     const std::string& got) {
  throw ValueError("[" + std::string(op) + "] " + std::string(what) + ": expected " + expected + ", got " +
                   got);
}

inline void require_shape(std::string_view op, std::string_view what, const Shape& got,
                          const Shape& expected) {
  if (got != expected) throw_shape(op, what, expected.to_string(), got);
}

inline void require_rank(std::string_view op, std::string_view what, const Shape& got, int rank,
                         const char* expected) {
  if (got.rank() != rank) throw_shape(op, what, expected, got);
}

inline int require_axis(std::string_view op, const Shape& shape, int axis) {
  const int resolved = axis < 0 ? axis + shape.rank() : axis;
  if (resolved < 0 || resolved >= shape.rank()) {
    throw_shape(op, "x", "a shape with axis " + std::to_string(axis), shape);
  }
  return resolved;
}

inline void require_indices(std::string_view op, std::span<const std::int32_t> indices, std::int64_t bound) {
  for (const std::int32_t index : indices) {
    if (index < 0 || index >= bound) {
      throw_value(op, "index", "one in [0, " + std::to_string(bound) + ")", std::to_string(index));
    }
  }
}

// A tensor seen as a matrix of rows along its last axis.
struct Matrix {
  std::int64_t rows, cols;
};

inline Matrix rows_of(std::string_view op, const Shape& shape) {
  if (shape.rank() == 0) throw_shape(op, "x", "at least one axis", shape);
  std::int64_t rows = 1;
  for (int axis = 0; axis + 1 < shape.rank(); ++axis) rows *= shape[axis];
  return {rows, shape[-1]};
}

// A tensor seen as (outer, extent, inner) around one axis.
struct AxisView {
  std::int64_t outer = 1, extent = 1, inner = 1;
};

inline AxisView around(const Shape& shape, int axis) {
  AxisView view;
  for (int i = 0; i < axis; ++i) view.outer *= shape[i];
  view.extent = shape[axis];
  for (int i = axis + 1; i < shape.rank(); ++i) view.inner *= shape[i];
  return view;
}

// --- loops -------------------------------------------------------------------------------------------------
// Grains are constants of the shape, so that blocks (and bits) do not depend on the thread count.

inline constexpr std::int64_t element_grain = 16384;  // a multiple of 4, for dropout
inline constexpr std::int64_t dirichlet_grain = 128;  // rows; special functions are slow

inline std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, element_grain / std::max<std::int64_t>(1, cols));
}

inline Tensor row_major(const Variable& x) {
  return x.value().contiguous(x.context());
}

// y = f(x): calls f(kernels, n, x, y) for blocks of elements.
template <class F>
Tensor map(const Context& context, const Tensor& x, F f) {
  Tensor y = Tensor::empty(context, x.shape(), x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const KernelTable<T>& kernels = context.kernels<T>();
    const T* in = x.data<T>();
    T* out = y.data<T>();
    context.parallel_for<T>(x.size(), element_grain, [&](std::int64_t begin, std::int64_t end) {
      f(kernels, end - begin, in + begin, out + begin);
    });
  });
  return y;
}

// y = f(a, b), equal shapes: calls f(kernels, n, a, b, y) for blocks of elements. y may be a or b.
template <class F>
Tensor map_into(const Context& context, Tensor y, const Tensor& a, const Tensor& b, F f) {
  visit_dtype(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const KernelTable<T>& kernels = context.kernels<T>();
    const T *in_a = a.data<T>(), *in_b = b.data<T>();
    T* out = y.data<T>();
    context.parallel_for<T>(a.size(), element_grain, [&](std::int64_t begin, std::int64_t end) {
      f(kernels, end - begin, in_a + begin, in_b + begin, out + begin);
    });
  });
  return y;
}

template <class F>
Tensor map(const Context& context, const Tensor& a, const Tensor& b, F f) {
  return map_into(context, Tensor::empty(context, a.shape(), a.dtype()), a, b, f);
}

// (cols): the sum of the rows of x. Blocks of rows are summed apart, then in order.
template <class T>
Tensor column_sums(const Context& context, std::int64_t rows, std::int64_t cols, const T* x) {
  constexpr std::int64_t block = 256;
  const auto kernel = context.kernels<T>().add_column_sums;
  const std::int64_t blocks = (rows + block - 1) / block;
  Tensor partial = Tensor::zeros(context, {blocks, cols}, dtype_of<T>);
  Tensor result = Tensor::zeros(context, {cols}, dtype_of<T>);
  T* sums = partial.data<T>();
  context.parallel_for<T>(rows, block, [&](std::int64_t begin, std::int64_t end) {
    kernel(end - begin, cols, x + begin * cols, cols, sums + begin / block * cols);
  });
  kernel(blocks, cols, sums, cols, result.data<T>());
  return result;
}

// --- cases -------------------------------------------------------------------------------------------------

using Variables = std::span<const Variable>;
using Tensors = std::span<const Tensor>;
using Values = std::vector<double>;

// f64 values in (low, high), the same for the same `site`.
inline Tensor uniform(const Context& context, const Shape& shape, std::uint32_t site, double low = -2,
                      double high = 2) {
  PhiloxStream stream(random_key(1, 0, Purpose::test, site), 0);
  Values values(std::size_t(shape.size()));
  for (double& value : values) value = low + (high - low) * stream.uniform();
  return Tensor::from<double>(context, shape, values);
}

inline Tensor tensor(const Context& context, const Shape& shape, const Values& values) {
  return Tensor::from<double>(context, shape, values);
}

// The reference of an elementwise function of one variable.
template <class F>
std::function<Values(Tensors)> elementwise(F f) {
  return [f](Tensors x) {
    Values y = x[0].to_vector();
    std::transform(y.begin(), y.end(), y.begin(), f);
    return y;
  };
}

}  // namespace dirigo::ops
