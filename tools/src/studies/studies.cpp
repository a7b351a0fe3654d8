#include "studies/studies.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"

namespace dirigo::tools {
namespace {

const StudyKind* const studies[] = {&table3_study, &collapse_study, &pareto_study,
                                    &eta_study,    &need_study,     &emergence_study};

}  // namespace

std::vector<std::string> study_names() {
  std::vector<std::string> names;
  for (const StudyKind* study : studies) names.emplace_back(study->name);
  return names;
}

const StudyKind* find_study(std::string_view name) {
  for (const StudyKind* study : studies) {
    if (study->name == name) return study;
  }
  return nullptr;
}

StudyList built_in_study(std::string_view name) {
  const StudyKind* study = find_study(name);
  if (study == nullptr) {
    throw ValueError(fmt::format("[study] NAME: expected one of {} (or --arms FILE), got '{}'{}",
                                 fmt::join(study_names(), ", "), name, did_you_mean(name, study_names())));
  }
  StudyList list = study->list();
  for (StudyArm& arm : list.arms) {
    if (arm.name.empty()) arm.name = arm.method;
  }
  return list;
}

Settings static_router(const std::string& expert) {
  return {{"router.kind", "static"}, {"router.expert", expert}};
}

Settings static_expert(const std::string& expert) {
  Settings set = static_router(expert);
  if (expert != "local") set.emplace_back("model.positions", expert == "full" ? "rotary" : "learned");
  return set;
}

StudyArm static_arm(const std::string& expert) {
  return {"static_" + expert, "static " + expert, "paper-prior-free", static_router(expert), {}};
}

std::vector<StudyArm> paper_arms() {
  const std::string base = "paper-prior-free";
  const Settings softmax{{"router.kind", "softmax"}};
  return {
      {"bayesian", "Bayesian (paper)", "paper", {}, {}},
      {"prior_free", "prior-free (paper)", base, {}, {}},
      {"softmax", "softmax router", base, softmax, {}},
      {"softmax_cost",
       "softmax router, cost penalty 0.1",
       base,
       join(softmax, {{"objective.cost_lambda", "0.1"}}),
       {}},
      {"load_balance",
       "softmax router, load balancing 0.01",
       base,
       join(softmax, {{"objective.load_balance", "0.01"}}),
       {}},
      {"gumbel_st",
       "Gumbel straight-through",
       base,
       {{"router.kind", "gumbel"}, {"train.straight_through", "1"}},
       {}},
      static_arm("full"),
      static_arm("linear"),
      static_arm("local"),
      {"prior_mixture", "static mixture at the prior mean", base, {{"router.kind", "prior_mixture"}}, {}}};
}

std::vector<StudyArm> tiny_arms(const Settings& budget) {
  const auto arm = [&](const char* method, const char* label, const Settings& set) {
    return StudyArm{method, label, "tiny", join(budget, set), {}};
  };
  return {arm("ours", "ours (tiny)", {}), arm("ours_static_full", "ours, static full", static_expert("full")),
          arm("ours_static_local", "ours, static local", static_expert("local")),
          arm("ours_static_linear", "ours, static linear", static_expert("linear")),
          arm("ours_softmax_cost", "ours, softmax router, cost penalty 0.01",
              {{"router.kind", "softmax"}, {"objective.w_kl", "0"}, {"objective.cost_lambda", "0.01"}})};
}

}  // namespace dirigo::tools
