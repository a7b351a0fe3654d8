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
// Operands and results of at most this size in all are taken to be in the second-level cache already.
inline constexpr std::int64_t cached_bytes = 3 << 19;

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
// to it does not wait for memory, and stretches of the operands that will be read soon. Where all of it is in
// cache already, fetching would only take slots from the multiply-adds.
template <class T>
struct Fetch {
  static constexpr int line = 64 / sizeof(T);
  struct Stretch {
    const T* next = nullptr;
    const T* end = nullptr;
    DIRIGO_INLINE void fetch() {
      if (next >= end) return;
      __builtin_prefetch(next, 0, 2);
      next += line;
    }
  };
  Stretch a, b;
  bool wanted = false;

  DIRIGO_INLINE void operator()(const T* c) {
    __builtin_prefetch(c, 1);
    a.fetch();
    b.fetch();
  }
};

// step(l) for l = 0 .. 7 and next(8), as often as k holds; then step(0) and next(1) for what is left of it.
template <class Arch, class T, class Step, class Next>
DIRIGO_INLINE void for_each_step(std::int64_t k, const T* below, std::int64_t c_row, Fetch<T>& fetch,
                                 Step step, Next next) {
  constexpr int unroll = 8;
  int column = 0;
  for (; k >= unroll; k -= unroll) {
    if (fetch.wanted) {
      fetch(below + column);
      column += Fetch<T>::line;
      if (column >= Tile<Arch, T>::columns) {
        column = 0;
        below += c_row;
      }
    }
#pragma GCC unroll 8
    for (int l = 0; l < unroll; ++l) step(l);
    next(unroll);
  }
  for (; k > 0; --k) {
    step(0);
    next(1);
  }
}

// tile() of tile.inl.hpp, as many rows as it has, for a packed panel of B and rows of A with unit column
// stride. Every row has its pointer: with indexed addresses the loop runs at 5/6 of this speed.
template <class Arch, class T, Start start>
DIRIGO_INLINE void tile_of_rows(std::int64_t k, const T* a, std::int64_t a_row, const T* b, const T* bias,
                                T* c, std::int64_t c_row, Fetch<T>& fetch) {
  constexpr int rows = Tile<Arch, T>::rows;
  Accumulators<Arch, T, rows> sums;
  sums.template begin<start>(bias, c, c_row);
  const T* row[rows];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) row[i] = a + i * a_row;
  for_each_step<Arch>(
      k, c + rows * c_row, c_row, fetch,
      [&](int l) __attribute__((always_inline)) {
        sums.step(
            b + l * panel_columns, [&](int i) __attribute__((always_inline)) { return row[i][l]; });
      },
      [&](int steps) __attribute__((always_inline)) {
        b += steps * panel_columns;
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
          row[i] += steps;
          __asm__("" : "+r"(row[i]), "+r"(b));  // else GCC keeps a pointer for every step
        }
      });
  sums.store(c, c_row);
}

// The same for packed rows of A.
template <class Arch, class T, Start start>
DIRIGO_INLINE void tile_of_packed_rows(std::int64_t k, const T* a, const T* b, const T* bias, T* c,
                                       std::int64_t c_row, Fetch<T>& fetch) {
  constexpr int rows = Tile<Arch, T>::rows;
  Accumulators<Arch, T, rows> sums;
  sums.template begin<start>(bias, c, c_row);
  for_each_step<Arch>(
      k, c + rows * c_row, c_row, fetch,
      [&](int l) __attribute__((always_inline)) {
        sums.step(
            b + l * panel_columns, [&](int i) __attribute__((always_inline)) { return a[l * rows + i]; });
      },
      [&](int steps) __attribute__((always_inline)) {
        a += steps * rows;
        b += steps * panel_columns;
        __asm__("" : "+r"(a), "+r"(b));
      });
  sums.store(c, c_row);
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
        tile_of_rows<Arch, T, start>(depth, a_tile, a.row, b, bias, out, c_row, fetch);
      } else {
        tile_of_packed_rows<Arch, T, start>(depth, a_tile, b, bias, out, c_row, fetch);
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
// meanwhile, A in the first level beside a panel of B. Whole tiles.
template <class Arch, class T>
inline constexpr std::int64_t row_group = 32 / Tile<Arch, T>::rows* Tile<Arch, T>::rows;

// One block of C and one span [begin, end) of k, whose part of B is packed; the rows of a transposed A are
// packed a group at a time.
template <class Arch, class T>
struct Span {
  const Product<T>& p;
  std::int64_t m0, rows, n0, columns, begin, end;
  bool packs_a, packs_b, fetches;
  T *panels, *packed_a;

  std::int64_t length() const { return end - begin; }
  bool packed_panel(std::int64_t j) const {
    return p.b_panels != nullptr || packs_b || columns - j < panel_columns;
  }

  void pack_panels() const {
    if (p.b_panels != nullptr) return;
    const T* const b = p.b + begin * p.b_row + n0 * p.b_col;
    for (std::int64_t j = 0; j < columns; j += panel_columns) {
      if (!packed_panel(j)) continue;
      pack_b<Arch>(length(), smaller(columns - j, panel_columns), b + j * p.b_col, p.b_row, p.b_col,
                   panels + j * length());
    }
  }
  // B from step begin + k on in the panel that starts at column j.
  const T* panel(std::int64_t j, std::int64_t k) const {
    if (p.b_panels != nullptr) return p.b_panels + (n0 + j) * p.k + (begin + k) * panel_columns;
    return panels + j * length() + k * panel_columns;
  }

  // The rows of A from i on as the tiles read them.
  const T* a_at(std::int64_t i) const { return p.a + (m0 + i) * p.a_row + begin * p.a_col; }
  Rows<T> rows_of_a(std::int64_t i, std::int64_t group) const {
    if (!packs_a) return {a_at(i), p.a_row, p.a_row, p.a_col};
    pack_a<Arch>(group, length(), a_at(i), p.a_row, p.a_col, packed_a);
    return {packed_a, length(), 1, Tile<Arch, T>::rows};
  }

  // The next rows of A, to be fetched beside the tiles.
  Fetch<T> next_rows(std::int64_t i) const {
    if (i >= rows) return {{}, {}, fetches};
    return {{a_at(i), a_at(i) + smaller(rows - i, row_group<Arch, T>) * p.a_row}, {}, fetches};
  }
  // What the next span packs, if most of those lines are wanted.
  Fetch<T> next_span() const {
    const std::int64_t after = smaller(end + length(), p.k);
    Fetch<T> fetch{{}, {}, fetches};
    if (p.a_row == 1 && 2 * rows >= p.a_col) fetch.a = {p.a + end * p.a_col + m0, p.a + after * p.a_col};
    if (p.b_col == 1 && 2 * columns >= p.b_row) fetch.b = {p.b + end * p.b_row + n0, p.b + after * p.b_row};
    return fetch;
  }

  // One group of rows, in blocks of product_depth, so that a strip's panel of B stays in the first-level
  // cache.
  void run_group(std::int64_t i, std::int64_t group, Fetch<T>& fetch) const {
    const Rows<T> a = rows_of_a(i, group);
    std::int64_t k = 0;
    do {  // once even for k = 0, which writes the bias or zeros
      const std::int64_t depth = smaller(length() - k, product_depth);
      const bool first = begin + k == 0 && !p.accumulate;
      const Start start = !first ? Start::accumulate : p.bias != nullptr ? Start::bias : Start::zero;
      const Rows<T> a_k{a.data + k * a.col, a.tile_step, a.row, a.col};
      for (std::int64_t j = 0; j < columns; j += Tile<Arch, T>::columns) {
        const std::int64_t in_panel = j % panel_columns;
        const bool packed = packed_panel(j - in_panel);
        const T* const b = packed ? panel(j - in_panel, k) + in_panel : p.b + (begin + k) * p.b_row + n0 + j;
        tile_strip<Arch, T>(start, group, smaller(columns - j, Tile<Arch, T>::columns), depth, a_k, b,
                            packed ? panel_columns : p.b_row, p.bias != nullptr ? p.bias + n0 + j : nullptr,
                            p.c + (m0 + i) * p.c_row + n0 + j, p.c_row, fetch);
      }
      k += depth;
    } while (k < length());
  }

  void run() const {
    pack_panels();
    Fetch<T> fetch = next_span();
    for (std::int64_t i = 0; i < rows; i += row_group<Arch, T>) {
      const std::int64_t group = smaller(rows - i, row_group<Arch, T>);
      if (!packs_a) fetch = next_rows(i + group);
      run_group(i, group, fetch);
    }
  }
};

template <class Arch, class T>
void product_block(const Product<T>& p, std::int64_t m0, std::int64_t m1, std::int64_t n0, std::int64_t n1,
                   T* scratch) noexcept {
  const std::int64_t rows = m1 - m0, columns = n1 - n0;
  const bool packs_a = p.a_col != 1 && rows > 1;
  const bool packs_b = p.b_col != 1 || rows >= rows_worth_packing;
  const bool fetches = (p.m * p.k + p.k * p.n + p.m * p.n) * std::int64_t(sizeof(T)) > cached_bytes;
  // As many whole blocks of k as the packed B has room for; one if A is packed too, so that the next span's
  // operands are fetched meanwhile.
  const std::int64_t room = product_panels / ((columns + panel_columns) * product_depth);
  const std::int64_t length = packs_a                 ? product_depth
                              : p.b_panels == nullptr ? larger(1, room) * product_depth
                                                      : larger(1, p.k);
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
                             fetches,
                             scratch,
                             scratch + product_panels};
    span.run();
    k += length;
  } while (k < p.k);
}

// All of B (k x n) as Product::b_panels holds it.
template <class Arch, class T>
void pack_all_panels(std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row, std::int64_t b_col,
                     T* panels) noexcept {
  for (std::int64_t j = 0; j < n; j += panel_columns) {
    pack_b<Arch>(k, smaller(n - j, panel_columns), b + j * b_col, b_row, b_col, panels + j * k);
  }
}

}  // namespace dirigo::kernels
