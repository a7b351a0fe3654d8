// The block sizes that product.cpp and the product kernels share. None of them affects a result's bits except
// product_depth, which is constant.
#pragma once

#include <cstdint>

namespace dirigo {

// An element's chain of multiply-adds visits memory after this many steps of k; a panel of B (depth x 32
// floats) fits the first-level cache.
inline constexpr std::int64_t product_depth = 256;
// The most rows a call of product_block may ask for: its packed rows of A stay in the second-level cache.
inline constexpr std::int64_t product_rows = 512;
// The most columns that product.cpp gives to one block.
inline constexpr std::int64_t product_columns = 512;

}  // namespace dirigo
