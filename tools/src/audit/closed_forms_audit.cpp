// What the closed forms must satisfy whatever their digits: KL >= 0, exact special values, limits,
// derivatives by differences; the null router; and where the training objective is an evidence bound and
// where not.
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "audit/dirichlet_scale.hpp"
#include "audit/math_areas.hpp"
#include "audit/reference_values.hpp"
#include "audit/worst.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/meta_attention/evaluation.hpp"
#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::tools {
namespace {

using Vector = std::vector<double>;

constexpr const char* kFile = "core/src/dirichlet_math.cpp";
constexpr const char* kSection = "3 Closed forms";
constexpr const char* kObjectiveFile = "meta_attention/src/objective.cpp";
constexpr const char* kObjectiveSection = "5 Objective";
constexpr int kPairs = 2000;

// Concentrations between 0.001 and 1000, uniform in the logarithm.
Vector random_concentration(PhiloxStream& stream, std::size_t k) {
  Vector b(k);
  for (double& b_i : b) b_i = std::pow(10.0, 6 * stream.uniform() - 3);
  return b;
}

PhiloxStream stream_of(int element) {
  return PhiloxStream(random_key(3, 0, Purpose::test, 500), static_cast<std::uint32_t>(element));
}

Vector scaled(Vector m, double factor) {
  for (double& m_i : m) m_i *= factor;
  return m;
}

// --- KL

std::vector<Claim> kl_sign_claims(const AuditedMath& math) {
  double negative = 0, at_equality = 0, noise_over_kl = 0, curvature = 0;
  for (int n = 0; n < kPairs; ++n) {
    PhiloxStream stream = stream_of(n);
    const std::size_t k = 2 + n % 7;
    const Vector b = random_concentration(stream, k), p = random_concentration(stream, k);
    negative = worse(negative, -math.kl(b, p) / scale::kl(b, p));
    at_equality = worse(at_equality, std::fabs(math.kl(b, b)) / scale::kl(b, b));
    noise_over_kl = worse(noise_over_kl, 1e-15 * scale::kl(b, p) / math.kl(b, p));

    // A step of 0.1% in one concentration: KL = d^2 (psi1(b_i) - psi1(s)) / 2 to leading order.
    Vector near = b;
    const std::size_t i = n % k;
    near[i] *= 1.001;
    const double d = near[i] - b[i];
    const double information = special::trigamma(b[i]) - special::trigamma(scale::sum(b));
    const double kl = math.kl(b, near), rounding = 1e-15 * scale::kl(b, near);
    noise_over_kl = worse(noise_over_kl, rounding / kl);
    curvature = worse(curvature, std::fabs(kl / (d * d * information / 2) - 1) - rounding / kl);
  }
  const std::string how = "2000 random pairs, K from 2 to 8, b from 0.001 to 1000";
  return {
      {"closed/kl: KL >= 0", how + ", relative to the sum of |terms|", negative, 1e-15, kFile, kSection},
      {"closed/kl: KL(b, b) = 0", how + ", relative to the sum of |terms|", at_equality, 1e-15, kFile,
       kSection},
      {"closed/kl: KL = 0 only at equality", how + " and steps of 0.1% in one entry: rounding error over KL",
       noise_over_kl, 1, kFile, kSection},
      {"closed/kl: near equality half the Fisher information", how + ", steps of 0.1% in one entry",
       curvature, 2e-3, kFile, kSection}};
}

// Beta(n, 1) against the uniform distribution: log n - 1 + 1/n. Dir(b) against Dir(1, ..., 1), whose density
// is (K - 1)!: -entropy - log (K - 1)!.
std::vector<Claim> kl_value_claims(const AuditedMath& math) {
  double exact = 0, against_uniform = 0;
  for (const double n : {0.01, 0.5, 2.0, 3.0, 10.0, 1000.0}) {
    const Vector b = {n, 1}, one = {1, 1};
    exact = worse(exact, relative_error(math.kl(b, one), std::log(n) - 1 + 1 / n, scale::kl(b, one)));
    exact = worse(exact, relative_error(math.entropy(b), -std::log(n) + 1 - 1 / n, scale::entropy(b)));
  }
  for (int n = 0; n < kPairs; ++n) {
    PhiloxStream stream = stream_of(n);
    const std::size_t k = 2 + n % 7;
    const Vector b = random_concentration(stream, k), one(k, 1.0);
    double log_factorial = 0;
    for (std::size_t i = 2; i < k; ++i) log_factorial += std::log(double(i));
    against_uniform = worse(against_uniform, relative_error(math.kl(b, one), -math.entropy(b) - log_factorial,
                                                            scale::kl(b, one)));
  }
  return {{"closed/kl: of Beta(n, 1) and uniform is log n - 1 + 1/n, minus the entropy",
           "exact values, relative to the sum of |terms|", exact, 1e-14, kFile, kSection},
          {"closed/kl: against uniform is minus the entropy minus log (K-1)!",
           "2000 random b, relative to the sum of |terms|", against_uniform, 1e-14, kFile, kSection}};
}

// b_1 KL -> p_1 as b_1 -> 0; KL of equal means and large concentrations l, r l -> that of Gaussians with
// covariances in the ratio 1/r: (K - 1) (r - 1 - log r) / 2.
std::vector<Claim> kl_limit_claims(const AuditedMath& math) {
  const Vector m = {0.2, 0.5, 0.3};
  double vanishing = 0, large = 0;
  for (const double b_1 : {1e-12, 1e-14})
    vanishing = worse(vanishing, relative_error(b_1 * math.kl(Vector{b_1, 2, 3}, Vector{0.7, 1, 0.4}), 0.7L));
  for (const double r : {0.5, 2.0, 10.0})
    large = worse(large, relative_error(math.kl(scaled(m, 1e6), scaled(m, 1e6 * r)), r - 1 - std::log(r)));
  return {
      {"closed/kl: b_1 KL -> p_1 as b_1 -> 0", "at b_1 = 1e-12 and 1e-14", vanishing, 1e-9, kFile, kSection},
      {"closed/kl: large concentrations become Gaussian", "s = 1e6, ratios 1/2 to 10", large, 1e-4, kFile,
       kSection}};
}

std::vector<Claim> kl_claims(const AuditedMath& math) {
  std::vector<Claim> claims = kl_sign_claims(math);
  for (auto* part : {kl_value_claims, kl_limit_claims})
    for (Claim& claim : part(math)) claims.push_back(std::move(claim));
  return claims;
}

// --- Gradients

// df/db_i by eighth-order central differences, steps of 1% of b_i: 6e-15 for a logarithm, plus rounding.
double difference(const std::function<double(const Vector&)>& f, Vector b, std::size_t i) {
  const double center = b[i], h = 0.01 * center;
  const auto at = [&](double steps) {
    b[i] = center + steps * h;
    return f(b);
  };
  const auto odd = [&](double steps) { return at(steps) - at(-steps); };
  return (4.0 / 5 * odd(1) - 1.0 / 5 * odd(2) + 4.0 / 105 * odd(3) - 1.0 / 280 * odd(4)) / h;
}

std::vector<Claim> gradient_claims(const AuditedMath& math) {
  double kl = 0, entropy = 0;
  for (int n = 0; n < 200; ++n) {
    PhiloxStream stream = stream_of(n);
    const std::size_t k = 2 + n % 4;
    const Vector b = random_concentration(stream, k), p = random_concentration(stream, k);
    Vector gradient(k);
    math.kl_gradient(b, p, gradient);
    for (std::size_t i = 0; i < k; ++i) {
      const double expected = difference([&](const Vector& v) { return math.kl(v, p); }, b, i);
      // The difference's own rounding: that of KL over the step.
      const double floor = scale::kl(b, p) / b[i] * 1e-4;
      kl = worse(kl, relative_error(gradient[i], expected, std::fmax(scale::kl_gradient(b, p, i), floor)));
    }
    math.entropy_gradient(b, gradient);
    for (std::size_t i = 0; i < k; ++i) {
      const double expected = difference(math.entropy, b, i), floor = scale::entropy(b) / b[i] * 1e-4;
      entropy = worse(entropy,
                      relative_error(gradient[i], expected, std::fmax(scale::entropy_gradient(b, i), floor)));
    }
  }
  const std::string how =
      "eighth-order central differences, 200 random pairs, relative to the sum of |terms|";
  return {{"closed/gradient: dKL/db", how, kl, 1e-9, kFile, kSection},
          {"closed/gradient: dU/db", how, entropy, 1e-9, kFile, kSection}};
}

// --- Entropies of the categorical distribution

std::vector<Claim> uncertainty_claims(const AuditedMath& math) {
  double uniform = 0, negative = 0, above = 0, sums = 0;
  for (std::size_t k = 1; k <= 32; ++k) {  // E[H] under Dir(1, ..., 1) = 1/2 + 1/3 + ... + 1/K
    long double harmonic = 0;
    for (std::size_t i = k; i >= 2; --i) harmonic += 1.0L / static_cast<long double>(i);
    const Vector one(k, 1.0);
    uniform = worse(uniform, relative_error(math.expected_categorical_entropy(one), harmonic,
                                            scale::expected_entropy(one)));
  }
  for (int n = 0; n < kPairs; ++n) {
    PhiloxStream stream = stream_of(n);
    const Vector b = random_concentration(stream, 2 + n % 7);
    const double of_mean = dirichlet::categorical_entropy(scaled(b, 1 / scale::sum(b)));
    const double expected = math.expected_categorical_entropy(b), information = math.mutual_information(b);
    const double terms = scale::expected_entropy(b);
    negative = worse(negative, worse(-information, -expected) / terms);
    above = worse(above, (expected - of_mean) / terms);
    sums = worse(sums, relative_error(expected + information, of_mean, terms));
  }
  const Vector m = {0.2, 0.5, 0.3};
  const double certain = relative_error(math.mutual_information(scaled(m, 1e5)), 2 / 2e5L);  // (K-1)/(2s)
  const double vague = math.expected_categorical_entropy(scaled(m, 1e-9));
  const std::string how = "2000 random b, relative to the sum of |terms|";
  return {{"closed/uncertainty: E[H] under Dir(1, ..., 1) is 1/2 + ... + 1/K", "K from 1 to 32", uniform,
           1e-14, kFile, kSection},
          {"closed/uncertainty: E[H] >= 0 and MI >= 0", how, negative, 1e-14, kFile, kSection},
          {"closed/uncertainty: E[H] <= H(m)", how, above, 1e-14, kFile, kSection},
          {"closed/uncertainty: E[H] + MI = H(m)", how, sums, 1e-14, kFile, kSection},
          {"closed/uncertainty: MI -> (K - 1)/(2 s) as s grows", "s = 1e5", certain, 1e-4, kFile, kSection},
          {"closed/uncertainty: E[H] -> 0 as s -> 0", "s = 1e-9", vague, 1e-8, kFile, kSection}};
}

// --- The null router, derived by the library from a configuration

std::vector<Claim> null_router_claims(const Context& context) {
  meta::Config config = meta::preset("paper");
  config.model.d_model = 16;  // routing statistics of the prior do not depend on the model's size
  config.model.heads = 2;
  config.router.hidden = 8;
  meta::resolve(config);
  const meta::LanguageModel model(context, config, 8, 1);
  const meta::RoutingStatistics got = meta::null_router(model);
  const NullRow& expected = null_row();
  const auto claim = [](const char* name, double value, long double exact) {
    return Claim{
        std::string("closed/null router: ") + name,
        "got " + std::to_string(value) + "; the paper's prior (0.01, 0.86, 0.71) in 25 digits, relative",
        relative_error(value, exact),
        1e-13,
        "meta_attention/src/evaluation.cpp",
        "6 What is reported"};
  };
  return {
      claim("entropy_mean_pct 65.8", got.entropy_mean_pct, expected.entropy_mean_pct),
      claim("entropy_sampled_pct 42.7", got.entropy_sampled_pct.value_or(0), expected.entropy_sampled_pct),
      claim("projected_cost_pct 22.3", got.projected_cost_pct, expected.projected_cost_pct),
      claim("argmax_cost_pct 15", got.argmax_cost_pct, expected.argmax_cost_pct),
      claim("mutual information 0.253 nats", dirichlet::mutual_information(model.prior()),
            expected.mutual_information),
      claim("uncertainty_mean -95.1", got.uncertainty_mean.value_or(0), expected.differential_entropy)};
}

// --- A conjugate model: alpha ~ Dir(p), x_1..x_N ~ Cat(alpha). The evidence is a product of predictions
// (Polya's urn), the exact posterior Dir(p + n), and log p(x) - ELBO(q) = KL(q || posterior).

double log_evidence(Vector p, const std::vector<std::size_t>& observations) {
  double total = 0;
  for (const std::size_t x : observations) {
    total += std::log(p[x] / scale::sum(p));
    p[x] += 1;
  }
  return total;
}

double conjugate_elbo(const AuditedMath& math, const Vector& q, const Vector& p,
                      const std::vector<std::size_t>& observations) {
  const double psi_s = math.digamma(scale::sum(q));
  double expected_log_likelihood = 0;
  for (const std::size_t x : observations) expected_log_likelihood += math.digamma(q[x]) - psi_s;
  return expected_log_likelihood - math.kl(q, p);
}

std::vector<Claim> evidence_claims(const AuditedMath& math) {
  const Vector p = {0.5, 1.5, 1.0};
  const std::vector<std::size_t> observations = {0, 2, 2, 0, 2, 1, 2, 0, 2, 2};
  Vector posterior = p;
  for (const std::size_t x : observations) posterior[x] += 1;
  const double evidence = log_evidence(p, observations);
  double above = 0, gap_error = 0;
  for (int n = 0; n < kPairs; ++n) {
    PhiloxStream stream = stream_of(n);
    Vector q(3);
    for (double& q_i : q) q_i = 0.1 + 12 * stream.uniform();
    const double gap = evidence - conjugate_elbo(math, q, p, observations);
    above = worse(above, -gap);
    gap_error = worse(gap_error, relative_error(gap, math.kl(q, posterior), 1));
  }
  const double at_posterior = std::fabs(evidence - conjugate_elbo(math, posterior, p, observations));
  return {{"closed/evidence: ELBO <= log evidence", "conjugate Dirichlet-categorical, 2000 random q, in nats",
           above, 1e-12, kFile, kObjectiveSection},
          {"closed/evidence: the gap is KL(q || exact posterior)",
           "evidence by Polya's urn, 2000 random q, relative to max(1, KL)", gap_error, 1e-12, kFile,
           kObjectiveSection},
          {"closed/evidence: no gap at the exact posterior", "in nats", at_posterior, 1e-12, kFile,
           kObjectiveSection}};
}

// --- Empirical Bayes: the prior estimated from posteriors is where their mean KL has no slope in it

std::vector<Claim> estimated_prior_claims(const AuditedMath& math) {
  double slope = 0;
  for (int n = 0; n < 200; ++n) {
    PhiloxStream stream = stream_of(n);
    constexpr std::size_t k = 3;
    constexpr int posteriors = 5;
    Vector mean_log(k), p(k, 1.0);
    for (int t = 0; t < posteriors; ++t) {
      Vector b(k);
      for (double& b_i : b) b_i = std::pow(10.0, 3 * stream.uniform() - 2);
      const double psi_s = math.digamma(scale::sum(b));
      for (std::size_t i = 0; i < k; ++i) mean_log[i] += (math.digamma(b[i]) - psi_s) / posteriors;
    }
    dirichlet::maximum_likelihood(mean_log, p);
    // d mean KL / dp_i = psi(p_i) - psi(s) - mean_log_i
    const double psi_s = math.digamma(scale::sum(p));
    for (std::size_t i = 0; i < k; ++i)
      slope = worse(slope, relative_error(math.digamma(p[i]) - psi_s, mean_log[i], 1));
  }
  return {{"closed/estimated prior: the mean KL of the posteriors has no slope in it",
           "200 sets of 5 random posteriors, psi(p) - psi(s) against their mean E[log alpha]", slope, 1e-11,
           kFile, kObjectiveSection}};
}

// --- The training objective, on one token with two experts: x has likelihood l_k under expert k, the weights
// alpha ~ Dir(p), and the mixture's evidence is log sum m_k l_k. -L is a bound for w_kl = 1 with sampled,
// soft weights. Elsewhere it is not: claims give an example by how much -L exceeds the log evidence.

struct Experts {
  Vector prior;
  double first, second;  // likelihoods
  double log_mixture(double alpha) const { return std::log(alpha * first + (1 - alpha) * second); }
  double log_evidence() const { return log_mixture(prior[0] / scale::sum(prior)); }
};

// E_q[f(alpha_1)], q = Beta(b), by the trapezoidal rule in t = logit alpha_1.
double expectation(const AuditedMath& math, const Vector& b, const std::function<double(double)>& f) {
  const double step = 1.0 / 32;
  double total = 0;
  for (double t = -40 / std::fmin(1.0, b[0]); t < 40 / std::fmin(1.0, b[1]); t += step) {
    const double log_rest = -dirichlet::log_sum_exp(Vector{t, 0.0}), log_alpha = t + log_rest;
    const double density = std::exp(math.log_prob(b, Vector{t, 0.0}) + log_alpha + log_rest);
    if (density > 0) total += step * density * f(std::exp(log_alpha));
  }
  return total;
}

// The smallest of log evidence + L over posteriors q: a bound would keep it >= 0.
template <class Objective>
double smallest_gap(const Experts& experts, const Objective& objective) {
  double most = -std::numeric_limits<double>::infinity();
  for (const double b_1 : {0.3, 1.0, 2.0, 5.0, 8.0, 30.0}) {
    for (const double b_2 : {0.3, 1.0, 2.0, 5.0, 30.0})
      most = worse(most, objective(Vector{b_1, b_2}) - experts.log_evidence());
  }
  return -most;
}

std::vector<Claim> objective_claims(const AuditedMath& math) {
  const Experts experts{{5, 2}, 1.0, 0.1};
  const auto soft = [&](const Vector& q) {
    return expectation(math, q, [&](double alpha) { return experts.log_mixture(alpha); });
  };
  const auto kl = [&](const Vector& q) { return math.kl(q, experts.prior); };
  const double bound = smallest_gap(experts, [&](const Vector& q) { return soft(q) - kl(q); });
  const double low_weight = smallest_gap(experts, [&](const Vector& q) { return soft(q) - 0.003 * kl(q); });
  const double free_bits =
      smallest_gap(experts, [&](const Vector& q) { return soft(q) - (kl(q) <= 0.25 ? 0 : kl(q)); });
  const Experts vague{{1, 2}, 1.0, 0.1};  // a prior that yields more readily
  const double mean = smallest_gap(vague, [&](const Vector& q) {
    return vague.log_mixture(q[0] / scale::sum(q)) - math.kl(q, vague.prior);
  });
  // Straight-through, q = prior: the forward pass runs argmax alpha alone. P(alpha_1 > 1/2) under Beta(5, 2)
  // is that of at most 4 heads in 6 throws, 57/64.
  const double straight_through =
      experts.log_evidence() - (57 * std::log(experts.first) + 7 * std::log(experts.second)) / 64;

  const std::string how =
      "log evidence + L, smallest over 30 posteriors of one token with two experts, in nats";
  const auto exceeded = [&](const char* name, double gap) {
    return Claim{std::string("closed/objective: ") + name + " is no bound: -L exceeds the log evidence",
                 how,
                 gap,
                 -0.01,
                 kObjectiveFile,
                 kObjectiveSection};
  };
  return {{"closed/objective: w_kl = 1 with sampled soft weights is a bound",
           "-(" + how + "), expectations by quadrature", -bound, 1e-12, kObjectiveFile, kObjectiveSection},
          exceeded("w_kl = 0.003", low_weight),
          exceeded("free_bits = 0.25", free_bits),
          exceeded("the posterior mean for sampled weights", mean),
          exceeded("straight-through for soft weights", straight_through)};
}

}  // namespace

std::vector<AuditTask> closed_form_audit(const AuditedMath& math) {
  return {
      {"closed/kl", [math](const Context&) { return kl_claims(math); }},
      {"closed/gradient", [math](const Context&) { return gradient_claims(math); }},
      {"closed/uncertainty", [math](const Context&) { return uncertainty_claims(math); }},
      {"closed/null router", [](const Context& context) { return null_router_claims(context); }},
      {"closed/evidence", [math](const Context&) { return evidence_claims(math); }},
      {"closed/estimated prior", [math](const Context&) { return estimated_prior_claims(math); }},
      {"closed/objective", [math](const Context&) { return objective_claims(math); }},
  };
}

}  // namespace dirigo::tools
