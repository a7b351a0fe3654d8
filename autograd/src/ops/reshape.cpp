// The same elements, in row-major order, under another shape; dx = dy under the shape of x. No copy is made.
#include "support.hpp"

namespace dirigo::ops {

Variable reshape(const Variable& x, const Shape& shape) {
  if (shape.size() != x.shape().size()) {
    throw_shape("reshape", "shape", "as many elements as " + x.shape().to_string(), shape);
  }
  return x.tape().record("reshape", {x}, row_major(x).reshape(shape),
                         [from = x.shape()](Backward& pass) { pass.add(0, pass.gradient().reshape(from)); });
}

std::vector<OpCase> reshape_cases(const Context& context) {
  const auto make = [](const char* name, Tensor x, Shape shape) {
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [shape](Tape&, Variables v) { return reshape(v[0], shape); },
                  .reference = [](Tensors v) { return v[0].to_vector(); }};
  };
  OpCase reused = make("two views of one input", uniform(context, {2, 6}, 1), {3, 4});
  reused.op = [](Tape&, Variables v) { return multiply(reshape(v[0], {3, 4}), reshape(v[0], {3, 4})); };
  reused.reference = elementwise([](double x) { return x * x; });
  return {
      make("matrix", uniform(context, {2, 6}, 2), {3, 4}),
      make("to a scalar", uniform(context, {1, 1}, 3), {}),
      make("strided view", uniform(context, {3, 4}, 4).transpose(0, 1), {2, 6}),
      make("empty", uniform(context, {0, 4}, 5), {2, 0, 3}),
      reused,
  };
}

}  // namespace dirigo::ops
