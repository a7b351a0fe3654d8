// dirigo bench route: what hard routing saves, in FLOPs and in time, for one sequence.
//
// A mix says which expert each token goes to. `layer` is the routed attention layer as a model runs it
// (controller, projections, the experts on their own tokens, output projection), `core` the experts alone,
// `model` a trained model with the routes it chose. Beside them stands `plain full`: the same with the full
// kernel called directly.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/routed_attention.hpp"
#include "evaluate_run.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

using meta::expert_count;
using meta::ExpertKind;

// The expert of every token of a sequence of `length`: those below `share` of uniform draws full, the others
// `rest`.
struct Mix {
  std::string name;
  double full_share;
  ExpertKind rest;

  std::vector<ExpertKind> routes(std::int64_t length) const {
    std::vector<ExpertKind> routes;
    PhiloxStream random(random_key(1, 0, Purpose::test, 30), 0);
    for (std::int64_t t = 0; t < length; ++t)
      routes.push_back(random.uniform() < full_share ? ExpertKind::full : rest);
    return routes;
  }
};

std::vector<Mix> mixes() {
  return {{"all full", 1, ExpertKind::full},
          {"all local", 0, ExpertKind::local},
          {"all linear", 0, ExpertKind::linear},
          {"5% full at random", 0.05, ExpertKind::local},
          {"25% full at random", 0.25, ExpertKind::local},
          {"50% full at random", 0.5, ExpertKind::local}};
}

const char* const plain_full = "plain full";

// One row: something to run, at one length.
class Case {
 public:
  Case(const Context& context, std::string part, std::string mix, std::int64_t length)
      : context_(context), part_(std::move(part)), mix_(std::move(mix)), length_(length) {}
  virtual ~Case() = default;
  virtual void run() = 0;

  struct Flops {
    double attention = 0, padding = 0, products = 0;
    double executed() const { return attention + products; }
  };
  Flops flops() {
    const auto now = [&] {
      const FlopCounter& f = context_.flops();
      return std::array<std::uint64_t, 3>{f.attention, f.attention_padding, f.products};
    };
    const auto before = now();
    run();
    const auto after = now();
    return {double(after[0] - before[0]), double(after[1] - before[1]), double(after[2] - before[2])};
  }

  const std::string& part() const noexcept { return part_; }
  const std::string& mix() const noexcept { return mix_; }
  std::int64_t length() const noexcept { return length_; }

 protected:
  const Context& context_;

 private:
  std::string part_, mix_;
  std::int64_t length_;
};

meta::Config layer_config(const RouteBench& options, std::int64_t length) {
  meta::Config config = meta::preset("tiny");
  config.model.positions = meta::Positions::learned;  // which cost a layer nothing
  config.model.d_model = options.width;
  config.model.heads = options.heads;
  config.attention.window = options.window;
  config.attention.projections = meta::Projections::shared;
  config.train.seq_len = length;
  config.model.max_len = length;
  meta::resolve(config);
  return config;
}

// A layer that is given its routes. It runs its controller all the same, as a model does.
class LayerCase : public Case {
 public:
  LayerCase(const Context& context, const RouteBench& options, const Mix& mix, std::int64_t length)
      : Case(context, "layer", mix.name, length),
        config_(layer_config(options, length)),
        costs_(meta::expert_costs(config_, length)),
        layer_(context, config_, costs_, meta::prior_concentration(config_.router, costs_), 1, 0, DType::f32),
        x_(uniform_tensor(context, {length, options.width}, 10)),
        means_{Tensor::zeros(context, {length, expert_count})} {
    const std::vector<ExpertKind> routes = mix.routes(length);
    for (std::int64_t t = 0; t < length; ++t)
      means_[0].data<float>()[t * expert_count + int(routes[std::size_t(t)])] = 1;
    forward_.routing = meta::RoutingMode::hard;
    forward_.replaced_means = means_;
  }

  void run() override {
    Tape tape(context_, Tape::Mode::inference);
    const Variable x = tape.constant(x_);
    meta::LayerRouting routing;
    layer_(x, x, {1, length(), forward_, 0}, routing);
  }

 private:
  meta::Config config_;
  std::vector<double> costs_;
  meta::RoutedAttention layer_;
  Tensor x_;
  std::array<Tensor, 1> means_;
  meta::ForwardOptions forward_;
};

class PlainLayerCase : public Case {
 public:
  PlainLayerCase(const Context& context, const RouteBench& options, std::int64_t length)
      : Case(context, "layer", plain_full, length),
        heads_(int(options.heads)),
        projection_(context, options.width, 1, 0, DType::f32),
        x_(uniform_tensor(context, {length, options.width}, 10)) {}

  void run() override {
    Tape tape(context_, Tape::Mode::inference);
    const Variable x = tape.constant(x_);
    const Shape rows = x_.shape(), sequence{1, rows[0], rows[1]};
    const auto project = [&](nn::Linear& linear) { return ops::reshape(linear(x), sequence); };
    const Variable out =
        ops::full_attention(project(projection_.q), project(projection_.k), project(projection_.v), heads_);
    projection_.o(ops::reshape(out, rows));
  }

 private:
  int heads_;
  meta::Projection projection_;
  Tensor x_;
};

class CoreCase : public Case {
 public:
  CoreCase(const Context& context, const RouteBench& options, const std::optional<Mix>& mix,
           std::int64_t length)
      : Case(context, "core", mix ? mix->name : plain_full, length), heads_(int(options.heads)) {
    const meta::Config config = layer_config(options, length);
    experts_ = meta::make_experts(config.model, config.attention);
    for (std::uint32_t i = 0; i < inputs_.size(); ++i)
      inputs_[i] = uniform_tensor(context, {1, length, options.width}, 10 + i);
    if (!mix) return;
    const std::vector<ExpertKind> routes = mix->routes(length);
    for (std::int64_t t = 0; t < length; ++t)
      rows_[std::size_t(routes[std::size_t(t)])].push_back(std::int32_t(t));
  }

  void run() override {
    Tape tape(context_, Tape::Mode::inference);
    const Variable q = tape.constant(inputs_[0]), k = tape.constant(inputs_[1]),
                   v = tape.constant(inputs_[2]);
    if (mix() == plain_full) {
      ops::full_attention(q, k, v, heads_);
      return;
    }
    const Tensor out = Tensor::empty(context_, q.shape());
    for (std::size_t e = 0; e < expert_count; ++e)
      if (!rows_[e].empty()) experts_[e]->attend(q, k, v, ops::Rows(rows_[e], out));
  }

 private:
  int heads_;
  std::vector<std::unique_ptr<meta::Expert>> experts_;
  std::array<Tensor, 3> inputs_;
  std::array<std::vector<std::int32_t>, expert_count> rows_;
};

// A trained model on its own held-out text, with its own routes or every token forced to full.
class ModelCase : public Case {
 public:
  ModelCase(const Context& context, meta::LanguageModel& model, std::vector<std::int32_t> tokens, bool own)
      : Case(context, "model", own ? "its own" : "all full", std::int64_t(tokens.size())),
        model_(model),
        tokens_(std::move(tokens)) {
    forward_.routing = meta::RoutingMode::hard;
    if (!own) forward_.forced_expert = ExpertKind::full;
  }

  void run() override {
    Tape tape(context_, Tape::Mode::inference);
    model_(tape, tokens_, 1, length(), forward_);
  }

 private:
  meta::LanguageModel& model_;
  std::vector<std::int32_t> tokens_;
  meta::ForwardOptions forward_;
};

std::vector<std::int32_t> held_out_tokens(const meta::RunDescription& run, std::int64_t length) {
  const OpenedText text = open_evaluation_text(run, std::nullopt);
  const meta::EvaluationText windows = evaluation_text(*text.source, text.source->evaluation(length, 0, 1));
  std::vector<std::int32_t> inputs, targets;
  inputs.resize(std::size_t(length));
  targets.resize(inputs.size());
  windows.window(0, {inputs, targets, {}, {}});
  return inputs;
}

using Cases = std::vector<std::unique_ptr<Case>>;

void add_mixes(Cases& cases, const Context& context, const RouteBench& options, std::int64_t length) {
  for (const Mix& mix : mixes()) {
    if (options.core) {
      cases.push_back(std::make_unique<CoreCase>(context, options, mix, length));
    } else {
      cases.push_back(std::make_unique<LayerCase>(context, options, mix, length));
    }
  }
  if (options.core) {
    cases.push_back(std::make_unique<CoreCase>(context, options, std::nullopt, length));
  } else {
    cases.push_back(std::make_unique<PlainLayerCase>(context, options, length));
  }
}

void add_model(Cases& cases, const Context& context, const meta::LoadedRun& run,
               const std::vector<std::int64_t>& lengths) {
  const std::int64_t longest = meta::longest_text(run.description.config);
  const std::size_t before = cases.size();
  for (const std::int64_t length : lengths) {
    if (length > longest) continue;
    const std::vector<std::int32_t> tokens = held_out_tokens(run.description, length);
    for (const bool own : {false, true})
      cases.push_back(std::make_unique<ModelCase>(context, *run.model, tokens, own));
  }
  if (cases.size() == before) {
    throw ValueError(
        fmt::format("[bench] --lengths: expected one of at most {}, which the run's positions allow, got {}",
                    longest, fmt::join(lengths, ", ")));
  }
}

struct Measured {
  Case* c;
  Timing timing;
  Case::Flops flops;
};

nlohmann::ordered_json measured_row(const Context& context, const Sampling& sampling, const PeakRows& peak,
                                    const Measured& m, const Measured& full) {
  const double flops = m.flops.executed();
  const double time_ratio = m.timing.median_ms / full.timing.median_ms;
  const double flop_ratio = flops / full.flops.executed();
  nlohmann::ordered_json row =
      timed_row(context, sampling, fmt::format("{}, {}", m.c->part(), m.c->mix()), m.timing);
  row.update({{"part", m.c->part()},
              {"mix", m.c->mix()},
              {"length", m.c->length()},
              {"gflop", flops / 1e9},
              {"attention_gflop", m.flops.attention / 1e9},
              {"padding_gflop", m.flops.padding / 1e9},
              {"gflop_per_s", flops / m.timing.median_ms / 1e6},
              {"share_of_peak", peak.share(flops, m.timing)},
              {"time_to_full", time_ratio},
              {"flops_to_full", flop_ratio},
              {"time_to_flops", time_ratio / flop_ratio}});
  return row;
}

std::vector<std::string> cells(const nlohmann::ordered_json& row, const Timing& timing) {
  const auto number = [&](const char* key) { return row[key].get<double>(); };
  return {row["name"].get<std::string>(),
          fmt::format("{}", row["length"].get<std::int64_t>()),
          fmt::format("{:.3f}", timing.median_ms),
          percent(timing.spread),
          fmt::format("{:.3f}", number("gflop")),
          percent(number("padding_gflop") / number("gflop")),
          percent(number("share_of_peak")),
          fmt::format("{:.3f}", number("time_to_full")),
          fmt::format("{:.3f}", number("flops_to_full")),
          fmt::format("{:.3f}", number("time_to_flops"))};
}

}  // namespace

BenchReport bench_route(const Context& context, const RouteBench& options, const Sampling& sampling) {
  std::optional<meta::LoadedRun> run;
  if (!options.run.empty()) run = meta::load_run(context, options.run);
  Cases cases;
  if (run) add_model(cases, context, *run, options.lengths);
  for (const std::int64_t length : options.lengths) add_mixes(cases, context, options, length);
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  for (const auto& each : cases) work.push_back({[&c = *each] { c.run(); }});
  const std::vector<Timing> timings = time_in_turns(work, sampling);

  BenchReport report;
  peak.add_to(report, sampling, timings);
  Table table({"what, routed", "T", "median ms", "quartiles", "GFLOP", "masked", "of peak", "time / full",
               "FLOPs / full", "time / FLOPs"});
  Measured full{};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Measured m{cases[i].get(), timings[peak.size() + i], cases[i]->flops()};
    if (m.c->mix() == "all full") full = m;  // the first of its length
    report.results.push_back(measured_row(context, sampling, peak, m, full));
    table.add(cells(report.results.back(), m.timing));
  }
  report.text = table.text() + fmt::format("{} heads of {}, window {}, one sequence\n", options.heads,
                                           options.width / options.heads, options.window);
  report.text += peak.text();
  return report;
}

}  // namespace dirigo::tools
