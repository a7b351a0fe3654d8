#include "model_summary.hpp"

#include <algorithm>

namespace dirigo::tools {

namespace {

// "blocks.0.attn.full.q.weight" -> "blocks.0.attn"; "embed.weight" -> "embed".
std::string module_of(const std::string& name) {
  std::size_t end = name.find('.');
  if (name.rfind("blocks.", 0) == 0) end = name.find('.', name.find('.', end + 1) + 1);
  return name.substr(0, end);
}

}  // namespace

std::vector<std::pair<std::string, std::int64_t>> parameters_by_module(meta::LanguageModel& model) {
  std::vector<std::pair<std::string, std::int64_t>> modules;
  for (const nn::NamedParameter& named : model.parameters()) {
    const std::string module = module_of(named.name);
    const auto found =
        std::find_if(modules.begin(), modules.end(), [&](const auto& m) { return m.first == module; });
    const std::int64_t size = named.parameter->value.size();
    if (found == modules.end()) {
      modules.emplace_back(module, size);
    } else {
      found->second += size;
    }
  }
  return modules;
}

std::vector<ExpertCost> expert_cost_table(const meta::Config& config) {
  meta::Config nominal = config, analytic = config;
  if (config.router.cost_model == meta::CostModel::measured)
    nominal.router.costs = meta::RouterConfig{}.costs;
  nominal.router.cost_model = meta::CostModel::nominal;
  analytic.router.cost_model = meta::CostModel::analytic;
  const std::int64_t length = config.train.seq_len, width = config.model.d_model;
  const auto nominal_costs = meta::expert_costs(nominal, length),
             analytic_costs = meta::expert_costs(analytic, length);
  std::vector<ExpertCost> table;
  for (const auto& expert : meta::make_experts(config.model, config.attention)) {
    const std::size_t k = table.size();
    table.push_back({std::string(meta::expert_name(expert->kind())),
                     expert->core_multiply_adds(length, width), 4 * double(width) * double(width),
                     nominal_costs[k], analytic_costs[k]});
  }
  return table;
}

}  // namespace dirigo::tools
