// The block sizes that product.cpp and the product kernels share. None of them affects a result's bits.
#pragma once

#include <cstdint>

namespace dirigo {

// An element's chain of multiply-adds visits memory after this many steps of k; a panel of B (depth x 32
// floats) fits the first-level cache.
inline constexpr std::int64_t product_depth = 256;
// The most rows that a call of product_block may ask for if it has to pack A, and the most columns.
inline constexpr std::int64_t product_rows = 512;
inline constexpr std::int64_t product_columns = 512;
// A panel of B is this wide for every instruction set (a multiple of every Tile::columns).
inline constexpr std::int64_t product_panel_columns = 32;
// Room for packed panels of B, and as much for packed rows of A, in values: both stay in the second-level
// cache. The last panel, or tile of rows, may be partial.
inline constexpr std::int64_t product_panels = product_depth * (product_columns + product_panel_columns);

}  // namespace dirigo
