// What the areas of the audit share: the worst of many errors, comparisons, and random inputs.
#pragma once

#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "dirigo/core/philox.hpp"
#include "dirigo/core/tensor.hpp"

namespace dirigo::tools {

// The largest error seen; a NaN is worse than any number.
class Worst {
 public:
  void see(double error) {
    if (!(error <= value_)) value_ = std::isnan(error) ? HUGE_VAL : error;
  }
  double value() const { return value_; }

 private:
  double value_ = 0;
};

// How many elements differ in any bit; infinite for another number of them.
template <class T>
double different_bits(std::span<const T> a, std::span<const T> b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += std::memcmp(&a[i], &b[i], sizeof(T)) != 0;
  return count;
}

inline double different_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return HUGE_VAL;
  return visit_dtype(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    return different_bits(a.span<T>(), b.span<T>());
  });
}

// The worst |got - expected| / max(1, |expected|); infinite for another shape.
inline double worst_difference(const Tensor& got, const Tensor& expected) {
  if (got.shape() != expected.shape()) return HUGE_VAL;
  const std::vector<double> a = got.to_vector(), b = expected.to_vector();
  Worst worst;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst.see(a[i] == b[i] ? 0 : std::abs(a[i] - b[i]) / std::fmax(1.0, std::abs(b[i])));
  }
  return worst.value();
}

// Standard normal values, the same for the same site.
inline Tensor normal_tensor(const Context& context, const Shape& shape, std::uint32_t site,
                            DType dtype = DType::f64) {
  PhiloxStream stream(random_key(17, 0, Purpose::test, site), 0);
  std::vector<double> values(static_cast<std::size_t>(shape.size()));
  for (double& value : values) value = stream.normal();
  return Tensor::from<double>(context, shape, values).cast(context, dtype);
}

// Uniform in (low, high).
inline std::vector<float> uniform_floats(std::size_t n, double low, double high, std::uint32_t site) {
  PhiloxStream stream(random_key(18, 0, Purpose::test, site), 0);
  std::vector<float> values(n);
  for (float& value : values) value = float(low + (high - low) * stream.uniform());
  return values;
}

}  // namespace dirigo::tools
