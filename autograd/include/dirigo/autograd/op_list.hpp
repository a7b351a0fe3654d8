// The op list: every differentiable operation with the cases that prove it.
//
// The audit and the tests walk op_list(): an operation that is not in it cannot be part of the engine, and
// one that is in it cannot go without a forward reference and a gradient check.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "dirigo/autograd/tape.hpp"

namespace dirigo {

using OpFunction = std::function<Variable(Tape&, std::span<const Variable>)>;

struct OpCase {
  std::string name;            // e.g. "broadcast row", "zero rows"
  std::vector<Tensor> inputs;  // f64
  OpFunction op;
  // The output by plain scalar loops, row-major; independent of the kernels.
  std::function<std::vector<double>(std::span<const Tensor>)> reference;
  double value_tolerance = 1e-12;    // on |error| / max(1, |reference|)
  double gradient_tolerance = 1e-9;  // likewise, against finite differences of `op`
  // Inputs that are differentiable here; empty: all.
  std::vector<bool> differentiable = {};
  // For operations whose derivative is not that of the value's path (straight-through, rejection sampling):
  // the expected input gradients for a cotangent, checked instead of finite differences.
  std::function<std::vector<Tensor>(std::span<const Tensor>, const Tensor&)> reference_vjp = nullptr;
  // For fused operations: the same function of primitive operations; must agree forward and backward.
  OpFunction composed = nullptr;
};

struct OpEntry {
  const char* name;
  const char* file;  // below autograd/src/ops
  std::vector<OpCase> (*cases)(const Context&);
};

std::span<const OpEntry> op_list();

}  // namespace dirigo
