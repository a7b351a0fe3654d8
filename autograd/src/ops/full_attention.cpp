// Causal softmax attention over all keys j <= i: softmax_attention.hpp with a window of T.
// Derivation: docs/mathematics/softmax-attention.md
#include "softmax_attention.hpp"

namespace dirigo::ops {

Variable full_attention(const Variable& q, const Variable& k, const Variable& v, int heads, Rows rows) {
  require_rank("full_attention", "k", k.shape(), 3, "(B, T, D)");
  return softmax_attention("full_attention", q, k, v, heads, std::max<std::int64_t>(1, k.shape()[1]), rows);
}

std::vector<OpCase> full_attention_cases(const Context& context) {
  const auto make = [&](const char* name, const Shape& shape, int heads, std::uint32_t site) {
    const std::int64_t window = std::max<std::int64_t>(1, shape[1]);
    return OpCase{
        .name = name,
        .inputs = attention_tensors(context, shape, site),
        .op = [heads](Tape&, Variables x) { return full_attention(x[0], x[1], x[2], heads); },
        .reference = [heads, window](Tensors x) { return softmax_attention_reference(x, heads, window); },
        .composed = [heads, window](
                        Tape& tape,
                        Variables x) { return softmax_attention_composed(tape, x, heads, window); }};
  };
  OpCase strided = make("strided views", {2, 3, 4}, 2, 30);
  for (Tensor& x : strided.inputs) x = x.reshape({2, 4, 3}).transpose(1, 2);
  OpCase reused = make("q = k = v", {1, 4, 4}, 2, 40);
  reused.inputs.resize(1);
  reused.op = [](Tape&, Variables x) { return full_attention(x[0], x[0], x[0], 2); };
  reused.reference = [](Tensors x) {
    return softmax_attention_reference(std::vector<Tensor>(3, x[0]), 2, 4);
  };
  reused.composed = [](Tape& tape, Variables x) {
    return softmax_attention_composed(tape, std::vector<Variable>(3, x[0]), 2, 4);
  };
  OpCase sharp = make("sharp", {1, 5, 2}, 1, 50);
  for (int i = 0; i < 2; ++i) {
    Values values = sharp.inputs[std::size_t(i)].to_vector();
    for (double& value : values) value *= 6;
    sharp.inputs[std::size_t(i)] = tensor(context, {1, 5, 2}, values);
  }
  const auto some = [&](const char* name, const Shape& shape, int heads,
                        const std::vector<std::int32_t>& rows, std::uint32_t site) {
    OpCase c = make(name, shape, heads, site);
    c.inputs[0] = uniform(context, {std::int64_t(rows.size()), shape[2]}, site + 3);
    c.op = [heads, rows](Tape&, Variables x) { return full_attention(x[0], x[1], x[2], heads, rows); };
    c.reference = [heads, window = shape[1], rows](Tensors x) {
      return softmax_attention_reference(x, heads, window, rows);
    };
    c.composed = [heads, window = shape[1], rows](Tape& tape, Variables x) {
      return composed_rows(
          x, rows, [&](Variables all) { return softmax_attention_composed(tape, all, heads, window); });
    };
    return c;
  };
  return {
      make("one head", {1, 5, 3}, 1, 1),
      make("heads and batch", {2, 4, 6}, 3, 5),
      make("across tiles", {1, 37, 2}, 1, 10),
      make("one position", {2, 1, 4}, 2, 15),
      make("no position", {2, 0, 4}, 2, 20),
      make("no sequence", {0, 3, 4}, 2, 25),
      strided,
      reused,
      sharp,
      some("some rows", {2, 7, 4}, 2, {0, 4, 5, 12}, 60),
      some("rows of one sequence", {3, 5, 2}, 1, {7, 9}, 65),
      some("rows across tiles", {1, 150, 2}, 1, {0, 1, 30, 31, 33, 45, 46, 47, 48, 49, 80, 127, 128, 149},
           70),
  };
}

}  // namespace dirigo::ops
