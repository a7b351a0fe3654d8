// The routed attention layer: a controller and experts behind shared or per-expert projections.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

// q, k, v (and o) of one expert, or of all when projections are shared. Bias-free.
struct Projection : nn::Module {
  Projection(const Context& context, std::int64_t width, std::uint64_t seed, std::uint32_t site, DType dtype);
  void visit(const std::string& prefix, nn::ParameterVisitor visitor) override;
  nn::Linear q, k, v, o;
};

// h = W2 GELU(W1 f + b1) + b2
struct Controller : nn::Module {
  Controller(const Context& context, std::int64_t width, std::int64_t hidden, std::uint64_t seed,
             std::uint32_t site, DType dtype);
  Variable operator()(const Variable& features);
  void visit(const std::string& prefix, nn::ParameterVisitor visitor) override;
  nn::Linear fc1, fc2;
};

// What a layer needs to know of the pass: sizes, options, its own number.
struct LayerCall {
  std::int64_t batch, length;
  const ForwardOptions& options;
  std::uint32_t layer;
  const ops::RotaryAngles* angles = nullptr;  // of all rows, with rotary positions
};

// Whether the layers have a bias by distance: window_bias positions, and `local` is used.
bool has_window_bias(const Config& config);

// Queries, keys and values of all rows, as linear attention takes them and turned for the others.
struct Projected {
  Variable q, k, v, turned_q, turned_k;
};

class RoutedAttention {
 public:
  RoutedAttention(const Context& context, const Config& config, std::span<const double> costs,
                  std::span<const double> prior, std::uint64_t seed, std::uint32_t layer, DType dtype);

  // normed = LN1(residual), both (N, D) -> attention output (N, D); fills `routing`.
  Variable operator()(const Variable& normed, const Variable& residual, const LayerCall& call,
                      LayerRouting& routing);
  void visit(const std::string& prefix, nn::ParameterVisitor visitor);  // prefix "blocks.{l}"

 private:
  bool learned() const;
  Variable features(const Variable& normed, const Variable& residual, const LayerCall& call) const;
  // The constant weights of a static router or the prior mixture (N, K).
  Tensor constant_mean(const Variable& like, std::int64_t rows) const;
  // m, bhat and argmax into `routing`.
  void route(const Variable& normed, const Variable& residual, const LayerCall& call, LayerRouting& routing);
  // The weights of a training pass: a posterior draw (or m), possibly made one-hot straight-through, of all
  // tokens or of those that are certain. Counts them in `routing`.
  Variable training_weights(LayerRouting& routing, const LayerCall& call) const;
  // The weights of an evaluation pass: m, its one-hot, or per token one of the two (gated).
  Tensor evaluation_weights(const Variable& like, const LayerRouting& routing,
                            const ForwardOptions& options) const;
  bool certain(const LayerRouting& routing, std::int64_t row, const ForwardOptions& options) const;

  // One expert on every token: what a static router trains.
  Variable one_expert(int e, const Variable& normed, const LayerCall& call, LayerRouting& routing);
  // Every expert on every token, mixed by weights: the differentiable form.
  Variable dense(const Variable& normed, const Variable& weights, const LayerCall& call);
  // The same weights' one-hot, straight-through, without computing what is not chosen: each token's own
  // expert, and of some tokens one other, whose output only tells the router.
  Variable hard_routed(const Variable& normed, const Variable& weights, const LayerCall& call,
                       LayerRouting& routing);
  // What expert e computes for some rows, before a shared output projection.
  Variable expert_rows(int e, const Variable& normed, const Projected& shared_projection,
                       const std::vector<std::int32_t>& rows, const LayerCall& call);
  // Each expert on just the tokens where its weight is not zero: nothing else is computed.
  Variable executed(const Variable& normed, const Tensor& weights, const LayerCall& call,
                    LayerRouting& routing);
  Variable executed_shared(const Variable& normed, const Tensor& weights, const LayerCall& call,
                           LayerRouting& routing);
  Variable executed_per_expert(const Variable& normed, const Tensor& weights, const LayerCall& call,
                               LayerRouting& routing);

  // Rotary positions: the queries or keys x of `rows` (none: of all) as softmax attention wants them. Linear
  // attention takes them as they are. x itself with other positions.
  Variable turned(const Variable& x, const LayerCall& call, ops::Rows rows = {}) const;
  Projection& projection(int expert);
  bool shared() const { return config_.attention.projections == Projections::shared; }

  Config config_;
  std::vector<double> costs_, prior_;
  nn::Parameter window_bias_;  // (heads, window); undefined without
  std::vector<std::unique_ptr<Expert>> experts_;
  std::vector<std::unique_ptr<Projection>>
      projections_;                         // one if shared, else one per expert (null if unused)
  std::unique_ptr<Controller> controller_;  // null for constant routers
};

}  // namespace dirigo::meta
