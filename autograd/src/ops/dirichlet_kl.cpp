// KL(Dir(b) || Dir(p)) = log B(p) - log B(b) + sum_i (b_i - p_i)(psi(b_i) - psi(s)), s = sum b, for rows b.
// The terms in psi alone cancel (d log B / db_i = psi(b_i) - psi(s)), which leaves
//   dKL/db_i = (b_i - p_i) psi1(b_i) - (s - s_p) psi1(s).
// In double: in float, small divergences come out negative.
// Derivation: docs/mathematics/dirichlet.md
#include "dirichlet_rows.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::ops {
namespace {

double reference_row(const Values& b, const Values& p) {
  double sum_b = 0, sum_p = 0, kl = 0;
  for (const double value : b) sum_b += value;
  for (const double value : p) sum_p += value;
  for (std::size_t i = 0; i < b.size(); ++i) {
    kl += special::lgamma(p[i]) - special::lgamma(b[i]) +
          (b[i] - p[i]) * (special::digamma(b[i]) - special::digamma(sum_b));
  }
  return kl + special::lgamma(sum_b) - special::lgamma(sum_p);
}

Values reference(const Tensor& x, const Values& prior) {
  const Values b = x.to_vector();
  Values y;
  for (auto row = b.begin(); row != b.end(); row += x.shape()[1]) {
    y.push_back(reference_row(Values(row, row + x.shape()[1]), prior));
  }
  return y;
}

// dKL/db from the closed form, for concentrations too small for a finite difference.
std::vector<Tensor> reference_vjp(const Context& context, const Tensor& x, const Values& p,
                                  const Tensor& dy) {
  Values dx;
  for (std::int64_t i = 0; i < x.shape()[0]; ++i) {
    double excess = 0, sum = 0;
    for (std::int64_t k = 0; k < x.shape()[1]; ++k) {
      excess += x.at({i, k}) - p[std::size_t(k)];
      sum += x.at({i, k});
    }
    for (std::int64_t k = 0; k < x.shape()[1]; ++k) {
      dx.push_back(dy.at({i}) * ((x.at({i, k}) - p[std::size_t(k)]) * special::trigamma(x.at({i, k})) -
                                 excess * special::trigamma(sum)));
    }
  }
  return {tensor(context, x.shape(), dx)};
}

Tensor forward(const Context& context, const Tensor& x, const Values& p, double log_beta_p) {
  Tensor y = Tensor::empty(context, {x.shape()[0]}, x.dtype());
  const GammaKernels& kernels = gamma_kernels(context, x.dtype());
  visit_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    for_dirichlet_blocks(context, x, [&](std::int64_t row, std::span<const double> b) {
      Values kl(b.size() / p.size());
      dirichlet::kl_rows(kernels, b, p, log_beta_p, kl);
      std::transform(kl.begin(), kl.end(), out + row, [](double value) { return T(value); });
    });
  });
  return y;
}

template <class T>
Tensor vjp(const Context& context, const Tensor& x, const Values& p, const Tensor& dy) {
  Tensor dx = Tensor::empty(context, x.shape(), dtype_of<T>);
  const T* g = dy.data<T>();
  T* out = dx.data<T>();
  const GammaKernels& kernels = gamma_kernels(context, dtype_of<T>);
  for_dirichlet_blocks(context, x, [&](std::int64_t row, std::span<const double> b) {
    const std::size_t k = p.size(), first = std::size_t(row) * k;
    Values slope(b.size());
    dirichlet::kl_gradient_rows(kernels, b, p, slope);
    for (std::size_t i = 0; i < b.size(); ++i) out[first + i] = T(double(g[(first + i) / k]) * slope[i]);
  });
  return dx;
}

}  // namespace

Variable dirichlet_kl(const Variable& concentration, std::span<const double> prior) {
  require_concentration("dirichlet_kl", concentration);
  if (std::int64_t(prior.size()) != concentration.shape()[1]) {
    throw_value("dirichlet_kl", "prior", std::to_string(concentration.shape()[1]) + " values",
                std::to_string(prior.size()));
  }
  for (const double value : prior) {
    if (!(value > 0)) throw_value("dirichlet_kl", "prior", "values > 0", std::to_string(value));
  }
  const Values p(prior.begin(), prior.end());
  const Tensor in = row_major(concentration);
  const double log_beta_p = dirichlet::log_beta(p);
  Tensor y = forward(concentration.context(), in, p, log_beta_p);
  return concentration.tape().record("dirichlet_kl", {concentration}, y, [in, p](Backward& pass) {
    visit_dtype(in.dtype(),
                [&](auto zero) { pass.add(0, vjp<decltype(zero)>(pass.context(), in, p, pass.gradient())); });
  });
}

std::vector<OpCase> dirichlet_kl_cases(const Context& context) {
  const auto make = [](const char* name, Tensor b, Values prior) {
    return OpCase{.name = name,
                  .inputs = {std::move(b)},
                  .op = [prior](Tape&, Variables v) { return dirichlet_kl(v[0], prior); },
                  .reference = [prior](Tensors v) { return reference(v[0], prior); }};
  };
  const Values paper{0.01, 0.86, 0.71};
  OpCase tiny = make("tiny concentrations",
                     tensor(context, {3, 3}, {0.01, 0.86, 0.71, 0.01, 0.02, 0.015, 3, 0.01, 0.2}), paper);
  tiny.reference_vjp = [&context, paper](Tensors v, const Tensor& dy) {
    return reference_vjp(context, v[0], paper, dy);
  };
  return {
      make("the paper's prior", uniform(context, {4, 3}, 1, 0.4, 3), paper),
      make("large", uniform(context, {2, 3}, 2, 20, 60), {1, 2, 3}),
      make("equal", tensor(context, {1, 2}, {0.7, 1.3}), {0.7, 1.3}),
      make("strided view", uniform(context, {3, 2}, 3, 0.5, 2).transpose(0, 1), paper),
      make("zero rows", uniform(context, {0, 3}, 4), paper),
      tiny,
  };
}

}  // namespace dirigo::ops
