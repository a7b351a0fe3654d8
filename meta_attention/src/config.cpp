// The configuration: one table of fields, from which --set, config.json, checks and messages all follow.
#include "dirigo/meta_attention/config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <variant>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"
#include "dirigo/meta_attention/cost_model.hpp"
#include "dirigo/meta_attention/routing.hpp"

namespace dirigo::meta {

namespace {

using Json = nlohmann::ordered_json;

constexpr double infinity = std::numeric_limits<double>::infinity();

struct IntegerField {
  std::int64_t* value;
  std::int64_t least, most;
};
struct RealField {
  double* value;
  double least, most;
  bool open;  // the lower end is excluded
};
struct BoolField {
  bool* value;
};
struct TextField {
  std::string* value;
};
struct CostsField {
  std::vector<double>* value;
};
// "off" or a fraction in (0, 1]; 0 stands for off.
struct FractionField {
  double* value;
};
// The same, or auto or gated.
struct StraightThroughField {
  StraightThrough* value;
};
// "default" or a number; nothing stands for default.
struct DefaultField {
  std::optional<double>* value;
};
// A name, or a file of `dirigo bench cost-model`, whose costs are then those of the configuration.
struct CostModelField {
  CostModel* value;
  std::vector<double>* costs;
};
// An enumeration stored as its underlying type.
struct ChoiceField {
  void* value;
  std::size_t bytes;
  std::vector<std::string_view> names;
};

using FieldValue = std::variant<IntegerField, RealField, BoolField, TextField, CostsField, FractionField,
                                StraightThroughField, DefaultField, CostModelField, ChoiceField>;

struct Field {
  std::string_view section, name;
  FieldValue value;
  std::string key() const { return fmt::format("{}.{}", section, name); }
};

template <class Enum>
ChoiceField choice(Enum& value, std::vector<std::string_view> names) {
  return {&value, sizeof(Enum), std::move(names)};
}

constexpr std::array<std::string_view, 3> cost_model_names{"nominal", "analytic", "measured"};

// Of the rules that have a name instead of a fraction.
constexpr std::array<std::pair<std::string_view, StraightThrough::Rule>, 2> straight_through_names{
    {{"auto", StraightThrough::Rule::automatic}, {"gated", StraightThrough::Rule::gated}}};

constexpr std::int64_t big = std::int64_t(1) << 40;

std::vector<Field> fields(Config& c) {
  return {
      {"model", "d_model", IntegerField{&c.model.d_model, 1, 65536}},
      {"model", "layers", IntegerField{&c.model.layers, 1, 1024}},
      {"model", "heads", IntegerField{&c.model.heads, 1, 65536}},
      {"model", "ffn_multiplier", IntegerField{&c.model.ffn_multiplier, 1, 64}},
      {"model", "max_len", IntegerField{&c.model.max_len, 0, 1 << 20}},
      {"model", "positions", choice(c.model.positions, {"learned", "rotary", "window_bias"})},
      {"model", "tie_embeddings", BoolField{&c.model.tie_embeddings}},
      {"model", "init_std", RealField{&c.model.init_std, 0, 100, true}},
      {"model", "embedding_std", RealField{&c.model.embedding_std, 0, 100, true}},
      {"model", "bias_slope", RealField{&c.model.bias_slope, 0, 100, false}},
      {"model", "vocabulary", choice(c.model.vocabulary, {"observed", "bytes256"})},
      {"attention", "projections", choice(c.attention.projections, {"shared", "per_expert"})},
      {"attention", "window", IntegerField{&c.attention.window, 1, 1 << 20}},
      {"attention", "chunk", IntegerField{&c.attention.chunk, 1, 4096}},
      {"attention", "leaky", BoolField{&c.attention.leaky}},
      {"router", "kind", choice(c.router.kind, {"bayes", "softmax", "gumbel", "static", "prior_mixture"})},
      {"router", "expert", choice(c.router.expert, {"full", "linear", "local"})},
      {"router", "posterior", choice(c.router.posterior, {"additive", "free"})},
      {"router", "hidden", IntegerField{&c.router.hidden, 1, 65536}},
      {"router", "costs", CostsField{&c.router.costs}},
      {"router", "cost_model", CostModelField{&c.router.cost_model, &c.router.costs}},
      {"router", "eps", RealField{&c.router.eps, 0, 1e6, true}},
      {"router", "beta0", RealField{&c.router.beta0, 0, 1e6, false}},
      {"router", "temperature", RealField{&c.router.temperature, 0, 1e6, true}},
      {"router", "warmup", IntegerField{&c.router.warmup, 0, big}},
      {"router", "empirical_bayes", BoolField{&c.router.empirical_bayes}},
      {"router", "empirical_bayes_every", IntegerField{&c.router.empirical_bayes_every, 1, big}},
      {"objective", "w_kl", RealField{&c.objective.w_kl.value, 0, infinity, false}},
      {"objective", "w_kl_schedule", choice(c.objective.w_kl.kind, {"constant", "linear", "cyclical"})},
      {"objective", "w_kl_warmup", IntegerField{&c.objective.w_kl.warmup, 0, big}},
      {"objective", "w_kl_cycles", IntegerField{&c.objective.w_kl.cycles, 1, 1000000}},
      {"objective", "w_kl_ramp", RealField{&c.objective.w_kl.ramp, 0, 1, false}},
      {"objective", "free_bits", RealField{&c.objective.free_bits, 0, infinity, false}},
      {"objective", "cost_lambda", RealField{&c.objective.cost_lambda, 0, infinity, false}},
      {"objective", "entropy_bonus", RealField{&c.objective.entropy_bonus, 0, infinity, false}},
      {"objective", "load_balance", RealField{&c.objective.load_balance, 0, infinity, false}},
      {"train", "steps", IntegerField{&c.train.steps, 1, (std::int64_t(1) << 32) - 1}},
      {"train", "batch", IntegerField{&c.train.batch, 1, 1 << 20}},
      {"train", "seq_len", IntegerField{&c.train.seq_len, 1, 1 << 20}},
      {"train", "optimiser", choice(c.train.optimiser, {"adam", "adamw"})},
      {"train", "lr", RealField{&c.train.lr.peak, 0, 1e3, true}},
      {"train", "lr_schedule", choice(c.train.lr.kind, {"constant", "cosine", "linear"})},
      {"train", "lr_warmup", IntegerField{&c.train.lr.warmup, 0, big}},
      {"train", "lr_final", RealField{&c.train.lr.final_fraction, 0, 1, false}},
      {"train", "beta2", RealField{&c.train.beta2, 0, 0.999999, false}},
      {"train", "weight_decay", RealField{&c.train.weight_decay, 0, 1e3, false}},
      {"train", "clip", RealField{&c.train.clip, 0, infinity, false}},
      {"train", "dropout", RealField{&c.train.dropout, 0, 0.99, false}},
      {"train", "dropout_sites", choice(c.train.dropout_sites, {"all", "ffn_output"})},
      {"train", "sampling", choice(c.train.sampling, {"posterior", "mean"})},
      {"train", "straight_through", StraightThroughField{&c.train.straight_through}},
      {"train", "auto_drop", RealField{&c.train.auto_drop, 0, 1, true}},
      {"train", "auto_hold", IntegerField{&c.train.auto_hold, 1, big}},
      {"train", "gate", choice(c.train.gate, {"entropy", "mi", "max_mean"})},
      {"train", "eta", DefaultField{&c.train.eta}},
      {"train", "hard_routed", FractionField{&c.train.hard_routed}},
      {"train", "explore", RealField{&c.train.explore, 0, 1, true}},
      {"train", "seed", IntegerField{&c.train.seed, 0, std::numeric_limits<std::int64_t>::max()}},
      {"train", "eval_every", IntegerField{&c.train.eval_every, 0, big}},
      {"train", "log_deltas", BoolField{&c.train.log_deltas}},
      {"data", "corpus", TextField{&c.data.corpus}},
      {"data", "valid", TextField{&c.data.valid}},
      {"data", "train_bytes", IntegerField{&c.data.train_bytes, 0, std::numeric_limits<std::int64_t>::max()}},
      {"data", "seed", IntegerField{&c.data.seed, 0, std::numeric_limits<std::int64_t>::max()}},
      {"data", "pool", IntegerField{&c.data.pool, 0, big}},
      {"data", "pool_until", RealField{&c.data.pool_until, 0, 1, false}},
      {"data", "pool_corpus", TextField{&c.data.pool_corpus}},
  };
}

[[noreturn]] void refuse(const std::string& where, const std::string& key, const std::string& expected,
                         const std::string& got) {
  throw ValueError(fmt::format("[{}] {}: expected {}, got {}", where, key, expected, got));
}

std::string expected(const FieldValue& value) {
  struct Describe {
    std::string operator()(const IntegerField& f) const {
      return f.most >= big ? fmt::format("a whole number >= {}", f.least)
                           : fmt::format("a whole number from {} to {}", f.least, f.most);
    }
    std::string operator()(const RealField& f) const {
      if (f.most == infinity || f.most >= 1e6)
        return fmt::format("a number {} {}", f.open ? ">" : ">=", f.least);
      return fmt::format("a number {} {} and <= {}", f.open ? ">" : ">=", f.least, f.most);
    }
    std::string operator()(const BoolField&) const { return "true or false"; }
    std::string operator()(const TextField&) const { return "text"; }
    std::string operator()(const CostsField&) const {
      return "three numbers in [0, 1] (full, linear, local), as [1.0,0.15,0.3]";
    }
    std::string operator()(const FractionField&) const { return "off or a fraction in (0, 1]"; }
    std::string operator()(const StraightThroughField&) const {
      return "off, auto, gated or a fraction in (0, 1]";
    }
    std::string operator()(const DefaultField&) const { return "default or a number"; }
    std::string operator()(const CostModelField&) const {
      return fmt::format("one of {}, or a file of dirigo bench cost-model",
                         fmt::join(cost_model_names, ", "));
    }
    std::string operator()(const ChoiceField& f) const {
      return fmt::format("one of {}", fmt::join(f.names, ", "));
    }
  };
  return std::visit(Describe{}, value);
}

std::size_t choice_index(const ChoiceField& f) {
  return f.bytes == 1 ? std::size_t(*static_cast<const std::uint8_t*>(f.value))
                      : std::size_t(*static_cast<const int*>(f.value));
}

Json to_json(const FieldValue& value) {
  struct Get {
    Json operator()(const IntegerField& f) const { return *f.value; }
    Json operator()(const RealField& f) const { return *f.value; }
    Json operator()(const BoolField& f) const { return *f.value; }
    Json operator()(const TextField& f) const { return *f.value; }
    Json operator()(const CostsField& f) const { return *f.value; }
    Json operator()(const FractionField& f) const { return *f.value == 0 ? Json("off") : Json(*f.value); }
    Json operator()(const StraightThroughField& f) const {
      for (const auto& [name, rule] : straight_through_names) {
        if (f.value->rule == rule) return std::string(name);
      }
      return (*this)(FractionField{&f.value->fraction});
    }
    Json operator()(const DefaultField& f) const { return *f.value ? Json(**f.value) : Json("default"); }
    Json operator()(const CostModelField& f) const {
      return std::string(cost_model_names[std::size_t(*f.value)]);
    }
    Json operator()(const ChoiceField& f) const { return std::string(f.names[choice_index(f)]); }
  };
  return std::visit(Get{}, value);
}

// Stores a JSON value in a field, or refuses it.
void assign(const Field& field, const Json& json, const std::string& where) {
  const auto fail = [&] { refuse(where, field.key(), expected(field.value), json.dump()); };
  struct Set {
    const Json& json;
    bool operator()(const IntegerField& f) const {
      if (!json.is_number_integer()) return false;
      if (json.is_number_unsigned() && json.get<std::uint64_t>() > std::uint64_t(f.most)) return false;
      const auto number = json.get<std::int64_t>();
      if (number < f.least || number > f.most) return false;
      *f.value = number;
      return true;
    }
    bool operator()(const RealField& f) const {
      if (!json.is_number()) return false;
      const auto number = json.get<double>();
      if (!std::isfinite(number) || number < f.least || number > f.most || (f.open && number == f.least))
        return false;
      *f.value = number;
      return true;
    }
    bool operator()(const BoolField& f) const {
      if (!json.is_boolean()) return false;
      *f.value = json.get<bool>();
      return true;
    }
    bool operator()(const TextField& f) const {
      if (!json.is_string()) return false;
      *f.value = json.get<std::string>();
      return true;
    }
    bool operator()(const CostsField& f) const {
      if (!json.is_array() || json.size() != std::size_t(expert_count)) return false;
      std::vector<double> costs;
      for (const auto& item : json) {
        if (!item.is_number()) return false;
        const auto cost = item.get<double>();
        if (!(cost >= 0 && cost <= 1)) return false;
        costs.push_back(cost);
      }
      *f.value = std::move(costs);
      return true;
    }
    bool operator()(const FractionField& f) const {
      if (json.is_string() && json.get<std::string>() == "off") {
        *f.value = 0;
        return true;
      }
      if (!json.is_number()) return false;
      const auto number = json.get<double>();
      if (!(number > 0 && number <= 1)) return false;
      *f.value = number;
      return true;
    }
    bool operator()(const StraightThroughField& f) const {
      StraightThrough read;
      for (const auto& [name, rule] : straight_through_names) {
        if (json.is_string() && json.get<std::string>() == name) read.rule = rule;
      }
      if (read.rule == StraightThrough::Rule::last && !(*this)(FractionField{&read.fraction})) return false;
      *f.value = read;
      return true;
    }
    bool operator()(const DefaultField& f) const {
      if (json.is_string() && json.get<std::string>() == "default") {
        *f.value = std::nullopt;
        return true;
      }
      if (!json.is_number() || !std::isfinite(json.get<double>())) return false;
      *f.value = json.get<double>();
      return true;
    }
    bool operator()(const CostModelField& f) const {
      if (!json.is_string()) return false;
      const auto word = json.get<std::string>();
      const auto found = std::find(cost_model_names.begin(), cost_model_names.end(), word);
      if (found != cost_model_names.end()) {
        *f.value = CostModel(found - cost_model_names.begin());
        return true;
      }
      if (!std::filesystem::exists(word)) return false;
      *f.costs = read_cost_model(word);
      *f.value = CostModel::measured;
      return true;
    }
    bool operator()(const ChoiceField& f) const {
      if (!json.is_string()) return false;
      const auto found = std::find(f.names.begin(), f.names.end(), json.get<std::string>());
      if (found == f.names.end()) return false;
      const auto index = found - f.names.begin();
      if (f.bytes == 1) {
        *static_cast<std::uint8_t*>(f.value) = std::uint8_t(index);
      } else {
        *static_cast<int*>(f.value) = int(index);
      }
      return true;
    }
  };
  if (std::visit(Set{json}, field.value)) return;
  if (const auto* f = std::get_if<ChoiceField>(&field.value); f && json.is_string()) {
    const auto word = json.get<std::string>();
    const std::vector<std::string> names(f->names.begin(), f->names.end());
    refuse(where, field.key(), expected(field.value), fmt::format("'{}'{}", word, did_you_mean(word, names)));
  }
  if (std::holds_alternative<CostModelField>(field.value) && json.is_string()) {
    const auto word = json.get<std::string>();
    const std::vector<std::string> names(cost_model_names.begin(), cost_model_names.end());
    refuse(where, field.key(), expected(field.value), fmt::format("'{}'{}", word, did_you_mean(word, names)));
  }
  fail();
}

const Field& find_field(const std::vector<Field>& table, std::string_view key, const std::string& where) {
  for (const Field& field : table) {
    if (field.key() == key) return field;
  }
  std::vector<std::string> keys;
  for (const Field& field : table) keys.push_back(field.key());
  refuse(where, "key", "a configuration key", fmt::format("'{}'{}", key, did_you_mean(key, keys)));
}

// Text from a command line as JSON: numbers, true, false and [..] as such, anything else as a string.
Json parse_value(std::string_view text) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded() || json.is_object() || json.is_null()) return std::string(text);
  return json;
}

Config common() {
  Config c;  // the struct's defaults are those common to the presets
  return c;
}

Config paper(double w_kl) {
  Config c = common();
  c.attention.projections = Projections::per_expert;
  c.router.posterior = Posterior::additive;
  c.objective.w_kl.value = w_kl;
  c.train.steps = 2000;
  c.train.seq_len = 64;
  c.train.eval_every = 250;
  c.train.dropout = 0.1;
  c.train.dropout_sites = DropoutSites::all;
  return c;
}

// Departs from a plain transformer's start in four ways, because with N(0, 0.02) throughout and 1e-3 it
// stays for 700 steps where only the last byte counts (docs/training.md): wider weights, embeddings that
// remain visible in the residual stream, heads that read the previous byte from the start, and a controller
// that waits until every expert has learnt something. Distances are known inside the window alone, so that
// the model runs at any length.
Config tiny() {
  Config c = common();
  c.model.init_std = 0.05;
  c.model.embedding_std = 0.3;
  c.model.positions = Positions::window_bias;
  c.model.bias_slope = 2;
  c.router.warmup = 600;
  c.objective.w_kl.value = 0.003;
  c.train.lr = {nn::LearningRate::Kind::cosine, 2e-3, 100, 0.1};
  c.train.clip = 1.0;
  c.train.dropout = 0.1;
  c.train.straight_through = {0.3};
  c.train.eval_every = 250;
  return c;
}

// What makes the lookup emerge (docs/training.md): `tiny`'s heads that read the previous byte, a learning
// rate of 1e-3 (at 3e-3 it does not come), and first only four keys in a sequence. It takes many steps, not
// many sequences.
Config recall() {
  Config c = tiny();
  c.train.steps = 4000;
  c.train.batch = 8;
  c.train.lr.peak = 1e-3;
  c.train.dropout = 0;
  c.train.straight_through = {0.2};
  c.data.corpus = "synthetic:recall";
  c.data.pool_corpus = "synthetic:recall?active_keys=4";
  c.data.pool = 65536;
  c.data.pool_until = 0.45;
  return c;
}

// Small enough to learn its routing within 150 s on two cores. One layer is enough for these stories (the
// facts stand at nearly fixed places, so that one look finds them) and leaves the router one place to put
// `full`: with two layers the lookup settles in the first or in the last, by seed.
Config quickstart() {
  Config c = tiny();
  c.model.init_std = c.model.embedding_std = nn::initial_deviation;
  c.model.positions = Positions::learned;
  c.model.bias_slope = 0;
  c.router.warmup = 0;
  c.model.layers = 1;
  c.attention.window = 16;
  c.train.steps = 2000;
  c.train.seq_len = 128;
  c.train.straight_through = {0.2};
  // At its full value from the start w_kl prices `full` out before the lookup has emerged.
  c.objective.w_kl.kind = nn::KlWeight::Kind::linear;
  c.objective.w_kl.warmup = 1200;
  c.data.corpus = "synthetic:fables";
  c.data.pool = 1024;
  c.data.pool_until = 0.6;
  return c;
}

// A character-level GPT of the size and with the optimiser of nanoGPT's setting for a laptop (its README,
// tiny Shakespeare on a CPU): a plain transformer, so that its result and its time can be compared. It starts
// as `tiny` does, which is worth 0.05 nats here.
Config nanogpt_laptop() {
  Config c = common();
  c.model.layers = 4;
  c.model.init_std = 0.05;
  c.model.embedding_std = 0.3;
  c.router.kind = RouterKind::static_expert;
  c.train.steps = 2000;
  c.train.batch = 12;
  c.train.seq_len = 64;
  c.train.optimiser = Optimiser::adamw;
  c.train.lr = {nn::LearningRate::Kind::cosine, 1e-3, 100, 0.1};
  c.train.beta2 = 0.99;
  c.train.weight_decay = 0.1;
  c.train.clip = 1;
  c.train.eval_every = 500;
  return c;
}

struct NamedPreset {
  std::string_view name;
  Config (*make)();
};
constexpr NamedPreset presets[] = {
    {"paper", [] { return paper(1); }},
    {"paper-prior-free", [] { return paper(0); }},
    {"tiny", tiny},
    {"recall", recall},
    {"quickstart", quickstart},
    {"nanogpt-laptop", nanogpt_laptop},
};

}  // namespace

std::string_view expert_name(ExpertKind kind) noexcept {
  constexpr std::string_view names[] = {"full", "linear", "local"};
  return names[std::size_t(kind)];
}

ExpertKind parse_expert(std::string_view name) {
  for (int k = 0; k < expert_count; ++k) {
    if (name == expert_name(ExpertKind(k))) return ExpertKind(k);
  }
  refuse("expert", "name", "one of full, linear, local",
         fmt::format("'{}'{}", name, did_you_mean(name, {"full", "linear", "local"})));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& p : presets) names.emplace_back(p.name);
  return names;
}

Config preset(std::string_view name) {
  for (const auto& p : presets) {
    if (p.name == name) {
      Config config = p.make();
      config.preset = std::string(name);
      return config;
    }
  }
  const auto names = preset_names();
  refuse("config", "preset", fmt::format("one of {}", fmt::join(names, ", ")),
         fmt::format("'{}'{}", name, did_you_mean(name, names)));
}

void set_field(Config& config, std::string_view key, std::string_view value) {
  const auto table = fields(config);
  const Field& field = find_field(table, key, "config");
  if (std::holds_alternative<TextField>(field.value)) {
    assign(field, std::string(value), "config");
  } else {
    assign(field, parse_value(value), "config");
  }
}

namespace {

void check(bool ok, const char* key, const std::string& want, auto got) {
  if (!ok) refuse("config", key, want, fmt::format("{}", got));
}

// Ways to train that not every model has. A router that is constant (`fixed`) has nothing to switch, gate or
// replace.
void resolve_modes(Config& config, bool fixed) {
  TrainConfig& train = config.train;
  const bool dirichlet = config.router.kind == RouterKind::bayes;
  check(!config.attention.leaky || train.hard_routed == 0, "train.hard_routed",
        "off with attention.leaky, which is dense only", train.hard_routed);
  check(!config.attention.leaky || config.model.positions != Positions::window_bias, "attention.leaky",
        "false with model.positions=window_bias, which has no bias for the future", true);
  check(!config.router.empirical_bayes || dirichlet || fixed, "router.empirical_bayes",
        "false for a router without a Dirichlet", true);
  check(!config.router.empirical_bayes || config.router.posterior == Posterior::free || fixed,
        "router.posterior",
        "free with router.empirical_bayes (an additive posterior would move with its prior)", "additive");
  check(fixed || dirichlet || train.straight_through.rule != StraightThrough::Rule::gated ||
            train.gate == Gate::max_mean,
        "train.gate", "max_mean to gate a router without a Dirichlet", name_of(train.gate));
  if (!fixed) return;
  if (train.straight_through.rule != StraightThrough::Rule::last) train.straight_through = {};
  config.router.empirical_bayes = train.log_deltas = false;
}

}  // namespace

void resolve(Config& config) {
  const auto& m = config.model;
  check(m.d_model % m.heads == 0, "model.d_model", fmt::format("a multiple of model.heads = {}", m.heads),
        m.d_model);
  if (config.model.max_len == 0) config.model.max_len = config.train.seq_len;
  check(config.train.seq_len <= m.max_len, "train.seq_len",
        fmt::format("at most model.max_len = {}", m.max_len), config.train.seq_len);
  check(m.positions != Positions::rotary || m.d_model / m.heads % 2 == 0, "model.d_model",
        "an even number per head for rotary positions", m.d_model / m.heads);
  const bool fixed =
      config.router.kind == RouterKind::static_expert || config.router.kind == RouterKind::prior_mixture;
  const bool dirichlet = config.router.kind == RouterKind::bayes;
  check(dirichlet || config.objective.w_kl.value == 0 || fixed, "objective.w_kl",
        "0 for a router without a Dirichlet (softmax, gumbel)", config.objective.w_kl.value);
  check(!fixed || config.train.hard_routed == 0, "train.hard_routed", "off for a router that is constant",
        config.train.hard_routed);
  if (fixed) config.objective.w_kl.value = 0;  // a constant router has no posterior to penalise
  resolve_modes(config, fixed);
  check(!fixed || (config.objective.cost_lambda == 0 && config.objective.entropy_bonus == 0 &&
                   config.objective.load_balance == 0),
        "objective", "no router terms for a router that is constant", "some");
}

std::string config_to_json(const Config& config) {
  Config copy = config;
  Json json;
  if (!config.preset.empty()) json["preset"] = config.preset;
  for (const Field& field : fields(copy))
    json[std::string(field.section)][std::string(field.name)] = to_json(field.value);
  return json.dump(2);
}

Config config_from_json(std::string_view text, const std::string& where) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object())
    refuse(where, "content", "a JSON object", json.is_discarded() ? "invalid JSON" : json.type_name());
  Config config;
  const auto table = fields(config);
  for (const auto& [section, values] : json.items()) {
    if (section == "preset") {
      if (!values.is_string()) refuse(where, "preset", "text", values.dump());
      config.preset = values.get<std::string>();
      continue;
    }
    if (!values.is_object()) refuse(where, section, "a section {...}", values.dump());
    for (const auto& [name, value] : values.items()) {
      assign(find_field(table, fmt::format("{}.{}", section, name), where), value, where);
    }
  }
  return config;
}

std::vector<FieldDescription> describe_fields(const Config& config) {
  Config copy = config;
  std::vector<FieldDescription> descriptions;
  for (const Field& field : fields(copy)) {
    const Json value = to_json(field.value);
    descriptions.push_back(
        {field.key(), value.is_string() ? value.get<std::string>() : value.dump(), expected(field.value)});
  }
  return descriptions;
}

std::vector<double> prior_concentration(const RouterConfig& router, std::span<const double> costs) {
  std::vector<double> beta;
  for (const double cost : costs) beta.push_back(router.eps + router.beta0 * (1 - cost));
  return beta;
}

std::vector<double> prior_mean(const RouterConfig& router, std::span<const double> costs) {
  std::vector<double> mean = prior_concentration(router, costs);
  double sum = 0;
  for (const double b : mean) sum += b;
  for (double& b : mean) b /= sum;
  return mean;
}

}  // namespace dirigo::meta
