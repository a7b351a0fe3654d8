// One block of a product: packs panels of B (and of A, when it is transposed) and runs the register tile.
//
// Packing only copies, so whether it happens is a matter of speed alone.
#pragma once

#include "dirigo/core/product.hpp"
#include "kernels/tile.inl.hpp"
#include "product_blocking.hpp"

namespace dirigo::kernels {

// Below this many rows a contiguous B is read in place: packing would cost more than it saves.
inline constexpr std::int64_t rows_worth_packing = 16;

// target[c * target_row + r] = source[r * source_row + c] for a 4 x 4 block, by shuffles.
template <class Arch, class T>
DIRIGO_INLINE void transpose4(const T* source, std::int64_t source_row, T* target, std::int64_t target_row) {
  using Quad [[gnu::vector_size(4 * sizeof(T))]] = T;
  Quad row[4];
  for (int r = 0; r < 4; ++r) __builtin_memcpy(&row[r], source + r * source_row, sizeof(Quad));
  const Quad low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Quad low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Quad high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Quad high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Quad column[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                          __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                          __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                          __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int c = 0; c < 4; ++c) __builtin_memcpy(target + c * target_row, &column[c], sizeof(Quad));
}

// panel[l * panel_columns + j] = B(l, j) for depth x columns values at b; columns up to panel_columns are 0.
template <class Arch, class T>
void pack_b(std::int64_t depth, std::int64_t columns, const T* b, std::int64_t b_row, std::int64_t b_col,
            T* panel) {
  if (b_col == 1 && columns == panel_columns) {
    for (std::int64_t l = 0; l < depth; ++l) {
      __builtin_memcpy(panel + l * panel_columns, b + l * b_row, panel_columns * sizeof(T));
    }
    return;
  }
  std::int64_t j = 0;
  if (b_row == 1) {
    for (; j + 4 <= columns; j += 4) {
      std::int64_t l = 0;
      for (; l + 4 <= depth; l += 4) {
        transpose4<Arch>(b + j * b_col + l, b_col, panel + l * panel_columns + j, panel_columns);
      }
      for (; l < depth; ++l) {
        for (int c = 0; c < 4; ++c) panel[l * panel_columns + j + c] = b[l + (j + c) * b_col];
      }
    }
  }
  for (std::int64_t l = 0; l < depth; ++l) {
    for (std::int64_t c = j; c < panel_columns; ++c) {
      panel[l * panel_columns + c] = c < columns ? b[l * b_row + c * b_col] : T(0);
    }
  }
}

// Value (i, l) of A goes to packed[tile][l][i % Tile::rows], tile = i / Tile::rows.
template <class Arch, class T>
void pack_a(std::int64_t rows, std::int64_t depth, const T* a, std::int64_t a_row, std::int64_t a_col,
            T* packed) {
  constexpr int height = Tile<Arch, T>::rows;
  const std::int64_t whole = a_row == 1 ? rows / height * height : 0;
  for (std::int64_t l = 0; l < depth; ++l) {  // the outer loop, to read a transposed A in memory order
    const T* const source = a + l * a_col;
    for (std::int64_t i = 0; i < whole; i += height) {
      __builtin_memcpy(packed + i * depth + l * height, source + i, height * sizeof(T));
    }
    for (std::int64_t i = whole; i < rows; ++i) {
      packed[(i / height * depth + l) * height + i % height] = source[i * a_row];
    }
  }
}

// A's rows as the tiles read them: value (i, l) of the tile that starts at row i0 is
// data[i0 * tile_step + (i - i0) * row + l * col].
template <class T>
struct Rows {
  const T* data;
  std::int64_t tile_step, row, col;
};

// C = start + A B for rows x columns values, columns <= Tile::columns. B has a full tile's columns.
template <class Arch, class T, Start start>
DIRIGO_INLINE void tile_strip(std::int64_t rows, std::int64_t columns, std::int64_t depth, const Rows<T>& a,
                              const T* b, std::int64_t b_row, const T* bias, T* c, std::int64_t c_row) {
  using Shape = Tile<Arch, T>;
  const bool narrow = columns < Shape::columns;
  T edge[Shape::rows * Shape::columns], edge_bias[Shape::columns];  // a full tile of C for a narrow one
  if (start == Start::bias && narrow) {
    for (int j = 0; j < Shape::columns; ++j) edge_bias[j] = j < columns ? bias[j] : T(0);
    bias = edge_bias;
  }
  for (std::int64_t i = 0; i < rows; i += Shape::rows) {
    const std::int64_t height = rows - i < Shape::rows ? rows - i : Shape::rows;
    T* const out = narrow ? edge : c + i * c_row;
    const std::int64_t out_row = narrow ? Shape::columns : c_row;
    if (start == Start::accumulate && narrow) {
      for (std::int64_t r = 0; r < height; ++r) {
        for (std::int64_t j = 0; j < Shape::columns; ++j) {
          edge[r * Shape::columns + j] = j < columns ? c[(i + r) * c_row + j] : T(0);
        }
      }
    }
    tile_column<Arch, T, start>(height, depth, a.data + i * a.tile_step, a.row, a.col, b, b_row, bias, out,
                                out_row);
    if (narrow) {
      for (std::int64_t r = 0; r < height; ++r) {
        for (std::int64_t j = 0; j < columns; ++j) c[(i + r) * c_row + j] = edge[r * Shape::columns + j];
      }
    }
  }
}

template <class Arch, class T>
void product_block(const Product<T>& p, std::int64_t m0, std::int64_t m1, std::int64_t n0, std::int64_t n1,
                   T* panel) noexcept {
  using Shape = Tile<Arch, T>;
  const std::int64_t rows = m1 - m0;
  T* const packed_a = panel + product_depth * panel_columns;
  std::int64_t k0 = 0;
  do {  // once even for k = 0, which writes the bias or zeros
    const std::int64_t depth = p.k - k0 < product_depth ? p.k - k0 : product_depth;
    Rows<T> a{p.a + m0 * p.a_row + k0 * p.a_col, p.a_row, p.a_row, p.a_col};
    if (p.a_col != 1 && rows > 1) {
      pack_a<Arch>(rows, depth, a.data, p.a_row, p.a_col, packed_a);
      a = {packed_a, depth, 1, Shape::rows};
    }
    const Start start = k0 > 0 || p.accumulate ? Start::accumulate : p.bias ? Start::bias : Start::zero;
    for (std::int64_t j0 = n0; j0 < n1; j0 += panel_columns) {
      const std::int64_t columns = n1 - j0 < panel_columns ? n1 - j0 : panel_columns;
      const T* b = p.b + k0 * p.b_row + j0 * p.b_col;
      std::int64_t b_row = p.b_row;
      if (p.b_col != 1 || columns < panel_columns || rows >= rows_worth_packing) {
        pack_b<Arch>(depth, columns, b, p.b_row, p.b_col, panel);
        b = panel;
        b_row = panel_columns;
      }
      for (std::int64_t j = 0; j < columns; j += Shape::columns) {
        const std::int64_t strip = columns - j < Shape::columns ? columns - j : Shape::columns;
        T* const c = p.c + m0 * p.c_row + j0 + j;
        if (start == Start::zero) {
          tile_strip<Arch, T, Start::zero>(rows, strip, depth, a, b + j, b_row, nullptr, c, p.c_row);
        } else if (start == Start::bias) {
          tile_strip<Arch, T, Start::bias>(rows, strip, depth, a, b + j, b_row, p.bias + j0 + j, c, p.c_row);
        } else {
          tile_strip<Arch, T, Start::accumulate>(rows, strip, depth, a, b + j, b_row, nullptr, c, p.c_row);
        }
      }
    }
    k0 += product_depth;
  } while (k0 < p.k);
}

}  // namespace dirigo::kernels
