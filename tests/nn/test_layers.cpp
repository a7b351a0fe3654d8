#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/nn/layers.hpp"

using namespace dirigo;
using namespace dirigo::nn;

namespace {

constexpr RandomKey key = random_key(5, 0, Purpose::init);

struct Block : Module {
  LayerNorm norm;
  Linear first, second;
  explicit Block(const Context& context)
      : norm(context, 4), first(context, 4, 8, true, key), second(context, 8, 4, false, key) {}
  void visit(const std::string& prefix, ParameterVisitor visitor) override {
    norm.visit(join_names(prefix, "norm"), visitor);
    first.visit(join_names(prefix, "ffn.first"), visitor);
    second.visit(join_names(prefix, "ffn.second"), visitor);
  }
};

}  // namespace

TEST_CASE("module: names and order of the parameters") {
  const Context context;
  Block block(context);
  std::vector<std::string> names;
  for (const NamedParameter& named : block.parameters()) names.push_back(named.name);
  CHECK(names == std::vector<std::string>{"norm.weight", "norm.bias", "ffn.first.weight", "ffn.first.bias",
                                          "ffn.second.weight"});
  CHECK(block.parameters()[2].parameter == &block.first.weight);
  CHECK(block.parameter_count() == 4 + 4 + 32 + 8 + 32);
  CHECK(Linear(context, 2, 3, false, key).parameters()[0].name == "weight");
}

TEST_CASE("layers: shapes and initial values") {
  const Context context;
  Linear linear(context, 128, 256, true, key);
  CHECK(linear.weight.value.shape() == Shape{256, 128});
  CHECK(linear.bias.value.to_vector() == std::vector<double>(256, 0.0));
  CHECK_FALSE(Linear(context, 2, 3, false, key).bias.value.defined());
  LayerNorm norm(context, 5);
  CHECK(norm.weight.value.to_vector() == std::vector<double>(5, 1.0));
  CHECK(norm.bias.value.to_vector() == std::vector<double>(5, 0.0));
  CHECK(Embedding(context, 11, 3, key).weight.value.shape() == Shape{11, 3});

  // N(0, 0.02): 32768 draws; mean, variance and fourth moment within five standard errors.
  double sum = 0, squares = 0, fourth = 0;
  const std::vector<double> weights = linear.weight.value.to_vector();
  for (const double w : weights) {
    const double z = w / 0.02;
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
  }
  const double n = double(weights.size()), error = 5 / std::sqrt(n);
  CHECK(std::abs(sum / n) < error);
  CHECK(std::abs(squares / n - 1) < error * std::sqrt(2.0));
  CHECK(std::abs(fourth / n - 3) < error * std::sqrt(96.0));
}

TEST_CASE("layers: the initial weights depend on the key alone") {
  const Context one(Context::Options{.threads = 1}), two(Context::Options{.threads = 2});
  const std::vector<double> weights = Linear(one, 6, 5, false, key).weight.value.to_vector();
  CHECK(Linear(two, 6, 5, false, key).weight.value.to_vector() == weights);
  CHECK(Linear(one, 6, 5, false, key, DType::f64).weight.value.to_vector() == weights);
  CHECK(Linear(one, 6, 5, false, random_key(6, 0, Purpose::init)).weight.value.to_vector() != weights);
  CHECK(Linear(one, 6, 5, false, random_key(5, 0, Purpose::init, 1)).weight.value.to_vector() != weights);
}

TEST_CASE("linear: x W^T + b and its gradients") {
  const Context context;
  Linear linear(context, 2, 3, true, key, DType::f64);
  const std::vector<double> w = {1, 2, 3, 4, 5, 6}, b = {10, 20, 30}, x = {1, -1, 0.5, 2};
  linear.weight.value = Tensor::from<double>(context, {3, 2}, w);
  linear.bias.value = Tensor::from<double>(context, {3}, b);
  Tape tape(context);
  const Variable y = linear(tape.constant(Tensor::from<double>(context, {2, 2}, x)));
  CHECK(y.value().to_vector() == std::vector<double>{9, 19, 29, 14.5, 29.5, 44.5});
  tape.backward(ops::sum(y));
  CHECK(linear.weight.gradient.to_vector() == std::vector<double>{1.5, 1, 1.5, 1, 1.5, 1});
  CHECK(linear.bias.gradient.to_vector() == std::vector<double>{2, 2, 2});

  Linear without_bias(context, 2, 3, false, key, DType::f64);
  without_bias.weight.value = linear.weight.value;
  tape.clear();
  CHECK(without_bias(tape.constant(Tensor::from<double>(context, {2, 2}, x))).value().to_vector() ==
        std::vector<double>{-1, -1, -1, 4.5, 9.5, 14.5});
}

TEST_CASE("layer norm: gain and bias reach the rows") {
  const Context context;
  LayerNorm norm(context, 2, DType::f64);
  norm.weight.value.fill(3);
  norm.bias.value.fill(1);
  Tape tape(context);
  const std::vector<double> x = {5, 7, -2, -2};
  const Variable y = norm(tape.constant(Tensor::from<double>(context, {2, 2}, x)));
  const double normalised = 1 / std::sqrt(1 + 1e-5);
  CHECK(y.value().at({0, 0}) == doctest::Approx(1 - 3 * normalised).epsilon(1e-12));
  CHECK(y.value().at({0, 1}) == doctest::Approx(1 + 3 * normalised).epsilon(1e-12));
  CHECK(y.value().at({1, 0}) == doctest::Approx(1));
  tape.backward(ops::sum(y));
  CHECK(norm.weight.gradient.at({0}) == doctest::Approx(-normalised));
  CHECK(norm.bias.gradient.to_vector() == std::vector<double>{2, 2});
}

TEST_CASE("a tied weight collects the gradients of all its uses") {
  const Context context;
  Embedding table(context, 3, 2, key, DType::f64);
  const std::vector<double> w = {1, 2, 3, 4, 5, 6};
  table.weight.value = Tensor::from<double>(context, {3, 2}, w);
  const std::vector<std::int32_t> tokens = {2, 0, 2};
  const auto backward = [&](bool stop_input) {
    Tape tape(context);
    Variable h = table(tape, tokens);
    if (stop_input) h = tape.constant(h.value());
    tape.backward(ops::sum(ops::linear(h, table.weight.on(tape))));  // logits with the same weight
    return table.weight.gradient.to_vector();
  };
  // d/dW_v sum_i sum_v h_i . W_v = sum_i h_i = (11, 14) for every v
  CHECK(backward(true) == std::vector<double>{11, 14, 11, 14, 11, 14});
  table.weight.gradient = Tensor{};
  // and d/dh_i = sum_v W_v = (9, 12) goes to the row of token i: twice to row 2, once to row 0
  const std::vector<double> both = {20, 26, 11, 14, 29, 38};
  CHECK(backward(false) == both);
  // The next backward pass adds.
  std::vector<double> twice = both;
  for (double& g : twice) g *= 2;
  CHECK(backward(false) == twice);
}

TEST_CASE("inference leaves no gradient") {
  const Context context;
  Linear linear(context, 2, 3, true, key);
  Tape tape(context, Tape::Mode::inference);
  const Variable y = linear(tape.constant(Tensor::zeros(context, {4, 2})));
  CHECK(y.shape() == Shape{4, 3});
  CHECK_FALSE(y.requires_gradient());
  CHECK_FALSE(linear.weight.gradient.defined());
}
