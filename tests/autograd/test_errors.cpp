// What the operations refuse, and what they say; dropout's statistics.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "dirigo/autograd/ops.hpp"

using namespace dirigo;
using Indices = std::vector<std::int32_t>;

TEST_CASE("wrong shapes and values are refused") {
  const Context context;
  Tape tape(context);
  const auto variable = [&](const Shape& shape) { return tape.leaf(Tensor::zeros(context, shape)); };
  const Variable scalar = variable({}), matrix = variable({4, 3}), cube = variable({2, 4, 3}),
                 empty = variable({0, 3});

  CHECK_THROWS_AS(ops::add(matrix, variable({4})), ShapeError);
  CHECK_THROWS_AS(ops::multiply(matrix, variable({4, 2})), ShapeError);
  CHECK_THROWS_AS(ops::dropout(matrix, 1.0, {}), ValueError);
  CHECK_THROWS_AS(ops::dropout(matrix, -0.1, {}), ValueError);
  CHECK_THROWS_AS(ops::dropout(matrix, NAN, {}), ValueError);
  CHECK_THROWS_AS(ops::sum(matrix, 2), ShapeError);
  CHECK_THROWS_AS(ops::sum(matrix, -3), ShapeError);
  CHECK_THROWS_AS(ops::mean(empty), ValueError);
  CHECK_THROWS_AS(ops::mean(empty, 0), ValueError);
  CHECK_THROWS_AS(ops::reshape(matrix, {5, 2}), ShapeError);
  CHECK_THROWS_AS(ops::transpose(matrix, 0, 2), ShapeError);
  CHECK_THROWS_AS(ops::slice(matrix, 0, 1, 5), ShapeError);
  CHECK_THROWS_AS(ops::slice(matrix, 0, 3, 2), ShapeError);
  CHECK_THROWS_AS(ops::slice(matrix, 0, -1, 2), ShapeError);
  CHECK_THROWS_AS(ops::concat({}, 0), ValueError);
  CHECK_THROWS_AS(ops::concat(std::array{matrix, variable({4, 2})}, 0), ShapeError);
  CHECK_THROWS_AS(ops::concat(std::array{matrix, cube}, 0), ShapeError);
  CHECK_THROWS_AS(ops::matmul(matrix, matrix), ShapeError);
  CHECK_THROWS_AS(ops::matmul(matrix, variable({3})), ShapeError);
  CHECK_THROWS_AS(ops::matmul(cube, variable({3, 3, 2})), ShapeError);
  CHECK_THROWS_AS(ops::matmul(matrix, cube, true), ShapeError);
  CHECK_THROWS_AS(ops::linear(matrix, variable({3, 4})), ShapeError);
  CHECK_THROWS_AS(ops::linear(matrix, variable({5, 3}), variable({3})), ShapeError);
  CHECK_THROWS_AS(ops::linear(scalar, matrix), ShapeError);
  CHECK_THROWS_AS(ops::softmax(scalar), ShapeError);
  CHECK_THROWS_AS(ops::normalize(scalar), ShapeError);
  CHECK_THROWS_AS(ops::layer_norm(matrix, variable({4}), variable({3})), ShapeError);
  CHECK_THROWS_AS(ops::layer_norm(matrix, variable({3}), variable({4})), ShapeError);
  CHECK_THROWS_AS(ops::layer_norm(matrix, variable({3}), variable({3}), 0), ValueError);
  CHECK_THROWS_AS(ops::embedding(matrix, Indices{0, 4}), ValueError);
  CHECK_THROWS_AS(ops::embedding(matrix, Indices{-1}), ValueError);
  CHECK_THROWS_AS(ops::embedding(cube, Indices{0}), ShapeError);
  CHECK_THROWS_AS(ops::gather_rows(matrix, Indices{4}), ValueError);
  CHECK_THROWS_AS(ops::gather_rows(cube, Indices{0}), ShapeError);
  CHECK_THROWS_AS(ops::scatter_rows(matrix, Indices{0, 1, 2}, 9), ShapeError);
  CHECK_THROWS_AS(ops::scatter_rows(matrix, Indices{0, 1, 2, 1}, 9), ValueError);
  CHECK_THROWS_AS(ops::scatter_rows(matrix, Indices{0, 1, 2, 9}, 9), ValueError);
  CHECK_THROWS_AS(ops::scatter_rows(matrix, Indices{0, 1, 2, 3}, -1), ValueError);
  CHECK_THROWS_AS(ops::cross_entropy(matrix, Indices{0, 1, 2}), ShapeError);
  CHECK_THROWS_AS(ops::cross_entropy(matrix, Indices{0, 1, 2, 3}), ValueError);
  CHECK_THROWS_AS(ops::cross_entropy(empty, {}), ValueError);
  CHECK_THROWS_AS(ops::cross_entropy(matrix, Indices{0, 1, 2, -2}), ValueError);
  CHECK_THROWS_AS(ops::cross_entropy(matrix, Indices{-1, -1, -1, -1}),
                  ValueError);  // nothing to take the mean of
  CHECK_THROWS_AS(ops::cross_entropy(matrix, Indices{0, 1, 2, 0}, 0.0), ValueError);
  CHECK_THROWS_AS(ops::cross_entropy(cube, Indices{0, 1}), ShapeError);
  CHECK_THROWS_AS(ops::mix(variable({4, 2}), {}), ValueError);
  CHECK_THROWS_AS(ops::mix(variable({4, 2}), std::array{matrix}), ShapeError);
  CHECK_THROWS_AS(ops::mix(variable({4, 2}), std::array{matrix, variable({4, 2})}), ShapeError);
  CHECK_THROWS_AS(ops::one_hot_straight_through(matrix, std::array{1.0, 2.0}), ValueError);
  CHECK_THROWS_AS(ops::one_hot_straight_through(variable({2, 0})), ShapeError);
  CHECK_THROWS_AS(ops::one_hot_straight_through(matrix, {}, std::array<std::uint8_t, 1>{1}), ValueError);
  CHECK_THROWS_AS(ops::categorical_entropy(cube), ShapeError);
  CHECK_THROWS_AS(ops::dirichlet_rsample(cube, {}), ShapeError);
  CHECK_THROWS_AS(ops::dirichlet_rsample(matrix, {}, 1.0), ValueError);
  CHECK_THROWS_AS(ops::dirichlet_kl(matrix, std::array{1.0, 2.0}), ValueError);
  CHECK_THROWS_AS(ops::dirichlet_kl(matrix, std::array{1.0, 2.0, 0.0}), ValueError);
  CHECK_THROWS_AS(ops::dirichlet_entropy(variable({2, 0})), ShapeError);
}

TEST_CASE("messages name the operation, what it expected and what it got") {
  const Context context;
  Tape tape(context);
  const auto variable = [&](const Shape& shape) { return tape.leaf(Tensor::zeros(context, shape)); };
  CHECK_THROWS_WITH(ops::linear(variable({2, 128}), variable({64, 96})),
                    "[linear] weight: expected (out, 128), got (64, 96)");
  CHECK_THROWS_WITH(ops::embedding(variable({4, 3}), Indices{7}),
                    "[embedding] index: expected one in [0, 4), got 7");
  CHECK_THROWS_WITH(ops::local_attention(variable({1, 2, 4}), variable({1, 2, 4}), variable({1, 2, 4}), 3, 1),
                    "[local_attention] heads: expected a divisor of D = 4, got 3");
}

TEST_CASE("dropout keeps a share of 1 - p, preserves the mean and differs by key") {
  const Context context;
  constexpr std::int64_t n = 200'000;
  const Tensor ones = Tensor::full(context, {n}, 1.0);
  const auto drop = [&](double p, const RandomKey& key) {
    Tape tape(context, Tape::Mode::inference);
    return ops::dropout(tape.constant(ones), p, key).value().to_vector();
  };
  for (const double p : {0.1, 0.5, 0.9}) {
    CAPTURE(p);
    const auto y = drop(p, random_key(1, 2, Purpose::dropout, 3));
    double kept = 0, pairs = 0, worst_factor = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const bool survives = y[i] != 0;
      if (survives) worst_factor = std::max(worst_factor, std::abs(y[i] * (1 - p) - 1));
      kept += survives ? 1 : 0;
      pairs += survives && i > 0 && y[i - 1] != 0 ? 1 : 0;
    }
    CHECK(worst_factor < 1e-6);
    const double q = 1 - p, sd = std::sqrt(p * q / double(n));
    CHECK(std::abs(kept / double(n) - q) < 5 * sd);
    CHECK(std::abs(pairs / double(n) - q * q) < 5 * std::sqrt(q * q * (1 - q * q) * 3 / double(n)));
  }
  const auto base = drop(0.5, random_key(1, 2, Purpose::dropout, 3));
  CHECK(drop(0.5, random_key(1, 2, Purpose::dropout, 3)) == base);
  CHECK(drop(0.5, random_key(2, 2, Purpose::dropout, 3)) != base);
  CHECK(drop(0.5, random_key(1, 3, Purpose::dropout, 3)) != base);
  CHECK(drop(0.5, random_key(1, 2, Purpose::dropout, 4)) != base);
}

TEST_CASE("the gradient of a Dirichlet draw is unbiased") {
  // E[c . alpha] = c . b / s, so dE/db_i = (c_i - E) / s.
  const Context context;
  constexpr std::int64_t n = 40'000;
  const std::array<double, 3> b{0.6, 1.5, 0.3}, c{1.0, -2.0, 3.0};
  std::vector<double> rows;
  for (std::int64_t i = 0; i < n; ++i) rows.insert(rows.end(), b.begin(), b.end());
  Tape tape(context);
  const Variable concentration = tape.leaf(Tensor::from<double>(context, {n, 3}, rows));
  const Variable alpha = ops::dirichlet_rsample(concentration, random_key(4, 0, Purpose::dirichlet));
  const Variable weight = tape.constant(Tensor::from<double>(context, {3}, std::span<const double>(c)));
  const Variable loss = ops::sum(ops::multiply(alpha, weight));
  tape.backward(loss);
  const double s = 2.4, expected = (c[0] * b[0] + c[1] * b[1] + c[2] * b[2]) / s;
  CHECK(std::abs(loss.value().item() / double(n) - expected) < 0.05);
  const auto gradient = tape.gradient(concentration).to_vector();
  for (std::size_t i = 0; i < 3; ++i) {
    double mean = 0, square = 0;
    for (std::size_t row = 0; row < std::size_t(n); ++row) {
      mean += gradient[row * 3 + i] / double(n);
      square += gradient[row * 3 + i] * gradient[row * 3 + i] / double(n);
    }
    const double standard_error = std::sqrt((square - mean * mean) / double(n));
    CAPTURE(i);
    CHECK(standard_error < 0.05);
    CHECK(std::abs(mean - (c[i] - expected) / s) < 4 * standard_error);
  }
}
