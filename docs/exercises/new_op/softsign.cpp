// y = x / (1 + |x|), a sigmoid with polynomial tails (Bergstra, Desjardins, Lamblin, Bengio 2009).
// With r = 1 / (1 + |x|): y = x r and dy/dx = r^2, at 0 too, so  dx = dy / (1 + |x|)^2.
#include "support.hpp"

namespace dirigo::ops {
namespace {

template <class T>
T slope([[maybe_unused]] T x) {
  // exercise new_op: return T(1);
  const T r = T(1) / (T(1) + std::abs(x));
  return r * r;
  // end of exercise
}

}  // namespace

Variable softsign(const Variable& x) {
  const Tensor in = row_major(x);
  Tensor y = map(x.context(), in, [](const auto&, std::int64_t n, const auto* from, auto* to) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] / (1 + std::abs(from[i]));
  });
  return x.tape().record("softsign", {x}, y, [in](Backward& pass) {
    pass.add(0, map(pass.context(), in, pass.gradient(),
                    [](const auto&, std::int64_t n, const auto* from, const auto* dy, auto* dx) {
                      for (std::int64_t i = 0; i < n; ++i) dx[i] = dy[i] * slope(from[i]);
                    }));
  });
}

std::vector<OpCase> softsign_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables x) { return softsign(x[0]); };
  const auto reference = elementwise([](double x) { return x > 0 ? x / (1 + x) : x / (1 - x); });
  // Off the kink of |x|: the second derivative jumps at 0, and a finite difference across it is not accurate.
  return {
      {.name = "matrix", .inputs = {uniform(context, {5, 7}, 1, 0.1, 5)}, .op = op, .reference = reference},
      {.name = "negative", .inputs = {uniform(context, {9}, 2, -5, -0.1)}, .op = op, .reference = reference},
      {.name = "strided view",
       .inputs = {uniform(context, {4, 3}, 3, 0.1, 2).transpose(0, 1)},
       .op = op,
       .reference = reference},
      {.name = "empty", .inputs = {uniform(context, {2, 0}, 4)}, .op = op, .reference = reference},
  };
}

}  // namespace dirigo::ops
