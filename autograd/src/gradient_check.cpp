#include "dirigo/autograd/gradient_check.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "dirigo/core/philox.hpp"

namespace dirigo {
namespace {

using Values = std::vector<double>;

bool differentiable(const OpCase& op_case, std::size_t input) {
  return op_case.differentiable.empty() || op_case.differentiable[input];
}

struct Run {
  Tensor value;
  std::vector<Tensor> gradients;  // of the differentiable inputs; undefined for the others
};

// The value of `op`, and with a cotangent the gradients too.
Run run(const Context& context, const OpCase& op_case, const OpFunction& op, std::span<const Tensor> inputs,
        const Tensor& cotangent = {}) {
  Tape tape(context, cotangent.defined() ? Tape::Mode::training : Tape::Mode::inference);
  std::vector<Variable> variables;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    variables.push_back(differentiable(op_case, i) ? tape.leaf(inputs[i]) : tape.constant(inputs[i]));
  }
  const Variable output = op(tape, variables);
  Run result{output.value(), std::vector<Tensor>(inputs.size())};
  if (!cotangent.defined() || !output.requires_gradient()) return result;
  tape.backward(output, cotangent);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (differentiable(op_case, i)) result.gradients[i] = tape.gradient(variables[i]);
  }
  return result;
}

Tensor random_cotangent(const Context& context, const Shape& shape, std::uint64_t seed) {
  PhiloxStream stream(random_key(seed, 0, Purpose::test), 0);
  Values values(static_cast<std::size_t>(shape.size()));
  for (double& value : values) value = 2 * stream.uniform() - 1;
  return Tensor::from<double>(context, shape, values);
}

// The worst of |actual - expected| / max(1, |expected|). NaN is the worst there is, unless it is expected.
class Comparison {
 public:
  Comparison(GradientCheck& result, double tolerance) : result_(result), tolerance_(tolerance) {}

  void compare(const std::string& what, const Values& actual, const Values& expected, double& worst) {
    if (actual.size() != expected.size()) {
      worst = HUGE_VAL;
      fail(what + ": " + std::to_string(actual.size()) + " elements instead of " +
           std::to_string(expected.size()));
      return;
    }
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double error = std::abs(actual[i] - expected[i]) / std::max(1.0, std::abs(expected[i]));
      if (!(error > worst) && !std::isnan(error)) continue;
      worst = std::isnan(error) ? HUGE_VAL : error;
      if (worst > tolerance_) {
        fail(what + "[" + std::to_string(i) + "]: " + std::to_string(actual[i]) + " instead of " +
             std::to_string(expected[i]));
      }
    }
  }

 private:
  void fail(std::string where) {
    result_.where = std::move(where);
    result_.ok = false;
  }
  GradientCheck& result_;
  double tolerance_;
};

// d <cotangent, op(x)> / dx in every element of one input, with a sixth-order central difference:
//   f'(x) = (45 (f(x+h) - f(x-h)) - 9 (f(x+2h) - f(x-2h)) + (f(x+3h) - f(x-3h))) / 60h + O(h^6).
// At h = 1e-3 rounding costs ~2e-13 f, and truncation ~1e-20 f^(7) is about as little for x log x at 0.1.
Values finite_difference(const Context& context, const OpCase& op_case, std::size_t input,
                         const Values& cotangent) {
  std::vector<Tensor> inputs = op_case.inputs;
  inputs[input] = inputs[input].clone(context);
  const std::span<double> x = inputs[input].span<double>();
  const auto value_at = [&](std::size_t element, double at) {
    const double before = std::exchange(x[element], at);
    const Values y = run(context, op_case, op_case.op, inputs).value.to_vector();
    x[element] = before;
    double dot = 0;
    for (std::size_t i = 0; i < y.size(); ++i) dot += cotangent[i] * y[i];
    return dot;
  };
  constexpr double h = 1e-3;
  Values derivative;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    const auto difference = [&](double step) { return value_at(i, at + step) - value_at(i, at - step); };
    derivative.push_back((45 * difference(h) - 9 * difference(2 * h) + difference(3 * h)) / (60 * h));
  }
  return derivative;
}

std::string input_name(std::size_t input) {
  return "gradient of input " + std::to_string(input);
}

}  // namespace

GradientCheck check(const Context& context, const OpCase& op_case, std::uint64_t cotangent_seed) {
  GradientCheck result;
  const std::span<const Tensor> inputs = op_case.inputs;
  const Tensor value = run(context, op_case, op_case.op, inputs).value;
  Comparison(result, op_case.value_tolerance)
      .compare("value", value.to_vector(), op_case.reference(inputs), result.worst_value_error);

  const Tensor cotangent = random_cotangent(context, value.shape(), cotangent_seed);
  const Run fused = run(context, op_case, op_case.op, inputs, cotangent);
  std::vector<Tensor> expected;
  if (op_case.reference_vjp) expected = op_case.reference_vjp(inputs, cotangent);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!differentiable(op_case, i)) continue;
    const Values derivative = op_case.reference_vjp
                                  ? expected[i].to_vector()
                                  : finite_difference(context, op_case, i, cotangent.to_vector());
    Comparison(result, op_case.gradient_tolerance)
        .compare(input_name(i), fused.gradients[i].to_vector(), derivative, result.worst_gradient_error);
  }

  if (!op_case.composed) return result;
  const Run composed = run(context, op_case, op_case.composed, inputs, cotangent);
  // Two exact derivatives: far closer to each other than to a finite difference.
  Comparison comparison(result, 100 * op_case.value_tolerance);
  comparison.compare("composed value", fused.value.to_vector(), composed.value.to_vector(),
                     result.worst_composed_error);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!differentiable(op_case, i)) continue;
    comparison.compare("composed, " + input_name(i), fused.gradients[i].to_vector(),
                       composed.gradients[i].to_vector(), result.worst_composed_error);
  }
  return result;
}

}  // namespace dirigo
