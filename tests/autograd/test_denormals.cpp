// Denormals through whole operations: f64, the reference, keeps them; f32 flushes them to zero.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "dirigo/autograd/ops.hpp"

using namespace dirigo;

namespace {

// `rows` equal rows of four denormals that can be halved exactly.
template <class T>
Tensor denormals(const Context& context, std::int64_t rows) {
  std::vector<T> values;
  for (std::int64_t i = 0; i < 4 * rows; ++i)
    values.push_back(std::numeric_limits<T>::denorm_min() * T(4 + 2 * (i % 4)));
  return Tensor::from<T>(context, {rows, 4}, values);
}

template <class T>
Tensor identity(const Context& context) {
  std::vector<T> values(16);
  for (std::size_t i = 0; i < 4; ++i) values[5 * i] = 1;
  return Tensor::from<T>(context, {4, 4}, values);
}

// f64: exactly `expected`; f32: nothing but zeros.
void check(const Tensor& got, const Tensor& expected) {
  const std::vector<double> values = got.to_vector();
  if (got.dtype() == DType::f64) {
    CHECK(values == expected.to_vector());
  } else {
    CHECK(std::all_of(values.begin(), values.end(), [](double value) { return value == 0; }));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("f64 operations keep denormals, f32 operations flush them", T, float, double) {
  for (const int threads : {1, 2}) {
    const Context context({.threads = threads});
    for (const std::int64_t rows : {1, 10000}) {  // one block, and several
      CAPTURE(rows);
      const Tensor x = denormals<T>(context, rows);
      REQUIRE(x.to_vector().front() > 0);
      Tape tape(context);
      const Variable leaf = tape.leaf(x);
      const auto constant = [&](const Shape& shape, double value) {
        return tape.constant(Tensor::full(context, shape, value, dtype_of<T>));
      };
      check(ops::scale(leaf, 1).value(), x);
      check(ops::add(leaf, constant(x.shape(), 0)).value(), x);
      check(ops::multiply(leaf, constant({4}, 1)).value(), x);
      check(ops::matmul(leaf, tape.constant(identity<T>(context))).value(), x);
      check(ops::sum(ops::reshape(leaf, {1, rows, 4}), 0).value(), x);
      const Variable y = ops::scale(leaf, 1);
      tape.backward(ops::add(y, y), ops::scale(tape.constant(x), 0.5).value());
      check(tape.gradient(leaf), x);
    }
  }
}
