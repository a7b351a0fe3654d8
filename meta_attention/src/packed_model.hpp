// What a session computes with: a model's weights laid out for decoding, and a text's caches. Private to
// session.cpp and its parts.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "dirigo/meta_attention/session.hpp"
#include "kv_cache.hpp"

namespace dirigo::meta {

// W^T (in x out) of a linear layer, or of several side by side, with rows padded to a multiple of 32.
struct PackedLinear {
  std::int64_t in = 0, out = 0, row = 0;
  Tensor weight;  // (in, row)
  Tensor bias;    // (row); undefined without
};

struct PackedLayer {
  Tensor ln1_gain, ln1_bias, ln2_gain, ln2_bias;
  // Shared projections: q, k and v side by side. Else k and v of every expert in use, and q on its own.
  PackedLinear project;
  std::array<PackedLinear, expert_count> q, o;  // o[0] alone if shared
  std::optional<PackedLinear> controller1, controller2;
  PackedLinear ffn1, ffn2;
  Tensor window_bias;  // (heads, window); undefined without
};

// Which experts a text may use.
using ExpertSet = std::array<bool, expert_count>;

// Sums of linear attention over the keys before `absorbed`.
struct LinearSums {
  std::vector<float> sums, totals;
  std::int64_t absorbed = 0;
};

// One layer's caches of one text.
struct LayerCache {
  std::vector<KvCache> keys;  // expert e reads keys[PackedModel::cache_of(e)]
  LinearSums linear;
};

// A text as a session keeps it. The caches hold what every token after `length` may need.
struct CachedText {
  ExpertSet experts{};
  ForwardOptions options;
  std::int64_t length = 0;
  std::vector<LayerCache> layers;
};

// Tokens to append to a text, and where their results go.
struct Extension {
  CachedText* text;
  std::span<const std::int32_t> tokens;
  RoutingOverride routing;
  bool all_logits;
  SessionOutput* output;
};

class PackedModel {
 public:
  PackedModel(const Context& context, LanguageModel& model);

  // Appends to every text, and lets the caches forget what no later token can need.
  void extend(std::span<const Extension> extensions) const;

  // Whether the caches still hold what a text cut to `length` needs; cut() then cuts it.
  bool reaches_back(const CachedText& text, std::int64_t length) const;
  void cut(CachedText& text, std::int64_t length) const;

  CachedText empty_text(const ForwardOptions& options, std::int64_t max_length) const;
  CachedText copy(const CachedText& text, std::int64_t max_length) const;  // sharing its pages
  std::size_t bytes(const CachedText& text) const;
  std::size_t max_bytes(const CachedText& text, std::int64_t max_length) const;

  const Context& context;
  const Config config;
  const std::int64_t vocabulary;
  const bool shared;      // projections
  const bool rotary;      // positions
  ExpertSet available{};  // experts that the model has
  std::vector<double> costs, prior;

  std::size_t memory_bytes() const;

 private:
  friend class Pass;

  // Rotary positions turn the queries and keys of softmax attention.
  bool turns(int expert) const { return rotary && ExpertKind(expert) != ExpertKind::linear; }
  // The cache that an expert reads: its own, or, with shared projections, one for all that take the keys
  // alike. Cache c holds them as expert c takes them.
  int cache_of(int expert) const {
    if (!shared) return expert;
    return int(rotary && !turns(expert) ? ExpertKind::linear : ExpertKind::full);
  }
  int caches() const { return !shared ? expert_count : rotary ? 2 : 1; }
  bool uses(const CachedText& text, int cache) const;
  std::int64_t head_dim() const { return config.model.d_model / config.model.heads; }
  // The first position whose key the expert may still read when the next token is at `length`.
  std::int64_t oldest_needed(ExpertKind expert, std::int64_t length) const;
  void absorb(LayerCache& cache, std::int64_t end) const;
  template <class Cache>  // LayerCache, const or not
  auto& keys_of(Cache& cache, int expert) const {
    return cache.keys[std::size_t(cache_of(expert))];
  }

  Tensor embed_, positions_;  // positions_: undefined unless they are learned
  std::vector<PackedLayer> layers_;
  Tensor ln_gain_, ln_bias_;
  PackedLinear head_;
};

}  // namespace dirigo::meta
