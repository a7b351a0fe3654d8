// y = a + b with broadcasting. An element of an operand is added into every y that it was stretched to, so
//   da = dy and db = dy, each summed over the axes along which that operand was stretched.
#include "broadcast.hpp"

namespace dirigo::ops {

Variable add(const Variable& a, const Variable& b) {
  const Broadcast shape = broadcast("add", a.shape(), b.shape());
  Tensor y = map_broadcast(
      a.context(), shape, row_major(a), row_major(b),
      [](const auto& kernels, std::int64_t n, const auto* x, const auto* z, auto* to) {
        kernels.add(n, x, z, to);
      },
      [](auto x, auto z) { return x + z; });
  return a.tape().record("add", {a, b}, y, [shape_a = a.shape(), shape_b = b.shape()](Backward& pass) {
    if (pass.needs(0)) pass.add(0, sum_to(pass.context(), pass.gradient(), shape_a));
    if (pass.needs(1)) pass.add(1, sum_to(pass.context(), pass.gradient(), shape_b));
  });
}

std::vector<OpCase> add_cases(const Context& context) {
  return broadcast_cases(context, add, [](double a, double b) { return a + b; });
}

}  // namespace dirigo::ops
