#include "generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/session.hpp"

namespace dirigo::tools {
namespace {

void check(const GenerateOptions& options, std::span<const std::int32_t> prompt) {
  if (prompt.empty()) throw ValueError("[sample] --prompt: expected at least one known byte, got none");
  if (options.tokens < 1) {
    throw ValueError(fmt::format("[sample] --tokens: expected at least 1, got {}", options.tokens));
  }
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    throw ValueError(
        fmt::format("[sample] --temperature: expected a number >= 0, got {}", options.temperature));
  }
  if (options.top_k < 0)
    throw ValueError(fmt::format("[sample] --top-k: expected at least 0, got {}", options.top_k));
}

// One draw from softmax(logits / temperature), restricted to the top_k largest logits.
std::int32_t draw(std::span<const float> logits, const GenerateOptions& options, std::uint32_t number) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t token) { return logits[static_cast<std::size_t>(token)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logit(a) > logit(b); });
  if (options.temperature == 0) return order.front();
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));

  std::vector<double> cumulative;
  double sum = 0;
  for (const std::int32_t token : order) {
    sum += std::exp((double(logit(token)) - double(logit(order.front()))) / options.temperature);
    cumulative.push_back(sum);
  }
  PhiloxStream random(random_key(options.seed, 0, Purpose::sampling), number);
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), random.uniform() * sum);
  return order[std::min(static_cast<std::size_t>(chosen - cumulative.begin()), order.size() - 1)];
}

std::vector<meta::ExpertKind> chosen_at(const meta::SessionOutput& output, std::size_t position) {
  std::vector<meta::ExpertKind> chosen;
  for (const meta::SessionRouting& layer : output.layers) chosen.push_back(layer.chosen[position]);
  return chosen;
}

}  // namespace

void generate(const Context& context, meta::LanguageModel& model, std::span<const std::int32_t> prompt,
              const GenerateOptions& options, const std::function<bool(const GeneratedToken&)>& emit) {
  check(options, prompt);
  const meta::InferenceModel ready(context, model);
  meta::SessionOptions session_options;
  session_options.forward = options.forward;
  session_options.when_full = meta::WhenFull::slide;
  session_options.slide_keep = model.config().model.max_len - 1;
  meta::InferenceSession session(ready, session_options);

  const std::size_t seen = std::min(prompt.size(), static_cast<std::size_t>(session.max_length()));
  meta::SessionOutput output = session.prefill(prompt.last(seen));
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    GeneratedToken token{prompt[i], true, {}};
    const std::size_t unseen = prompt.size() - seen;
    if (i >= unseen) token.chosen = chosen_at(output, i - unseen);
    if (!emit(token)) return;
  }
  for (std::int64_t number = 0; number < options.tokens; ++number) {
    const std::int32_t token = draw(output.logits, options, static_cast<std::uint32_t>(number));
    session.step(token, output);
    if (!emit({token, false, chosen_at(output, 0)})) return;
  }
}

}  // namespace dirigo::tools
