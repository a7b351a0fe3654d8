// The Dirichlet distribution over K routes, in double precision (docs/mathematics.md, sections 3 and 4).
//
// Spans hold the K >= 1 entries of one distribution: concentrations b, p > 0 (otherwise the result is NaN),
// with s = sum b and the mean m = b / s; psi and psi1 are digamma and trigamma. Every function throws
// ValueError if its spans are empty or differ in size. Results are in nats. The sums cancel: an error is
// relative to the largest term, so that a divergence of equal distributions may come out as +-1e-16.
#pragma once

#include <cstddef>
#include <span>

#include "dirigo/core/kernels.hpp"
#include "dirigo/core/philox.hpp"

namespace dirigo::dirichlet {

using Values = std::span<const double>;

// log B(b) = sum lgamma(b_i) - lgamma(s)
double log_beta(Values b);

// KL(Dir(b) || Dir(p)) = log B(p) - log B(b) + sum (b_i - p_i)(psi(b_i) - psi(s))
double kl(Values b, Values p);
// The same with log_beta(p) from outside: a prior is shared by all tokens.
double kl(Values b, Values p, double log_beta_p);
// And with lgamma and psi of b_1, ..., b_K and, last, s.
double kl(Values b, Values p, double log_beta_p, Values lgamma, Values psi);
// out_i = dKL/db_i = (b_i - p_i) psi1(b_i) - (s - s_p) psi1(s)
void kl_gradient(Values b, Values p, std::span<double> out);
// The same with psi1 of b_1, ..., b_K and, last, s.
void kl_gradient(Values b, Values p, Values psi1, std::span<double> out);

// Differential entropy U = log B(b) + (s - K) psi(s) - sum (b_i - 1) psi(b_i)
double entropy(Values b);
// out_i = dU/db_i = (s - K) psi1(s) - (b_i - 1) psi1(b_i)
void entropy_gradient(Values b, std::span<double> out);

// Entropy of the categorical distribution with probabilities m: -sum m_i log m_i, where 0 log 0 = 0.
double categorical_entropy(Values m);
// E[H(alpha)] = psi(s + 1) - sum m_i psi(b_i + 1), alpha ~ Dir(b)
double expected_categorical_entropy(Values b);
// Mutual information of route and alpha, the epistemic part of the uncertainty: H(m) - E[H(alpha)]
double mutual_information(Values b);

// log sum exp(y_i), without overflow or underflow of the terms that matter.
double log_sum_exp(Values y);

// Draws alpha ~ Dir(b): y_i = log g_i, g_i ~ Gamma(b_i, 1), alpha = softmax(y). Keep y: it carries what alpha
// loses to underflow, and sample_vjp and log_prob want it.
void sample(Values b, PhiloxStream& stream, std::span<double> y, std::span<double> alpha);

// Implicit reparameterisation gradient of a draw (Figurnov, Mohamed, Mnih 2018): for g = dL/dalpha,
// db_i = dL/db_i = alpha_i D(b_i, y_i) (g_i - sum_j alpha_j g_j).
void sample_vjp(Values b, Values y, Values alpha, Values g, std::span<double> db);
// The same with D_i = D(b_i, y_i) from outside; db may be D.
void sample_vjp(Values d, Values alpha, Values g, std::span<double> db);

// Log density at alpha = softmax(y), y any (unnormalised) logarithms of alpha:
// sum (b_i - 1) log alpha_i - log B(b), with respect to d alpha_1 ... d alpha_{K-1}.
double log_prob(Values b, Values y);

// The Dirichlet of greatest likelihood for draws alpha whose logarithms have the means l_i = E[log alpha_i]:
// b solves psi(b_i) - psi(s) = l_i. Of all p it is the one with the least E_x KL(q(alpha|x) || Dir(p)), when
// l is the mean of log alpha under all q. `b` > 0 holds where to start, and then the answer, to about 1e-12 s
// relative: the fixed point b_i <- psi^-1(psi(s) + l_i) (Minka 2000, equation 9) comes closer by a factor of
// about 1 - (K - 1) / (2 s) each time. Stops after 20000 of them. There is an answer if sum exp(l_i) < 1,
// which holds for the mean of any draws that differ; throws ValueError otherwise.
void maximum_likelihood(Values mean_log, std::span<double> b);

// Many rows of K values, one after another, by the kernels of an instruction set: the functions above to a
// few places more (core/kernels.hpp). A row's bits do not depend on the other rows. K is the size of p, or
// given.

// out: a value for each row.
void kl_rows(const GammaKernels& kernels, Values b, Values p, double log_beta_p, std::span<double> out);
void kl_gradient_rows(const GammaKernels& kernels, Values b, Values p, std::span<double> out);
// out_k = mean over rows of E[log alpha_k] = psi(b_k) - psi(s)
void mean_log_rows(const GammaKernels& kernels, Values b, std::span<double> out);
// Row i is drawn from the stream of element i.
void sample_rows(const GammaKernels& kernels, std::size_t k, Values b, const RandomKey& key,
                 std::span<double> y, std::span<double> alpha);
void sample_vjp_rows(const GammaKernels& kernels, std::size_t k, Values b, Values y, Values alpha, Values g,
                     std::span<double> db);

}  // namespace dirigo::dirichlet
