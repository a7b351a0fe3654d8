// dirigo info: this machine, or what a run or a preset is.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "dirigo/core/context.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/run_files.hpp"
#include "evaluation_table.hpp"
#include "model_summary.hpp"
#include "table.hpp"
#include "version.hpp"

namespace dirigo::tools {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t assumed_vocabulary = 256;  // of a preset, whose corpus is not known yet

struct Arguments {
  std::optional<std::string> run, preset;
  bool json = false;
};

double memory_bytes() {
  return double(::sysconf(_SC_PHYS_PAGES)) * double(::sysconf(_SC_PAGE_SIZE));
}

Json machine_json() {
  const ThreadLimit limit = thread_limit();
  Json available = Json::array();
  for (const Isa isa : available_isas()) available.push_back(std::string(isa_name(isa)));
  return {{"format_version", 1},
          {"version", version()},
          {"compiler", __VERSION__},
          {"isa", {{"active", std::string(isa_name(choose_isa()))}, {"available", available}}},
          {"threads", {{"count", limit.threads}, {"decided_by", std::string(limit.decided_by)}}},
          {"memory_bytes", memory_bytes()}};
}

std::string machine_text(const Json& m) {
  std::string available;
  for (const auto& isa : m["isa"]["available"])
    available += (available.empty() ? "" : ", ") + isa.get<std::string>();
  return fmt::format(
      "dirigo {}, compiler {}\n"
      "instruction set: {} (available: {}; DIRIGO_ISA chooses another)\n"
      "threads: {} (decided by: {})\n"
      "memory: {:.1f} GiB\n",
      m["version"].get<std::string>(), m["compiler"].get<std::string>(),
      m["isa"]["active"].get<std::string>(), available, m["threads"]["count"].get<int>(),
      m["threads"]["decided_by"].get<std::string>(), m["memory_bytes"].get<double>() / (1 << 30));
}

struct Subject {
  std::string name, vocabulary_note;
  std::unique_ptr<meta::LanguageModel> model;
};

Subject open_subject(const Context& context, const Arguments& a) {
  if (a.run) {
    meta::LoadedRun run = meta::load_run(context, *a.run);
    return {*a.run, "", std::move(run.model)};
  }
  meta::Config config = meta::preset(*a.preset);
  meta::resolve(config);
  return {"preset " + *a.preset,
          fmt::format(" (with a vocabulary of {}; the corpus decides)", assumed_vocabulary),
          std::make_unique<meta::LanguageModel>(context, config, assumed_vocabulary, 0)};
}

Json null_json(const meta::RoutingStatistics& s) {
  return {{"entropy_mean_pct", s.entropy_mean_pct},
          {"entropy_sampled_pct", s.entropy_sampled_pct ? Json(*s.entropy_sampled_pct) : Json(nullptr)},
          {"projected_cost_pct", s.projected_cost_pct},
          {"argmax_cost_pct", s.argmax_cost_pct},
          {"mi_token_expert", s.mi_token_expert}};
}

// Of router.empirical_bayes, layer by layer.
std::vector<std::vector<double>> estimated_priors(const meta::LanguageModel& model) {
  std::vector<std::vector<double>> priors;
  for (std::int64_t l = 0; model.config().router.empirical_bayes && l < model.config().model.layers; ++l) {
    const auto prior = model.prior(std::size_t(l));
    priors.emplace_back(prior.begin(), prior.end());
  }
  return priors;
}

Json subject_json(Subject& subject) {
  meta::LanguageModel& model = *subject.model;
  const meta::Config& config = model.config();
  Json modules = Json::object(), experts = Json::array();
  for (const auto& [name, count] : parameters_by_module(model)) modules[name] = count;
  for (const ExpertCost& e : expert_cost_table(config)) {
    experts.push_back({{"name", e.name},
                       {"core_multiply_adds", e.core_multiply_adds},
                       {"projection_multiply_adds", e.projection_multiply_adds},
                       {"nominal", e.nominal},
                       {"analytic", e.analytic}});
  }
  const std::int64_t length = config.train.seq_len;
  const auto flops = model.full_attention_flops(1, length);
  Json json{{"name", subject.name},
            {"config", Json::parse(meta::config_to_json(config))},
            {"vocabulary", model.vocabulary()},
            {"parameters", model.parameter_count()},
            {"parameters_by_module", modules},
            {"seq_len", length},
            {"static_full_flops_per_forward", flops.model},
            {"static_full_flops_per_token", flops.model / double(length)},
            {"static_full_attention_flops_per_forward", flops.attention},
            {"costs", std::vector<double>(model.costs().begin(), model.costs().end())},
            {"experts", experts},
            {"prior_concentration", std::vector<double>(model.prior().begin(), model.prior().end())},
            {"null_router", null_json(meta::null_router(model))}};
  if (const auto priors = estimated_priors(model); !priors.empty()) json["estimated_priors"] = priors;
  return json;
}

std::string priors_text(const meta::LanguageModel& model) {
  const auto priors = estimated_priors(model);
  if (priors.empty()) return "";
  Table table({"estimated prior", "full", "linear", "local"});
  for (std::size_t l = 0; l < priors.size(); ++l) {
    const auto& p = priors[l];
    table.add({fmt::format("  layer {}", l), fmt::format("{:.3f}", p[0]), fmt::format("{:.3f}", p[1]),
               fmt::format("{:.3f}", p[2])});
  }
  return table.text() + "\n";
}

std::string configuration_text(const meta::Config& config) {
  std::string text;
  for (const auto& field : meta::describe_fields(config)) {
    text += fmt::format("  {:<28} {}\n", field.key, field.value.empty() ? "-" : field.value);
  }
  return text;
}

std::string parameters_text(meta::LanguageModel& model) {
  Table table({"parameters", "count"});
  for (const auto& [name, count] : parameters_by_module(model))
    table.add({"  " + name, fmt::format("{}", count)});
  table.add({"total", fmt::format("{}", model.parameter_count())});
  return table.text();
}

std::string costs_text(const meta::LanguageModel& model) {
  const meta::Config& config = model.config();
  const auto costs = model.costs();
  const auto prior = model.prior();
  const auto mean = meta::prior_mean(config.router, costs);
  Table table({"expert", "core MACs", "projection MACs", "nominal c", "analytic c", "c in use", "prior",
               "prior mean"});
  std::size_t k = 0;
  for (const ExpertCost& e : expert_cost_table(config)) {
    table.add({e.name, fmt::format("{:.0f}", e.core_multiply_adds),
               fmt::format("{:.0f}", e.projection_multiply_adds), fmt::format("{:.3f}", e.nominal),
               fmt::format("{:.3f}", e.analytic), fmt::format("{:.3f}", costs[k]),
               fmt::format("{:.3f}", prior[k]), fmt::format("{:.3f}", mean[k])});
    ++k;
  }
  return table.text() +
         "MACs: multiply-adds for one token in one layer, the core as causal mean over the window. Where "
         "projections\n"
         "outweigh the core, the experts cost about the same and nominal constants are fiction.\n";
}

std::string subject_text(Subject& subject) {
  meta::LanguageModel& model = *subject.model;
  const std::int64_t length = model.config().train.seq_len;
  const auto flops = model.full_attention_flops(1, length);
  Table null(routing_header());
  null.add(routing_cells(meta::null_router(model)));
  return fmt::format(
      "{}{}\n\n{}\n{}\nOne forward pass of T={} with static full attention: {:.4g} FLOPs, {:.4g} per token, "
      "{:.1f}% of it "
      "in the attention core\n\n{}\n{}Null router (emits the prior for every token)\n{}",
      subject.name, subject.vocabulary_note, configuration_text(model.config()), parameters_text(model),
      length, flops.model, flops.model / double(length), 100 * flops.attention / flops.model,
      costs_text(model), priors_text(model), null.text());
}

int info_command(const Arguments& a) {
  if (a.run && a.preset) throw ValueError("[info] subject: expected RUN or --preset, got both");
  Json machine = machine_json();
  if (!a.run && !a.preset) {
    fmt::print("{}", a.json ? machine.dump(2) + "\n" : machine_text(machine));
    return 0;
  }
  const Context context;
  Subject subject = open_subject(context, a);
  if (a.json) {
    machine[a.run ? "run" : "preset"] = subject_json(subject);
    fmt::print("{}\n", machine.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}\n{}", machine_text(machine), subject_text(subject));
  }
  return 0;
}

}  // namespace

void add_info(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("info", "this machine, or what a run or a preset is");
  command->add_option("RUN", a.run, "run directory");
  command->add_option("--preset", a.preset, "a preset's name");
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->callback([&run, arguments] { run = [arguments] { return info_command(*arguments); }; });
}

}  // namespace dirigo::tools
