// Derivation: docs/mathematics/implicit-reparameterisation.md
#include "dirigo/core/gamma_sampling.hpp"

#include <cmath>
#include <limits>

namespace dirigo {
namespace {

// a >= 1: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000. g = d (1 + c z)^3 with
// z normal; the squeeze spares the two logarithms of the exact test in most cases.
double log_gamma_draw_at_least_one(PhiloxStream& stream, double a) {
  const double d = a - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double z = stream.normal();
    const double root = 1.0 + c * z;
    if (root <= 0.0) continue;
    const double u = stream.uniform();
    const double z2 = z * z;
    const double log_v = 3.0 * std::log(root);
    if (u < 1.0 - 0.0331 * z2 * z2 || std::log(u) < 0.5 * z2 + d * (1.0 - root * root * root + log_v)) {
      return std::log(d) + log_v;
    }
  }
}

}  // namespace

double log_gamma_draw(PhiloxStream& stream, double a) {
  if (!(a > 0.0)) return std::numeric_limits<double>::quiet_NaN();
  if (a >= 1.0) return log_gamma_draw_at_least_one(stream, a);
  // Gamma(a) = Gamma(a + 1) U^(1/a): in log space the power is a division that cannot underflow.
  const double boosted = log_gamma_draw_at_least_one(stream, a + 1.0);
  return boosted + std::log(stream.uniform()) / a;
}

}  // namespace dirigo
