// Reverse-mode differentiation on an explicit tape.
//
// A Tape records operations in the order in which they run; backward() walks the record in reverse and
// accumulates, for every node, the derivative of one scalar with respect to that node's value:
//   dL/dx_i += (dy/dx_i)^T dL/dy    (the vector-Jacobian product, "vjp", of each operation).
// Tapes are values of the caller: none is global or thread-local. A node keeps only what its vjp captured,
// and backward() releases it on the way. A Variable of an earlier generation of the tape is refused
// (StateError).
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dirigo/core/tensor.hpp"

namespace dirigo {

class PackedWeights;
class Tape;

// A tensor that was computed on a tape. Cheap to copy.
class Variable {
 public:
  Variable() = default;  // empty: stands for an optional input that is absent

  bool defined() const noexcept { return value_.defined(); }
  const Tensor& value() const noexcept { return value_; }
  const Shape& shape() const noexcept { return value_.shape(); }
  DType dtype() const noexcept { return value_.dtype(); }
  // Whether backward() will reach this value.
  bool requires_gradient() const noexcept { return index_ >= 0; }
  Tape& tape() const;  // throws StateError when empty
  const Context& context() const;

 private:
  friend class Tape;
  Tensor value_;
  Tape* tape_ = nullptr;
  std::int32_t index_ = -1;       // node, or -1 for a constant
  std::uint32_t generation_ = 0;  // of the tape
};

// What an operation's vjp sees while backward() passes it.
class Backward {
 public:
  const Context& context() const noexcept;
  // dL/dy: same shape and dtype as the output, row-major.
  const Tensor& gradient() const noexcept { return gradient_; }
  // Whether input i wants a gradient; skip the work when it does not.
  bool needs(std::size_t input) const noexcept;
  // Adds dx (row-major, of the input's shape) to the gradient of input i. Ignored unless needs(i). Hand it
  // over by std::move: a tensor that nobody else holds may become the sum.
  void add(std::size_t input, Tensor dx);
  // The sum so far for input i, if it may be written to; else an undefined tensor. The caller adds to it in
  // place and hands it back with add(), which spares a pass over memory.
  Tensor take(std::size_t input);
  // Room for a result of the gradient's shape: the gradient itself where nobody else holds it. For functions
  // that read an element of the gradient before they write the result's, and need the gradient no more.
  Tensor room() const;
  // Tape::packed_weights().
  PackedWeights* packed_weights() const noexcept;

 private:
  friend class Tape;
  Backward(Tape& tape, std::span<const std::int32_t> inputs, Tensor gradient)
      : tape_(tape), inputs_(inputs), gradient_(std::move(gradient)) {}
  Tape& tape_;
  std::span<const std::int32_t> inputs_;
  Tensor gradient_;
};

using Vjp = std::function<void(Backward&)>;

// Sees what a tape records and what backward() passes, for tools that show a computation. Nodes are numbered
// from 0 in the order of recording. Tensors are handles: clone what has to outlive the call.
class TapeObserver {
 public:
  virtual ~TapeObserver() = default;
  // `inputs` are the node's variables, empty for a leaf; input_nodes[i] is -1 for a constant or absent input.
  virtual void recorded(std::string_view name, std::span<const Variable> inputs,
                        std::span<const std::int32_t> input_nodes, const Tensor& value) = 0;
  // The complete gradient of a node that backward() reached; of a leaf with a sink, what the sink holds.
  virtual void passed(std::int32_t node, const Tensor& gradient) = 0;
};

class Tape {
 public:
  enum class Mode { training, inference };  // inference records nothing: every variable is a constant

  explicit Tape(const Context& context, Mode mode = Mode::training);
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  const Context& context() const noexcept { return context_; }
  bool recording() const noexcept { return mode_ == Mode::training; }

  // A value that needs no gradient.
  Variable constant(Tensor value);
  // A value whose gradient is wanted. If `sink` is given, backward() adds the gradient to it (or sets it
  // where it is undefined) instead of keeping it on the tape. `value` must not be written before backward()
  // has run.
  Variable leaf(Tensor value, Tensor* sink = nullptr);

  // For operations: the output of `name` with its vjp, which is dropped when no input needs a gradient.
  // Empty inputs are allowed (Backward::needs is false for them).
  Variable record(std::string_view name, std::initializer_list<Variable> inputs, Tensor output, Vjp vjp);
  Variable record(std::string_view name, std::span<const Variable> inputs, Tensor output, Vjp vjp);

  // Runs the reverse pass from `output` with cotangent `seed` (default: ones). May be called once per
  // generation: saved values are released on the way. Throws StateError otherwise, and when no leaf reaches
  // `output`; ShapeError for a seed of another shape or dtype.
  void backward(const Variable& output, const Tensor& seed = {});
  // A copy of the gradient of a leaf without sink (zeros if backward() did not reach it). Throws StateError
  // for anything else, and before backward().
  Tensor gradient(const Variable& leaf) const;

  // Lets products read weights that `weights` (null: none) has packed; bits do not depend on it. It must
  // outlive the tape's use, and the weights must keep their values as long as it lives.
  void use(PackedWeights* weights) noexcept { packed_weights_ = weights; }
  PackedWeights* packed_weights() const noexcept { return packed_weights_; }

  // Forgets everything; Variables made before are stale from now on.
  void clear();

  std::size_t node_count() const noexcept { return nodes_.size(); }

  // From now on a leaf with sink `s` adds to (*sinks)[s] instead, where that is present (null: nowhere).
  // Tapes that run at the same time with the same parameters need a sink each.
  using Sinks = std::unordered_map<const Tensor*, Tensor*>;
  void redirect(const Sinks* sinks) noexcept { sinks_ = sinks; }

  // Tells `observer` (null: nobody) of every node from now on. It must outlive the tape's use.
  void observe(TapeObserver* observer) noexcept { observer_ = observer; }

 private:
  friend class Backward;
  struct Node {
    std::string_view name;             // a string literal of the operation
    std::vector<std::int32_t> inputs;  // -1: constant or absent
    Vjp vjp;                           // empty for leaves
    Tensor gradient;
    Shape shape;
    DType dtype = DType::f32;
    Tensor* sink = nullptr;
  };
  std::int32_t index_of(const Variable& variable) const;  // throws StateError: stale, or of another tape
  Tensor* redirected(Tensor* sink) const;
  void accumulate(std::int32_t node, Tensor dx);
  Tensor take(std::int32_t node);

  const Context& context_;
  Mode mode_;
  std::vector<Node> nodes_;
  std::uint32_t generation_ = 1;
  bool spent_ = false;
  TapeObserver* observer_ = nullptr;
  const Sinks* sinks_ = nullptr;
  PackedWeights* packed_weights_ = nullptr;
};

}  // namespace dirigo
