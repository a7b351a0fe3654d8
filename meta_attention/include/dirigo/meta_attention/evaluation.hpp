// Evaluation on held-out text: the quantities of docs/mathematics.md, section 6, under the names used there.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

// One window of text, `length` values each.
struct EvaluationWindow {
  std::span<std::int32_t> inputs, targets;
  // For tagged text, else empty: indices into `need_names`, and how far back the target was told (0:
  // nowhere).
  std::span<std::uint8_t> needs;
  std::span<std::int32_t> gaps;
};

// A set of equally long windows of text. `window(i, to)` fills what `to` has room for.
struct EvaluationText {
  std::int64_t windows = 0, length = 0;
  std::function<void(std::int64_t index, const EvaluationWindow& to)> window;
  std::vector<std::string> need_names;  // empty for untagged text
  std::optional<double> entropy_floor;
  std::int64_t skipped_bytes = 0;
};

struct EvaluationOptions {
  RoutingMode routing = RoutingMode::soft;
  Gate gate = Gate::mi;
  double eta = 0.05;
  std::optional<ExpertKind> forced_expert;
  bool deltas = false;     // four more passes over the text
  std::uint64_t seed = 1;  // of the permutation
  std::int64_t batch_tokens = 8192;
  std::function<bool(double fraction)> progress;  // called between batches; false stops (throws Interrupted)
};

class Interrupted : public Error {
 public:
  using Error::Error;
};

// One layer's routing over all tokens (or, as `overall`, the unweighted mean of the layers' values).
struct RoutingStatistics {
  std::vector<double> mean_weights, fraction_argmax;  // K
  double entropy_mean_pct = 0, projected_cost_pct = 0, argmax_cost_pct = 0, mi_token_expert = 0,
         kl_aggregate = 0;
  std::optional<double> entropy_sampled_pct, kl, uncertainty_mean;  // none without a Dirichlet
};

// The null router: a controller that emits the run's own prior for every token.
RoutingStatistics null_router(const LanguageModel& model);

// Of the tokens with one need. Accuracy: how often the largest logit (the first of equals) is the target's.
struct NeedStatistics {
  std::int64_t tokens = 0;
  double nll = 0, accuracy = 0;
  std::vector<std::vector<double>> fraction_argmax_by_layer;
};

// Of the tokens whose target was last told `from` to `to` bytes back.
struct GapStatistics : NeedStatistics {
  std::int64_t from = 0, to = 0;
};

// NLL of the positions that have seen `from` to `to` bytes of context (the input itself counts).
struct ContextNll {
  std::int64_t from = 0, to = 0;
  double nll = 0;
};

struct Executed {
  std::vector<std::vector<std::int64_t>> tokens_per_expert;  // per layer
  std::vector<std::vector<ExpertFlops>> flops_per_expert;    // per layer
  double attention_flops = 0, padded_flops = 0, model_flops = 0;
  double attention_flops_vs_full = 0, model_flops_vs_full = 0;
  double wall_s = 0, tokens_per_s = 0;
};

struct Deltas {
  double permutation = 0, prior = 0, position_only = 0;
};

struct Evaluation {
  double nll = 0, nll_se = 0;      // nats per byte; standard error over windows
  double accuracy = 0;             // as in NeedStatistics
  std::vector<double> window_nll;  // of each window, in the text's order
  std::int64_t tokens = 0, skipped_bytes = 0, seq_len = 0;
  RoutingMode routing_mode = RoutingMode::soft;
  std::vector<RoutingStatistics> layers;
  RoutingStatistics overall;
  Executed executed;
  std::optional<Deltas> deltas;
  std::vector<ContextNll> nll_by_context;  // 1, 2, 3-4, 5-8, 9-16, ... bytes
  RoutingStatistics null;
  std::map<std::string, NeedStatistics> by_need;
  std::vector<GapStatistics> by_gap;  // 1, 2-3, 4-7, 8-15, ... bytes, those that occur
  std::optional<double> entropy_floor;
};

Evaluation evaluate(const Context& context, LanguageModel& model, const EvaluationText& text,
                    const EvaluationOptions& options);

// As one JSON object (docs/file-formats.md), indented.
std::string to_json(const Evaluation& evaluation);

}  // namespace dirigo::meta
