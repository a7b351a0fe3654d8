// Gamma(shape a, rate 1) in log space, with implicit reparameterisation gradients (Figurnov, Mohamed, Mnih
// 2018).
#pragma once

#include "dirigo/autograd/tape.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo::nn {

// A batch of independent Gamma(a, 1) variables. Draws are y = log g: g itself underflows for small a.
class Gamma {
 public:
  // Any shape, a > 0. Throws ValueError for a value <= 0; NaN propagates.
  explicit Gamma(Variable concentration);

  Variable rsample_log(const RandomKey& key) const;  // y, with dy/da implicit
  Variable log_prob_of_log(
      const Tensor& y) const;  // log density of g = e^y (not of y): (a-1) y - e^y - lgamma(a)
  const Variable& concentration() const noexcept { return concentration_; }

 private:
  Variable concentration_;
};

}  // namespace dirigo::nn
