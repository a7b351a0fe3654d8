// alpha ~ Dir(b), row by row, in log space: y_i = log g_i, g_i ~ Gamma(b_i, 1), alpha = softmax(y).
//
// Implicit reparameterisation (Figurnov, Mohamed, Mnih 2018): at a fixed quantile dy_i/db_i = D(b_i, y_i)
// with D = -(dP(b, x)/db) / (x p(x)) at x = e^y, whatever the sampler. Through the softmax, for g =
// dL/dalpha:
//   db_i = alpha_i D(b_i, y_i) (g_i - sum_j alpha_j g_j).
// Row n draws from the Philox stream of element n. The vjp needs y: alpha may have underflowed.
// Derivation: docs/mathematics/implicit-reparameterisation.md
#include "dirichlet_rows.hpp"
#include "dirigo/core/gamma_sampling.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::ops {
namespace {

struct Draws {
  Tensor log_gamma, alpha;  // y and alpha, f64 (N, K)
};

Draws sample(const Context& context, const Tensor& concentration, const RandomKey& key) {
  Draws draws{Tensor::empty(context, concentration.shape(), DType::f64),
              Tensor::empty(context, concentration.shape(), DType::f64)};
  const std::size_t k = std::size_t(concentration.shape()[1]);
  double *y = draws.log_gamma.data<double>(), *alpha = draws.alpha.data<double>();
  const GammaKernels& kernels = gamma_kernels(context, concentration.dtype());
  for_dirichlet_blocks(context, concentration, [&](std::int64_t row, std::span<const double> b) {
    const std::size_t at = std::size_t(row) * k;
    dirichlet::sample_rows(kernels, k, b, key.from(row), {y + at, b.size()}, {alpha + at, b.size()});
  });
  return draws;
}

template <class T>
Tensor vjp(const Context& context, const Tensor& concentration, const Draws& draws, const Tensor& dy) {
  Tensor dx = Tensor::empty(context, concentration.shape(), dtype_of<T>);
  const std::size_t k = std::size_t(concentration.shape()[1]);
  const double *y = draws.log_gamma.data<double>(), *alpha = draws.alpha.data<double>();
  const T* g = dy.data<T>();
  T* out = dx.data<T>();
  const GammaKernels& kernels = gamma_kernels(context, dtype_of<T>);
  for_dirichlet_blocks(context, concentration, [&](std::int64_t row, std::span<const double> b) {
    const std::size_t at = std::size_t(row) * k, n = b.size();
    const Values cotangent(g + at, g + at + n);
    Values db(n);
    dirichlet::sample_vjp_rows(kernels, k, b, {y + at, n}, {alpha + at, n}, cotangent, db);
    std::transform(db.begin(), db.end(), out + at, [](double value) { return T(value); });
  });
  return dx;
}

// y and alpha of one row, drawn in the same order.
std::pair<Values, Values> reference_row(const Tensor& b, std::int64_t row, const RandomKey& key) {
  PhiloxStream stream(key, std::uint32_t(row));
  Values y, alpha;
  double sum = 0;
  for (std::int64_t k = 0; k < b.shape()[1]; ++k) y.push_back(log_gamma_draw(stream, b.at({row, k})));
  const double top = *std::max_element(y.begin(), y.end());
  for (const double value : y) sum += std::exp(value - top);
  for (const double value : y) alpha.push_back(std::exp(value - top) / sum);
  return {y, alpha};
}

// log P(a, x), P the regularised lower incomplete gamma function, by its power series.
double log_lower_gamma(double a, double log_x) {
  double term = 1, sum = 1;
  for (int n = 1; n < 2000; ++n) sum += term *= std::exp(log_x) / (a + n);
  return std::log(sum) + a * log_x - std::exp(log_x) - special::lgamma(a + 1);
}

// D = -(d log P / da) / (d log P / d log x), both by finite differences: the definition, not our closed form.
double reference_slope(double a, double y) {
  const auto difference = [](auto f, double h) {
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
  };
  return -difference([&](double h) { return log_lower_gamma(a + h, y); }, 1e-3 * a) /
         difference([&](double h) { return log_lower_gamma(a, y + h); }, 1e-3);
}

std::vector<Tensor> reference_vjp(const Context& context, const Tensor& b, const RandomKey& key,
                                  const Tensor& g) {
  Values db;
  for (std::int64_t row = 0; row < b.shape()[0]; ++row) {
    const auto [y, alpha] = reference_row(b, row, key);
    for (std::size_t i = 0; i < y.size(); ++i) {
      double through = 0;  // sum_j g_j dalpha_j/dy_i
      for (std::size_t j = 0; j < y.size(); ++j) {
        through += g.at({row, std::int64_t(j)}) * alpha[j] * ((i == j ? 1.0 : 0.0) - alpha[i]);
      }
      db.push_back(through * reference_slope(b.at({row, std::int64_t(i)}), y[i]));
    }
  }
  return {tensor(context, b.shape(), db)};
}

}  // namespace

Variable dirichlet_rsample(const Variable& concentration, const RandomKey& key, double floor) {
  require_concentration("dirichlet_rsample", concentration);
  if (!(floor >= 0 && floor < 1))
    throw_value("dirichlet_rsample", "floor", "0 <= floor < 1", std::to_string(floor));
  const Context& context = concentration.context();
  const Tensor in = row_major(concentration);
  const Draws draws = sample(context, in, key);
  Tensor y = Tensor::empty(context, in.shape(), in.dtype());
  visit_dtype(in.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const double* alpha = draws.alpha.data<double>();
    std::transform(alpha, alpha + in.size(), y.data<T>(),
                   [floor](double value) { return T(std::max(floor, value)); });
  });
  return concentration.tape().record("dirichlet_rsample", {concentration}, y, [in, draws](Backward& pass) {
    visit_dtype(in.dtype(), [&](auto zero) {
      pass.add(0, vjp<decltype(zero)>(pass.context(), in, draws, pass.gradient()));
    });
  });
}

std::vector<OpCase> dirichlet_rsample_cases(const Context& context) {
  const RandomKey key = random_key(11, 3, Purpose::dirichlet, 2);
  const auto make = [&](const char* name, Tensor b, double floor) {
    return OpCase{
        .name = name,
        .inputs = {std::move(b)},
        .op = [key, floor](Tape&, Variables v) { return dirichlet_rsample(v[0], key, floor); },
        .reference =
            [key, floor](Tensors v) {
              Values y;
              for (std::int64_t row = 0; row < v[0].shape()[0]; ++row) {
                const auto [log_gamma, alpha] = reference_row(v[0], row, key);
                for (const double a : alpha) y.push_back(std::max(a, floor));
              }
              return y;
            },
        .reference_vjp = [&context, key](Tensors v,
                                         const Tensor& g) { return reference_vjp(context, v[0], key, g); }};
  };
  return {
      make("around one", uniform(context, {6, 3}, 1, 0.4, 3), 0),
      make("the paper's prior",
           tensor(context, {4, 3}, {.01, .86, .71, .01, .86, .71, .01, .86, .71, .01, .86, .71}), 0),
      make("large", uniform(context, {3, 4}, 2, 5, 20), 0),
      make("several blocks", uniform(context, {2 * dirichlet_grain + 3, 3}, 6, 0.4, 3), 0),
      make("floor", uniform(context, {4, 3}, 3, 0.05, 0.5), 0.01),
      make("strided view", uniform(context, {3, 4}, 4, 0.5, 2).transpose(0, 1), 0),
      make("zero rows", uniform(context, {0, 3}, 5), 0),
  };
}

}  // namespace dirigo::ops
