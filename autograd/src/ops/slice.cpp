// y = x at positions [begin, end) of an axis; dx is dy there and 0 elsewhere. The result is a row-major copy.
#include "axis_copy.hpp"

namespace dirigo::ops {

Variable slice(const Variable& x, int axis, std::int64_t begin, std::int64_t end) {
  const int along = require_axis("slice", x.shape(), axis);
  if (begin < 0 || end < begin || end > x.shape()[along]) {
    throw_shape("slice", "x",
                "a shape that holds [" + std::to_string(begin) + ", " + std::to_string(end) + ") on axis " +
                    std::to_string(axis),
                x.shape());
  }
  const Tensor in = row_major(x);
  Tensor y = Tensor::empty(x.context(), x.shape().with(along, end - begin), x.dtype());
  copy_along(in, begin, y, 0, along, end - begin);
  return x.tape().record("slice", {x}, y, [along, begin, end, shape = x.shape()](Backward& pass) {
    Tensor dx = Tensor::zeros(pass.context(), shape, pass.gradient().dtype());
    copy_along(pass.gradient(), 0, dx, begin, along, end - begin);
    pass.add(0, dx);
  });
}

std::vector<OpCase> slice_cases(const Context& context) {
  const auto make = [](const char* name, Tensor x, int axis, std::int64_t begin, std::int64_t end) {
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [axis, begin, end](Tape&, Variables v) { return slice(v[0], axis, begin, end); },
                  .reference =
                      [axis, begin, end](Tensors v) {
                        const Values in = v[0].to_vector();
                        const AxisView view = around(v[0].shape(), axis < 0 ? axis + v[0].rank() : axis);
                        Values y;
                        for (std::size_t i = 0; i < in.size(); ++i) {
                          const std::int64_t at = std::int64_t(i) / view.inner % view.extent;
                          if (at >= begin && at < end) y.push_back(in[i]);
                        }
                        return y;
                      }};
  };
  OpCase overlapping = make("overlapping slices", uniform(context, {5, 2}, 1), 0, 0, 3);
  overlapping.op = [](Tape&, Variables v) { return multiply(slice(v[0], 0, 0, 3), slice(v[0], 0, 1, 4)); };
  overlapping.reference = [](Tensors v) {
    Values y;
    for (std::int64_t i = 0; i < 3; ++i) {
      for (std::int64_t j = 0; j < 2; ++j) y.push_back(v[0].at({i, j}) * v[0].at({i + 1, j}));
    }
    return y;
  };
  return {
      make("first axis", uniform(context, {5, 3}, 2), 0, 1, 4),
      make("middle axis", uniform(context, {2, 4, 3}, 3), 1, 2, 4),
      make("last axis", uniform(context, {2, 5}, 4), -1, 0, 2),
      make("all", uniform(context, {2, 3}, 5), 0, 0, 2),
      make("nothing", uniform(context, {2, 3}, 6), 1, 1, 1),
      make("strided view", uniform(context, {3, 4}, 7).transpose(0, 1), 0, 1, 3),
      overlapping,
  };
}

}  // namespace dirigo::ops
