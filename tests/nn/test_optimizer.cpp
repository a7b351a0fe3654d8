#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "dirigo/core/philox.hpp"
#include "dirigo/nn/layers.hpp"
#include "dirigo/nn/optimizer.hpp"

using namespace dirigo;
using namespace dirigo::nn;

namespace {

// Adam as in the paper, one element at a time (Kingma and Ba 2015, algorithm 1; decay as Loshchilov and
// Hutter).
struct ScalarAdam {
  double value, m = 0, v = 0;

  void step(double gradient, double lr, int t, const AdamOptions& o, double weight_decay) {
    m = o.beta1 * m + (1 - o.beta1) * gradient;
    v = o.beta2 * v + (1 - o.beta2) * gradient * gradient;
    const double m_hat = m / (1 - std::pow(o.beta1, t)), v_hat = v / (1 - std::pow(o.beta2, t));
    value -= lr * weight_decay * value;
    value -= lr * m_hat / (std::sqrt(v_hat) + o.eps);
  }
};

Tensor noise(const Context& context, const Shape& shape, std::uint32_t site, DType dtype) {
  return normal_tensor(context, shape, 1, random_key(3, 0, Purpose::test, site), dtype);
}

// Two parameters: a matrix of several chunks and a vector.
struct Model {
  Parameter matrix, vector;
  std::vector<NamedParameter> parameters() { return {{"matrix", &matrix}, {"vector", &vector}}; }

  explicit Model(const Context& context, DType dtype = DType::f32)
      : matrix{noise(context, {300, 301}, 0, dtype), {}}, vector{noise(context, {7}, 1, dtype), {}} {}

  void set_gradients(const Context& context, std::uint32_t step) {
    matrix.gradient = noise(context, matrix.value.shape(), 100 + 2 * step, matrix.value.dtype());
    vector.gradient = noise(context, vector.value.shape(), 101 + 2 * step, vector.value.dtype());
  }
};

void check_against_reference(DType dtype, double weight_decay, double gradient_scale, double tolerance) {
  const Context context;
  Model model(context, dtype);
  const AdamOptions options{.beta1 = 0.8, .beta2 = 0.99, .eps = 1e-6, .weight_decay = weight_decay};
  std::vector<std::vector<ScalarAdam>> reference;
  for (const NamedParameter& named : model.parameters()) {
    reference.emplace_back();
    for (const double value : named.parameter->value.to_vector()) reference.back().push_back({value});
  }
  Adam adam(context, model.parameters(), options);
  for (int t = 1; t <= 3; ++t) {
    model.set_gradients(context, std::uint32_t(t));
    for (std::size_t p = 0; p < 2; ++p) {
      const std::vector<double> gradient = model.parameters()[p].parameter->gradient.to_vector();
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        reference[p][i].step(gradient_scale * gradient[i], 0.01 * t, t, options, p == 0 ? weight_decay : 0);
      }
    }
    adam.step(0.01 * t, gradient_scale);
    CHECK(adam.steps() == t);
    CHECK_FALSE(model.matrix.gradient.defined());
    CHECK_FALSE(model.vector.gradient.defined());
  }
  double worst = 0;
  for (std::size_t p = 0; p < 2; ++p) {
    const std::vector<double> values = model.parameters()[p].parameter->value.to_vector();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double error = std::abs(values[i] - reference[p][i].value);
      worst = std::fmax(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
    }
  }
  CHECK(worst < tolerance);
}

}  // namespace

TEST_CASE("Adam follows the scalar algorithm") {
  check_against_reference(DType::f64, 0, 1, 1e-13);
  check_against_reference(DType::f32, 0, 1, 2e-6);
}

TEST_CASE("AdamW decays matrices and no vectors; gradients are scaled") {
  check_against_reference(DType::f64, 0.3, 0.25, 1e-13);
  check_against_reference(DType::f32, 0.3, 0.25, 2e-6);
}

TEST_CASE("Adam: the first step moves every weight by lr against the sign of its gradient") {
  const Context context;
  Parameter x{Tensor::full(context, {3}, 1, DType::f64), {}};
  Adam adam(context, {{"x", &x}});
  const std::vector<double> gradient = {2, -1e-3, 0};
  x.gradient = Tensor::from<double>(context, {3}, gradient);
  adam.step(0.1);
  CHECK(x.value.at({0}) == doctest::Approx(0.9));
  CHECK(x.value.at({1}) == doctest::Approx(1.1).epsilon(1e-5));  // eps = 1e-8 counts a little
  CHECK(x.value.at({2}) == 1);
}

TEST_CASE("Adam: f32 and f64 parameters side by side") {
  const Context context;
  Parameter single{Tensor::full(context, {2}, 1, DType::f32), {}},
      exact{Tensor::full(context, {2}, 1, DType::f64), {}};
  Adam adam(context, {{"exact", &exact}, {"single", &single}});
  for (Parameter* parameter : {&single, &exact}) {
    parameter->gradient = Tensor::full(context, {2}, 2, parameter->value.dtype());
  }
  adam.step(0.1);
  for (const std::int64_t i : {0, 1}) {
    CHECK(single.value.at({i}) == doctest::Approx(0.9));
    CHECK(exact.value.at({i}) == doctest::Approx(0.9));
  }
}

TEST_CASE("Adam leaves a parameter without gradient alone, its moments too") {
  const Context context;
  Model model(context);
  Adam adam(context, model.parameters(), {.weight_decay = 0.1});
  model.set_gradients(context, 0);
  adam.step(0.1);
  const std::vector<double> before = model.matrix.value.to_vector();
  const std::vector<double> moment = adam.state()[0].second.to_vector();
  model.set_gradients(context, 1);
  model.matrix.gradient = Tensor{};
  adam.step(0.1);
  CHECK(model.matrix.value.to_vector() == before);
  CHECK(adam.state()[0].second.to_vector() == moment);
}

TEST_CASE("Adam gathers the moments of a held parameter and does not move it") {
  const Context context;
  Model held(context), moved(context);
  held.matrix.held = true;
  Adam a(context, held.parameters(), {.weight_decay = 0.1}),
      b(context, moved.parameters(), {.weight_decay = 0.1});
  const std::vector<double> before = held.matrix.value.to_vector();
  for (std::uint32_t step = 0; step < 2; ++step) {
    held.set_gradients(context, step);
    moved.set_gradients(context, step);
    a.step(0.1);
    b.step(0.1);
  }
  CHECK(held.matrix.value.to_vector() == before);
  CHECK(moved.matrix.value.to_vector() != before);
  CHECK(held.vector.value.to_vector() == moved.vector.value.to_vector());
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(a.state()[i].second.to_vector() == b.state()[i].second.to_vector());
}

TEST_CASE("Adam: the same bits for any number of threads") {
  std::vector<double> norms;
  std::vector<std::vector<double>> values;
  for (const int threads : {1, 2, 3}) {
    const Context context(Context::Options{.threads = threads});
    Model model(context);
    Adam adam(context, model.parameters(), {.weight_decay = 0.1});
    for (std::uint32_t step = 0; step < 3; ++step) {
      model.set_gradients(context, step);
      norms.push_back(adam.gradient_norm());
      adam.step(0.01, clip_factor(norms.back(), 1));
    }
    values.push_back(model.matrix.value.to_vector());
  }
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(norms[i] == norms[i + 3]);
    CHECK(norms[i] == norms[i + 6]);
  }
  CHECK(values[0] == values[1]);
  CHECK(values[0] == values[2]);
}

TEST_CASE("Adam: the global norm of the gradients") {
  const Context context;
  Model model(context);
  Adam adam(context, model.parameters());
  CHECK(adam.gradient_norm() == 0);
  model.set_gradients(context, 0);
  double squares = 0;
  for (const NamedParameter& named : model.parameters()) {
    for (const double g : named.parameter->gradient.to_vector()) squares += g * g;
  }
  CHECK(adam.gradient_norm() == doctest::Approx(std::sqrt(squares)).epsilon(1e-12));
  model.vector.gradient.data<float>()[6] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(adam.gradient_norm()));
  adam.clear_gradients();
  CHECK(adam.gradient_norm() == 0);
}

TEST_CASE("Adam: a restored optimiser goes on with the same bits") {
  const Context context;
  Model model(context);
  Adam adam(context, model.parameters());
  for (std::uint32_t step = 0; step < 2; ++step) {
    model.set_gradients(context, step);
    adam.step(0.01);
  }
  std::vector<std::pair<std::string, Tensor>> saved;
  for (const auto& [name, tensor] : adam.state()) saved.emplace_back(name, tensor.clone(context));
  CHECK(saved[0].first == "m.matrix");
  CHECK(saved[3].first == "v.vector");

  Model copy(context);
  copy.matrix.value.copy_from(model.matrix.value);
  copy.vector.value.copy_from(model.vector.value);
  Adam resumed(context, copy.parameters());
  resumed.restore(saved, adam.steps());
  const std::vector<double> saved_moment = saved[0].second.to_vector();
  for (std::uint32_t step = 2; step < 4; ++step) {
    model.set_gradients(context, step);
    copy.set_gradients(context, step);
    adam.step(0.01);
    resumed.step(0.01);
  }
  CHECK(copy.matrix.value.to_vector() == model.matrix.value.to_vector());
  CHECK(copy.vector.value.to_vector() == model.vector.value.to_vector());
  CHECK(saved[0].second.to_vector() == saved_moment);

  CHECK_THROWS_AS(resumed.restore({saved.begin(), saved.begin() + 3}, 1), ValueError);
  CHECK_THROWS_AS(resumed.restore(saved, -1), ValueError);
  saved[1].second = Tensor::zeros(context, {301, 300});
  CHECK_THROWS_WITH_AS(resumed.restore(saved, 1), doctest::Contains("v.matrix"), ValueError);
  CHECK(resumed.steps() == 4);
}

TEST_CASE("Adam refuses bad options and parameters") {
  const Context context;
  Parameter x{Tensor::zeros(context, {2}), {}}, undefined;
  const std::vector<NamedParameter> good = {{"x", &x}};
  CHECK_THROWS_AS(Adam(context, good, {.beta1 = 1}), ValueError);
  CHECK_THROWS_AS(Adam(context, good, {.beta2 = -0.1}), ValueError);
  CHECK_THROWS_AS(Adam(context, good, {.eps = 0}), ValueError);
  CHECK_THROWS_AS(Adam(context, good, {.weight_decay = -1}), ValueError);
  CHECK_THROWS_AS(Adam(context, good, {.beta1 = std::nan("")}), ValueError);
  CHECK_THROWS_AS(Adam(context, {{"x", &x}, {"y", &x}}), ValueError);
  CHECK_THROWS_AS(Adam(context, {{"x", &undefined}}), ValueError);
  Adam adam(context, good);
  x.gradient = Tensor::zeros(context, {3});
  CHECK_THROWS_AS(adam.step(0.1), ShapeError);
}

TEST_CASE("clip factor") {
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(1, 1) == 1);
  CHECK(clip_factor(4, 1) == 0.25);
  CHECK(clip_factor(0, 1) == 1);
  CHECK(clip_factor(4, 0) == 1);
  CHECK(std::isnan(clip_factor(std::nan(""), 1)));
  CHECK_THROWS_AS(clip_factor(1, -1), ValueError);
}
