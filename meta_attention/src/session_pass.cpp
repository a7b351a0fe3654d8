// The forward pass over cached texts. Each step of it is the operation of the same name in autograd/src/ops,
// without a tape: the tests hold it against LanguageModel bit by bit.
#include <algorithm>
#include <cmath>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/kernels.hpp"
#include "dirigo/core/product.hpp"
#include "packed_model.hpp"
#include "position_feature.hpp"

namespace dirigo::meta {

namespace {

// From so many tokens on, attention runs as in training: tile by tile over the keys of the whole text as
// rows.
constexpr std::int64_t tokens_worth_tiles = 16;
// From so many multiply-adds on, the heads of a single query are shared out over threads.
constexpr std::int64_t work_worth_threads = 1 << 19;

std::int32_t argmax(const float* w, std::span<const double> costs) {
  int best = 0;
  for (int k = 1; k < expert_count; ++k) {
    const bool cheaper = w[k] == w[best] && costs[std::size_t(k)] < costs[std::size_t(best)];
    if (w[k] > w[best] || cheaper) best = k;
  }
  return best;
}

// Whether a gated token runs hard (docs/mathematics.md, section 6).
bool certain(const float* mean, const float* concentration, const ForwardOptions& options) {
  if (options.gate == Gate::max_mean)
    return double(*std::max_element(mean, mean + expert_count)) > options.eta;
  const std::array<double, expert_count> b{double(concentration[0]), double(concentration[1]),
                                           double(concentration[2])};
  return (options.gate == Gate::entropy ? dirichlet::entropy(b) : dirichlet::mutual_information(b)) <
         options.eta;
}

}  // namespace

// One call of extend(): row i is a token of some extension, in order.
class Pass {
 public:
  Pass(const PackedModel& model, std::span<const Extension> extensions)
      : model_(model), context_(model.context), extensions_(extensions), width_(model.config.model.d_model) {
    for (const Extension& each : extensions) {
      first_row_.push_back(rows_);
      rows_ += std::int64_t(each.tokens.size());
    }
    first_row_.push_back(rows_);
  }

  void run();

 private:
  using Buffer = Scratch<float>;
  Buffer buffer(std::int64_t values) const { return {*context_.allocator(), std::size_t(values)}; }
  const KernelTable<float>& kernels() const { return context_.kernels<float>(); }

  template <class F>
  void for_rows(std::int64_t rows, std::int64_t columns, F f) const;  // f(first, count)
  void multiply(const PackedLinear& linear, std::int64_t rows, const float* x, float* y) const;
  void normalise(const Tensor& gain, const Tensor& bias, std::int64_t rows, const float* x, float* y) const;
  void embed(float* x) const;

  void route(const PackedLayer& layer, const float* normed, const float* x, std::int64_t index);
  void choose_weights(std::int64_t index);
  void attend(const PackedLayer& layer, const float* normed, std::int64_t index, float* out);
  void feed_forward(const PackedLayer& layer, const float* x, float* out) const;
  void write_logits(const float* x) const;

  struct Queries {
    std::vector<std::int32_t> rows;  // whose weight is not zero, ascending
    const float* q = nullptr;        // of those rows, `stride` apart
    std::int64_t stride = 0;
    float* out = nullptr;  // of those rows, D apart
  };
  // Of an extension within the rows of an expert: [begin, end).
  struct Range {
    std::int64_t begin, end;
  };
  Range range(const Queries& queries, std::size_t extension) const;

  // Keys and values of every row, as a cache holds them.
  struct Keys {
    const float *k = nullptr, *v = nullptr;
    std::int64_t k_stride = 0, v_stride = 0;
    const float* key(std::int64_t row) const { return k + row * k_stride; }
    const float* value(std::int64_t row) const { return v + row * v_stride; }
  };
  // y, D apart: x, `stride` apart, turned by the positions of these rows of the call (null: of the first).
  void turn(std::int64_t count, const std::int32_t* rows, const float* x, std::int64_t stride,
            float* y) const;

  void attend_text(std::size_t extension, std::int64_t layer);
  void attend_tiles(std::size_t extension, std::int64_t layer, int expert);
  void attend_query(const CachedText& text, std::int64_t layer, int expert, std::int64_t position,
                    const float* q, float* out, bool threads) const;
  // By head and distance, or null.
  const float* window_bias(std::int64_t layer, int expert) const {
    const Tensor& bias = model_.layers_[std::size_t(layer)].window_bias;
    return ExpertKind(expert) == ExpertKind::local && bias.defined() ? bias.data<float>() : nullptr;
  }
  void count(const AttentionWork& work) const {
    context_.flops().attention.fetch_add(std::uint64_t(work.useful), std::memory_order_relaxed);
    context_.flops().attention_padding.fetch_add(std::uint64_t(work.padding), std::memory_order_relaxed);
  }

  const PackedModel& model_;
  const Context& context_;
  std::span<const Extension> extensions_;
  std::int64_t width_, rows_ = 0;
  std::vector<std::int64_t> first_row_;
  std::optional<ops::RotaryAngles> angles_;  // of every row, with rotary positions
  // Of the current layer.
  std::vector<float> mean_, concentration_, weights_;
  std::array<Queries, expert_count> queries_;
  std::array<Keys, expert_count> keys_;  // of each cache
};

template <class F>
void Pass::for_rows(std::int64_t rows, std::int64_t columns, F f) const {
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, columns));
  context_.parallel_for<float>(rows, grain,
                               [&](std::int64_t begin, std::int64_t end) { f(begin, end - begin); });
}

void Pass::multiply(const PackedLinear& linear, std::int64_t rows, const float* x, float* y) const {
  const float* bias = linear.bias.defined() ? linear.bias.data<float>() : nullptr;
  const float* weight = linear.weight.data<float>();
  if (rows == 1) {
    for_rows(1, 1, [&](std::int64_t, std::int64_t) {
      kernels().row_product(linear.out, linear.in, x, weight, linear.row, bias, y);
    });
    context_.flops().products += 2 * std::uint64_t(linear.in) * std::uint64_t(linear.out);
    return;
  }
  product<float>(context_, {.m = rows,
                            .n = linear.out,
                            .k = linear.in,
                            .a = x,
                            .a_row = linear.in,
                            .b = weight,
                            .b_row = linear.row,
                            .c = y,
                            .c_row = linear.out,
                            .bias = bias});
}

void Pass::normalise(const Tensor& gain, const Tensor& bias, std::int64_t rows, const float* x,
                     float* y) const {
  for_rows(rows, width_, [&](std::int64_t first, std::int64_t count) {
    Buffer moments = buffer(2 * count);
    kernels().layer_norm(count, width_, float(nn::LayerNorm::eps), x + first * width_, gain.data<float>(),
                         bias.data<float>(), y + first * width_, moments.data(), moments.data() + count);
  });
}

void Pass::embed(float* x) const {
  const bool learned = model_.positions_.defined();
  const float* const tokens = model_.embed_.data<float>();
  const float* const positions = learned ? model_.positions_.data<float>() : nullptr;
  for (std::size_t i = 0; i < extensions_.size(); ++i) {
    const Extension& each = extensions_[i];
    float* const out = x + first_row_[i] * width_;
    for_rows(std::int64_t(each.tokens.size()), width_, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t t = first; t < first + count; ++t) {
        const float* const token = tokens + each.tokens[std::size_t(t)] * width_;
        if (learned) {
          kernels().add(width_, token, positions + (each.text->length + t) * width_, out + t * width_);
        } else {
          std::copy_n(token, width_, out + t * width_);
        }
      }
    });
  }
}

void Pass::turn(std::int64_t count, const std::int32_t* rows, const float* x, std::int64_t stride,
                float* y) const {
  for_rows(count, width_, [&](std::int64_t first, std::int64_t n) {
    for (std::int64_t i = first; i < first + n; ++i) {
      angles_->turn(rows != nullptr ? rows[i] : i, width_, x + i * stride, y + i * width_);
    }
  });
}

void Pass::run() {
  Buffer x = buffer(rows_ * width_), normed = buffer(rows_ * width_), change = buffer(rows_ * width_);
  const auto add_change = [&] {
    for_rows(rows_, width_, [&](std::int64_t first, std::int64_t count) {
      float* const to = x.data() + first * width_;
      kernels().add(count * width_, to, change.data() + first * width_, to);
    });
  };
  embed(x.data());
  if (model_.rotary) {
    std::vector<std::int32_t> positions;
    for (const Extension& each : extensions_) {
      for (std::size_t t = 0; t < each.tokens.size(); ++t) {
        positions.push_back(std::int32_t(each.text->length + std::int64_t(t)));
      }
    }
    angles_.emplace(context_, positions, model_.head_dim());
  }
  for (const Extension& each : extensions_) each.output->layers.resize(model_.layers_.size());
  for (std::int64_t l = 0; l < std::int64_t(model_.layers_.size()); ++l) {
    const PackedLayer& layer = model_.layers_[std::size_t(l)];
    normalise(layer.ln1_gain, layer.ln1_bias, rows_, x.data(), normed.data());
    route(layer, normed.data(), x.data(), l);
    attend(layer, normed.data(), l, change.data());
    add_change();
    normalise(layer.ln2_gain, layer.ln2_bias, rows_, x.data(), normed.data());
    feed_forward(layer, normed.data(), change.data());
    add_change();
  }
  write_logits(x.data());
  for (const Extension& each : extensions_) each.text->length += std::int64_t(each.tokens.size());
}

// m and bhat of every row, from [LN(x); ||x|| / sqrt(D); position_feature(t)].
void Pass::route(const PackedLayer& layer, const float* normed, const float* x, std::int64_t index) {
  const RouterConfig& router = model_.config.router;
  const auto values = std::size_t(rows_ * expert_count);
  mean_.resize(values);
  concentration_.resize(router.kind == RouterKind::bayes ? values : 0);
  if (!layer.controller1) {
    std::vector<double> mean(expert_count, 0.0);
    if (router.kind == RouterKind::static_expert) {
      mean[std::size_t(router.expert)] = 1;
    } else {
      mean = prior_mean(router, model_.costs);
    }
    for (std::size_t i = 0; i < values; ++i) mean_[i] = float(mean[i % expert_count]);
  } else {
    const std::int64_t columns = width_ + 2, hidden = router.hidden;
    Buffer features = buffer(rows_ * columns), between = buffer(rows_ * hidden);
    for (std::size_t i = 0; i < extensions_.size(); ++i) {
      const std::int64_t position = extensions_[i].text->length - first_row_[i];
      for_rows(first_row_[i + 1] - first_row_[i], width_, [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t row = first_row_[i] + first; row < first_row_[i] + first + count; ++row) {
          float* const out = features.data() + row * columns;
          std::copy_n(normed + row * width_, width_, out);
          out[width_] = float(std::sqrt(kernels().sum_squares(width_, x + row * width_) / double(width_)));
          out[width_ + 1] = float(position_feature(model_.config.model, position + row));
        }
      });
    }
    multiply(*layer.controller1, rows_, features.data(), between.data());
    for_rows(rows_, hidden, [&](std::int64_t first, std::int64_t count) {
      float* const from = between.data() + first * hidden;
      kernels().gelu(count * hidden, from, from);
    });
    multiply(*layer.controller2, rows_, between.data(), mean_.data());
    std::array<float, expert_count> base;  // bhat = base + softplus(h)
    for (std::size_t k = 0; k < expert_count; ++k) {
      base[k] = float(router.posterior == Posterior::additive ? model_.prior[k] : router.eps);
    }
    for_rows(rows_, expert_count, [&](std::int64_t first, std::int64_t count) {
      float* const mean = mean_.data() + first * expert_count;
      if (router.kind != RouterKind::bayes) {
        kernels().softmax(count, expert_count, mean, mean);
        return;
      }
      float* const b = concentration_.data() + first * expert_count;
      kernels().softplus(count * expert_count, mean, b);
      for (std::int64_t i = 0; i < count * expert_count; i += expert_count) {
        double total = 0;
        for (std::int64_t k = 0; k < expert_count; ++k) {
          b[i + k] += base[std::size_t(k)];
          total += double(b[i + k]);
        }
        for (std::int64_t k = 0; k < expert_count; ++k) mean[i + k] = b[i + k] / float(total);
      }
    });
  }
  choose_weights(index);
}

// The weights that run: m, its one-hot, or by the gate one of the two; or the caller's choice.
void Pass::choose_weights(std::int64_t index) {
  weights_.assign(mean_.size(), 0.0F);
  for (Queries& queries : queries_) queries.rows.clear();
  for (std::size_t i = 0; i < extensions_.size(); ++i) {
    const Extension& each = extensions_[i];
    const ForwardOptions& options = each.text->options;
    SessionRouting& routing = each.output->layers[std::size_t(index)];
    const auto begin = std::size_t(first_row_[i] * expert_count),
               end = std::size_t(first_row_[i + 1] * expert_count);
    routing.chosen.clear();
    for (std::int64_t row = first_row_[i]; row < first_row_[i + 1]; ++row) {
      const float* const m = mean_.data() + row * expert_count;
      float* const out = weights_.data() + row * expert_count;
      const std::int32_t most = argmax(m, model_.costs);
      routing.chosen.push_back(ExpertKind(most));
      if (!each.routing.empty()) {
        const std::int64_t at = (row - first_row_[i]) * model_.config.model.layers + index;
        out[std::size_t(each.routing[std::size_t(at)])] = 1;
      } else if (options.forced_expert) {
        out[std::size_t(*options.forced_expert)] = 1;
      } else if (options.routing == RoutingMode::hard ||
                 (options.routing == RoutingMode::gated &&
                  certain(m, concentration_.empty() ? nullptr : concentration_.data() + row * expert_count,
                          options))) {
        out[most] = 1;
      } else {
        std::copy_n(m, expert_count, out);
      }
      for (std::size_t e = 0; e < expert_count; ++e) {
        if (out[e] != 0) queries_[e].rows.push_back(std::int32_t(row));
      }
    }
    const auto part = [&](const std::vector<float>& from, std::vector<float>& to) {
      to.assign(from.begin() + std::ptrdiff_t(begin), from.begin() + std::ptrdiff_t(end));
    };
    part(mean_, routing.mean);
    part(weights_, routing.weights);
    if (concentration_.empty()) {
      routing.concentration.clear();
    } else {
      part(concentration_, routing.concentration);
    }
  }
}

// Projections, every expert's attention on its rows, and their weighted sum.
void Pass::attend(const PackedLayer& layer, const float* normed, std::int64_t index, float* out) {
  const std::int64_t project_row = layer.project.out;
  Buffer projected = buffer(rows_ * project_row);
  multiply(layer.project, rows_, normed, projected.data());

  // k and v of every expert; one pair, behind q, with shared projections. Cache c holds keys as expert c
  // reads them.
  Buffer turned_keys = buffer(model_.rotary ? model_.caches() * rows_ * width_ : 0);
  const float* next = projected.data() + (model_.shared ? width_ : 0);
  for (int c = 0; c < model_.caches(); ++c) {
    if (!model_.available[std::size_t(c)]) continue;
    Keys& keys = keys_[std::size_t(c)];
    keys = {next, next + width_, project_row, project_row};
    if (!model_.shared) next += 2 * width_;
    if (!model_.turns(c)) continue;
    float* const to = turned_keys.data() + c * rows_ * width_;
    turn(rows_, nullptr, keys.k, keys.k_stride, to);
    keys.k = to;
    keys.k_stride = width_;
  }

  std::int64_t total = 0;  // rows of all experts
  for (const Queries& queries : queries_) total += std::int64_t(queries.rows.size());
  Buffer gathered = buffer(total * width_), own_queries = buffer(model_.shared ? 0 : total * width_),
         turned = buffer(model_.rotary ? total * width_ : 0), results = buffer(total * width_);
  std::int64_t at = 0;
  for (int e = 0; e < expert_count; ++e) {
    Queries& queries = queries_[std::size_t(e)];
    const auto count = std::int64_t(queries.rows.size());
    const bool every = count == rows_;
    const float* const source = model_.shared ? projected.data() : normed;
    const std::int64_t stride = model_.shared ? project_row : width_;
    queries.q = source;
    queries.stride = stride;
    if (!every) {
      for (std::int64_t i = 0; i < count; ++i) {
        std::copy_n(source + queries.rows[std::size_t(i)] * stride, width_,
                    gathered.data() + (at + i) * width_);
      }
      queries.q = gathered.data() + at * width_;
      queries.stride = width_;
    }
    if (!model_.shared && count > 0) {
      multiply(layer.q[std::size_t(e)], count, queries.q, own_queries.data() + at * width_);
      queries.q = own_queries.data() + at * width_;
      queries.stride = width_;
    }
    if (model_.turns(e)) {
      float* const to = turned.data() + at * width_;
      turn(count, queries.rows.data(), queries.q, queries.stride, to);
      queries.q = to;
      queries.stride = width_;
    }
    queries.out = results.data() + at * width_;
    at += count;
  }

  if (extensions_.size() == 1) {  // outside a region, so that its heads may be shared out
    attend_text(0, index);
  } else {
    context_.parallel_for<float>(std::int64_t(extensions_.size()), 1,
                                 [&](std::int64_t begin, std::int64_t end) {
                                   for (std::int64_t i = begin; i < end; ++i)
                                     attend_text(std::size_t(i), index);
                                 });
  }

  Buffer mixed = buffer(rows_ * width_);
  std::fill_n(mixed.data(), rows_ * width_, 0.0F);
  for (int e = 0; e < expert_count; ++e) {
    const Queries& queries = queries_[std::size_t(e)];
    const auto count = std::int64_t(queries.rows.size());
    if (count == 0) continue;
    const float* from = queries.out;
    if (!model_.shared) {
      multiply(layer.o[std::size_t(e)], count, queries.out, own_queries.data());
      from = own_queries.data();
    }
    for_rows(count, width_, [&](std::int64_t first, std::int64_t n) {
      for (std::int64_t i = first; i < first + n; ++i) {
        const std::int64_t row = queries.rows[std::size_t(i)];
        kernels().add_scaled(width_, weights_[std::size_t(row * expert_count + e)], from + i * width_,
                             mixed.data() + row * width_);
      }
    });
  }
  if (model_.shared) {
    multiply(layer.o[0], rows_, mixed.data(), out);
  } else {
    std::copy_n(mixed.data(), rows_ * width_, out);
  }
}

Pass::Range Pass::range(const Queries& queries, std::size_t extension) const {
  const auto at = [&](std::int64_t row) {
    return std::lower_bound(queries.rows.begin(), queries.rows.end(), row) - queries.rows.begin();
  };
  return {at(first_row_[extension]), at(first_row_[extension + 1])};
}

// Caches one text's new keys and values, and answers its queries.
void Pass::attend_text(std::size_t extension, std::int64_t index) {
  CachedText& text = *extensions_[extension].text;
  LayerCache& cache = text.layers[std::size_t(index)];
  const std::int64_t first = first_row_[extension], count = first_row_[extension + 1] - first;
  std::array<Range, expert_count> ranges;
  for (int e = 0; e < expert_count; ++e) {
    Range& range = ranges[std::size_t(e)];
    range = this->range(queries_[std::size_t(e)], extension);
    // Linear tiles start from an empty state.
    const bool tiles =
        count >= tokens_worth_tiles && (ExpertKind(e) != ExpertKind::linear || text.length == 0);
    if (!tiles || range.begin == range.end) continue;
    attend_tiles(extension, index, e);
    range.begin = range.end;
  }
  for (std::int64_t row = first; row < first + count; ++row) {
    const std::int64_t position = text.length + row - first;
    for (int c = 0; c < model_.caches(); ++c) {
      const Keys& keys = keys_[std::size_t(c)];
      if (model_.uses(text, c)) cache.keys[std::size_t(c)].write(position, keys.key(row), keys.value(row));
    }
    for (int e = 0; e < expert_count; ++e) {
      const Queries& queries = queries_[std::size_t(e)];
      std::int64_t& next = ranges[std::size_t(e)].begin;
      if (next == ranges[std::size_t(e)].end || queries.rows[std::size_t(next)] != row) continue;
      attend_query(text, index, e, position, queries.q + next * queries.stride, queries.out + next * width_,
                   extensions_.size() == 1);
      ++next;
    }
    // What the next token can need, and no more.
    if (text.experts[std::size_t(ExpertKind::linear)]) {
      model_.absorb(cache, model_.oldest_needed(ExpertKind::linear, position + 1));
    }
    for (int c = 0; c < model_.caches(); ++c) {
      if (!model_.uses(text, c)) continue;
      std::int64_t oldest = position + 1;
      for (int e = 0; e < expert_count; ++e) {
        if (!text.experts[std::size_t(e)] || model_.cache_of(e) != c) continue;
        oldest = std::min(oldest, model_.oldest_needed(ExpertKind(e), position + 1));
      }
      cache.keys[std::size_t(c)].forget_before(oldest);
    }
  }
}

void Pass::attend_query(const CachedText& text, std::int64_t index, int expert, std::int64_t position,
                        const float* q, float* out, bool threads) const {
  const LayerCache& cache = text.layers[std::size_t(index)];
  const ModelConfig& model = model_.config.model;
  const AttentionConfig& attention = model_.config.attention;
  CachedQuery<float> query;
  query.width = width_;
  query.head_dim = model_.head_dim();
  query.position = position;
  query.pages = model_.keys_of(cache, expert).pages();
  query.q = q;
  query.out = out;
  query.scale = float(1 / std::sqrt(double(query.head_dim)));
  query.window = ExpertKind(expert) == ExpertKind::full ? position + 1 : attention.window;
  query.bias = window_bias(index, expert);
  query.chunk = attention.chunk;
  query.sums = cache.linear.sums.data();
  query.totals = cache.linear.totals.data();
  const bool split = threads && context_.threads() > 1 && ExpertKind(expert) != ExpertKind::linear &&
                     2 * width_ * std::min(query.window, position + 1) >= work_worth_threads;
  const std::int64_t heads =
      split ? (model.heads + context_.threads() - 1) / context_.threads() : model.heads;
  const std::int64_t size =
      cached_attention_scratch(width_, query.head_dim, std::min(attention.chunk, text.length + 1));
  context_.parallel_for<float>(model.heads, heads, [&](std::int64_t begin, std::int64_t end) {
    Buffer scratch = buffer(size);
    CachedQuery<float> part = query;
    part.first_head = begin;
    part.heads = end - begin;
    part.scratch = scratch.data();
    count(ExpertKind(expert) == ExpertKind::linear ? kernels().cached_linear_attention(part)
                                                   : kernels().cached_softmax_attention(part));
  });
}

// As LanguageModel does it: all of the text's keys as rows, the new queries in tiles.
void Pass::attend_tiles(std::size_t extension, std::int64_t index, int expert) {
  const Extension& each = extensions_[extension];
  const CachedText& text = *each.text;
  const KvCache& cache = model_.keys_of(text.layers[std::size_t(index)], expert);
  const Queries& queries = queries_[std::size_t(expert)];
  const std::int64_t begin = range(queries, extension).begin, end = range(queries, extension).end;
  const std::int64_t first = first_row_[extension], count = first_row_[extension + 1] - first;
  // Key tiles start at absolute positions: what the cache has forgotten stays as rows of zeros that no query
  // sees.
  const std::int64_t cached = text.length;
  Buffer keys = buffer(cached == 0 ? 0 : (cached + count) * width_),
         values = buffer(cached == 0 ? 0 : (cached + count) * width_);
  const Keys& added = keys_[std::size_t(model_.cache_of(expert))];
  Keys all{added.key(first), added.value(first), added.k_stride, added.v_stride};
  if (cached > 0) {
    cache.unpack(0, cached, keys.data(), values.data());
    for (std::int64_t i = 0; i < count; ++i) {
      std::copy_n(added.key(first + i), width_, keys.data() + (cached + i) * width_);
      std::copy_n(added.value(first + i), width_, values.data() + (cached + i) * width_);
    }
    all = {keys.data(), values.data(), width_, width_};
  }
  std::vector<std::int32_t> positions;
  for (std::int64_t i = begin; i < end; ++i) {
    positions.push_back(std::int32_t(cached + queries.rows[std::size_t(i)] - first));
  }
  const std::int64_t d = model_.head_dim(), length = cached + count;
  const auto fill = [&](auto& head, std::int64_t h, float* scratch) {
    head.length = length;
    head.head_dim = d;
    head.queries = end - begin;
    head.positions = end - begin == length ? nullptr : positions.data();
    head.q = queries.q + begin * queries.stride + h * d;
    head.k = all.k + h * d;
    head.v = all.v + h * d;
    head.out = queries.out + begin * width_ + h * d;
    head.q_stride = queries.stride;
    head.k_stride = all.k_stride;
    head.v_stride = all.v_stride;
    head.out_stride = width_;
    head.scratch = scratch;
  };
  const std::int64_t chunk = model_.config.attention.chunk, window = model_.config.attention.window;
  const float* const bias = window_bias(index, expert);
  const std::int64_t size = ExpertKind(expert) == ExpertKind::linear
                                ? linear_attention_scratch(length, d, chunk)
                                : softmax_attention_scratch(length, d);
  context_.parallel_for<float>(model_.config.model.heads, 1, [&](std::int64_t from, std::int64_t to) {
    Buffer scratch = buffer(size);
    for (std::int64_t h = from; h < to; ++h) {
      if (ExpertKind(expert) == ExpertKind::linear) {
        LinearHead<float> head;
        fill(head, h, scratch.data());
        head.chunk = chunk;
        this->count(kernels().linear_attention(head));
      } else {
        AttentionHead<float> head;
        fill(head, h, scratch.data());
        head.window = ExpertKind(expert) == ExpertKind::full ? length : window;
        head.bias = bias != nullptr ? bias + h * window : nullptr;
        head.scale = float(1 / std::sqrt(double(d)));
        this->count(kernels().softmax_attention(head));
      }
    }
  });
}

void Pass::feed_forward(const PackedLayer& layer, const float* x, float* out) const {
  const std::int64_t hidden = layer.ffn1.out;
  Buffer between = buffer(rows_ * hidden);
  multiply(layer.ffn1, rows_, x, between.data());
  for_rows(rows_, hidden, [&](std::int64_t first, std::int64_t count) {
    float* const from = between.data() + first * hidden;
    kernels().gelu(count * hidden, from, from);
  });
  multiply(layer.ffn2, rows_, between.data(), out);
}

void Pass::write_logits(const float* x) const {
  std::vector<std::int64_t> wanted;
  for (std::size_t i = 0; i < extensions_.size(); ++i) {
    const std::int64_t from = extensions_[i].all_logits ? first_row_[i] : first_row_[i + 1] - 1;
    for (std::int64_t row = from; row < first_row_[i + 1]; ++row) wanted.push_back(row);
  }
  const auto count = std::int64_t(wanted.size());
  const std::int64_t words = model_.head_.out;
  Buffer rows = buffer(count * width_), logits = buffer(count * words);
  for (std::int64_t i = 0; i < count; ++i) {
    std::copy_n(x + wanted[std::size_t(i)] * width_, width_, rows.data() + i * width_);
  }
  normalise(model_.ln_gain_, model_.ln_bias_, count, rows.data(), rows.data());
  multiply(model_.head_, count, rows.data(), logits.data());
  const float* from = logits.data();
  for (const Extension& each : extensions_) {
    const auto size = std::size_t(words) * (each.all_logits ? each.tokens.size() : 1);
    each.output->logits.assign(from, from + size);
    from += size;
  }
}

void PackedModel::extend(std::span<const Extension> extensions) const {
  Pass(*this, extensions).run();
}

}  // namespace dirigo::meta
