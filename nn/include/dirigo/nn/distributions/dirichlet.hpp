// A batch of Dirichlet distributions: the controller's posterior over attention experts.
#pragma once

#include <span>

#include "dirigo/autograd/tape.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo::nn {

class Dirichlet {
 public:
  // (N, K), K >= 1. Throws ShapeError for another shape and ValueError for a value <= 0; NaN propagates.
  explicit Dirichlet(Variable concentration);

  Variable mean() const;                                           // b / sum b: (N, K)
  Variable rsample(const RandomKey& key, double floor = 0) const;  // (N, K), implicit gradients
  // (N): log density at alpha (N, K), which is normalised to sum 1; computed in double. alpha counts as
  // constant. Throws ShapeError for another shape or dtype.
  Variable log_prob(const Tensor& alpha) const;
  Variable kl(std::span<const double> prior) const;  // KL(this || Dir(prior)): (N)
  Variable entropy() const;                          // differential entropy: (N)
  const Variable& concentration() const noexcept { return concentration_; }

 private:
  Variable concentration_;
};

}  // namespace dirigo::nn
