// Every operation of the op list: values, gradients, fused against composed, and the rules of reverse mode
// that all of them must keep (gradients are linear in the cotangent, and add up wherever a tensor is used).
#include <algorithm>
#include <array>
#include <string_view>

#include "audit/areas.hpp"
#include "audit/checks.hpp"
#include "dirigo/autograd/gradient_check.hpp"
#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/errors.hpp"

namespace dirigo::tools {
namespace {

using Values = std::vector<double>;
using Tensors = std::vector<Tensor>;

constexpr std::array<std::uint64_t, 3> cotangent_seeds{5, 6, 7};
constexpr double linear_bound = 1e-12;     // of identities that hold up to rounding
constexpr double sink_bound = 1e-15;       // of the sum of a few gradients
constexpr double broadcast_bound = 1e-13;  // sums of a few terms

bool differentiable(const OpCase& op_case, std::size_t input) {
  return op_case.differentiable.empty() || op_case.differentiable[input];
}

Tensor random_like(const Context& context, const Tensor& like, std::uint32_t site) {
  return normal_tensor(context, like.shape(), site);
}

// An operation on leaves (constants where it is not differentiable), with the gradients for a cotangent.
struct Pass {
  Tensor value;
  Tensors gradients;  // undefined for inputs that are not differentiable
};

Pass run(const Context& context, const OpCase& op_case, const OpFunction& op, const Tensors& inputs,
         const Tensor& cotangent) {
  Tape tape(context);
  std::vector<Variable> variables;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    variables.push_back(differentiable(op_case, i) ? tape.leaf(inputs[i]) : tape.constant(inputs[i]));
  }
  const Variable output = op(tape, variables);
  Pass pass{output.value(), Tensors(inputs.size())};
  if (!output.requires_gradient()) return pass;
  tape.backward(output, cotangent);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (differentiable(op_case, i)) pass.gradients[i] = tape.gradient(variables[i]);
  }
  return pass;
}

Tensor value_of(const Context& context, const OpCase& op_case) {
  Tape tape(context, Tape::Mode::inference);
  std::vector<Variable> variables;
  for (const Tensor& input : op_case.inputs) variables.push_back(tape.constant(input));
  return op_case.op(tape, variables).value();
}

// The worst |got - (a x + b y)| / max(1, |a x| + |b y|).
double combination_error(const Tensor& got, double a, const Tensor& x, double b, const Tensor& y) {
  if (got.shape() != x.shape() || got.shape() != y.shape()) return HUGE_VAL;
  const Values result = got.to_vector(), u = x.to_vector(), v = y.to_vector();
  Worst worst;
  for (std::size_t i = 0; i < result.size(); ++i) {
    const double scale = std::max(1.0, std::abs(a * u[i]) + std::abs(b * v[i]));
    worst.see(std::abs(result[i] - (a * u[i] + b * v[i])) / scale);
  }
  return worst.value();
}

// --- the properties ----------------------------------------------------------------------------------------
// Each returns the error of one case.

// vjp(2 c - 3 c') = 2 vjp(c) - 3 vjp(c')
double linearity_error(const Context& context, const OpCase& op_case) {
  const Tensor value = value_of(context, op_case);
  const Tensor first = random_like(context, value, 1), second = random_like(context, value, 2);
  const Values c = first.to_vector(), d = second.to_vector();
  Values combined;
  for (std::size_t i = 0; i < c.size(); ++i) combined.push_back(2 * c[i] - 3 * d[i]);
  const auto gradients = [&](const Tensor& cotangent) {
    return run(context, op_case, op_case.op, op_case.inputs, cotangent).gradients;
  };
  const Tensors of_first = gradients(first), of_second = gradients(second),
                of_both = gradients(Tensor::from<double>(context, value.shape(), combined));
  Worst worst;
  for (std::size_t i = 0; i < of_both.size(); ++i) {
    if (of_both[i].defined()) worst.see(combination_error(of_both[i], 2, of_first[i], -3, of_second[i]));
  }
  return worst.value();
}

// op(x) + op(x)/2 sends 3/2 vjp back to x.
double two_uses_error(const Context& context, const OpCase& op_case) {
  const Tensor cotangent = random_like(context, value_of(context, op_case), 3);
  const OpFunction twice = [&](Tape& tape, std::span<const Variable> x) {
    const Variable y = op_case.op(tape, x);
    return ops::add(y, ops::scale(op_case.op(tape, x), 0.5));
  };
  const Pass once = run(context, op_case, op_case.op, op_case.inputs, cotangent);
  const Pass both = run(context, op_case, twice, op_case.inputs, cotangent);
  Worst worst;
  for (std::size_t i = 0; i < once.gradients.size(); ++i) {
    if (once.gradients[i].defined())
      worst.see(combination_error(both.gradients[i], 1.5, once.gradients[i], 0, once.gradients[i]));
  }
  return worst.value();
}

// One tensor as two inputs of an operation receives the sum of what two equal tensors receive.
double shared_input_error(const Context& context, const OpCase& op_case) {
  Worst worst;
  for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
    for (std::size_t j = i + 1; j < op_case.inputs.size(); ++j) {
      const bool alike = op_case.inputs[i].shape() == op_case.inputs[j].shape();
      if (!alike || !differentiable(op_case, i) || !differentiable(op_case, j)) continue;
      Tensors inputs = op_case.inputs;
      inputs[j] = inputs[i];
      const Tensor cotangent = random_like(context, value_of(context, op_case), 4);
      const OpFunction sharing = [&](Tape& tape, std::span<const Variable> x) {
        std::vector<Variable> variables(x.begin(), x.end());
        variables[j] = variables[i];
        return op_case.op(tape, variables);
      };
      const Pass apart = run(context, op_case, op_case.op, inputs, cotangent);
      const Pass together = run(context, op_case, sharing, inputs, cotangent);
      if (!apart.gradients[i].defined()) continue;
      worst.see(combination_error(together.gradients[i], 1, apart.gradients[i], 1, apart.gradients[j]));
    }
  }
  return worst.value();
}

// Two passes add up in the sinks (up to rounding where the operation itself uses an input more than once, for
// then the contributions of both passes are added in turn); a second backward() of one pass is refused.
double accumulation_error(const Context& context, const OpCase& op_case) {
  const Tensor cotangent = random_like(context, value_of(context, op_case), 5);
  const Pass once = run(context, op_case, op_case.op, op_case.inputs, cotangent);
  Tensors sinks(op_case.inputs.size());
  Worst worst;
  for (int pass = 0; pass < 2; ++pass) {
    Tape tape(context);
    std::vector<Variable> variables;
    for (std::size_t i = 0; i < sinks.size(); ++i) {
      const Tensor& input = op_case.inputs[i];
      variables.push_back(differentiable(op_case, i) ? tape.leaf(input, &sinks[i]) : tape.constant(input));
    }
    const Variable output = op_case.op(tape, variables);
    if (!output.requires_gradient()) return 0;
    tape.backward(output, cotangent);
    try {
      tape.backward(output, cotangent);
      return HUGE_VAL;
    } catch (const StateError&) {
    }
  }
  for (std::size_t i = 0; i < sinks.size(); ++i) {
    if (sinks[i].defined())
      worst.see(combination_error(sinks[i], 2, once.gradients[i], 0, once.gradients[i]));
  }
  return worst.value();
}

// Its first and last axes swapped in memory.
Tensor strided_copy(const Context& context, const Tensor& x) {
  const int last = x.rank() - 1;
  return x.rank() < 2 ? x : x.transpose(0, last).clone(context).transpose(0, last);
}

// Strided inputs give the bits of row-major ones.
double strided_error(const Context& context, const OpCase& op_case) {
  Tensors plain, strided;
  for (const Tensor& input : op_case.inputs) {
    plain.push_back(input.clone(context));
    strided.push_back(strided_copy(context, input));
  }
  const Tensor cotangent = random_like(context, value_of(context, op_case), 6);
  const Pass expected = run(context, op_case, op_case.op, plain, cotangent);
  const Pass got = run(context, op_case, op_case.op, strided, cotangent);
  double different = different_bits(got.value.contiguous(context), expected.value.contiguous(context));
  for (std::size_t i = 0; i < plain.size(); ++i) {
    if (expected.gradients[i].defined())
      different +=
          different_bits(got.gradients[i].contiguous(context), expected.gradients[i].contiguous(context));
  }
  return different;
}

// Where nothing goes in or comes out: shapes are right, and no gradient comes from nowhere.
double zero_size_faults(const Context& context, const OpCase& op_case) {
  const Tensor value = value_of(context, op_case);
  double faults = op_case.reference(op_case.inputs).size() != std::size_t(value.size());
  const Pass pass = run(context, op_case, op_case.op, op_case.inputs, random_like(context, value, 7));
  for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
    const Tensor& gradient = pass.gradients[i];
    if (!gradient.defined()) continue;
    if (gradient.shape() != op_case.inputs[i].shape()) return HUGE_VAL;
    if (value.size() > 0) continue;
    for (const double element : gradient.to_vector()) faults += element != 0;
  }
  return faults;
}

// For every element of `shape`, the element of an operand that broadcasting puts there.
std::vector<std::size_t> broadcast_sources(const Shape& operand, const Shape& shape) {
  std::vector<std::size_t> sources;
  for (std::int64_t i = 0; i < shape.size(); ++i) {
    std::int64_t rest = i, source = 0, step = 1;
    for (int axis = 1; axis <= operand.rank(); ++axis) {
      source += rest % shape[-axis] % operand[-axis] * step;
      step *= operand[-axis];
      rest /= shape[-axis];
    }
    sources.push_back(std::size_t(source));
  }
  return sources;
}

// A broadcast operand is the operand copied to the full shape, and its gradient the sum over the copies.
double broadcast_error(const Context& context, const OpCase& op_case) {
  const Tensor cotangent = random_like(context, value_of(context, op_case), 8);
  const Pass got = run(context, op_case, op_case.op, op_case.inputs, cotangent);
  const Shape& shape = got.value.shape();
  Tensors copied;
  for (const Tensor& input : op_case.inputs) {
    const Values x = input.to_vector();
    Values values;
    for (const std::size_t source : broadcast_sources(input.shape(), shape)) values.push_back(x[source]);
    copied.push_back(Tensor::from<double>(context, shape, values));
  }
  const Pass expected = run(context, op_case, op_case.op, copied, cotangent);
  Worst worst;
  worst.see(worst_difference(got.value, expected.value));
  for (std::size_t i = 0; i < copied.size(); ++i) {
    const Tensor& input = op_case.inputs[i];
    const Values gradient = expected.gradients[i].to_vector();
    const std::vector<std::size_t> sources = broadcast_sources(input.shape(), shape);
    Values sums(std::size_t(input.size()), 0.0);
    for (std::size_t e = 0; e < sources.size(); ++e) sums[sources[e]] += gradient[e];
    worst.see(worst_difference(got.gradients[i], Tensor::from<double>(context, input.shape(), sums)));
  }
  return worst.value();
}

// --- which cases a property is about -----------------------------------------------------------------------

bool any_case(const OpCase&) {
  return true;
}
bool has_two_alike(const OpCase& op_case) {
  for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
    for (std::size_t j = i + 1; j < op_case.inputs.size(); ++j) {
      if (op_case.inputs[i].shape() == op_case.inputs[j].shape() && op_case.inputs[i].size() > 0) return true;
    }
  }
  return false;
}
bool has_matrix(const OpCase& op_case) {
  return std::any_of(op_case.inputs.begin(), op_case.inputs.end(),
                     [](const Tensor& x) { return x.rank() >= 2 && x.shape()[0] > 1 && x.shape()[-1] > 1; });
}
bool has_zero_size(const OpCase& op_case) {
  const bool input = std::any_of(op_case.inputs.begin(), op_case.inputs.end(),
                                 [](const Tensor& x) { return x.size() == 0; });
  return input || op_case.reference(op_case.inputs).empty();
}
bool stretches(const OpCase& op_case) {
  return op_case.inputs.size() == 2 && op_case.inputs[0].shape() != op_case.inputs[1].shape();
}

struct Property {
  const char* name;
  const char* how;
  double bound;
  bool (*concerns)(const OpCase&);
  double (*error)(const Context&, const OpCase&);
};

constexpr std::array<Property, 6> properties{{
    {"linear in the cotangent", "vjp(2c - 3c') = 2 vjp(c) - 3 vjp(c'), random c and c'", linear_bound,
     any_case, linearity_error},
    {"used twice", "op(x) + op(x)/2 sends back 3/2 of the gradient", linear_bound, any_case, two_uses_error},
    {"one tensor as two inputs", "its gradient is the sum of both inputs'", linear_bound, has_two_alike,
     shared_input_error},
    {"accumulation", "two passes add up in a sink; a second backward() is refused", sink_bound, any_case,
     accumulation_error},
    {"strided inputs", "elements whose bits differ from those of row-major inputs, both directions", 0,
     has_matrix, strided_error},
    {"zero size", "wrong shapes and gradients from nowhere", 0, has_zero_size, zero_size_faults},
}};
constexpr Property broadcasting{"broadcasting", "against operands copied to the full shape, gradients summed",
                                broadcast_bound, stretches, broadcast_error};

// The page of docs/mathematics that derives an operation.
std::string section_of(std::string_view op) {
  constexpr std::pair<std::string_view, const char*> pages[] = {
      {"full_attention", "softmax-attention"},
      {"local_attention", "sliding-window"},
      {"linear_attention", "linear-attention"},
      {"rotary", "positions"},
      {"mix_rows", "straight-through"},
      {"layer_norm", "layer-norm"},
      {"cross_entropy", "cross-entropy"},
      {"one_hot_straight_through", "straight-through"},
      {"dirichlet_rsample", "implicit-reparameterisation"},
      {"dirichlet_kl", "dirichlet"},
      {"dirichlet_entropy", "dirichlet"},
  };
  for (const auto& [name, page] : pages) {
    if (name == op) return page;
  }
  return "reverse-mode";
}

// The error that comes closest to its bound, or exceeds it most.
class Closest {
 public:
  void see(double error, double bound) {
    if (std::isnan(error)) error = HUGE_VAL;
    if (seen_ && error / bound <= error_ / bound_) return;
    error_ = error;
    bound_ = bound;
    seen_ = true;
  }
  bool seen() const { return seen_; }
  double error() const { return error_; }
  double bound() const { return bound_; }

 private:
  double error_ = 0, bound_ = 0;
  bool seen_ = false;
};

class OpAudit {
 public:
  OpAudit(const Context& context, const OpEntry& entry)
      : context_(context), entry_(entry), cases_(entry.cases(context)) {}

  std::vector<Claim> claims() {
    against_references();
    for (const Property& property : properties) check(property);
    const std::string_view name = entry_.name;
    if (name == "add" || name == "multiply") check(broadcasting);
    return std::move(claims_);
  }

 private:
  void add(const std::string& property, const std::string& how, double error, double bound) {
    claims_.push_back({"ops/" + std::string(entry_.name) + ": " + property, how, error, bound,
                       "autograd/src/ops/" + std::string(entry_.file), section_of(entry_.name)});
  }

  void against_references() {
    Closest value, gradient, composed;
    bool by_definition = false;
    for (const OpCase& op_case : cases_) {
      by_definition = by_definition || op_case.reference_vjp;
      for (const std::uint64_t seed : cotangent_seeds) {
        const GradientCheck result = dirigo::check(context_, op_case, seed);
        value.see(result.worst_value_error, op_case.value_tolerance);
        gradient.see(result.worst_gradient_error, op_case.gradient_tolerance);
        if (op_case.composed) composed.see(result.worst_composed_error, 100 * op_case.value_tolerance);
      }
    }
    const std::string cases = std::to_string(cases_.size()) + " cases";
    add("value", "scalar loops in double, " + cases, value.error(), value.bound());
    add("gradient",
        std::string(by_definition ? "the estimator's definition"
                                  : "sixth-order central difference, h = 1e-3") +
            ", " + std::to_string(cotangent_seeds.size()) + " random cotangents, " + cases,
        gradient.error(), gradient.bound());
    if (composed.seen()) {
      add("fused = composed", "the same function of primitive operations, forward and backward",
          composed.error(), composed.bound());
    }
  }

  void check(const Property& property) {
    Worst worst;
    bool concerned = false;
    for (const OpCase& op_case : cases_) {
      if (!property.concerns(op_case)) continue;
      concerned = true;
      worst.see(property.error(context_, op_case));
    }
    if (concerned) add(property.name, property.how, worst.value(), property.bound);
  }

  const Context& context_;
  const OpEntry& entry_;
  std::vector<OpCase> cases_;
  std::vector<Claim> claims_;
};

}  // namespace

std::vector<AuditTask> ops_audit() {
  std::vector<AuditTask> tasks;
  for (const OpEntry& entry : op_list()) {
    tasks.push_back({"ops/" + std::string(entry.name),
                     [&entry](const Context& context) { return OpAudit(context, entry).claims(); }});
  }
  return tasks;
}

}  // namespace dirigo::tools
