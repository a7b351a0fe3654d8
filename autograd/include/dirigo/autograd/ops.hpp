// The operations. Each is one file in autograd/src/ops: mathematics, scalar reference, forward, vjp, cases.
//
// All inputs of a call must have one dtype (f32 or f64) and live on one tape. Strided inputs are made
// row-major. Shapes are checked: a mismatch throws ShapeError, a bad value ValueError. N stands for any
// number of rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dirigo/autograd/tape.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo::ops {

// --- elementwise -------------------------------------------------------------------------------------------
// a + b and a * b with broadcasting (trailing axes aligned, extent 1 or a missing axis stretches).
Variable add(const Variable& a, const Variable& b);
Variable multiply(const Variable& a, const Variable& b);
// factor * x
Variable scale(const Variable& x, double factor);
// x Phi(x), exact (erf) form
Variable gelu(const Variable& x);
// log(1 + e^x)
Variable softplus(const Variable& x);
// ELU(x) + 1
Variable elu1(const Variable& x);
// Zeroes each element with probability p (0 <= p < 1) and scales the rest by 1 / (1 - p). p = 0 returns x.
Variable dropout(const Variable& x, double p, const RandomKey& key);

// --- reductions --------------------------------------------------------------------------------------------
Variable sum(const Variable& x);             // -> scalar
Variable mean(const Variable& x);            // -> scalar; throws ValueError for an empty x
Variable sum(const Variable& x, int axis);   // drops the axis
Variable mean(const Variable& x, int axis);  // drops the axis

// --- shape -------------------------------------------------------------------------------------------------
Variable reshape(const Variable& x, const Shape& shape);
Variable transpose(const Variable& x, int axis_a, int axis_b);
Variable slice(const Variable& x, int axis, std::int64_t begin, std::int64_t end);
Variable concat(std::span<const Variable> parts, int axis);

// --- products ----------------------------------------------------------------------------------------------
// op(a) op(b) for (..., m, k) and (..., k, n); the leading axes are equal, or b is a plain matrix.
Variable matmul(const Variable& a, const Variable& b, bool transpose_a = false, bool transpose_b = false);
// x w^T + bias: x (..., in), weight (out, in), bias (out) or empty -> (..., out)
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {});

// --- rows --------------------------------------------------------------------------------------------------
// softmax over the last axis
Variable softmax(const Variable& x);
// x / sum(x) over the last axis (x > 0)
Variable normalize(const Variable& x);
// (x - mean) / sqrt(variance + eps) * gamma + beta over the last axis
Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps = 1e-5);
// rows `indices` of table (V, D) -> (n, D). Throws ValueError for an index outside [0, V).
Variable embedding(const Variable& table, std::span<const std::int32_t> indices);
// rows of x (N, D) -> (n, D); rows may repeat
Variable gather_rows(const Variable& x, std::span<const std::int32_t> rows);
// (n, D) -> (N, D): row i goes to row rows[i] (distinct), the other rows are zero
Variable scatter_rows(const Variable& x, std::span<const std::int32_t> rows, std::int64_t row_count);
// mean over rows of -log softmax(logits)[target]: logits (N, V) -> scalar
Variable cross_entropy(const Variable& logits, std::span<const std::int32_t> targets);
// sum_k weights[:, k] * experts[k]: weights (N, K), K experts of (N, D) -> (N, D)
Variable mix(const Variable& weights, std::span<const Variable> experts);
// What one expert computed for some tokens.
struct RoutedRows {
  std::int64_t expert = 0;         // its column of the weights
  std::vector<std::int32_t> rows;  // of the tokens: distinct
  Variable output;                 // (n, D)
  double weight = 1;               // of the output in y; 0: it counts for the weights' gradient alone
  double importance = 1;           // of <dy, output> in the weights' gradient
};
// y_rows[i] = sum over parts of weight * output_i (N, D), for weights (N, K) that were turned into these
// parts (straight-through): their gradient is importance * <dy_rows[i], output_i> at (rows[i], expert), else
// 0.
Variable mix_rows(const Variable& weights, std::span<const RoutedRows> parts);

// --- categorical and Dirichlet (rows of K) -----------------------------------------------------------------
// Forward: one-hot at the largest weight (ties: lowest cost, then lowest index). Backward: identity
// (the straight-through estimator: onehot + w - stop_gradient(w)). costs: K values, or empty. hard: of each
// row 1, or 0 to leave its weights as they are; empty for all 1.
Variable one_hot_straight_through(const Variable& weights, std::span<const double> costs = {},
                                  std::span<const std::uint8_t> hard = {});
// -sum_k w_k log w_k with 0 log 0 = 0: (N, K) -> (N)
Variable categorical_entropy(const Variable& weights);
// alpha ~ Dirichlet(concentration), reparameterised by implicit gradients: (N, K) -> (N, K). Values below
// `floor` are raised to it; the gradient ignores that.
Variable dirichlet_rsample(const Variable& concentration, const RandomKey& key, double floor = 0);
// KL(Dir(concentration) || Dir(prior)) in nats: (N, K) -> (N), computed in double. prior: K values > 0.
Variable dirichlet_kl(const Variable& concentration, std::span<const double> prior);
// differential entropy of Dir(concentration) in nats: (N, K) -> (N), computed in double
Variable dirichlet_entropy(const Variable& concentration);

// --- causal attention --------------------------------------------------------------------------------------
// q, k, v: (B, T, D) with D = heads * d -> (B, T, D). Scores are scaled by 1 / sqrt(d).
//
// With `rows` (indices b * T + t, ascending) only the attention of those rows is computed, forward and
// backward. q is then (n, D), holding the queries of just those rows, and so is the result. Or, with `into`,
// q is (B, T, D) as ever and the result is `into` (B, T, D), row-major, of which just those rows are written:
// for inference, it throws StateError where a gradient would be needed. The executed FLOPs are added to
// context.flops().
struct Rows : std::span<const std::int32_t> {
  using Indices = std::span<const std::int32_t>;
  Rows() = default;
  Rows(const std::vector<std::int32_t>& indices) : Indices(indices) {}
  Rows(Indices indices) : Indices(indices) {}
  Rows(Indices indices, Tensor target) : Indices(indices), into(std::move(target)) {}

  Tensor into;  // undefined: a new tensor
};
Variable full_attention(const Variable& q, const Variable& k, const Variable& v, int heads, Rows rows = {});
// keys j in [max(0, i - window + 1), i]; window >= 1 counts the token itself
// With `bias` (heads, window) the score of key j has bias[head, i - j] added to it.
Variable local_attention(const Variable& q, const Variable& k, const Variable& v, int heads,
                         std::int64_t window, Rows rows = {}, const Variable& bias = {});
// phi(u) = ELU(u) + 1, in chunks of `chunk` >= 1 positions
Variable linear_attention(const Variable& q, const Variable& k, const Variable& v, int heads,
                          std::int64_t chunk = 64, Rows rows = {});
// What the three may have of their own; empty: nothing.
struct MixedPositions {
  Variable linear_q, linear_k;  // (B, T, D): linear attention's queries and keys, instead of q and k
  Variable local_bias;          // (heads, window): local attention's bias
};
// mix of the three for the same q, k, v: weights (B T, 3) for full, linear, local -> (B, T, D)
Variable mixed_attention(const Variable& weights, const Variable& q, const Variable& k, const Variable& v,
                         int heads, std::int64_t window, std::int64_t chunk = 64,
                         const MixedPositions& positions = {});

// --- positions ---------------------------------------------------------------------------------------------
// The angles by which `rotary` turns the rows of a matrix: cos and sin of position * 10000^(-2c/d) for the
// pairs c < d/2 of a head of d (even), computed in f64 and rounded once.
struct RotaryAngles {
  // One position >= 0 per row; they may repeat and have any order.
  RotaryAngles(const Context& context, std::span<const std::int32_t> positions, std::int64_t head_dim,
               DType dtype = DType::f32);
  // Those of just these rows.
  RotaryAngles of_rows(Rows rows) const;
  // One row as `rotary` turns it, without a tape: x and y of `width` values, apart from each other; f32
  // angles.
  void turn(std::int64_t row, std::int64_t width, const float* x, float* y) const;

  Tensor cosines, sines;              // (distinct positions, d/2)
  std::vector<std::int32_t> entries;  // the row of these tables for each row of x

 private:
  RotaryAngles() = default;
};
// Every head of every row turned by the angles of its row: x (..., heads * d) with as many rows as `angles`.
// Element c of a head pairs with c + d/2.
Variable rotary(const Variable& x, const RotaryAngles& angles);

}  // namespace dirigo::ops
