// Experts: the attention mechanisms a token can be routed to. One file each: expert_full.cpp,
// expert_linear.cpp, expert_local.cpp. All are causal (but see make_leaky_expert); keys and values always
// cover every position.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/meta_attention/config.hpp"
#include "dirigo/nn/module.hpp"

namespace dirigo::meta {

class Expert {
 public:
  virtual ~Expert() = default;
  virtual ExpertKind kind() const noexcept = 0;
  // How far back a query at position t reads keys: positions (t - reach, t].
  virtual std::int64_t reach() const noexcept { return std::numeric_limits<std::int64_t>::max(); }
  // The attention core. q: (B, T, D), or for just the query rows `rows` as ops.hpp says; k, v: (B, T, D), of
  // which only the rows within reach of a query are read as numbers (the others must be finite).
  virtual Variable attend(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) const = 0;
  // Multiply-adds of one query's core, causal mean over `length` positions (docs/mathematics.md, section 7).
  virtual double core_multiply_adds(std::int64_t length, std::int64_t width) const = 0;
};

std::unique_ptr<Expert> make_full_expert(const ModelConfig& model, const AttentionConfig& attention);
std::unique_ptr<Expert> make_linear_expert(const ModelConfig& model, const AttentionConfig& attention);
// `window_bias` (heads, window), if any, is added to the scores by distance; it must outlive the expert.
std::unique_ptr<Expert> make_local_expert(const ModelConfig& model, const AttentionConfig& attention,
                                          nn::Parameter* window_bias = nullptr);

// The same expert as the paper's code has it, which may see the future. Takes every query at once: throws
// ValueError for some rows of them. Without a window bias.
std::unique_ptr<Expert> make_leaky_expert(std::unique_ptr<Expert> causal, const ModelConfig& model,
                                          const AttentionConfig& attention);

// All experts in the order of ExpertKind, leaky if `attention` says so.
std::vector<std::unique_ptr<Expert>> make_experts(const ModelConfig& model, const AttentionConfig& attention,
                                                  nn::Parameter* window_bias = nullptr);

// c_k of the cost model: `nominal` and `measured` return router.costs; `analytic` is (4 D^2 + core_k) / max_j
// (4 D^2 + core_j).
std::vector<double> expert_costs(const Config& config, std::int64_t length);

}  // namespace dirigo::meta
