#include "dirigo/nn/layers.hpp"

#include "dirigo/autograd/ops.hpp"

namespace dirigo::nn {

Tensor normal_tensor(const Context& context, const Shape& shape, double deviation, const RandomKey& key,
                     DType dtype) {
  Tensor values = Tensor::empty(context, shape, DType::f32);
  philox_normal(key, 0, values.span<float>());
  for (float& value : values.span<float>()) value *= float(deviation);
  return values.cast(context, dtype);  // an f64 model starts from the same weights as its f32 twin
}

Linear::Linear(const Context& context, std::int64_t in, std::int64_t out, bool with_bias,
               const RandomKey& key, DType dtype)
    : weight{normal_tensor(context, {out, in}, initial_deviation, key, dtype), {}} {
  if (with_bias) bias.value = Tensor::zeros(context, {out}, dtype);
}

Variable Linear::operator()(const Variable& x) {
  Tape& tape = x.tape();
  return ops::linear(x, weight.on(tape), bias.value.defined() ? bias.on(tape) : Variable{});
}

void Linear::visit(const std::string& prefix, ParameterVisitor visitor) {
  visitor(join_names(prefix, "weight"), weight);
  if (bias.value.defined()) visitor(join_names(prefix, "bias"), bias);
}

LayerNorm::LayerNorm(const Context& context, std::int64_t width, DType dtype)
    : weight{Tensor::full(context, {width}, 1, dtype), {}},
      bias{Tensor::zeros(context, {width}, dtype), {}} {}

Variable LayerNorm::operator()(const Variable& x) {
  Tape& tape = x.tape();
  return ops::layer_norm(x, weight.on(tape), bias.on(tape), eps);
}

void LayerNorm::visit(const std::string& prefix, ParameterVisitor visitor) {
  visitor(join_names(prefix, "weight"), weight);
  visitor(join_names(prefix, "bias"), bias);
}

Embedding::Embedding(const Context& context, std::int64_t count, std::int64_t width, const RandomKey& key,
                     DType dtype)
    : weight{normal_tensor(context, {count, width}, initial_deviation, key, dtype), {}} {}

Variable Embedding::operator()(Tape& tape, std::span<const std::int32_t> indices) {
  return ops::embedding(weight.on(tape), indices);
}

void Embedding::visit(const std::string& prefix, ParameterVisitor visitor) {
  visitor(join_names(prefix, "weight"), weight);
}

}  // namespace dirigo::nn
