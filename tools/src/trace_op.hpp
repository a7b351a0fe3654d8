// An operation of the op list on inputs of the reader's own.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dirigo/autograd/op_list.hpp"
#include "dirigo/core/philox.hpp"
#include "trace.hpp"

namespace dirigo::tools {

struct OpCall {
  std::string op;
  std::vector<std::string> input_names;
  std::vector<Tensor> inputs;  // f64
  std::vector<bool> differentiable;
  OpFunction function;
  Tensor cotangent;                                           // undefined: ones
  std::vector<std::pair<std::string, std::string>> settings;  // options, as JSON text
};

// The entry of the op list; throws ValueError naming the nearest.
const OpEntry& find_op(const std::string& name);
// "x weight bias?": the names of an operation's inputs, `?` optional, `*` any number; and its options.
std::string describe_op(const Context& context, const OpEntry& entry);

// The first case of the operation.
OpCall first_case(const Context& context, const OpEntry& entry);
// {"inputs": [...], "options": {...}, "cotangent": ...}; inputs are nested arrays or {"shape", "values"},
// what is not given is as in the first case (cotangent: ones). Throws IoError and ValueError naming file and
// field.
OpCall read_call(const Context& context, const OpEntry& entry, const std::string& path);

// The draws y = log g of ops::dirichlet_rsample under a key, and their derivatives D(b, y).
std::vector<std::pair<std::string, Tensor>> dirichlet_draws(const Context& context,
                                                            const Tensor& concentration,
                                                            const RandomKey& key);

// Runs it forward and backward.
Trace trace_op(const Context& context, const OpCall& call);

}  // namespace dirigo::tools
