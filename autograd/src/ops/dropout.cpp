// y_i = x_i keep_i / (1 - p), keep_i ~ Bernoulli(1 - p): the mean of y is x (Srivastava et al. 2014,
// "inverted"). dx_i = dy_i keep_i / (1 - p): the same map, so the vjp draws the mask again from its key and
// stores nothing. keep_i = (word i of the Philox sequence of the key, from its first element on) >= p 2^32.
#include "support.hpp"

namespace dirigo::ops {
namespace {

// y may be x.
Tensor dropped(const Context& context, const Tensor& x, Tensor y, double p, const RandomKey& key) {
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    T* out = y.data<T>();
    static_assert(element_grain % 4 == 0, "a block of elements must start at a Philox block");
    context.parallel_for<T>(x.size(), element_grain, [&](std::int64_t begin, std::int64_t end) {
      context.kernels<T>().dropout(end - begin, key.first + std::uint32_t(begin / 4), key.seed, key.step,
                                   key.purpose, T(p), in + begin, out + begin);
    });
  });
  return y;
}

Values reference(const Values& x, double p, const RandomKey& key) {
  Values y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const PhiloxCounter words = philox4x32({key.first + std::uint32_t(i / 4), 0, key.step, key.purpose},
                                           {std::uint32_t(key.seed), std::uint32_t(key.seed >> 32)});
    y[i] = double(words[i % 4]) >= p * 0x1p32 ? x[i] / (1 - p) : 0.0;
  }
  return y;
}

}  // namespace

Variable dropout(const Variable& x, double p, const RandomKey& key) {
  if (!(p >= 0 && p < 1)) throw_value("dropout", "p", "0 <= p < 1", std::to_string(p));
  if (p == 0) return x;
  Tensor y = Tensor::empty(x.context(), x.shape(), x.dtype());
  return x.tape().record("dropout", {x}, dropped(x.context(), row_major(x), y, p, key),
                         [p, key](Backward& pass) {
                           pass.add(0, dropped(pass.context(), pass.gradient(), pass.room(), p, key));
                         });
}

std::vector<OpCase> dropout_cases(const Context& context) {
  const auto make = [](const char* name, Tensor x, double p, std::int64_t first = 0) {
    const RandomKey key = random_key(0x123456789abcdefULL, 7, Purpose::dropout, 3).from(first);
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [p, key](Tape&, Variables v) { return dropout(v[0], p, key); },
                  .reference = [p, key](Tensors v) { return reference(v[0].to_vector(), p, key); }};
  };
  return {
      make("tenth", uniform(context, {7, 9}, 1), 0.1),
      make("half", uniform(context, {5, 3}, 2), 0.5),
      make("none", uniform(context, {5}, 3), 0),
      make("strided view", uniform(context, {6, 5}, 4).transpose(0, 1), 0.5),
      make("empty", uniform(context, {0}, 5), 0.5),
      make("part of a batch", uniform(context, {4, 5}, 6), 0.5, 9),
  };
}

}  // namespace dirigo::ops
