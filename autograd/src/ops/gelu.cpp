// y = x Phi(x) = x/2 (1 + erf(x / sqrt 2)), Phi and phi the standard normal distribution and density
// (Hendrycks, Gimpel 2016; the exact form, not the tanh approximation). Product rule, with Phi' = phi:
//   dx = dy (Phi(x) + x phi(x)).
#include "support.hpp"

namespace dirigo::ops {

Variable gelu(const Variable& x) {
  const Tensor in = row_major(x);
  Tensor y = map(x.context(), in, [](const auto& kernels, std::int64_t n, const auto* from, auto* to) {
    kernels.gelu(n, from, to);
  });
  return x.tape().record("gelu", {x}, y, [in](Backward& pass) {
    pass.add(0, map_into(pass.context(), pass.room(), in, pass.gradient(),
                         [](const auto& kernels, std::int64_t n, const auto* from, const auto* dy, auto* dx) {
                           kernels.gelu_vjp(n, from, dy, dx);
                         }));
  });
}

std::vector<OpCase> gelu_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return gelu(x[0]); };
  const auto reference = elementwise([](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); });
  return {
      {.name = "matrix", .inputs = {uniform(context, {5, 7}, 1, -4, 4)}, .op = op, .reference = reference},
      {.name = "tails and zero",
       .inputs = {tensor(context, {7}, {-40, -9, -6, 0, 6, 9, 40})},
       .op = op,
       .reference = reference},
      {.name = "strided view",
       .inputs = {uniform(context, {4, 3}, 2).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {0}, 3)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
