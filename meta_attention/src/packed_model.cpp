// The weights as decoding reads them, and what a text's caches must hold.
#include "packed_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "dirigo/core/kernels.hpp"

namespace dirigo::meta {

namespace {

using Named = std::map<std::string, Tensor>;

const Tensor& find(const Named& weights, const std::string& name) {
  const auto found = weights.find(name);
  if (found == weights.end()) throw StateError(fmt::format("[session] weights: expected {}, got none", name));
  return found->second;
}

// Linear layers of the same input side by side.
PackedLinear pack(const Context& context, const Named& weights, const std::vector<std::string>& names) {
  PackedLinear packed;
  for (const std::string& name : names) {
    const Shape& shape = find(weights, name + ".weight").shape();
    packed.in = shape[1];
    packed.out += shape[0];
  }
  packed.row = (packed.out + 31) / 32 * 32;
  packed.weight = Tensor::zeros(context, {packed.in, packed.row});
  const bool biased = weights.contains(names.front() + ".bias");
  if (biased) packed.bias = Tensor::zeros(context, {packed.row});
  std::int64_t column = 0;
  for (const std::string& name : names) {
    const Tensor& weight = find(weights, name + ".weight");
    const std::int64_t out = weight.shape()[0];
    for (std::int64_t i = 0; i < out; ++i) {
      for (std::int64_t l = 0; l < packed.in; ++l) {
        packed.weight.data<float>()[l * packed.row + column + i] = weight.data<float>()[i * packed.in + l];
      }
    }
    if (biased) {
      std::copy_n(find(weights, name + ".bias").data<float>(), out, packed.bias.data<float>() + column);
    }
    column += out;
  }
  return packed;
}

std::size_t bytes_of(const Tensor& tensor) {
  return tensor.defined() ? std::size_t(tensor.size()) * dtype_bytes(tensor.dtype()) : 0;
}

std::size_t bytes_of(const PackedLinear& linear) {
  return bytes_of(linear.weight) + bytes_of(linear.bias);
}

}  // namespace

PackedModel::PackedModel(const Context& from, LanguageModel& model)
    : context(from),
      config(model.config()),
      vocabulary(model.vocabulary()),
      shared(config.attention.projections == Projections::shared),
      rotary(config.model.positions == Positions::rotary),
      costs(model.costs().begin(), model.costs().end()),
      prior(model.prior().begin(), model.prior().end()) {
  if (config.attention.leaky) {
    throw ValueError("[session] attention.leaky: expected a model that does not read the future, got one");
  }
  Named weights;
  model.visit("", [&](const std::string& name, nn::Parameter& parameter) {
    if (parameter.value.dtype() != DType::f32) {
      throw ValueError(
          fmt::format("[session] {}: expected f32, got {}", name, dtype_name(parameter.value.dtype())));
    }
    weights[name] = parameter.value.contiguous(context);
  });
  const auto copy = [&](const std::string& name) { return find(weights, name).clone(context); };
  embed_ = copy("embed.weight");
  if (config.model.positions == Positions::learned) positions_ = copy("pos.weight");
  ln_gain_ = copy("ln_f.weight");
  ln_bias_ = copy("ln_f.bias");
  head_ = pack(context, weights, {config.model.tie_embeddings ? "embed" : "head"});
  available.fill(true);
  if (config.router.kind == RouterKind::static_expert && !shared) {
    available.fill(false);
    available[std::size_t(config.router.expert)] = true;
  }
  for (std::int64_t l = 0; l < config.model.layers; ++l) {
    const std::string block = fmt::format("blocks.{}.", l);
    PackedLayer layer;
    layer.ln1_gain = copy(block + "ln1.weight");
    layer.ln1_bias = copy(block + "ln1.bias");
    layer.ln2_gain = copy(block + "ln2.weight");
    layer.ln2_bias = copy(block + "ln2.bias");
    std::vector<std::string> projected;
    if (shared) {
      projected = {block + "attn.q", block + "attn.k", block + "attn.v"};
      layer.o[0] = pack(context, weights, {block + "attn.o"});
    }
    for (std::size_t e = 0; e < expert_count && !shared; ++e) {
      if (!available[e]) continue;
      const std::string attention = fmt::format("{}attn.{}.", block, expert_name(ExpertKind(e)));
      projected.push_back(attention + "k");
      projected.push_back(attention + "v");
      layer.q[e] = pack(context, weights, {attention + "q"});
      layer.o[e] = pack(context, weights, {attention + "o"});
    }
    layer.project = pack(context, weights, projected);
    if (weights.contains(block + "controller.fc1.weight")) {
      layer.controller1 = pack(context, weights, {block + "controller.fc1"});
      layer.controller2 = pack(context, weights, {block + "controller.fc2"});
    }
    layer.ffn1 = pack(context, weights, {block + "ffn.fc1"});
    layer.ffn2 = pack(context, weights, {block + "ffn.fc2"});
    if (weights.contains(block + "attn.window_bias")) layer.window_bias = copy(block + "attn.window_bias");
    layers_.push_back(std::move(layer));
  }
}

std::size_t PackedModel::memory_bytes() const {
  std::size_t bytes =
      bytes_of(embed_) + bytes_of(positions_) + bytes_of(ln_gain_) + bytes_of(ln_bias_) + bytes_of(head_);
  for (const PackedLayer& layer : layers_) {
    bytes += bytes_of(layer.ln1_gain) + bytes_of(layer.ln1_bias) + bytes_of(layer.ln2_gain) +
             bytes_of(layer.ln2_bias) + bytes_of(layer.project) + bytes_of(layer.ffn1) +
             bytes_of(layer.ffn2) + bytes_of(layer.window_bias);
    for (std::size_t e = 0; e < expert_count; ++e) bytes += bytes_of(layer.q[e]) + bytes_of(layer.o[e]);
    if (layer.controller1) bytes += bytes_of(*layer.controller1) + bytes_of(*layer.controller2);
  }
  return bytes;
}

bool PackedModel::uses(const CachedText& text, int cache) const {
  for (int e = 0; e < expert_count; ++e) {
    if (text.experts[std::size_t(e)] && cache_of(e) == cache) return true;
  }
  return false;
}

CachedText PackedModel::empty_text(const ForwardOptions& options, std::int64_t max_length) const {
  CachedText text;
  text.options = options;
  text.experts = available;
  const bool alone = options.forced_expert || config.router.kind == RouterKind::static_expert;
  if (alone) {
    text.experts.fill(false);
    text.experts[std::size_t(options.forced_expert.value_or(config.router.expert))] = true;
  }
  const std::int64_t width = config.model.d_model;
  for (std::int64_t l = 0; l < config.model.layers; ++l) {
    LayerCache cache;
    for (int c = 0; c < caches(); ++c) {
      cache.keys.emplace_back(context.allocator(), width);
      if (uses(text, c)) cache.keys.back().reserve(max_length);
    }
    if (text.experts[std::size_t(ExpertKind::linear)]) {
      const auto padded = std::size_t(padded_head(head_dim()));
      cache.linear.sums.assign(std::size_t(width) * padded, 0.0F);
      cache.linear.totals.assign(std::size_t(config.model.heads) * padded, 0.0F);
    }
    text.layers.push_back(std::move(cache));
  }
  return text;
}

CachedText PackedModel::copy(const CachedText& text, std::int64_t max_length) const {
  CachedText other = text;
  for (LayerCache& cache : other.layers) {
    for (int c = 0; c < caches(); ++c) {
      if (uses(text, c)) cache.keys[std::size_t(c)].reserve(max_length);
    }
  }
  return other;
}

std::int64_t PackedModel::oldest_needed(ExpertKind expert, std::int64_t length) const {
  switch (expert) {
    case ExpertKind::full:
      return 0;
    case ExpertKind::linear:
      return length / config.attention.chunk * config.attention.chunk;
    case ExpertKind::local:
      return std::max<std::int64_t>(0, length - config.attention.window + 1);
  }
  return 0;
}

// Sums up the keys before `end`, which must be cached from linear.absorbed on.
void PackedModel::absorb(LayerCache& cache, std::int64_t end) const {
  if (cache.linear.absorbed >= end) return;
  context.parallel_for<float>(1, 1, [&](std::int64_t, std::int64_t) {
    Scratch<float> scratch(*context.allocator(), std::size_t(cached_attention_scratch(
                                                     config.model.d_model, head_dim(), cache_page)));
    AbsorbedKeys<float> keys;
    keys.width = config.model.d_model;
    keys.head_dim = head_dim();
    keys.begin = cache.linear.absorbed;
    keys.end = end;
    keys.pages = keys_of(cache, int(ExpertKind::linear)).pages();
    keys.sums = cache.linear.sums.data();
    keys.totals = cache.linear.totals.data();
    keys.scratch = scratch.data();
    const AttentionWork work = context.kernels<float>().absorb_keys(keys);
    context.flops().attention.fetch_add(std::uint64_t(work.useful), std::memory_order_relaxed);
  });
  cache.linear.absorbed = end;
}

bool PackedModel::reaches_back(const CachedText& text, std::int64_t length) const {
  for (const LayerCache& cache : text.layers) {
    for (int e = 0; e < expert_count; ++e) {
      if (!text.experts[std::size_t(e)]) continue;
      const std::int64_t first = keys_of(cache, e).first_kept();
      std::int64_t needed = oldest_needed(ExpertKind(e), length);
      // A state that is ahead must be summed up again, from the first key.
      if (ExpertKind(e) == ExpertKind::linear && cache.linear.absorbed > needed) needed = 0;
      if (first > needed) return false;
    }
  }
  return true;
}

void PackedModel::cut(CachedText& text, std::int64_t length) const {
  for (LayerCache& cache : text.layers) {
    if (text.experts[std::size_t(ExpertKind::linear)]) {
      const std::int64_t state = oldest_needed(ExpertKind::linear, length);
      if (cache.linear.absorbed > state) {
        std::fill(cache.linear.sums.begin(), cache.linear.sums.end(), 0.0F);
        std::fill(cache.linear.totals.begin(), cache.linear.totals.end(), 0.0F);
        cache.linear.absorbed = 0;
        absorb(cache, state);
      }
    }
    for (KvCache& keys : cache.keys) keys.truncate(length);
  }
  text.length = length;
}

std::size_t PackedModel::bytes(const CachedText& text) const {
  std::size_t bytes = 0;
  for (const LayerCache& cache : text.layers) {
    bytes += sizeof(LayerCache) + (cache.linear.sums.size() + cache.linear.totals.size()) * sizeof(float);
    for (const KvCache& keys : cache.keys) bytes += sizeof(KvCache) + keys.bytes();
  }
  return bytes;
}

std::size_t PackedModel::max_bytes(const CachedText& text, std::int64_t max_length) const {
  const auto pages_over = [](std::int64_t positions) { return (positions + cache_page - 1) / cache_page; };
  const std::int64_t all = pages_over(max_length);
  // What an expert reads at once may begin anywhere in a page.
  const auto pages_of = [&](ExpertKind expert) {
    if (!text.experts[std::size_t(expert)]) return std::int64_t{0};
    if (expert == ExpertKind::full) return all;
    const AttentionConfig& attention = config.attention;
    const std::int64_t reach =
        std::min(max_length, expert == ExpertKind::linear ? attention.chunk : attention.window);
    return std::min(all, pages_over(reach) + 1);
  };
  std::int64_t pages = 0, tables = 0;
  for (int c = 0; c < caches(); ++c) {
    std::int64_t most = 0;  // of the experts that read this cache
    for (int e = 0; e < expert_count; ++e) {
      if (cache_of(e) == c) most = std::max(most, pages_of(ExpertKind(e)));
    }
    pages += most;
    tables += most > 0 ? 1 : 0;
  }
  const LayerCache& cache = text.layers.front();
  const std::size_t layer = sizeof(LayerCache) + cache.keys.size() * sizeof(KvCache) +
                            (cache.linear.sums.size() + cache.linear.totals.size()) * sizeof(float) +
                            KvCache::bytes_of(pages, config.model.d_model, tables * all * cache_page);
  return layer * text.layers.size();
}

}  // namespace dirigo::meta
