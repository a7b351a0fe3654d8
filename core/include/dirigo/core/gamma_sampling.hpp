// Sampling from the Gamma distribution in log space.
#pragma once

#include "dirigo/core/philox.hpp"

namespace dirigo {

// y = log g of a draw g ~ Gamma(a, 1). A draw of Gamma(0.01) underflows float 42% of the time, its logarithm
// never does. NaN unless a > 0. The derivative dy/da is special::log_gamma_draw_derivative(a, y).
double log_gamma_draw(PhiloxStream& stream, double a);

}  // namespace dirigo
