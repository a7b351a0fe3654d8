// need: languages whose per-token need is known. Does the router send each need to the expert that serves it?
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "studies/studies.hpp"

namespace dirigo::tools {
namespace {

// A language and the recipe that it is learnt with, the same for every arm.
struct NeedTask {
  const char* name;
  const char* corpus;
  const char* preset;
  Settings set;
};

constexpr std::int64_t tokens_per_step = 2048;

// The recipe of `recall` for a language without a curriculum.
Settings one_language(std::int64_t length) {
  return {{"train.seq_len", fmt::format("{}", length)},
          {"train.batch", fmt::format("{}", tokens_per_step / length)},
          {"data.pool", "0"},
          {"data.pool_until", "0"},
          {"data.pool_corpus", ""}};
}

// Short sequences that ask often, and more often or of less at first: where few bytes are scored, what is
// learnt is which answers there are and nothing more (docs/training.md). The model runs at any length: `eval
// RUN --seq-len 256`.
Settings dense_lookup(const std::string& easier) {
  return {{"train.seq_len", "64"},   {"train.batch", "32"},      {"train.steps", "3000"},
          {"router.warmup", "1200"}, {"data.pool_until", "0.5"}, {"data.pool_corpus", easier}};
}

// Turned hard all at once, tokens that are undecided train by their samples and are evaluated by their means,
// which on this language may be far apart (docs/training.md). So each turns hard as it grows certain.
const Settings token_by_token{{"train.straight_through", "gated"}};

std::vector<NeedTask> tasks() {
  return {
      {"recall", "synthetic:recall", "recall", {}},
      {"fables", "synthetic:fables", "quickstart", {}},
      {"mqar", "synthetic:mqar?pairs=16", "recall", dense_lookup("synthetic:mqar?pairs=4")},
      {"copy", "synthetic:copy?tokens=8", "recall", join(one_language(128), token_by_token)},
      {"induction", "synthetic:induction", "recall", dense_lookup("synthetic:induction?queries=8")},
      {"bijection", "synthetic:bijection?values=8", "recall", one_language(128)},
      {"hmm", "synthetic:hmm", "recall", one_language(128)},
      {"composite", "synthetic:composite", "recall", one_language(256)},
  };
}

StudyList list() {
  StudyList list{"need", 1, {}};
  const auto add = [&](const NeedTask& task, const std::string& method, const Settings& router) {
    StudyArm arm{method, fmt::format("{}, {}", task.name, method), task.preset, join(task.set, router), {}};
    arm.name = fmt::format("{}_{}", task.name, method);
    arm.data.corpus = task.corpus;
    list.arms.push_back(std::move(arm));
  };
  for (const NeedTask& task : tasks()) {
    add(task, "ours", {});
    for (const std::string expert : {"full", "local", "linear"})
      add(task, "static_" + expert,
          task.preset == std::string("recall") ? static_expert(expert) : static_router(expert));
  }
  return list;
}

// `by_need` of every run's hard evaluation.
std::vector<Json> needs_of(const Study& study, const std::vector<StudyRun>& runs) {
  std::vector<Json> all;
  for (const StudyRun& run : runs) {
    const Json evaluation = test_evaluation(study, run, meta::RoutingMode::hard);
    if (evaluation.is_object() && evaluation.contains("by_need") && evaluation["by_need"].is_object())
      all.push_back(evaluation["by_need"]);
  }
  return all;
}

Json number_or_null(const Json& json, const std::string& pointer) {
  return or_null(number_at(json, pointer));
}

// The experts of the tokens with a need, layer by layer, mean over the runs.
void add_confusion(const Study& study, std::size_t arm, const std::string& need,
                   const std::vector<Json>& runs, Json& table) {
  const Json& layers = runs.front()[need]["fraction_argmax_by_layer"];
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    Json record = record_of(study, arm);
    record["layer"] = layer;
    record["need"] = need;
    put_mean(record, "tokens", numbers_at(runs, fmt::format("/{}/tokens", need)));
    record["fraction_argmax"] = Json::array();
    for (std::size_t k = 0; k < meta::expert_count; ++k) {
      Json mean;
      put_mean(mean, "value",
               numbers_at(runs, fmt::format("/{}/fraction_argmax_by_layer/{}/{}", need, layer, k)));
      record["fraction_argmax"].push_back(mean["value"]);
    }
    table.push_back(std::move(record));
  }
}

void add_need(const Study& study, std::size_t arm, const std::string& need, const std::vector<Json>& runs,
              Json& table) {
  Json record = record_of(study, arm);
  record["need"] = need;
  const auto values = [&](const char* key) { return numbers_at(runs, fmt::format("/{}/{}", need, key)); };
  put_mean(record, "tokens", values("tokens"));
  put_estimate(record, "nll", values("nll"));
  for (const char* key : {"accuracy", "posterior_error_bits"}) put_mean(record, key, values(key));
  table.push_back(std::move(record));
}

// The need of a language that only an expert that looks far can serve, if its tags know one.
std::optional<std::string> far_need(const Json& needs) {
  for (const char* tag : {"recall_far", "recall", "copy"}) {
    if (needs.contains(tag) && needs[tag].value("tokens", 0) > 0) return tag;
  }
  return std::nullopt;
}

// Whether this run routes as it should: its far need to `full`, in the layer that does so most, and text not.
void add_run(const Study& study, const StudyRun& run, const Json& needs, Json& table) {
  const auto far = far_need(needs);
  if (!far) return;
  Json record = record_of(study, run);
  record["need"] = *far;
  record["layer"] = record["on_full"] = record["others_on_full"] = nullptr;
  const Json& layers = needs[*far]["fraction_argmax_by_layer"];
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const double share = layers[layer][0];
    if (record["on_full"].is_number() && record["on_full"].get<double>() >= share) continue;
    record["layer"] = layer;
    record["on_full"] = share;
    record["others_on_full"] =
        number_or_null(needs, fmt::format("/text/fraction_argmax_by_layer/{}/0", layer));
  }
  table.push_back(std::move(record));
}

StudySections sections(const Study& study, const SectionOptions&) {
  StudySections result;
  for (const char* name : {"confusion", "needs", "runs"}) result.tables[name] = Json::array();
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    const std::vector<StudyRun> runs = good_runs(study, arm);
    const std::vector<Json> all = needs_of(study, runs);
    if (all.empty() || all.size() != runs.size()) continue;  // a text without tags
    for (const auto& [need, value] : all.front().items()) {
      if (value.value("tokens", 0) == 0) continue;
      add_confusion(study, arm, need, all, result.tables["confusion"]);
      add_need(study, arm, need, all, result.tables["needs"]);
    }
    for (std::size_t i = 0; i < runs.size(); ++i) add_run(study, runs[i], all[i], result.tables["runs"]);
  }
  return result;
}

std::vector<ShownTable> shown() {
  return {{"needs",
           {{"arm", "/arm"},
            {"need", "/need"},
            {"tokens", "/tokens"},
            {"NLL", "/nll", 4},
            {"right", "/accuracy", 4},
            {"posterior error, bits", "/posterior_error_bits", 4}}},
          {"confusion",
           {{"arm", "/arm"},
            {"layer", "/layer"},
            {"need", "/need"},
            {"full", "/fraction_argmax/0", 4},
            {"linear", "/fraction_argmax/1", 4},
            {"local", "/fraction_argmax/2", 4}}},
          {"runs",
           {{"arm", "/arm"},
            {"seed", "/seed"},
            {"need", "/need"},
            {"layer", "/layer"},
            {"on full", "/on_full", 4},
            {"text on full", "/others_on_full", 4}}}};
}

}  // namespace

const StudyKind need_study{"need", list, sections, shown};

}  // namespace dirigo::tools
