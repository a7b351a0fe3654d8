#include "dirigo/meta_attention/language_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "dirigo/meta_attention/routed_attention.hpp"

namespace dirigo::meta {

namespace {

// Dropout sites of a block; the embedding sum is site 0 of the model.
enum DropoutSite : std::uint32_t { embedding_sum = 0, after_gelu = 1, ffn_output = 2 };

// An element of dropout's stream decides about four values.
RandomKey dropout_key(const ForwardOptions& options, std::uint32_t site, const Variable& x) {
  const std::int64_t elements_per_row = (x.shape()[1] + 3) / 4;
  return random_key(options.seed, options.step, Purpose::dropout, site)
      .from(options.first_row * elements_per_row);
}

class Block {
 public:
  Block(const Context& context, const Config& config, std::span<const double> costs,
        std::span<const double> prior, std::uint64_t seed, std::uint32_t layer, DType dtype)
      : train_(config.train),
        layer_(layer),
        ln1_(context, config.model.d_model, dtype),
        ln2_(context, config.model.d_model, dtype),
        attention_(context, config, costs, prior, seed, layer, dtype),
        fc1_(context, config.model.d_model, config.model.d_model * config.model.ffn_multiplier, true,
             random_key(seed, 0, Purpose::init, (layer + 1) * 64 + 40), dtype),
        fc2_(context, config.model.d_model * config.model.ffn_multiplier, config.model.d_model, true,
             random_key(seed, 0, Purpose::init, (layer + 1) * 64 + 41), dtype) {}

  Variable operator()(const Variable& x, const LayerCall& call, LayerRouting& routing) {
    const Variable attended = ops::add(x, attention_(ln1_(x), x, call, routing));
    return ops::add(attended, feed_forward(ln2_(attended), call.options));
  }

  void visit(const std::string& prefix, nn::ParameterVisitor visitor) {
    ln1_.visit(nn::join_names(prefix, "ln1"), visitor);
    attention_.visit(prefix, visitor);
    ln2_.visit(nn::join_names(prefix, "ln2"), visitor);
    fc1_.visit(nn::join_names(prefix, "ffn.fc1"), visitor);
    fc2_.visit(nn::join_names(prefix, "ffn.fc2"), visitor);
  }

 private:
  Variable feed_forward(const Variable& x, const ForwardOptions& options) {
    Variable hidden = ops::gelu(fc1_(x));
    if (train_.dropout_sites == DropoutSites::all) hidden = drop(hidden, options, after_gelu);
    return drop(fc2_(hidden), options, ffn_output);
  }

  Variable drop(const Variable& x, const ForwardOptions& options, DropoutSite site) const {
    if (!options.training) return x;
    return ops::dropout(x, train_.dropout, dropout_key(options, (layer_ + 1) * 8 + site, x));
  }

  TrainConfig train_;
  std::uint32_t layer_;
  nn::LayerNorm ln1_, ln2_;
  RoutedAttention attention_;
  nn::Linear fc1_, fc2_;
};

// The layers start at N(0, 0.02^2); the configuration may ask for another deviation.
void rescale(Tensor& weights, double deviation) {
  if (deviation == nn::initial_deviation) return;
  visit_dtype(weights.dtype(), [&](auto zero) {
    using T = decltype(zero);
    // in float, so that an f64 model starts from the same weights as its f32 twin
    const float ratio = float(deviation / nn::initial_deviation);
    for (T& weight : weights.span<T>()) weight = T(float(weight) * ratio);
  });
}

}  // namespace

struct LanguageModel::Impl {
  Impl(const Context& context, const Config& source, std::int64_t words, std::uint64_t seed, DType dtype)
      : config(source),
        vocabulary(words),
        costs(expert_costs(source, source.model.max_len)),
        prior(prior_concentration(source.router, costs)),
        priors(std::size_t(source.model.layers), prior),
        embed(context, words, source.model.d_model, random_key(seed, 0, Purpose::init, 0), dtype),
        ln_f(context, source.model.d_model, dtype) {
    for (std::uint32_t l = 0; l < std::uint32_t(source.model.layers); ++l) {
      blocks.push_back(std::make_unique<Block>(context, config, costs, prior, seed, l, dtype));
    }
    if (source.model.positions == Positions::learned) {
      pos = std::make_unique<nn::Embedding>(context, source.model.max_len, source.model.d_model,
                                            random_key(seed, 0, Purpose::init, 1), dtype);
    }
    if (!source.model.tie_embeddings) {
      head = std::make_unique<nn::Linear>(context, source.model.d_model, words, false,
                                          random_key(seed, 0, Purpose::init, 2), dtype);
    }
  }

  Config config;
  std::int64_t vocabulary;
  std::vector<double> costs, prior;
  std::vector<std::vector<double>> priors;  // of each layer
  nn::Embedding embed;
  std::unique_ptr<nn::Embedding> pos;  // null unless positions are learned
  std::vector<std::unique_ptr<Block>> blocks;
  nn::LayerNorm ln_f;
  std::unique_ptr<nn::Linear> head;  // null when tied
};

double parameter_count(const Config& config, std::int64_t vocabulary) {
  const ModelConfig& m = config.model;
  const double width = double(m.d_model), hidden = double(config.router.hidden),
               ffn = width * double(m.ffn_multiplier);
  const bool learned =
      config.router.kind != RouterKind::static_expert && config.router.kind != RouterKind::prior_mixture;
  const bool one =
      config.attention.projections == Projections::shared || config.router.kind == RouterKind::static_expert;
  const double projections = (one ? 1 : expert_count) * 4 * width * width;
  const double controller = learned ? (width + 2) * hidden + hidden + (hidden + 1) * expert_count : 0;
  const double bias = has_window_bias(config) ? double(m.heads * config.attention.window) : 0;
  const double block = 4 * width + projections + bias + controller + 2 * width * ffn + ffn + width;
  const double positions = m.positions == Positions::learned ? double(m.max_len) : 0;
  const double embeddings = (double(vocabulary) * (m.tie_embeddings ? 1 : 2) + positions) * width;
  return embeddings + double(m.layers) * block + 2 * width;
}

std::int64_t longest_text(const Config& config) noexcept {
  return config.model.positions == Positions::learned ? config.model.max_len : longest_sequence;
}

LanguageModel::LanguageModel(const Context& context, const Config& config, std::int64_t vocabulary,
                             std::uint64_t seed, DType dtype) {
  if (vocabulary < 1)
    throw ValueError(fmt::format("[model] vocabulary: expected at least 1, got {}", vocabulary));
  if (config.model.max_len < 1) throw ValueError("[model] max_len: expected a resolved configuration, got 0");
  impl_ = std::make_unique<Impl>(context, config, vocabulary, seed, dtype);
  visit("", [&](const std::string& name, nn::Parameter& parameter) {
    if (parameter.value.rank() < 2) return;                     // biases are 0, LayerNorm gains 1
    if (name.find("window_bias") != std::string::npos) return;  // starts as model.bias_slope says
    const bool embedding = name == "embed.weight" || name == "pos.weight";
    rescale(parameter.value, embedding ? config.model.embedding_std : config.model.init_std);
  });
}

LanguageModel::~LanguageModel() = default;

Forward LanguageModel::operator()(Tape& tape, std::span<const std::int32_t> tokens, std::int64_t batch,
                                  std::int64_t length, const ForwardOptions& options) {
  Impl& m = *impl_;
  if (batch < 1 || length < 1 || std::int64_t(tokens.size()) != batch * length) {
    throw ValueError(fmt::format("[model] tokens: expected batch * length = {} * {}, got {}", batch, length,
                                 tokens.size()));
  }
  if (length > longest_text(m.config)) {
    throw ValueError(
        fmt::format("[model] length: expected at most max_len = {}, got {}", m.config.model.max_len, length));
  }
  std::vector<std::int32_t> positions(tokens.size());
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = std::int32_t(std::int64_t(i) % length);

  Variable x = m.embed(tape, tokens);
  if (m.pos) x = ops::add(x, (*m.pos)(tape, positions));
  std::optional<ops::RotaryAngles> angles;
  if (m.config.model.positions == Positions::rotary) {
    angles.emplace(tape.context(), positions, m.config.model.d_model / m.config.model.heads, x.dtype());
  }
  if (options.training && m.config.train.dropout_sites == DropoutSites::all) {
    x = ops::dropout(x, m.config.train.dropout, dropout_key(options, embedding_sum, x));
  }
  Forward forward;
  forward.layers.resize(m.blocks.size());
  for (std::size_t l = 0; l < m.blocks.size(); ++l) {
    const LayerCall call{batch, length, options, std::uint32_t(l), angles ? &*angles : nullptr};
    x = (*m.blocks[l])(x, call, forward.layers[l]);
  }
  x = m.ln_f(x);
  forward.logits = m.head ? (*m.head)(x) : ops::linear(x, m.embed.weight.on(tape));
  return forward;
}

void LanguageModel::visit(const std::string& prefix, nn::ParameterVisitor visitor) {
  Impl& m = *impl_;
  m.embed.visit(nn::join_names(prefix, "embed"), visitor);
  if (m.pos) m.pos->visit(nn::join_names(prefix, "pos"), visitor);
  for (std::size_t l = 0; l < m.blocks.size(); ++l) {
    m.blocks[l]->visit(nn::join_names(prefix, fmt::format("blocks.{}", l)), visitor);
  }
  m.ln_f.visit(nn::join_names(prefix, "ln_f"), visitor);
  if (m.head) m.head->visit(nn::join_names(prefix, "head"), visitor);
}

void LanguageModel::hold_controllers(bool held) {
  visit("", [held](const std::string& name, nn::Parameter& parameter) {
    if (name.find(".controller.") != std::string::npos) parameter.held = held;
  });
}

const Config& LanguageModel::config() const noexcept {
  return impl_->config;
}
std::int64_t LanguageModel::vocabulary() const noexcept {
  return impl_->vocabulary;
}
std::span<const double> LanguageModel::costs() const noexcept {
  return impl_->costs;
}
std::span<const double> LanguageModel::prior() const noexcept {
  return impl_->prior;
}
std::span<const double> LanguageModel::prior(std::size_t layer) const {
  return impl_->priors.at(layer);
}

void LanguageModel::set_priors(std::vector<std::vector<double>> priors) {
  const auto good = [](const std::vector<double>& prior) {
    const bool positive =
        std::all_of(prior.begin(), prior.end(), [](double b) { return b > 0 && std::isfinite(b); });
    return prior.size() == expert_count && positive;
  };
  if (priors.size() != impl_->priors.size() || !std::all_of(priors.begin(), priors.end(), good)) {
    throw ValueError(fmt::format("[model] priors: expected {} numbers > 0 for each of {} layers, got {}",
                                 expert_count, impl_->priors.size(), priors));
  }
  impl_->priors = std::move(priors);
}

LanguageModel::Flops LanguageModel::full_attention_flops(std::int64_t batch, std::int64_t length) const {
  const ModelConfig& c = impl_->config.model;
  const double rows = double(batch) * double(length), width = double(c.d_model);
  // QK and PV, D multiply-adds each for every pair j <= i
  const double attention =
      double(c.layers) * 4 * width * double(batch) * double(length) * double(length + 1) / 2;
  const double per_layer = 4 * width * width + 2 * width * width * double(c.ffn_multiplier);
  const double products = 2 * rows * (double(c.layers) * per_layer + width * double(impl_->vocabulary));
  return {attention, attention + products};
}

}  // namespace dirigo::meta
