// y = ELU(x) + 1: x + 1 for x > 0, else e^x. The positive feature map of linear attention (Katharopoulos,
// Vyas, Pappas, Fleuret 2020). e^x is taken as such: expm1(x) + 1 rounds to 0 for x < -37. dx = dy for x > 0,
// else dy e^x; both are dy at 0.
#include "support.hpp"

namespace dirigo::ops {
namespace {

// The second derivative jumps at 0, which a finite difference must not straddle.
Tensor away_from_zero(const Context& context, const Shape& shape, std::uint32_t site) {
  Values values = uniform(context, shape, site, -3, 3).to_vector();
  for (double& value : values) value += value < 0 ? -0.05 : 0.05;
  return tensor(context, shape, values);
}

}  // namespace

Variable elu1(const Variable& x) {
  const Tensor in = row_major(x);
  Tensor y = map(x.context(), in, [](const auto& kernels, std::int64_t n, const auto* from, auto* to) {
    kernels.elu1(n, from, to);
  });
  return x.tape().record("elu1", {x}, y, [in](Backward& pass) {
    pass.add(0, map(pass.context(), in, pass.gradient(),
                    [](const auto& kernels, std::int64_t n, const auto* from, const auto* dy, auto* dx) {
                      kernels.elu1_vjp(n, from, dy, dx);
                    }));
  });
}

std::vector<OpCase> elu1_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return elu1(x[0]); };
  const auto reference = elementwise([](double x) { return x > 0 ? x + 1 : std::exp(x); });
  return {
      {.name = "matrix", .inputs = {away_from_zero(context, {5, 7}, 1)}, .op = op, .reference = reference},
      {.name = "tails",
       .inputs = {tensor(context, {4}, {-80, -20, 20, 80})},
       .op = op,
       .reference = reference},
      {.name = "at the joint",
       .inputs = {tensor(context, {1}, {0})},
       .op = op,
       .reference = reference,
       .reference_vjp = [](Tensors, const Tensor& dy) { return std::vector<Tensor>{dy}; }},
      {.name = "strided view",
       .inputs = {away_from_zero(context, {4, 3}, 2).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {0}, 3)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
