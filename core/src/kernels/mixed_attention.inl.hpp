// Full, linear and local attention of one head, mixed row by row, for sequences so short that linear
// attention is fastest in its quadratic form. All three are then weights of the same values:
//   y_i = sum_j C_ij v_j,   C_ij = f_i P_ij + l_i A_ij / max(z_i, 1e-20) + n_i N_ij,
// P = softmax(S), N the same within the window, A_ij = phi(q_i) . phi(k_j), z_i = sum_j A_ij; f, l, n the
// mixture. So one product with V serves the three. Backward, with dP_ij = dy_i . v_j and each expert's
// r_i = dy_i . E_i, which is the mean of dP_ij under its own weights,
//   df_i = r_i (dl, dn likewise),   dS_ij = f_i P_ij (dP_ij - r_i) + n_i N_ij (dP_ij - r'_i),
//   dA_ij = l_i (dP_ij - r''_i) / z_i        (without r''_i where z_i is clamped),
//   dv = C^T dy,   dq = scale dS k + phi'(q) (dA phi(k)),   dk = scale dS^T q + phi'(k) (dA^T phi(q)).
// Masked pairs have zeros in C, dS and dA, exactly.
// Derivation: docs/mathematics/softmax-attention.md
// Derivation: docs/mathematics/linear-attention.md
#pragma once

#include "dirigo/core/kernels.hpp"
#include "kernels/linear_attention.inl.hpp"
#include "kernels/softmax_attention.inl.hpp"

namespace dirigo::kernels {

// What both passes know of a head: packed keys and features, and the rows' masks.
template <class Arch, class T>
class MixedScores {
 public:
  using B = Batch<Arch, T>;
  static constexpr int width = lanes<Arch, T>;
  static constexpr std::int64_t tile_rows = Tile<Arch, T>::rows;

  MixedScores(const MixedHead<T>& head, Scratch<Arch, T>& scratch)
      : head_(head),
        length_(head.length),
        d_(head.head_dim),
        padded_(round_up(d_, key_panel)),
        stride_(round_up(length_, key_panel) + row_gap) {
    k_panels_ = scratch.take(round_up(length_, key_panel) * d_);
    feature_panels_ = scratch.take(round_up(length_, key_panel) * d_);
    k_features_ = scratch.take(length_ * padded_);
    q_rows_ = scratch.take(length_ * padded_);
    q_features_ = scratch.take(length_ * padded_);
    pack_panels<Arch>(0, length_, d_, head.k, head.k_stride, k_panels_);
    pack_features<Arch>(length_, d_, padded_, head.k, head.k_stride, k_features_);
    pack_panels<Arch>(0, length_, d_, k_features_, padded_, feature_panels_);
    pack_rows<Arch>(length_, d_, padded_, T(head.scale * T(log2_e)), head.q, head.q_stride, q_rows_);
    pack_features<Arch>(length_, d_, padded_, head.q, head.q_stride, q_features_);
  }

  // S (in base 2) and A of queries [first, first + rows) for keys [0, columns), -inf and 0 where masked.
  DIRIGO_INLINE void compute(std::int64_t first, std::int64_t rows, std::int64_t columns, T* s, T* a) const {
    panel_scores<Arch>(rows, d_, padded_, q_rows_ + first * padded_, k_panels_, 0, columns, s, stride_);
    panel_scores<Arch>(rows, d_, padded_, q_features_ + first * padded_, feature_panels_, 0, columns, a,
                       stride_);
    for (std::int64_t r = 0; r < rows; ++r) {
      mask_edges<Arch>(limits_, 0, first + r + 1, columns, s + r * stride_);
      visible_.hide(first + r + 1, columns, a + r * stride_);
    }
  }

  // The window's first key, and the scores s[j...] with -inf before it.
  std::int64_t window_begin(std::int64_t query) const { return larger(0, query - head_.window + 1); }
  DIRIGO_INLINE B in_window(std::int64_t begin, std::int64_t j, const T* s) const {
    return limited(load<Arch, T>(s + j), load<Arch, T>(limits_.from(smaller(j - begin, 0))));
  }

  const MixedHead<T>& head_;
  const EdgeLimits<Arch, T> limits_;
  const VisibleFactors<Arch, T> visible_;
  std::int64_t length_, d_, padded_, stride_;
  T *k_panels_, *feature_panels_, *k_features_, *q_rows_, *q_features_;
};

template <class Arch, class T>
DIRIGO_INLINE T clamped(T denominator) {
  return denominator < T(smallest_denominator) ? T(smallest_denominator) : denominator;
}

template <class Arch, class T>
class MixedForward {
 public:
  explicit MixedForward(const MixedHead<T>& head)
      : head_(head), scratch_(head.scratch), scores_(head, scratch_) {
    v_rows_ = scratch_.take(head.length * scores_.padded_);
    output_ = scratch_.take(tile_rows * scores_.padded_);
    s_ = scratch_.take(tile_rows * scores_.stride_);
    a_ = scratch_.take(tile_rows * scores_.stride_);
    narrow_ = scratch_.take(scores_.stride_);
    largest_ = scratch_.take(2 * round_up(head.length, key_panel));
    pack_rows<Arch>(head.length, scores_.d_, scores_.padded_, T(1), head.v, head.v_stride, v_rows_);
  }

  AttentionWork run() {
    std::int64_t computed = 0;
    for (std::int64_t first = 0; first < head_.length; first += tile_rows) {
      const std::int64_t rows = smaller(tile_rows, head_.length - first), hi = first + rows;
      const std::int64_t columns = round_up(hi, key_panel);
      scores_.compute(first, rows, columns, s_, a_);
      for (std::int64_t r = 0; r < rows; ++r)
        mix_row(first + r, columns, s_ + r * scores_.stride_, a_ + r * scores_.stride_);
      small_product<Arch, T, Start::zero>(rows, scores_.padded_, hi, s_, scores_.stride_, 1, v_rows_,
                                          scores_.padded_, output_, scores_.padded_);
      for (std::int64_t r = 0; r < rows; ++r) {
        write_row<Arch>(scores_.d_, T(1), output_ + r * scores_.padded_,
                        head_.out + (first + r) * head_.out_stride);
      }
      computed += rows * (2 * columns + hi);
    }
    write_log_sums();
    // S, A and C V.
    const std::int64_t useful = 6 * scores_.d_ * head_.length * (head_.length + 1) / 2;
    return {useful, 2 * scores_.d_ * computed - useful};
  }

 private:
  using B = Batch<Arch, T>;
  static constexpr int width = lanes<Arch, T>;
  static constexpr std::int64_t tile_rows = Tile<Arch, T>::rows;

  // Row i of C in place of its scores.
  DIRIGO_INLINE void mix_row(std::int64_t i, std::int64_t columns, T* s, const T* a) {
    const std::int64_t begin = scores_.window_begin(i), split = round_down(begin, width);
    const T* const weights = head_.weights + i * mixed_experts;
    B top(-__builtin_inf()), narrow_top(-__builtin_inf());
    for (std::int64_t j = 0; j < columns; j += width) top = xsimd::max(top, load<Arch, T>(s + j));
    for (std::int64_t j = split; j < columns; j += width)
      narrow_top = xsimd::max(narrow_top, scores_.in_window(begin, j, s));
    const T largest = horizontal_max<Arch, T>(top), narrow_largest = horizontal_max<Arch, T>(narrow_top);
    B narrow_sum(T(0)), sum(T(0)), denominator(T(0));
    for (std::int64_t j = split; j < columns; j += width) {
      const B p = Exponential<Arch, T>::exp2(scores_.in_window(begin, j, s) - B(narrow_largest));
      narrow_sum = narrow_sum + p;
      p.store_unaligned(narrow_ + j);
    }
    for (std::int64_t j = 0; j < columns; j += width) {
      const B p = Exponential<Arch, T>::exp2(load<Arch, T>(s + j) - B(largest));
      sum = sum + p;
      denominator = denominator + load<Arch, T>(a + j);
      p.store_unaligned(s + j);
    }
    const T total = horizontal_sum<Arch, T>(sum), narrow_total = horizontal_sum<Arch, T>(narrow_sum),
            z = horizontal_sum<Arch, T>(denominator);
    const B full(weights[0] / total), linear(weights[1] / clamped<Arch>(z)),
        narrow(weights[2] / narrow_total);
    for (std::int64_t j = 0; j < columns; j += width) {
      B c = multiply_add(linear, load<Arch, T>(a + j), full * load<Arch, T>(s + j));
      if (j >= split) c = multiply_add(narrow, load<Arch, T>(narrow_ + j), c);
      c.store_unaligned(s + j);
    }
    const std::int64_t padded = round_up(head_.length, key_panel);
    largest_[i] = largest;
    largest_[padded + i] = narrow_largest;
    head_.log_sum[i] = total;
    head_.narrow_log_sum[i] = narrow_total;
    head_.denominator[i] = z;
  }

  // log2 sum exp2(s), from the sums relative to the largest score.
  void write_log_sums() const {
    const std::int64_t padded = round_up(head_.length, key_panel);
    finish_log_sums(largest_, head_.log_sum);
    finish_log_sums(largest_ + padded, head_.narrow_log_sum);
  }
  void finish_log_sums(const T* largest, T* sums) const {
    alignas(scratch_alignment) T values[width];
    for (std::int64_t i = 0; i < head_.length; i += width) {
      const std::int64_t n = smaller(width, head_.length - i);
      for (int l = 0; l < width; ++l) values[l] = l < n ? sums[i + l] : T(1);
      (xsimd::log(load<Arch, T>(values)) * B(T(log2_e))).store_aligned(values);
      for (std::int64_t l = 0; l < n; ++l) sums[i + l] = largest[i + l] + values[l];
    }
  }

  const MixedHead<T>& head_;
  Scratch<Arch, T> scratch_;
  MixedScores<Arch, T> scores_;
  T *v_rows_, *output_, *s_, *a_, *narrow_, *largest_;
};

template <class Arch, class T>
AttentionWork mixed_attention(const MixedHead<T>& head) noexcept {
  return MixedForward<Arch, T>(head).run();
}

template <class Arch, class T>
class MixedBackward {
 public:
  explicit MixedBackward(const MixedHeadGradient<T>& gradient)
      : gradient_(gradient), head_(gradient.forward), scratch_(head_.scratch), scores_(head_, scratch_) {
    const std::int64_t rows = head_.length * scores_.padded_, square = head_.length * scores_.stride_;
    v_panels_ = scratch_.take(round_up(head_.length, key_panel) * scores_.d_);
    k_rows_ = scratch_.take(rows);
    dout_rows_ = scratch_.take(rows);
    c_ = scratch_.take(square);
    ds_ = scratch_.take(square);
    da_ = scratch_.take(square);
    product_ = scratch_.take(tile_rows * scores_.padded_);
    feature_product_ = scratch_.take(tile_rows * scores_.padded_);
    const std::int64_t d = scores_.d_;
    pack_panels<Arch>(0, head_.length, d, head_.v, head_.v_stride, v_panels_);
    pack_rows<Arch>(head_.length, d, scores_.padded_, T(1), head_.k, head_.k_stride, k_rows_);
    pack_rows<Arch>(head_.length, d, scores_.padded_, T(1), gradient_.dout, gradient_.dout_stride,
                    dout_rows_);
  }

  AttentionWork run() {
    for (std::int64_t first = 0; first < head_.length; first += tile_rows) run_queries(first);
    for (std::int64_t first = 0; first < head_.length; first += tile_rows) run_keys(first);
    // S, A, dP; dS k, dA phi(k); C^T dy, dS^T q, dA^T phi(q).
    const std::int64_t useful = 16 * scores_.d_ * head_.length * (head_.length + 1) / 2;
    return {useful, 2 * scores_.d_ * computed_ - useful};
  }

 private:
  using B = Batch<Arch, T>;
  static constexpr int width = lanes<Arch, T>;
  static constexpr std::int64_t tile_rows = Tile<Arch, T>::rows;

  // C, dS and dA of a tile of queries, and their dq.
  void run_queries(std::int64_t first) {
    const std::int64_t rows = smaller(tile_rows, head_.length - first), hi = first + rows;
    const std::int64_t columns = round_up(hi, key_panel), stride = scores_.stride_, padded = scores_.padded_;
    T *const s = c_ + first * stride, *const a = da_ + first * stride, *const dp = ds_ + first * stride;
    scores_.compute(first, rows, columns, s, a);
    panel_scores<Arch>(rows, scores_.d_, padded, dout_rows_ + first * padded, v_panels_, 0, columns, dp,
                       stride);
    for (std::int64_t r = 0; r < rows; ++r)
      differentiate_row(first + r, columns, s + r * stride, a + r * stride, dp + r * stride);
    small_product<Arch, T, Start::zero>(rows, padded, hi, dp, stride, 1, k_rows_, padded, product_, padded);
    small_product<Arch, T, Start::zero>(rows, padded, hi, a, stride, 1, scores_.k_features_, padded,
                                        feature_product_, padded);
    for (std::int64_t r = 0; r < rows; ++r) {
      write_gradient(r, head_.scale, scores_.q_features_ + (first + r) * padded,
                     gradient_.dq + (first + r) * gradient_.dq_stride);
    }
    computed_ += rows * (3 * columns + 2 * hi);
  }

  // s, a and dp become c, da and ds.
  DIRIGO_INLINE void differentiate_row(std::int64_t i, std::int64_t columns, T* s, T* a, T* dp) {
    const std::int64_t begin = scores_.window_begin(i), split = round_down(begin, width);
    const T* const weights = head_.weights + i * mixed_experts;
    const B shift(head_.log_sum[i]), narrow_shift(head_.narrow_log_sum[i]);
    const T z = head_.denominator[i];
    B full_mean(T(0)), linear_mean(T(0)), narrow_mean(T(0));
    for (std::int64_t j = 0; j < columns; j += width) {
      const B x = load<Arch, T>(dp + j), p = Exponential<Arch, T>::exp2(load<Arch, T>(s + j) - shift);
      full_mean = multiply_add(p, x, full_mean);
      linear_mean = multiply_add(load<Arch, T>(a + j), x, linear_mean);
      if (j >= split) {
        const B n = Exponential<Arch, T>::exp2(scores_.in_window(begin, j, s) - narrow_shift);
        narrow_mean = multiply_add(n, x, narrow_mean);
        n.store_unaligned(narrow_row_ + j);
      }
      p.store_unaligned(s + j);
    }
    const T full = horizontal_sum<Arch, T>(full_mean), narrow = horizontal_sum<Arch, T>(narrow_mean),
            linear = horizontal_sum<Arch, T>(linear_mean) / clamped<Arch>(z);
    T* const dweights = gradient_.dweights + i * mixed_experts;
    dweights[0] = full;
    dweights[1] = linear;
    dweights[2] = narrow;
    const B f(weights[0]), n(weights[2]), l(weights[1] / clamped<Arch>(z));
    const B offset(z < T(smallest_denominator) ? T(0) : linear);
    for (std::int64_t j = 0; j < columns; j += width) {
      const B x = load<Arch, T>(dp + j), p = f * load<Arch, T>(s + j);
      B c = multiply_add(l, load<Arch, T>(a + j), p), ds = p * (x - B(full));
      if (j >= split) {
        const B local = n * load<Arch, T>(narrow_row_ + j);
        c = c + local;
        ds = multiply_add(local, x - B(narrow), ds);
      }
      c.store_unaligned(s + j);
      ds.store_unaligned(dp + j);
      (l * (x - offset)).store_unaligned(a + j);
    }
    scores_.visible_.hide(i + 1, columns, a);
  }

  // dv and dk of a tile of keys, over the queries that see one of them.
  void run_keys(std::int64_t first) {
    const std::int64_t keys = smaller(tile_rows, head_.length - first), queries = head_.length - first;
    const std::int64_t stride = scores_.stride_, padded = scores_.padded_, corner = first * stride + first;
    const auto sum_over_queries = [&](const T* weights, const T* rows, T* to) {
      small_product<Arch, T, Start::zero>(keys, padded, queries, weights + corner, 1, stride,
                                          rows + first * padded, padded, to, padded);
    };
    sum_over_queries(c_, dout_rows_, product_);
    for (std::int64_t r = 0; r < keys; ++r) {
      write_row<Arch>(scores_.d_, T(1), product_ + r * padded,
                      gradient_.dv + (first + r) * gradient_.dv_stride);
    }
    sum_over_queries(ds_, scores_.q_rows_, product_);
    sum_over_queries(da_, scores_.q_features_, feature_product_);
    for (std::int64_t r = 0; r < keys; ++r) {  // q_rows_ carry scale log2(e), dk wants scale alone
      write_gradient(r, T(ln_2), scores_.k_features_ + (first + r) * padded,
                     gradient_.dk + (first + r) * gradient_.dk_stride);
    }
    computed_ += 3 * keys * queries;
  }

  // dst = factor product + phi' feature_product, phi'(u) = 1 for u > 0 (phi(u) > 1), else phi(u).
  DIRIGO_INLINE void write_gradient(std::int64_t row, T factor, const T* features, T* dst) const {
    T *const product = product_ + row * scores_.padded_, *const other =
                                                             feature_product_ + row * scores_.padded_;
    for (std::int64_t c = 0; c < scores_.padded_; c += width) {
      const B slope = xsimd::min(load<Arch, T>(features + c), B(T(1)));
      multiply_add(B(factor), load<Arch, T>(product + c), slope * load<Arch, T>(other + c))
          .store_unaligned(product + c);
    }
    write_row<Arch>(scores_.d_, T(1), product, dst);
  }

  const MixedHeadGradient<T>& gradient_;
  const MixedHead<T>& head_;
  Scratch<Arch, T> scratch_;
  MixedScores<Arch, T> scores_;
  std::int64_t computed_ = 0;
  T *v_panels_, *k_rows_, *dout_rows_, *c_, *ds_, *da_, *product_, *feature_product_;
  T narrow_row_[longest_mixed_head];
};

template <class Arch, class T>
AttentionWork mixed_attention_vjp(const MixedHeadGradient<T>& gradient) noexcept {
  return MixedBackward<Arch, T>(gradient).run();
}

}  // namespace dirigo::kernels
