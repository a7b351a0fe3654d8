// Layers: Linear, LayerNorm, Embedding. Dropout is the operation ops::dropout (it has no parameters).
//
// All are created in f32 by default; f64 serves gradient audits. Initial values: weights N(0, 0.02), biases
// 0, LayerNorm gain 1 (those of every preset). Draws come from Philox with the given key, so a
// model's initial weights depend on the seed alone.
#pragma once

#include "dirigo/core/philox.hpp"
#include "dirigo/nn/module.hpp"

namespace dirigo::nn {

inline constexpr double initial_deviation = 0.02;

// Values N(0, deviation^2); element i is the i-th draw of the key's sequence.
Tensor normal_tensor(const Context& context, const Shape& shape, double deviation, const RandomKey& key,
                     DType dtype);

// y = x weight^T + bias, weight (out, in)
class Linear : public Module {
 public:
  Linear(const Context& context, std::int64_t in, std::int64_t out, bool with_bias, const RandomKey& key,
         DType dtype = DType::f32);
  Variable operator()(const Variable& x);
  void visit(const std::string& prefix, ParameterVisitor visitor) override;

  Parameter weight;
  Parameter bias;  // undefined value when without bias
};

class LayerNorm : public Module {
 public:
  static constexpr double eps = 1e-5;
  LayerNorm(const Context& context, std::int64_t width, DType dtype = DType::f32);
  Variable operator()(const Variable& x);
  void visit(const std::string& prefix, ParameterVisitor visitor) override;

  Parameter weight;
  Parameter bias;
};

// Rows of a table (count, width).
class Embedding : public Module {
 public:
  Embedding(const Context& context, std::int64_t count, std::int64_t width, const RandomKey& key,
            DType dtype = DType::f32);
  Variable operator()(Tape& tape, std::span<const std::int32_t> indices);
  void visit(const std::string& prefix, ParameterVisitor visitor) override;

  Parameter weight;
};

}  // namespace dirigo::nn
