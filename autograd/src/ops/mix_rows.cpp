// What routed experts computed, put back to their tokens; the router's gradient from those outputs alone.
//   y_t = sum over parts of weight * E_t,   dE_t = weight * dy_t,   dw_tk = sum over k's parts of importance
//   * <dy_t, E_t>.
// With the chosen expert (weight 1, importance 1) and every other one (weight 0, importance 1) of each token
// this is mix of the one-hot weights with the straight-through gradient. An expert that is left out with
// probability 1 - p and else has importance 1/p gives the same gradient in expectation.
// Derivation: docs/mathematics/straight-through.md
#include "rows.hpp"

namespace dirigo::ops {
namespace {

struct Part {
  std::int64_t expert;
  Indices rows;
  Tensor output;
  double weight, importance;
};

struct Saved {
  Shape weights;
  std::vector<Part> parts;
};

// y_rows[i] += weight * output_i
template <class T>
void add_part(const Context& context, const Part& part, Tensor& y) {
  if (part.weight == 0) return;
  const std::int64_t cols = y.shape()[1];
  const T* from = part.output.data<T>();
  T* to = y.data<T>();
  context.parallel_for<T>(
      std::int64_t(part.rows.size()), row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          context.kernels<T>().add_scaled(cols, T(part.weight), from + i * cols,
                                          to + std::int64_t(part.rows[std::size_t(i)]) * cols);
        }
      });
}

// dw_rows[i],expert += importance * <dy_rows[i], output_i>
template <class T>
void add_weight_gradient(const Context& context, const Part& part, const Tensor& dy, Tensor& dweights) {
  const std::int64_t cols = dy.shape()[1], count = dweights.shape()[1];
  const T *from = part.output.data<T>(), *gradient = dy.data<T>();
  T* to = dweights.data<T>();
  context.parallel_for<T>(
      std::int64_t(part.rows.size()), row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const auto row = std::int64_t(part.rows[std::size_t(i)]);
          const double dot = context.kernels<T>().dot(cols, gradient + row * cols, from + i * cols);
          to[row * count + part.expert] += T(part.importance * dot);
        }
      });
}

template <class T>
void vjp(Backward& pass, const Saved& saved) {
  const Context& context = pass.context();
  if (pass.needs(0)) {
    Tensor dweights = Tensor::zeros(context, saved.weights, dtype_of<T>);
    for (const Part& part : saved.parts) add_weight_gradient<T>(context, part, pass.gradient(), dweights);
    pass.add(0, std::move(dweights));
  }
  for (std::size_t i = 0; i < saved.parts.size(); ++i) {
    const Part& part = saved.parts[i];
    if (!pass.needs(i + 1)) continue;
    Tensor picked = pick_rows(context, pass.gradient(), part.rows);
    if (part.weight != 1) {
      T* values = picked.data<T>();
      context.kernels<T>().scale(picked.size(), T(part.weight), values, values);
    }
    pass.add(i + 1, std::move(picked));
  }
}

}  // namespace

Variable mix_rows(const Variable& weights, std::span<const RoutedRows> parts) {
  const Context& context = weights.context();
  require_rank("mix_rows", "weights", weights.shape(), 2, "(N, K)");
  if (parts.empty()) throw_value("mix_rows", "parts", "at least one", "none");
  const std::int64_t rows = weights.shape()[0];
  require_rank("mix_rows", "output", parts[0].output.shape(), 2, "(n, D)");
  const std::int64_t cols = parts[0].output.shape()[1];
  Saved saved{weights.shape(), {}};
  std::vector<Variable> inputs{weights};
  for (const RoutedRows& part : parts) {
    require_shape("mix_rows", "output", part.output.shape(), {std::int64_t(part.rows.size()), cols});
    require_indices("mix_rows", part.rows, rows);
    require_distinct("mix_rows", part.rows, rows);
    if (part.expert < 0 || part.expert >= weights.shape()[1]) {
      throw_value("mix_rows", "expert", "one in [0, " + std::to_string(weights.shape()[1]) + ")",
                  std::to_string(part.expert));
    }
    saved.parts.push_back({part.expert, part.rows, row_major(part.output), part.weight, part.importance});
    inputs.push_back(part.output);
  }
  Tensor y = Tensor::zeros(context, {rows, cols}, weights.dtype());
  visit_dtype(weights.dtype(), [&](auto zero) {
    for (const Part& part : saved.parts) add_part<decltype(zero)>(context, part, y);
  });
  return weights.tape().record("mix_rows", inputs, y, [saved](Backward& pass) {
    visit_dtype(pass.gradient().dtype(), [&](auto zero) { vjp<decltype(zero)>(pass, saved); });
  });
}

// --- cases -------------------------------------------------------------------------------------------------

namespace {

// A part without its output, which is an input of the case.
struct CasePart {
  std::int64_t expert;
  Indices rows;
  double weight, importance;
};

OpCase make(const Context& context, const char* name, const Shape& weights, std::int64_t cols,
            const std::vector<CasePart>& parts, std::uint32_t site) {
  OpCase c;
  c.name = name;
  c.inputs = {uniform(context, weights, site)};
  for (const CasePart& part : parts) {
    c.inputs.push_back(uniform(context, {std::int64_t(part.rows.size()), cols}, ++site));
  }
  c.op = [parts](Tape&, Variables x) {
    std::vector<RoutedRows> routed;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      routed.push_back({parts[p].expert, parts[p].rows, x[p + 1], parts[p].weight, parts[p].importance});
    }
    return mix_rows(x[0], routed);
  };
  c.reference = [parts, rows = weights[0], cols](Tensors x) {
    Values y(std::size_t(rows * cols));
    for (std::size_t p = 0; p < parts.size(); ++p) {
      for (std::size_t i = 0; i < parts[p].rows.size(); ++i) {
        for (std::int64_t j = 0; j < cols; ++j) {
          y[std::size_t(parts[p].rows[i] * cols + j)] += parts[p].weight * x[p + 1].at({std::int64_t(i), j});
        }
      }
    }
    return y;
  };
  c.reference_vjp = [&context, parts, weights, cols](Tensors x, const Tensor& dy) {
    const std::int64_t count = weights[1];
    Values dweights(std::size_t(weights[0] * count));
    std::vector<Values> doutputs;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      Values& doutput = doutputs.emplace_back();
      for (std::size_t i = 0; i < parts[p].rows.size(); ++i) {
        const std::int64_t row = parts[p].rows[i];
        for (std::int64_t j = 0; j < cols; ++j) {
          doutput.push_back(parts[p].weight * dy.at({row, j}));
          dweights[std::size_t(row * count + parts[p].expert)] +=
              parts[p].importance * dy.at({row, j}) * x[p + 1].at({std::int64_t(i), j});
        }
      }
    }
    std::vector<Tensor> gradients{tensor(context, weights, dweights)};
    for (std::size_t p = 0; p < parts.size(); ++p) {
      gradients.push_back(tensor(context, x[p + 1].shape(), doutputs[p]));
    }
    return gradients;
  };
  return c;
}

}  // namespace

std::vector<OpCase> mix_rows_cases(const Context& context) {
  return {
      make(context, "one expert each", {4, 3}, 5, {{0, {0, 3}, 1, 1}, {2, {1, 2}, 1, 1}}, 1),
      make(context, "explored too", {4, 3}, 3,
           {{0, {0, 1}, 1, 1}, {1, {2, 3}, 1, 1}, {2, {0, 3}, 0, 4}, {1, {1}, 0, 4}}, 10),
      make(context, "mixed", {3, 2}, 35, {{0, {2, 0}, 0.25, 0.5}, {1, {0, 1, 2}, 0.75, 2}}, 20),
      make(context, "an expert without rows", {3, 2}, 4, {{0, {0, 1, 2}, 1, 1}, {1, {}, 0, 2}}, 30),
      make(context, "zero rows", {0, 3}, 4, {{1, {}, 1, 1}}, 40),
  };
}

}  // namespace dirigo::ops
