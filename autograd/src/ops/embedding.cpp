// y_i = table_{indices[i]}. The transpose of picking rows is adding to them:
//   dtable_v = sum over i with indices[i] = v of dy_i.
#include "rows.hpp"

namespace dirigo::ops {

Variable embedding(const Variable& table, std::span<const std::int32_t> indices) {
  require_rank("embedding", "table", table.shape(), 2, "(V, D)");
  const std::int64_t vocabulary = table.shape()[0];
  require_indices("embedding", indices, vocabulary);
  Tensor y = pick_rows(table.context(), row_major(table), indices);
  return table.tape().record("embedding", {table}, y, [rows = copy(indices), vocabulary](Backward& pass) {
    pass.add(0, add_to_rows(pass.context(), pass.gradient(), rows, vocabulary));
  });
}

std::vector<OpCase> embedding_cases(const Context& context) {
  const auto make = [](const char* name, Tensor table, Indices indices) {
    return OpCase{.name = name,
                  .inputs = {std::move(table)},
                  .op = [indices](Tape&, Variables v) { return embedding(v[0], indices); },
                  .reference = [indices](Tensors v) { return picked_reference(v[0], indices); },
                  .composed =
                      [indices](Tape& tape, Variables v) {
                        return matmul(selection(tape, indices, v[0].shape()[0]), v[0]);
                      }};
  };
  return {
      make("repeated", uniform(context, {4, 3}, 1), {2, 0, 2, 3, 2}),
      make("wide", uniform(context, {3, 67}, 2), {1, 1, 0}),
      make("strided view", uniform(context, {3, 4}, 3).transpose(0, 1), {3, 0}),
      make("no indices", uniform(context, {4, 3}, 4), {}),
  };
}

}  // namespace dirigo::ops
