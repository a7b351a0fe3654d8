// Derivation: docs/mathematics/reverse-mode.md
#include "dirigo/autograd/tape.hpp"

#include <string>
#include <utility>

#include "dirigo/core/kernels.hpp"

namespace dirigo {
namespace {

constexpr std::int64_t element_grain = 16384;

// y = a + b; y may be a.
void add(const Context& context, const Tensor& a, const Tensor& b, Tensor& y) {
  visit_dtype(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = context.kernels<T>().add;
    const T *from_a = a.data<T>(), *from_b = b.data<T>();
    T* to = y.data<T>();
    context.parallel_for<T>(y.size(), element_grain, [&](std::int64_t begin, std::int64_t end) {
      kernel(end - begin, from_a + begin, from_b + begin, to + begin);
    });
  });
}

void require_like(std::string_view what, const Tensor& got, const Shape& shape, DType dtype) {
  if (got.shape() == shape && got.dtype() == dtype) return;
  throw ShapeError("[tape] " + std::string(what) + ": expected " + std::string(dtype_name(dtype)) + " " +
                   shape.to_string() + ", got " + std::string(dtype_name(got.dtype())) + " " +
                   got.shape().to_string());
}

}  // namespace

Tape& Variable::tape() const {
  if (tape_ == nullptr) throw StateError("[variable] tape: expected a computed variable, got an empty one");
  return *tape_;
}

const Context& Variable::context() const {
  return tape().context();
}

const Context& Backward::context() const noexcept {
  return tape_.context();
}

bool Backward::needs(std::size_t input) const noexcept {
  return input < inputs_.size() && inputs_[input] >= 0;
}

void Backward::add(std::size_t input, Tensor dx) {
  if (needs(input)) tape_.accumulate(inputs_[input], std::move(dx));
}

Tensor Backward::take(std::size_t input) {
  return needs(input) ? tape_.take(inputs_[input]) : Tensor();
}

Tensor Backward::room() const {
  return gradient_.unique() ? gradient_ : Tensor::empty(context(), gradient_.shape(), gradient_.dtype());
}

PackedWeights* Backward::packed_weights() const noexcept {
  return tape_.packed_weights();
}

Tape::Tape(const Context& context, Mode mode) : context_(context), mode_(mode) {}

Variable Tape::constant(Tensor value) {
  Variable variable;
  variable.value_ = std::move(value);
  variable.tape_ = this;
  variable.generation_ = generation_;
  return variable;
}

Tensor* Tape::redirected(Tensor* sink) const {
  if (sinks_ == nullptr) return sink;
  const auto found = sinks_->find(sink);
  return found == sinks_->end() ? sink : found->second;
}

Variable Tape::leaf(Tensor value, Tensor* sink) {
  Variable variable = constant(std::move(value));
  if (!recording()) return variable;
  Node node;
  node.name = "leaf";
  node.shape = variable.shape();
  node.dtype = variable.dtype();
  node.sink = redirected(sink);
  variable.index_ = std::int32_t(nodes_.size());
  nodes_.push_back(std::move(node));
  if (observer_ != nullptr) observer_->recorded("leaf", {}, {}, variable.value_);
  return variable;
}

Variable Tape::record(std::string_view name, std::initializer_list<Variable> inputs, Tensor output, Vjp vjp) {
  return record(name, std::span<const Variable>(inputs.begin(), inputs.size()), std::move(output),
                std::move(vjp));
}

Variable Tape::record(std::string_view name, std::span<const Variable> inputs, Tensor output, Vjp vjp) {
  Variable variable = constant(std::move(output));
  Node node;
  bool needed = false;
  node.inputs.reserve(inputs.size());
  for (const Variable& input : inputs) {
    node.inputs.push_back(input.defined() ? index_of(input) : -1);
    needed = needed || node.inputs.back() >= 0;
  }
  if (!needed) return variable;
  node.name = name;
  node.vjp = std::move(vjp);
  node.shape = variable.shape();
  node.dtype = variable.dtype();
  variable.index_ = std::int32_t(nodes_.size());
  nodes_.push_back(std::move(node));
  if (observer_ != nullptr) observer_->recorded(name, inputs, nodes_.back().inputs, variable.value_);
  return variable;
}

void Tape::backward(const Variable& output, const Tensor& seed) {
  const std::int32_t start = index_of(output);
  if (spent_) throw StateError("[tape] backward: expected one call per generation, got a second one");
  if (start < 0)
    throw StateError("[tape] backward: expected an output that depends on a leaf, got a constant");
  if (seed.defined()) require_like("seed", seed, output.shape(), output.dtype());
  spent_ = true;
  accumulate(start, seed.defined() ? seed.contiguous(context_)
                                   : Tensor::full(context_, output.shape(), 1.0, output.dtype()));
  // Nodes are recorded after their inputs, so in reverse order every gradient is complete when it is passed
  // on.
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    Node& node = nodes_[i];
    if (observer_ != nullptr) {
      const Tensor& gradient = node.sink != nullptr ? *node.sink : node.gradient;
      if (gradient.defined()) observer_->passed(std::int32_t(i), gradient);
    }
    if (node.inputs.empty()) continue;  // a leaf keeps its gradient
    const Vjp vjp = std::exchange(node.vjp, nullptr);
    Tensor gradient = std::exchange(node.gradient, Tensor());
    if (!gradient.defined()) continue;
    Backward pass(*this, node.inputs, std::move(gradient));
    vjp(pass);
  }
}

Tensor Tape::gradient(const Variable& leaf) const {
  const std::int32_t index = index_of(leaf);
  if (!spent_) throw StateError("[tape] gradient: expected a call after backward(), got one before it");
  if (index < 0 || !nodes_[std::size_t(index)].inputs.empty() || nodes_[std::size_t(index)].sink != nullptr) {
    throw StateError("[tape] gradient: expected a leaf without sink, got another variable");
  }
  const Node& node = nodes_[std::size_t(index)];
  if (!node.gradient.defined()) return Tensor::zeros(context_, node.shape, node.dtype);
  return node.gradient.clone(context_);  // two leaves may share one gradient tensor, as those of a + b do
}

void Tape::clear() {
  nodes_.clear();
  ++generation_;
  spent_ = false;
}

std::int32_t Tape::index_of(const Variable& variable) const {
  if (variable.tape_ != this)
    throw StateError("[tape] variable: expected one of this tape, got one of another");
  if (variable.generation_ != generation_) {
    throw StateError("[tape] variable: expected one of generation " + std::to_string(generation_) +
                     ", got one of " + std::to_string(variable.generation_) + " (the tape was cleared)");
  }
  return variable.index_;
}

// Tensors that a vjp hands over may be shared (a + b gives both inputs dL/dy itself, a reshape gives a view
// of it): only what nobody else holds is added to in place.
void Tape::accumulate(std::int32_t index, Tensor dx) {
  Node& node = nodes_[std::size_t(index)];
  require_like(node.name, dx, node.shape, node.dtype);
  dx = dx.contiguous(context_);
  if (node.sink != nullptr) {
    if (node.sink->defined()) {
      require_like("sink", *node.sink, node.shape, node.dtype);
      add(context_, *node.sink, dx, *node.sink);
    } else {
      *node.sink = dx.unique() ? std::move(dx) : dx.clone(context_);
    }
    return;
  }
  if (!node.gradient.defined()) {
    node.gradient = std::move(dx);
    return;
  }
  if (dx.unique()) std::swap(node.gradient, dx);
  Tensor total = node.gradient.unique() ? node.gradient : Tensor::empty(context_, node.shape, node.dtype);
  add(context_, node.gradient, dx, total);
  node.gradient = std::move(total);
}

// Of a leaf with a sink, what the sink holds; one that does not fit is left for accumulate() to refuse.
Tensor Tape::take(std::int32_t index) {
  Node& node = nodes_[std::size_t(index)];
  Tensor& sum = node.sink != nullptr ? *node.sink : node.gradient;
  const bool ours = sum.unique() && sum.shape() == node.shape && sum.dtype() == node.dtype;
  return ours ? std::exchange(sum, Tensor()) : Tensor();
}

}  // namespace dirigo
