#include "dirigo/meta_attention/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "packed_model.hpp"

namespace dirigo::meta {

InferenceModel::InferenceModel(const Context& context, LanguageModel& model)
    : packed_(std::make_shared<const PackedModel>(context, model)) {}
InferenceModel::~InferenceModel() = default;
InferenceModel::InferenceModel(InferenceModel&&) noexcept = default;
InferenceModel& InferenceModel::operator=(InferenceModel&&) noexcept = default;

const Config& InferenceModel::config() const noexcept {
  return packed_->config;
}
std::int64_t InferenceModel::vocabulary() const noexcept {
  return packed_->vocabulary;
}
std::size_t InferenceModel::memory_bytes() const noexcept {
  return packed_->memory_bytes();
}

namespace {

// The caller's choices of a text, one for each token and layer; tokens without a choice hold `none`.
constexpr ExpertKind none = ExpertKind(expert_count);

SessionOptions resolved(const PackedModel& model, SessionOptions options) {
  const ForwardOptions& forward = options.forward;
  if (forward.training || !forward.replaced_means.empty()) {
    throw ValueError("[session] forward: expected evaluation without replaced_means, got another pass");
  }
  if (forward.forced_expert && !model.available[std::size_t(*forward.forced_expert)]) {
    throw ValueError(
        fmt::format("[session] forced_expert: expected {}, the only one of a static router, got {}",
                    expert_name(model.config.router.expert), expert_name(*forward.forced_expert)));
  }
  if (forward.routing == RoutingMode::gated && forward.gate != Gate::max_mean &&
      model.config.router.kind != RouterKind::bayes) {
    throw ValueError("[session] gate: expected max_mean for a router without a Dirichlet, got " +
                     std::string(name_of(forward.gate)));
  }
  const std::int64_t longest = longest_text(model.config);
  if (options.max_length < 0 || options.max_length > longest) {
    throw ValueError(fmt::format("[session] max_length: expected 0 to {}, the model's longest text, got {}",
                                 longest, options.max_length));
  }
  if (options.max_length == 0) options.max_length = model.config.model.max_len;
  if (options.when_full == WhenFull::slide) {
    if (options.slide_keep == 0) options.slide_keep = options.max_length / 2;
    if (options.slide_keep < 0 || options.slide_keep >= options.max_length) {
      throw ValueError(fmt::format("[session] slide_keep: expected 0 to {}, got {}", options.max_length - 1,
                                   options.slide_keep));
    }
  }
  return options;
}

}  // namespace

struct InferenceSession::Impl {
  Impl(const std::shared_ptr<const PackedModel>& model, const SessionOptions& given)
      : packed(model),
        options(resolved(*model, given)),
        text(model->empty_text(options.forward, options.max_length)),
        max_bytes(fixed_bytes() + model->max_bytes(text, options.max_length) +
                  std::size_t(options.max_length * model->config.model.layers)) {
    tokens.reserve(std::size_t(options.max_length));
  }

  // A copy that shares the other's pages.
  Impl(const PackedModel& model, const Impl& other)
      : packed(other.packed),
        options(other.options),
        text(model.copy(other.text, options.max_length)),
        max_bytes(other.max_bytes),
        tokens(other.tokens),
        routing(other.routing) {
    tokens.reserve(std::size_t(options.max_length));
  }

  // What does not depend on the text.
  std::size_t fixed_bytes() const {
    return sizeof(Impl) + std::size_t(options.max_length) * sizeof(std::int32_t);
  }

  std::weak_ptr<const PackedModel> packed;
  SessionOptions options;
  CachedText text;
  std::size_t max_bytes;
  std::vector<std::int32_t> tokens;
  std::vector<ExpertKind> routing;  // empty until a caller first chooses
  mutable std::atomic<bool> in_use{false};

  void check(const PackedModel& model, std::span<const std::int32_t> added, RoutingOverride choice) const;
  bool full() const { return text.length == options.max_length; }
  void remember(std::span<const std::int32_t> added, RoutingOverride choice, std::int64_t layers);
  void clear(const PackedModel& model);
  void compute_again(const PackedModel& model, std::int64_t begin, std::int64_t end);
};

namespace {

// The model, or StateError.
std::shared_ptr<const PackedModel> locked(const std::weak_ptr<const PackedModel>& packed) {
  std::shared_ptr<const PackedModel> model = packed.lock();
  if (!model)
    throw StateError("[session] model: expected an InferenceModel that exists, got one that is gone");
  return model;
}

// Holds a session for the duration of a call.
class InUse {
 public:
  explicit InUse(std::atomic<bool>& flag) : flag_(&flag) {
    if (flag.exchange(true, std::memory_order_acquire)) {
      throw StateError("[session] use: expected one call at a time, got a second one");
    }
  }
  ~InUse() {
    if (flag_ != nullptr) flag_->store(false, std::memory_order_release);
  }
  InUse(InUse&& other) noexcept : flag_(std::exchange(other.flag_, nullptr)) {}
  InUse& operator=(InUse&&) = delete;
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic<bool>* flag_;
};

}  // namespace

void InferenceSession::Impl::check(const PackedModel& model, std::span<const std::int32_t> added,
                                   RoutingOverride choice) const {
  for (const std::int32_t token : added) {
    if (token < 0 || token >= model.vocabulary) {
      throw ValueError(
          fmt::format("[session] token: expected an id in [0, {}), got {}", model.vocabulary, token));
    }
  }
  if (choice.empty()) return;
  const std::size_t wanted = added.size() * std::size_t(model.config.model.layers);
  if (choice.size() != wanted) {
    throw ValueError(
        fmt::format("[session] routing override: expected {} entries ({} tokens x {} layers), got {}", wanted,
                    added.size(), model.config.model.layers, choice.size()));
  }
  for (const ExpertKind expert : choice) {
    if (int(expert) >= expert_count || !text.experts[std::size_t(expert)]) {
      throw ValueError(
          fmt::format("[session] routing override: expected an expert that this session keeps, got {}",
                      int(expert) < expert_count ? expert_name(expert) : "no expert"));
    }
  }
}

void InferenceSession::Impl::remember(std::span<const std::int32_t> added, RoutingOverride choice,
                                      std::int64_t layers) {
  const std::size_t before = tokens.size() * std::size_t(layers);
  tokens.insert(tokens.end(), added.begin(), added.end());
  if (choice.empty() && routing.empty()) return;
  if (routing.capacity() == 0) routing.reserve(std::size_t(options.max_length * layers));
  routing.resize(before, none);
  if (choice.empty()) {
    routing.resize(tokens.size() * std::size_t(layers), none);
  } else {
    routing.insert(routing.end(), choice.begin(), choice.end());
  }
}

void InferenceSession::Impl::clear(const PackedModel& model) {
  text = model.empty_text(options.forward, options.max_length);
  tokens.clear();
  routing.clear();
}

// Makes tokens [begin, end) the whole text. Tokens with and without a choice of the caller run apart.
void InferenceSession::Impl::compute_again(const PackedModel& model, std::int64_t begin, std::int64_t end) {
  const auto layers = std::size_t(model.config.model.layers);
  const std::vector<std::int32_t> kept(tokens.begin() + begin, tokens.begin() + end);
  std::vector<ExpertKind> choices;
  if (!routing.empty()) {
    choices.assign(routing.begin() + begin * std::int64_t(layers),
                   routing.begin() + end * std::int64_t(layers));
  }
  const auto chosen = [&](std::size_t t) { return !choices.empty() && choices[t * layers] != none; };
  clear(model);
  for (std::size_t from = 0, to = 0; from < kept.size(); from = to) {
    while (to < kept.size() && chosen(to) == chosen(from)) ++to;
    const auto part = std::span(kept).subspan(from, to - from);
    const RoutingOverride choice = chosen(from)
                                       ? RoutingOverride(choices).subspan(from * layers, (to - from) * layers)
                                       : RoutingOverride{};
    SessionOutput output;
    const Extension extension{&text, part, choice, false, &output};
    model.extend(std::span(&extension, 1));
    remember(part, choice, std::int64_t(layers));
  }
}

InferenceSession::InferenceSession(const InferenceModel& model, const SessionOptions& options)
    : impl_(std::make_unique<Impl>(model.packed_, options)) {}
InferenceSession::InferenceSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
InferenceSession::~InferenceSession() = default;
InferenceSession::InferenceSession(InferenceSession&&) noexcept = default;
InferenceSession& InferenceSession::operator=(InferenceSession&&) noexcept = default;

SessionOutput InferenceSession::prefill(std::span<const std::int32_t> tokens, const PrefillOptions& options) {
  Impl& m = *impl_;
  const InUse use(m.in_use);
  const auto model = locked(m.packed);
  if (tokens.empty()) throw ValueError("[session] tokens: expected at least one, got none");
  const std::int64_t length = m.text.length + std::int64_t(tokens.size());
  if (length > m.options.max_length) {
    throw ValueError(
        fmt::format("[session] length: expected at most {} tokens, got {}", m.options.max_length, length));
  }
  m.check(*model, tokens, options.routing);
  SessionOutput output;
  try {
    const Extension extension{&m.text, tokens, options.routing, options.all_logits, &output};
    model->extend(std::span(&extension, 1));
    m.remember(tokens, options.routing, model->config.model.layers);
  } catch (...) {
    m.clear(*model);
    throw;
  }
  return output;
}

void InferenceSession::step(std::int32_t token, SessionOutput& output, RoutingOverride routing) {
  Impl& m = *impl_;
  const InUse use(m.in_use);
  const auto model = locked(m.packed);
  m.check(*model, std::span(&token, 1), routing);
  if (m.full() && m.options.when_full == WhenFull::error) {
    throw ValueError(fmt::format("[session] length: expected at most {} tokens, got {}", m.options.max_length,
                                 m.text.length + 1));
  }
  try {
    if (m.full()) m.compute_again(*model, m.text.length - m.options.slide_keep, m.text.length);
    const Extension extension{&m.text, std::span(&token, 1), routing, false, &output};
    model->extend(std::span(&extension, 1));
    m.remember(std::span(&token, 1), routing, model->config.model.layers);
  } catch (...) {
    m.clear(*model);
    throw;
  }
}

void InferenceSession::step(std::span<InferenceSession* const> sessions, std::span<const std::int32_t> tokens,
                            std::span<SessionOutput> outputs) {
  if (tokens.size() != sessions.size() || outputs.size() != sessions.size()) {
    throw ValueError(fmt::format("[session] batch: expected {} tokens and outputs, got {} and {}",
                                 sessions.size(), tokens.size(), outputs.size()));
  }
  if (sessions.empty()) return;
  std::vector<InUse> uses;
  uses.reserve(sessions.size());
  for (const InferenceSession* const session : sessions) uses.emplace_back(session->impl_->in_use);
  const auto model = locked(sessions.front()->impl_->packed);
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    const Impl& m = *sessions[i]->impl_;
    if (locked(m.packed) != model) {
      throw ValueError("[session] batch: expected sessions of one InferenceModel, got several");
    }
    m.check(*model, tokens.subspan(i, 1), {});
    if (m.full() && m.options.when_full == WhenFull::error) {
      throw ValueError(fmt::format("[session] length: expected at most {} tokens, got {}",
                                   m.options.max_length, m.text.length + 1));
    }
  }
  try {
    std::vector<Extension> extensions;
    extensions.reserve(sessions.size());
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      Impl& m = *sessions[i]->impl_;
      if (m.full()) m.compute_again(*model, m.text.length - m.options.slide_keep, m.text.length);
      extensions.push_back({&m.text, tokens.subspan(i, 1), {}, false, &outputs[i]});
    }
    model->extend(extensions);
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      sessions[i]->impl_->remember(tokens.subspan(i, 1), {}, model->config.model.layers);
    }
  } catch (...) {
    for (const InferenceSession* const session : sessions) session->impl_->clear(*model);
    throw;
  }
}

InferenceSession InferenceSession::fork() const {
  const InUse use(impl_->in_use);
  return InferenceSession(std::make_unique<Impl>(*locked(impl_->packed), *impl_));
}

void InferenceSession::rewind(std::int64_t length) {
  Impl& m = *impl_;
  const InUse use(m.in_use);
  const auto model = locked(m.packed);
  if (length < 0 || length > m.text.length) {
    throw ValueError(fmt::format("[session] length: expected 0 to {}, got {}", m.text.length, length));
  }
  if (!model->reaches_back(m.text, length)) {
    try {
      m.compute_again(*model, 0, length);
    } catch (...) {
      m.clear(*model);
      throw;
    }
    return;
  }
  model->cut(m.text, length);
  m.tokens.resize(std::size_t(length));
  if (!m.routing.empty()) m.routing.resize(std::size_t(length * model->config.model.layers));
}

std::int64_t InferenceSession::length() const noexcept {
  return impl_->text.length;
}
std::int64_t InferenceSession::max_length() const noexcept {
  return impl_->options.max_length;
}
std::span<const std::int32_t> InferenceSession::tokens() const noexcept {
  return impl_->tokens;
}

std::size_t InferenceSession::memory_bytes() const {
  const InUse use(impl_->in_use);
  return impl_->fixed_bytes() + impl_->routing.capacity() + locked(impl_->packed)->bytes(impl_->text);
}

std::size_t InferenceSession::shared_memory_bytes() const {
  const InUse use(impl_->in_use);
  std::size_t bytes = 0;
  for (const LayerCache& cache : impl_->text.layers) {
    for (const KvCache& keys : cache.keys) bytes += keys.shared_bytes();
  }
  return bytes;
}

std::size_t InferenceSession::max_memory_bytes() const noexcept {
  return impl_->max_bytes;
}

}  // namespace dirigo::meta
