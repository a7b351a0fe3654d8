// What softmax and linear attention share: carving scratch, packing rows and panels, writing rows.
#pragma once

#include "kernels/attention_layout.hpp"
#include "kernels/simd.hpp"
#include "kernels/tile.inl.hpp"

namespace dirigo::kernels {

// Hands out 64-byte-aligned pieces of the caller's scratch.
template <class Arch, class T>
class Scratch {
 public:
  explicit Scratch(T* begin) : next_(begin) {
    while (reinterpret_cast<std::uintptr_t>(next_) % scratch_alignment != 0) ++next_;
  }
  T* take(std::int64_t count) {
    T* const piece = next_;
    next_ += round_up(count, row_gap);
    return piece;
  }

 private:
  T* next_;
};

template <class Arch, class T>
DIRIGO_INLINE void fill(std::int64_t begin, std::int64_t end, T value, T* x) {
  for (std::int64_t i = begin; i < end; ++i) x[i] = value;
}

// Asks for rows that will be packed soon. A head's consecutive rows lie a model's width apart, which hardware
// does not foresee. Rows behind the last are harmless: a prefetch does not fault.
template <class Arch, class T>
DIRIGO_INLINE void prefetch_rows(std::int64_t n, std::int64_t d, const T* src, std::int64_t stride) {
  constexpr std::int64_t line = scratch_alignment / sizeof(T);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t c = 0; c < d; c += line) __builtin_prefetch(src + i * stride + c);
  }
}

// dst[0, d) = factor * src, dst[d, padded) = 0.
template <class Arch, class T>
DIRIGO_INLINE void pack_row(std::int64_t d, std::int64_t padded, T factor, const T* src, T* dst) {
  constexpr int width = lanes<Arch, T>;
  std::int64_t c = 0;
  for (; c + width <= d; c += width) {
    (load<Arch, T>(src + c) * Batch<Arch, T>(factor)).store_unaligned(dst + c);
  }
  for (; c < d; ++c) dst[c] = src[c] * factor;
  fill<Arch>(c, padded, T(0), dst);
}

template <class Arch, class T>
void pack_rows(std::int64_t n, std::int64_t d, std::int64_t padded, T factor, const T* src,
               std::int64_t stride, T* dst) {
  for (std::int64_t i = 0; i < n; ++i) {
    prefetch_rows<Arch>(1, d, src + (i + 2 * key_panel) * stride, stride);
    pack_row<Arch>(d, padded, factor, src + i * stride, dst + i * padded);
  }
}

// Four rows of four values.
template <class Arch, class T>
DIRIGO_INLINE void transpose_4x4(const T* src, std::int64_t stride, T* dst, std::int64_t dst_stride) {
  using Quad [[gnu::vector_size(4 * sizeof(T))]] = T;
  Quad row[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], src + i * stride, sizeof(Quad));
  const Quad low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Quad low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Quad high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Quad high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Quad column[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                          __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                          __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                          __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) __builtin_memcpy(dst + i * dst_stride, &column[i], sizeof(Quad));
}

// One panel: dst[c * key_panel + j] = src[j * stride + c], c < d, for n <= key_panel rows; the missing ones
// are 0.
template <class Arch, class T>
void pack_panel(std::int64_t n, std::int64_t d, const T* src, std::int64_t stride, T* dst) {
  const std::int64_t whole_rows = round_down(n, 4), whole_columns = round_down(d, 4);
  for (std::int64_t c = 0; c < whole_columns; c += 4) {
    for (std::int64_t j = 0; j < whole_rows; j += 4) {
      transpose_4x4<Arch>(src + j * stride + c, stride, dst + c * key_panel + j, key_panel);
    }
  }
  for (std::int64_t c = 0; c < d; ++c) {
    T* const out = dst + c * key_panel;
    for (std::int64_t j = c < whole_columns ? whole_rows : 0; j < n; ++j) out[j] = src[j * stride + c];
    fill<Arch>(n, key_panel, T(0), out);
  }
}

// Rows [begin, end), begin a multiple of key_panel, into the panels of a whole sequence.
template <class Arch, class T>
void pack_panels(std::int64_t begin, std::int64_t end, std::int64_t d, const T* src, std::int64_t stride,
                 T* panels) {
  for (std::int64_t j = begin; j < end; j += key_panel) {
    prefetch_rows<Arch>(key_panel, d, src + (j + 2 * key_panel) * stride, stride);
    pack_panel<Arch>(smaller(key_panel, end - j), d, src + j * stride, stride, panels + j * d);
  }
}

// dst[0, d) = factor * src + 0: the sum turns -0 into +0, whose sign would otherwise tell of masked terms.
template <class Arch, class T>
DIRIGO_INLINE void write_row(std::int64_t d, T factor, const T* src, T* dst) {
  constexpr int width = lanes<Arch, T>;
  std::int64_t c = 0;
  for (; c + width <= d; c += width) {
    multiply_add(load<Arch, T>(src + c), Batch<Arch, T>(factor), Batch<Arch, T>(T(0)))
        .store_unaligned(dst + c);
  }
  for (; c < d; ++c) dst[c] = src[c] * factor + T(0);
}

template <class Arch, class T>
DIRIGO_INLINE T dot_row(std::int64_t d, const T* a, const T* b) {
  constexpr int width = lanes<Arch, T>;
  Batch<Arch, T> sum(T(0));
  std::int64_t c = 0;
  for (; c + width <= d; c += width) sum = multiply_add(load<Arch, T>(a + c), load<Arch, T>(b + c), sum);
  T total = horizontal_sum<Arch, T>(sum);
  for (; c < d; ++c) total += a[c] * b[c];
  return total;
}

// With AVX-512 a taller tile than that of dense products: attention's operands stream past from the
// second-level cache, and it uses what it loads more often.
template <class Arch, class T>
inline constexpr int tall_tile_rows = lanes<Arch, T>* int(sizeof(T)) == 64 ? max_tile_rows
                                                                           : Tile<Arch, T>::rows;

// Rows of scores to compute together for queries that see up to `window` keys. What a tall tile computes
// beyond the diagonal must be little beside what its queries see.
template <class Arch, class T>
std::int64_t query_rows(std::int64_t window) {
  return window < tall_tile_window ? Tile<Arch, T>::rows : tall_tile_rows<Arch, T>;
}

// Of the queries of a head: the position of one, and the first whose position is at least `position`.
template <class Arch, class Head>
DIRIGO_INLINE std::int64_t query_position(const Head& head, std::int64_t query) {
  return head.positions ? head.positions[query] : query;
}
template <class Arch, class Head>
std::int64_t query_at(const Head& head, std::int64_t position) {
  if (!head.positions) return smaller(position, head.queries);
  std::int64_t before = 0, after = head.queries;
  while (before < after) {
    const std::int64_t middle = (before + after) / 2;
    if (head.positions[middle] < position) {
      before = middle + 1;
    } else {
      after = middle;
    }
  }
  return before;
}

// How many queries from `first` on, at most `most`, have positions less than `spread` apart.
template <class Arch, class Head>
std::int64_t neighbours(const Head& head, std::int64_t first, std::int64_t most, std::int64_t spread) {
  const std::int64_t available = smaller(most, head.queries - first);
  if (!head.positions) return smaller(available, spread);
  std::int64_t rows = 1;
  while (rows < available && head.positions[first + rows] - head.positions[first] < spread) ++rows;
  return rows;
}
// How far apart the queries of a tile may be that see up to `window` keys.
static inline std::int64_t tile_spread(std::int64_t window) {
  return larger(key_panel, window / 2);
}

// c (m x n) = [c +] a b, n a multiple of Tile::columns.
template <class Arch, class T, Start start>
DIRIGO_INLINE void query_product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
                                 std::int64_t a_row, std::int64_t a_col, const T* b, std::int64_t b_row, T* c,
                                 std::int64_t c_row) {
  constexpr int rows = tall_tile_rows<Arch, T>, columns = Tile<Arch, T>::columns;
  if (m != rows) return small_product<Arch, T, start>(m, n, k, a, a_row, a_col, b, b_row, c, c_row);
  for (std::int64_t j = 0; j < n; j += columns) {
    tile<Arch, T, rows, start>(k, a, a_row, a_col, b + j, b_row, nullptr, c + j, c_row);
  }
}

// Scores of m rows a (m x d, `padded` apart) against the panels of columns [begin, end), both
// multiples of key_panel relative to `panels`: scores[i * stride + j - begin]. Inlined so that constant
// strides stay constant.
template <class Arch, class T>
DIRIGO_INLINE void panel_scores(std::int64_t m, std::int64_t d, std::int64_t padded, const T* a,
                                const T* panels, std::int64_t begin, std::int64_t end, T* scores,
                                std::int64_t stride) {
  for (std::int64_t j = begin; j < end; j += key_panel) {
    query_product<Arch, T, Start::zero>(m, key_panel, d, a, padded, 1, panels + j * d, key_panel,
                                        scores + j - begin, stride);
  }
}

// c (m rows) += a b over k terms, both rows of b and c `padded` apart.
template <class Arch, class T>
DIRIGO_INLINE void add_product(std::int64_t m, std::int64_t padded, std::int64_t k, const T* a,
                               std::int64_t a_row, std::int64_t a_col, const T* b, T* c) {
  query_product<Arch, T, Start::accumulate>(m, padded, k, a, a_row, a_col, b, padded, c, padded);
}

}  // namespace dirigo::kernels
