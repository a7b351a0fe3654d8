// y = factor x, so dx = factor dy.
#include "support.hpp"

namespace dirigo::ops {
namespace {

Tensor scaled(const Context& context, const Tensor& x, double factor) {
  return map(context, x, [factor](const auto& kernels, std::int64_t n, const auto* in, auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    kernels.scale(n, T(factor), in, out);
  });
}

}  // namespace

Variable scale(const Variable& x, double factor) {
  return x.tape().record("scale", {x}, scaled(x.context(), row_major(x), factor), [factor](Backward& pass) {
    pass.add(0, scaled(pass.context(), pass.gradient(), factor));
  });
}

std::vector<OpCase> scale_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return scale(x[0], -1.7); };
  const auto reference = elementwise([](double x) { return -1.7 * x; });
  return {
      {.name = "matrix", .inputs = {uniform(context, {3, 5}, 1)}, .op = op, .reference = reference},
      {.name = "scalar", .inputs = {uniform(context, {}, 2)}, .op = op, .reference = reference},
      {.name = "strided view",
       .inputs = {uniform(context, {4, 3}, 3).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {0, 3}, 4)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
