// The kernel table: the inner loops that depend on the instruction set, behind plain function pointers.
//
// Every kernel is single-threaded, works on the caller's memory and never throws. Arrays of n or rows x cols
// values are contiguous unless a stride is given, and may have any alignment. y may alias x where both are
// arrays of the same extent, unless said. `Context::kernels<T>()` returns the table: for float that of the
// instruction set chosen at start, for double always the portable one, from the same templates.
//
// Special values (dirigo audit --only 'f32/*: boundary*'): NaN propagates everywhere. exp, softplus, elu1 and
// gelu give their limits 0 and inf at -inf and inf, and their vjps 0 and 1; exp overflows to inf, and what is
// below the smallest normal number may be 0. Equal largest entries of a softmax row share its weight, -inf
// has weight 0, and a row with NaN, inf or nothing but -inf is NaN. A target of probability 0 costs inf.
#pragma once

#include <cstdint>

#include "dirigo/core/attention_cache.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/core/product.hpp"

namespace dirigo {

// One head of causal softmax attention over one sequence, for a chosen set of query rows.
//   s_ij = scale * q_i . k_j over j in [max(0, p_i - window + 1), p_i], p_i the query's position;
//   out_i = sum_j softmax(s)_ij v_j.   window >= length is full attention.
// With `bias` the score is s_ij + bias[p_i - j].
// Key tiles start at absolute positions, so a query's bits do not depend on which others are computed.
template <class T>
struct AttentionHead {
  std::int64_t length = 0;    // keys and values: positions 0 .. length-1
  std::int64_t head_dim = 0;  // d
  std::int64_t queries = 0;   // number of query rows
  // Positions of the queries, ascending; null: queries == length and row i is position i.
  const std::int32_t* positions = nullptr;
  bool in_place = false;  // q and out have a row for every position; otherwise their row i is query i
  std::int64_t window = 0;
  T scale = 1;
  const T* bias = nullptr;  // min(window, length) values by distance, or null
  const T* q = nullptr;  // queries x d (in_place: length x d), rows `stride` apart (as are all the others')
  const T* k = nullptr;  // length x d
  const T* v = nullptr;
  T* out = nullptr;          // queries x d
  T* log_sum_exp = nullptr;  // queries values (natural log of the softmax denominator); may be null
  std::int64_t q_stride = 0, k_stride = 0, v_stride = 0, out_stride = 0;
  T* scratch = nullptr;  // softmax_attention_scratch(length, d) values
};

// Attention over fewer keys of the same queries, keys and values, mixed with AttentionHead's row by row:
//   y_i = outer_weight_i out_i + weight_i narrow.out_i.
template <class T>
struct NarrowAttention {
  std::int64_t window = 0;  // at most AttentionHead's; 0: there is none, and outer_weight is 1
  const T* out = nullptr;   // as AttentionHead's, and in rows as far apart
  const T* log_sum_exp = nullptr;
  const T *outer_weight = nullptr, *weight = nullptr;
  std::int64_t weight_stride = 0;
  const T* bias = nullptr;  // as AttentionHead's
};

// Its backward pass, for the same queries (at least one; all in order with `narrow`): given out and
// log_sum_exp of the forward pass, and
// dout, the gradient of out (of y with `narrow`), writes dq (as q) and dk, dv (length x d each), and where an
// attention has a bias its gradient dbias (as many values).
template <class T>
struct AttentionHeadGradient {
  AttentionHead<T> forward;
  NarrowAttention<T> narrow = {};
  const T* dout = nullptr;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;
  T *dbias = nullptr, *narrow_dbias = nullptr;
  std::int64_t dout_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;
};

// FLOPs (2 per multiply-add) on unmasked query-key pairs, and on masked pairs that shared a tile with them.
struct AttentionWork {
  std::int64_t useful = 0;
  std::int64_t padding = 0;
};

// One head of causal linear attention: phi(u) = ELU(u) + 1,
//   S_i = sum_{j<=i} phi(k_j) v_j^T, z_i = sum_{j<=i} phi(k_j), out_i = S_i^T phi(q_i) / max(z_i . phi(q_i),
//   1e-20),
// in chunks that start at multiples of `chunk` (quadratic inside a chunk, running state between chunks).
template <class T>
struct LinearHead {
  std::int64_t length = 0, head_dim = 0, queries = 0, chunk = 64;
  const std::int32_t* positions = nullptr;  // as in AttentionHead
  bool in_place = false;                    // as in AttentionHead
  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  T* out = nullptr;
  T* denominator = nullptr;  // queries values of z_i . phi(q_i) before clamping; may be null
  std::int64_t q_stride = 0, k_stride = 0, v_stride = 0, out_stride = 0;
  T* scratch = nullptr;  // linear_attention_scratch(length, d, chunk) values
};

template <class T>
struct LinearHeadGradient {
  LinearHead<T> forward;  // with out and denominator as the forward pass left them, at least one query
  const T* dout = nullptr;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;
  std::int64_t dout_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;
};

// The three attentions of one head mixed row by row, for all queries of at most longest_mixed_head positions:
//   y_i = weights_i0 full_i + weights_i1 linear_i + weights_i2 local_i,   local of AttentionHead's `window`.
inline constexpr std::int64_t longest_mixed_head = 128;
inline constexpr std::int64_t mixed_experts = 3;

template <class T>
struct MixedHead {
  std::int64_t length = 0, head_dim = 0, window = 0;
  T scale = 1;
  const T *q = nullptr, *k = nullptr, *v = nullptr;
  const T* weights = nullptr;  // length x 3
  T* out = nullptr;
  // Written by the forward pass, read by the backward pass, `length` values each: log2 of the softmax
  // denominators (full and local) and z_i . phi(q_i).
  T *log_sum = nullptr, *narrow_log_sum = nullptr, *denominator = nullptr;
  std::int64_t q_stride = 0, k_stride = 0, v_stride = 0, out_stride = 0;
  T* scratch = nullptr;  // mixed_attention_scratch(length, d) values
};

template <class T>
struct MixedHeadGradient {
  MixedHead<T> forward;  // out is not read
  const T* dout = nullptr;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;
  T* dweights = nullptr;  // length x 3: this head's share
  std::int64_t dout_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;
};

struct AdamStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;                  // decoupled (AdamW): parameter *= 1 - lr * weight_decay
  double correction1 = 1, correction2 = 1;  // 1 - beta1^step, 1 - beta2^step
  double gradient_scale = 1;                // from clipping by global norm
};

// The special functions behind Dirichlet rows (dirigo/core/special.hpp), n values at once: in double, and of
// the table's instruction set, whatever the table's T is. An element's bits do not depend on its neighbours.
// Errors: see tests/core/test_gamma_kernels.cpp.
struct GammaKernels {
  // 1 ulp; 0 below the smallest normal number.
  void (*exp)(std::int64_t n, const double* x, double* y) noexcept;
  // 8 ulp, at lgamma's roots 1 and 2 too; digamma: 8 ulp of max(1, |psi|), for its root is not treated apart.
  void (*lgamma)(std::int64_t n, const double* x, double* y) noexcept;
  void (*digamma)(std::int64_t n, const double* x, double* y) noexcept;
  void (*trigamma)(std::int64_t n, const double* x, double* y) noexcept;
  // d_i = D(a_i, y_i). Domain and relative error as those of special::log_gamma_draw_derivative.
  void (*log_gamma_draw_derivative)(std::int64_t n, const double* a, const double* y, double* d) noexcept;
  // y = log_gamma_draw(stream of element i, a) for all a of row i of a rows x cols matrix in turn, to the
  // last few places. A row's first y is NaN if one of its first proposals was rejected, or if an a is NaN,
  // not positive or above 1e15: such a row is the caller's to draw.
  void (*log_gamma_draws)(std::int64_t rows, std::int64_t cols, const RandomKey& key, const double* a,
                          double* y) noexcept;
};

template <class T>
struct KernelTable {
  // Products: rows [m0, m1) and columns [n0, n1) of p. `panel` is scratch of product_panel_size(p.k) values.
  void (*product_block)(const Product<T>& p, std::int64_t m0, std::int64_t m1, std::int64_t n0,
                        std::int64_t n1, T* panel) noexcept;
  // pack_panels() of product.hpp.
  void (*pack_panels)(std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row, std::int64_t b_col,
                      T* panels) noexcept;

  // Elementwise, n values.
  void (*add)(std::int64_t n, const T* a, const T* b, T* y) noexcept;
  void (*multiply)(std::int64_t n, const T* a, const T* b, T* y) noexcept;
  void (*scale)(std::int64_t n, T factor, const T* x, T* y) noexcept;
  void (*add_scaled)(std::int64_t n, T factor, const T* x, T* y) noexcept;  // y += factor x
  void (*exp)(std::int64_t n, const T* x, T* y) noexcept;
  // GELU, exact form: x Phi(x) = x/2 (1 + erf(x / sqrt 2)).
  void (*gelu)(std::int64_t n, const T* x, T* y) noexcept;
  void (*gelu_vjp)(std::int64_t n, const T* x, const T* dy, T* dx) noexcept;  // dx = dy gelu'(x)
  // softplus(x) = log(1 + e^x), computed as max(x, 0) + log1p(exp(-|x|)).
  void (*softplus)(std::int64_t n, const T* x, T* y) noexcept;
  void (*softplus_vjp)(std::int64_t n, const T* x, const T* dy, T* dx) noexcept;
  // phi(x) = ELU(x) + 1: x + 1 for x > 0, else exp(x) (never expm1 + 1, which rounds to 0).
  void (*elu1)(std::int64_t n, const T* x, T* y) noexcept;
  void (*elu1_vjp)(std::int64_t n, const T* x, const T* dy, T* dx) noexcept;
  // Sums in double, in an order that depends on n alone.
  double (*sum)(std::int64_t n, const T* x) noexcept;
  double (*sum_squares)(std::int64_t n, const T* x) noexcept;
  double (*dot)(std::int64_t n, const T* a, const T* b) noexcept;

  // Dropout: y = x * keep / (1 - p). Element i is kept when the i-th 32-bit word of the Philox sequence
  // (key = seed, counter = (first_block + i / 4, 0, step, purpose), word i % 4) is >= p * 2^32.
  void (*dropout)(std::int64_t n, std::uint32_t first_block, std::uint64_t seed, std::uint32_t step,
                  std::uint32_t purpose, T p, const T* x, T* y) noexcept;

  // Rows of a rows x cols matrix.
  void (*softmax)(std::int64_t rows, std::int64_t cols, const T* x, T* y) noexcept;
  void (*softmax_vjp)(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx) noexcept;
  // y = (x - mean) * rstd * gamma + beta, rstd = 1 / sqrt(variance + eps), variance biased. Saves mean and
  // rstd.
  void (*layer_norm)(std::int64_t rows, std::int64_t cols, T eps, const T* x, const T* gamma, const T* beta,
                     T* y, T* mean, T* rstd) noexcept;
  // dx; adds to dgamma and dbeta (cols values each). dx may be null, and so may dgamma and dbeta together.
  void (*layer_norm_vjp)(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean,
                         const T* rstd, const T* dy, T* dx, T* dgamma, T* dbeta) noexcept;
  // losses[i] = logsumexp(x_i) - x_i[target], dlogits (may be null) = softmax - onehot; 0 where target < 0.
  void (*cross_entropy)(std::int64_t rows, std::int64_t cols, const T* logits, const std::int32_t* targets,
                        T* losses, T* dlogits) noexcept;
  // y[j] += sum_i x[i * stride + j], rows in ascending order.
  void (*add_column_sums)(std::int64_t rows, std::int64_t cols, const T* x, std::int64_t stride,
                          T* y) noexcept;
  // y_t = sum_k weights[t, k] experts[k]_t over rows of `cols` values; experts of zero weight still count
  // (NaN propagates), except that a null expert pointer is skipped.
  void (*mix)(std::int64_t rows, std::int64_t cols, std::int64_t experts, const T* weights, const T* const* x,
              T* y) noexcept;
  // dx[k]_t = weights[t, k] dy_t and dweights[t, k] = dy_t . x[k]_t. Null dx[k] or dweights are skipped.
  void (*mix_vjp)(std::int64_t rows, std::int64_t cols, std::int64_t experts, const T* weights,
                  const T* const* x, const T* dy, T* const* dx, T* dweights) noexcept;

  // Attention cores.
  AttentionWork (*softmax_attention)(const AttentionHead<T>& head) noexcept;
  AttentionWork (*softmax_attention_vjp)(const AttentionHeadGradient<T>& head) noexcept;
  AttentionWork (*linear_attention)(const LinearHead<T>& head) noexcept;
  AttentionWork (*linear_attention_vjp)(const LinearHeadGradient<T>& head) noexcept;
  AttentionWork (*mixed_attention)(const MixedHead<T>& head) noexcept;
  AttentionWork (*mixed_attention_vjp)(const MixedHeadGradient<T>& head) noexcept;

  // One token at a time (attention_cache.hpp). Their bits are those of the kernels above.
  AttentionWork (*cached_softmax_attention)(const CachedQuery<T>& query) noexcept;
  AttentionWork (*cached_linear_attention)(const CachedQuery<T>& query) noexcept;
  AttentionWork (*absorb_keys)(const AbsorbedKeys<T>& keys) noexcept;
  // y (n) = [bias +] x (k) B (k x n): one row of a product. Rows of B are b_row apart, a multiple of 32
  // values of which all may be read; so may bias up to there. y must not alias x.
  void (*row_product)(std::int64_t n, std::int64_t k, const T* x, const T* b, std::int64_t b_row,
                      const T* bias, T* y) noexcept;

  // Optimiser: one pass over parameter, gradient and both moments.
  void (*adam)(std::int64_t n, const AdamStep& step, const T* gradient, T* parameter, T* moment1,
               T* moment2) noexcept;

  GammaKernels gamma;
};

// Scratch sizes, in values; valid for every instruction set.
std::int64_t product_panel_size(std::int64_t k) noexcept;
std::int64_t softmax_attention_scratch(std::int64_t length,
                                       std::int64_t head_dim) noexcept;  // both directions
std::int64_t linear_attention_scratch(std::int64_t length, std::int64_t head_dim,
                                      std::int64_t chunk) noexcept;
std::int64_t mixed_attention_scratch(std::int64_t length, std::int64_t head_dim) noexcept;

}  // namespace dirigo
