// y_t = sum_k w_tk E_k,t: a weighted mean of experts, row by row, without (N, K, D) in memory.
//   dw_tk = <dy_t, E_k,t>,   dE_k,t = w_tk dy_t.
// Derivation: docs/mathematics/straight-through.md
#include "support.hpp"

namespace dirigo::ops {
namespace {

struct Saved {
  Tensor weights;
  std::vector<Tensor> experts;
  std::int64_t rows, cols;
};

// The experts' rows from `row` on.
template <class T>
std::vector<const T*> pointers_at(const Saved& saved, std::int64_t row) {
  std::vector<const T*> pointers;
  for (const Tensor& expert : saved.experts) pointers.push_back(expert.data<T>() + row * saved.cols);
  return pointers;
}

template <class T>
void vjp(Backward& pass, const Saved& saved) {
  const Context& context = pass.context();
  const auto count = std::int64_t(saved.experts.size());
  Tensor dweights = pass.needs(0) ? Tensor::empty(context, saved.weights.shape(), dtype_of<T>) : Tensor();
  std::vector<Tensor> dexperts;
  std::vector<T*> targets;
  for (std::size_t k = 0; k < saved.experts.size(); ++k) {
    dexperts.push_back(pass.needs(k + 1) ? Tensor::empty(context, {saved.rows, saved.cols}, dtype_of<T>)
                                         : Tensor());
    targets.push_back(pass.needs(k + 1) ? dexperts.back().data<T>() : nullptr);
  }
  const T *weights = saved.weights.data<T>(), *dy = pass.gradient().data<T>();
  T* dw = pass.needs(0) ? dweights.data<T>() : nullptr;
  context.parallel_for<T>(saved.rows, row_grain(saved.cols), [&](std::int64_t begin, std::int64_t end) {
    const auto experts = pointers_at<T>(saved, begin);
    std::vector<T*> to = targets;
    for (T*& pointer : to) {
      if (pointer != nullptr) pointer += begin * saved.cols;
    }
    context.kernels<T>().mix_vjp(end - begin, saved.cols, count, weights + begin * count, experts.data(),
                                 dy + begin * saved.cols, to.data(),
                                 dw != nullptr ? dw + begin * count : nullptr);
  });
  if (pass.needs(0)) pass.add(0, dweights);
  for (std::size_t k = 0; k < dexperts.size(); ++k) {
    if (pass.needs(k + 1)) pass.add(k + 1, dexperts[k]);
  }
}

Values reference(Tensors v) {
  const std::int64_t rows = v[0].shape()[0], cols = v[1].shape()[1];
  Values y;
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t j = 0; j < cols; ++j) {
      double sum = 0;
      for (std::size_t k = 1; k < v.size(); ++k) sum += v[0].at({t, std::int64_t(k) - 1}) * v[k].at({t, j});
      y.push_back(sum);
    }
  }
  return y;
}

Variable composed(Tape&, Variables v) {
  Variable y = multiply(slice(v[0], 1, 0, 1), v[1]);
  for (std::size_t k = 2; k < v.size(); ++k) {
    y = add(y, multiply(slice(v[0], 1, std::int64_t(k) - 1, std::int64_t(k)), v[k]));
  }
  return y;
}

}  // namespace

Variable mix(const Variable& weights, std::span<const Variable> experts) {
  const Context& context = weights.context();
  if (experts.empty()) throw_value("mix", "experts", "at least one", "none");
  require_rank("mix", "experts[0]", experts[0].shape(), 2, "(N, D)");
  const std::int64_t rows = experts[0].shape()[0], cols = experts[0].shape()[1];
  const auto count = std::int64_t(experts.size());
  require_shape("mix", "weights", weights.shape(), {rows, count});
  Saved saved{row_major(weights), {}, rows, cols};
  std::vector<Variable> inputs{weights};
  for (const Variable& expert : experts) {
    require_shape("mix", "expert", expert.shape(), {rows, cols});
    saved.experts.push_back(row_major(expert));
    inputs.push_back(expert);
  }
  Tensor y = Tensor::empty(context, {rows, cols}, weights.dtype());
  visit_dtype(weights.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* w = saved.weights.data<T>();
    T* to = y.data<T>();
    context.parallel_for<T>(rows, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      context.kernels<T>().mix(end - begin, cols, count, w + begin * count,
                               pointers_at<T>(saved, begin).data(), to + begin * cols);
    });
  });
  return weights.tape().record("mix", inputs, y, [saved](Backward& pass) {
    visit_dtype(saved.weights.dtype(), [&](auto zero) { vjp<decltype(zero)>(pass, saved); });
  });
}

std::vector<OpCase> mix_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables v) { return mix(v[0], v.subspan(1)); };
  const auto make = [&](const char* name, Shape shape, int count, std::uint32_t site) {
    std::vector<Tensor> inputs{uniform(context, {shape[0], count}, site)};
    for (int k = 1; k <= count; ++k) inputs.push_back(uniform(context, shape, site + std::uint32_t(k)));
    return OpCase{.name = name, .inputs = inputs, .op = op, .reference = reference, .composed = composed};
  };
  OpCase strided = make("strided views", {3, 4}, 2, 30);
  strided.inputs[0] = uniform(context, {2, 3}, 34).transpose(0, 1);
  strided.inputs[1] = uniform(context, {4, 3}, 35).transpose(0, 1);
  OpCase reused = make("one expert twice", {3, 4}, 1, 40);
  reused.inputs[0] = uniform(context, {3, 2}, 45);
  reused.op = [](Tape&, Variables v) { return mix(v[0], std::vector<Variable>{v[1], v[1]}); };
  reused.reference = [](Tensors v) { return reference(std::vector<Tensor>{v[0], v[1], v[1]}); };
  reused.composed = nullptr;
  return {make("three experts", {4, 5}, 3, 1),
          make("one expert", {3, 4}, 1, 10),
          make("wide", {2, 35}, 3, 20),
          make("zero rows", {0, 4}, 3, 25),
          strided,
          reused};
}

}  // namespace dirigo::ops
