// Scratch of the attention kernels: the sum of what they take, each piece rounded up to row_gap values, and
// room to align the first piece. The backward passes need the most.
#include "dirigo/core/kernels.hpp"
#include "kernels/attention_layout.hpp"

namespace dirigo {

using namespace kernels;

namespace {

constexpr std::int64_t alignment_slack(std::int64_t pieces) {
  return (pieces + 1) * row_gap;
}

}  // namespace

std::int64_t softmax_attention_scratch(std::int64_t length, std::int64_t head_dim) noexcept {
  const std::int64_t padded = round_up(head_dim, key_panel);
  const std::int64_t sequence = round_up(length, key_panel) * padded;
  const std::int64_t forward = 2 * sequence + 2 * query_group * padded +
                               max_tile_rows * (key_block + row_gap) + distance_row_size(length) +
                               alignment_slack(6);
  const std::int64_t backward = 6 * sequence + 2 * gradient_keys * padded + 6 * length +
                                2 * gradient_queries * (gradient_keys + row_gap) +
                                4 * distance_row_size(length) + alignment_slack(20);
  return larger(forward, backward);
}

std::int64_t linear_attention_scratch(std::int64_t length, std::int64_t head_dim,
                                      std::int64_t chunk) noexcept {
  const std::int64_t padded = round_up(head_dim, key_panel);
  const std::int64_t keys = round_up(smaller(chunk, length), key_panel);
  const std::int64_t forward = 3 * keys * padded + 2 * max_tile_rows * padded +
                               max_tile_rows * (keys + row_gap) + head_dim * padded + padded +
                               alignment_slack(8);
  const std::int64_t backward = 8 * keys * padded + 2 * gradient_queries * (keys + row_gap) +
                                2 * head_dim * padded + padded + length + length * padded +
                                alignment_slack(15);
  return larger(forward, backward);
}

std::int64_t mixed_attention_scratch(std::int64_t length, std::int64_t head_dim) noexcept {
  const std::int64_t padded = round_up(head_dim, key_panel), keys = round_up(length, key_panel);
  const std::int64_t stride = keys + row_gap, tile = max_tile_rows * padded;
  const std::int64_t both = 5 * keys * padded + alignment_slack(14);
  const std::int64_t forward = keys * padded + tile + (2 * max_tile_rows + 1) * stride + 2 * keys;
  const std::int64_t backward = 3 * keys * padded + 3 * length * stride + 2 * tile;
  return both + larger(forward, backward);
}

std::int64_t cached_attention_scratch(std::int64_t width, std::int64_t head_dim,
                                      std::int64_t chunk) noexcept {
  const std::int64_t padded = padded_head(head_dim), heads = width / head_dim;
  const std::int64_t columns = larger(key_block, round_up(chunk, key_panel) + 2 * key_panel) + row_gap;
  const std::int64_t query = heads * (2 * padded + columns) + alignment_slack(3);
  const std::int64_t keys = (head_dim + padded) * key_panel + alignment_slack(2);
  return larger(query, keys);
}

}  // namespace dirigo
