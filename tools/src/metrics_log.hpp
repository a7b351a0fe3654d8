// metrics.jsonl: one JSON object per logged step.
#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "dirigo/meta_attention/evaluation.hpp"
#include "training_step.hpp"

namespace dirigo::tools {

class MetricsLog {
 public:
  // Opens RUN/metrics.jsonl and keeps only the lines of steps <= `steps_done`: what a resumed run repeats
  // must not be there twice. Throws IoError.
  MetricsLog(const std::string& run, std::int64_t steps_done);

  // Appends a line and flushes it. tokens_per_s is the only value that differs between repetitions of a run.
  // `held_out` is the evaluation that the step ended with, null for none.
  void add(const StepReport& report, const meta::Evaluation* held_out, double tokens_per_s);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace dirigo::tools
