// y = log(1 + e^x) = max(x, 0) + log1p(e^-|x|): the second form neither overflows nor cancels.
// dy/dx = e^x / (1 + e^x), the logistic function:  dx = dy / (1 + e^-x).
#include "support.hpp"

namespace dirigo::ops {

Variable softplus(const Variable& x) {
  const Tensor in = row_major(x);
  Tensor y = map(x.context(), in, [](const auto& kernels, std::int64_t n, const auto* from, auto* to) {
    kernels.softplus(n, from, to);
  });
  return x.tape().record("softplus", {x}, y, [in](Backward& pass) {
    pass.add(0, map(pass.context(), in, pass.gradient(),
                    [](const auto& kernels, std::int64_t n, const auto* from, const auto* dy, auto* dx) {
                      kernels.softplus_vjp(n, from, dy, dx);
                    }));
  });
}

std::vector<OpCase> softplus_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return softplus(x[0]); };
  const auto reference =
      elementwise([](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); });
  return {
      {.name = "matrix", .inputs = {uniform(context, {5, 7}, 1, -5, 5)}, .op = op, .reference = reference},
      {.name = "tails and zero",
       .inputs = {tensor(context, {7}, {-800, -50, -20, 0, 20, 50, 800})},
       .op = op,
       .reference = reference},
      {.name = "strided view",
       .inputs = {uniform(context, {4, 3}, 2).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {2, 0}, 3)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
