// Values of the special functions and the Dirichlet closed forms at exact double arguments, from 60-digit
// arithmetic (generate_reference_values.py). long double, so that their own rounding does not count as ours.
#pragma once

#include <array>
#include <span>

namespace dirigo::tools {

struct GammaFamilyValue {
  double x;
  long double lgamma, digamma, trigamma;
};

struct DrawDerivativeValue {  // D(a, y) of docs/mathematics.md, section 4
  double a, y;
  long double d;
};

struct DirichletValue {
  std::array<double, 3> b, p, y;
  long double log_beta, kl;
  std::array<long double, 3> kl_gradient;
  long double entropy;
  std::array<long double, 3> entropy_gradient;
  long double expected_categorical_entropy, mutual_information;
  long double log_prob;  // at alpha = softmax(y)
};

// The null router of the paper's prior (0.01, 0.86, 0.71) with costs (1, 0.15, 0.3).
struct NullRow {
  long double entropy_mean_pct, entropy_sampled_pct, projected_cost_pct, argmax_cost_pct, mutual_information,
      differential_entropy;
};

std::span<const GammaFamilyValue> gamma_family_values();
std::span<const DrawDerivativeValue> draw_derivative_values();
std::span<const DirichletValue> dirichlet_values();
const NullRow& null_row();

}  // namespace dirigo::tools
