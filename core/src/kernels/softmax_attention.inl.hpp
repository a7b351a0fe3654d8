// Causal softmax attention of one head, full or windowed, forward and backward, in O(length d) memory.
//
// Forward: the online softmax of Milakov and Gimelshein (arXiv:1805.02867) over blocks of keys, as in
// FlashAttention (Dao et al., arXiv:2205.14135). Scores are kept in base 2: s_ij = (scale log2 e q_i) . k_j,
// so that every exponential is an exp2.
//
// Row rule: a query's bits depend only on itself, its position and the keys and values it may see. Key blocks
// and panels start at absolute multiples, every score is one chain of multiply-adds over d, sums over keys
// run lane by lane at absolute positions, and masked keys add p = 0 exactly (values are assumed finite).
// Derivation: docs/mathematics/sliding-window.md
// Derivation: docs/mathematics/softmax-attention.md
#pragma once

#include "dirigo/core/kernels.hpp"
#include "kernels/attention_pack.inl.hpp"
#include "kernels/exp2.inl.hpp"

namespace dirigo::kernels {

inline constexpr double log2_e = 1.4426950408889634;
inline constexpr double ln_2 = 0.6931471805599453;

// -inf, +inf, -inf, key_panel times each: min(score, limits.from(j - lo)) masks j < lo, likewise until(j -
// hi) masks j >= hi.
template <class Arch, class T>
struct EdgeLimits {
  alignas(scratch_alignment) T values[3 * key_panel];

  EdgeLimits() {
    for (int i = 0; i < 3 * key_panel; ++i) {
      values[i] = T(i / key_panel == 1 ? __builtin_inf() : -__builtin_inf());
    }
  }
  const T* from(std::int64_t j) const { return values + key_panel + larger(j, -key_panel); }
  const T* until(std::int64_t j) const { return values + 2 * key_panel + smaller(j, 0); }
};

// scores[j] = -inf for the j of [0, columns) that are outside [lo, hi).
template <class Arch, class T>
DIRIGO_INLINE void mask_edges(const EdgeLimits<Arch, T>& limits, std::int64_t lo, std::int64_t hi,
                              std::int64_t columns, T* scores) {
  constexpr int width = lanes<Arch, T>;
  for (std::int64_t j = 0; j < lo; j += width) {
    limited(load<Arch, T>(scores + j), load<Arch, T>(limits.from(j - lo))).store_unaligned(scores + j);
  }
  for (std::int64_t j = round_down(hi, width); j < columns; j += width) {
    limited(load<Arch, T>(scores + j), load<Arch, T>(limits.until(j - hi))).store_unaligned(scores + j);
  }
}

// Values by distance from the query, turned round so that they lie along its scores: value(x) belongs to the
// x-th key of its window, the one at distance window - 1 - x. Zero before the window and behind it.
template <class Arch, class T>
class DistanceRow {
 public:
  DistanceRow() = default;  // absent
  DistanceRow(std::int64_t window, T* values) : window_(window), values_(values + key_panel) {
    fill<Arch>(-std::int64_t(key_panel), window + 2 * key_panel, T(0), values_);
  }

  explicit operator bool() const { return values_ != nullptr; }
  const T* at(std::int64_t x) const { return values_ + x; }
  void read(T factor, const T* by_distance) {
    for (std::int64_t x = 0; x < window_; ++x) values_[x] = by_distance[window_ - 1 - x] * factor;
  }
  void write(T* by_distance) const {
    for (std::int64_t x = 0; x < window_; ++x) by_distance[window_ - 1 - x] = values_[x];
  }

  // row[j] += value(j - first) for the keys j of [lo, hi), and then the transpose.
  DIRIGO_INLINE void add_to(std::int64_t first, std::int64_t lo, std::int64_t hi, T* row) const {
    constexpr int width = lanes<Arch, T>;
    for (std::int64_t j = round_down(lo, width); j < hi; j += width) {
      (load<Arch, T>(row + j) + load<Arch, T>(values_ + (j - first))).store_unaligned(row + j);
    }
  }
  DIRIGO_INLINE void take_in(std::int64_t first, std::int64_t lo, std::int64_t hi, const T* row) {
    constexpr int width = lanes<Arch, T>;
    for (std::int64_t j = round_down(lo, width); j < hi; j += width) {
      add_at(j - first, load<Arch, T>(row + j));
    }
  }
  DIRIGO_INLINE void add_at(std::int64_t x, const Batch<Arch, T>& values) {
    (load<Arch, T>(values_ + x) + values).store_unaligned(values_ + x);
  }

 private:
  std::int64_t window_ = 0;
  T* values_ = nullptr;
};

template <class Arch, class T>
DIRIGO_INLINE T horizontal_max(const Batch<Arch, T>& x) {
  constexpr int width = lanes<Arch, T>;
  alignas(scratch_alignment) T values[width];
  x.store_aligned(values);
  constexpr int group = width < 4 ? width : 4;
  using Group [[gnu::vector_size(group * sizeof(T))]] = T;
  Group best, next;
  __builtin_memcpy(&best, values, sizeof(Group));
  for (int i = group; i < width; i += group) {
    __builtin_memcpy(&next, values + i, sizeof(Group));
    best = best > next ? best : next;
  }
  T result = best[0];
  for (int i = 1; i < group; ++i) result = best[i] > result ? best[i] : result;
  return result;
}

// One row of the online softmax: the largest score so far (base 2) and the sum of exp2(score - largest).
// A row that sees no key of a block, lo >= hi, stays as it is.
template <class Arch, class T>
struct OnlineSoftmax {
  T largest = T(-__builtin_inf());
  T sum = 0;
  T previous = largest;  // `largest` before this block

  // Masks the scores outside keys [lo, hi) of the block and takes in their maximum.
  DIRIGO_INLINE void find_largest(const EdgeLimits<Arch, T>& limits, std::int64_t lo, std::int64_t hi,
                                  std::int64_t columns, T* scores) {
    if (lo >= hi) return;
    constexpr int width = lanes<Arch, T>, half = key_panel / 2;
    using B = Batch<Arch, T>;
    mask_edges<Arch>(limits, lo, hi, columns, scores);
    B max0(largest), max1(largest);
    for (std::int64_t j = 0; j < columns; j += key_panel) {
      for (int i = 0; i < half; i += width) {
        max0 = xsimd::max(max0, load<Arch, T>(scores + j + i));
        max1 = xsimd::max(max1, load<Arch, T>(scores + j + half + i));
      }
    }
    previous = largest;
    largest = horizontal_max<Arch, T>(xsimd::max(max0, max1));
  }

  // Turns the scores into weights, zero outside [lo, hi), and brings the sum and the output to the new scale.
  DIRIGO_INLINE void weigh(std::int64_t lo, std::int64_t hi, std::int64_t columns, T* scores,
                           std::int64_t padded, T* output) {
    if (lo >= hi) {
      fill<Arch>(0, columns, T(0), scores);
      return;
    }
    constexpr int width = lanes<Arch, T>, half = key_panel / 2;
    using B = Batch<Arch, T>;
    const B shift(largest);
    B sum0(T(0)), sum1(T(0));
    for (std::int64_t j = 0; j < columns; j += key_panel) {
      for (int i = 0; i < half; i += width) {
        const B p0 = Exponential<Arch, T>::exp2(load<Arch, T>(scores + j + i) - shift);
        const B p1 = Exponential<Arch, T>::exp2(load<Arch, T>(scores + j + half + i) - shift);
        sum0 = sum0 + p0;
        sum1 = sum1 + p1;
        p0.store_unaligned(scores + j + i);
        p1.store_unaligned(scores + j + half + i);
      }
    }
    if (sum != T(0) && previous != largest) rescale(padded, output);
    sum += horizontal_sum<Arch, T>(sum0 + sum1);
  }

 private:
  DIRIGO_INLINE void rescale(std::int64_t padded, T* output) {
    constexpr int width = lanes<Arch, T>;
    using B = Batch<Arch, T>;
    const B factor = Exponential<Arch, T>::exp2(B(previous) - B(largest));
    alignas(scratch_alignment) T lane[width];
    factor.store_aligned(lane);
    sum *= lane[0];
    for (std::int64_t c = 0; c < padded; c += width) {
      (load<Arch, T>(output + c) * factor).store_unaligned(output + c);
    }
  }
};

// Queries are taken in groups, a group's tiles one after the other past each block of keys: so the keys come
// from far away once per group, and packed ones are dropped behind a window.
template <class Arch, class T>
class SoftmaxForward {
 public:
  explicit SoftmaxForward(const AttentionHead<T>& head)
      : head_(head),
        d_(head.head_dim),
        padded_(round_up(head.head_dim, key_panel)),
        window_(smaller(head.window, head.length)),
        tile_rows_(query_rows<Arch, T>(window_)),
        spread_(tile_spread(window_)) {
    Scratch<Arch, T> scratch(head.scratch);
    k_panels_ = scratch.take(round_up(head.length, key_panel) * d_);
    v_rows_ = scratch.take(round_up(head.length, key_panel) * padded_);
    q_rows_ = scratch.take(query_group * padded_);
    output_ = scratch.take(query_group * padded_);
    scores_ = scratch.take(max_tile_rows * score_stride);
    if (head.bias) {
      bias_ = {window_, scratch.take(distance_row_size(window_))};
      bias_.read(T(log2_e), head.bias);
    }
  }

  AttentionWork run() {
    for (std::int64_t first = 0; first < head_.queries; first += rows_) {
      first_ = first;
      rows_ = neighbours<Arch>(head_, first, query_group, larger(spread_, query_group));
      run_group();
    }
    // QK and PV: 2 d each per pair.
    const std::int64_t useful = 4 * d_ * unmasked_;
    return {useful, 2 * d_ * computed_ - useful};
  }

 private:
  static constexpr std::int64_t score_stride = key_block + row_gap;

  std::int64_t position(std::int64_t query) const { return query_position<Arch>(head_, query); }
  // The query's row in q and out.
  std::int64_t row_of(std::int64_t query) const { return head_.in_place ? position(query) : query; }
  // exercise sliding_window: auto first_key(std::int64_t) const { return std::int64_t(0); }
  std::int64_t first_key(std::int64_t query) const { return larger(0, position(query) - head_.window + 1); }
  // end of exercise

  void run_group() {
    const std::int64_t lo = first_key(first_), hi = position(first_ + rows_ - 1) + 1;
    for (std::int64_t r = 0; r < rows_; ++r) {
      pack_row<Arch>(d_, padded_, T(head_.scale * T(log2_e)), head_.q + row_of(first_ + r) * head_.q_stride,
                     q_rows_ + r * padded_);
      const std::int64_t later = smaller(first_ + r + query_group, head_.queries - 1);
      prefetch_rows<Arch>(1, d_, head_.q + row_of(later) * head_.q_stride, head_.q_stride);
      prefetch_rows<Arch>(1, d_, head_.out + row_of(first_ + r) * head_.out_stride, head_.out_stride);
      state_[r] = {};
    }
    fill<Arch>(0, rows_ * padded_, T(0), output_);
    if (round_up(hi, key_panel) - kept_ > capacity()) kept_ = packed_ = round_down(lo, key_panel);
    for (std::int64_t block = round_down(lo, key_block); block < hi; block += key_block) {
      const std::int64_t end = smaller(block + key_block, hi);
      pack_keys(larger(block, round_down(lo, key_panel)), end);
      // Consecutive queries form a tile while they are so close that it hardly computes more than they see.
      for (std::int64_t row = 0; row < rows_;) {
        const std::int64_t rows =
            smaller(rows_ - row, neighbours<Arch>(head_, first_ + row, tile_rows_, spread_));
        run_tile(row, rows, block, end);
        row += rows;
      }
    }
    write_group();
  }

  // Packs what is missing of the panels in [begin, end): positions ascend, so that packing does too.
  void pack_keys(std::int64_t begin, std::int64_t end) {
    begin = larger(begin, packed_);
    end = smaller(round_up(end, key_panel), head_.length);
    if (begin >= end) return;
    pack_panels<Arch>(begin - kept_, end - kept_, d_, head_.k + kept_ * head_.k_stride, head_.k_stride,
                      k_panels_);
    pack_rows<Arch>(end - begin, d_, padded_, T(1), head_.v + begin * head_.v_stride, head_.v_stride,
                    v_rows_ + (begin - kept_) * padded_);
    packed_ = round_up(end, key_panel);
  }

  // Queries [row, row + rows) of the group against keys [block, block_end).
  void run_tile(std::int64_t row, std::int64_t rows, std::int64_t block, std::int64_t block_end) {
    const std::int64_t query = first_ + row;
    const std::int64_t lo = larger(block, first_key(query));
    const std::int64_t hi = smaller(block_end, position(query + rows - 1) + 1);
    if (lo >= hi) return;
    const std::int64_t begin = round_down(lo, key_panel), columns = round_up(hi, key_panel) - begin;
    panel_scores<Arch>(rows, d_, padded_, q_rows_ + row * padded_, k_panels_, begin - kept_,
                       begin + columns - kept_, scores_, score_stride);
    std::int64_t row_lo[max_tile_rows], row_hi[max_tile_rows];  // keys that a row sees, from `begin`
    for (std::int64_t r = 0; r < rows; ++r) {
      row_lo[r] = larger(first_key(query + r), begin) - begin;
      row_hi[r] = smaller(position(query + r) + 1, hi) - begin;
      if (bias_) {
        bias_.add_to(position(query + r) - window_ + 1 - begin, row_lo[r], row_hi[r],
                     scores_ + r * score_stride);
      }
      state_[row + r].find_largest(limits_, row_lo[r], row_hi[r], columns, scores_ + r * score_stride);
      unmasked_ += larger(0, row_hi[r] - row_lo[r]);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      state_[row + r].weigh(row_lo[r], row_hi[r], columns, scores_ + r * score_stride, padded_,
                            output_ + (row + r) * padded_);
    }
    add_product<Arch>(rows, padded_, hi - lo, scores_ + lo - begin, score_stride, std::int64_t(1),
                      v_rows_ + (lo - kept_) * padded_, output_ + row * padded_);
    computed_ += rows * (columns + hi - lo);
  }

  void write_group() {
    constexpr int width = lanes<Arch, T>;
    for (std::int64_t r = 0; r < rows_; ++r) {
      write_row<Arch>(d_, T(1) / state_[r].sum, output_ + r * padded_,
                      head_.out + row_of(first_ + r) * head_.out_stride);
    }
    if (!head_.log_sum_exp) return;
    T sum[query_group], logarithm[query_group];
    for (std::int64_t r = 0; r < query_group; ++r) sum[r] = r < rows_ ? state_[r].sum : T(1);
    for (std::int64_t r = 0; r < rows_; r += width) {
      xsimd::log(load<Arch, T>(sum + r)).store_unaligned(logarithm + r);
    }
    for (std::int64_t r = 0; r < rows_; ++r) {
      head_.log_sum_exp[first_ + r] = state_[r].largest * T(ln_2) + logarithm[r];
    }
  }

  // Keys of a group, and some more, so that those still needed are seldom packed again.
  std::int64_t capacity() const {
    return smaller(round_up(head_.length, key_panel),
                   round_up(window_ + larger(spread_, query_group), key_panel) + 2 * key_block);
  }

  const AttentionHead<T>& head_;
  const EdgeLimits<Arch, T> limits_;
  std::int64_t d_, padded_, window_, tile_rows_;
  std::int64_t spread_;                       // of the positions in one tile
  std::int64_t first_ = 0, rows_ = 0;         // the group's queries
  std::int64_t kept_ = 0, packed_ = 0;        // panels of keys [kept, packed) are in scratch
  std::int64_t unmasked_ = 0, computed_ = 0;  // pairs: unmasked; in QK plus in PV
  OnlineSoftmax<Arch, T> state_[query_group];
  DistanceRow<Arch, T> bias_;
  T *k_panels_, *v_rows_, *q_rows_, *output_, *scores_;
};

template <class Arch, class T>
AttentionWork softmax_attention(const AttentionHead<T>& head) noexcept {
  return SoftmaxForward<Arch, T>(head).run();
}

// With P = softmax(S), dP = dO V^T and D_i = dout_i . out_i = sum_j P_ij dP_ij:
//   dV = P^T dO, dS = P (dP - D), dQ = scale dS K, dK = scale dS^T Q.
// Blocks of keys x queries recompute P = exp2(s - log2 sum exp2 s); each key block finishes its dK and dV,
// and dQ accumulates over key blocks in order.
//
// Mixed with a narrower attention the five products stay the same for P = sum_b w_b P_b and
// dS = sum_b w_b P_b (dP - D_b), b over the two: the narrower one costs its exponentials only.
template <class Arch, class T>
class SoftmaxBackward {
 public:
  explicit SoftmaxBackward(const AttentionHeadGradient<T>& gradient)
      : gradient_(gradient),
        head_(gradient.forward),
        length_(head_.length),
        d_(head_.head_dim),
        padded_(round_up(d_, key_panel)),
        window_(smaller(head_.window, length_)),
        queries_(head_.queries),
        tile_rows_(query_rows<Arch, T>(window_)) {
    Scratch<Arch, T> scratch(head_.scratch);
    k_panels_ = scratch.take(round_up(length_, key_panel) * d_);
    v_panels_ = scratch.take(round_up(length_, key_panel) * d_);
    k_rows_ = scratch.take(length_ * padded_);
    q_rows_ = scratch.take(length_ * padded_);
    dout_rows_ = scratch.take(length_ * padded_);
    dq_ = scratch.take(length_ * padded_);
    dk_ = scratch.take(gradient_keys * padded_);
    dv_ = scratch.take(gradient_keys * padded_);
    outer_ = take_band(scratch);
    narrow_ = take_band(scratch);
    p_ = scratch.take(gradient_queries * score_stride);
    ds_ = scratch.take(gradient_queries * score_stride);
    take_bias(scratch, outer_, head_.window, head_.bias);
    take_bias(scratch, narrow_, gradient.narrow.window, gradient.narrow.bias);
  }

  AttentionWork run() {
    pack();
    for (std::int64_t block = 0; block < length_; block += gradient_keys) run_key_block(block);
    for (std::int64_t i = 0; i < queries_; ++i) {
      write_row<Arch>(d_, head_.scale, dq_ + i * padded_, gradient_.dq + i * gradient_.dq_stride);
    }
    if (outer_.bias) outer_.dbias.write(gradient_.dbias);
    if (narrow_.bias) narrow_.dbias.write(gradient_.narrow_dbias);
    // Five products: S, dP, dQ, dK, dV.
    const std::int64_t useful = 10 * d_ * unmasked_;
    return {useful, 2 * d_ * computed_ - useful};
  }

 private:
  static constexpr std::int64_t score_stride = gradient_keys + row_gap;

  std::int64_t position(std::int64_t query) const { return query_position<Arch>(head_, query); }

  void pack() {
    pack_panels<Arch>(0, length_, d_, head_.k, head_.k_stride, k_panels_);
    pack_panels<Arch>(0, length_, d_, head_.v, head_.v_stride, v_panels_);
    pack_rows<Arch>(length_, d_, padded_, T(1), head_.k, head_.k_stride, k_rows_);
    pack_rows<Arch>(queries_, d_, padded_, T(head_.scale * T(log2_e)), head_.q, head_.q_stride, q_rows_);
    pack_rows<Arch>(queries_, d_, padded_, T(1), gradient_.dout, gradient_.dout_stride, dout_rows_);
    fill<Arch>(0, queries_ * padded_, T(0), dq_);
    const NarrowAttention<T>& narrow = gradient_.narrow;
    const bool mixed = narrow.window > 0;
    pack_band(outer_, head_.out, head_.log_sum_exp, mixed ? narrow.outer_weight : nullptr);
    if (mixed) pack_band(narrow_, narrow.out, narrow.log_sum_exp, narrow.weight);
  }

  // What a query's row of P and dS needs, of one of the two attentions.
  struct Band {
    T *delta, *log_sum, *weight;
    DistanceRow<Arch, T> bias = {}, dbias = {};
  };

  Band take_band(Scratch<Arch, T>& scratch) const {
    return {scratch.take(length_), scratch.take(length_), scratch.take(length_)};
  }

  void take_bias(Scratch<Arch, T>& scratch, Band& band, std::int64_t window, const T* bias) const {
    if (!bias) return;
    window = smaller(window, length_);
    band.bias = {window, scratch.take(distance_row_size(window))};
    band.bias.read(T(log2_e), bias);
    band.dbias = {window, scratch.take(distance_row_size(window))};
  }

  void pack_band(const Band& band, const T* out, const T* log_sum_exp, const T* weight) const {
    for (std::int64_t i = 0; i < queries_; ++i) {
      band.delta[i] = dot_row<Arch>(d_, dout_rows_ + i * padded_, out + i * head_.out_stride);
      band.log_sum[i] = log_sum_exp[i] * T(log2_e);
      band.weight[i] = weight ? weight[i * gradient_.narrow.weight_stride] : T(1);
    }
  }

  void run_key_block(std::int64_t block) {
    const std::int64_t block_end = smaller(block + gradient_keys, length_);
    const std::int64_t last_query = query_at<Arch>(head_, block_end - 1 + window_);
    fill<Arch>(0, (block_end - block) * padded_, T(0), dk_);
    fill<Arch>(0, (block_end - block) * padded_, T(0), dv_);
    for (std::int64_t q = query_at<Arch>(head_, block); q < last_query; q += gradient_queries) {
      const std::int64_t q_end = smaller(q + gradient_queries, last_query);
      score_gradients(block, block_end, q, q_end);
      add_to_keys(block, block_end, q, q_end);
    }
    for (std::int64_t j = block; j < block_end; ++j) {
      // q_rows carry scale log2(e), dK wants scale alone.
      write_row<Arch>(d_, T(ln_2), dk_ + (j - block) * padded_, gradient_.dk + j * gradient_.dk_stride);
      write_row<Arch>(d_, T(1), dv_ + (j - block) * padded_, gradient_.dv + j * gradient_.dv_stride);
    }
  }

  // P and dS of queries [q, q_end) against the block, and their share of dQ. Both are also set, to 0, on the
  // masked keys that add_to_keys reads: less than tile_rows_ beyond what a query sees.
  void score_gradients(std::int64_t block, std::int64_t block_end, std::int64_t q, std::int64_t q_end) {
    for (std::int64_t first = q, rows = 0; first < q_end; first += rows) {
      rows = neighbours<Arch>(head_, first, smaller(tile_rows_, q_end - first), tile_spread(window_));
      // exercise sliding_window: const std::int64_t lo = block;
      const std::int64_t lo = larger(block, position(first) - window_ + 1);
      // end of exercise
      const std::int64_t hi = smaller(block_end, position(first + rows - 1) + 1);
      const std::int64_t begin = larger(block, round_down(lo - tile_rows_ + 1, key_panel));
      const std::int64_t end = smaller(block_end, hi + tile_rows_ - 1);
      if (lo >= hi) continue;
      const std::int64_t columns = round_up(end - begin, key_panel);
      T* const p = p_ + (first - q) * score_stride + begin - block;
      T* const ds = ds_ + (first - q) * score_stride + begin - block;
      panel_scores<Arch>(rows, d_, padded_, q_rows_ + first * padded_, k_panels_, begin, begin + columns, p,
                         score_stride);
      panel_scores<Arch>(rows, d_, padded_, dout_rows_ + first * padded_, v_panels_, begin, begin + columns,
                         ds, score_stride);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t i = first + r;
        // exercise sliding_window: const std::int64_t row_lo = block;
        const std::int64_t row_lo = larger(block, position(i) - window_ + 1);
        // end of exercise
        const std::int64_t row_hi = smaller(block_end, position(i) + 1);
        const std::int64_t window_lo = position(i) + 1 - window_ - begin;
        T *const p_row = p + r * score_stride, *const ds_row = ds + r * score_stride;
        if (outer_.bias) outer_.bias.add_to(window_lo, row_lo - begin, row_hi - begin, p_row);
        score_row(i, row_lo - begin, row_hi - begin, position(i) + 1 - gradient_.narrow.window - begin,
                  columns, p_row, ds_row);
        if (outer_.bias) outer_.dbias.take_in(window_lo, row_lo - begin, row_hi - begin, ds_row);
        unmasked_ += larger(0, row_hi - row_lo);
      }
      add_product<Arch>(rows, padded_, hi - lo, ds + lo - begin, score_stride, std::int64_t(1),
                        k_rows_ + lo * padded_, dq_ + first * padded_);
      computed_ += rows * (2 * columns + hi - lo);
    }
  }

  // p and ds of query i, from its scores and dP; zero outside [lo, hi). The narrower attention starts at
  // `narrow_lo`.
  void score_row(std::int64_t i, std::int64_t lo, std::int64_t hi, std::int64_t narrow_lo,
                 std::int64_t columns, T* p, T* ds) {
    using B = Batch<Arch, T>;
    constexpr int width = lanes<Arch, T>;
    mask_edges<Arch>(limits_, lo, hi, columns, p);
    const std::int64_t split =
        gradient_.narrow.window > 0 ? smaller(columns, round_down(larger(narrow_lo, 0), width)) : columns;
    const B shift(outer_.log_sum[i]), offset(outer_.delta[i]), share(outer_.weight[i]);
    for (std::int64_t j = 0; j < split; j += width) {
      const B weight = share * Exponential<Arch, T>::exp2(load<Arch, T>(p + j) - shift);
      weight.store_unaligned(p + j);
      (weight * (load<Arch, T>(ds + j) - offset)).store_unaligned(ds + j);
    }
    if (split == columns) return;
    if (narrow_.bias) {
      score_narrow<true>(i, narrow_lo, split, columns, p, ds);
    } else {
      score_narrow<false>(i, narrow_lo, split, columns, p, ds);
    }
  }

  // The same on [split, columns), where the narrower attention sees keys too.
  template <bool biased>
  void score_narrow(std::int64_t i, std::int64_t narrow_lo, std::int64_t split, std::int64_t columns, T* p,
                    T* ds) {
    using B = Batch<Arch, T>;
    constexpr int width = lanes<Arch, T>;
    const B shift(outer_.log_sum[i]), offset(outer_.delta[i]), share(outer_.weight[i]);
    const B narrow_shift(narrow_.log_sum[i]), narrow_offset(narrow_.delta[i]),
        narrow_share(narrow_.weight[i]);
    for (std::int64_t j = split; j < columns; j += width) {
      const B score = load<Arch, T>(p + j), dp = load<Arch, T>(ds + j);
      const B own = biased ? score + load<Arch, T>(narrow_.bias.at(j - narrow_lo)) : score;
      const B seen = limited(own, load<Arch, T>(limits_.from(smaller(j - narrow_lo, 0))));
      const B weight = share * Exponential<Arch, T>::exp2(score - shift);
      const B narrow = narrow_share * Exponential<Arch, T>::exp2(seen - narrow_shift);
      const B narrow_ds = narrow * (dp - narrow_offset);
      (weight + narrow).store_unaligned(p + j);
      multiply_add(weight, dp - offset, narrow_ds).store_unaligned(ds + j);
      if (biased) narrow_.dbias.add_at(j - narrow_lo, narrow_ds);
    }
  }

  // dV += P^T dO, dK += dS^T Q: for every few keys, over the queries of [q, q_end) that see one of them.
  void add_to_keys(std::int64_t block, std::int64_t block_end, std::int64_t q, std::int64_t q_end) {
    for (std::int64_t j = block; j < block_end; j += tile_rows_) {
      const std::int64_t keys = smaller(tile_rows_, block_end - j);
      const std::int64_t first = larger(q, query_at<Arch>(head_, j));
      const std::int64_t last = smaller(q_end, query_at<Arch>(head_, j + keys - 1 + window_));
      if (first >= last) continue;
      const std::int64_t corner = (first - q) * score_stride + j - block;
      const std::int64_t target = (j - block) * padded_;
      add_product<Arch>(keys, padded_, last - first, p_ + corner, std::int64_t(1), score_stride,
                        dout_rows_ + first * padded_, dv_ + target);
      add_product<Arch>(keys, padded_, last - first, ds_ + corner, std::int64_t(1), score_stride,
                        q_rows_ + first * padded_, dk_ + target);
      computed_ += 2 * keys * (last - first);
    }
  }

  const AttentionHeadGradient<T>& gradient_;
  const AttentionHead<T>& head_;
  const EdgeLimits<Arch, T> limits_;
  std::int64_t length_, d_, padded_, window_, queries_, tile_rows_;
  std::int64_t unmasked_ = 0, computed_ = 0;  // pairs: unmasked; summed over the five products
  T *k_panels_, *v_panels_, *k_rows_, *q_rows_, *dout_rows_, *dq_, *dk_, *dv_, *p_, *ds_;
  Band outer_, narrow_;
};

template <class Arch, class T>
AttentionWork softmax_attention_vjp(const AttentionHeadGradient<T>& gradient) noexcept {
  return SoftmaxBackward<Arch, T>(gradient).run();
}

}  // namespace dirigo::kernels
