// collapse: where the posterior falls onto its prior, at the paper's setting.
#include <fmt/format.h>

#include "studies/studies.hpp"

namespace dirigo::tools {
namespace {

constexpr double collapsed_below = 0.001;  // nats of mutual information between token and expert

struct Schedule {
  const char* name;
  Settings set;
};
const std::vector<Schedule>& schedules() {
  static const std::vector<Schedule> all{
      {"constant", {}},
      {"warmup", {{"objective.w_kl_schedule", "linear"}, {"objective.w_kl_warmup", "1000"}}},
      {"cyclical", {{"objective.w_kl_schedule", "cyclical"}}},
      {"freebits", {{"objective.free_bits", "0.5"}}}};
  return all;
}

// w_kl x posterior x schedule.
void add_weights(std::vector<StudyArm>& arms) {
  for (const std::string posterior : {"additive", "free"}) {
    for (const std::string w_kl : {"0", "0.0003", "0.001", "0.003", "0.01", "0.1", "1"}) {
      for (const Schedule& schedule : schedules()) {
        if (w_kl == "0" && !schedule.set.empty()) continue;  // nothing to schedule
        const Settings set{{"objective.w_kl", w_kl}, {"router.posterior", posterior}};
        arms.push_back({fmt::format("{}_wkl{}_{}", posterior, w_kl, schedule.name),
                        fmt::format("{}, w_kl {}, {}", posterior, w_kl, schedule.name),
                        "paper",
                        join(set, schedule.set),
                        {}});
      }
    }
  }
}

// How strong the prior is, for the paper's posterior at the paper's weight and for ours at ours. What the
// preset has (beta0 1, eps 0.01) is among the arms above.
void add_priors(std::vector<StudyArm>& arms) {
  struct Where {
    const char *posterior, *w_kl;
  };
  for (const Where& where : {Where{"additive", "1"}, Where{"free", "0.003"}}) {
    const Settings at{{"objective.w_kl", where.w_kl}, {"router.posterior", where.posterior}};
    for (const std::string beta0 : {"0.1", "1", "10"}) {
      for (const std::string eps : {"0.01", "0.1", "1"}) {
        if (beta0 == "1" && eps == "0.01") continue;
        arms.push_back({fmt::format("{}_wkl{}_beta{}_eps{}", where.posterior, where.w_kl, beta0, eps),
                        fmt::format("{}, w_kl {}, beta0 {}, eps {}", where.posterior, where.w_kl, beta0, eps),
                        "paper",
                        join(at, {{"router.beta0", beta0}, {"router.eps", eps}}),
                        {}});
      }
    }
  }
}

// Each layer's prior estimated from its posteriors.
void add_empirical_bayes(std::vector<StudyArm>& arms) {
  for (const std::string w_kl : {"0.003", "1"}) {
    arms.push_back(
        {fmt::format("free_wkl{}_empirical_bayes", w_kl),
         fmt::format("free, w_kl {}, empirical Bayes", w_kl),
         "paper",
         {{"objective.w_kl", w_kl}, {"router.posterior", "free"}, {"router.empirical_bayes", "true"}},
         {}});
  }
}

StudyList list() {
  StudyList list{"collapse", 1, {static_arm("full"), static_arm("linear"), static_arm("local")}};
  add_weights(list.arms);
  add_priors(list.arms);
  add_empirical_bayes(list.arms);
  for (StudyArm& arm : list.arms)
    arm.set = join(arm.set, {{"train.eval_every", "100"}, {"train.log_deltas", "true"}});
  return list;
}

const char* schedule_of(const meta::ObjectiveConfig& objective) {
  if (objective.free_bits > 0) return "freebits";
  switch (objective.w_kl.kind) {
    case nn::KlWeight::Kind::linear:
      return "warmup";
    case nn::KlWeight::Kind::cyclical:
      return "cyclical";
    default:
      return "constant";
  }
}

// Of all layers on held-out text, at the end of the training.
std::optional<std::vector<double>> active_units(const std::vector<StudyRun>& runs) {
  std::vector<double> values;
  for (const StudyRun& run : runs) {
    const std::vector<Json> log = training_log(run);
    const auto units = log.empty() ? std::nullopt : sum_of(log.back(), "active_units");
    if (!units) return std::nullopt;
    values.push_back(*units);
  }
  return values;
}

Json boundary_record(const Study& study, std::size_t arm, const std::vector<StudyRun>& runs) {
  const meta::Config& config = study.config(arm);
  std::vector<Json> soft, hard;
  for (const StudyRun& run : runs) {
    soft.push_back(test_evaluation(study, run, meta::RoutingMode::soft));
    hard.push_back(test_evaluation(study, run, meta::RoutingMode::hard));
  }
  Json record = record_of(study, arm);
  record["posterior"] = config.router.posterior == meta::Posterior::free ? "free" : "additive";
  record["w_kl"] = config.objective.w_kl.value;
  record["schedule"] = schedule_of(config.objective);
  record["beta0"] = config.router.beta0;
  record["eps"] = config.router.eps;
  record["empirical_bayes"] = config.router.empirical_bayes;
  const auto mi = numbers_at(hard, "/routing/overall/mi_token_expert");
  put_mean(record, "kl", numbers_at(hard, "/routing/overall/kl"));
  put_mean(record, "mi_token_expert", mi);
  put_mean(record, "entropy_sampled_pct", numbers_at(hard, "/routing/overall/entropy_sampled_pct"));
  for (const char* delta : {"permutation_delta_nll", "prior_delta_nll", "position_only_delta_nll"})
    put_mean(record, delta, numbers_at(soft, std::string("/deltas/") + delta));
  put_mean(record, "active_units", active_units(runs));
  put_mean(record, "soft_nll", numbers_at(soft, "/nll"));
  put_mean(record, "hard_nll", numbers_at(hard, "/nll"));
  record["collapsed"] = mi ? Json(record["mi_token_expert"].get<double>() < collapsed_below) : Json(nullptr);
  return record;
}

StudySections sections(const Study& study, const SectionOptions&) {
  StudySections result;
  Json& boundary = result.tables["boundary"] = Json::array();
  Json& curves = result.curves["training"] = Json::array();
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    const std::vector<StudyRun> runs = good_runs(study, arm);
    if (study.config(arm).router.kind != meta::RouterKind::bayes || runs.empty()) continue;
    boundary.push_back(boundary_record(study, arm, runs));
    for (const StudyRun& run : runs) curves.push_back(training_curve(study, run, training_log(run)));
  }
  return result;
}

std::vector<ShownTable> shown() {
  return {{"boundary",
           {{"arm", "/arm"},
            {"collapsed", "/collapsed"},
            {"KL", "/kl", 4},
            {"MI", "/mi_token_expert", 4},
            {"sampled%", "/entropy_sampled_pct", 1},
            {"permuted", "/permutation_delta_nll", 4},
            {"prior", "/prior_delta_nll", 4},
            {"position only", "/position_only_delta_nll", 4},
            {"active units", "/active_units"},
            {"NLL soft", "/soft_nll", 4},
            {"NLL hard", "/hard_nll", 4}}}};
}

}  // namespace

const StudyKind collapse_study{"collapse", list, sections, shown};

}  // namespace dirigo::tools
