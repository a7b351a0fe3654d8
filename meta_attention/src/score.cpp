#include "dirigo/meta_attention/score.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "dirigo/core/dirichlet_math.hpp"

namespace dirigo::meta {

namespace {

constexpr std::int32_t unknown = -1;

std::vector<double> row_of(const Tensor& matrix, std::int64_t t) {
  std::vector<double> row(static_cast<std::size_t>(matrix.shape()[1]));
  visit_dtype(matrix.dtype(), [&](auto zero) {
    const auto* values = matrix.data<decltype(zero)>() + t * matrix.shape()[1];
    std::copy(values, values + row.size(), row.begin());
  });
  return row;
}

ByteScore::Layer layer_score(const LayerRouting& routing, std::int64_t t) {
  ByteScore::Layer layer;
  layer.weights = row_of(routing.mean, t);
  layer.chosen = ExpertKind(routing.chosen[std::size_t(t)]);
  if (routing.concentration.defined()) {
    layer.concentration = row_of(routing.concentration, t);
    layer.uncertainty = dirichlet::entropy(layer.concentration);
    layer.mi = dirichlet::mutual_information(layer.concentration);
  }
  return layer;
}

// -log softmax(logits_t)[target], in double.
double negative_log_likelihood(const Tensor& logits, std::int64_t t, std::int32_t target) {
  const std::vector<double> row = row_of(logits, t);
  return dirichlet::log_sum_exp(row) - row[std::size_t(target)];
}

}  // namespace

void score_text(const Context& context, LanguageModel& model, std::span<const std::uint8_t> vocabulary,
                std::span<const std::uint8_t> text, const ForwardOptions& options,
                const std::function<void(const ByteScore&)>& emit) {
  if (model.config().attention.leaky) {
    throw ValueError("[score] attention.leaky: expected a model that does not read the future, got one");
  }
  std::array<std::int32_t, 256> token_of;
  token_of.fill(unknown);
  for (std::size_t i = 0; i < vocabulary.size(); ++i) token_of[vocabulary[i]] = std::int32_t(i);

  const auto limit = std::size_t(model.config().model.max_len);
  for (std::size_t begin = 0; begin < text.size();) {
    // A window: up to `limit` known bytes from `begin` on, with the unknown ones between them.
    std::vector<std::int32_t> tokens;
    std::size_t end = begin;
    for (; end < text.size() && tokens.size() < limit; ++end) {
      if (token_of[text[end]] != unknown) tokens.push_back(token_of[text[end]]);
    }
    Forward forward;
    Tape tape(context, Tape::Mode::inference);
    if (!tokens.empty()) forward = model(tape, tokens, 1, std::int64_t(tokens.size()), options);
    std::int64_t t = 0;
    for (std::size_t i = begin; i < end; ++i) {
      ByteScore score;
      score.pos = std::int64_t(i);
      score.byte = text[i];
      score.skipped = token_of[text[i]] == unknown;
      if (!score.skipped) {
        if (t > 0) score.nll = negative_log_likelihood(forward.logits.value(), t - 1, token_of[text[i]]);
        for (const LayerRouting& routing : forward.layers) score.layers.push_back(layer_score(routing, t));
        ++t;
      }
      emit(score);
    }
    begin = end;
  }
}

std::string to_json_line(const ByteScore& score) {
  using Json = nlohmann::ordered_json;
  const auto optional = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  };
  Json json{{"format_version", 1}, {"pos", score.pos}, {"byte", score.byte}, {"nll", optional(score.nll)}};
  if (score.skipped) json["skipped"] = true;
  json["layers"] = Json::array();
  for (const auto& layer : score.layers) {
    json["layers"].push_back(
        {{"weights", layer.weights},
         {"concentration", layer.concentration.empty() ? Json(nullptr) : Json(layer.concentration)},
         {"chosen", std::string(expert_name(layer.chosen))},
         {"uncertainty", optional(layer.uncertainty)},
         {"mi", optional(layer.mi)}});
  }
  return json.dump();
}

}  // namespace dirigo::meta
