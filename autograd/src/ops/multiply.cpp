// y = a b (elementwise) with broadcasting: dy = b da + a db, so
//   da = dy b and db = dy a, each summed over the axes along which that operand was stretched.
#include "broadcast.hpp"

namespace dirigo::ops {
namespace {

Tensor product_of(const Context& context, const Broadcast& shape, const Tensor& a, const Tensor& b) {
  return map_broadcast(
      context, shape, a, b,
      [](const auto& kernels, std::int64_t n, const auto* x, const auto* z, auto* to) {
        kernels.multiply(n, x, z, to);
      },
      [](auto x, auto z) { return x * z; });
}

// The gradient of `operand` when `other` is its factor.
Tensor gradient_of(const Context& context, const Tensor& dy, const Tensor& other, const Shape& operand) {
  return sum_to(context, product_of(context, broadcast("multiply", dy.shape(), other.shape()), dy, other),
                operand);
}

}  // namespace

Variable multiply(const Variable& a, const Variable& b) {
  const Broadcast shape = broadcast("multiply", a.shape(), b.shape());
  const Tensor in_a = row_major(a), in_b = row_major(b);
  Tensor y = product_of(a.context(), shape, in_a, in_b);
  return a.tape().record("multiply", {a, b}, y, [in_a, in_b](Backward& pass) {
    if (pass.needs(0)) pass.add(0, gradient_of(pass.context(), pass.gradient(), in_b, in_a.shape()));
    if (pass.needs(1)) pass.add(1, gradient_of(pass.context(), pass.gradient(), in_a, in_b.shape()));
  });
}

std::vector<OpCase> multiply_cases(const Context& context) {
  return broadcast_cases(context, multiply, [](double a, double b) { return a * b; });
}

}  // namespace dirigo::ops
