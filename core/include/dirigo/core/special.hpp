// Special functions of a positive argument in double precision: the Gamma family and the implicit derivative
// of a log-space Gamma draw. Pure and thread-safe (libm's lgamma is not: it writes the global signgam).
//
// Nothing here throws: outside the stated domain the result is NaN.
#pragma once

namespace dirigo::special {

// log Gamma(x), 0 < x <= infinity. Relative error below 4 ulp, at the roots x = 1 and x = 2 too.
double lgamma(double x);

// psi(x) = d log Gamma(x) / dx, 0 < x <= infinity. Relative error below 8 ulp, at the root 1.4616... too.
double digamma(double x);

// psi1(x) = d psi(x) / dx, 0 < x <= infinity (infinite below about 1e-154). Relative error below 3 ulp.
double trigamma(double x);

// The x > 0 with psi(x) = y, y finite: Newton's method from Minka's start (2000, appendix C). Relative error
// below 1e-12 for x in [1e-6, 1e6]. Never tends to the wrong root: psi is increasing and concave.
double inverse_digamma(double y);

struct GammaFamily {
  double lgamma;
  double digamma;
  double trigamma;
};

// All three at once, with the same bits as the single functions and most of the work shared.
GammaFamily gamma_family(double x);

// D(a, y) = dy/da of a draw y = log g, g ~ Gamma(a, 1), at a fixed quantile (Figurnov, Mohamed, Mnih 2018):
// D = -(dP(a, x)/da) / (x p(x)), x = e^y, P the regularised lower incomplete gamma function, p its density.
// Domain: 0 < a <= 1e7 (the time grows with sqrt(a)) and any finite y, however far e^y underflows or
// overflows. Relative error below 1e-13 for a in [1e-3, 1e3], below 1e-10 up to 1e7. Never negative.
double log_gamma_draw_derivative(double a, double y);

}  // namespace dirigo::special
