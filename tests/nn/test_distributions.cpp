#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/special.hpp"
#include "dirigo/nn/distributions/dirichlet.hpp"
#include "dirigo/nn/distributions/gamma.hpp"

using namespace dirigo;
using namespace dirigo::nn;

namespace {

constexpr RandomKey key = random_key(9, 0, Purpose::test);
constexpr std::int64_t draws = 20000;

Tensor tensor(const Context& context, const Shape& shape, const std::vector<double>& values,
              DType dtype = DType::f64) {
  return Tensor::from<double>(context, shape, values).cast(context, dtype);
}

// Draws x count rows, all equal to `row`.
Tensor repeated(const Context& context, const std::vector<double>& row) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < draws; ++i) values.insert(values.end(), row.begin(), row.end());
  return tensor(context, {draws, std::int64_t(row.size())}, values);
}

// Mean of column `column` of a (rows, columns) matrix, and its standard error.
struct Estimate {
  double mean, error;
};

Estimate estimate(const std::vector<double>& values, std::size_t columns = 1, std::size_t column = 0) {
  double sum = 0, squares = 0;
  for (std::size_t i = column; i < values.size(); i += columns) {
    sum += values[i];
    squares += values[i] * values[i];
  }
  const double n = double(values.size() / columns), mean = sum / n;
  return {mean, std::sqrt((squares / n - mean * mean) / n)};
}

bool agrees(const Estimate& estimate, double expected) {
  return std::abs(estimate.mean - expected) < 5 * estimate.error;
}

using Function = std::function<Variable(const Variable&)>;

// The gradient of <weights, f(x)> by the tape, and by fourth-order central differences.
void check_gradient(const Context& context, const Tensor& x, const Tensor& weights, const Function& f) {
  Tape tape(context);
  const Variable leaf = tape.leaf(x);
  tape.backward(f(leaf), weights);
  const std::vector<double> gradient = tape.gradient(leaf).to_vector();
  const std::vector<double> cotangent = weights.to_vector();
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const auto shifted = [&](double h) {
      Tensor moved = x.clone(context);
      moved.data<double>()[i] += h;
      Tape inference(context, Tape::Mode::inference);
      const std::vector<double> y = f(inference.constant(moved)).value().to_vector();
      double total = 0;
      for (std::size_t j = 0; j < y.size(); ++j) total += cotangent[j] * y[j];
      return total;
    };
    const double h = 1e-3 * x.data<double>()[i];
    const double difference =
        (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
    CAPTURE(i);
    CHECK(gradient[i] == doctest::Approx(difference).epsilon(1e-8));
  }
}

// P(a, x) by its power series, for moderate a and x.
double lower_incomplete_gamma(double a, double x) {
  double term = 1, sum = 1;
  for (int n = 1; n < 500; ++n) {
    term *= x / (a + n);
    sum += term;
  }
  return sum * std::exp(a * std::log(x) - x - std::lgamma(a + 1));
}

}  // namespace

TEST_CASE("gamma: log density and its gradient") {
  const Context context;
  const std::vector<double> a = {0.05, 0.7, 1, 2.5, 40}, g = {1e-6, 0.3, 2, 1.1, 45};
  std::vector<double> y;
  for (const double value : g) y.push_back(std::log(value));
  const Tensor sample = tensor(context, {5}, y);
  Tape tape(context);
  const std::vector<double> density =
      Gamma(tape.constant(tensor(context, {5}, a))).log_prob_of_log(sample).value().to_vector();
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    // p(g) = g^(a-1) e^-g / Gamma(a)
    CHECK(density[i] ==
          doctest::Approx(std::log(std::pow(g[i], a[i] - 1) * std::exp(-g[i]) / std::tgamma(a[i])))
              .epsilon(1e-12));
  }
  check_gradient(context, tensor(context, {5}, a), tensor(context, {5}, {1, -2, 0.5, 3, 1.5}),
                 [&](const Variable& x) { return Gamma(x).log_prob_of_log(sample); });
}

TEST_CASE("gamma: a draw's gradient is the implicit derivative") {
  const Context context;
  const std::vector<double> a = {0.3, 0.9, 1.5, 3, 8, 0.6}, cotangent = {1, -2, 0.5, 1, 3, 1};
  Tape tape(context);
  const Variable leaf = tape.leaf(tensor(context, {2, 3}, a));
  const Variable y = Gamma(leaf).rsample_log(key);
  CHECK(y.shape() == Shape{2, 3});
  tape.backward(y, tensor(context, {2, 3}, cotangent));
  const std::vector<double> gradient = tape.gradient(leaf).to_vector();
  const std::vector<double> sample = y.value().to_vector();
  for (std::size_t i = 0; i < a.size(); ++i) {
    // dy/da = -(dP/da) / (dP/dy), dP/dy = x p(x) = x^a e^-x / Gamma(a)
    const double x = std::exp(sample[i]), h = 1e-3;
    const auto P = [&](double da) { return lower_incomplete_gamma(a[i] + da, x); };
    const double dP_da = (8 * (P(h) - P(-h)) - (P(2 * h) - P(-2 * h))) / (12 * h);
    const double dP_dy = std::exp(a[i] * sample[i] - x - std::lgamma(a[i]));
    CAPTURE(i);
    CHECK(gradient[i] == doctest::Approx(-cotangent[i] * dP_da / dP_dy).epsilon(1e-7));
  }
}

TEST_CASE("gamma: draws and gradients have the right means") {
  const Context context;
  const std::vector<double> a = {0.05, 0.8, 4};
  Tape tape(context);
  const Variable leaf = tape.leaf(repeated(context, a));
  const Variable y = Gamma(leaf).rsample_log(key);
  tape.backward(ops::sum(y));
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(agrees(estimate(y.value().to_vector(), 3, i), special::digamma(a[i])));             // E[log g]
    CHECK(agrees(estimate(tape.gradient(leaf).to_vector(), 3, i), special::trigamma(a[i])));  // dE[log g]/da
  }
}

TEST_CASE("distributions: float tensors, the same draws for any number of threads") {
  std::vector<std::vector<double>> samples, gradients;
  for (const int threads : {1, 2, 3}) {
    const Context context(Context::Options{.threads = threads});
    Tape tape(context);
    const Variable leaf = tape.leaf(repeated(context, {0.01, 0.5, 3}).cast(context, DType::f32));
    const Variable y = Gamma(leaf).rsample_log(key);
    CHECK(y.dtype() == DType::f32);
    samples.push_back(y.value().to_vector());
    tape.backward(ops::sum(ops::add(y, Gamma(leaf).log_prob_of_log(y.value()))));
    gradients.push_back(tape.gradient(leaf).to_vector());
  }
  CHECK(samples[0] == samples[1]);
  CHECK(samples[0] == samples[2]);
  CHECK(gradients[0] == gradients[1]);
  CHECK(gradients[0] == gradients[2]);
  bool finite = true;
  for (const double y : samples[0]) finite = finite && std::isfinite(y);  // Gamma(0.01) itself underflows
  CHECK(finite);
}

TEST_CASE("dirichlet: log density and its gradient") {
  const Context context;
  // K = 2 is the Beta distribution; the second row is uniform.
  Tape tape(context);
  const Tensor pair = tensor(context, {2, 2}, {2, 3, 1, 1});
  const Variable density =
      Dirichlet(tape.constant(pair)).log_prob(tensor(context, {2, 2}, {0.25, 0.75, 0.4, 0.6}));
  CHECK(density.shape() == Shape{2});
  CHECK(density.value().at({0}) == doctest::Approx(std::log(12 * 0.25 * 0.75 * 0.75)).epsilon(1e-13));
  CHECK(density.value().at({1}) == doctest::Approx(0));

  // The second point is off the simplex: it is normalised, in the value and in the gradient.
  const Tensor alpha = tensor(context, {2, 3}, {0.2, 0.5, 0.3, 1e-6, 0.9, 0.2});
  const Tensor b = tensor(context, {2, 3}, {0.01, 0.86, 0.71, 12, 0.4, 3});
  check_gradient(context, b, tensor(context, {2}, {1.5, -0.7}),
                 [&](const Variable& x) { return Dirichlet(x).log_prob(alpha); });
}

TEST_CASE("dirichlet: log density of float tensors is computed in double") {
  const Context context;
  const std::vector<double> b = {100, 200, 300}, alpha = {0.125, 0.375, 0.5};  // terms of 1000s that cancel
  Tape tape(context);
  const double exact = Dirichlet(tape.constant(tensor(context, {1, 3}, b)))
                           .log_prob(tensor(context, {1, 3}, alpha))
                           .value()
                           .item();
  const Variable single = Dirichlet(tape.constant(tensor(context, {1, 3}, b, DType::f32)))
                              .log_prob(tensor(context, {1, 3}, alpha, DType::f32));
  CHECK(single.dtype() == DType::f32);
  CHECK(single.value().item() == double(float(exact)));
}

TEST_CASE("dirichlet: mean, draws and their gradients") {
  const Context context;
  const std::vector<double> b = {0.5, 2, 1.2}, c = {1, -2, 0.5};
  const double s = 3.7;
  Tape tape(context);
  const Variable leaf = tape.leaf(repeated(context, b));
  const Dirichlet dirichlet(leaf);
  const Variable alpha = dirichlet.rsample(key);
  const Variable mean = dirichlet.mean();
  double expected = 0;
  for (std::size_t k = 0; k < 3; ++k) expected += c[k] * b[k] / s;
  for (std::size_t k = 0; k < 3; ++k) {
    CAPTURE(k);
    CHECK(mean.value().data<double>()[k] == doctest::Approx(b[k] / s).epsilon(1e-14));
    CHECK(agrees(estimate(alpha.value().to_vector(), 3, k), b[k] / s));
  }
  tape.backward(ops::sum(ops::multiply(alpha, tape.constant(tensor(context, {3}, c)))));
  for (std::size_t k = 0; k < 3; ++k) {  // dE[c . alpha]/db_k = (c_k - c . m) / s
    CAPTURE(k);
    CHECK(agrees(estimate(tape.gradient(leaf).to_vector(), 3, k), (c[k] - expected) / s));
  }

  Tape floored(context, Tape::Mode::inference);
  const Variable tiny = floored.constant(repeated(context, {0.01, 0.01, 0.01}));
  double least = 1;
  for (const double value : Dirichlet(tiny).rsample(key, 1e-8).value().to_vector())
    least = std::min(least, value);
  CHECK(least == 1e-8);
}

TEST_CASE("dirichlet: divergence and entropy are means of log densities") {
  const Context context;
  const std::vector<double> q = {1.5, 0.8, 3}, p = {0.9, 0.9, 1.1};
  Tape tape(context, Tape::Mode::inference);
  const Dirichlet posterior(tape.constant(repeated(context, q))), prior(tape.constant(repeated(context, p)));
  const Tensor alpha = posterior.rsample(key).value();
  const std::vector<double> log_q = posterior.log_prob(alpha).value().to_vector();
  const std::vector<double> log_p = prior.log_prob(alpha).value().to_vector();
  std::vector<double> surprise, ratio;
  for (std::size_t i = 0; i < log_q.size(); ++i) {
    surprise.push_back(-log_q[i]);
    ratio.push_back(log_q[i] - log_p[i]);
  }
  CHECK(agrees(estimate(ratio), posterior.kl(p).value().at({0})));
  CHECK(agrees(estimate(surprise), posterior.entropy().value().at({0})));
  CHECK(std::abs(posterior.kl(q).value().at({0})) < 1e-12);
}

TEST_CASE("distributions refuse bad concentrations and samples") {
  const Context context;
  Tape tape(context);
  const auto variable = [&](const Shape& shape, const std::vector<double>& values) {
    return tape.constant(tensor(context, shape, values));
  };
  CHECK_THROWS_AS(Gamma{Variable{}}, StateError);
  CHECK_THROWS_AS(Gamma(variable({2}, {1, 0})), ValueError);
  CHECK_THROWS_AS(Dirichlet(variable({1, 2}, {1, -1})), ValueError);
  CHECK_THROWS_AS(Dirichlet(variable({2}, {1, 1})), ShapeError);
  CHECK_THROWS_AS(Dirichlet(variable({1, 0}, {})), ShapeError);
  const Gamma gamma(variable({2}, {1, 2}));
  CHECK_THROWS_AS(gamma.log_prob_of_log(tensor(context, {3}, {1, 2, 3})), ShapeError);
  CHECK_THROWS_AS(gamma.log_prob_of_log(tensor(context, {2}, {1, 2}, DType::f32)), ShapeError);
  const Dirichlet dirichlet(variable({1, 2}, {1, 2}));
  CHECK_THROWS_AS(dirichlet.log_prob(tensor(context, {1, 3}, {0.2, 0.3, 0.5})), ShapeError);

  // A diverged run is not refused here: NaN propagates.
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Dirichlet diverged(variable({1, 2}, {1, nan}));
  CHECK(std::isnan(diverged.log_prob(tensor(context, {1, 2}, {0.5, 0.5})).value().item()));
}
