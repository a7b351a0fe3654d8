// Causal softmax attention over a window of keys; full attention is the window of all keys.
//
//   s_ij = q_i . k_j / sqrt(d),  p_ij = e^s_ij / Z_i,  Z_i = sum_j e^s_ij,  o_i = sum_j p_ij v_j
// (Vaswani et al. 2017), computed tile by tile with a running maximum, never as a (T, T) matrix (Milakov,
// Gimelshein 2018; Dao et al. 2022). Backward, from log Z_i and o_i alone:
//   dv_j = sum_i p_ij do_i,   dp_ij = do_i . v_j,   ds_ij = p_ij (dp_ij - do_i . o_i)
//     since sum_j p_ij dp_ij = do_i . o_i,
//   dq_i = sum_j ds_ij k_j / sqrt(d),   dk_j = sum_i ds_ij q_i / sqrt(d).
// A bias by distance, s_ij = q_i . k_j / sqrt(d) + b_{i-j}, changes none of this; db_r = sum_i ds_{i,i-r}.
// Derivation: docs/mathematics/softmax-attention.md
// Derivation: docs/mathematics/positions.md
#pragma once

#include "attention_heads.hpp"

namespace dirigo::ops {

// A task packs the keys that its queries see anew, which takes as long as 40 queries' attention to all of
// them. With a window these are few, and the rows of so few queries stay near while one head after the other
// is taken.
constexpr std::int64_t queries_per_task = 4096, queries_per_windowed_task = 512;

// The bias (heads, w) of a windowed attention; `seen` of its distances occur in the sequence.
struct WindowBias {
  Tensor values;  // undefined: none
  std::int64_t seen = 0;

  template <class T>
  const T* of_head(std::int64_t head) const {
    return values.defined() ? values.data<T>() + head * values.shape()[1] : nullptr;
  }
};

inline WindowBias window_bias(std::string_view op, const Variable& bias, int heads, std::int64_t window,
                              std::int64_t seen) {
  if (!bias.defined()) return {};
  require_shape(op, "bias", bias.shape(), {heads, window});
  return {row_major(bias), seen};
}

// (heads, w) from what each head of each sequence found, (B, heads, seen): sequences in ascending order.
template <class T>
Tensor sum_bias_gradients(const Context& context, const WindowBias& bias, const Tensor& parts) {
  Tensor sums = Tensor::zeros(context, bias.values.shape(), dtype_of<T>);
  const std::int64_t heads = sums.shape()[0], window = sums.shape()[1], tasks = parts.shape()[0];
  const T* from = parts.data<T>();
  T* const to = sums.data<T>();
  for (std::int64_t task = 0; task < tasks; ++task, from += bias.seen) {
    context.kernels<T>().add_scaled(bias.seen, T(1), from, to + task % heads * window);
  }
  return sums;
}

template <class T>
AttentionHead<T> softmax_head(const AttentionInputs& in, const HeadTask& task, std::int64_t window,
                              const WindowBias& bias, T* out, T* log_sum_exp, T* scratch) {
  AttentionHead<T> head;
  set_head(head, in, task, out, scratch);
  head.window = window;
  head.scale = T(1 / std::sqrt(double(in.head_dim())));
  head.bias = bias.of_head<T>(task.index % in.heads);
  head.log_sum_exp = log_sum_exp != nullptr ? log_sum_exp + task.value_offset : nullptr;
  return head;
}

// `window` is at most T; `bias` may reach beyond it.
inline Variable softmax_attention(std::string_view op, const Variable& q, const Variable& k,
                                  const Variable& v, int heads, std::int64_t window, const Rows& rows,
                                  const Variable& bias_variable = {}, const WindowBias& bias = {}) {
  const Context& context = q.context();
  const AttentionInputs in = attention_inputs(op, q, k, v, heads, rows);
  Tensor out = attention_output(q, rows);
  Tensor log_sum_exp = query_values(context, in, q);
  visit_dtype(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *to = out.data<T>(), *lse = log_sum_exp.defined() ? log_sum_exp.data<T>() : nullptr;
    for_heads<T>(
        context, in, softmax_attention_scratch(in.length, in.head_dim()),
        [&](const HeadTask& task, T* scratch) {
          return context.kernels<T>().softmax_attention(
              softmax_head(in, task, window, bias, to, lse, scratch));
        },
        window < in.length ? queries_per_windowed_task : queries_per_task);
  });
  return q.tape().record(
      op, {q, k, v, bias_variable}, out, [in, window, bias, out, log_sum_exp](Backward& pass) {
        AttentionGradients gradients(pass.context(), in);
        visit_dtype(out.dtype(), [&](auto zero) {
          using T = decltype(zero);
          Tensor saved_out = out,
                 saved_lse = log_sum_exp;  // handles: the kernel's struct wants pointers to non-const
          T *o = saved_out.data<T>(), *lse = saved_lse.data<T>();
          const T* dout = pass.gradient().data<T>();
          Tensor dbias = Tensor::zeros(pass.context(), {in.batch * in.heads, bias.seen}, out.dtype());
          T* const to_bias = dbias.data<T>();
          for_heads<T>(pass.context(), in, softmax_attention_scratch(in.length, in.head_dim()),
                       [&](const HeadTask& task, T* scratch) {
                         AttentionHeadGradient<T> head;
                         head.forward = softmax_head(in, task, window, bias, o, lse, scratch);
                         head.dbias = to_bias + task.index * bias.seen;
                         gradients.set(head, in, task, dout);
                         return pass.context().kernels<T>().softmax_attention_vjp(head);
                       });
          if (pass.needs(3)) pass.add(3, sum_bias_gradients<T>(pass.context(), bias, dbias));
        });
        gradients.hand_over(pass);
      });
}

// --- cases -------------------------------------------------------------------------------------------------

// With a bias (heads, window) as fourth input.
inline Values softmax_attention_reference(Tensors x, int heads, std::int64_t window, Rows rows = {}) {
  return attention_reference(
      x, heads, window,
      [&](const Values& q, const Values& k, std::int64_t head, std::int64_t distance) {
        double dot = 0;
        for (std::size_t c = 0; c < q.size(); ++c) dot += q[c] * k[c];
        const double bias = x.size() > 3 ? x[3].at({head, distance}) : 0;
        return std::exp(dot / std::sqrt(double(q.size())) + bias);
      },
      rows);
}

// (heads, T, T) from (heads, window): the bias of query i and key j, by a product with a matrix of ones and
// zeros.
inline Variable bias_by_pair(Tape& tape, const Variable& bias, std::int64_t length) {
  const std::int64_t heads = bias.shape()[0], window = bias.shape()[1];
  Values places(std::size_t(window * length * length));
  for (std::int64_t i = 0; i < length; ++i) {
    for (std::int64_t j = std::max<std::int64_t>(0, i - window + 1); j <= i; ++j) {
      places[std::size_t(((i - j) * length + i) * length + j)] = 1;
    }
  }
  const Variable matrix = tape.constant(tensor(tape.context(), {window, length * length}, places));
  return reshape(matmul(bias, matrix), {heads, length, length});
}

inline Variable softmax_attention_composed(Tape& tape, Variables x, int heads, std::int64_t window) {
  const std::int64_t length = x[0].shape()[1];
  const double factor = 1 / std::sqrt(double(x[0].shape()[2] / heads));
  Variable scores = scale(matmul(split_heads(x[0], heads), split_heads(x[1], heads), false, true), factor);
  if (x.size() > 3) scores = add(scores, bias_by_pair(tape, x[3], length));
  const Variable weights = softmax(add(scores, causal_mask(tape, length, window, 0, -1e9)));
  return join_heads(matmul(weights, split_heads(x[2], heads)));
}

}  // namespace dirigo::ops
