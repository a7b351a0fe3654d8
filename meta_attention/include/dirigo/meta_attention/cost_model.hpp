// The file of a measured cost model: what each expert's attention costs on some machine at some length
// (docs/file-formats.md). `dirigo bench cost-model` writes it, `router.cost_model = FILE` reads it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "dirigo/meta_attention/config.hpp"

namespace dirigo::meta {

struct MeasuredCosts {
  std::string isa;
  int threads = 1;
  std::int64_t seq_len = 0;
  // The attention that was timed, as in the configuration.
  std::int64_t d_model = 0, heads = 0, window = 0, chunk = 0;
  std::array<double, expert_count> microseconds_per_token{};  // median
  std::array<double, expert_count> spread{};                  // interquartile range over the median
};

// Indented JSON; its costs are those times over that of `full`.
std::string cost_model_json(const MeasuredCosts& measured);

// c_k of a file: its costs over the largest of them, so that they lie in (0, 1] whichever expert is the
// dearest. Throws IoError for a file that cannot be read; ValueError "[FILE] FIELD: expected ..., got ..."
// for one that is not a cost model.
std::vector<double> read_cost_model(const std::string& file);

}  // namespace dirigo::meta
