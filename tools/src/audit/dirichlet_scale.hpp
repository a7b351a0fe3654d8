// The magnitudes against which the errors of Dirichlet closed forms are judged: the sums of the absolute
// values of their terms, for the terms cancel (docs/mathematics.md, section 3).
#pragma once

#include <cmath>
#include <cstddef>
#include <numeric>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::tools::scale {

using dirichlet::Values;

inline double sum(Values v) {
  return std::accumulate(v.begin(), v.end(), 0.0);
}

inline double log_beta(Values b) {
  double total = std::fabs(special::lgamma(sum(b)));
  for (const double b_i : b) total += std::fabs(special::lgamma(b_i));
  return total;
}

inline double kl(Values b, Values p) {
  double total = log_beta(b) + log_beta(p);
  const double psi_s = std::fabs(special::digamma(sum(b)));
  for (std::size_t i = 0; i < b.size(); ++i)
    total += std::fabs(b[i] - p[i]) * (std::fabs(special::digamma(b[i])) + psi_s);
  return total;
}

// Of derivative i.
inline double kl_gradient(Values b, Values p, std::size_t i) {
  const double s = sum(b);
  return std::fabs((b[i] - p[i]) * special::trigamma(b[i])) + std::fabs((s - sum(p)) * special::trigamma(s));
}

inline double entropy(Values b) {
  const double s = sum(b);
  double total = log_beta(b) + std::fabs((s - double(b.size())) * special::digamma(s));
  for (const double b_i : b) total += std::fabs((b_i - 1) * special::digamma(b_i));
  return total;
}

inline double entropy_gradient(Values b, std::size_t i) {
  const double s = sum(b);
  return std::fabs((s - double(b.size())) * special::trigamma(s)) +
         std::fabs((b[i] - 1) * special::trigamma(b[i]));
}

// For the expected categorical entropy, and the mutual information, whose other part is at most log K.
inline double expected_entropy(Values b) {
  const double s = sum(b);
  double total = std::fabs(special::digamma(s + 1));
  for (const double b_i : b) total += std::fabs(b_i / s * special::digamma(b_i + 1));
  return total;
}

}  // namespace dirigo::tools::scale
