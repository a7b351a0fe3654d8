// Empirical Bayes: priors estimated from the posteriors (docs/mathematics/empirical-bayes.md).
#pragma once

#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

// Mean over tokens of E[log alpha_k] under their posteriors, psi(b_tk) - psi(s_t): all that the prior's
// estimate asks of them. K values, f32 concentrations (N, K).
std::vector<double> mean_log_weights(const Context& context, const LayerRouting& layer);

// Gives every layer the prior p that minimises mean_t KL(q_t || p), by Minka's fixed point from the prior of
// now. mean_log: K values per layer.
void estimate_priors(LanguageModel& model, const std::vector<std::vector<double>>& mean_log);

}  // namespace dirigo::meta
