// Layer normalisation over the last axis of n values (Ba, Kiros, Hinton 2016):
//   mu = mean(x), r = 1 / sqrt(mean((x - mu)^2) + eps), h = (x - mu) r, y = gamma h + beta.
// With g = gamma dy: dmu and dr reach every x_i, and collecting them gives
//   dx = r (g - mean(g) - h mean(g h)),   dgamma = sum_rows dy h,   dbeta = sum_rows dy.
// Only mu and r are kept; h is computed again.
// Derivation: docs/mathematics/layer-norm.md
#include "support.hpp"

namespace dirigo::ops {
namespace {

struct Saved {
  Tensor x, gamma, mean, rstd;
  Matrix size;
};

template <class T>
void vjp(Backward& pass, const Saved& saved) {
  const Context& context = pass.context();
  const auto [rows, cols] = saved.size;
  const std::int64_t grain = row_grain(cols), blocks = (rows + grain - 1) / grain, n = cols;
  const bool wants_affine = pass.needs(1) || pass.needs(2);
  Tensor dx = pass.needs(0) ? Tensor::empty(context, saved.x.shape(), dtype_of<T>) : Tensor();
  Tensor dgamma = Tensor::zeros(context, {wants_affine ? blocks : 0, cols}, dtype_of<T>);
  Tensor dbeta = Tensor::zeros(context, {wants_affine ? blocks : 0, cols}, dtype_of<T>);
  const T *x = saved.x.data<T>(), *gamma = saved.gamma.data<T>(), *dy = pass.gradient().data<T>();
  const T *mean = saved.mean.data<T>(), *rstd = saved.rstd.data<T>();
  T* to_x = pass.needs(0) ? dx.data<T>() : nullptr;
  T *to_gamma = dgamma.data<T>(), *to_beta = dbeta.data<T>();
  context.parallel_for<T>(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t at = begin * n, block = begin / grain * n;
    context.kernels<T>().layer_norm_vjp(end - begin, n, x + at, gamma, mean + begin, rstd + begin, dy + at,
                                        to_x != nullptr ? to_x + at : nullptr,
                                        wants_affine ? to_gamma + block : nullptr,
                                        wants_affine ? to_beta + block : nullptr);
  });
  if (pass.needs(0)) pass.add(0, std::move(dx));
  if (pass.needs(1)) pass.add(1, column_sums<T>(context, blocks, cols, to_gamma));
  if (pass.needs(2)) pass.add(2, column_sums<T>(context, blocks, cols, to_beta));
}

Values reference(Tensors v) {
  const Values x = v[0].to_vector(), gamma = v[1].to_vector(), beta = v[2].to_vector();
  const std::size_t cols = gamma.size();
  Values y(x.size());
  for (std::size_t row = 0; row < x.size(); row += cols) {
    double mean = 0, variance = 0;
    for (std::size_t j = 0; j < cols; ++j) mean += x[row + j] / double(cols);
    for (std::size_t j = 0; j < cols; ++j)
      variance += (x[row + j] - mean) * (x[row + j] - mean) / double(cols);
    for (std::size_t j = 0; j < cols; ++j) {
      y[row + j] = (x[row + j] - mean) / std::sqrt(variance + 1e-5) * gamma[j] + beta[j];
    }
  }
  return y;
}

}  // namespace

Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps) {
  const Context& context = x.context();
  const Matrix size = rows_of("layer_norm", x.shape());
  require_shape("layer_norm", "gamma", gamma.shape(), {size.cols});
  require_shape("layer_norm", "beta", beta.shape(), {size.cols});
  if (!(eps > 0)) throw_value("layer_norm", "eps", "a number > 0", std::to_string(eps));
  const Saved saved{row_major(x), row_major(gamma), Tensor::empty(context, {size.rows}, x.dtype()),
                    Tensor::empty(context, {size.rows}, x.dtype()), size};
  const Tensor offset = row_major(beta);
  Tensor y = Tensor::empty(context, x.shape(), x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Tensor mean = saved.mean, rstd = saved.rstd;  // handles through which to write
    const T *in = saved.x.data<T>(), *scales = saved.gamma.data<T>(), *offsets = offset.data<T>();
    T *out = y.data<T>(), *means = mean.data<T>(), *rstds = rstd.data<T>();
    context.parallel_for<T>(size.rows, row_grain(size.cols), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t at = begin * size.cols;
      context.kernels<T>().layer_norm(end - begin, size.cols, T(eps), in + at, scales, offsets, out + at,
                                      means + begin, rstds + begin);
    });
  });
  return x.tape().record("layer_norm", {x, gamma, beta}, y, [saved](Backward& pass) {
    visit_dtype(saved.x.dtype(), [&](auto zero) { vjp<decltype(zero)>(pass, saved); });
  });
}

std::vector<OpCase> layer_norm_cases(const Context& context) {
  const OpFunction op = [](Tape&, Variables v) { return layer_norm(v[0], v[1], v[2]); };
  const auto make = [&](const char* name, Tensor x, std::uint32_t site) {
    const Shape cols{x.shape()[-1]};
    return OpCase{.name = name,
                  .inputs = {x, uniform(context, cols, site), uniform(context, cols, site + 1)},
                  .op = op,
                  .reference = reference};
  };
  OpCase reused{.name = "gamma is beta",
                .inputs = {uniform(context, {3, 4}, 20), uniform(context, {4}, 21)},
                .op = [](Tape&, Variables v) { return layer_norm(v[0], v[1], v[1]); },
                .reference =
                    [](Tensors v) {
                      return reference(std::vector<Tensor>{v[0], v[1], v[1]});
                    }};
  OpCase shifted = make("large offset", uniform(context, {2, 6}, 11, 99, 101), 12);
  shifted.value_tolerance = 1e-11;
  return {
      make("matrix", uniform(context, {4, 7}, 1), 2),
      make("leading axes", uniform(context, {2, 3, 5}, 4), 5),
      make("strided view", uniform(context, {6, 3}, 7).transpose(0, 1), 8),
      make("zero rows", uniform(context, {0, 3}, 9), 10),
      shifted,
      reused,
  };
}

}  // namespace dirigo::ops
