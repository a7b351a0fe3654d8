// What a configuration builds: parameters, operations, costs and the prior.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::tools {

// Modules in the model's order: "embed", "pos", "blocks.0.attn", "blocks.0.controller", ...
std::vector<std::pair<std::string, std::int64_t>> parameters_by_module(meta::LanguageModel& model);

// An expert for one token in one layer at length T (docs/mathematics.md, section 7).
struct ExpertCost {
  std::string name;
  double core_multiply_adds = 0;        // of the attention core, causal mean
  double projection_multiply_adds = 0;  // q, k, v and o
  double nominal = 0, analytic = 0;     // c of the two cost models
};
std::vector<ExpertCost> expert_cost_table(const meta::Config& config);

}  // namespace dirigo::tools
