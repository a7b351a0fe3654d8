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
// The experts' cores, forward and (unless forward_only) backward, for one sequence of each length.
BenchReport bench_attention(const Context& context, const std::vector<std::int64_t>& lengths,
                            bool forward_only, const Sampling& sampling);

struct RouteBench {
  std::vector<std::int64_t> lengths{1024, 4096, 16384, 65536};
  std::int64_t width = 128, heads = 4, window = 64;
  bool core = false;  // the experts alone, without controller and projections
  std::string run;    // a run directory: also its model, on its held-out text; empty: none
};
// Routed attention for one sequence, by length and by how the tokens are routed.
BenchReport bench_route(const Context& context, const RouteBench& options, const Sampling& sampling);

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

struct DecodeBench {
  std::string preset = "tiny";
  std::vector<std::string> settings;  // KEY=VALUE
  std::string run;                    // a run directory instead; empty: the preset with random weights
  std::int64_t vocabulary = 96;       // of the preset
  std::vector<std::int64_t> lengths{1024, 4096, 16384};
  std::int64_t tokens = 32;     // steps of a sample
  std::int64_t sessions = 0;    // > 0: so many sessions in batches instead
  std::int64_t context = 1024;  // of each of them
};
// Steps of a session at each length, by routing; or steps of many sessions together.
BenchReport bench_decode(const Context& context, const DecodeBench& options, const Sampling& sampling);

}  // namespace dirigo::tools
