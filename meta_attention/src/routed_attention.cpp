#include "dirigo/meta_attention/routed_attention.hpp"

#include <algorithm>
#include <cmath>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/kernels.hpp"
#include "position_feature.hpp"

namespace dirigo::meta {

namespace {

constexpr double training_floor = 1e-8;  // alpha is clamped here in training (docs/mathematics.md, section 2)

// Numbers every random site of a model: the layer, and a slot within it.
std::uint32_t parameter_site(std::uint32_t layer, std::uint32_t slot) {
  return (layer + 1) * 64 + slot;
}

RandomKey init_key(std::uint64_t seed, std::uint32_t site) {
  return random_key(seed, 0, Purpose::init, site);
}

// A stream per token.
RandomKey draw_key(const LayerCall& call, Purpose purpose) {
  return random_key(call.options.seed, call.options.step, purpose, call.layer).from(call.options.first_row);
}

// Standard Gumbel noise -log(-log u) for every weight.
Tensor gumbel_noise(const Variable& like, const RandomKey& key) {
  Tensor noise = Tensor::empty(like.context(), like.shape(), like.dtype());
  const std::int64_t count = like.shape()[1];
  visit_dtype(like.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = noise.data<T>();
    like.context().parallel_for<T>(like.shape()[0], 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        PhiloxStream stream(key, std::uint32_t(t));
        for (std::int64_t k = 0; k < count; ++k)
          out[t * count + k] = T(-std::log(-std::log(stream.uniform())));
      }
    });
  });
  return noise;
}

// result[rows[i]] += weights[rows[i], k] * x[i], or with x as long as the result, * x[rows[i]]
void add_weighted_rows(const Context& context, const Tensor& weights, int k, ops::Rows rows, const Tensor& x,
                       Tensor& result) {
  const std::int64_t width = result.shape()[1], count = weights.shape()[1];
  const bool whole = x.shape()[0] == result.shape()[0];
  visit_dtype(result.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = context.kernels<T>();
    const T* w = weights.data<T>();
    const T* source = x.data<T>();
    T* target = result.data<T>();
    context.parallel_for<T>(std::int64_t(rows.size()), 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = rows[std::size_t(i)];
        kernels.add_scaled(width, w[row * count + k], source + (whole ? row : i) * width,
                           target + row * width);
      }
    });
  });
}

// Which rows each expert computes, ascending: those whose weight for it is not zero.
struct ExpertRows {
  std::array<std::vector<std::int32_t>, expert_count> of;
  bool one_each = true;  // every row has a single expert, of weight 1
};

ExpertRows rows_by_expert(const Tensor& weights) {
  ExpertRows rows;
  const std::int64_t count = weights.shape()[1];
  visit_dtype(weights.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* w = weights.data<T>();
    for (std::int64_t t = 0; t < weights.shape()[0]; ++t, w += count) {
      int experts = 0;
      for (int k = 0; k < expert_count; ++k) {
        if (w[k] == T(0)) continue;
        rows.of[std::size_t(k)].push_back(std::int32_t(t));
        rows.one_each = rows.one_each && w[k] == T(1) && ++experts == 1;
      }
      rows.one_each = rows.one_each && experts == 1;
    }
  });
  return rows;
}

// The rows of keys that the queries at `rows` read: of each sequence the union of (t - reach, t].
std::vector<std::int32_t> keys_read(const std::vector<std::int32_t>& rows, std::int64_t length,
                                    std::int64_t reach) {
  std::vector<std::int32_t> keys;
  for (const std::int64_t row : rows) {
    const std::int64_t first = row - row % length;  // of its sequence
    std::int64_t key = std::max(first, row - std::min(reach, length) + 1);
    if (!keys.empty()) key = std::max<std::int64_t>(key, keys.back() + 1);
    for (; key <= row; ++key) keys.push_back(std::int32_t(key));
  }
  return keys;
}

// The linear map of just these rows of x, the others 0.
Variable project_rows(nn::Linear& linear, const Variable& x, const std::vector<std::int32_t>& rows) {
  const std::int64_t all = x.shape()[0];
  if (std::int64_t(rows.size()) == all) return linear(x);
  const Variable some = linear(ops::gather_rows(x, rows));
  const std::int64_t width = some.shape()[1];
  Tensor result = Tensor::zeros(x.context(), Shape{all, width}, x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = some.value().data<T>();
    T* to = result.data<T>();
    for (std::size_t i = 0; i < rows.size(); ++i)
      std::copy_n(from + std::int64_t(i) * width, width, to + rows[i] * width);
  });
  return x.tape().constant(result);
}

// What has been counted since its construction.
class ExpertCount {
 public:
  explicit ExpertCount(const Context& context) : counter_(context.flops()), before_(now()) {}
  ExpertFlops flops() const {
    const ExpertFlops after = now();
    return {after.attention - before_.attention, after.padding - before_.padding,
            after.products - before_.products};
  }

 private:
  ExpertFlops now() const { return {counter_.attention, counter_.attention_padding, counter_.products}; }
  const FlopCounter& counter_;
  ExpertFlops before_;
};

}  // namespace

Projection::Projection(const Context& context, std::int64_t width, std::uint64_t seed, std::uint32_t site,
                       DType dtype)
    : q(context, width, width, false, init_key(seed, site), dtype),
      k(context, width, width, false, init_key(seed, site + 1), dtype),
      v(context, width, width, false, init_key(seed, site + 2), dtype),
      o(context, width, width, false, init_key(seed, site + 3), dtype) {}

void Projection::visit(const std::string& prefix, nn::ParameterVisitor visitor) {
  q.visit(nn::join_names(prefix, "q"), visitor);
  k.visit(nn::join_names(prefix, "k"), visitor);
  v.visit(nn::join_names(prefix, "v"), visitor);
  o.visit(nn::join_names(prefix, "o"), visitor);
}

Controller::Controller(const Context& context, std::int64_t width, std::int64_t hidden, std::uint64_t seed,
                       std::uint32_t site, DType dtype)
    : fc1(context, width + 2, hidden, true, init_key(seed, site), dtype),
      fc2(context, hidden, expert_count, true, init_key(seed, site + 1), dtype) {}

Variable Controller::operator()(const Variable& features) {
  return fc2(ops::gelu(fc1(features)));
}

void Controller::visit(const std::string& prefix, nn::ParameterVisitor visitor) {
  fc1.visit(nn::join_names(prefix, "fc1"), visitor);
  fc2.visit(nn::join_names(prefix, "fc2"), visitor);
}

namespace {

// b_{h,d} = -slope 4^-h |d - 1|: steep heads read the last few tokens, flat ones the window, as in ALiBi
// (arXiv:2108.12409), but centred on the previous token, since the residual stream has the token itself.
Tensor initial_window_bias(const Context& context, const Config& config, DType dtype) {
  const std::int64_t heads = config.model.heads, window = config.attention.window;
  Tensor bias = Tensor::zeros(context, Shape{heads, window}, dtype);
  visit_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    auto out = bias.span<T>().begin();
    for (std::int64_t h = 0; h < heads; ++h) {
      const double slope = config.model.bias_slope * std::pow(0.25, double(h));
      for (std::int64_t d = 0; d < window; ++d) *out++ = T(0 - slope * std::abs(double(d - 1)));
    }
  });
  return bias;
}

}  // namespace

bool has_window_bias(const Config& config) {
  return config.model.positions == Positions::window_bias &&
         (config.router.kind != RouterKind::static_expert || config.router.expert == ExpertKind::local);
}

RoutedAttention::RoutedAttention(const Context& context, const Config& config, std::span<const double> costs,
                                 std::span<const double> prior, std::uint64_t seed, std::uint32_t layer,
                                 DType dtype)
    : config_(config),
      costs_(costs.begin(), costs.end()),
      prior_(prior.begin(), prior.end()),
      window_bias_{has_window_bias(config) ? initial_window_bias(context, config, dtype) : Tensor(), {}},
      experts_(make_experts(config.model, config.attention,
                            window_bias_.value.defined() ? &window_bias_ : nullptr)) {
  const std::int64_t width = config.model.d_model;
  for (int k = 0; k < (shared() ? 1 : expert_count); ++k) {
    const bool used =
        shared() || config.router.kind != RouterKind::static_expert || ExpertKind(k) == config.router.expert;
    const auto site = parameter_site(layer, std::uint32_t(8 * k));
    projections_.push_back(used ? std::make_unique<Projection>(context, width, seed, site, dtype) : nullptr);
  }
  if (learned()) {
    controller_ = std::make_unique<Controller>(context, width, config.router.hidden, seed,
                                               parameter_site(layer, 32), dtype);
  }
}

bool RoutedAttention::learned() const {
  return config_.router.kind != RouterKind::static_expert && config_.router.kind != RouterKind::prior_mixture;
}

Projection& RoutedAttention::projection(int expert) {
  const auto& found = projections_[shared() ? 0 : std::size_t(expert)];
  if (!found) {
    throw ValueError("[routing] expert: expected " + std::string(expert_name(config_.router.expert)) +
                     ", the only one of a static router with per-expert projections, got " +
                     std::string(expert_name(ExpertKind(expert))));
  }
  return *found;
}

void RoutedAttention::visit(const std::string& prefix, nn::ParameterVisitor visitor) {
  const std::string attention = nn::join_names(prefix, "attn");
  for (int k = 0; k < int(projections_.size()); ++k) {
    if (!projections_[std::size_t(k)]) continue;
    projections_[std::size_t(k)]->visit(
        shared() ? attention : nn::join_names(attention, std::string(expert_name(ExpertKind(k)))), visitor);
  }
  if (window_bias_.value.defined()) visitor(nn::join_names(attention, "window_bias"), window_bias_);
  if (controller_) controller_->visit(nn::join_names(prefix, "controller"), visitor);
}

// f_t = [LN(x_t); ||x_t||_2 / sqrt(D), detached; pos_t], pos_t = t / max_len with learned positions, else
// log1p(t) / log1p(max_len), which grows slowly beyond max_len. max_len is the model's, so appending text
// never re-routes the past.
Variable RoutedAttention::features(const Variable& normed, const Variable& residual,
                                   const LayerCall& call) const {
  const Context& context = normed.context();
  const std::int64_t rows = normed.shape()[0], width = normed.shape()[1];
  Tensor extra = Tensor::empty(context, Shape{rows, 2}, normed.dtype());
  visit_dtype(normed.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = context.kernels<T>();
    const Tensor x = residual.value().contiguous(context);
    const T* source = x.template data<T>();
    T* out = extra.data<T>();
    context.parallel_for<T>(rows, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        out[2 * row] = T(std::sqrt(kernels.sum_squares(width, source + row * width) / double(width)));
        out[2 * row + 1] = T(position_feature(config_.model, row % call.length));
      }
    });
  });
  const Variable parts[] = {normed, normed.tape().constant(extra)};
  return ops::concat(parts, 1);
}

Tensor RoutedAttention::constant_mean(const Variable& like, std::int64_t rows) const {
  std::vector<double> mean(expert_count, 0.0);
  if (config_.router.kind == RouterKind::static_expert) {
    mean[std::size_t(config_.router.expert)] = 1;
  } else {
    mean = prior_mean(config_.router, costs_);
  }
  Tensor weights = Tensor::empty(like.context(), Shape{rows, expert_count}, like.dtype());
  visit_dtype(like.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = weights.data<T>();
    for (std::int64_t i = 0; i < rows * expert_count; ++i) out[i] = T(mean[std::size_t(i % expert_count)]);
  });
  return weights;
}

void RoutedAttention::route(const Variable& normed, const Variable& residual, const LayerCall& call,
                            LayerRouting& routing) {
  if (!learned()) {
    routing.mean = constant_mean(normed, normed.shape()[0]);
  } else {
    const Variable h = (*controller_)(features(normed, residual, call));
    RoutingDistribution distribution;
    if (config_.router.kind == RouterKind::gumbel && call.options.training) {
      // softmax((h + Gumbel) / temperature): a relaxed sample (Jang, Gu, Poole 2017)
      const auto key = draw_key(call, Purpose::gumbel);
      const Variable noise = h.tape().constant(gumbel_noise(h, key));
      distribution.mean = ops::softmax(ops::scale(ops::add(h, noise), 1 / config_.router.temperature));
    } else {
      distribution = routing_distribution(config_.router, prior_, h);
    }
    routing.mean_variable = distribution.mean;
    routing.concentration_variable = distribution.concentration;
    routing.mean = distribution.mean.value();
    if (distribution.concentration.defined()) routing.concentration = distribution.concentration.value();
  }
  if (!call.options.replaced_means.empty()) routing.mean = call.options.replaced_means[call.layer];
  routing.chosen = argmax_rows(routing.mean, costs_);
}

Variable RoutedAttention::training_weights(LayerRouting& routing, const LayerCall& call) const {
  Variable weights = routing.mean_variable;
  if (config_.router.kind == RouterKind::bayes && config_.train.sampling == Sampling::posterior) {
    weights = ops::dirichlet_rsample(routing.concentration_variable, draw_key(call, Purpose::dirichlet),
                                     training_floor);
  }
  const std::int64_t rows = weights.shape()[0];
  if (call.options.straight_through || call.options.hard_routed) {
    routing.one_hot = rows;
    return call.options.hard_routed ? weights : ops::one_hot_straight_through(weights, costs_);
  }
  if (!call.options.gated_straight_through) return weights;
  std::vector<std::uint8_t> hard;
  for (std::int64_t row = 0; row < rows; ++row) hard.push_back(certain(routing, row, call.options) ? 1 : 0);
  routing.one_hot = std::count(hard.begin(), hard.end(), 1);
  return ops::one_hot_straight_through(weights, costs_, hard);
}

bool RoutedAttention::certain(const LayerRouting& routing, std::int64_t row,
                              const ForwardOptions& options) const {
  std::array<double, expert_count> m{}, b{};
  visit_dtype(routing.mean.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (int k = 0; k < expert_count; ++k) {
      m[std::size_t(k)] = double(routing.mean.data<T>()[row * expert_count + k]);
      if (routing.concentration.defined()) {
        b[std::size_t(k)] = double(routing.concentration.data<T>()[row * expert_count + k]);
      }
    }
  });
  if (options.gate == Gate::max_mean) return *std::max_element(m.begin(), m.end()) > options.eta;
  if (!routing.concentration.defined()) {
    throw ValueError("[routing] gate: expected max_mean for a router without a Dirichlet, got " +
                     std::string(name_of(options.gate)));
  }
  return options.gate == Gate::entropy ? dirichlet::entropy(b) < options.eta
                                       : dirichlet::mutual_information(b) < options.eta;
}

Tensor RoutedAttention::evaluation_weights(const Variable& like, const LayerRouting& routing,
                                           const ForwardOptions& options) const {
  if (options.routing == RoutingMode::soft && !options.forced_expert) return routing.mean;
  Tensor weights = Tensor::zeros(like.context(), routing.mean.shape(), like.dtype());
  visit_dtype(like.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* m = routing.mean.data<T>();
    T* out = weights.data<T>();
    for (std::int64_t t = 0; t < routing.mean.shape()[0]; ++t, m += expert_count, out += expert_count) {
      const bool hard =
          options.forced_expert || options.routing == RoutingMode::hard || certain(routing, t, options);
      if (hard) {
        out[options.forced_expert ? std::int32_t(*options.forced_expert) : routing.chosen[std::size_t(t)]] =
            T(1);
      } else {
        for (int k = 0; k < expert_count; ++k) out[k] = m[k];
      }
    }
  });
  return weights;
}

// Derivation: docs/mathematics/positions.md
Variable RoutedAttention::turned(const Variable& x, const LayerCall& call, ops::Rows rows) const {
  if (!call.angles) return x;
  return ops::rotary(x, rows.empty() ? *call.angles : call.angles->of_rows(rows));
}

Variable RoutedAttention::dense(const Variable& normed, const Variable& weights, const LayerCall& call) {
  const Shape sequences{call.batch, call.length, config_.model.d_model};
  const Shape rows = normed.shape();
  const auto project = [&](nn::Linear& linear) { return ops::reshape(linear(normed), sequences); };
  if (shared() && !config_.attention.leaky) {
    Projection& p = projection(0);
    const Variable q = project(p.q), k = project(p.k);
    ops::MixedPositions positions;
    if (call.angles) {
      positions.linear_q = q;
      positions.linear_k = k;
    }
    if (window_bias_.value.defined()) positions.local_bias = window_bias_.on(normed.tape());
    const Variable mixed = ops::mixed_attention(weights, turned(q, call), turned(k, call), project(p.v),
                                                int(config_.model.heads), config_.attention.window,
                                                config_.attention.chunk, positions);
    return p.o(ops::reshape(mixed, rows));
  }
  std::vector<Variable> outputs;
  for (int e = 0; e < expert_count; ++e) {
    Projection& p = projection(e);
    const Variable q = project(p.q), k = project(p.k);
    const bool turns = ExpertKind(e) != ExpertKind::linear;
    Variable out = experts_[std::size_t(e)]->attend(turns ? turned(q, call) : q, turns ? turned(k, call) : k,
                                                    project(p.v), {});
    out = ops::reshape(out, rows);
    outputs.push_back(shared() ? out : p.o(out));
  }
  const Variable mixed = ops::mix(weights, outputs);
  return shared() ? projection(0).o(mixed) : mixed;
}

Variable RoutedAttention::expert_rows(int e, const Variable& normed, const Projected& all,
                                      const std::vector<std::int32_t>& rows, const LayerCall& call) {
  const bool every = std::int64_t(rows.size()) == normed.shape()[0];
  const bool turns = ExpertKind(e) != ExpertKind::linear;
  const Shape sequences{call.batch, call.length, config_.model.d_model};
  const auto pick = [&](const Variable& x) { return every ? x : ops::gather_rows(x, rows); };
  Projection& p = projection(e);
  Variable q, k, v;
  if (shared()) {
    q = pick(turns ? all.turned_q : all.q);
    k = turns ? all.turned_k : all.k;
    v = all.v;
  } else {
    q = p.q(pick(normed));
    k = p.k(normed);
    v = p.v(normed);
    if (turns) {
      q = turned(q, call, every ? ops::Rows{} : ops::Rows(rows));
      k = turned(k, call);
    }
  }
  if (every) q = ops::reshape(q, sequences);
  Variable out = experts_[std::size_t(e)]->attend(q, ops::reshape(k, sequences), ops::reshape(v, sequences),
                                                  every ? ops::Rows{} : ops::Rows(rows));
  out = ops::reshape(out, Shape{std::int64_t(rows.size()), config_.model.d_model});
  return shared() ? out : p.o(out);
}

// With probability `explore` a token runs one of its other experts too, each as likely: in expectation the
// gradient of the weights is that of running them all (docs/mathematics/straight-through.md).
Variable RoutedAttention::hard_routed(const Variable& normed, const Variable& weights, const LayerCall& call,
                                      LayerRouting& routing) {
  const double explore = config_.train.explore;
  const auto chosen = argmax_rows(weights.value(), costs_);
  std::array<std::vector<std::int32_t>, expert_count> own, other;
  const RandomKey key = draw_key(call, Purpose::explore);
  for (std::size_t t = 0; t < chosen.size(); ++t) {
    own[std::size_t(chosen[t])].push_back(std::int32_t(t));
    PhiloxStream stream(key, std::uint32_t(t));
    if (stream.uniform() >= explore) continue;
    const auto shift = 1 + std::int32_t(stream.below(expert_count - 1));
    other[std::size_t((chosen[t] + shift) % expert_count)].push_back(std::int32_t(t));
  }

  Projected all;
  if (shared()) {
    Projection& p = projection(0);
    all.q = p.q(normed);
    all.k = p.k(normed);
    all.v = p.v(normed);
    all.turned_q = turned(all.q, call);
    all.turned_k = turned(all.k, call);
  }
  // The explored outputs are constants: a tape of their own records nothing.
  Tape quiet(normed.context(), Tape::Mode::inference);
  const auto constant = [&](const Variable& x) {
    return x.defined() ? quiet.constant(x.value()) : Variable();
  };
  const Projected all_constant{constant(all.q), constant(all.k), constant(all.v), constant(all.turned_q),
                               constant(all.turned_k)};
  std::vector<ops::RoutedRows> parts;
  for (int e = 0; e < expert_count; ++e) {
    const auto& rows = own[std::size_t(e)];
    const auto& explored = other[std::size_t(e)];
    routing.tokens_per_expert[std::size_t(e)] = std::int64_t(rows.size() + explored.size());
    if (!rows.empty()) parts.push_back({e, rows, expert_rows(e, normed, all, rows, call), 1, 1});
    if (explored.empty()) continue;
    const Variable output = expert_rows(e, constant(normed), all_constant, explored, call);
    parts.push_back(
        {e, explored, normed.tape().constant(output.value()), 0, double(expert_count - 1) / explore});
  }
  const Variable mixed = ops::mix_rows(weights, parts);
  return shared() ? projection(0).o(mixed) : mixed;
}

Variable RoutedAttention::executed(const Variable& normed, const Tensor& weights, const LayerCall& call,
                                   LayerRouting& routing) {
  return shared() ? executed_shared(normed, weights, call, routing)
                  : executed_per_expert(normed, weights, call, routing);
}

// The experts share q, k and v. Where every token has one expert each writes its rows of the result itself.
Variable RoutedAttention::executed_shared(const Variable& normed, const Tensor& weights,
                                          const LayerCall& call, LayerRouting& routing) {
  const Context& context = normed.context();
  Tape& tape = normed.tape();
  const Shape sequences{call.batch, call.length, config_.model.d_model};
  Projection& p = projection(0);
  const auto in_sequences = [&](const Variable& x) { return ops::reshape(x, sequences); };
  const Variable q = p.q(normed), k = p.k(normed), v = in_sequences(p.v(normed));
  const Variable turned_q = in_sequences(turned(q, call)), turned_k = in_sequences(turned(k, call)),
                 plain_q = in_sequences(q), plain_k = in_sequences(k);
  const ExpertRows rows = rows_by_expert(weights);
  Tensor result = rows.one_each ? Tensor::empty(context, normed.shape(), normed.dtype())
                                : Tensor::zeros(context, normed.shape(), normed.dtype());
  for (std::size_t e = 0; e < expert_count; ++e) {
    routing.tokens_per_expert[e] = std::int64_t(rows.of[e].size());
    if (rows.of[e].empty()) continue;
    const ExpertCount count(context);
    const Tensor out =
        rows.one_each ? result.reshape(sequences) : Tensor::empty(context, sequences, normed.dtype());
    const bool turns = ExpertKind(e) != ExpertKind::linear;
    experts_[e]->attend(turns ? turned_q : plain_q, turns ? turned_k : plain_k, v,
                        ops::Rows(rows.of[e], out));
    if (!rows.one_each)
      add_weighted_rows(context, weights, int(e), rows.of[e], out.reshape(normed.shape()), result);
    routing.flops_per_expert[e] = count.flops();
  }
  return p.o(tape.constant(result));
}

// Every expert projects its own queries, and the keys and values that one of them reads.
Variable RoutedAttention::executed_per_expert(const Variable& normed, const Tensor& weights,
                                              const LayerCall& call, LayerRouting& routing) {
  const Context& context = normed.context();
  const Shape sequences{call.batch, call.length, config_.model.d_model};
  Tensor result = Tensor::zeros(context, normed.shape(), normed.dtype());
  const ExpertRows rows = rows_by_expert(weights);
  for (std::size_t e = 0; e < expert_count; ++e) {
    const std::vector<std::int32_t>& own = rows.of[e];
    routing.tokens_per_expert[e] = std::int64_t(own.size());
    if (own.empty()) continue;
    const ExpertCount count(context);
    Projection& p = projection(int(e));
    const std::vector<std::int32_t> read = keys_read(own, call.length, experts_[e]->reach());
    const bool every = std::int64_t(own.size()) == normed.shape()[0];
    Variable q = every ? p.q(normed) : p.q(ops::gather_rows(normed, own)),
             k = project_rows(p.k, normed, read);
    if (ExpertKind(e) != ExpertKind::linear) {
      q = turned(q, call, every ? ops::Rows() : ops::Rows(own));
      k = turned(k, call);
    }
    if (every) q = ops::reshape(q, sequences);
    const Variable v = ops::reshape(project_rows(p.v, normed, read), sequences);
    const Variable out =
        experts_[e]->attend(q, ops::reshape(k, sequences), v, every ? ops::Rows() : ops::Rows(own));
    const Variable projected = p.o(ops::reshape(out, Shape{std::int64_t(own.size()), config_.model.d_model}));
    add_weighted_rows(context, weights, int(e), own, projected.value(), result);
    routing.flops_per_expert[e] = count.flops();
  }
  return normed.tape().constant(result);
}

Variable RoutedAttention::one_expert(int e, const Variable& normed, const LayerCall& call,
                                     LayerRouting& routing) {
  Projection& p = projection(e);
  const Shape sequences{call.batch, call.length, config_.model.d_model};
  const auto project = [&](nn::Linear& linear) { return ops::reshape(linear(normed), sequences); };
  const Variable q = project(p.q), k = project(p.k);
  const bool turns = ExpertKind(e) != ExpertKind::linear;
  const Variable out = experts_[std::size_t(e)]->attend(turns ? turned(q, call) : q,
                                                        turns ? turned(k, call) : k, project(p.v), {});
  routing.tokens_per_expert[std::size_t(e)] = normed.shape()[0];
  return p.o(ops::reshape(out, normed.shape()));
}

// A static router trains its one expert alone: no mixing, nothing else computed.
Variable RoutedAttention::operator()(const Variable& normed, const Variable& residual, const LayerCall& call,
                                     LayerRouting& routing) {
  const Context& context = normed.context();
  const ForwardOptions& options = call.options;
  route(normed, residual, call, routing);
  if (!options.training && !config_.attention.leaky) {
    const Tensor weights = evaluation_weights(normed, routing, options).contiguous(context);
    return executed(normed, weights, call, routing);
  }
  if (config_.router.kind == RouterKind::static_expert) {
    return one_expert(int(options.forced_expert.value_or(config_.router.expert)), normed, call, routing);
  }
  routing.tokens_per_expert.fill(normed.shape()[0]);
  const bool trains = options.training && learned();
  const Variable weights = trains ? training_weights(routing, call)
                                  : normed.tape().constant(evaluation_weights(normed, routing, options));
  if (trains && options.hard_routed) return hard_routed(normed, weights, call, routing);
  return dense(normed, weights, call);
}

}  // namespace dirigo::meta
