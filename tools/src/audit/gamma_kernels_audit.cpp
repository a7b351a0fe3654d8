// The special functions in lanes, of every instruction set, against 25-digit values at exact arguments.
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "audit/areas.hpp"
#include "audit/dirichlet_scale.hpp"
#include "audit/reference_values.hpp"
#include "audit/worst.hpp"
#include "dirigo/core/kernels.hpp"

namespace dirigo::tools {
namespace {

using Vector = std::vector<double>;
using Unary = void (*)(std::int64_t, const double*, double*) noexcept;

constexpr const char* kFile = "core/src/kernels/gamma.inl.hpp";
constexpr const char* kClosedForms = "3 Closed forms";
constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// The worst error relative to max(|value|, scale) over the table.
double worst_of_unary(Unary kernel, long double GammaFamilyValue::*expected, double scale) {
  Vector x;
  for (const GammaFamilyValue& value : gamma_family_values()) x.push_back(value.x);
  kernel(std::int64_t(x.size()), x.data(), x.data());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = worse(worst, relative_error(x[i], gamma_family_values()[i].*expected, scale));
  return worst;
}

double worst_derivative(const GammaKernels& kernels, bool large) {
  Vector a, y, d;
  std::vector<long double> expected;
  for (const DrawDerivativeValue& value : draw_derivative_values()) {
    if ((value.a > 1e3) != large) continue;
    a.push_back(value.a);
    y.push_back(value.y);
    expected.push_back(value.d);
  }
  d.resize(a.size());
  kernels.log_gamma_draw_derivative(std::int64_t(a.size()), a.data(), y.data(), d.data());
  double worst = 0;
  for (std::size_t i = 0; i < d.size(); ++i) worst = worse(worst, relative_error(d[i], expected[i]));
  return worst;
}

// Of the divergence and of its gradient.
std::array<double, 2> worst_of_rows(const GammaKernels& kernels) {
  std::array<double, 2> worst{};
  for (const DirichletValue& value : dirichlet_values()) {
    const double log_beta_p = dirichlet::log_beta(value.p);
    double kl = 0;
    std::array<double, 3> gradient{};
    dirichlet::kl_rows(kernels, value.b, value.p, log_beta_p, {&kl, 1});
    dirichlet::kl_gradient_rows(kernels, value.b, value.p, gradient);
    worst[0] = worse(worst[0], relative_error(kl, value.kl, scale::kl(value.b, value.p)));
    for (std::size_t i = 0; i < 3; ++i) {
      const double size = scale::kl_gradient(value.b, value.p, i);
      worst[1] = worse(worst[1], relative_error(gradient[i], value.kl_gradient[i], size));
    }
  }
  return worst;
}

std::vector<Claim> claims(const std::string& isa, const GammaKernels& kernels) {
  const auto claim = [&](const char* what, double worst, double bound, const char* section) {
    std::string name = "gamma/";
    name += isa;
    name += ": ";
    name += what;
    return Claim{name, "the 25-digit values of special/*", worst, bound, kFile, section};
  };
  const auto rows = worst_of_rows(kernels);
  return {
      claim("lgamma, relative", worst_of_unary(kernels.lgamma, &GammaFamilyValue::lgamma, 0), 8 * kEpsilon,
            kClosedForms),
      claim("digamma, relative to max(1, |psi|)",
            worst_of_unary(kernels.digamma, &GammaFamilyValue::digamma, 1), 8 * kEpsilon, kClosedForms),
      claim("trigamma, relative", worst_of_unary(kernels.trigamma, &GammaFamilyValue::trigamma, 0),
            8 * kEpsilon, kClosedForms),
      claim("Dirichlet KL, relative to the sum of |terms|", rows[0], 1e-14, kClosedForms),
      claim("its gradient, relative to the sum of |terms|", rows[1], 1e-14, kClosedForms),
      claim("draw derivative, a <= 1e3, relative", worst_derivative(kernels, false), 1e-12, "4 Sampling"),
      claim("draw derivative, a from 1e4 to 1e7, relative", worst_derivative(kernels, true), 1e-10,
            "4 Sampling"),
  };
}

}  // namespace

std::vector<AuditTask> gamma_kernels_audit(std::span<const Isa> isas) {
  std::vector<AuditTask> tasks;
  for (const Isa isa : isas) {
    std::string name = "gamma/";
    name += isa_name(isa);
    tasks.push_back({name, [isa](const Context&) {
                       const Context context({.threads = 1, .isa = isa});
                       return claims(std::string(isa_name(isa)), context.kernels<float>().gamma);
                     }});
  }
  return tasks;
}

}  // namespace dirigo::tools
