// Differential entropy of Dir(b), in nats, for rows b of K concentrations with s = sum b:
//   U = log B(b) + (s - K) psi(s) - sum_i (b_i - 1) psi(b_i).
// The terms in psi alone cancel (d log B / db_i = psi(b_i) - psi(s)), which leaves
//   dU/db_i = (s - K) psi1(s) - (b_i - 1) psi1(b_i).
// Derivation: docs/mathematics/dirichlet.md
#include "dirichlet_rows.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::ops {
namespace {

Values reference(Tensors v) {
  Values y;
  for (std::int64_t i = 0; i < v[0].shape()[0]; ++i) {
    double sum = 0, entropy = 0;
    const std::int64_t cols = v[0].shape()[1];
    for (std::int64_t k = 0; k < cols; ++k) {
      const double b = v[0].at({i, k});
      sum += b;
      entropy += special::lgamma(b) - (b - 1) * special::digamma(b);
    }
    y.push_back(entropy - special::lgamma(sum) + (sum - double(cols)) * special::digamma(sum));
  }
  return y;
}

}  // namespace

Variable dirichlet_entropy(const Variable& concentration) {
  require_concentration("dirichlet_entropy", concentration);
  const Tensor in = row_major(concentration);
  Tensor y = map_dirichlet_rows(concentration.context(), in,
                                [](std::span<const double> b) { return dirichlet::entropy(b); });
  return concentration.tape().record("dirichlet_entropy", {concentration}, y, [in](Backward& pass) {
    pass.add(0, dirichlet_rows_vjp(pass.context(), in, pass.gradient(), dirichlet::entropy_gradient));
  });
}

std::vector<OpCase> dirichlet_entropy_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables v) { return dirichlet_entropy(v[0]); };
  return {
      {.name = "rows", .inputs = {uniform(context, {4, 3}, 1, 0.4, 3)}, .op = op, .reference = reference},
      {.name = "large", .inputs = {uniform(context, {2, 4}, 2, 20, 60)}, .op = op, .reference = reference},
      {.name = "flat", .inputs = {tensor(context, {1, 3}, {1, 1, 1})}, .op = op, .reference = reference},
      {.name = "tiny",
       .inputs = {tensor(context, {1, 3}, {0.01, 0.86, 0.71})},
       .op = op,
       .reference = reference,
       .reference_vjp =
           [&context](Tensors v, const Tensor& dy) {
             Values dx;
             for (std::int64_t k = 0; k < 3; ++k) {
               const double b = v[0].at({0, k});
               dx.push_back(dy.at({0}) *
                            ((1.58 - 3) * special::trigamma(1.58) - (b - 1) * special::trigamma(b)));
             }
             return std::vector<Tensor>{tensor(context, {1, 3}, dx)};
           }},
      {.name = "strided view",
       .inputs = {uniform(context, {3, 4}, 3, 0.5, 2).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "zero rows", .inputs = {uniform(context, {0, 3}, 4)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
