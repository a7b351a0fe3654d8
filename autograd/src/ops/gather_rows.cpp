// y_i = x_{rows[i]};  dx_j = sum over i with rows[i] = j of dy_i.
#include "rows.hpp"

namespace dirigo::ops {

Variable gather_rows(const Variable& x, std::span<const std::int32_t> rows) {
  require_rank("gather_rows", "x", x.shape(), 2, "(N, D)");
  const std::int64_t row_count = x.shape()[0];
  require_indices("gather_rows", rows, row_count);
  Tensor y = pick_rows(x.context(), row_major(x), rows);
  return x.tape().record("gather_rows", {x}, y, [indices = copy(rows), row_count](Backward& pass) {
    pass.add(0, add_to_rows(pass.context(), pass.gradient(), indices, row_count));
  });
}

std::vector<OpCase> gather_rows_cases(const Context& context) {
  const auto make = [](const char* name, Tensor x, Indices rows) {
    return OpCase{
        .name = name,
        .inputs = {std::move(x)},
        .op = [rows](Tape&, Variables v) { return gather_rows(v[0], rows); },
        .reference = [rows](Tensors v) { return picked_reference(v[0], rows); },
        .composed = [rows](Tape& tape,
                           Variables v) { return matmul(selection(tape, rows, v[0].shape()[0]), v[0]); }};
  };
  return {
      make("subset", uniform(context, {6, 3}, 1), {0, 2, 5}),
      make("repeated", uniform(context, {3, 4}, 2), {1, 1, 2, 1}),
      make("strided view", uniform(context, {3, 4}, 3).transpose(0, 1), {3, 1}),
      make("none", uniform(context, {4, 3}, 4), {}),
  };
}

}  // namespace dirigo::ops
