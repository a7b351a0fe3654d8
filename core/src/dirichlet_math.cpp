// Derivation: docs/mathematics/dirichlet.md
// Derivation: docs/mathematics/implicit-reparameterisation.md
#include "dirigo/core/dirichlet_math.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/gamma_sampling.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::dirichlet {
namespace {

using special::digamma;
using special::trigamma;

void require_entries(const char* where, Values b) {
  if (b.empty()) throw ValueError(std::string("[dirichlet ") + where + "] size: expected at least 1, got 0");
}

void require_size(const char* where, const char* what, std::size_t got, std::size_t expected) {
  if (got == expected) return;
  throw ValueError(std::string("[dirichlet ") + where + "] size of " + what + ": expected " +
                   std::to_string(expected) + ", got " + std::to_string(got));
}

double sum(Values v) {
  return std::accumulate(v.begin(), v.end(), 0.0);
}

}  // namespace

double log_beta(Values b) {
  require_entries("log_beta", b);
  double total = 0.0;
  for (const double b_i : b) total += special::lgamma(b_i);
  return total - special::lgamma(sum(b));
}

double kl(Values b, Values p) {
  require_size("kl", "p", p.size(), b.size());
  return kl(b, p, log_beta(p));
}

double kl(Values b, Values p, double log_beta_p) {
  require_entries("kl", b);
  require_size("kl", "p", p.size(), b.size());
  // exercise dirichlet_kl: const double total = log_beta_p;
  const double psi_s = digamma(sum(b));
  double total = log_beta_p - log_beta(b);
  for (std::size_t i = 0; i < b.size(); ++i) total += (b[i] - p[i]) * (digamma(b[i]) - psi_s);
  // end of exercise
  return total;
}

void kl_gradient(Values b, Values p, std::span<double> out) {
  require_entries("kl_gradient", b);
  require_size("kl_gradient", "p", p.size(), b.size());
  require_size("kl_gradient", "out", out.size(), b.size());
  // exercise dirichlet_kl: std::fill(out.begin(), out.end(), 0.0);
  // s - s_p as a sum of differences: near b = p, where training may rest, each is exact and the sums are not.
  double difference = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) difference += b[i] - p[i];
  const double common = difference * trigamma(sum(b));
  for (std::size_t i = 0; i < b.size(); ++i) out[i] = (b[i] - p[i]) * trigamma(b[i]) - common;
  // end of exercise
}

double entropy(Values b) {
  require_entries("entropy", b);
  const double s = sum(b);
  double total = log_beta(b) + (s - static_cast<double>(b.size())) * digamma(s);
  for (const double b_i : b) total -= (b_i - 1.0) * digamma(b_i);
  return total;
}

void entropy_gradient(Values b, std::span<double> out) {
  require_entries("entropy_gradient", b);
  require_size("entropy_gradient", "out", out.size(), b.size());
  const double s = sum(b);
  const double common = (s - static_cast<double>(b.size())) * trigamma(s);
  for (std::size_t i = 0; i < b.size(); ++i) out[i] = common - (b[i] - 1.0) * trigamma(b[i]);
}

double categorical_entropy(Values m) {
  require_entries("categorical_entropy", m);
  double total = 0.0;
  for (const double m_i : m) {
    if (m_i != 0.0) total -= m_i * std::log(m_i);
  }
  return total;
}

double expected_categorical_entropy(Values b) {
  require_entries("expected_categorical_entropy", b);
  const double s = sum(b);
  double total = digamma(s + 1.0);
  for (const double b_i : b) total -= b_i / s * digamma(b_i + 1.0);
  return total;
}

double mutual_information(Values b) {
  require_entries("mutual_information", b);
  const double s = sum(b);
  double entropy_of_mean = 0.0;
  for (const double b_i : b) entropy_of_mean -= b_i / s * std::log(b_i / s);
  return entropy_of_mean - expected_categorical_entropy(b);
}

double log_sum_exp(Values y) {
  require_entries("log_sum_exp", y);
  const double largest = *std::max_element(y.begin(), y.end());
  if (std::isinf(largest)) return largest;
  double total = 0.0;
  for (const double y_i : y) total += std::exp(y_i - largest);
  return largest + std::log(total);
}

void sample(Values b, PhiloxStream& stream, std::span<double> y, std::span<double> alpha) {
  require_entries("sample", b);
  require_size("sample", "y", y.size(), b.size());
  require_size("sample", "alpha", alpha.size(), b.size());
  for (std::size_t i = 0; i < b.size(); ++i) y[i] = log_gamma_draw(stream, b[i]);
  const double log_total = log_sum_exp(y);
  for (std::size_t i = 0; i < b.size(); ++i) alpha[i] = std::exp(y[i] - log_total);
}

void sample_vjp(Values b, Values y, Values alpha, Values g, std::span<double> db) {
  require_entries("sample_vjp", b);
  require_size("sample_vjp", "y", y.size(), b.size());
  require_size("sample_vjp", "alpha", alpha.size(), b.size());
  require_size("sample_vjp", "g", g.size(), b.size());
  require_size("sample_vjp", "db", db.size(), b.size());
  // exercise implicit_gradient: std::copy(g.begin(), g.end(), db.begin());
  const double mean_g = std::inner_product(alpha.begin(), alpha.end(), g.begin(), 0.0);
  for (std::size_t i = 0; i < b.size(); ++i) {
    db[i] = alpha[i] * special::log_gamma_draw_derivative(b[i], y[i]) * (g[i] - mean_g);
  }
  // end of exercise
}

double log_prob(Values b, Values y) {
  require_entries("log_prob", b);
  require_size("log_prob", "y", y.size(), b.size());
  const double log_total = log_sum_exp(y);
  double total = -log_beta(b);
  for (std::size_t i = 0; i < b.size(); ++i) total += (b[i] - 1.0) * (y[i] - log_total);
  return total;
}

}  // namespace dirigo::dirichlet
