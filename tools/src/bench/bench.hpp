// What `dirigo bench` times: the pieces of a training step, each against the FMA peak of the same run.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/timing.hpp"
#include "dirigo/core/context.hpp"
#include "dirigo/meta_attention/config.hpp"

namespace dirigo::tools {

struct BenchReport {
  nlohmann::ordered_json results = nlohmann::ordered_json::array();  // one object per row
  std::string text;                                                  // the same as tables for people
};

// Matrix products, as a linear layer runs them forward and backward, beside Eigen's.
BenchReport bench_gemm(const Context& context, const Sampling& sampling);
// Elementwise and row kernels, and the Dirichlet operations: one thread.
BenchReport bench_kernels(const Context& context, const Sampling& sampling);
// The experts' cores, forward and backward, for one sequence of each length.
BenchReport bench_attention(const Context& context, const std::vector<std::int64_t>& lengths,
                            const Sampling& sampling);

struct CostModelBench {
  std::string preset = "tiny";
  std::vector<std::string> settings;  // KEY=VALUE
  std::int64_t seq_len = 4096;
  std::string output;  // file of the cost model
};
// A layer's attention with each expert for every token, its projections included; writes the measured cost
// model.
BenchReport bench_cost_model(const Context& context, const CostModelBench& options, const Sampling& sampling);

struct StepBench {
  std::string preset = "tiny";
  std::vector<std::string> settings;  // KEY=VALUE
  std::int64_t vocabulary = 96;
  bool profile = false;
  std::string trace;  // file for the timed steps' events; empty: none
};
// Whole training steps on random tokens: forward, objective, backward, clipping, Adam.
BenchReport bench_step(const Context& context, const StepBench& options, const Sampling& sampling);

// A preset with settings KEY=VALUE, resolved. Throws ValueError.
meta::Config configuration_of(const std::string& preset, const std::vector<std::string>& settings);

}  // namespace dirigo::tools
