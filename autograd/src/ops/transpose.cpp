// Two axes change places; in the gradient they change back. The result is a row-major copy.
#include "support.hpp"

namespace dirigo::ops {

Variable transpose(const Variable& x, int axis_a, int axis_b) {
  const int a = require_axis("transpose", x.shape(), axis_a),
            b = require_axis("transpose", x.shape(), axis_b);
  return x.tape().record(
      "transpose", {x}, x.value().transpose(a, b).contiguous(x.context()),
      [a, b](Backward& pass) { pass.add(0, pass.gradient().transpose(a, b).contiguous(pass.context())); });
}

std::vector<OpCase> transpose_cases(const Context& context) {
  const auto make = [](const char* name, Tensor x, int a, int b) {
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [a, b](Tape&, Variables v) { return transpose(v[0], a, b); },
                  .reference = [a, b](Tensors v) { return v[0].transpose(a, b).to_vector(); }};
  };
  // Independent of Tensor::transpose.
  OpCase matrix = make("matrix", uniform(context, {3, 4}, 1), 0, 1);
  matrix.reference = [](Tensors v) {
    Values y;
    for (std::int64_t j = 0; j < 4; ++j) {
      for (std::int64_t i = 0; i < 3; ++i) y.push_back(v[0].at({i, j}));
    }
    return y;
  };
  return {
      matrix,
      make("inner axes", uniform(context, {2, 3, 4, 2}, 2), 1, 2),
      make("negative axes", uniform(context, {2, 3, 4}, 3), -1, 0),
      make("same axis", uniform(context, {2, 3}, 4), 1, 1),
      make("strided view", uniform(context, {3, 8}, 5).slice(1, 2, 5), 0, 1),
      make("empty", uniform(context, {0, 4}, 6), 0, 1),
  };
}

}  // namespace dirigo::ops
