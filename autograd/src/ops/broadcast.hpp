// Broadcasting of two shapes: trailing axes are aligned; extent 1 or a missing axis stretches.
#pragma once

#include "support.hpp"

namespace dirigo::ops {

// The axes of the output with each operand's strides (0 where it stretches), neighbouring axes merged where
// both operands allow it. The last axis is the inner loop.
struct Broadcast {
  Shape shape;  // of the output
  int axes = 1;
  std::array<std::int64_t, Shape::max_rank> extent{}, stride_a{}, stride_b{};

  std::int64_t inner() const { return extent[std::size_t(axes - 1)]; }
  std::int64_t outer() const { return inner() == 0 ? 0 : shape.size() / inner(); }
};

inline Broadcast broadcast(std::string_view op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  std::array<std::int64_t, Shape::max_rank> extents{};
  Broadcast result;
  result.extent[0] = 1;
  std::int64_t step_a = 1, step_b = 1;
  std::array<std::int64_t, Shape::max_rank> stride_a{}, stride_b{};
  for (int axis = -1; axis >= -rank; --axis) {
    const std::int64_t in_a = -axis <= a.rank() ? a[axis] : 1, in_b = -axis <= b.rank() ? b[axis] : 1;
    if (in_a != in_b && in_a != 1 && in_b != 1)
      throw_shape(op, "b", "a shape that stretches to " + a.to_string(), b);
    const auto i = std::size_t(rank + axis);
    extents[i] = in_a == 1 ? in_b : in_a;
    stride_a[i] = in_a == 1 ? 0 : step_a;
    stride_b[i] = in_b == 1 ? 0 : step_b;
    step_a *= in_a;
    step_b *= in_b;
  }
  result.shape = Shape(std::span<const std::int64_t>(extents.data(), std::size_t(rank)));
  std::size_t last = 0;  // the axis that is being built
  for (std::size_t i = 0; i < std::size_t(rank); ++i) {
    const bool merges = i > 0 && result.stride_a[last] == stride_a[i] * extents[i] &&
                        result.stride_b[last] == stride_b[i] * extents[i];
    if (i > 0 && !merges) ++last;
    result.extent[last] = merges ? result.extent[last] * extents[i] : extents[i];
    result.stride_a[last] = stride_a[i];
    result.stride_b[last] = stride_b[i];
  }
  result.axes = int(last) + 1;
  return result;
}

// Calls f(outer index, offset in a, offset in b) for the outer indices [begin, end).
template <class F>
void for_outer(const Broadcast& shape, std::int64_t begin, std::int64_t end, F f) {
  for (std::int64_t index = begin; index < end; ++index) {
    std::int64_t rest = index, offset_a = 0, offset_b = 0;
    for (int axis = shape.axes - 2; axis >= 0; --axis) {
      const auto i = std::size_t(axis);
      const std::int64_t at = rest % shape.extent[i];
      rest /= shape.extent[i];
      offset_a += at * shape.stride_a[i];
      offset_b += at * shape.stride_b[i];
    }
    f(index, offset_a, offset_b);
  }
}

// y = f(a, b) with broadcasting: `whole(kernels, n, a, b, y)` for runs in which both operands advance,
// `one(a, b)` for single elements.
template <class Whole, class One>
Tensor map_broadcast(const Context& context, const Broadcast& shape, const Tensor& a, const Tensor& b,
                     Whole whole, One one) {
  if (a.shape() == b.shape()) return map(context, a, b, whole);  // also cuts a long inner axis into blocks
  Tensor y = Tensor::empty(context, shape.shape, a.dtype());
  visit_dtype(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const KernelTable<T>& kernels = context.kernels<T>();
    const T *in_a = a.data<T>(), *in_b = b.data<T>();
    T* out = y.data<T>();
    const std::int64_t n = shape.inner();
    const std::int64_t step_a = shape.stride_a[std::size_t(shape.axes - 1)];
    const std::int64_t step_b = shape.stride_b[std::size_t(shape.axes - 1)];
    context.parallel_for<T>(shape.outer(), row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for_outer(shape, begin, end, [&](std::int64_t row, std::int64_t offset_a, std::int64_t offset_b) {
        if (step_a == 1 && step_b == 1) {
          whole(kernels, n, in_a + offset_a, in_b + offset_b, out + row * n);
          return;
        }
        for (std::int64_t j = 0; j < n; ++j) {
          out[row * n + j] = one(in_a[offset_a + j * step_a], in_b[offset_b + j * step_b]);
        }
      });
    });
  });
  return y;
}

// The gradient of an operand: dy (of the broadcast shape) summed over the stretched axes, in order, in
// double.
inline Tensor sum_to(const Context& context, const Tensor& dy, const Shape& operand) {
  if (dy.shape() == operand) return dy;
  const Broadcast shape = broadcast("sum", operand, dy.shape());
  Scratch<double> sums(*context.allocator(), std::size_t(std::max<std::int64_t>(1, operand.size())));
  std::fill_n(sums.data(), operand.size(), 0.0);
  Tensor dx = Tensor::empty(context, operand, dy.dtype());
  visit_dtype(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = dy.data<T>();
    const std::int64_t n = shape.inner(), step = shape.stride_a[std::size_t(shape.axes - 1)];
    for_outer(shape, 0, shape.outer(), [&](std::int64_t row, std::int64_t offset, std::int64_t) {
      if (step == 0) {
        sums[std::size_t(offset)] += context.kernels<T>().sum(n, in + row * n);
        return;
      }
      double* to = sums.data() + offset;
      for (std::int64_t j = 0; j < n; ++j) to[j] += double(in[row * n + j]);
    });
    std::transform(sums.data(), sums.data() + operand.size(), dx.data<T>(),
                   [](double sum) { return T(sum); });
  });
  return dx;
}

// --- cases -------------------------------------------------------------------------------------------------

// f(a, b) element by element, found by index arithmetic from scratch.
template <class F>
Values broadcast_reference(const Tensor& a, const Tensor& b, F f) {
  const int rank = std::max(a.rank(), b.rank());
  const auto extent = [rank](const Tensor& x, int axis) {
    return axis < rank - x.rank() ? 1 : x.shape()[axis - (rank - x.rank())];
  };
  std::int64_t size = 1;
  for (int axis = 0; axis < rank; ++axis) {
    size *= extent(a, axis) == 1 ? extent(b, axis) : extent(a, axis);
  }
  const Values in_a = a.to_vector(), in_b = b.to_vector();
  Values y(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) {
    std::int64_t rest = i, at_a = 0, at_b = 0, step_a = 1, step_b = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      const std::int64_t in_axis_a = extent(a, axis), in_axis_b = extent(b, axis);
      const std::int64_t out = in_axis_a == 1 ? in_axis_b : in_axis_a;
      at_a += rest % out % in_axis_a * step_a;
      at_b += rest % out % in_axis_b * step_b;
      step_a *= in_axis_a;
      step_b *= in_axis_b;
      rest /= out;
    }
    y[std::size_t(i)] = f(in_a[std::size_t(at_a)], in_b[std::size_t(at_b)]);
  }
  return y;
}

// The shapes that every broadcasting operation of two inputs is checked on.
template <class F>
std::vector<OpCase> broadcast_cases(const Context& context, Variable (*op)(const Variable&, const Variable&),
                                    F f) {
  const auto make = [&](const char* name, Tensor a, Tensor b) {
    return OpCase{.name = name,
                  .inputs = {std::move(a), std::move(b)},
                  .op = [op](Tape&, Variables x) { return op(x[0], x[1]); },
                  .reference = [f](Tensors x) { return broadcast_reference(x[0], x[1], f); }};
  };
  OpCase reused = make("input used twice", uniform(context, {3, 2}, 1), uniform(context, {0}, 2));
  reused.inputs.pop_back();
  reused.op = [op](Tape&, Variables x) { return op(x[0], x[0]); };
  reused.reference = [f](Tensors x) { return broadcast_reference(x[0], x[0], f); };
  return {
      make("same shape", uniform(context, {3, 4}, 3), uniform(context, {3, 4}, 4)),
      make("row", uniform(context, {2, 3, 4}, 5), uniform(context, {4}, 6)),
      make("row first", uniform(context, {4}, 7), uniform(context, {2, 3, 4}, 8)),
      make("column", uniform(context, {3, 4}, 9), uniform(context, {3, 1}, 10)),
      make("matrix over batch", uniform(context, {3, 2, 4}, 11), uniform(context, {2, 4}, 12)),
      make("outer", uniform(context, {3, 1}, 13), uniform(context, {1, 4}, 14)),
      make("middle", uniform(context, {2, 3, 2}, 15), uniform(context, {2, 1, 2}, 16)),
      make("scalar", uniform(context, {2, 3}, 17), uniform(context, {}, 18)),
      make("strided views", uniform(context, {4, 3}, 19).transpose(0, 1),
           uniform(context, {3, 8}, 20).slice(1, 2, 6)),
      make("empty", uniform(context, {0, 3}, 21), uniform(context, {3}, 22)),
      reused,
  };
}

}  // namespace dirigo::ops
