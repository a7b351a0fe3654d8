// The byte-level language model: pre-LN blocks whose attention mechanism is chosen per token.
//
//   x   = embed[token] + pos[t]
//   x  += routed_attention(LN1(x), x);   x += W2 GELU(W1 LN2(x) + b1) + b2      (each layer)
//   logits = embed LN_f(x)               (tied embeddings)
//
// N = B * T rows throughout: row b * T + t is position t of sequence b.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dirigo/meta_attention/expert.hpp"
#include "dirigo/meta_attention/routing.hpp"
#include "dirigo/nn/layers.hpp"

namespace dirigo::meta {

// What one forward pass should do.
struct ForwardOptions {
  // Training: sampled (or mean) weights, dropout, optionally straight-through; every expert sees every token.
  bool training = false;
  bool straight_through = false;
  // Training: one-hot weights for the tokens that the gate (below) calls certain, the others stay soft.
  bool gated_straight_through = false;
  // Training, straight-through: a token runs its own expert alone, and sometimes another (train.explore).
  bool hard_routed = false;
  std::uint64_t seed = 0;  // of dropout and sampling, with
  std::uint32_t step = 0;  // the step
  // How many rows of the batch come before these: a part of a batch draws what it would within the whole.
  std::int64_t first_row = 0;

  // Evaluation: the mean m, executed as `routing` says; an expert computes only the queries that need it.
  // With attention.leaky it computes them all, with the same weights.
  RoutingMode routing = RoutingMode::soft;
  Gate gate = Gate::mi;
  double eta = 0.05;
  std::optional<ExpertKind> forced_expert;  // every token to this one
  // Replaces m layer by layer: (N, K) each; evaluation only. Empty: none.
  std::span<const Tensor> replaced_means;
};

// FLOPs that an executed pass spent on one expert, 2 per multiply-add. Products are its own projections: with
// shared projections they belong to no expert.
struct ExpertFlops {
  std::uint64_t attention = 0, padding = 0;  // the core: on unmasked pairs and states, and on masked pairs
  std::uint64_t products = 0;

  ExpertFlops& operator+=(const ExpertFlops& other) {
    attention += other.attention;
    padding += other.padding;
    products += other.products;
    return *this;
  }
};

// What one layer's router did. Tensors are detached from the tape.
struct LayerRouting {
  Tensor mean;                                                 // m (N, K)
  Tensor concentration;                                        // bhat (N, K); undefined without a Dirichlet
  std::vector<std::int32_t> chosen;                            // argmax m, N; what hard routing runs
  std::int64_t one_hot = 0;                                    // training: tokens with one-hot weights
  std::array<std::int64_t, expert_count> tokens_per_expert{};  // queries that each expert really computed
  std::array<ExpertFlops, expert_count> flops_per_expert{};    // of an executed pass
  // For the objective, on the tape; empty where the router has none.
  Variable mean_variable, concentration_variable;
};

struct Forward {
  Variable logits;  // (N, V)
  std::vector<LayerRouting> layers;
};

// The number of parameters of a model, from its (resolved) configuration alone: cheap whatever it says.
double parameter_count(const Config& config, std::int64_t vocabulary);

// The longest sequence that the model takes: max_len with learned positions, else longest_sequence.
inline constexpr std::int64_t longest_sequence = std::int64_t(1) << 20;
std::int64_t longest_text(const Config& config) noexcept;

class LanguageModel : public nn::Module {
 public:
  // `config` must be resolved. `vocabulary` >= 1. Initial weights depend on `seed` alone.
  LanguageModel(const Context& context, const Config& config, std::int64_t vocabulary, std::uint64_t seed,
                DType dtype = DType::f32);
  ~LanguageModel() override;

  // tokens: batch * length ids in [0, vocabulary), length <= longest_text(config()). Throws ValueError
  // otherwise.
  Forward operator()(Tape& tape, std::span<const std::int32_t> tokens, std::int64_t batch,
                     std::int64_t length, const ForwardOptions& options);
  void visit(const std::string& prefix, nn::ParameterVisitor visitor) override;

  // While held, the optimiser leaves the controllers' weights alone (router.warmup).
  void hold_controllers(bool held);

  const Config& config() const noexcept;
  std::int64_t vocabulary() const noexcept;
  std::span<const double> costs() const noexcept;  // c of the cost model
  // beta of section 2: where each layer's prior starts and, without router.empirical_bayes, stays.
  std::span<const double> prior() const noexcept;
  // The prior of one layer now.
  std::span<const double> prior(std::size_t layer) const;
  // Replaces the priors of all layers, K values > 0 each. Throws ValueError for anything else.
  void set_priors(std::vector<std::vector<double>> priors);

  // FLOPs of one forward pass over batch sequences of `length` with static `full` and no controller (what
  // `executed` is compared with): matrix products plus unmasked attention pairs, 2 per multiply-add.
  struct Flops {
    double attention = 0, model = 0;
  };
  Flops full_attention_flops(std::int64_t batch, std::int64_t length) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dirigo::meta
