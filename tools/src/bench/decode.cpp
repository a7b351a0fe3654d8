// dirigo bench decode: texts that grow token by token.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <optional>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "data_source.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/kernels.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/session.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

using meta::ExpertKind;

// A model and a text for it.
struct Subject {
  meta::InferenceModel model;
  std::vector<std::int32_t> text;
};

std::vector<std::int32_t> random_text(std::int64_t vocabulary, std::int64_t length) {
  std::vector<std::int32_t> text(static_cast<std::size_t>(length));
  PhiloxStream random(random_key(1, 0, Purpose::data), 0);
  for (auto& token : text) {
    token = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary)));
  }
  return text;
}

Subject make_subject(const Context& context, const DecodeBench& options, std::int64_t longest) {
  if (options.run.empty()) {
    meta::Config config = bench_configuration(options.preset, options.settings);
    config.model.max_len = std::max(config.model.max_len, longest);
    meta::resolve(config);
    meta::LanguageModel model(context, config, options.vocabulary, 1);
    return {meta::InferenceModel(context, model), random_text(options.vocabulary, longest)};
  }
  const meta::LoadedRun run = meta::load_run(context, options.run);
  const std::int64_t most = meta::longest_text(run.model->config());
  if (longest > most) {
    throw ValueError(
        fmt::format("[bench] --lengths: expected at most the run's longest text, {}, got {}", most, longest));
  }
  const auto source = make_run_source(run.description);
  return {meta::InferenceModel(context, *run.model), source->evaluation(longest, 0, 1).batch(0, 1).inputs};
}

// Memory read once from end to end on the context's threads, by the product of one row, beside steps that
// have to read as much.
class Reading {
 public:
  Reading(const Context& context, double bytes)
      : context_(context),
        rows_(std::int64_t(bytes / (4 * columns)) + 1),
        values_(Tensor::zeros(context, {rows_, columns})),
        x_(Tensor::zeros(context, {block})) {}

  void operator()() {
    context_.parallel_for<float>(rows_, block, [this](std::int64_t begin, std::int64_t end) {
      std::array<float, columns> y;
      context_.kernels<float>().row_product(columns, end - begin, x_.data<float>(),
                                            values_.data<float>() + begin * columns, columns, nullptr,
                                            y.data());
    });
  }

 private:
  static constexpr std::int64_t columns = 128, block = 1024;
  const Context& context_;
  std::int64_t rows_;
  Tensor values_, x_;
};

// How steps are routed: by the model itself (hard), or with this chance to `full` and else to `other`.
struct Routing {
  std::string name;
  std::optional<ExpertKind> forced;  // the session keeps what this expert needs alone
  bool own = false;
  double full = 0;
};

std::vector<Routing> routings(const DecodeBench& options) {
  std::vector<Routing> list{{"full", {}, false, 1},
                            {"linear", ExpertKind::linear},
                            {"local", ExpertKind::local},
                            {"25% full", {}, false, 0.25}};
  if (!options.run.empty()) list.push_back({"own", {}, true});
  return list;
}

// A session at one context length; a sample steps a fork of it to that length.
class Case {
 public:
  Case(const Context& context, const Subject& subject, const Routing& routing, std::int64_t length,
       std::int64_t tokens)
      : context_(context), subject_(subject), routing_(routing), length_(length), tokens_(tokens) {
    const meta::Config& config = subject.model.config();
    meta::SessionOptions options;
    options.max_length = length;
    options.forward.forced_expert = routing.forced;
    if (routing.own) options.forward.routing = meta::RoutingMode::hard;
    session_ = std::make_unique<meta::InferenceSession>(subject.model, options);
    const auto layers = static_cast<std::size_t>(config.model.layers);
    PhiloxStream random(random_key(2, 0, Purpose::data), 0);
    for (std::size_t i = 0; i < layers * static_cast<std::size_t>(tokens); ++i) {
      const bool full = random.uniform() < routing.full;
      choices_.push_back(full ? ExpertKind::full : i % 2 == 0 ? ExpertKind::local : ExpertKind::linear);
      full_share_ += full ? 1.0 / double(layers * static_cast<std::size_t>(tokens)) : 0;
    }
    if (length == tokens) return;
    // What fills the caches is the same whatever ran; local attention runs fastest.
    const auto prefix = std::span(subject.text).first(static_cast<std::size_t>(length - tokens));
    const std::vector<ExpertKind> local(chosen() ? prefix.size() * layers : 0, ExpertKind::local);
    meta::PrefillOptions prefill;
    prefill.routing = local;
    session_->prefill(prefix, prefill);
  }

  TimedWork work() {
    return {[this] { run(); },
            [this] {
              fork_.reset();
              fork_.emplace(session_->fork());
            }};
  }
  double flops() {
    work().prepare();
    const double before = flops_so_far(context_);
    run();
    return (flops_so_far(context_) - before) / double(tokens_);
  }
  std::size_t memory_bytes() const { return fork_->memory_bytes(); }  // at the full length

  // What one step has to read: the weights, and the keys and values (or sums) of its expert.
  double bytes_read() const {
    const meta::Config& c = subject_.model.config();
    const double width = double(c.model.d_model), d = width / double(c.model.heads);
    const double positions = c.model.positions == meta::Positions::learned ? double(c.model.max_len) : 0;
    const double tables = 4 * width * (double(subject_.model.vocabulary()) + positions);
    const double weights = double(subject_.model.memory_bytes()) - tables;
    const double full = 8 * width * double(length_);
    const double local = 8 * width * double(std::min(c.attention.window, length_));
    const double linear = 4 * width * (d + 1) + 8 * width * double(std::min(c.attention.chunk, length_)) / 2;
    double core = full_share_ * full + (1 - full_share_) * (local + linear) / 2;
    if (routing_.forced) core = *routing_.forced == ExpertKind::local ? local : linear;
    if (routing_.own) core = own_share_[0] * full + own_share_[1] * linear + own_share_[2] * local;
    return weights + core * double(c.model.layers);
  }

  const Routing& routing() const { return routing_; }
  std::int64_t length() const { return length_; }
  // Of the steps of the last sample.
  const std::array<double, meta::expert_count>& own_share() const { return own_share_; }

 private:
  bool chosen() const { return !routing_.own && !routing_.forced; }

  void run() {
    const std::size_t layers = choices_.size() / static_cast<std::size_t>(tokens_);
    own_share_ = {};
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens_); ++t) {
      const std::int32_t token = subject_.text[static_cast<std::size_t>(length_ - tokens_) + t];
      fork_->step(
          token, output_,
          chosen() ? meta::RoutingOverride(choices_).subspan(t * layers, layers) : meta::RoutingOverride{});
      for (const auto& layer : output_.layers) {
        for (std::size_t e = 0; e < meta::expert_count; ++e) {
          if (layer.weights[e] != 0) own_share_[e] += 1 / double(choices_.size());
        }
      }
    }
  }

  const Context& context_;
  const Subject& subject_;
  Routing routing_;
  std::int64_t length_, tokens_;
  std::unique_ptr<meta::InferenceSession> session_;
  std::optional<meta::InferenceSession> fork_;
  std::vector<ExpertKind> choices_;
  double full_share_ = 0;
  std::array<double, meta::expert_count> own_share_{};
  meta::SessionOutput output_;
};

Timing per_token(Timing timing, std::int64_t tokens) {
  timing.median_ms /= double(tokens);
  timing.min_ms /= double(tokens);
  return timing;
}

double megabytes(std::size_t bytes) {
  return double(bytes) / 1e6;
}

BenchReport bench_lengths(const Context& context, const DecodeBench& options, const Sampling& sampling) {
  for (const std::int64_t length : options.lengths) {
    if (length < options.tokens) {
      throw ValueError(
          fmt::format("[bench] --lengths: expected at least --tokens = {}, got {}", options.tokens, length));
    }
  }
  const Subject subject =
      make_subject(context, options, *std::max_element(options.lengths.begin(), options.lengths.end()));
  std::vector<std::unique_ptr<Case>> cases;
  std::vector<std::unique_ptr<Reading>> readings;
  std::vector<double> flops;
  for (const std::int64_t length : options.lengths) {
    for (const Routing& routing : routings(options)) {
      cases.push_back(std::make_unique<Case>(context, subject, routing, length, options.tokens));
      flops.push_back(cases.back()->flops());
      readings.push_back(std::make_unique<Reading>(context, cases.back()->bytes_read()));
    }
  }
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    work.push_back(cases[i]->work());
    work.push_back({[&reading = *readings[i]] { reading(); }});
  }
  const std::vector<Timing> timings = time_in_turns(work, sampling);

  BenchReport report;
  peak.add_to(report, sampling, timings);
  Table table({"decode", "context", "ms/token", "quartiles", "tokens/s", "read ms", "time / read", "MB",
               "full / this"});
  const std::size_t mixes = routings(options).size();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Case& c = *cases[i];
    const Timing timing = per_token(timings[peak.size() + 2 * i], options.tokens);
    const Timing& read = timings[peak.size() + 2 * i + 1];
    const double ratio =
        timings[peak.size() + 2 * (i / mixes * mixes)].median_ms / double(options.tokens) / timing.median_ms;
    nlohmann::ordered_json row = timed_row(context, sampling, "decode " + c.routing().name, timing);
    row.update({{"routing", c.routing().name},
                {"context", c.length()},
                {"tokens_per_s", 1000 / timing.median_ms},
                {"memory_bytes", c.memory_bytes()},
                {"gflop", flops[i] / 1e9},
                {"bytes_read", c.bytes_read()},
                {"read_ms", read.median_ms},
                {"full_over_this", ratio},
                {"share_of_peak", peak.share(flops[i], timing)},
                {"executed", c.own_share()}});
    report.results.push_back(row);
    table.add({c.routing().name, fmt::format("{}", c.length()), fmt::format("{:.4f}", timing.median_ms),
               percent(timing.spread), fmt::format("{:.0f}", 1000 / timing.median_ms),
               fmt::format("{:.4f}", read.median_ms),
               fmt::format("{:.2f}", timing.median_ms / read.median_ms),
               fmt::format("{:.2f}", megabytes(c.memory_bytes())), fmt::format("{:.2f}", ratio)});
  }
  report.text =
      table.text() +
      "Read: so many bytes from end to end as a step has to, the weights and what the cache holds for its "
      "expert.\n" +
      peak.text();
  return report;
}

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * double(sysconf(_SC_PAGESIZE));
}

BenchReport bench_sessions(const Context& context, const DecodeBench& options, const Sampling& sampling) {
  constexpr int warm_up = 2;
  const std::int64_t filled = options.context - sampling.rounds - warm_up;
  if (filled < 1) {
    throw ValueError(
        fmt::format("[bench] --context: expected more than {} (--rounds and their warm-up), got {}",
                    sampling.rounds + warm_up, options.context));
  }
  const Subject subject = make_subject(context, options, options.context);
  meta::SessionOptions session_options;
  session_options.max_length = options.context;
  session_options.forward.routing = meta::RoutingMode::hard;
  const auto text = std::span(subject.text);
  context.allocator()->trim();
  const double before = resident_bytes();
  std::vector<meta::InferenceSession> sessions;
  std::vector<meta::InferenceSession*> batch;
  const auto count = static_cast<std::size_t>(options.sessions);
  sessions.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    sessions.emplace_back(subject.model, session_options);
    sessions.back().prefill(text.first(static_cast<std::size_t>(filled)));
    batch.push_back(&sessions.back());
  }
  std::vector<meta::SessionOutput> outputs(count);
  const auto step = [&] {
    const std::vector<std::int32_t> tokens(count, text[static_cast<std::size_t>(sessions.front().length())]);
    meta::InferenceSession::step(batch, tokens, outputs);
  };
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  work.push_back({step, [] {}});  // one step of all is a sample
  const std::vector<Timing> timings = time_in_turns(work, sampling);
  context.allocator()->trim();
  const double growth = resident_bytes() - before;
  std::size_t held = 0, most = 0;
  for (const meta::InferenceSession& session : sessions) {
    held += session.memory_bytes();
    most += session.max_memory_bytes();
  }

  BenchReport report;
  peak.add_to(report, sampling, timings);
  const Timing& timing = timings.back();
  for (meta::InferenceSession& session : sessions) session.rewind(session.length() - 1);
  const double counted = flops_so_far(context);
  step();
  const double flops = flops_so_far(context) - counted;
  nlohmann::ordered_json row = timed_row(context, sampling, "decode sessions", timing);
  row.update({{"sessions", options.sessions},
              {"context", options.context},
              {"tokens_per_s", 1000 * double(count) / timing.median_ms},
              {"memory_bytes", held},
              {"max_memory_bytes", most},
              {"rss_growth_bytes", growth},
              {"gflop", flops / 1e9},
              {"share_of_peak", peak.share(flops, timing)}});
  report.results.push_back(row);
  Table table({"sessions", "context", "ms/step of all", "quartiles", "tokens/s", "MB held", "MB stated",
               "MB resident"});
  table.add({fmt::format("{}", options.sessions), fmt::format("{}", options.context),
             fmt::format("{:.2f}", timing.median_ms), percent(timing.spread),
             fmt::format("{:.0f}", 1000 * double(count) / timing.median_ms),
             fmt::format("{:.1f}", megabytes(held)), fmt::format("{:.1f}", megabytes(most)),
             fmt::format("{:.1f}", growth / 1e6)});
  report.text = table.text() +
                "Stated: the most that the sessions ever hold. Resident: growth of the process.\n" +
                peak.text();
  return report;
}

}  // namespace

BenchReport bench_decode(const Context& context, const DecodeBench& options, const Sampling& sampling) {
  return options.sessions > 0 ? bench_sessions(context, options, sampling)
                              : bench_lengths(context, options, sampling);
}

}  // namespace dirigo::tools
