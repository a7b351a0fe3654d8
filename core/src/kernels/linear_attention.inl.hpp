// Causal linear attention of one head (Katharopoulos et al., arXiv:2006.16236) with phi(u) = ELU(u) + 1, as a
// chunked scan: quadratic inside a chunk, a running state between chunks. Chunks start at absolute multiples,
// so the row rule holds as for softmax attention; values are assumed finite.
// Derivation: docs/mathematics/linear-attention.md
#pragma once

#include "dirigo/core/kernels.hpp"
#include "kernels/attention_pack.inl.hpp"
#include "kernels/exp2.inl.hpp"

namespace dirigo::kernels {

inline constexpr double smallest_denominator = 1e-20;

template <class Arch, class T>
DIRIGO_INLINE Batch<Arch, T> feature(const Batch<Arch, T>& x) {
  return xsimd::select(x > Batch<Arch, T>(T(0)), x + Batch<Arch, T>(T(1)), Exponential<Arch, T>::exp(x));
}

// dst[0, d) = phi(src), dst[d, padded) = 0.
template <class Arch, class T>
void pack_features(std::int64_t n, std::int64_t d, std::int64_t padded, const T* src, std::int64_t stride,
                   T* dst) {
  constexpr int width = lanes<Arch, T>;
  for (std::int64_t i = 0; i < n; ++i, src += stride, dst += padded) {
    prefetch_rows<Arch>(1, d, src + 2 * key_panel * stride, stride);
    std::int64_t c = 0;
    for (; c + width <= d; c += width) feature<Arch, T>(load<Arch, T>(src + c)).store_unaligned(dst + c);
    if (c < d) {
      for (std::int64_t l = c; l < d; ++l) dst[l] = src[l];
      feature<Arch, T>(load<Arch, T>(dst + c)).store_unaligned(dst + c);  // then zeroes what is beyond d
    }
    fill<Arch>(d, padded, T(0), dst);
  }
}

// 1 and then 0: factors that hide what comes from `seen` on.
template <class Arch, class T>
struct VisibleFactors {
  static constexpr int width = lanes<Arch, T>;
  T values[2 * width];

  VisibleFactors() {
    for (int i = 0; i < 2 * width; ++i) values[i] = T(i < width ? 1 : 0);
  }
  // x[j] = 0 for j in [seen, columns)
  DIRIGO_INLINE void hide(std::int64_t seen, std::int64_t columns, T* x) const {
    for (std::int64_t j = round_down(seen, width); j < columns; j += width) {
      const Batch<Arch, T> factor = load<Arch, T>(values + width + smaller(j - seen, 0));
      (load<Arch, T>(x + j) * factor).store_unaligned(x + j);
    }
  }
};

// y += sum_i factors_i x_i over n rows of `padded` values; without factors they are 1.
template <class Arch, class T>
DIRIGO_INLINE void add_rows(std::int64_t n, std::int64_t padded, const T* factors, const T* x, T* y) {
  constexpr int width = lanes<Arch, T>;
  for (std::int64_t c = 0; c < padded; c += width) {
    Batch<Arch, T> sum = load<Arch, T>(y + c);
    for (std::int64_t i = 0; i < n; ++i) {
      const Batch<Arch, T> factor(factors ? factors[i] : T(1));
      sum = multiply_add(factor, load<Arch, T>(x + i * padded + c), sum);
    }
    sum.store_unaligned(y + c);
  }
}

// y += factor x, `padded` values.
template <class Arch, class T>
DIRIGO_INLINE void add_row(std::int64_t padded, T factor, const T* x, T* y) {
  constexpr int width = lanes<Arch, T>;
  for (std::int64_t c = 0; c < padded; c += width) {
    multiply_add(Batch<Arch, T>(factor), load<Arch, T>(x + c), load<Arch, T>(y + c)).store_unaligned(y + c);
  }
}

template <class Arch, class T>
class LinearForward {
 public:
  explicit LinearForward(const LinearHead<T>& head)
      : head_(head),
        d_(head.head_dim),
        padded_(round_up(d_, key_panel)),
        chunk_(smaller(head.chunk, head.length)),
        score_stride_(round_up(chunk_, key_panel) + row_gap) {
    Scratch<Arch, T> scratch(head.scratch);
    k_features_ = scratch.take(chunk_ * padded_);
    v_rows_ = scratch.take(chunk_ * padded_);
    k_panels_ = scratch.take(round_up(chunk_, key_panel) * d_);
    q_tile_ = scratch.take(max_tile_rows * padded_);
    output_ = scratch.take(max_tile_rows * padded_);
    scores_ = scratch.take(max_tile_rows * score_stride_);
    state_ = scratch.take(d_ * padded_);
    total_ = scratch.take(padded_);
  }

  AttentionWork run() {
    fill<Arch>(0, d_ * padded_, T(0), state_);
    fill<Arch>(0, padded_, T(0), total_);
    std::int64_t query = 0;
    for (std::int64_t chunk = 0; query < head_.queries; chunk += chunk_) {
      const std::int64_t chunk_end = smaller(chunk + chunk_, head_.length);
      std::int64_t query_end = query;
      while (query_end < head_.queries && position(query_end) < chunk_end) ++query_end;
      run_chunk(chunk, chunk_end, query, query_end);
      query = query_end;
    }
    return work_;
  }

 private:
  std::int64_t position(std::int64_t query) const { return query_position<Arch>(head_, query); }
  // The query's row in q and out.
  std::int64_t row_of(std::int64_t query) const { return head_.in_place ? position(query) : query; }

  void run_chunk(std::int64_t chunk, std::int64_t chunk_end, std::int64_t query, std::int64_t query_end) {
    const std::int64_t keys = chunk_end - chunk;
    pack_features<Arch>(keys, d_, padded_, head_.k + chunk * head_.k_stride, head_.k_stride, k_features_);
    pack_rows<Arch>(keys, d_, padded_, T(1), head_.v + chunk * head_.v_stride, head_.v_stride, v_rows_);
    if (query < query_end) {
      pack_panels<Arch>(0, keys, d_, k_features_, padded_, k_panels_);
      for (std::int64_t first = query; first < query_end; first += Tile<Arch, T>::rows) {
        run_tile(chunk, first, smaller(Tile<Arch, T>::rows, query_end - first));
      }
    }
    if (query_end < head_.queries) {  // S += phi(K)^T V, z += sum phi(k): only a later query needs them
      // exercise linear_state:
      add_product<Arch>(d_, padded_, keys, k_features_, std::int64_t(1), padded_, v_rows_, state_);
      add_rows<Arch, T>(keys, padded_, nullptr, k_features_, total_);
      // end of exercise
      work_.useful += 2 * d_ * (d_ + 1) * keys;
    }
  }

  void run_tile(std::int64_t chunk, std::int64_t first, std::int64_t rows) {
    const std::int64_t hi = position(first + rows - 1) - chunk + 1;
    const std::int64_t columns = round_up(hi, key_panel);
    std::int64_t unmasked = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      pack_features<Arch>(1, d_, padded_, head_.q + row_of(first + r) * head_.q_stride, head_.q_stride,
                          q_tile_ + r * padded_);
    }
    panel_scores<Arch>(rows, d_, padded_, q_tile_, k_panels_, 0, columns, scores_, score_stride_);
    if (chunk == 0) {  // the state is still zero
      fill<Arch>(0, rows * padded_, T(0), output_);
    } else {
      small_product<Arch, T, Start::zero>(rows, padded_, d_, q_tile_, padded_, 1, state_, padded_, output_,
                                          padded_);
      work_.useful += 2 * d_ * (d_ + 1) * rows;
    }
    T denominators[max_tile_rows];
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t seen = position(first + r) - chunk + 1;
      visible_.hide(seen, columns, scores_ + r * score_stride_);
      denominators[r] = denominator(chunk, q_tile_ + r * padded_, seen, scores_ + r * score_stride_);
      unmasked += seen;
    }
    add_product<Arch>(rows, padded_, hi, scores_, score_stride_, std::int64_t(1), v_rows_, output_);
    work_.useful += 4 * d_ * unmasked;
    work_.padding += 2 * d_ * (rows * (columns + hi) - 2 * unmasked);
    for (std::int64_t r = 0; r < rows; ++r) {
      const T z = denominators[r];
      const T clamped = z < T(smallest_denominator) ? T(smallest_denominator) : z;
      write_row<Arch>(d_, T(1) / clamped, output_ + r * padded_,
                      head_.out + row_of(first + r) * head_.out_stride);
      if (head_.denominator) head_.denominator[first + r] = z;
    }
  }

  // z_i . phi(q_i): the running total's part and the scores inside the chunk.
  T denominator(std::int64_t chunk, const T* q, std::int64_t seen, const T* scores) const {
    constexpr int width = lanes<Arch, T>;
    Batch<Arch, T> sum0(T(0)), sum1(T(0));
    if (chunk != 0) {
      for (std::int64_t c = 0; c < padded_; c += width) {
        sum0 = multiply_add(load<Arch, T>(q + c), load<Arch, T>(total_ + c), sum0);
      }
    }
    for (std::int64_t j = 0; j < round_up(seen, key_panel); j += 2 * width) {
      sum0 = sum0 + load<Arch, T>(scores + j);
      sum1 = sum1 + load<Arch, T>(scores + j + width);
    }
    return horizontal_sum<Arch, T>(sum0 + sum1);
  }

  const LinearHead<T>& head_;
  const VisibleFactors<Arch, T> visible_;
  std::int64_t d_, padded_, chunk_, score_stride_;
  AttentionWork work_;
  T *k_features_, *v_rows_, *k_panels_, *q_tile_, *output_, *scores_, *state_, *total_;
};

template <class Arch, class T>
AttentionWork linear_attention(const LinearHead<T>& head) noexcept {
  return LinearForward<Arch, T>(head).run();
}

// With a_i = phi(q_i), b_j = phi(k_j), D_i = z_i . a_i, g_i = dout_i / max(D_i, 1e-20) and
// e_i = -g_i . out_i (0 where the clamp is active), the loss depends on each pair j <= i through
// (a_i . b_j) (g_i . v_j + e_i), hence
//   da_i = sum_{j<=i} (g_i . v_j + e_i) b_j = S_i g_i + e_i z_i
//   db_j = sum_{i>=j} (g_i . v_j + e_i) a_i = R_j v_j + r_j,    R_j = sum_{i>=j} a_i g_i^T, r_j = sum_{i>=j}
//   e_i a_i dv_j = sum_{i>=j} (a_i . b_j) g_i       = R_j^T b_j
// and phi'(u) = min(phi(u), 1). A forward sweep carries S^T and z, a backward sweep R and r.
template <class Arch, class T>
class LinearBackward {
 public:
  explicit LinearBackward(const LinearHeadGradient<T>& gradient)
      : gradient_(gradient),
        head_(gradient.forward),
        length_(head_.length),
        d_(head_.head_dim),
        padded_(round_up(d_, key_panel)),
        chunk_(smaller(head_.chunk, length_)),
        score_stride_(round_up(chunk_, key_panel) + row_gap) {
    Scratch<Arch, T> scratch(head_.scratch);
    q_features_ = scratch.take(chunk_ * padded_);
    k_features_ = scratch.take(chunk_ * padded_);
    v_rows_ = scratch.take(chunk_ * padded_);
    g_rows_ = scratch.take(chunk_ * padded_);
    dk_ = scratch.take(chunk_ * padded_);
    dv_ = scratch.take(chunk_ * padded_);
    k_panels_ = scratch.take(round_up(chunk_, key_panel) * d_);
    v_panels_ = scratch.take(round_up(chunk_, key_panel) * d_);
    weights_ = scratch.take(gradient_queries * score_stride_);
    dweights_ = scratch.take(gradient_queries * score_stride_);
    state_ = scratch.take(d_ * padded_);
    transposed_ = scratch.take(d_ * key_panel);
    total_ = scratch.take(padded_);
    e_ = scratch.take(length_);
    dq_ = scratch.take(length_ * padded_);
  }

  AttentionWork run() {
    const std::int64_t last = round_down(query_position<Arch>(head_, head_.queries - 1), chunk_);
    reset_state();
    for (std::int64_t chunk = 0; chunk <= last; chunk += chunk_) sweep_forward(chunk, chunk == last);
    reset_state();
    for (std::int64_t j = last + chunk_; j < length_; ++j) {  // no query sees them
      fill<Arch>(0, d_, T(0), gradient_.dk + j * gradient_.dk_stride);
      fill<Arch>(0, d_, T(0), gradient_.dv + j * gradient_.dv_stride);
    }
    for (std::int64_t chunk = last; chunk >= 0; chunk -= chunk_) sweep_backward(chunk, chunk == last);
    return work_;
  }

 private:
  static constexpr std::int64_t tile_rows = Tile<Arch, T>::rows;

  void reset_state() {
    fill<Arch>(0, d_ * padded_, T(0), state_);
    fill<Arch>(0, padded_, T(0), total_);
  }

  // The queries of a chunk: rows [first, first + count).
  struct Queries {
    std::int64_t first, count;
  };
  Queries queries_of(std::int64_t chunk) const {
    const std::int64_t first = query_at<Arch>(head_, chunk);
    return {first, query_at<Arch>(head_, chunk + chunk_) - first};
  }

  // Their g rows and e values.
  void pack_gradient(const Queries& queries) {
    for (std::int64_t i = 0; i < queries.count; ++i) {
      const std::int64_t row = queries.first + i;
      const T z = head_.denominator[row];
      const bool clamped = z < T(smallest_denominator);
      T* const g = g_rows_ + i * padded_;
      pack_row<Arch>(d_, padded_, T(1) / (clamped ? T(smallest_denominator) : z),
                     gradient_.dout + row * gradient_.dout_stride, g);
      e_[row] = clamped ? T(0) : -dot_row<Arch>(d_, g, head_.out + row * head_.out_stride);
    }
  }

  void pack_keys(std::int64_t chunk, std::int64_t n) {
    pack_features<Arch>(n, d_, padded_, head_.k + chunk * head_.k_stride, head_.k_stride, k_features_);
    pack_rows<Arch>(n, d_, padded_, T(1), head_.v + chunk * head_.v_stride, head_.v_stride, v_rows_);
  }

  // da_i from the keys of earlier chunks, then S^T += V^T phi(K), z += sum phi(k).
  void sweep_forward(std::int64_t chunk, bool last) {
    const std::int64_t n = smaller(chunk_, length_ - chunk);
    const Queries queries = queries_of(chunk);
    T* const dq = dq_ + queries.first * padded_;
    if (chunk == 0) {
      fill<Arch>(0, queries.count * padded_, T(0), dq);
    } else {
      pack_gradient(queries);
      small_product<Arch, T, Start::zero>(queries.count, padded_, d_, g_rows_, padded_, 1, state_, padded_,
                                          dq, padded_);
      for (std::int64_t i = 0; i < queries.count; ++i) {
        add_row<Arch>(padded_, e_[queries.first + i], total_, dq + i * padded_);
      }
      work_.useful += 2 * d_ * (d_ + 1) * queries.count;
    }
    if (!last) {
      pack_keys(chunk, n);
      add_product<Arch>(d_, padded_, n, v_rows_, std::int64_t(1), padded_, k_features_, state_);
      add_rows<Arch, T>(n, padded_, nullptr, k_features_, total_);
      work_.useful += 2 * d_ * (d_ + 1) * n;
    }
  }

  // dk and dv from the queries of later chunks, everything inside the chunk, then R += A^T G, r += sum e a.
  void sweep_backward(std::int64_t chunk, bool last) {
    const std::int64_t n = smaller(chunk_, length_ - chunk);
    const Queries queries = queries_of(chunk);
    pack_keys(chunk, n);
    pack_gradient(queries);
    pack_features<Arch>(queries.count, d_, padded_, head_.q + queries.first * head_.q_stride, head_.q_stride,
                        q_features_);
    pack_panels<Arch>(0, n, d_, k_features_, padded_, k_panels_);
    pack_panels<Arch>(0, n, d_, v_rows_, padded_, v_panels_);
    fill<Arch>(0, n * padded_, T(0), dk_);
    fill<Arch>(0, n * padded_, T(0), dv_);
    if (!last) read_reversed_state(n);
    for (std::int64_t q = 0; q < queries.count; q += gradient_queries) {
      run_block(chunk, queries, q, smaller(q + gradient_queries, queries.count));
    }
    for (std::int64_t i = 0; i < queries.count; ++i) {
      write_feature_gradient(q_features_ + i * padded_, dq_ + (queries.first + i) * padded_,
                             gradient_.dq + (queries.first + i) * gradient_.dq_stride);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      write_feature_gradient(k_features_ + i * padded_, dk_ + i * padded_,
                             gradient_.dk + (chunk + i) * gradient_.dk_stride);
      write_row<Arch>(d_, T(1), dv_ + i * padded_, gradient_.dv + (chunk + i) * gradient_.dv_stride);
    }
    if (chunk > 0 && queries.count > 0) {
      add_product<Arch>(d_, padded_, queries.count, q_features_, std::int64_t(1), padded_, g_rows_, state_);
      add_rows<Arch>(queries.count, padded_, e_ + queries.first, q_features_, total_);
      work_.useful += 2 * d_ * (d_ + 1) * queries.count;
    }
  }

  void read_reversed_state(std::int64_t n) {
    for (std::int64_t j = 0; j < n; ++j) add_row<Arch>(padded_, T(1), total_, dk_ + j * padded_);
    for (std::int64_t c = 0; c < d_; c += key_panel) {  // R^T, panel by panel of its columns
      pack_panel<Arch>(smaller(key_panel, d_ - c), d_, state_ + c * padded_, padded_, transposed_);
      query_product<Arch, T, Start::accumulate>(n, key_panel, d_, v_rows_, padded_, 1, transposed_, key_panel,
                                                dk_ + c, padded_);
    }
    add_product<Arch>(n, padded_, d_, k_features_, padded_, std::int64_t(1), state_, dv_);
    work_.useful += 4 * d_ * d_ * n;
  }

  // Queries [q, q_end) of the chunk's against the keys that the last of them sees.
  void run_block(std::int64_t chunk, const Queries& queries, std::int64_t q, std::int64_t q_end) {
    const auto seen = [&](std::int64_t query) {
      return query_position<Arch>(head_, queries.first + query) - chunk + 1;
    };
    const std::int64_t key_end = seen(q_end - 1);
    std::int64_t computed = 0, unmasked = 0;
    for (std::int64_t first = q; first < q_end; first += tile_rows) {
      const std::int64_t rows = smaller(tile_rows, q_end - first);
      const std::int64_t hi = seen(first + rows - 1), columns = round_up(hi, key_panel);
      T* const weights = weights_ + (first - q) * score_stride_;
      T* const dweights = dweights_ + (first - q) * score_stride_;
      panel_scores<Arch>(rows, d_, padded_, q_features_ + first * padded_, k_panels_, 0, columns, weights,
                         score_stride_);
      panel_scores<Arch>(rows, d_, padded_, g_rows_ + first * padded_, v_panels_, 0, columns, dweights,
                         score_stride_);
      for (std::int64_t r = 0; r < rows; ++r) {
        finish_row(seen(first + r), round_up(key_end, key_panel), e_[queries.first + first + r],
                   weights + r * score_stride_, dweights + r * score_stride_);
        unmasked += seen(first + r);
      }
      add_product<Arch>(rows, padded_, hi, dweights, score_stride_, std::int64_t(1), k_features_,
                        dq_ + (queries.first + first) * padded_);
      computed += rows * (2 * columns + hi);
    }
    for (std::int64_t j = 0; j < key_end; j += tile_rows) {
      const std::int64_t keys = smaller(tile_rows, key_end - j);
      const std::int64_t first = larger(q, query_at<Arch>(head_, chunk + j) - queries.first);
      const std::int64_t corner = (first - q) * score_stride_ + j;
      add_product<Arch>(keys, padded_, q_end - first, weights_ + corner, std::int64_t(1), score_stride_,
                        g_rows_ + first * padded_, dv_ + j * padded_);
      add_product<Arch>(keys, padded_, q_end - first, dweights_ + corner, std::int64_t(1), score_stride_,
                        q_features_ + first * padded_, dk_ + j * padded_);
      computed += 2 * keys * (q_end - first);
    }
    work_.useful += 10 * d_ * unmasked;
    work_.padding += 2 * d_ * (computed - 5 * unmasked);
  }

  // Adds e to g . v on the keys [0, seen), and zeroes both rows on [seen, columns).
  static void finish_row(std::int64_t seen, std::int64_t columns, T e, T* weights, T* dweights) {
    constexpr int width = lanes<Arch, T>;
    const Batch<Arch, T> offset(e);
    for (std::int64_t j = 0; j < round_up(seen, key_panel); j += width) {
      (load<Arch, T>(dweights + j) + offset).store_unaligned(dweights + j);
    }
    fill<Arch>(seen, columns, T(0), weights);
    fill<Arch>(seen, columns, T(0), dweights);
  }

  // dst = dfeature * phi'(u), phi'(u) = 1 for u > 0 (phi(u) > 1), else phi(u).
  void write_feature_gradient(const T* features, T* dfeatures, T* dst) const {
    constexpr int width = lanes<Arch, T>;
    for (std::int64_t c = 0; c < padded_; c += width) {
      const Batch<Arch, T> slope = xsimd::min(load<Arch, T>(features + c), Batch<Arch, T>(T(1)));
      (load<Arch, T>(dfeatures + c) * slope).store_unaligned(dfeatures + c);
    }
    write_row<Arch>(d_, T(1), dfeatures, dst);
  }

  const LinearHeadGradient<T>& gradient_;
  const LinearHead<T>& head_;
  std::int64_t length_, d_, padded_, chunk_, score_stride_;
  AttentionWork work_;
  T *q_features_, *k_features_, *v_rows_, *g_rows_, *dk_, *dv_, *k_panels_, *v_panels_, *weights_, *dweights_,
      *state_, *transposed_, *total_, *e_, *dq_;
};

template <class Arch, class T>
AttentionWork linear_attention_vjp(const LinearHeadGradient<T>& gradient) noexcept {
  return LinearBackward<Arch, T>(gradient).run();
}

}  // namespace dirigo::kernels
