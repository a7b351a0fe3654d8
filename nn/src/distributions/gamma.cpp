#include "dirigo/nn/distributions/gamma.hpp"

#include <cmath>

#include "concentration.hpp"
#include "dirigo/core/gamma_sampling.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::nn {
namespace {

constexpr std::int64_t grain = 256;  // elements; each costs some special functions, about 100 us together

// y_i = f(i) for all elements, in parallel; f returns double.
template <class F>
Tensor map_elements(const Context& context, const Shape& shape, DType dtype, F f) {
  Tensor result = Tensor::empty(context, shape, dtype);
  visit_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    T* out = result.data<T>();
    context.parallel_for<T>(result.size(), grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = T(f(i, zero));
    });
  });
  return result;
}

}  // namespace

Gamma::Gamma(Variable concentration) : concentration_(std::move(concentration)) {
  check_concentration("gamma", concentration_);
}

Variable Gamma::rsample_log(const RandomKey& key) const {
  const Context& context = concentration_.context();
  const Tensor a = concentration_.value().contiguous(context);
  const Tensor y = map_elements(context, a.shape(), a.dtype(), [&](std::int64_t i, auto zero) {
    PhiloxStream stream(key, std::uint32_t(i));
    return log_gamma_draw(stream, double(a.data<decltype(zero)>()[i]));
  });
  // da = dy D(a, y)
  return concentration_.tape().record("gamma_rsample_log", {concentration_}, y, [a, y](Backward& backward) {
    const Tensor& dy = backward.gradient();
    backward.add(0, map_elements(backward.context(), a.shape(), a.dtype(), [&](std::int64_t i, auto zero) {
                   using T = decltype(zero);
                   return double(dy.data<T>()[i]) *
                          special::log_gamma_draw_derivative(double(a.data<T>()[i]), double(y.data<T>()[i]));
                 }));
  });
}

Variable Gamma::log_prob_of_log(const Tensor& y) const {
  check_sample("gamma", y, concentration_);
  const Context& context = concentration_.context();
  const Tensor a = concentration_.value().contiguous(context);
  const Tensor sample = y.contiguous(context);
  Tensor value = map_elements(context, a.shape(), a.dtype(), [&](std::int64_t i, auto zero) {
    using T = decltype(zero);
    const double a_i = double(a.data<T>()[i]), y_i = double(sample.data<T>()[i]);
    return (a_i - 1) * y_i - std::exp(y_i) - special::lgamma(a_i);
  });
  // da = dlog_prob (y - psi(a))
  return concentration_.tape().record(
      "gamma_log_prob", {concentration_}, std::move(value), [a, sample](Backward& backward) {
        const Tensor& dvalue = backward.gradient();
        backward.add(0,
                     map_elements(backward.context(), a.shape(), a.dtype(), [&](std::int64_t i, auto zero) {
                       using T = decltype(zero);
                       return double(dvalue.data<T>()[i]) *
                              (double(sample.data<T>()[i]) - special::digamma(double(a.data<T>()[i])));
                     }));
      });
}

}  // namespace dirigo::nn
