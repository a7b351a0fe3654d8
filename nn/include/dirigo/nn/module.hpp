// Module and Parameter: named weights that outlive the tape.
#pragma once

#include <string>
#include <vector>

#include "dirigo/autograd/tape.hpp"
#include "dirigo/core/function_ref.hpp"

namespace dirigo::nn {

// A weight and its gradient. The gradient is undefined until a backward pass has reached the parameter; the
// optimiser clears it.
struct Parameter {
  Tensor value;
  Tensor gradient;
  bool held = false;  // the optimiser gathers its moments but leaves the value alone

  // The parameter as a variable of a tape: backward() adds into `gradient`. May be used several times (tied
  // weights). The parameter must outlive the backward pass.
  Variable on(Tape& tape) { return tape.leaf(value, tape.recording() ? &gradient : nullptr); }
};

struct NamedParameter {
  std::string name;  // e.g. "blocks.0.attn.q.weight": stable, see docs/file-formats.md
  Parameter* parameter;
};

using ParameterVisitor = FunctionRef<void(const std::string& name, Parameter& parameter)>;

// Something with parameters. Visits them in a fixed order, names prefixed by `prefix`.
class Module {
 public:
  virtual ~Module() = default;
  virtual void visit(const std::string& prefix, ParameterVisitor visitor) = 0;

  std::vector<NamedParameter> parameters();
  std::int64_t parameter_count();
};

// "a" + "b" = "a.b"; "" + "b" = "b"
std::string join_names(const std::string& prefix, const std::string& name);

}  // namespace dirigo::nn
