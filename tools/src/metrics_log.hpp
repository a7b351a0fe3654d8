// metrics.jsonl: one JSON object per logged step.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "dirigo/meta_attention/evaluation.hpp"
#include "training_step.hpp"

namespace dirigo::tools {

// What an evaluation while training measured: soft routing, some windows of the held-out text.
struct PeriodicEvaluation {
  double nll = 0;
  std::vector<meta::RoutingStatistics> layers;
  std::optional<meta::Deltas> deltas;  // with train.log_deltas
  std::map<std::string, meta::NeedStatistics> by_need;
};

class MetricsLog {
 public:
  // Opens RUN/metrics.jsonl and keeps only the lines of steps <= `steps_done`: what a resumed run repeats
  // must not be there twice. Throws IoError.
  MetricsLog(const std::string& run, std::int64_t steps_done);

  // Appends a line and flushes it; `event` is for people, empty if nothing happened. tokens_per_s is the only
  // value that differs between repetitions of a run.
  void add(const StepReport& report, const std::optional<PeriodicEvaluation>& evaluation,
           const std::string& event, double tokens_per_s);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace dirigo::tools
