// Derivation: docs/mathematics/empirical-bayes.md
#include "dirigo/meta_attention/empirical_bayes.hpp"

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/kernels.hpp"

namespace dirigo::meta {

std::vector<double> mean_log_weights(const Context& context, const LayerRouting& layer) {
  const auto values = layer.concentration.span<float>();
  const std::vector<double> b(values.begin(), values.end());
  std::vector<double> mean(expert_count);
  dirichlet::mean_log_rows(context.kernels<float>().gamma, b, mean);
  return mean;
}

void estimate_priors(LanguageModel& model, const std::vector<std::vector<double>>& mean_log) {
  std::vector<std::vector<double>> priors;
  for (std::size_t l = 0; l < mean_log.size(); ++l) {
    const auto now = model.prior(l);
    priors.emplace_back(now.begin(), now.end());
    dirichlet::maximum_likelihood(mean_log[l], priors.back());
  }
  model.set_priors(std::move(priors));
}

}  // namespace dirigo::meta
