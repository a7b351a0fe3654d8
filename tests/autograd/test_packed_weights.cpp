// Weights packed once for many products: same bits, one packing, safe from several threads.
#include <doctest/doctest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/autograd/packed_weights.hpp"
#include "dirigo/core/philox.hpp"
#include "dirigo/core/product.hpp"

using namespace dirigo;
using Side = PackedWeights::Side;

namespace {

Tensor random(const Context& context, const Shape& shape, std::uint32_t site, DType dtype) {
  PhiloxStream stream(random_key(3, 0, Purpose::test, site), 0);
  Tensor values = Tensor::empty(context, shape, dtype);
  visit_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (T& value : values.span<T>()) value = T(2 * stream.uniform() - 1);
  });
  return values;
}

// y and the gradients of x and w for y = x w^T, all in one row.
std::vector<double> linear(const Context& context, const Tensor& x, const Tensor& w, PackedWeights* packed) {
  Tape tape(context);
  tape.use(packed);
  const Variable in = tape.leaf(x), weight = tape.leaf(w);
  const Variable y = ops::linear(in, weight);
  tape.backward(y);
  std::vector<double> all;
  for (const Tensor& part : {y.value(), tape.gradient(in), tape.gradient(weight)}) {
    const std::vector<double> values = part.to_vector();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

}  // namespace

TEST_CASE("packed weights change no bit") {
  const Context context;
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const std::int64_t rows : {1, 5, 70}) {
      CAPTURE(rows);
      PackedWeights packed;
      const Tensor x = random(context, {rows, 130}, 1, dtype);
      const Tensor w = random(context, {67, 130}, 2, dtype), v = random(context, {3, 130}, 3, dtype);
      for (const Tensor& weight : {w, v, w}) {
        CHECK(linear(context, x, weight, &packed) == linear(context, x, weight, nullptr));
      }
    }
  }
}

TEST_CASE("a weight is packed once for each side") {
  const Context context;
  PackedWeights packed;
  Tensor w = random(context, {40, 33}, 1, DType::f32);
  const float* transposed = packed.panels<float>(context, w, Side::transposed);
  const float* plain = packed.panels<float>(context, w, Side::weight);
  CHECK(transposed[1] == float(w.at({1, 0})));
  CHECK(plain[1] == float(w.at({0, 1})));
  w.span<float>()[1] = 7;  // against the rule, and so it is not seen
  CHECK(packed.panels<float>(context, w, Side::transposed) == transposed);
  CHECK(packed.panels<float>(context, w, Side::weight) == plain);
  CHECK(plain[1] != 7);
}

// ops::linear makes row-major copies of strided weights: the next copy must not be taken for the last.
TEST_CASE("copies of strided weights are told apart") {
  const Context context;
  PackedWeights packed;
  const Tensor x = random(context, {4, 9}, 1, DType::f32);
  for (std::uint32_t site = 2; site < 6; ++site) {
    const Tensor w = random(context, {9, 8}, site, DType::f32).transpose(0, 1);
    CHECK(linear(context, x, w, &packed) == linear(context, x, w, nullptr));
  }
}

TEST_CASE("threads share one packing") {
  const Context context;
  PackedWeights packed;
  std::vector<Tensor> weights;
  for (std::uint32_t site = 0; site < 16; ++site) {
    weights.push_back(random(context, {96, 64}, site, DType::f32));
  }
  std::vector<std::vector<const float*>> seen(4);
  std::vector<std::thread> threads;
  for (auto& mine : seen) {
    threads.emplace_back([&context, &packed, &weights, &mine] {
      for (const Tensor& w : weights) mine.push_back(packed.panels<float>(context, w, Side::transposed));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : seen) CHECK(mine == seen[0]);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    std::vector<float> expected(std::size_t(panels_size(64, 96)));
    pack_panels<float>(context, 64, 96, weights[i].data<float>(), 1, 64, expected.data());
    CHECK(std::memcmp(seen[0][i], expected.data(), expected.size() * sizeof(float)) == 0);
  }
}
