// One block of a product: packs panels of B (and of A, when it is transposed) and runs the register tile.
//
// Packing only copies, so whether it happens is a matter of speed alone.
#pragma once

#include "dirigo/core/product.hpp"
#include "kernels/attention_layout.hpp"
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

// Value (i, l) of A goes to packed[tile][l][i % Tile::rows], tile = i / Tile::rows. A transposed A is read a
// few steps of k at a time, whose values stay in the first-level cache while the tiles take their parts of
// them.
template <class Arch, class T>
void pack_a(std::int64_t rows, std::int64_t depth, const T* a, std::int64_t a_row, std::int64_t a_col,
            T* packed) {
  constexpr int height = Tile<Arch, T>::rows;
  constexpr std::int64_t stretch = 16;
  const std::int64_t whole = a_row == 1 ? rows / height * height : 0;
  for (std::int64_t l0 = 0; l0 < depth; l0 += stretch) {
    const std::int64_t l1 = smaller(l0 + stretch, depth);
    for (std::int64_t i = 0; i < whole; i += height) {
      for (std::int64_t l = l0; l < l1; ++l) {
        __builtin_memcpy(packed + i * depth + l * height, a + l * a_col + i, height * sizeof(T));
      }
    }
    for (std::int64_t i = whole; i < rows; ++i) {
      for (std::int64_t l = l0; l < l1; ++l) {
        packed[(i / height * depth + l) * height + i % height] = a[l * a_col + i * a_row];
      }
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

// What is fetched while tiles compute, a cache line at a time: the part of C below the tile, so that storing
// to it does not wait for memory, and a stretch of an operand that will be read soon.
template <class T>
struct Fetch {
  static constexpr int line = 64 / sizeof(T);
  const T* soon = nullptr;
  const T* soon_end = nullptr;

  DIRIGO_INLINE void operator()(const T* c) {
    __builtin_prefetch(c, 1);
    if (soon < soon_end) {
      __builtin_prefetch(soon, 0, 2);
      soon += line;
    }
  }
};

// tile() of tile.inl.hpp, as many rows as it has, for a packed panel of B and rows of A that are packed or
// have unit column stride. Known strides spare address arithmetic, which would take slots from the
// multiply-adds.
template <class Arch, class T, Start start, bool packed_a>
DIRIGO_INLINE void full_tile(std::int64_t k, const T* a, std::int64_t a_row, const T* b, const T* bias, T* c,
                             std::int64_t c_row, Fetch<T>& fetch) {
  using Shape = Tile<Arch, T>;
  constexpr int width = lanes<Arch, T>, unroll = 8;
  constexpr int a_col = packed_a ? Shape::rows : 1;
  if (packed_a) a_row = 1;
  Batch<Arch, T> sum[Shape::rows][Shape::vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Shape::rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Shape::vectors; ++j) {
      if constexpr (start == Start::accumulate) {
        sum[i][j] = load<Arch, T>(c + i * c_row + j * width);
      } else if constexpr (start == Start::bias) {
        sum[i][j] = load<Arch, T>(bias + j * width);
      } else {
        sum[i][j] = Batch<Arch, T>(T(0));
      }
    }
  }
  // Rows in fours: two pointers and two strides address eight rows without further arithmetic.
  const T* a4 = a + 4 * a_row;
  std::int64_t a_row3 = 3 * a_row;
  if constexpr (!packed_a) __asm__("" : "+r"(a_row3));
  const auto step = [&](int l) __attribute__((always_inline)) {
    Batch<Arch, T> row[Shape::vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Shape::vectors; ++j) row[j] = load<Arch, T>(b + l * panel_columns + j * width);
#pragma GCC unroll 16
    for (int i = 0; i < Shape::rows; ++i) {
      const T* const four = (i < 4 ? a : a4) + l * a_col;
      const Batch<Arch, T> x(four[i % 4 == 3 ? a_row3 : i % 4 * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < Shape::vectors; ++j) sum[i][j] = multiply_add(x, row[j], sum[i][j]);
    }
  };
  const T* below = c + Shape::rows * c_row;
  int column = 0;
  for (; k >= unroll; k -= unroll) {
    fetch(below + column);
    column += Fetch<T>::line;
    if (column >= Shape::columns) {
      column = 0;
      below += c_row;
    }
#pragma GCC unroll 8
    for (int l = 0; l < unroll; ++l) step(l);
    a += unroll * a_col;
    a4 += unroll * a_col;
    b += unroll * panel_columns;
    __asm__("" : "+r"(a), "+r"(a4), "+r"(b));  // else GCC keeps a pointer for every step
  }
  for (; k > 0; --k) {
    step(0);
    a += a_col;
    a4 += a_col;
    b += panel_columns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < Shape::rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Shape::vectors; ++j) sum[i][j].store_unaligned(c + i * c_row + j * width);
  }
}

// C = start + A B for rows x columns values, columns <= Tile::columns. B has a full tile's columns.
template <class Arch, class T, Start start>
void tile_strip(std::int64_t rows, std::int64_t columns, std::int64_t depth, const Rows<T>& a, const T* b,
                std::int64_t b_row, const T* bias, T* c, std::int64_t c_row, Fetch<T>& fetch) {
  using Shape = Tile<Arch, T>;
  T edge[Shape::rows * Shape::columns], edge_bias[Shape::columns];  // a full tile of C for a narrow one
  const bool narrow = columns < Shape::columns;
  if (start == Start::bias && narrow) {
    for (int j = 0; j < Shape::columns; ++j) edge_bias[j] = j < columns ? bias[j] : T(0);
    bias = edge_bias;
  }
  for (std::int64_t i = 0; i < rows; i += Shape::rows) {
    const std::int64_t height = smaller(rows - i, Shape::rows);
    const T* const a_tile = a.data + i * a.tile_step;
    T* const out = c + i * c_row;
    if (height == Shape::rows && !narrow && b_row == panel_columns && (a.col == 1 || a.row == 1)) {
      if (a.col == 1) {
        full_tile<Arch, T, start, false>(depth, a_tile, a.row, b, bias, out, c_row, fetch);
      } else {
        full_tile<Arch, T, start, true>(depth, a_tile, 1, b, bias, out, c_row, fetch);
      }
      continue;
    }
    if (!narrow) {
      tile_column<Arch, T, start>(height, depth, a_tile, a.row, a.col, b, b_row, bias, out, c_row);
      continue;
    }
    if (start == Start::accumulate) {
      for (std::int64_t r = 0; r < height; ++r) {
        for (std::int64_t j = 0; j < Shape::columns; ++j) {
          edge[r * Shape::columns + j] = j < columns ? out[r * c_row + j] : T(0);
        }
      }
    }
    tile_column<Arch, T, start>(height, depth, a_tile, a.row, a.col, b, b_row, bias, edge, Shape::columns);
    for (std::int64_t r = 0; r < height; ++r) {
      for (std::int64_t j = 0; j < columns; ++j) out[r * c_row + j] = edge[r * Shape::columns + j];
    }
  }
}

// The same for a start that is known at run time only.
template <class Arch, class T>
DIRIGO_INLINE void tile_strip(Start start, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                              const Rows<T>& a, const T* b, std::int64_t b_row, const T* bias, T* c,
                              std::int64_t c_row, Fetch<T>& fetch) {
  if (start == Start::zero) {
    tile_strip<Arch, T, Start::zero>(rows, columns, depth, a, b, b_row, bias, c, c_row, fetch);
  } else if (start == Start::bias) {
    tile_strip<Arch, T, Start::bias>(rows, columns, depth, a, b, b_row, bias, c, c_row, fetch);
  } else {
    tile_strip<Arch, T, Start::accumulate>(rows, columns, depth, a, b, b_row, bias, c, c_row, fetch);
  }
}

// Rows that meet all columns and a whole span of k before the next rows do: their A and C stay in cache
// meanwhile. Whole tiles.
template <class Arch, class T>
inline constexpr std::int64_t row_group = 64 / Tile<Arch, T>::rows* Tile<Arch, T>::rows;

// One block of C and one span [begin, end) of k, whose part of B (and of A, where it is transposed) is
// packed.
template <class Arch, class T>
struct Span {
  const Product<T>& p;
  std::int64_t m0, rows, n0, columns, begin, end;
  bool packs_a, packs_b;
  T *panels, *packed_a;

  std::int64_t length() const { return end - begin; }
  bool packed_panel(std::int64_t j) const { return packs_b || columns - j < panel_columns; }

  void pack() const {
    if (packs_a) {
      pack_a<Arch>(rows, length(), p.a + m0 * p.a_row + begin * p.a_col, p.a_row, p.a_col, packed_a);
    }
    const T* const b = p.b + begin * p.b_row + n0 * p.b_col;
    for (std::int64_t j = 0; j < columns; j += panel_columns) {
      if (!packed_panel(j)) continue;
      pack_b<Arch>(length(), smaller(columns - j, panel_columns), b + j * p.b_col, p.b_row, p.b_col,
                   panels + j * length());
    }
  }

  // The rows of A from i on as the tiles read them.
  Rows<T> rows_of_a(std::int64_t i) const {
    if (packs_a) return {packed_a + i * length(), length(), 1, Tile<Arch, T>::rows};
    return {p.a + (m0 + i) * p.a_row + begin * p.a_col, p.a_row, p.a_row, p.a_col};
  }

  // What to fetch beside the tiles: the next rows of A, or else the larger of what the next span packs (if
  // most of those lines are wanted).
  Fetch<T> next_rows(std::int64_t i) const {
    if (packs_a || i >= rows) return {};
    const T* const from = p.a + (m0 + i) * p.a_row + begin;
    return {from, from + smaller(rows - i, row_group<Arch, T>) * p.a_row};
  }
  Fetch<T> next_span() const {
    if (!packs_a || end == p.k) return {};
    const std::int64_t steps = smaller(length(), p.k - end);
    if (rows > columns)
      return 2 * rows < p.a_col ? Fetch<T>{}
                                : Fetch<T>{p.a + end * p.a_col + m0, p.a + (end + steps) * p.a_col};
    if (p.b_col != 1 || 2 * columns < p.b_row) return {};
    return {p.b + end * p.b_row + n0, p.b + (end + steps) * p.b_row};
  }

  // One group of rows, in blocks of product_depth, so that a strip's panel of B stays in the first-level
  // cache.
  void run_group(std::int64_t i, std::int64_t group, Fetch<T>& fetch) const {
    std::int64_t k = 0;
    do {  // once even for k = 0, which writes the bias or zeros
      const std::int64_t depth = smaller(length() - k, product_depth);
      const bool first = begin + k == 0 && !p.accumulate;
      const Start start = !first ? Start::accumulate : p.bias != nullptr ? Start::bias : Start::zero;
      Rows<T> a = rows_of_a(i);
      a.data += k * a.col;
      for (std::int64_t j = 0; j < columns; j += Tile<Arch, T>::columns) {
        const std::int64_t in_panel = j % panel_columns;
        const bool packed = packed_panel(j - in_panel);
        const T* const b = packed ? panels + (j - in_panel) * length() + k * panel_columns + in_panel
                                  : p.b + (begin + k) * p.b_row + n0 + j;
        tile_strip<Arch, T>(start, group, smaller(columns - j, Tile<Arch, T>::columns), depth, a, b,
                            packed ? panel_columns : p.b_row, p.bias != nullptr ? p.bias + n0 + j : nullptr,
                            p.c + (m0 + i) * p.c_row + n0 + j, p.c_row, fetch);
      }
      k += depth;
    } while (k < length());
  }

  void run() const {
    Fetch<T> span = next_span();
    for (std::int64_t i = 0; i < rows; i += row_group<Arch, T>) {
      const std::int64_t group = smaller(rows - i, row_group<Arch, T>);
      Fetch<T> ahead = next_rows(i + group);
      run_group(i, group, packs_a ? span : ahead);
    }
  }
};

template <class Arch, class T>
void product_block(const Product<T>& p, std::int64_t m0, std::int64_t m1, std::int64_t n0, std::int64_t n1,
                   T* scratch) noexcept {
  const std::int64_t rows = m1 - m0, columns = n1 - n0;
  const bool packs_a = p.a_col != 1 && rows > 1;
  const bool packs_b = p.b_col != 1 || rows >= rows_worth_packing;
  // As many whole blocks of product_depth as the packed operands have room for.
  const std::int64_t widest = larger(columns, packs_a ? rows : 0) + panel_columns;
  const std::int64_t length = larger(1, product_panels / (widest * product_depth)) * product_depth;
  std::int64_t k = 0;
  do {
    const Span<Arch, T> span{p,
                             m0,
                             rows,
                             n0,
                             columns,
                             k,
                             smaller(k + length, p.k),
                             packs_a,
                             packs_b,
                             scratch,
                             scratch + product_panels};
    span.pack();
    span.run();
    k += length;
  } while (k < p.k);
}

}  // namespace dirigo::kernels
