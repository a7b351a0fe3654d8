// y_{rows[i]} = x_i for distinct rows, and 0 elsewhere: the transpose of picking these rows, so dx_i =
// dy_{rows[i]}.
#include "rows.hpp"

namespace dirigo::ops {

Variable scatter_rows(const Variable& x, std::span<const std::int32_t> rows, std::int64_t row_count) {
  require_rank("scatter_rows", "x", x.shape(), 2, "(n, D)");
  require_shape("scatter_rows", "x", x.shape(), {std::int64_t(rows.size()), x.shape()[1]});
  if (row_count < 0) throw_value("scatter_rows", "row_count", "a number >= 0", std::to_string(row_count));
  require_indices("scatter_rows", rows, row_count);
  require_distinct("scatter_rows", rows, row_count);
  Tensor y = add_to_rows(x.context(), row_major(x), rows, row_count);
  return x.tape().record("scatter_rows", {x}, y, [indices = copy(rows)](Backward& pass) {
    pass.add(0, pick_rows(pass.context(), pass.gradient(), indices));
  });
}

std::vector<OpCase> scatter_rows_cases(const Context& context) {
  const auto make = [](const char* name, Tensor x, Indices rows, std::int64_t row_count) {
    return OpCase{.name = name,
                  .inputs = {std::move(x)},
                  .op = [rows, row_count](Tape&, Variables v) { return scatter_rows(v[0], rows, row_count); },
                  .reference =
                      [rows, row_count](Tensors v) {
                        const std::int64_t cols = v[0].shape()[1];
                        Values y(std::size_t(row_count * cols));
                        for (std::size_t i = 0; i < rows.size(); ++i) {
                          for (std::int64_t j = 0; j < cols; ++j) {
                            y[std::size_t(rows[i] * cols + j)] = v[0].at({std::int64_t(i), j});
                          }
                        }
                        return y;
                      },
                  .composed =
                      [rows, row_count](Tape& tape, Variables v) {
                        return matmul(selection(tape, rows, row_count), v[0], true);
                      }};
  };
  return {
      make("some rows", uniform(context, {3, 4}, 1), {4, 0, 2}, 6),
      make("a permutation", uniform(context, {3, 2}, 2), {1, 2, 0}, 3),
      make("strided view", uniform(context, {3, 2}, 3).transpose(0, 1), {1, 3}, 4),
      make("none", uniform(context, {0, 3}, 4), {}, 2),
  };
}

}  // namespace dirigo::ops
