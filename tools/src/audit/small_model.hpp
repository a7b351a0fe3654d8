// A language model small enough for finite differences, with weights that route every token differently.
#pragma once

#include <vector>

#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/objective.hpp"

namespace dirigo::tools {

inline constexpr std::int64_t small_vocabulary = 11;

inline meta::Config small_model_config(meta::Projections projections, meta::RouterKind kind) {
  meta::Config config = meta::preset("tiny");
  config.model.positions = meta::Positions::learned;
  config.model.d_model = 8;
  config.model.heads = 2;
  config.model.layers = 2;
  config.model.max_len = 40;
  config.model.init_std = config.model.embedding_std = nn::initial_deviation;  // stir() moves them
  config.router.hidden = 4;
  config.router.kind = kind;
  config.attention.projections = projections;
  config.attention.window = 3;
  config.attention.chunk = 4;
  config.train.seq_len = 40;
  config.train.dropout = 0;
  if (kind != meta::RouterKind::bayes) config.objective.w_kl.value = 0;
  meta::resolve(config);
  return config;
}

// Moves the weights far from their small initial values.
inline void stir(meta::LanguageModel& model) {
  std::uint32_t site = 0;
  for (const auto& named : model.parameters()) {
    PhiloxStream stream(random_key(5, 0, Purpose::test, site++), 0);
    Tensor& value = named.parameter->value;
    visit_dtype(value.dtype(), [&](auto zero) {
      using T = decltype(zero);
      for (T& v : value.span<T>()) v += T(0.3 * stream.normal());
    });
  }
}

inline std::vector<std::int32_t> small_text(std::int64_t n, std::uint32_t site) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(n));
  PhiloxStream stream(random_key(site, 0, Purpose::test, 1000), 0);
  for (auto& token : tokens) token = std::int32_t(stream.below(std::uint64_t(small_vocabulary)));
  return tokens;
}

}  // namespace dirigo::tools
