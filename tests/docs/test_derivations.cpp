// The pages of docs/mathematics: every worked number is computed again to its printed digits, every excerpt
// is in its file, and the code names its page.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/special.hpp"
#include "dirigo/meta_attention/config.hpp"
#include "page.hpp"

using namespace dirigo;
using derivations::Number;
using derivations::Page;
using derivations::WorkedTable;

namespace {

using Values = std::vector<double>;

// A worked table: inputs are read from it, results compared with it. Every row must be one or the other.
class Worked {
 public:
  explicit Worked(const WorkedTable& table) : name_(table.name) {
    for (const auto& row : table.rows) {
      CHECK_MESSAGE(rows_.emplace(row.name, row.numbers).second,
                    (name_ + ": row " + row.name + " appears twice"));
      open_.insert(row.name);
    }
  }

  Values input(const std::string& row) {
    Values values;
    for (const Number& number : take(row)) values.push_back(number.value);
    return values;
  }
  Tensor tensor(const Context& context, const std::string& row, const Shape& shape) {
    return Tensor::from<double>(context, shape, input(row));
  }

  void expect(const std::string& row, const Values& computed) {
    const std::vector<Number> printed = take(row);
    REQUIRE_MESSAGE(printed.size() == computed.size(), (name_ + ": " + row));
    for (std::size_t i = 0; i < printed.size(); ++i) {
      const double slack = 1e-10 * std::max(1.0, std::fabs(computed[i]));
      INFO(name_ << ": " << row << "[" << i << "]: printed " << printed[i].value << ", computed "
                 << computed[i]);
      CHECK(std::fabs(printed[i].value - computed[i]) <= printed[i].half_unit + slack);
    }
  }
  void expect(const std::string& row, double computed) { expect(row, Values{computed}); }
  void expect(const std::string& row, const Tensor& computed) { expect(row, computed.to_vector()); }

  void finish() const {
    for (const std::string& row : open_) CHECK_MESSAGE(false, (name_ + ": no test computes row " + row));
  }

 private:
  std::vector<Number> take(const std::string& row) {
    const auto at = rows_.find(row);
    REQUIRE_MESSAGE(at != rows_.end(), (name_ + ": no row " + row));
    open_.erase(row);
    return at->second;
  }

  std::string name_;
  std::map<std::string, std::vector<Number>> rows_;
  std::set<std::string> open_;
};

Tensor row_of(const Context& context, const Values& values) {
  return Tensor::from<double>(context, {1, std::int64_t(values.size())}, values);
}

double sum_of(const Values& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

// --- reverse-mode.md ---------------------------------------------------------------------------------------

void check_chain(const Context& context, Worked& page) {
  Tape tape(context);
  const Variable x1 = tape.leaf(page.tensor(context, "x1", {})),
                 x2 = tape.leaf(page.tensor(context, "x2", {}));
  const Variable p = ops::multiply(x1, x2);
  const Variable loss = ops::multiply(ops::add(p, x1), p);
  tape.backward(loss);
  page.expect("L", loss.value());
  page.expect("dx1", tape.gradient(x1));
  page.expect("dx2", tape.gradient(x2));
}

void check_linear(const Context& context, Worked& page) {
  Tape tape(context);
  const Variable x = tape.leaf(page.tensor(context, "x", {1, 2}));
  const Variable weight = tape.leaf(page.tensor(context, "W", {3, 2}));
  const Variable y = ops::linear(x, weight);
  tape.backward(y, page.tensor(context, "dy", {1, 3}));
  page.expect("y", y.value());
  page.expect("dx", tape.gradient(x));
  page.expect("dW", tape.gradient(weight));
}

// --- layer-norm.md, cross-entropy.md -----------------------------------------------------------------------

void check_layer_norm(const Context& context, Worked& page) {
  const Values row = page.input("x");
  const double mu = sum_of(row) / double(row.size());
  double variance = 0;
  for (const double value : row) variance += (value - mu) * (value - mu) / double(row.size());
  page.expect("mu", mu);
  page.expect("r", 1 / std::sqrt(variance + 1e-5));

  Tape tape(context);
  const Variable x = tape.leaf(row_of(context, row)), gamma = tape.leaf(page.tensor(context, "gamma", {4})),
                 beta = tape.leaf(page.tensor(context, "beta", {4}));
  const Variable y = ops::layer_norm(x, gamma, beta);
  tape.backward(y, page.tensor(context, "dy", {1, 4}));
  page.expect("y", y.value());
  page.expect("dx", tape.gradient(x));
  page.expect("dgamma", tape.gradient(gamma));
  page.expect("dbeta", tape.gradient(beta));
}

void check_cross_entropy(const Context& context, Worked& page) {
  Tape tape(context);
  const Variable x = tape.leaf(page.tensor(context, "x", {2, 3}));
  std::vector<std::int32_t> targets;
  for (const double target : page.input("c")) targets.push_back(std::int32_t(target));
  const Variable loss = ops::cross_entropy(x, targets);
  page.expect("p", ops::softmax(x).value());
  tape.backward(loss);
  page.expect("L", loss.value());
  page.expect("dx", tape.gradient(x));

  const Variable equal = tape.constant(Tensor::zeros(context, {1, 256}, DType::f64));
  page.expect("log256", ops::cross_entropy(equal, std::vector<std::int32_t>{7}).value());
}

// --- the attentions ----------------------------------------------------------------------------------------

using Attention = std::function<Variable(const Variable&, const Variable&, const Variable&)>;

// Output and gradients of one head, (T, d), on the page's q, k, v and do. Returns the output.
Values check_attention(const Context& context, Worked& page, std::int64_t length, std::int64_t width,
                       const Attention& attention) {
  Tape tape(context);
  const Shape shape{1, length, width};
  const Variable q = tape.leaf(page.tensor(context, "q", shape)),
                 k = tape.leaf(page.tensor(context, "k", shape)),
                 v = tape.leaf(page.tensor(context, "v", shape));
  const Variable o = attention(q, k, v);
  tape.backward(o, page.tensor(context, "do", shape));
  page.expect("o", o.value());
  page.expect("dq", tape.gradient(q));
  page.expect("dk", tape.gradient(k));
  page.expect("dv", tape.gradient(v));
  return o.value().to_vector();
}

// s_j of query i: the scores of the keys j <= i.
Values scores_of(const Values& q, const Values& k, std::size_t i, std::size_t d) {
  Values scores;
  for (std::size_t j = 0; j <= i; ++j) {
    double dot = 0;
    for (std::size_t c = 0; c < d; ++c) dot += q[i * d + c] * k[j * d + c];
    scores.push_back(dot / std::sqrt(double(d)));
  }
  return scores;
}

void check_softmax_attention(const Context& context, Worked& page) {
  const auto attention = [](const Variable& q, const Variable& k, const Variable& v) {
    return ops::full_attention(q, k, v, 1);
  };
  const Values o = check_attention(context, page, 3, 2, attention);
  const Values q = page.input("q"), k = page.input("k"), cotangent = page.input("do");
  Values log_z, products;
  for (std::size_t i = 0; i < 3; ++i) {
    log_z.push_back(dirichlet::log_sum_exp(scores_of(q, k, i, 2)));
    products.push_back(cotangent[2 * i] * o[2 * i] + cotangent[2 * i + 1] * o[2 * i + 1]);
  }
  page.expect("logZ", log_z);
  page.expect("Dsum", products);
}

// m, l and a of the third query of the table above, whose q, k and v these are, by blocks of two keys.
void check_online_softmax(const Context& context, Worked& page) {
  const Values q{1, 0, 0, 2, 2, 0}, k{1, 1, 0, 1, 2, -1}, v{1, 0, 0, 1, 2, 2};
  const Values s = scores_of(q, k, 2, 2);
  page.expect("s", s);
  const double m1 = std::max(s[0], s[1]), l1 = std::exp(s[0] - m1) + std::exp(s[1] - m1);
  const Values a1{std::exp(s[0] - m1) * v[0] + std::exp(s[1] - m1) * v[2],
                  std::exp(s[0] - m1) * v[1] + std::exp(s[1] - m1) * v[3]};
  const double m2 = std::max(m1, s[2]), factor = std::exp(m1 - m2), weight = std::exp(s[2] - m2);
  const Values a2{a1[0] * factor + weight * v[4], a1[1] * factor + weight * v[5]};
  const double l2 = l1 * factor + weight;
  page.expect("m1", m1);
  page.expect("l1", l1);
  page.expect("a1", a1);
  page.expect("m2", m2);
  page.expect("l2", l2);
  page.expect("a2", a2);

  Tape tape(context);
  const auto constant = [&](const Values& values) {
    return tape.constant(Tensor::from<double>(context, {1, 3, 2}, values));
  };
  const Values o = ops::full_attention(constant(q), constant(k), constant(v), 1).value().to_vector();
  page.expect("o3", Values{o[4], o[5]});
  CHECK(a2[0] / l2 == doctest::Approx(o[4]).epsilon(1e-12));
  CHECK(a2[1] / l2 == doctest::Approx(o[5]).epsilon(1e-12));
}

void check_linear_attention(const Context& context, Worked& page) {
  for (const std::int64_t chunk : {2, 1, 64}) {
    check_attention(context, page, 3, 2, [&](const Variable& q, const Variable& k, const Variable& v) {
      return ops::linear_attention(q, k, v, 1, chunk);
    });
  }
  Tape tape(context);
  const auto features = [&](const char* row) {
    return ops::elu1(tape.constant(page.tensor(context, row, {3, 2}))).value().to_vector();
  };
  const Values phi_q = features("q"), phi_k = features("k"), v = page.input("v");
  Values state(4), total(2), sums(2), denominators;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t c = 0; c < 2; ++c) sums[c] += phi_k[2 * i + c];
    denominators.push_back(sums[0] * phi_q[2 * i] + sums[1] * phi_q[2 * i + 1]);
    if (i == 2) continue;  // S and z are those before the third position
    total = sums;
    for (std::size_t c = 0; c < 4; ++c) state[c] += phi_k[2 * i + c / 2] * v[2 * i + c % 2];
  }
  page.expect("S", state);
  page.expect("z", total);
  page.expect("n", denominators);
}

void check_sliding_window(const Context& context, Worked& page) {
  check_attention(context, page, 4, 1, [](const Variable& q, const Variable& k, const Variable& v) {
    return ops::local_attention(q, k, v, 1, 2);
  });
  Tape tape(context);
  const Variable q = tape.constant(page.tensor(context, "q", {1, 4, 1})),
                 k = tape.constant(page.tensor(context, "k", {1, 4, 1})),
                 v = tape.constant(page.tensor(context, "v", {1, 4, 1}));
  const auto flops_of = [&](const std::function<void()>& work) {
    const auto before = context.flops().attention.load();
    work();
    return double(context.flops().attention.load() - before);
  };
  const double local = flops_of([&] { ops::local_attention(q, k, v, 1, 2); });
  page.expect("flops", local);
  page.expect("pairs", local / 4);
  page.expect("flops_full", flops_of([&] { ops::full_attention(q, k, v, 1); }));
  CHECK(ops::local_attention(q, k, v, 1, 1).value().to_vector() == v.value().to_vector());
}

// --- dirichlet.md ------------------------------------------------------------------------------------------

const Values paper_prior = [] {
  const meta::RouterConfig router;
  return meta::prior_concentration(router, router.costs);
}();

void check_dirichlet(const Context& context, Worked& page) {
  const Values b = page.input("b"), p = page.input("p");
  page.expect("log_beta_b", dirichlet::log_beta(b));
  page.expect("log_beta_p", dirichlet::log_beta(p));
  Tape tape(context);
  const Variable x = tape.leaf(row_of(context, b)), same = tape.leaf(row_of(context, b));
  const Variable kl = ops::dirichlet_kl(x, p), entropy = ops::dirichlet_entropy(same);
  tape.backward(ops::add(kl, entropy));
  page.expect("kl", kl.value());
  page.expect("entropy", entropy.value());
  page.expect("dkl", tape.gradient(x));
  page.expect("dentropy", tape.gradient(same));
}

void check_entropies(const Context&, Worked& page) {
  page.expect("U_flat", dirichlet::entropy(Values{1, 1, 1}));
  page.expect("U_ten", dirichlet::entropy(Values{10, 10, 10}));
  page.expect("U_prior", dirichlet::entropy(paper_prior));
}

// --- implicit-reparameterisation.md ------------------------------------------------------------------------

// P(a, x), the regularised lower incomplete gamma function, by its power series.
double lower_gamma(double a, double x) {
  double term = 1, sum = 1;
  for (int n = 1; n < 200; ++n) sum += term *= x / (a + n);
  return sum * std::exp(a * std::log(x) - x - special::lgamma(a + 1));
}

// x p(a, x)
double density_of_logarithm(double a, double x) {
  return std::exp(a * std::log(x) - x - special::lgamma(a));
}

void check_implicit(const Context&, Worked& page) {
  const double a = page.input("a")[0], x = page.input("x")[0], h = 1e-4, y = std::log(x);
  const double slope = (lower_gamma(a + h, x) - lower_gamma(a - h, x)) / (2 * h);
  double c = 1, harmonic = 0, sum = 1, weighted = 0;
  for (int n = 1; n < 30; ++n) {
    c *= x / (a + n);
    harmonic += 1 / (a + n);
    sum += c;
    weighted += c * harmonic;
  }
  page.expect("P", lower_gamma(a, x));
  page.expect("dPda", slope);
  page.expect("xp", density_of_logarithm(a, x));
  page.expect("Sigma0", sum);
  page.expect("Sigma1", weighted);
  const double d = special::log_gamma_draw_derivative(a, y);
  page.expect("D", d);
  CHECK(-slope / density_of_logarithm(a, x) == doctest::Approx(d).epsilon(1e-7));
  CHECK(((special::digamma(a + 1) - y) * sum + weighted) / a == doctest::Approx(d).epsilon(1e-12));
}

void check_implicit_limits(const Context&, Worked& page) {
  // E[dx/da] for x ~ Gamma(2): the integral of x D x p over y = log x, by the trapezium rule.
  const double a = 2, step = 1e-2;
  double integral = 0;
  for (double y = -20; y < 5; y += step) {
    const double x = std::exp(y);
    integral += step * x * special::log_gamma_draw_derivative(a, y) * density_of_logarithm(a, x);
  }
  page.expect("integral", integral);
  page.expect("below", lower_gamma(0.01, 1e-38));
  page.expect("D_tiny", special::log_gamma_draw_derivative(0.01, -300));
}

void check_implicit_dirichlet(const Context&, Worked& page) {
  const Values b = page.input("b"), y = page.input("y"), g = page.input("g");
  Values alpha, d, db(b.size());
  for (std::size_t k = 0; k < b.size(); ++k) {
    alpha.push_back(std::exp(y[k] - dirichlet::log_sum_exp(y)));
    d.push_back(special::log_gamma_draw_derivative(b[k], y[k]));
  }
  dirichlet::sample_vjp(b, y, alpha, g, db);
  page.expect("alpha", alpha);
  page.expect("D_b", d);
  page.expect("db", db);
}

// --- positions.md ------------------------------------------------------------------------------------------

void check_rotary(const Context& context, Worked& page) {
  Tape tape(context);
  const std::vector<std::int32_t> position{std::int32_t(page.input("p").front())};
  const ops::RotaryAngles angles(context, position, 4, DType::f64);
  const Variable x = tape.leaf(page.tensor(context, "x", {1, 4}));
  const Variable y = ops::rotary(x, angles);
  tape.backward(y, page.tensor(context, "dy", {1, 4}));
  page.expect("y", y.value());
  page.expect("dx", tape.gradient(x));
  Values turned;
  for (std::int64_t pair = 0; pair < 2; ++pair)
    turned.push_back(std::atan2(angles.sines.at({0, pair}), angles.cosines.at({0, pair})));
  page.expect("angles", turned);

  Values scores;
  const std::int32_t pairs[][2] = {{3, 0}, {5, 2}, {60005, 60002}};
  for (const auto& at : pairs) {
    Tape inference(context, Tape::Mode::inference);
    const auto turn = [&](const Values& values, std::int32_t place) {
      const std::vector<std::int32_t> places{place};
      return ops::rotary(inference.constant(row_of(context, values)),
                         ops::RotaryAngles(context, places, 2, DType::f64));
    };
    scores.push_back(ops::sum(ops::multiply(turn({1, 0.5}, at[0]), turn({-1, 2}, at[1]))).value().item());
  }
  page.expect("scores", scores);
}

void check_window_bias(const Context& context, Worked& page) {
  Tape tape(context);
  const Shape shape{1, 3, 1};
  const Variable bias = tape.leaf(page.tensor(context, "bias", {1, 2}));
  const Variable o = ops::local_attention(tape.constant(page.tensor(context, "q", shape)),
                                          tape.constant(page.tensor(context, "k", shape)),
                                          tape.constant(page.tensor(context, "v", shape)), 1, 2, {}, bias);
  tape.backward(o, page.tensor(context, "do", shape));
  page.expect("o", o.value());
  page.expect("dbias", tape.gradient(bias));
}

// --- straight-through.md -----------------------------------------------------------------------------------

void check_straight_through(const Context& context, Worked& page) {
  // L = |y - t|^2 / 2 of the mixture with weights f(w); w and the experts are (1, K) and K of (1, D).
  const Values rows = page.input("E");
  const auto run = [&](const std::function<Variable(const Variable&)>& f, const char* output,
                       const char* weight_gradient, bool hard) {
    Tape tape(context);
    const Variable w = tape.leaf(page.tensor(context, "w", {1, 3}));
    std::vector<Variable> experts;
    for (std::size_t k = 0; k < 3; ++k) {
      experts.push_back(tape.leaf(row_of(context, {rows[2 * k], rows[2 * k + 1]})));
    }
    const Variable y = ops::mix(f(w), experts);
    const Variable error = ops::add(y, ops::scale(tape.constant(page.tensor(context, "t", {1, 2})), -1));
    const Variable loss = ops::scale(ops::sum(ops::multiply(error, error)), 0.5);
    tape.backward(loss);
    page.expect(output, y.value());
    page.expect(weight_gradient, tape.gradient(w));
    if (!hard) return;
    page.expect("L", loss.value());
    Values gradients;
    for (const Variable& expert : experts) {
      for (const double value : tape.gradient(expert).to_vector()) gradients.push_back(value);
    }
    page.expect("dE", gradients);
  };
  run([](const Variable& w) { return ops::one_hot_straight_through(w); }, "y", "dw", true);
  run([](const Variable& w) { return w; }, "y_soft", "dw_soft", false);
}

// --- elbo.md -----------------------------------------------------------------------------------------------

// The prior's concentrations with `amount` added to expert k (full, linear, local).
Values raised(std::size_t k, double amount) {
  Values b = paper_prior;
  b[k] += amount;
  return b;
}

void check_conjugate(const Context&, Worked& page) {
  const Values prior = page.input("prior"), posterior = raised(0, 1);
  CHECK(prior == paper_prior);
  const auto elbo = [&](const Values& b) {
    return special::digamma(b[0]) - special::digamma(sum_of(b)) - dirichlet::kl(b, prior);
  };
  const double evidence = std::log(prior[0] / sum_of(prior));
  page.expect("log_evidence", evidence);
  page.expect("elbo_at_posterior", elbo(posterior));
  page.expect("elbo_at_prior", elbo(prior));
  page.expect("gap_at_prior", dirichlet::kl(prior, posterior));
  CHECK(elbo(posterior) == doctest::Approx(evidence).epsilon(1e-12));
  CHECK(evidence - elbo(prior) == doctest::Approx(dirichlet::kl(prior, posterior)).epsilon(1e-12));
}

void check_kl_costs(const Context& context, Worked& page) {
  const auto kl = [](const Values& b) { return dirichlet::kl(b, paper_prior); };
  page.expect("kl_full", kl(raised(0, 10)));
  page.expect("kl_linear", kl(raised(1, 10)));
  page.expect("kl_local", kl(raised(2, 10)));
  page.expect("excess", kl(raised(0, 10)) - kl(raised(1, 10)));
  page.expect("mean_full", raised(0, 10)[0] / sum_of(raised(0, 10)));
  Tape tape(context);
  const Variable start = ops::softplus(tape.constant(Tensor::zeros(context, {1, 3}, DType::f64)));
  const Variable b = ops::add(start, tape.constant(row_of(context, paper_prior)));
  page.expect("kl_start", ops::dirichlet_kl(b, paper_prior).value());
  page.expect("kl_tenth", kl(raised(0, 0.1)));
  page.expect("mean_tenth", raised(0, 0.1)[0] / sum_of(raised(0, 0.1)));
}

void check_trade(const Context&, Worked& page) {
  const double gain = page.input("nll_collapsed")[0] - page.input("nll_routed")[0];
  const double price = double(meta::preset("paper").model.layers) * page.input("kl_routed")[0];
  page.expect("gain", gain);
  page.expect("price", price);
  page.expect("break_even", gain / price);
}

void check_curvature(const Context&, Worked& page) {
  const double h = 1e-6,
               curvature = special::trigamma(paper_prior[0]) - special::trigamma(sum_of(paper_prior));
  Values above(3), below(3);
  dirichlet::kl_gradient(raised(0, h), paper_prior, above);
  dirichlet::kl_gradient(raised(0, -h), paper_prior, below);
  page.expect("curvature", curvature);
  CHECK((above[0] - below[0]) / (2 * h) == doctest::Approx(curvature).epsilon(1e-6));
}

void check_null_row(const Context&, Worked& page) {
  const meta::RouterConfig router;
  const Values mean = meta::prior_mean(router, router.costs);
  double cost = 0;
  for (std::size_t k = 0; k < mean.size(); ++k) cost += mean[k] * router.costs[k];
  const auto argmax = std::size_t(std::max_element(mean.begin(), mean.end()) - mean.begin());
  page.expect("mean", mean);
  page.expect("entropy_mean_pct", 100 * dirichlet::categorical_entropy(mean) / std::log(3));
  page.expect("entropy_sampled_pct",
              100 * dirichlet::expected_categorical_entropy(paper_prior) / std::log(3));
  page.expect("projected_cost_pct", 100 * cost);
  page.expect("argmax_cost_pct", 100 * router.costs[argmax]);
}

// --- empirical-bayes.md ------------------------------------------------------------------------------------

void check_empirical_bayes(const Context& context, Worked& page) {
  const Values b = page.input("b"), start = page.input("start");
  CHECK(start == paper_prior);
  const auto mean_kl = [&](const Values& p) {
    const std::span<const double> rows(b);
    return (dirichlet::kl(rows.first(3), p) + dirichlet::kl(rows.last(3), p)) / 2;
  };
  Values g(3), first, p = start, mean;
  dirichlet::mean_log_rows(context.kernels<float>().gamma, b, g);
  for (const double g_k : g) first.push_back(special::inverse_digamma(special::digamma(sum_of(start)) + g_k));
  dirichlet::maximum_likelihood(g, p);
  for (const double p_k : p) mean.push_back(p_k / sum_of(p));
  page.expect("g", g);
  page.expect("kl_start", mean_kl(start));
  page.expect("first", first);
  page.expect("kl_first", mean_kl(first));
  page.expect("p", p);
  page.expect("kl_p", mean_kl(p));
  page.expect("mean", mean);
}

const std::map<std::string, void (*)(const Context&, Worked&)> checks = {
    {"chain", check_chain},
    {"conjugate", check_conjugate},
    {"cross-entropy", check_cross_entropy},
    {"curvature", check_curvature},
    {"dirichlet", check_dirichlet},
    {"empirical-bayes", check_empirical_bayes},
    {"entropies", check_entropies},
    {"implicit", check_implicit},
    {"implicit-dirichlet", check_implicit_dirichlet},
    {"implicit-limits", check_implicit_limits},
    {"kl-costs", check_kl_costs},
    {"layer-norm", check_layer_norm},
    {"linear", check_linear},
    {"linear-attention", check_linear_attention},
    {"null-row", check_null_row},
    {"online-softmax", check_online_softmax},
    {"rotary", check_rotary},
    {"sliding-window", check_sliding_window},
    {"softmax-attention", check_softmax_attention},
    {"straight-through", check_straight_through},
    {"trade", check_trade},
    {"window-bias", check_window_bias},
};

}  // namespace

TEST_CASE("every worked number of the derivations is what the library computes") {
  const Context context;
  std::set<std::string> left;
  for (const auto& [name, check] : checks) left.insert(name);
  for (const Page& page : derivations::pages()) {
    CAPTURE(page.name);
    CHECK_FALSE(page.tables.empty());
    for (const WorkedTable& table : page.tables) {
      const auto check = checks.find(table.name);
      REQUIRE_MESSAGE(check != checks.end(), ("no test computes the table " + table.name));
      CHECK_MESSAGE(left.erase(table.name) == 1, ("the table " + table.name + " appears twice"));
      Worked worked(table);
      check->second(context, worked);
      worked.finish();
    }
  }
  for (const std::string& name : left) CHECK_MESSAGE(false, ("no page has the table " + name));
}

TEST_CASE("every excerpt and quotation of the derivations is in its file") {
  for (const Page& page : derivations::pages()) {
    CAPTURE(page.name);
    CHECK_FALSE(page.code.empty());
    for (const derivations::Excerpt& excerpt : page.code) {
      CAPTURE(excerpt.file);
      CHECK(derivations::contains(derivations::read_lines(derivations::root() / excerpt.file), excerpt));
    }
    for (const derivations::Excerpt& quote : page.quotes) {
      const std::vector<std::string> lines = derivations::read_lines(derivations::root() / quote.file);
      for (const std::string& line : quote.lines) {
        CAPTURE(line);
        CHECK(std::find(lines.begin(), lines.end(), line) != lines.end());
      }
    }
  }
}

TEST_CASE("the code of a derivation names its page") {
  for (const Page& page : derivations::pages()) {
    CAPTURE(page.name);
    CHECK_FALSE(page.files.empty());
    const std::string link = "docs/mathematics/" + page.name + ".md";
    std::vector<std::string> files = page.files;
    for (const derivations::Excerpt& excerpt : page.code) files.push_back(excerpt.file);
    for (const std::string& file : files) {
      CAPTURE(file);
      const std::vector<std::string> lines = derivations::read_lines(derivations::root() / file);
      CHECK(std::any_of(lines.begin(), lines.end(),
                        [&](const std::string& line) { return line.find(link) != std::string::npos; }));
    }
  }
}

TEST_CASE("a line that is not in the file, or out of order, is no excerpt") {
  const std::vector<std::string> file = {"a;", "  b;", "c;", "d;"};
  CHECK(derivations::contains(file, {"", {"a;", "b;", "// ...", "d;"}}));
  CHECK_FALSE(derivations::contains(file, {"", {"a;", "c;"}}));
  CHECK_FALSE(derivations::contains(file, {"", {"c;", "// ...", "a;"}}));
  CHECK_FALSE(derivations::contains(file, {"", {"b; c;"}}));
  CHECK_FALSE(derivations::contains(file, {"", {}}));
}
