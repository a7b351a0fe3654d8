// table3: the paper's ablation with honest baselines, every arm with the same grid of learning rates.
#include <algorithm>
#include <map>

#include "studies/studies.hpp"

namespace dirigo::tools {
namespace {

StudyList list() {
  // The budget of `paper`; the rest of the recipe is `tiny`.
  const Settings budget{{"train.seq_len", "64"}, {"train.steps", "2000"}, {"router.warmup", "400"}};
  StudyList list{"table3", 5, paper_arms()};
  const std::vector<StudyArm> ours = tiny_arms(budget);
  list.arms.insert(list.arms.end(), ours.begin(), ours.begin() + 3);
  for (StudyArm& arm : list.arms) arm.learning_rates = {0.0005, 0.001, 0.002};
  StudyArm published{"as_published", "as published (paper)", "paper", {{"attention.leaky", "true"}}, {}};
  published.exhibit = "reads the future";
  list.arms.push_back(published);
  return list;
}

// An arm's NLL on the test text by seed, hard routing.
struct Ranked {
  std::size_t arm = 0;
  std::map<std::int64_t, double> nll;
  double mean = 0;
};

std::vector<Ranked> ranked_arms(const Study& study, const std::string& bytes) {
  std::vector<Ranked> ranked;
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    if (tested_on(study, arm) != bytes || !study.list().arms[arm].exhibit.empty()) continue;
    Ranked entry{arm, {}, 0};
    for (const StudyRun& run : good_runs(study, arm)) {
      const double nll = study.result(run).hard->nll;
      entry.nll[run.config.train.seed] = nll;
      entry.mean += nll;
    }
    if (entry.nll.empty()) continue;
    entry.mean /= static_cast<double>(entry.nll.size());
    ranked.push_back(std::move(entry));
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.mean < b.mean; });
  return ranked;
}

// By seed, where both have a result.
std::vector<double> differences(const Ranked& arm, const Ranked& first) {
  std::vector<double> values;
  for (const auto& [seed, nll] : arm.nll) {
    const auto found = first.nll.find(seed);
    if (found != first.nll.end()) values.push_back(nll - found->second);
  }
  return values;
}

void add_ranking(const Study& study, const std::string& bytes, Json& table) {
  const std::vector<Ranked> ranked = ranked_arms(study, bytes);
  for (std::size_t i = 0; i < ranked.size(); ++i) {
    std::vector<double> nll;
    for (const auto& [seed, value] : ranked[i].nll) nll.push_back(value);
    Json record = record_of(study, ranked[i].arm);
    record["rank"] = i + 1;
    put_estimate(record, "nll", nll);
    put_estimate(record, "difference", differences(ranked[i], ranked.front()));
    table.push_back(std::move(record));
  }
}

StudySections sections(const Study& study, const SectionOptions&) {
  StudySections result;
  Json& table = result.tables["ranking"] = Json::array();
  std::vector<std::string> seen;
  for (std::size_t arm = 0; arm < study.list().arms.size(); ++arm) {
    const std::string bytes = tested_on(study, arm);
    if (std::find(seen.begin(), seen.end(), bytes) != seen.end()) continue;
    seen.push_back(bytes);
    add_ranking(study, bytes, table);
  }
  return result;
}

std::vector<ShownTable> shown() {
  return {{"ranking",
           {{"arm", "/arm"},
            {"on", "/corpus"},
            {"T", "/seq_len"},
            {"rank", "/rank"},
            {"NLL hard", "/nll", 4},
            {"behind the first", "/difference", 4}}}};
}

}  // namespace

const StudyKind table3_study{"table3", list, sections, shown};

}  // namespace dirigo::tools
