// y = sum of x, over everything or over one axis; every x_i enters once, so dx_i = dy of the sum that it is
// in. Sums run in double, over blocks of a constant size, in order.
#include <numeric>

#include "support.hpp"

namespace dirigo::ops {
namespace {

template <class T>
double total(const Context& context, const Tensor& x) {
  const T* in = x.data<T>();
  Values blocks(std::size_t((x.size() + element_grain - 1) / element_grain));
  context.parallel_for<T>(x.size(), element_grain, [&](std::int64_t begin, std::int64_t end) {
    blocks[std::size_t(begin / element_grain)] = context.kernels<T>().sum(end - begin, in + begin);
  });
  return std::accumulate(blocks.begin(), blocks.end(), 0.0);
}

constexpr std::int64_t column_block = 256;

// (outer, extent, inner) -> (outer, inner). One task adds up a block of columns, row after row.
template <class T>
void sum_axis(const Context& context, const AxisView& view, const T* x, T* y) {
  if (view.inner == 1) {
    context.parallel_for<T>(view.outer, row_grain(view.extent), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        y[i] = T(context.kernels<T>().sum(view.extent, x + i * view.extent));
      }
    });
    return;
  }
  const std::int64_t blocks = (view.inner + column_block - 1) / column_block;
  context.parallel_for<T>(view.outer * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t outer = task / blocks, first = task % blocks * column_block;
      const std::int64_t cols = std::min(column_block, view.inner - first);
      std::array<double, std::size_t(column_block)> sums{};
      for (std::int64_t i = 0; i < view.extent; ++i) {
        const T* row = x + (outer * view.extent + i) * view.inner + first;
        for (std::int64_t j = 0; j < cols; ++j) sums[std::size_t(j)] += double(row[j]);
      }
      T* to = y + outer * view.inner + first;
      for (std::int64_t j = 0; j < cols; ++j) to[j] = T(sums[std::size_t(j)]);
    }
  });
}

// (outer, inner) -> (outer, extent, inner)
template <class T>
void repeat_axis(const AxisView& view, const T* dy, T* dx) {
  for (std::int64_t outer = 0; outer < view.outer; ++outer) {
    for (std::int64_t i = 0; i < view.extent; ++i) {
      dx = std::copy_n(dy + outer * view.inner, view.inner, dx);
    }
  }
}

Shape without(const Shape& shape, int axis) {
  std::vector<std::int64_t> extents(shape.extents().begin(), shape.extents().end());
  extents.erase(extents.begin() + axis);
  return Shape(std::span<const std::int64_t>(extents));
}

Values reference(const Tensor& x, int axis) {
  const AxisView view = around(x.shape(), axis);
  const Values in = x.to_vector();
  Values y(std::size_t(view.outer * view.inner));
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::int64_t outer = std::int64_t(i) / (view.inner * view.extent),
                       inner = std::int64_t(i) % view.inner;
    y[std::size_t(outer * view.inner + inner)] += in[i];
  }
  return y;
}

}  // namespace

Variable sum(const Variable& x) {
  const Tensor in = row_major(x);
  const double value =
      visit_dtype(x.dtype(), [&](auto zero) { return total<decltype(zero)>(x.context(), in); });
  return x.tape().record("sum", {x}, Tensor::full(x.context(), {}, value, x.dtype()),
                         [shape = x.shape()](Backward& pass) {
                           const Tensor& dy = pass.gradient();
                           pass.add(0, Tensor::full(pass.context(), shape, dy.item(), dy.dtype()));
                         });
}

Variable sum(const Variable& x, int axis) {
  const int dropped = require_axis("sum", x.shape(), axis);
  const AxisView view = around(x.shape(), dropped);
  const Tensor in = row_major(x);
  Tensor y = Tensor::empty(x.context(), without(x.shape(), dropped), x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    sum_axis<T>(x.context(), view, in.data<T>(), y.data<T>());
  });
  return x.tape().record("sum", {x}, y, [view, shape = x.shape()](Backward& pass) {
    Tensor dx = Tensor::empty(pass.context(), shape, pass.gradient().dtype());
    visit_dtype(dx.dtype(), [&](auto zero) {
      using T = decltype(zero);
      repeat_axis<T>(view, pass.gradient().data<T>(), dx.data<T>());
    });
    pass.add(0, dx);
  });
}

std::vector<OpCase> sum_cases(const Context& context) {
  const auto all = [](const char* name, Tensor x) {
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [](Tape&, Variables v) { return sum(v[0]); },
                  .reference =
                      [](Tensors v) {
                        const Values in = v[0].to_vector();
                        return Values{std::accumulate(in.begin(), in.end(), 0.0)};
                      }};
  };
  const auto along = [](const char* name, Tensor x, int axis) {
    return OpCase{
        .name = name,
        .inputs = {std::move(x)},
        .op = [axis](Tape&, Variables v) { return sum(v[0], axis); },
        .reference = [axis](Tensors v) { return reference(v[0], axis < 0 ? axis + v[0].rank() : axis); }};
  };
  return {
      all("all", uniform(context, {3, 4}, 1)),
      all("of a scalar", uniform(context, {}, 2)),
      all("of nothing", uniform(context, {0, 2}, 3)),
      all("strided view", uniform(context, {3, 4}, 4).transpose(0, 1)),
      along("first axis", uniform(context, {3, 4}, 5), 0),
      along("middle axis", uniform(context, {2, 3, 4}, 6), 1),
      along("last axis", uniform(context, {2, 3, 4}, 7), -1),
      along("wide", uniform(context, {2, 300}, 8), 0),
      along("to a scalar", uniform(context, {5}, 9), 0),
      along("empty axis", uniform(context, {2, 0, 3}, 10), 1),
      along("strided view, axis", uniform(context, {3, 4}, 11).transpose(0, 1), 0),
  };
}

}  // namespace dirigo::ops
