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

// -inf, +inf, -inf, key_panel times each: min(score, limits.from(j - lo)) masks before lo, likewise
// until(hi).
template <class Arch, class T>
struct EdgeLimits {
  alignas(scratch_alignment) T values[3 * key_panel];

  EdgeLimits() {
    for (int i = 0; i < 3 * key_panel; ++i) {
      values[i] = T(i / key_panel == 1 ? __builtin_inf() : -__builtin_inf());
    }
  }
  const T* from(std::int64_t j) const { return values + key_panel + j; }
  const T* until(std::int64_t j) const { return values + 2 * key_panel + j; }
};

// scores[j] = -inf for the j of the panels around [lo, hi) that are outside it.
template <class Arch, class T>
DIRIGO_INLINE void mask_edges(const EdgeLimits<Arch, T>& limits, std::int64_t lo, std::int64_t hi,
                              T* scores) {
  constexpr int width = lanes<Arch, T>;
  const std::int64_t first = round_down(lo, key_panel), last = round_down(hi, key_panel);
  if (first != lo) {
    for (std::int64_t j = first; j < first + key_panel; j += width) {
      limited(load<Arch, T>(scores + j), load<Arch, T>(limits.from(j - lo))).store_unaligned(scores + j);
    }
  }
  if (last != hi) {
    for (std::int64_t j = last; j < last + key_panel; j += width) {
      limited(load<Arch, T>(scores + j), load<Arch, T>(limits.until(j - hi))).store_unaligned(scores + j);
    }
  }
}

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
                                  T* scores) {
    if (lo >= hi) return;
    constexpr int width = lanes<Arch, T>, half = key_panel / 2;
    using B = Batch<Arch, T>;
    mask_edges<Arch>(limits, lo, hi, scores);
    B max0(largest), max1(largest);
    for (std::int64_t j = round_down(lo, key_panel); j < hi; j += key_panel) {
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
    const std::int64_t begin = round_down(lo, key_panel), end = round_up(hi, key_panel);
    fill<Arch>(0, begin, T(0), scores);
    fill<Arch>(end, columns, T(0), scores);
    const B shift(largest);
    B sum0(T(0)), sum1(T(0));
    for (std::int64_t j = begin; j < end; j += key_panel) {
      for (int i = 0; i < half; i += width) {
        const B p0 = Exponential<Arch, T>::exp2(load<Arch, T>(scores + j + i) - shift);
        const B p1 = Exponential<Arch, T>::exp2(load<Arch, T>(scores + j + half + i) - shift);
        sum0 = sum0 + p0;
        sum1 = sum1 + p1;
        p0.store_unaligned(scores + j + i);
        p1.store_unaligned(scores + j + half + i);
      }
    }
    // 0 in the row's first block, exactly 1 where the maximum stays.
    const B factor = Exponential<Arch, T>::exp2(B(previous) - shift);
    alignas(scratch_alignment) T lane[width];
    factor.store_aligned(lane);
    sum = sum * lane[0] + horizontal_sum<Arch, T>(sum0 + sum1);
    for (std::int64_t c = 0; c < padded; c += width) {
      (load<Arch, T>(output + c) * factor).store_unaligned(output + c);
    }
  }
};

template <class Arch>
DIRIGO_INLINE float natural_log(float x) {
  return __builtin_logf(x);
}
template <class Arch>
DIRIGO_INLINE double natural_log(double x) {
  return __builtin_log(x);
}

template <class Arch, class T>
class SoftmaxForward {
 public:
  explicit SoftmaxForward(const AttentionHead<T>& head)
      : head_(head), padded_(round_up(head.head_dim, key_panel)), packed_(0) {
    Scratch<Arch, T> scratch(head.scratch);
    k_panels_ = scratch.take(round_up(head.length, key_panel) * head.head_dim);
    v_rows_ = scratch.take(head.length * padded_);
    q_tile_ = scratch.take(max_tile_rows * padded_);
    output_ = scratch.take(max_tile_rows * padded_);
    scores_ = scratch.take(max_tile_rows * score_stride);
  }

  AttentionWork run() {
    for (std::int64_t first = 0; first < head_.queries;) {
      const std::int64_t rows = tile_rows(first);
      run_tile(first, rows);
      first += rows;
    }
    // QK and PV: 2 d each per pair.
    const std::int64_t useful = 4 * head_.head_dim * unmasked_;
    return {useful, 2 * head_.head_dim * computed_ - useful};
  }

 private:
  static constexpr std::int64_t score_stride = key_block + row_gap;

  std::int64_t position(std::int64_t query) const { return head_.positions ? head_.positions[query] : query; }
  // exercise sliding_window: auto first_key(std::int64_t) const { return std::int64_t(0); }
  std::int64_t first_key(std::int64_t query) const { return larger(0, position(query) - head_.window + 1); }
  // end of exercise

  // Consecutive queries form a tile while they are so close that it hardly computes more than they see.
  std::int64_t tile_rows(std::int64_t first) const {
    const std::int64_t most = smaller(Tile<Arch, T>::rows, head_.queries - first);
    const std::int64_t spread = larger(key_panel, smaller(head_.window, head_.length) / 2);
    std::int64_t rows = 1;
    while (rows < most && position(first + rows) - position(first) <= spread) ++rows;
    return rows;
  }

  // Packs what is missing of the panels in [begin, end): positions ascend, so that packing does too.
  void pack_keys(std::int64_t begin, std::int64_t end) {
    begin = larger(begin, packed_);
    end = smaller(round_up(end, key_panel), head_.length);
    if (begin >= end) return;
    pack_panels<Arch>(begin, end, head_.head_dim, head_.k, head_.k_stride, k_panels_);
    pack_rows<Arch>(end - begin, head_.head_dim, padded_, T(1), head_.v + begin * head_.v_stride,
                    head_.v_stride, v_rows_ + begin * padded_);
    packed_ = round_up(end, key_panel);
  }

  void run_tile(std::int64_t first, std::int64_t rows) {
    const std::int64_t d = head_.head_dim;
    const std::int64_t lo = first_key(first), hi = position(first + rows - 1) + 1;
    pack_keys(round_down(lo, key_panel), hi);
    pack_rows<Arch>(rows, d, padded_, T(head_.scale * T(log2_e)), head_.q + first * head_.q_stride,
                    head_.q_stride, q_tile_);
    fill<Arch>(0, rows * padded_, T(0), output_);
    OnlineSoftmax<Arch, T> state[max_tile_rows];
    for (std::int64_t block = round_down(lo, key_block); block < hi; block += key_block) {
      const std::int64_t begin = larger(block, round_down(lo, key_panel));
      const std::int64_t end = smaller(block + key_block, hi);
      const std::int64_t columns = round_up(end - begin, key_panel);
      panel_scores<Arch>(rows, d, padded_, q_tile_, k_panels_, begin, begin + columns, scores_, score_stride);
      std::int64_t row_lo[max_tile_rows], row_hi[max_tile_rows];  // keys of the block that a row sees
      for (std::int64_t r = 0; r < rows; ++r) {
        row_lo[r] = larger(first_key(first + r), begin) - begin;
        row_hi[r] = smaller(position(first + r) + 1, end) - begin;
        state[r].find_largest(limits_, row_lo[r], row_hi[r], scores_ + r * score_stride);
        unmasked_ += larger(0, row_hi[r] - row_lo[r]);
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        state[r].weigh(row_lo[r], row_hi[r], columns, scores_ + r * score_stride, padded_,
                       output_ + r * padded_);
      }
      const std::int64_t from = larger(begin, lo);
      add_product<Arch>(rows, padded_, end - from, scores_ + from - begin, score_stride, std::int64_t(1),
                        v_rows_ + from * padded_, output_);
      computed_ += rows * (columns + end - from);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      write_row<Arch>(d, T(1) / state[r].sum, output_ + r * padded_,
                      head_.out + (first + r) * head_.out_stride);
      if (head_.log_sum_exp) {
        head_.log_sum_exp[first + r] = state[r].largest * T(ln_2) + natural_log<Arch>(state[r].sum);
      }
    }
  }

  const AttentionHead<T>& head_;
  const EdgeLimits<Arch, T> limits_;
  std::int64_t padded_;
  std::int64_t packed_;                       // panels before this key are packed, or no longer needed
  std::int64_t unmasked_ = 0, computed_ = 0;  // pairs: unmasked; in QK plus in PV
  T *k_panels_, *v_rows_, *q_tile_, *output_, *scores_;
};

template <class Arch, class T>
AttentionWork softmax_attention(const AttentionHead<T>& head) noexcept {
  return SoftmaxForward<Arch, T>(head).run();
}

// With P = softmax(S), dP = dO V^T and D_i = dout_i . out_i = sum_j P_ij dP_ij:
//   dV = P^T dO, dS = P (dP - D), dQ = scale dS K, dK = scale dS^T Q.
// Blocks of keys x queries recompute P = exp2(s - log2 sum exp2 s); each key block finishes its dK and dV,
// and dQ accumulates over key blocks in order.
template <class Arch, class T>
class SoftmaxBackward {
 public:
  explicit SoftmaxBackward(const AttentionHeadGradient<T>& gradient)
      : gradient_(gradient),
        head_(gradient.forward),
        length_(head_.length),
        d_(head_.head_dim),
        padded_(round_up(d_, key_panel)) {
    Scratch<Arch, T> scratch(head_.scratch);
    k_panels_ = scratch.take(round_up(length_, key_panel) * d_);
    v_panels_ = scratch.take(round_up(length_, key_panel) * d_);
    k_rows_ = scratch.take(length_ * padded_);
    q_rows_ = scratch.take(length_ * padded_);
    dout_rows_ = scratch.take(length_ * padded_);
    dq_ = scratch.take(length_ * padded_);
    dk_ = scratch.take(gradient_keys * padded_);
    dv_ = scratch.take(gradient_keys * padded_);
    delta_ = scratch.take(length_);
    log_sum_ = scratch.take(length_);
    p_ = scratch.take(gradient_queries * score_stride);
    ds_ = scratch.take(gradient_queries * score_stride);
  }

  AttentionWork run() {
    pack();
    for (std::int64_t block = 0; block < length_; block += gradient_keys) run_key_block(block);
    for (std::int64_t i = 0; i < length_; ++i) {
      write_row<Arch>(d_, head_.scale, dq_ + i * padded_, gradient_.dq + i * gradient_.dq_stride);
    }
    // Five products: S, dP, dQ, dK, dV.
    const std::int64_t useful = 10 * d_ * unmasked_;
    return {useful, 2 * d_ * computed_ - useful};
  }

 private:
  static constexpr std::int64_t score_stride = gradient_keys + row_gap;
  static constexpr std::int64_t tile_rows = Tile<Arch, T>::rows;

  void pack() {
    pack_panels<Arch>(0, length_, d_, head_.k, head_.k_stride, k_panels_);
    pack_panels<Arch>(0, length_, d_, head_.v, head_.v_stride, v_panels_);
    pack_rows<Arch>(length_, d_, padded_, T(1), head_.k, head_.k_stride, k_rows_);
    pack_rows<Arch>(length_, d_, padded_, T(head_.scale * T(log2_e)), head_.q, head_.q_stride, q_rows_);
    pack_rows<Arch>(length_, d_, padded_, T(1), gradient_.dout, gradient_.dout_stride, dout_rows_);
    fill<Arch>(0, length_ * padded_, T(0), dq_);
    for (std::int64_t i = 0; i < length_; ++i) {
      delta_[i] = dot_row<Arch>(d_, dout_rows_ + i * padded_, head_.out + i * head_.out_stride);
      log_sum_[i] = head_.log_sum_exp[i] * T(log2_e);
    }
  }

  void run_key_block(std::int64_t block) {
    const std::int64_t block_end = smaller(block + gradient_keys, length_);
    const std::int64_t last_query = smaller(length_, block_end - 1 + smaller(head_.window, length_));
    fill<Arch>(0, (block_end - block) * padded_, T(0), dk_);
    fill<Arch>(0, (block_end - block) * padded_, T(0), dv_);
    for (std::int64_t q = block; q < last_query; q += gradient_queries) {
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

  // P and dS of queries [q, q_end) against the block, and their share of dQ.
  void score_gradients(std::int64_t block, std::int64_t block_end, std::int64_t q, std::int64_t q_end) {
    const std::int64_t columns = round_up(block_end - block, key_panel);
    for (std::int64_t first = q; first < q_end; first += tile_rows) {
      const std::int64_t rows = smaller(tile_rows, q_end - first);
      // exercise sliding_window: const std::int64_t lo = block;
      const std::int64_t lo = larger(block, first - head_.window + 1);
      // end of exercise
      const std::int64_t hi = smaller(block_end, first + rows);
      const std::int64_t begin = round_down(lo, key_panel), end = round_up(hi, key_panel);
      T* const p = p_ + (first - q) * score_stride;
      T* const ds = ds_ + (first - q) * score_stride;
      if (lo < hi) {
        panel_scores<Arch>(rows, d_, padded_, q_rows_ + first * padded_, k_panels_, begin, end,
                           p + begin - block, score_stride);
        panel_scores<Arch>(rows, d_, padded_, dout_rows_ + first * padded_, v_panels_, begin, end,
                           ds + begin - block, score_stride);
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t i = first + r;
        // exercise sliding_window: const std::int64_t row_lo = block;
        const std::int64_t row_lo = larger(block, i - head_.window + 1);
        // end of exercise
        const std::int64_t row_hi = smaller(block_end, i + 1);
        score_row(row_lo - block, row_hi - block, columns, log_sum_[i], delta_[i], p + r * score_stride,
                  ds + r * score_stride);
        unmasked_ += larger(0, row_hi - row_lo);
      }
      if (lo < hi) {
        add_product<Arch>(rows, padded_, hi - lo, ds + lo - block, score_stride, std::int64_t(1),
                          k_rows_ + lo * padded_, dq_ + first * padded_);
        computed_ += rows * (2 * (end - begin) + hi - lo);
      }
    }
  }

  // p and ds of one row, from its scores and dP; zero outside [lo, hi).
  void score_row(std::int64_t lo, std::int64_t hi, std::int64_t columns, T log_sum, T delta, T* p, T* ds) {
    constexpr int width = lanes<Arch, T>;
    using B = Batch<Arch, T>;
    const std::int64_t begin = lo < hi ? round_down(lo, key_panel) : columns;
    const std::int64_t end = lo < hi ? round_up(hi, key_panel) : columns;
    fill<Arch>(0, begin, T(0), p);
    fill<Arch>(0, begin, T(0), ds);
    fill<Arch>(end, columns, T(0), p);
    fill<Arch>(end, columns, T(0), ds);
    if (lo >= hi) return;
    mask_edges<Arch>(limits_, lo, hi, p);
    const B shift(log_sum), offset(delta);
    for (std::int64_t j = begin; j < end; j += key_panel) {
      for (int i = 0; i < key_panel; i += width) {
        const B weight = Exponential<Arch, T>::exp2(load<Arch, T>(p + j + i) - shift);
        weight.store_unaligned(p + j + i);
        (weight * (load<Arch, T>(ds + j + i) - offset)).store_unaligned(ds + j + i);
      }
    }
  }

  // dV += P^T dO, dK += dS^T Q: for every few keys, over the queries of [q, q_end) that see one of them.
  void add_to_keys(std::int64_t block, std::int64_t block_end, std::int64_t q, std::int64_t q_end) {
    for (std::int64_t j = block; j < block_end; j += tile_rows) {
      const std::int64_t keys = smaller(tile_rows, block_end - j);
      const std::int64_t first = larger(q, j);
      const std::int64_t last = smaller(q_end, j + keys - 1 + smaller(head_.window, length_));
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
  std::int64_t length_, d_, padded_;
  std::int64_t unmasked_ = 0, computed_ = 0;  // pairs: unmasked; summed over the five products
  T *k_panels_, *v_panels_, *k_rows_, *q_rows_, *dout_rows_, *dq_, *dk_, *dv_, *delta_, *log_sum_, *p_, *ds_;
};

template <class Arch, class T>
AttentionWork softmax_attention_vjp(const AttentionHeadGradient<T>& gradient) noexcept {
  return SoftmaxBackward<Arch, T>(gradient).run();
}

}  // namespace dirigo::kernels
