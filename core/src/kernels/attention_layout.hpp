// The block sizes of the attention kernels, from which both the kernels and their scratch sizes follow.
// No xsimd here: attention_scratch.cpp is compiled without instruction-set flags.
#pragma once

#include <cstdint>

namespace dirigo::kernels {

inline constexpr int key_panel = 32;   // keys per transposed panel; rows are padded to a multiple of this too
inline constexpr int key_block = 512;  // keys per step of the online softmax, at absolute multiples
inline constexpr int query_group = 64;  // queries that pass a block of keys together
inline constexpr int tall_tile_window = 512;
inline constexpr int max_tile_rows = 14;   // of any instruction set
inline constexpr int gradient_keys = 128;  // keys and queries per score block of the backward passes
inline constexpr int gradient_queries = 64;
inline constexpr int row_gap = 16;  // score rows are this much apart, so that columns do not share cache sets
inline constexpr int scratch_alignment = 64;

static inline constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
static inline constexpr std::int64_t round_down(std::int64_t n, std::int64_t multiple) {
  return n / multiple * multiple;
}
static inline constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
static inline constexpr std::int64_t larger(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}

// A row of values by distance, with room before and behind it (softmax_attention.inl.hpp): whole vectors
// reach less than key_panel before the window, and less than a tile's rows twice and a panel behind it.
static inline constexpr std::int64_t distance_row_size(std::int64_t window) {
  return window + 3 * key_panel;
}
static_assert(2 * (max_tile_rows - 1) + key_panel <= 2 * key_panel);

}  // namespace dirigo::kernels
