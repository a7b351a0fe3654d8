// A computation written out: every node of a tape with its inputs, its value and its gradient.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "dirigo/autograd/tape.hpp"

namespace dirigo::tools {

struct TraceNode {
  std::string name;                 // unique: "x", "blocks.0.attn.q.weight", "softmax_1"
  std::string op;                   // "softmax"; "leaf" or "constant" for what was put in
  std::vector<std::size_t> inputs;  // nodes, all before this one
  Tensor value;
  Tensor gradient;  // undefined for a constant, and where backward() had nothing to pass
};

struct Trace {
  std::string title;
  std::vector<std::pair<std::string, std::string>> settings;  // name, value as JSON text
  std::vector<std::pair<std::string, Tensor>> drawn;          // what the operation drew at random
  std::vector<TraceNode> nodes;                               // the output is the last
};

// Writes down what a tape does. A leaf is named by `leaf_name`; leaves of one name are one node (a parameter
// that is used twice).
class Tracer : public TapeObserver {
 public:
  Tracer(const Context& context, Trace& trace, std::function<std::string(const Tensor&)> leaf_name)
      : context_(context), trace_(trace), leaf_name_(std::move(leaf_name)) {}

  void recorded(std::string_view op, std::span<const Variable> inputs,
                std::span<const std::int32_t> input_nodes, const Tensor& value) override;
  void passed(std::int32_t node, const Tensor& gradient) override;

 private:
  std::size_t add(std::string name, std::string op, const Tensor& value);
  std::string numbered(const std::string& op);

  const Context& context_;
  Trace& trace_;
  std::function<std::string(const Tensor&)> leaf_name_;
  std::map<std::string, std::size_t> leaves_;
  std::map<std::string, int> counts_;    // of each op, for names
  std::vector<std::size_t> tape_nodes_;  // node of the tape -> node of the trace
};

// One step of a routed model of two tokens and two heads, small enough to be done on paper.
Trace trace_model(const Context& context);

std::string trace_text(const Trace& trace);  // for people, at most 100 columns where numbers allow
std::string trace_dot(const Trace& trace);   // for Graphviz
std::string trace_json(const Trace& trace);  // docs/file-formats.md

}  // namespace dirigo::tools
