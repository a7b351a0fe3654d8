// The gradient checker: every vjp against an independent derivative, in double precision.
#pragma once

#include <cstdint>
#include <string>

#include "dirigo/autograd/op_list.hpp"

namespace dirigo {

struct GradientCheck {
  double worst_value_error = 0;     // |y - reference| / max(1, |reference|)
  double worst_gradient_error = 0;  // |vjp - finite difference| / max(1, |finite difference|)
  double worst_composed_error = 0;  // fused against composed, values and gradients
  std::string where;                // the worst element, for people
  bool ok = true;                   // all within the case's tolerances
};

// Checks the value against the reference, the vjp for a random cotangent against a sixth-order central
// difference (step 1e-3) of <cotangent, op(x)> in every element of every differentiable input, or against
// reference_vjp, and the composed form where there is one (within 100 value tolerances). A wrong number of
// elements is an infinite error.
GradientCheck check(const Context& context, const OpCase& op_case, std::uint64_t cotangent_seed = 5);

}  // namespace dirigo
