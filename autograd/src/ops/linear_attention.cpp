// Causal linear attention (Katharopoulos, Vyas, Pappas, Fleuret 2020), phi(u) = ELU(u) + 1:
//   S_i = sum_{j<=i} phi(k_j) v_j^T,  z_i = sum_{j<=i} phi(k_j),  n_i = z_i . phi(q_i),  o_i = S_i^T phi(q_i)
//   / n_i
// (n_i is kept above 1e-20), which equals sum_{j<=i} a_ij v_j / sum_{j<=i} a_ij with a_ij = phi(q_i) .
// phi(k_j). Run in chunks: quadratic inside a chunk, the state (S, z) between chunks. Backward, with g_i =
// do_i / n_i:
//   da_ij = g_i . (v_j - o_i),   dphi(q_i) = sum_{j<=i} da_ij phi(k_j) = S_i g_i - (g_i . o_i) z_i,
//   dphi(k_j) = sum_{i>=j} da_ij phi(q_i),   dv_j = sum_{i>=j} a_ij g_i:
// the sums over i >= j are the same scan run from the end. Last, du = phi'(u) dphi(u).
// Derivation: docs/mathematics/linear-attention.md
#include "attention_heads.hpp"

namespace dirigo::ops {
namespace {

template <class T>
LinearHead<T> linear_head(const AttentionInputs& in, const HeadTask& task, std::int64_t chunk, T* out,
                          T* denominator, T* scratch) {
  LinearHead<T> head;
  set_head(head, in, task, out, scratch);
  head.chunk = chunk;
  head.denominator = denominator != nullptr ? denominator + task.value_offset : nullptr;
  return head;
}

Values reference(Tensors x, int heads, Rows rows = {}) {
  const auto weight = [](const Values& q, const Values& k, auto...) {
    const auto phi = [](double u) { return u > 0 ? u + 1 : std::exp(u); };
    double dot = 0;
    for (std::size_t c = 0; c < q.size(); ++c) dot += phi(q[c]) * phi(k[c]);
    return dot;
  };
  return attention_reference(x, heads, x[1].shape()[1], weight, rows);
}

Variable composed(Tape& tape, Variables x, int heads) {
  const std::int64_t length = x[0].shape()[1];
  const Variable phi_q = elu1(split_heads(x[0], heads)), phi_k = elu1(split_heads(x[1], heads));
  const Variable mask = causal_mask(tape, length, length, 1, 0);
  const Variable weights = normalize(multiply(matmul(phi_q, phi_k, false, true), mask));
  return join_heads(matmul(weights, split_heads(x[2], heads)));
}

}  // namespace

Variable linear_attention(const Variable& q, const Variable& k, const Variable& v, int heads,
                          std::int64_t chunk, Rows rows) {
  if (chunk < 1) throw_value("linear_attention", "chunk", "a number >= 1", std::to_string(chunk));
  const Context& context = q.context();
  const AttentionInputs in = attention_inputs("linear_attention", q, k, v, heads, rows);
  Tensor out = attention_output(q, rows);
  Tensor denominators = query_values(context, in, q);
  visit_dtype(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T *to = out.data<T>(), *norms = denominators.defined() ? denominators.data<T>() : nullptr;
    for_heads<T>(
        context, in, linear_attention_scratch(in.length, in.head_dim(), chunk),
        [&](const HeadTask& task, T* scratch) {
          return context.kernels<T>().linear_attention(linear_head(in, task, chunk, to, norms, scratch));
        });
  });
  return q.tape().record("linear_attention", {q, k, v}, out, [in, chunk, out, denominators](Backward& pass) {
    AttentionGradients gradients(pass.context(), in);
    visit_dtype(out.dtype(), [&](auto zero) {
      using T = decltype(zero);
      Tensor saved_out = out,
             saved_norms = denominators;  // handles: the kernel's struct wants non-const pointers
      T *o = saved_out.data<T>(), *norms = saved_norms.data<T>();
      const T* dout = pass.gradient().data<T>();
      for_heads<T>(pass.context(), in, linear_attention_scratch(in.length, in.head_dim(), chunk),
                   [&](const HeadTask& task, T* scratch) {
                     LinearHeadGradient<T> head;
                     head.forward = linear_head(in, task, chunk, o, norms, scratch);
                     gradients.set(head, in, task, dout);
                     return pass.context().kernels<T>().linear_attention_vjp(head);
                   });
    });
    gradients.hand_over(pass);
  });
}

std::vector<OpCase> linear_attention_cases(const Context& context) {
  const auto make = [&](const char* name, const Shape& shape, int heads, std::int64_t chunk,
                        std::uint32_t site) {
    return OpCase{
        .name = name,
        .inputs = attention_tensors(context, shape, site),
        .op = [heads, chunk](Tape&, Variables x) { return linear_attention(x[0], x[1], x[2], heads, chunk); },
        .reference = [heads](Tensors x) { return reference(x, heads); },
        .composed = [heads](Tape& tape, Variables x) { return composed(tape, x, heads); }};
  };
  OpCase strided = make("strided views", {2, 3, 4}, 2, 2, 30);
  for (Tensor& x : strided.inputs) x = x.reshape({2, 4, 3}).transpose(1, 2);
  OpCase reused = make("q = k = v", {1, 5, 4}, 2, 2, 40);
  reused.inputs.resize(1);
  reused.op = [](Tape&, Variables x) { return linear_attention(x[0], x[0], x[0], 2, 2); };
  reused.reference = [](Tensors x) { return reference(std::vector<Tensor>(3, x[0]), 2); };
  reused.composed = [](Tape& tape, Variables x) { return composed(tape, std::vector<Variable>(3, x[0]), 2); };
  const auto some = [&](const char* name, const Shape& shape, int heads, std::int64_t chunk,
                        const std::vector<std::int32_t>& rows, std::uint32_t site) {
    OpCase c = make(name, shape, heads, chunk, site);
    c.inputs[0] = uniform(context, {std::int64_t(rows.size()), shape[2]}, site + 3);
    c.op = [heads, chunk, rows](Tape&, Variables x) {
      return linear_attention(x[0], x[1], x[2], heads, chunk, rows);
    };
    c.reference = [heads, rows](Tensors x) { return reference(x, heads, rows); };
    c.composed = [heads, rows](Tape& tape, Variables x) {
      return composed_rows(x, rows, [&](Variables all) { return composed(tape, all, heads); });
    };
    return c;
  };
  return {
      make("one chunk", {1, 5, 3}, 1, 64, 1),
      make("chunks", {1, 7, 3}, 1, 3, 5),
      make("chunks of one", {1, 4, 2}, 1, 1, 10),
      make("heads and batch", {2, 5, 6}, 3, 2, 15),
      make("long", {1, 37, 2}, 1, 8, 20),
      make("no position", {2, 0, 4}, 2, 3, 25),
      strided,
      reused,
      some("some rows", {2, 7, 4}, 2, 3, {0, 4, 5, 12}, 50),
      some("rows of one sequence", {3, 5, 2}, 1, 2, {7, 9}, 55),
      some("rows across tiles", {1, 80, 2}, 1, 40, {0, 1, 30, 31, 33, 45, 46, 47, 48, 49, 50, 51, 52, 53, 79},
           60),
      some("a chunk without rows", {1, 20, 2}, 1, 4, {1, 2, 13, 14}, 65),
  };
}

}  // namespace dirigo::ops
