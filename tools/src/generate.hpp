// Text from a model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::tools {

struct GenerateOptions {
  std::int64_t tokens = 200;
  double temperature = 1;  // 0: always the most probable token
  std::int64_t top_k = 0;  // > 0: only from the k most probable tokens
  std::uint64_t seed = 1;
  meta::ForwardOptions forward;  // routing; not training
};

struct GeneratedToken {
  std::int32_t token = 0;
  bool from_prompt = false;
  std::vector<meta::ExpertKind> chosen;  // per layer: the routing at this token
};

// Calls `emit` for the prompt's tokens and then for each new one; emit returns false to stop. The model sees
// the last max_len tokens. Deterministic in the seed. Throws ValueError for an empty prompt and for options
// out of range.
void generate(const Context& context, meta::LanguageModel& model, std::span<const std::int32_t> prompt,
              const GenerateOptions& options, const std::function<bool(const GeneratedToken&)>& emit);

}  // namespace dirigo::tools
