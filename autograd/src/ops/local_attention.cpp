// Causal softmax attention over the last w keys, j in [max(0, i - w + 1), i]: softmax_attention.hpp. The
// window counts the token itself: w = 1 returns v, w >= T is full attention.
// Derivation: docs/mathematics/sliding-window.md
#include "softmax_attention.hpp"

namespace dirigo::ops {

Variable local_attention(const Variable& q, const Variable& k, const Variable& v, int heads,
                         std::int64_t window, Rows rows, const Variable& bias) {
  if (window < 1) throw_value("local_attention", "window", "a number >= 1", std::to_string(window));
  require_rank("local_attention", "k", k.shape(), 3, "(B, T, D)");
  // A wider window than the sequence is clamped: then it is full attention bit by bit.
  const std::int64_t seen = std::min(window, std::max<std::int64_t>(1, k.shape()[1]));
  return softmax_attention("local_attention", q, k, v, heads, seen, rows, bias,
                           window_bias("local_attention", bias, heads, window, seen));
}

std::vector<OpCase> local_attention_cases(const Context& context) {
  const auto make = [&](const char* name, const Shape& shape, int heads, std::int64_t window,
                        std::uint32_t site) {
    return OpCase{
        .name = name,
        .inputs = attention_tensors(context, shape, site),
        .op = [heads, window](Tape&,
                              Variables x) { return local_attention(x[0], x[1], x[2], heads, window); },
        .reference = [heads, window](Tensors x) { return softmax_attention_reference(x, heads, window); },
        .composed = [heads, window](
                        Tape& tape,
                        Variables x) { return softmax_attention_composed(tape, x, heads, window); }};
  };
  OpCase strided = make("strided views", {2, 3, 4}, 2, 2, 30);
  for (Tensor& x : strided.inputs) x = x.reshape({2, 4, 3}).transpose(1, 2);
  OpCase reused = make("q = k = v", {1, 5, 4}, 2, 3, 40);
  reused.inputs.resize(1);
  reused.op = [](Tape&, Variables x) { return local_attention(x[0], x[0], x[0], 2, 3); };
  reused.reference = [](Tensors x) {
    return softmax_attention_reference(std::vector<Tensor>(3, x[0]), 2, 3);
  };
  reused.composed = [](Tape& tape, Variables x) {
    return softmax_attention_composed(tape, std::vector<Variable>(3, x[0]), 2, 3);
  };
  const auto biased = [&](const char* name, const Shape& shape, int heads, std::int64_t window,
                          std::uint32_t site) {
    OpCase c = make(name, shape, heads, window, site);
    c.inputs.push_back(uniform(context, {heads, window}, site + 3));
    c.op = [heads, window](Tape&, Variables x) {
      return local_attention(x[0], x[1], x[2], heads, window, {}, x[3]);
    };
    return c;
  };
  const auto some = [&](const char* name, const Shape& shape, int heads, std::int64_t window,
                        const std::vector<std::int32_t>& rows, std::uint32_t site) {
    OpCase c = biased(name, shape, heads, window, site);
    c.inputs[0] = uniform(context, {std::int64_t(rows.size()), shape[2]}, site + 4);
    c.op = [heads, window, rows](Tape&, Variables x) {
      return local_attention(x[0], x[1], x[2], heads, window, rows, x[3]);
    };
    c.reference = [heads, window, rows](Tensors x) {
      return softmax_attention_reference(x, heads, window, rows);
    };
    c.composed = [heads, window, rows](Tape& tape, Variables x) {
      return composed_rows(
          x, rows, [&](Variables all) { return softmax_attention_composed(tape, all, heads, window); });
    };
    return c;
  };
  OpCase itself = make("window 1", {1, 4, 3}, 1, 1, 5);
  itself.reference = [](Tensors x) { return x[2].to_vector(); };
  return {
      make("window 3", {1, 7, 3}, 1, 3, 1),
      make("heads and batch", {2, 5, 6}, 3, 2, 10),
      make("across tiles", {1, 37, 2}, 1, 6, 15),
      make("window beyond the sequence", {1, 4, 2}, 1, 9, 20),
      make("no position", {2, 0, 4}, 2, 3, 25),
      itself,
      strided,
      reused,
      biased("bias", {1, 7, 3}, 1, 3, 60),
      biased("bias, heads and batch", {2, 5, 6}, 3, 2, 65),
      biased("bias, across tiles", {1, 37, 2}, 1, 6, 70),
      biased("bias beyond the sequence", {2, 4, 2}, 1, 9, 75),
      biased("bias, no position", {2, 0, 4}, 2, 3, 80),
      some("some rows", {2, 7, 4}, 2, 3, {0, 4, 5, 12}, 90),
      some("rows of one sequence", {3, 5, 2}, 1, 2, {7, 9}, 100),
      some("rows across tiles", {1, 150, 2}, 1, 20, {0, 1, 30, 31, 33, 45, 46, 47, 48, 49, 80, 127, 128, 149},
           110),
  };
}

}  // namespace dirigo::ops
