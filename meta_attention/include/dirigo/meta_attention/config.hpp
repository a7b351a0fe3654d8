// Config: everything that determines a run, section by section, with its presets and its JSON form.
//
// Every field has a dotted name ("router.eps") under which `--set`, config.json and error messages know it.
// One table (meta_attention/src/config.cpp) lists the names, ranges and choices; reading, writing and
// checking walk it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dirigo/nn/layers.hpp"
#include "dirigo/nn/schedule.hpp"

namespace dirigo::meta {

// Expert order everywhere: full, linear, local.
enum class ExpertKind : std::uint8_t { full, linear, local };
inline constexpr int expert_count = 3;
std::string_view expert_name(ExpertKind kind) noexcept;
ExpertKind parse_expert(std::string_view name);  // throws ValueError naming the nearest

// learned: an embedding per position. rotary: queries and keys of softmax attention turned by their position.
// window_bias: a learnt bias by distance in `local`, nothing else (docs/mathematics.md, section 1).
enum class Positions { learned, rotary, window_bias };
enum class Projections { shared, per_expert };
enum class RouterKind { bayes, softmax, gumbel, static_expert, prior_mixture };
enum class Posterior { additive, free };
// measured: router.costs, which `dirigo bench cost-model` has timed. A file of it may be given for the name.
enum class CostModel { nominal, analytic, measured };
enum class VocabularyKind { observed, bytes256 };
enum class Sampling { posterior, mean };
// How a router decides that a token is certain (docs/mathematics.md, section 6).
enum class Gate { entropy, mi, max_mean };
enum class DropoutSites { all, ffn_output };  // all: embedding sum, after the FFN's GELU, FFN output
enum class Optimiser { adam, adamw };

struct ModelConfig {
  std::int64_t d_model = 128, layers = 2, heads = 4, ffn_multiplier = 4;
  std::int64_t max_len = 0;  // 0: train.seq_len. What is longer has no learned positions
  Positions positions = Positions::learned;
  bool tie_embeddings = true;
  VocabularyKind vocabulary = VocabularyKind::observed;
  // Standard deviations of the initial weight matrices, and of the token and position embeddings.
  double init_std = nn::initial_deviation, embedding_std = nn::initial_deviation;
  // Where the bias by distance starts (docs/mathematics/positions.md): 0, or falling by this much per byte of
  // distance from the previous one in the first head, by a quarter of it in the next, and so on.
  double bias_slope = 0;
};

struct AttentionConfig {
  Projections projections = Projections::shared;
  std::int64_t window = 32, chunk = 64;
  // The experts of the paper's published code, of which two see the future (expert_leaky.cpp): an exhibit of
  // what that does, trained and evaluated densely only.
  bool leaky = false;
};

struct RouterConfig {
  RouterKind kind = RouterKind::bayes;
  ExpertKind expert = ExpertKind::full;  // of kind static
  Posterior posterior = Posterior::free;
  std::int64_t hidden = 64;
  std::vector<double> costs = {1.0, 0.15,
                               0.30};  // full, linear, local (the paper's); used by cost_model=nominal
  CostModel cost_model = CostModel::nominal;
  double eps = 0.01, beta0 = 1;
  double temperature = 1;  // of kind gumbel
  // Every so many steps, once the warm-up is over, each layer's prior is estimated again from its posteriors
  // (docs/mathematics/empirical-bayes.md); beta0 is then only where it starts.
  bool empirical_bayes = false;
  std::int64_t empirical_bayes_every = 100;
  // Steps during which the controllers keep their initial weights, so that every expert is trained before one
  // is preferred: an expert that is not used does not learn, and is then never chosen.
  std::int64_t warmup = 0;
};

struct ObjectiveConfig {
  nn::KlWeight w_kl;
  double free_bits = 0;  // nats per layer below which the mean KL is not penalised
  double cost_lambda = 0, entropy_bonus = 0, load_balance = 0;
};

// When training uses one-hot weights, straight-through.
struct StraightThrough {
  // last: for a last fraction of the steps. automatic: from when a layer's routing entropy has dropped
  // (nn::EntropyDrop). gated: for each token that the gate calls certain, at any step.
  enum class Rule { last, automatic, gated };
  double fraction = 0;  // of `last`; 0 is off
  Rule rule = Rule::last;
  bool operator==(const StraightThrough&) const = default;
};

struct TrainConfig {
  std::int64_t steps = 3000, batch = 32, seq_len = 256;
  Optimiser optimiser = Optimiser::adam;
  nn::LearningRate lr;
  double beta2 = 0.999;  // of Adam's second moment
  double weight_decay = 0, clip = 0, dropout = 0;
  DropoutSites dropout_sites = DropoutSites::ffn_output;
  Sampling sampling = Sampling::posterior;
  StraightThrough straight_through;
  double auto_drop = 0.5;        // of straight_through=auto: nn::EntropyDrop's
  std::int64_t auto_hold = 100;  // and how long it must stay
  Gate gate = Gate::mi;          // of straight_through=gated
  std::optional<double> eta;     // its threshold, if not the gate's default
  // The last fraction of the steps that run, of each token, only the expert it is routed to
  // (straight-through); 0 is off. With probability `explore` another expert is run too, for the router's
  // gradient.
  double hard_routed = 0, explore = 0.1;
  std::int64_t seed = 1, eval_every = 0;
  bool log_deltas = false;  // evaluations while training also measure what replacing the routing costs
};

struct DataConfig {
  std::string corpus, valid;     // SPEC: a file or synthetic:NAME?option=value
  std::int64_t train_bytes = 0;  // 0: all
  std::int64_t seed = 1;         // of synthetic tables
  std::int64_t pool = 0;         // > 0: training sequences repeat after this many (repetition curriculum)
  double pool_until = 0;         // for this first fraction of the steps
  std::string pool_corpus;       // synthetic corpora: what the pool is drawn from (empty: the corpus)
};

struct Config {
  std::string preset;  // where it started from; for people
  ModelConfig model;
  AttentionConfig attention;
  RouterConfig router;
  ObjectiveConfig objective;
  TrainConfig train;
  DataConfig data;
};

// Throws ValueError naming the known presets (and the nearest).
Config preset(std::string_view name);
std::vector<std::string> preset_names();

// Sets one field from text: "router.eps", "0.1". Throws ValueError for an unknown key (naming the nearest), a
// value that does not parse, or one outside the field's own range.
void set_field(Config& config, std::string_view key, std::string_view value);

// Fills in what depends on other fields (max_len) and checks what no field can check alone: D divisible by H,
// sequence length against max_len, costs, straight-through. Throws ValueError "[config] KEY: expected ...,
// got ...".
void resolve(Config& config);

// JSON text as in docs/file-formats.md. config_from_json starts from the defaults, refuses unknown keys
// (naming the nearest), and throws ValueError naming the field. `where` (a file name) opens every message.
std::string config_to_json(const Config& config);
Config config_from_json(std::string_view text, const std::string& where);

struct FieldDescription {
  std::string key, value, expected;
};
std::vector<FieldDescription> describe_fields(const Config& config);

// beta_i = eps + beta0 (1 - c_i), and the null router's mean beta / sum(beta).
std::vector<double> prior_concentration(const RouterConfig& router, std::span<const double> costs);
std::vector<double> prior_mean(const RouterConfig& router, std::span<const double> costs);

}  // namespace dirigo::meta
