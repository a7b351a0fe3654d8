// The list of experts and their costs (docs/mathematics.md, section 7).
#include <algorithm>

#include "dirigo/meta_attention/expert.hpp"

namespace dirigo::meta {

std::vector<std::unique_ptr<Expert>> make_experts(const ModelConfig& model, const AttentionConfig& attention,
                                                  nn::Parameter* window_bias) {
  std::vector<std::unique_ptr<Expert>> experts;
  experts.push_back(make_full_expert(model, attention));
  experts.push_back(make_linear_expert(model, attention));
  experts.push_back(make_local_expert(model, attention, window_bias));
  if (attention.leaky) {
    for (auto& expert : experts) expert = make_leaky_expert(std::move(expert), model, attention);
  }
  return experts;
}

std::vector<double> expert_costs(const Config& config, std::int64_t length) {
  if (config.router.cost_model != CostModel::analytic) return config.router.costs;
  // c_k = (4 D^2 + core_k) / max_j (4 D^2 + core_j)
  const double width = double(config.model.d_model);
  std::vector<double> costs;
  for (const auto& expert : make_experts(config.model, config.attention)) {
    costs.push_back(4 * width * width + expert->core_multiply_adds(length, config.model.d_model));
  }
  const double most = *std::max_element(costs.begin(), costs.end());
  for (double& cost : costs) cost /= most;
  return costs;
}

}  // namespace dirigo::meta
