// The training objective (docs/mathematics.md, section 5):
//   L = CE + w_kl * sum_layers max(free_bits, mean_t KL(q_t || prior))
//       + cost_lambda * sum_layers mean_t c . m_t - entropy_bonus * sum_layers mean_t H(m_t)
//       + load_balance * sum_layers K sum_k f_k P_k        (Switch; f argmax fractions, P mean weights)
//
// Only w_kl = 1 with sampled, soft routing makes -L an evidence lower bound (per token, of CE in nats).
#pragma once

#include <optional>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

struct Loss {
  Variable total;          // scalar
  double nll = 0;          // mean nats per byte
  std::vector<double> kl;  // per layer, mean nats per token; empty without a Dirichlet
};

// Whether the objective of a batch is the mean of its sequences' objectives: free bits and load balancing
// look at the whole batch.
bool is_mean_over_sequences(const ObjectiveConfig& objective);

// CE is the mean over the targets that are not ignored. For a part of a batch, `tokens` divides its sum
// instead: the batch's scored tokens times the part's share of the sequences, so that parts weighted by that
// share add up to the batch's mean.
Loss objective(const LanguageModel& model, const Forward& forward, std::span<const std::int32_t> targets,
               const ObjectiveConfig& objective, double w_kl, std::optional<double> tokens = std::nullopt);

}  // namespace dirigo::meta
