// Attention of one query over a paged cache, and the product of one row: what generating a token consists of.
// All of it reads each key, value or weight once, so that memory bounds it; several heads (or columns) are
// taken at a time, because one chain of multiply-adds would wait for its own latency.
//
// Every result is the same chain of operations as in softmax_attention.inl.hpp, linear_attention.inl.hpp and
// tile.inl.hpp, hence the same bits: decode equals prefill.
#pragma once

#include "dirigo/core/attention_cache.hpp"
#include "kernels/linear_attention.inl.hpp"
#include "kernels/math.inl.hpp"
#include "kernels/softmax_attention.inl.hpp"

namespace dirigo::kernels {

static_assert(cache_page == key_panel);

// scores[h * stride + j] = sum_c q[h * d + c] k[h * d + c][j] for Heads heads of one page of transposed keys;
// with `features`, phi of the keys.
template <class Arch, class T, int Heads, bool features>
DIRIGO_INLINE void page_scores(std::int64_t d, const T* q, std::int64_t q_stride, const T* keys, T* scores,
                               std::int64_t stride) {
  constexpr int width = lanes<Arch, T>, vectors = key_panel / width;
  Batch<Arch, T> sum[Heads][vectors];
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 16
    for (int i = 0; i < vectors; ++i) sum[h][i] = Batch<Arch, T>(T(0));
  }
  for (std::int64_t c = 0; c < d; ++c) {
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
      const Batch<Arch, T> x(q[h * q_stride + c]);
      const T* const row = keys + (h * d + c) * key_panel;
#pragma GCC unroll 16
      for (int i = 0; i < vectors; ++i) {
        const Batch<Arch, T> key = load<Arch, T>(row + i * width);
        sum[h][i] = multiply_add(x, features ? feature<Arch, T>(key) : key, sum[h][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 16
    for (int i = 0; i < vectors; ++i) sum[h][i].store_unaligned(scores + h * stride + i * width);
  }
}

// out[h] += sum_j weights[h][j] v_j over n rows of values, for Heads heads and Vectors vectors of their
// columns.
template <class Arch, class T, int Heads, int Vectors>
DIRIGO_INLINE void add_values(std::int64_t n, std::int64_t row, std::int64_t d, const T* weights,
                              std::int64_t weight_stride, const T* values, T* out, std::int64_t out_stride) {
  constexpr int width = lanes<Arch, T>;
  Batch<Arch, T> sum[Heads][Vectors];
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) sum[h][i] = load<Arch, T>(out + h * out_stride + i * width);
  }
  for (std::int64_t j = 0; j < n; ++j, values += row) {
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) {
      const Batch<Arch, T> weight(weights[h * weight_stride + j]);
#pragma GCC unroll 2
      for (int i = 0; i < Vectors; ++i) {
        sum[h][i] = multiply_add(weight, load<Arch, T>(values + h * d + i * width), sum[h][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 2
    for (int i = 0; i < Vectors; ++i) sum[h][i].store_unaligned(out + h * out_stride + i * width);
  }
}

// What softmax and linear attention over pages share.
template <class Arch, class T>
class CachedHeads {
 public:
  CachedHeads(const CachedQuery<T>& query, std::int64_t score_stride)
      : query_(query), d_(query.head_dim), padded_(padded_head(d_)), score_stride_(score_stride) {
    Scratch<Arch, T> scratch(query.scratch);
    q_rows_ = scratch.take(query.heads * padded_);
    output_ = scratch.take(query.heads * padded_);
    scores_ = scratch.take(query.heads * score_stride_);
  }

 protected:
  static constexpr int score_heads = lanes<Arch, T> >= 16 ? 4 : lanes<Arch, T> >= 8 ? 2 : 1;
  static constexpr int value_heads = 4;

  const T* page(std::int64_t position) const { return query_.pages[position / key_panel]; }

  // Of all heads against the page that starts at `position`, to columns from `column` on.
  template <bool features>
  void score(std::int64_t position, std::int64_t column) {
    const T* const keys = page(position) + key_panel * query_.width + query_.first_head * d_ * key_panel;
    std::int64_t h = 0;
    for (; h + score_heads <= query_.heads; h += score_heads) {
      page_scores<Arch, T, score_heads, features>(d_, q_rows_ + h * padded_, padded_,
                                                  keys + h * d_ * key_panel,
                                                  scores_ + h * score_stride_ + column, score_stride_);
    }
    for (; h < query_.heads; ++h) {
      page_scores<Arch, T, 1, features>(d_, q_rows_ + h * padded_, padded_, keys + h * d_ * key_panel,
                                        scores_ + h * score_stride_ + column, score_stride_);
    }
  }

  // output += weights of keys [lo, hi) times their values; the score of key j stands in column j - origin.
  // What it reads beyond a head's last column belongs to the page too, and ends beyond column d of output.
  void add_weighted_values(std::int64_t lo, std::int64_t hi, std::int64_t origin) {
    constexpr int width = lanes<Arch, T>;
    for (std::int64_t j = lo; j < hi;) {
      const std::int64_t end = smaller(hi, round_down(j, key_panel) + key_panel);
      const T* const values =
          page(j) + (j - round_down(j, key_panel)) * query_.width + query_.first_head * d_;
      std::int64_t h = 0;
      for (; h < query_.heads; h += h + value_heads <= query_.heads ? value_heads : 1) {
        const T* const weights = scores_ + h * score_stride_ + j - origin;
        const T* const from = values + h * d_;
        T* const to = output_ + h * padded_;
        std::int64_t c = 0;
        for (; c + width < d_; c += 2 * width) add_columns<2>(h, end - j, weights, from + c, to + c);
        if (c < d_) add_columns<1>(h, end - j, weights, from + c, to + c);
      }
      j = end;
    }
  }

  void write(std::int64_t head, T factor) {
    write_row<Arch>(d_, factor, output_ + head * padded_, query_.out + (query_.first_head + head) * d_);
  }

  const T* query_row(std::int64_t head) const { return query_.q + (query_.first_head + head) * d_; }

  const CachedQuery<T>& query_;
  std::int64_t d_, padded_, score_stride_;
  T *q_rows_, *output_, *scores_;

 private:
  template <int Vectors>
  DIRIGO_INLINE void add_columns(std::int64_t head, std::int64_t n, const T* weights, const T* values,
                                 T* out) {
    if (head + value_heads <= query_.heads) {
      add_values<Arch, T, value_heads, Vectors>(n, query_.width, d_, weights, score_stride_, values, out,
                                                padded_);
    } else {
      add_values<Arch, T, 1, Vectors>(n, query_.width, d_, weights, score_stride_, values, out, padded_);
    }
  }
};

inline constexpr int cached_heads = 16;  // of one pass; more are taken in turns

// The keys in blocks at absolute multiples, each block for all heads before the next one.
template <class Arch, class T>
class CachedSoftmax : CachedHeads<Arch, T> {
  using Base = CachedHeads<Arch, T>;
  using Base::d_, Base::padded_, Base::query_, Base::output_, Base::q_rows_, Base::scores_,
      Base::score_stride_;

 public:
  explicit CachedSoftmax(const CachedQuery<T>& query) : Base(query, key_block + row_gap) {}

  AttentionWork run() {
    for (std::int64_t h = 0; h < query_.heads; ++h) {
      pack_row<Arch>(d_, padded_, T(query_.scale * T(log2_e)), this->query_row(h), q_rows_ + h * padded_);
    }
    fill<Arch>(0, query_.heads * padded_, T(0), output_);
    const std::int64_t first = larger(0, query_.position - query_.window + 1), last = query_.position + 1;
    for (std::int64_t block = round_down(first, key_block); block < last; block += key_block) {
      run_block(larger(block, first), smaller(block + key_block, last));
    }
    for (std::int64_t h = 0; h < query_.heads; ++h) this->write(h, T(1) / state_[h].sum);
    const std::int64_t useful = 4 * d_ * query_.heads * (last - first);
    return {useful, 2 * d_ * query_.heads * computed_ - useful};
  }

 private:
  void run_block(std::int64_t lo, std::int64_t hi) {
    const std::int64_t begin = round_down(lo, key_panel), columns = round_up(hi, key_panel) - begin;
    for (std::int64_t j = 0; j < columns; j += key_panel) this->template score<false>(begin + j, j);
    for (std::int64_t h = 0; h < query_.heads; ++h) {
      T* const scores = scores_ + h * score_stride_;
      if (query_.bias) add_bias(h, lo, hi, begin, scores);
      state_[h].find_largest(limits_, lo - begin, hi - begin, columns, scores);
      state_[h].weigh(lo - begin, hi - begin, columns, scores, padded_, output_ + h * padded_);
    }
    this->add_weighted_values(lo, hi, begin);
    computed_ += columns + hi - lo;
  }

  // Adds the bias of keys [lo, hi) of a block to their scores, of which the first belongs to key `begin`.
  void add_bias(std::int64_t head, std::int64_t lo, std::int64_t hi, std::int64_t begin, T* scores) {
    DistanceRow<Arch, T> row(hi - lo, bias_);
    row.read(T(log2_e), query_.bias + (query_.first_head + head) * query_.window + query_.position - hi + 1);
    row.add_to(lo - begin, lo - begin, hi - begin, scores);
  }

  const EdgeLimits<Arch, T> limits_;
  T bias_[distance_row_size(key_block)];
  OnlineSoftmax<Arch, T> state_[cached_heads];
  std::int64_t computed_ = 0;
};

template <class Arch, class T>
class CachedLinear : CachedHeads<Arch, T> {
  using Base = CachedHeads<Arch, T>;
  using Base::d_, Base::padded_, Base::query_, Base::output_, Base::q_rows_, Base::scores_,
      Base::score_stride_;

 public:
  explicit CachedLinear(const CachedQuery<T>& query)
      : Base(query, round_up(smaller(query.chunk, query.position + 1), key_panel) + 2 * key_panel + row_gap) {
  }

  AttentionWork run() {
    const std::int64_t chunk = round_down(query_.position, query_.chunk), last = query_.position + 1;
    const std::int64_t begin = round_down(chunk, key_panel), columns = round_up(last, key_panel) - begin;
    for (std::int64_t h = 0; h < query_.heads; ++h) {
      pack_features<Arch>(1, d_, padded_, this->query_row(h), d_, q_rows_ + h * padded_);
    }
    for (std::int64_t j = 0; j < columns; j += key_panel) this->template score<true>(begin + j, j);
    T denominators[cached_heads];
    for (std::int64_t h = 0; h < query_.heads; ++h) {
      T* const scores = scores_ + h * score_stride_ + chunk - begin;  // of the chunk's first key
      fill<Arch>(last - chunk, round_up(last - chunk, key_panel), T(0), scores);
      denominators[h] = read_state(h, chunk, last - chunk, scores);
    }
    this->add_weighted_values(chunk, last, begin);
    for (std::int64_t h = 0; h < query_.heads; ++h) {
      const T z = denominators[h];
      this->write(h, T(1) / (z < T(smallest_denominator) ? T(smallest_denominator) : z));
    }
    const std::int64_t pairs = last - chunk, state = chunk == 0 ? 0 : 2 * d_ * (d_ + 1);
    return {query_.heads * (state + 4 * d_ * pairs), query_.heads * 2 * d_ * (columns - pairs)};
  }

 private:
  // output = S^T phi(q); returns z . phi(q) with the chunk's scores.
  T read_state(std::int64_t head, std::int64_t chunk, std::int64_t seen, const T* scores) {
    constexpr int width = lanes<Arch, T>;
    const T* const q = q_rows_ + head * padded_;
    T* const output = output_ + head * padded_;
    Batch<Arch, T> sum0(T(0)), sum1(T(0));
    if (chunk == 0) {
      fill<Arch>(0, padded_, T(0), output);
    } else {
      const std::int64_t at = query_.first_head + head;
      small_product<Arch, T, Start::zero>(1, padded_, d_, q, padded_, 1, query_.sums + at * d_ * padded_,
                                          padded_, output, padded_);
      const T* const total = query_.totals + at * padded_;
      for (std::int64_t c = 0; c < padded_; c += width) {
        sum0 = multiply_add(load<Arch, T>(q + c), load<Arch, T>(total + c), sum0);
      }
    }
    for (std::int64_t j = 0; j < round_up(seen, key_panel); j += 2 * width) {
      sum0 = sum0 + load<Arch, T>(scores + j);
      sum1 = sum1 + load<Arch, T>(scores + j + width);
    }
    return horizontal_sum<Arch, T>(sum0 + sum1);
  }
};

template <class Arch, class T, template <class, class> class Attention>
DIRIGO_INLINE AttentionWork in_passes(const CachedQuery<T>& query) {
  AttentionWork work;
  CachedQuery<T> part = query;
  for (std::int64_t h = 0; h < query.heads; h += cached_heads) {
    part.first_head = query.first_head + h;
    part.heads = smaller(cached_heads, query.heads - h);
    const AttentionWork done = Attention<Arch, T>(part).run();
    work.useful += done.useful;
    work.padding += done.padding;
  }
  return work;
}

template <class Arch, class T>
AttentionWork cached_softmax_attention(const CachedQuery<T>& query) noexcept {
  return in_passes<Arch, T, CachedSoftmax>(query);
}

template <class Arch, class T>
AttentionWork cached_linear_attention(const CachedQuery<T>& query) noexcept {
  return in_passes<Arch, T, CachedLinear>(query);
}

// S += phi(K)^T V and z += sum phi(k), key by key in order.
template <class Arch, class T>
AttentionWork absorb_keys(const AbsorbedKeys<T>& keys) noexcept {
  constexpr int width = lanes<Arch, T>;
  const std::int64_t d = keys.head_dim, padded = padded_head(d), heads = keys.width / d;
  Scratch<Arch, T> scratch(keys.scratch);
  T* const features = scratch.take(d * key_panel);
  T* const values = scratch.take(key_panel * padded);
  for (std::int64_t j = keys.begin; j < keys.end;) {
    const std::int64_t start = round_down(j, key_panel), end = smaller(keys.end, start + key_panel);
    const T* const page = keys.pages[start / key_panel];
    for (std::int64_t h = 0; h < heads; ++h) {
      const T* const panel = page + key_panel * keys.width + h * d * key_panel;
      for (std::int64_t i = 0; i < d * key_panel; i += width) {
        feature<Arch, T>(load<Arch, T>(panel + i)).store_unaligned(features + i);
      }
      pack_rows<Arch>(end - j, d, padded, T(1), page + (j - start) * keys.width + h * d, keys.width, values);
      add_product<Arch>(d, padded, end - j, features + j - start, std::int64_t(key_panel), std::int64_t(1),
                        values, keys.sums + h * d * padded);
      T* const total = keys.totals + h * padded;
      for (std::int64_t i = j - start; i < end - start; ++i) {
        for (std::int64_t c = 0; c < d; ++c) total[c] += features[c * key_panel + i];
      }
    }
    j = end;
  }
  return {2 * d * (d + 1) * heads * (keys.end - keys.begin), 0};
}

// Vectors vectors of one row's product.
template <class Arch, class T, int Vectors>
DIRIGO_INLINE void row_columns(std::int64_t columns, std::int64_t k, const T* x, const T* b,
                               std::int64_t b_row, const T* bias, T* y) {
  constexpr int width = lanes<Arch, T>;
  Batch<Arch, T> sum[Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) {
    sum[i] = bias ? load<Arch, T>(bias + i * width) : Batch<Arch, T>(T(0));
  }
  for (std::int64_t l = 0; l < k; ++l) {
    const Batch<Arch, T> factor(x[l]);
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) {
      sum[i] = multiply_add(factor, load<Arch, T>(b + l * b_row + i * width), sum[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Vectors; ++i) {
    const std::int64_t rest = columns - i * width;
    if (rest >= width) {
      sum[i].store_unaligned(y + i * width);
    } else if (rest > 0) {
      Part<Arch, T>{int(rest)}.store(y + i * width, sum[i]);
    }
  }
}

template <class Arch, class T>
void row_product(std::int64_t n, std::int64_t k, const T* x, const T* b, std::int64_t b_row, const T* bias,
                 T* y) noexcept {
  constexpr int width = lanes<Arch, T>, vectors = 8;
  for (std::int64_t j = 0; j < n;) {
    const T* const start = bias ? bias + j : nullptr;
    if (round_up(n - j, width) >= vectors * width) {
      row_columns<Arch, T, vectors>(n - j, k, x, b + j, b_row, start, y + j);
      j += vectors * width;
    } else if (n - j > width) {
      row_columns<Arch, T, 2>(n - j, k, x, b + j, b_row, start, y + j);
      j += 2 * width;
    } else {
      row_columns<Arch, T, 1>(n - j, k, x, b + j, b_row, start, y + j);
      j += width;
    }
  }
}

}  // namespace dirigo::kernels
