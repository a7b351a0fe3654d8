// emergence: does recall appear suddenly, what brings it forward, and when should routing turn hard?
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "studies/emergence.hpp"
#include "studies/studies.hpp"

namespace dirigo::tools {
namespace {

constexpr std::int64_t tokens_per_step = 2048;
constexpr std::size_t drop_lines = 10;  // of the log, before and after a drop of the routing's entropy

// What the first 45% of the steps draw from; `recall` has `keys`.
const Settings no_pool{{"data.pool", "0"}, {"data.pool_until", "0"}, {"data.pool_corpus", ""}};
const Settings repeated{{"data.pool", "4096"}, {"data.pool_corpus", ""}};

std::string language(int keys, int active = 0) {
  std::string spec = fmt::format("synthetic:recall?keys={}", keys);
  if (active > 0) spec += fmt::format("&active_keys={}", active);
  return spec;
}

StudyArm arm_of(const std::string& method, int length, int keys, const Settings& set) {
  const Settings size{{"train.seq_len", fmt::format("{}", length)},
                      {"train.batch", fmt::format("{}", tokens_per_step / length)},
                      {"train.eval_every", "100"},
                      {"train.log_deltas", "true"},
                      {"data.pool_corpus", language(keys, 4)}};
  StudyArm arm{method, fmt::format("{}, {} keys", method, keys), "recall", join(size, set), {}};
  arm.name = fmt::format("{}_t{}_k{}", method, length, keys);
  arm.data.corpus = language(keys);
  return arm;
}

StudyList list() {
  const Settings both{{"data.pool", "4096"}};
  StudyList list{"emergence", 1, {}};
  const auto add = [&](const std::string& method, int length, int keys, const Settings& set) {
    list.arms.push_back(arm_of(method, length, keys, set));
  };
  add("few_keys", 256, 16, {});
  add("stream", 256, 16, no_pool);
  add("pool", 256, 16, repeated);
  add("few_keys_pool", 256, 16, both);
  for (const auto& [length, keys] : {std::pair{128, 8}, std::pair{512, 32}}) {
    add("few_keys", length, keys, {});
    add("stream", length, keys, no_pool);
  }
  // Routing turns hard for the last fifth above; here at the drop, or token by token.
  add("few_keys_auto", 256, 16, {{"train.straight_through", "auto"}});
  add("few_keys_gated", 256, 16, {{"train.straight_through", "gated"}});
  for (const std::string expert : {"full", "linear", "local"})
    add("static_" + expert, 256, 16, static_expert(expert));
  return list;
}

std::string curriculum_of(const meta::DataConfig& data) {
  if (data.pool == 0 || data.pool_until == 0) return "none";
  return data.pool_corpus.empty() ? fmt::format("pool of {}", data.pool)
                                  : fmt::format("pool of {} of {}", data.pool, data.pool_corpus);
}

// The value of keys=N in a specification.
Json keys_of(const std::string& corpus) {
  const std::size_t at = corpus.find("?keys=");
  if (at == std::string::npos) return nullptr;
  return std::atoi(corpus.c_str() + at + 6);
}

// The value of a field, as `dirigo info` shows it.
std::string field(const meta::Config& config, const std::string& key) {
  for (const meta::FieldDescription& description : meta::describe_fields(config)) {
    if (description.key == key) return description.value;
  }
  return "";
}

Json step_or_null(const std::optional<std::int64_t>& step) {
  return step ? Json(*step) : Json(nullptr);
}

// The recall bytes of held-out text, at every evaluation.
Json recall_curve(const Study& study, const StudyRun& run, const std::vector<Json>& log) {
  Json curve = record_of(study, run);
  curve["step"] = curve["nll"] = curve["accuracy"] = Json::array();
  for (const Json& line : log) {
    const auto nll = number_at(line, "/valid_by_need/recall/nll");
    if (!nll) continue;
    curve["step"].push_back(line["step"]);
    curve["nll"].push_back(*nll);
    curve["accuracy"].push_back(or_null(number_at(line, "/valid_by_need/recall/accuracy")));
  }
  return curve;
}

// The share of tokens whose argmax is `full`, last layer, at every evaluation.
Json full_by_step(const std::vector<Json>& log) {
  Json shares = Json::array();
  for (const Json& line : evaluated_lines(log))
    shares.push_back(line["routing"]["layers"].back()["fraction_argmax"][0]);
  return shares;
}

// The first logged step whose tokens all had one-hot weights.
Json switch_step(const std::vector<Json>& log) {
  for (const Json& line : log) {
    if (batch_mean(line, "one_hot").value_or(0) > 0.9999) return line["step"];  // a sum of shares
  }
  return nullptr;
}

Json drop_record(const Study& study, const StudyRun& run, const std::vector<Json>& log, const Json& recall) {
  const auto nll = recall["nll"].get<std::vector<double>>();
  const auto steps = recall["step"].get<std::vector<std::int64_t>>();
  const Drop drop = find_drop(steps, nll);
  std::vector<std::int64_t> log_steps;
  std::vector<double> entropy;
  for (const Json& line : log) {
    log_steps.push_back(line["step"]);
    entropy.push_back(100 * batch_mean(line, "entropy").value_or(0));
  }
  const Fall fall = steepest_fall(log_steps, entropy, drop_lines);
  Json record = record_of(study, run);
  record["curriculum"] = curriculum_of(run.config.data);
  record["keys"] = keys_of(study.corpus(run.arm));
  record["straight_through"] = field(run.config, "train.straight_through");
  record["first_nll"] = nll.empty() ? Json(nullptr) : Json(nll.front());
  record["last_nll"] = nll.empty() ? Json(nullptr) : Json(nll.back());
  record["last_accuracy"] = nll.empty() ? Json(nullptr) : recall["accuracy"].back();
  record["drop_step"] = step_or_null(drop.step);
  record["drop_begin"] = step_or_null(drop.begin);
  record["drop_end"] = step_or_null(drop.end);
  record["entropy_drop_step"] = step_or_null(fall.step);
  record["entropy_drop_pct"] = fall.step ? Json(fall.by) : Json(nullptr);
  record["switch_step"] = switch_step(log);
  const auto test = [&](meta::RoutingMode mode) {
    return or_null(number_at(test_evaluation(study, run, mode), "/nll"));
  };
  record["soft_nll"] = test(meta::RoutingMode::soft);
  record["hard_nll"] = test(meta::RoutingMode::hard);
  return record;
}

StudySections sections(const Study& study, const SectionOptions&) {
  StudySections result;
  Json& drops = result.tables["drops"] = Json::array();
  Json training = Json::array(), recalls = Json::array();
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    for (const StudyRun& run : good_runs(study, arm)) {
      const std::vector<Json> log = training_log(run);
      const Json recall = recall_curve(study, run, log);
      drops.push_back(drop_record(study, run, log, recall));
      recalls.push_back(recall);
      Json curve = training_curve(study, run, log);
      curve["full"] = full_by_step(log);
      training.push_back(std::move(curve));
    }
  }
  result.curves["training"] = std::move(training);
  result.curves["recall"] = std::move(recalls);
  return result;
}

std::vector<ShownTable> shown() {
  return {{"drops",
           {{"arm", "/arm"},
            {"seed", "/seed"},
            {"drop at", "/drop_step"},
            {"from", "/drop_begin"},
            {"to", "/drop_end"},
            {"entropy falls at", "/entropy_drop_step"},
            {"by %", "/entropy_drop_pct", 1},
            {"hard from", "/switch_step"},
            {"recall right", "/last_accuracy", 4},
            {"NLL soft", "/soft_nll", 4},
            {"NLL hard", "/hard_nll", 4}}}};
}

}  // namespace

Drop find_drop(const std::vector<std::int64_t>& steps, const std::vector<double>& nll) {
  Drop drop;
  const auto first_below = [&](double bound, std::size_t from) {
    const auto found = std::find_if(nll.begin() + static_cast<std::ptrdiff_t>(from), nll.end(),
                                    [&](double value) { return value <= bound; });
    return static_cast<std::size_t>(found - nll.begin());
  };
  if (nll.empty()) return drop;
  const std::size_t at = first_below(0.5 * nll.front(), 0);
  if (at == nll.size()) return drop;
  drop.step = steps[at];
  for (std::size_t i = 0; i < at; ++i) {
    if (nll[i] >= 0.8 * nll.front()) drop.begin = steps[i];
  }
  const std::size_t end = first_below(0.2 * nll.front(), at);
  if (end < nll.size()) drop.end = steps[end];
  return drop;
}

Fall steepest_fall(const std::vector<std::int64_t>& steps, const std::vector<double>& values,
                   std::size_t width) {
  Fall fall;
  const auto mean = [&](std::size_t begin) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(width), 0.0) /
           static_cast<double>(width);
  };
  for (std::size_t i = width; i + width <= values.size(); ++i) {
    const double by = mean(i - width) - mean(i);
    if (by <= 0 || (fall.step && by <= fall.by)) continue;
    fall = {steps[i], by};
  }
  return fall;
}

const StudyKind emergence_study{"emergence", list, sections, shown};

}  // namespace dirigo::tools
