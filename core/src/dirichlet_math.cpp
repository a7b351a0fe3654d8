// Derivation: docs/mathematics/dirichlet.md
// Derivation: docs/mathematics/empirical-bayes.md
// Derivation: docs/mathematics/implicit-reparameterisation.md
#include "dirigo/core/dirichlet_math.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

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

void require_rows(const char* where, Values b, std::size_t k) {
  if (k > 0 && b.size() % k == 0) return;
  throw ValueError(std::string("[dirichlet ") + where + "] size of b: expected rows of " + std::to_string(k) +
                   ", got " + std::to_string(b.size()));
}

// The values of each row of k, and behind them their sum: the arguments of a divergence's special functions.
std::vector<double> with_sums(Values b, std::size_t k) {
  require_rows("with_sums", b, k);
  std::vector<double> arguments(b.size() + b.size() / k);
  auto to = arguments.begin();
  for (std::size_t at = 0; at < b.size(); at += k) {
    const Values row = b.subspan(at, k);
    to = std::copy(row.begin(), row.end(), to);
    *to++ = sum(row);
  }
  return arguments;
}

std::vector<double> with_sum(Values b) {
  return with_sums(b, b.size());
}

std::vector<double> each(double (*f)(double), std::vector<double> x) {
  std::transform(x.begin(), x.end(), x.begin(), f);
  return x;
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
  const std::vector<double> arguments = with_sum(b);
  return kl(b, p, log_beta_p, each(special::lgamma, arguments), each(digamma, arguments));
}

double kl(Values b, Values p, double log_beta_p, Values lgamma, Values psi) {
  require_size("kl", "p", p.size(), b.size());
  require_size("kl", "lgamma", lgamma.size(), b.size() + 1);
  require_size("kl", "psi", psi.size(), b.size() + 1);
  // exercise dirichlet_kl: const double total = log_beta_p;
  const double log_beta_b = sum(lgamma.first(b.size())) - lgamma.back(), psi_s = psi.back();
  double total = log_beta_p - log_beta_b;
  for (std::size_t i = 0; i < b.size(); ++i) total += (b[i] - p[i]) * (psi[i] - psi_s);
  // end of exercise
  return total;
}

void kl_gradient(Values b, Values p, std::span<double> out) {
  require_entries("kl_gradient", b);
  kl_gradient(b, p, each(trigamma, with_sum(b)), out);
}

void kl_gradient(Values b, Values p, Values psi1, std::span<double> out) {
  require_size("kl_gradient", "p", p.size(), b.size());
  require_size("kl_gradient", "psi1", psi1.size(), b.size() + 1);
  require_size("kl_gradient", "out", out.size(), b.size());
  // exercise dirichlet_kl: std::fill(out.begin(), out.end(), 0.0);
  // s - s_p as a sum of differences: near b = p, where training may rest, each is exact and the sums are not.
  double difference = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) difference += b[i] - p[i];
  const double common = difference * psi1.back();
  for (std::size_t i = 0; i < b.size(); ++i) out[i] = (b[i] - p[i]) * psi1[i] - common;
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
  require_size("sample_vjp", "db", db.size(), b.size());
  for (std::size_t i = 0; i < b.size(); ++i) db[i] = special::log_gamma_draw_derivative(b[i], y[i]);
  sample_vjp(db, alpha, g, db);
}

void sample_vjp(Values d, Values alpha, Values g, std::span<double> db) {
  require_size("sample_vjp", "alpha", alpha.size(), d.size());
  require_size("sample_vjp", "g", g.size(), d.size());
  require_size("sample_vjp", "db", db.size(), d.size());
  // exercise implicit_gradient: std::copy(g.begin(), g.end(), db.begin());
  const double mean_g = std::inner_product(alpha.begin(), alpha.end(), g.begin(), 0.0);
  for (std::size_t i = 0; i < d.size(); ++i) db[i] = alpha[i] * d[i] * (g[i] - mean_g);
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

void maximum_likelihood(Values mean_log, std::span<double> b) {
  require_entries("maximum_likelihood", mean_log);
  require_size("maximum_likelihood", "b", b.size(), mean_log.size());
  double total = 0.0;
  for (const double l : mean_log) total += std::exp(l);
  if (!(total < 1.0)) {
    throw ValueError(
        "[dirichlet maximum_likelihood] mean_log: expected exponentials with a sum below 1, got " +
        std::to_string(total));
  }
  constexpr int kMostSteps = 20000;
  double s = sum(b);
  for (int step = 0; step < kMostSteps; ++step) {
    const double psi_s = digamma(s), before = s;
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = special::inverse_digamma(psi_s + mean_log[i]);
    s = sum(b);
    if (std::fabs(s - before) <= 1e-14 * s) break;
  }
}

void mean_log_rows(const GammaKernels& kernels, Values b, std::span<double> out) {
  const std::size_t k = out.size();
  std::vector<double> psi = with_sums(b, k);
  kernels.digamma(std::ssize(psi), psi.data(), psi.data());
  const std::size_t rows = b.size() / k;
  std::fill(out.begin(), out.end(), 0.0);
  for (std::size_t i = 0; i < rows; ++i) {
    const Values row = Values(psi).subspan(i * (k + 1), k + 1);
    for (std::size_t j = 0; j < k; ++j) out[j] += (row[j] - row[k]) / double(rows);
  }
}

void kl_rows(const GammaKernels& kernels, Values b, Values p, double log_beta_p, std::span<double> out) {
  const std::size_t k = p.size();
  require_size("kl_rows", "b", b.size(), out.size() * k);
  const std::vector<double> arguments = with_sums(b, k);
  std::vector<double> lgamma(arguments.size()), psi(arguments.size());
  kernels.lgamma(std::ssize(arguments), arguments.data(), lgamma.data());
  kernels.digamma(std::ssize(arguments), arguments.data(), psi.data());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t at = i * (k + 1);
    out[i] = kl(b.subspan(i * k, k), p, log_beta_p, Values(lgamma).subspan(at, k + 1),
                Values(psi).subspan(at, k + 1));
  }
}

void kl_gradient_rows(const GammaKernels& kernels, Values b, Values p, std::span<double> out) {
  const std::size_t k = p.size();
  require_size("kl_gradient_rows", "out", out.size(), b.size());
  std::vector<double> psi1 = with_sums(b, k);
  kernels.trigamma(std::ssize(psi1), psi1.data(), psi1.data());
  for (std::size_t i = 0; i < b.size() / k; ++i)
    kl_gradient(b.subspan(i * k, k), p, Values(psi1).subspan(i * (k + 1), k + 1), out.subspan(i * k, k));
}

void sample_rows(const GammaKernels& kernels, std::size_t k, Values b, const RandomKey& key,
                 std::span<double> y, std::span<double> alpha) {
  require_rows("sample_rows", b, k);
  require_size("sample_rows", "y", y.size(), b.size());
  require_size("sample_rows", "alpha", alpha.size(), b.size());
  const std::size_t rows = b.size() / k;
  kernels.log_gamma_draws(std::int64_t(rows), std::int64_t(k), key, b.data(), y.data());
  for (std::size_t i = 0; i < rows; ++i) {
    const Values row = b.subspan(i * k, k);
    const std::span<double> y_row = y.subspan(i * k, k);
    if (std::isnan(y_row[0])) {
      PhiloxStream stream(key, std::uint32_t(i));
      for (std::size_t j = 0; j < k; ++j) y_row[j] = log_gamma_draw(stream, row[j]);
    }
    const double largest = *std::max_element(y_row.begin(), y_row.end());
    for (std::size_t j = 0; j < k; ++j) alpha[i * k + j] = y_row[j] - largest;
  }
  kernels.exp(std::ssize(alpha), alpha.data(), alpha.data());
  for (std::size_t i = 0; i < rows; ++i) {
    const std::span<double> row = alpha.subspan(i * k, k);
    const double total = sum(row);
    for (double& value : row) value /= total;
  }
}

void sample_vjp_rows(const GammaKernels& kernels, std::size_t k, Values b, Values y, Values alpha, Values g,
                     std::span<double> db) {
  require_rows("sample_vjp_rows", b, k);
  require_size("sample_vjp_rows", "y", y.size(), b.size());
  require_size("sample_vjp_rows", "alpha", alpha.size(), b.size());
  require_size("sample_vjp_rows", "g", g.size(), b.size());
  require_size("sample_vjp_rows", "db", db.size(), b.size());
  kernels.log_gamma_draw_derivative(std::ssize(b), b.data(), y.data(), db.data());
  for (std::size_t at = 0; at < b.size(); at += k)
    sample_vjp(db.subspan(at, k), alpha.subspan(at, k), g.subspan(at, k), db.subspan(at, k));
}

}  // namespace dirigo::dirichlet
