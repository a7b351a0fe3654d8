// Causal softmax attention over a window of keys; full attention is the window of all keys.
//
//   s_ij = q_i . k_j / sqrt(d),  p_ij = e^s_ij / Z_i,  Z_i = sum_j e^s_ij,  o_i = sum_j p_ij v_j
// (Vaswani et al. 2017), computed tile by tile with a running maximum, never as a (T, T) matrix (Milakov,
// Gimelshein 2018; Dao et al. 2022). Backward, from log Z_i and o_i alone:
//   dv_j = sum_i p_ij do_i,   dp_ij = do_i . v_j,   ds_ij = p_ij (dp_ij - do_i . o_i)
//     since sum_j p_ij dp_ij = do_i . o_i,
//   dq_i = sum_j ds_ij k_j / sqrt(d),   dk_j = sum_i ds_ij q_i / sqrt(d).
// Derivation: docs/mathematics/softmax-attention.md
#pragma once

#include "attention_heads.hpp"

namespace dirigo::ops {

// A task packs the keys that its queries see anew, which takes as long as 40 queries' attention to all of
// them. With a window these are few, and the rows of so few queries stay near while one head after the other
// is taken.
constexpr std::int64_t queries_per_task = 4096, queries_per_windowed_task = 512;

template <class T>
AttentionHead<T> softmax_head(const AttentionInputs& in, const HeadTask& task, std::int64_t window, T* out,
                              T* log_sum_exp, T* scratch) {
  AttentionHead<T> head;
  set_head(head, in, task, out, scratch);
  head.window = window;
  head.scale = T(1 / std::sqrt(double(in.head_dim())));
  head.log_sum_exp = log_sum_exp != nullptr ? log_sum_exp + task.index * in.length : nullptr;
  return head;
}

inline Variable softmax_attention(std::string_view op, const Variable& q, const Variable& k,
                                  const Variable& v, int heads, std::int64_t window, const Rows& rows) {
  const Context& context = q.context();
  const AttentionInputs in = attention_inputs(op, q, k, v, heads, rows);
  Tensor out = attention_output(q, rows);
  Tensor log_sum_exp =
      in.all ? Tensor::empty(context, {in.batch, heads, in.length}, q.dtype()) : Tensor();  // for the vjp
  visit_dtype(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *to = out.data<T>(), *lse = in.all ? log_sum_exp.data<T>() : nullptr;
    for_heads<T>(
        context, in, softmax_attention_scratch(in.length, in.head_dim()),
        [&](const HeadTask& task, T* scratch) {
          return context.kernels<T>().softmax_attention(softmax_head(in, task, window, to, lse, scratch));
        },
        window < in.length ? queries_per_windowed_task : queries_per_task);
  });
  return q.tape().record(op, {q, k, v}, out, [in, window, out, log_sum_exp](Backward& pass) {
    AttentionGradients gradients(pass.context(), in);
    visit_dtype(out.dtype(), [&](auto zero) {
      using T = decltype(zero);
      Tensor saved_out = out,
             saved_lse = log_sum_exp;  // handles: the kernel's struct wants pointers to non-const
      T *o = saved_out.data<T>(), *lse = saved_lse.data<T>();
      const T* dout = pass.gradient().data<T>();
      for_heads<T>(pass.context(), in, softmax_attention_scratch(in.length, in.head_dim()),
                   [&](const HeadTask& task, T* scratch) {
                     AttentionHeadGradient<T> head;
                     head.forward = softmax_head(in, task, window, o, lse, scratch);
                     gradients.set(head, in, task, dout);
                     return pass.context().kernels<T>().softmax_attention_vjp(head);
                   });
    });
    gradients.hand_over(pass);
  });
}

// --- cases -------------------------------------------------------------------------------------------------

inline Values softmax_attention_reference(Tensors x, int heads, std::int64_t window) {
  return attention_reference(x, heads, window, [](const Values& q, const Values& k) {
    double dot = 0;
    for (std::size_t c = 0; c < q.size(); ++c) dot += q[c] * k[c];
    return std::exp(dot / std::sqrt(double(q.size())));
  });
}

inline Variable softmax_attention_composed(Tape& tape, Variables x, int heads, std::int64_t window) {
  const std::int64_t length = x[0].shape()[1];
  const double factor = 1 / std::sqrt(double(x[0].shape()[2] / heads));
  const Variable scores =
      scale(matmul(split_heads(x[0], heads), split_heads(x[1], heads), false, true), factor);
  const Variable weights = softmax(add(scores, causal_mask(tape, length, window, 0, -1e9)));
  return join_heads(matmul(weights, split_heads(x[2], heads)));
}

}  // namespace dirigo::ops
