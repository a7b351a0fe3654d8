// The register tile: the one inner loop of every product, dense or inside attention.
//
// C (rows x columns) = [C or bias or 0] + A B, as one chain of fused multiply-adds per element over ascending
// k. The chain of an element does not depend on the tile's height, which is what makes the row rule hold.
#pragma once

#include "kernels/simd.hpp"

namespace dirigo::kernels {

// Tile height: as many accumulators as the register file holds beside two columns of B and one broadcast.
template <class Arch, class T>
struct Tile {
  static constexpr int vectors = 2;
  static constexpr int columns = vectors * lanes<Arch, T>;  // 32, 16, 8 floats
  static constexpr int rows = lanes<Arch, T> * int(sizeof(T)) == 64   ? 8
                              : lanes<Arch, T> * int(sizeof(T)) == 32 ? 6
                                                                      : 4;
};

// Memory panels are this wide for every instruction set (a multiple of every Tile::columns).
inline constexpr int panel_columns = 32;

enum class Start { zero, bias, accumulate };

// The sums of a tile of that many rows, which stay in registers.
template <class Arch, class T, int Rows>
struct Accumulators {
  static constexpr int width = lanes<Arch, T>, vectors = Tile<Arch, T>::vectors;
  Batch<Arch, T> sum[Rows][vectors];

  template <Start start>
  DIRIGO_INLINE void begin(const T* bias, const T* c, std::int64_t c_row) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) {
        if constexpr (start == Start::accumulate) {
          sum[i][j] = load<Arch, T>(c + i * c_row + j * width);
        } else if constexpr (start == Start::bias) {
          sum[i][j] = load<Arch, T>(bias + j * width);
        } else {
          sum[i][j] = Batch<Arch, T>(T(0));
        }
      }
    }
  }

  // One step of k: row i adds a(i) b.
  template <class F>
  DIRIGO_INLINE void step(const T* b, F a) {
    Batch<Arch, T> row[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) row[j] = load<Arch, T>(b + j * width);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Batch<Arch, T> x(a(i));
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = multiply_add(x, row[j], sum[i][j]);
    }
  }

  DIRIGO_INLINE void store(T* c, std::int64_t c_row) const {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j].store_unaligned(c + i * c_row + j * width);
    }
  }
};

template <class Arch, class T, int Rows, Start start>
DIRIGO_INLINE void tile(std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col, const T* b,
                        std::int64_t b_row, const T* bias, T* c, std::int64_t c_row) {
  Accumulators<Arch, T, Rows> sums;
  sums.template begin<start>(bias, c, c_row);
  for (std::int64_t l = 0; l < k; ++l) {
    sums.step(
        b + l * b_row, [&](int i) __attribute__((always_inline)) { return a[i * a_row + l * a_col]; });
  }
  sums.store(c, c_row);
}

// The last m < Rows rows.
template <class Arch, class T, int Rows, Start start>
void tile_remainder(std::int64_t m, std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col,
                    const T* b, std::int64_t b_row, const T* bias, T* c, std::int64_t c_row) {
  if constexpr (Rows > 0) {
    if (m == Rows) {
      tile<Arch, T, Rows, start>(k, a, a_row, a_col, b, b_row, bias, c, c_row);
    } else {
      tile_remainder<Arch, T, Rows - 1, start>(m, k, a, a_row, a_col, b, b_row, bias, c, c_row);
    }
  }
}

// Any m rows of Tile::columns columns.
template <class Arch, class T, Start start>
void tile_column(std::int64_t m, std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col,
                 const T* b, std::int64_t b_row, const T* bias, T* c, std::int64_t c_row) {
  constexpr int rows = Tile<Arch, T>::rows;
  std::int64_t i = 0;
  for (; i + rows <= m; i += rows) {
    tile<Arch, T, rows, start>(k, a + i * a_row, a_row, a_col, b, b_row, bias, c + i * c_row, c_row);
  }
  tile_remainder<Arch, T, rows - 1, start>(m - i, k, a + i * a_row, a_row, a_col, b, b_row, bias,
                                           c + i * c_row, c_row);
}

// Any m rows of n columns, n a multiple of Tile::columns: for small operands that stay in cache.
template <class Arch, class T, Start start>
void small_product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_row,
                   std::int64_t a_col, const T* b, std::int64_t b_row, T* c, std::int64_t c_row) {
  static_assert(start != Start::bias);
  for (std::int64_t j = 0; j < n; j += Tile<Arch, T>::columns) {
    tile_column<Arch, T, start>(m, k, a, a_row, a_col, b + j, b_row, nullptr, c + j, c_row);
  }
}

}  // namespace dirigo::kernels
