// Every operation of the op list: values, gradients, fused against composed, f32, any number of threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>

#include "dirigo/autograd/gradient_check.hpp"
#include "dirigo/autograd/ops.hpp"

using namespace dirigo;

namespace {

struct Result {
  Tensor value;
  std::vector<Tensor> gradients;
};

bool differentiable(const OpCase& op_case, std::size_t i) {
  return op_case.differentiable.empty() || op_case.differentiable[i];
}

// Value and gradients of a case, its inputs cast to `dtype`, under a fixed cotangent.
Result run(const Context& context, const OpCase& op_case, DType dtype) {
  Tape tape(context);
  std::vector<Variable> inputs;
  for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
    const Tensor x = op_case.inputs[i].cast(context, dtype);
    inputs.push_back(differentiable(op_case, i) ? tape.leaf(x) : tape.constant(x));
  }
  const Variable y = op_case.op(tape, inputs);
  Result result{y.value(), {}};
  if (!y.requires_gradient()) return result;
  std::vector<double> seed;
  for (std::int64_t i = 0; i < y.shape().size(); ++i) seed.push_back(std::sin(double(i) + 0.5));
  tape.backward(y, Tensor::from<double>(context, y.shape(), seed).cast(context, dtype));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (differentiable(op_case, i)) result.gradients.push_back(tape.gradient(inputs[i]));
  }
  return result;
}

double worst_difference(const Tensor& actual, const Tensor& expected) {
  const auto a = actual.to_vector(), b = expected.to_vector();
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i]));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  return visit_dtype(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    return a.size() == 0 || std::memcmp(a.data<T>(), b.data<T>(), std::size_t(a.size()) * sizeof(T)) == 0;
  });
}

template <class F>
void for_each_case(const Context& context, F f) {
  for (const OpEntry& entry : op_list()) {
    const std::vector<OpCase> cases = entry.cases(context);
    REQUIRE_FALSE(cases.empty());
    for (const OpCase& op_case : cases) {
      const std::string op = entry.name;
      CAPTURE(op);
      CAPTURE(op_case.name);
      f(op_case);
    }
  }
}

void check_thread_counts(const Context& one, std::initializer_list<const Context*> others,
                         const OpCase& op_case) {
  const Result expected = run(one, op_case, DType::f32);
  for (const Context* context : others) {
    const Result result = run(*context, op_case, DType::f32);
    CHECK(same_bits(result.value, expected.value));
    REQUIRE(result.gradients.size() == expected.gradients.size());
    for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
      CHECK(same_bits(result.gradients[i], expected.gradients[i]));
    }
  }
}

using Inputs = std::span<const Variable>;

Tensor random_tensor(const Context& context, const Shape& shape, double low, double high) {
  PhiloxStream stream(random_key(3, 0, Purpose::test), std::uint32_t(shape.size()));
  std::vector<double> values(static_cast<std::size_t>(shape.size()));
  for (double& value : values) value = low + (high - low) * stream.uniform();
  return Tensor::from<double>(context, shape, values);
}

constexpr std::int64_t many = 700, chunk = 100;

// `op` on 100 rows at a time, which is one block of its loops: inputs of 700 rows are cut, others shared.
OpFunction by_rows(const OpFunction& op) {
  return [op](Tape& tape, Inputs x) {
    std::vector<Variable> parts;
    for (std::int64_t row = 0; row < many; row += chunk) {
      std::vector<Variable> inputs;
      for (const Variable& input : x) {
        inputs.push_back(input.shape()[0] == many ? ops::slice(input, 0, row, row + chunk) : input);
      }
      parts.push_back(op(tape, inputs));
    }
    return ops::concat(parts, 0);
  };
}

// Every operation at a size that makes several blocks of its parallel loops; `composed` is the same without
// blocks.
std::vector<OpCase> large_cases(const Context& context) {
  std::vector<OpCase> cases;
  const auto add = [&](const char* name, std::vector<Shape> shapes, OpFunction op) {
    OpCase op_case;
    op_case.name = name;
    for (const Shape& shape : shapes) op_case.inputs.push_back(random_tensor(context, shape, 0.1, 2));
    op_case.op = std::move(op);
    cases.push_back(std::move(op_case));
  };
  const auto add_by_rows = [&](const char* name, const std::vector<Shape>& shapes, const OpFunction& op) {
    add(name, shapes, op);
    cases.back().composed = by_rows(op);
  };
  std::vector<std::int32_t> indices;
  for (int i = 0; i < 700; ++i) indices.push_back(i * 37 % 90);
  std::vector<std::int32_t> distinct;
  for (int i = 0; i < 700; ++i) distinct.push_back(i * 3 % 701);
  const Shape matrix{700, 90};
  const RandomKey key = random_key(9, 1, Purpose::dropout);
  add_by_rows("add", {matrix, matrix}, [](Tape&, Inputs x) { return ops::add(x[0], x[1]); });
  add_by_rows("add row", {matrix, {90}}, [](Tape&, Inputs x) { return ops::add(x[0], x[1]); });
  add_by_rows("multiply", {matrix, {700, 1}}, [](Tape&, Inputs x) { return ops::multiply(x[0], x[1]); });
  add_by_rows("scale", {matrix}, [](Tape&, Inputs x) { return ops::scale(x[0], 0.3); });
  add_by_rows("gelu", {matrix}, [](Tape&, Inputs x) { return ops::gelu(x[0]); });
  add_by_rows("softplus", {matrix}, [](Tape&, Inputs x) { return ops::softplus(x[0]); });
  add_by_rows("elu1", {matrix}, [](Tape&, Inputs x) { return ops::elu1(x[0]); });
  add("dropout", {matrix}, [key](Tape&, Inputs x) { return ops::dropout(x[0], 0.2, key); });
  cases.back().composed = [key](Tape& tape, Inputs x) {
    std::vector<double> factors;
    for (std::uint32_t block = 0; factors.size() < std::size_t(x[0].shape().size()); ++block) {
      for (const std::uint32_t word :
           philox4x32({block, 0, key.step, key.purpose}, {std::uint32_t(key.seed), 0})) {
        factors.push_back(double(word) >= 0.2 * 0x1p32 ? 1 / 0.8 : 0);
      }
    }
    return ops::multiply(x[0], tape.constant(Tensor::from<double>(tape.context(), x[0].shape(), factors)));
  };
  add("sum", {matrix}, [](Tape&, Inputs x) { return ops::sum(x[0]); });
  cases.back().composed = [](Tape&, Inputs x) { return ops::sum(ops::sum(x[0], 1)); };
  add("sum axis", {{3, 70, 600}}, [](Tape&, Inputs x) { return ops::sum(x[0], 1); });
  cases.back().composed = [](Tape&, Inputs x) {
    return ops::concat(
        std::array{ops::sum(ops::slice(x[0], 2, 0, 200), 1), ops::sum(ops::slice(x[0], 2, 200, 600), 1)}, 1);
  };
  add_by_rows("sum last axis", {matrix}, [](Tape&, Inputs x) { return ops::sum(x[0], 1); });
  add("mean", {matrix}, [](Tape&, Inputs x) { return ops::mean(x[0]); });
  add("reshape", {matrix}, [](Tape&, Inputs x) { return ops::reshape(x[0], {90, 700}); });
  add("transpose", {matrix}, [](Tape&, Inputs x) { return ops::transpose(x[0], 0, 1); });
  add("slice", {matrix}, [](Tape&, Inputs x) { return ops::slice(x[0], 1, 3, 80); });
  add("concat", {matrix, matrix}, [](Tape&, Inputs x) { return ops::concat(x, 1); });
  add_by_rows("matmul", {matrix, {90, 110}}, [](Tape&, Inputs x) { return ops::matmul(x[0], x[1]); });
  add_by_rows("linear", {matrix, {110, 90}, {110}},
              [](Tape&, Inputs x) { return ops::linear(x[0], x[1], x[2]); });
  add_by_rows("softmax", {matrix}, [](Tape&, Inputs x) { return ops::softmax(x[0]); });
  add_by_rows("normalize", {matrix}, [](Tape&, Inputs x) { return ops::normalize(x[0]); });
  add_by_rows("layer_norm", {matrix, {90}, {90}},
              [](Tape&, Inputs x) { return ops::layer_norm(x[0], x[1], x[2]); });
  add("embedding", {{90, 70}}, [=](Tape&, Inputs x) { return ops::embedding(x[0], indices); });
  const OpFunction select = [=](Tape& tape, Inputs x) {
    std::vector<double> selection(many * 90);
    for (std::size_t i = 0; i < indices.size(); ++i) selection[i * 90 + std::size_t(indices[i])] = 1;
    return ops::matmul(tape.constant(Tensor::from<double>(tape.context(), {many, 90}, selection)), x[0]);
  };
  cases.back().composed = select;
  add("gather_rows", {{90, 70}}, [=](Tape&, Inputs x) { return ops::gather_rows(x[0], indices); });
  cases.back().composed = select;
  add("scatter_rows", {{700, 70}}, [=](Tape&, Inputs x) { return ops::scatter_rows(x[0], distinct, 701); });
  cases.back().composed = [=](Tape& tape, Inputs x) {
    std::vector<double> selection(many * 701);
    for (std::size_t i = 0; i < distinct.size(); ++i) selection[i * 701 + std::size_t(distinct[i])] = 1;
    return ops::matmul(tape.constant(Tensor::from<double>(tape.context(), {many, 701}, selection)), x[0],
                       true);
  };
  add("cross_entropy", {matrix}, [=](Tape&, Inputs x) { return ops::cross_entropy(x[0], indices); });
  cases.back().composed = [=](Tape&, Inputs x) {
    const std::span<const std::int32_t> targets(indices);
    std::vector<Variable> losses;
    for (std::int64_t row = 0; row < many; row += chunk) {
      losses.push_back(ops::reshape(
          ops::cross_entropy(ops::slice(x[0], 0, row, row + chunk), targets.subspan(std::size_t(row), chunk)),
          {1}));
    }
    return ops::mean(ops::concat(losses, 0));
  };
  add_by_rows("mix", {{700, 2}, matrix, matrix},
              [](Tape&, Inputs x) { return ops::mix(x[0], x.subspan(1)); });
  add_by_rows("one_hot_straight_through", {matrix},
              [](Tape&, Inputs x) { return ops::one_hot_straight_through(x[0]); });
  add_by_rows("categorical_entropy", {matrix},
              [](Tape&, Inputs x) { return ops::categorical_entropy(x[0]); });
  add("dirichlet_rsample", {{700, 3}}, [key](Tape&, Inputs x) { return ops::dirichlet_rsample(x[0], key); });
  add_by_rows("dirichlet_kl", {{700, 3}}, [](Tape&, Inputs x) {
    const std::vector<double> prior{0.01, 0.86, 0.71};
    return ops::dirichlet_kl(x[0], prior);
  });
  add_by_rows("dirichlet_entropy", {{700, 3}}, [](Tape&, Inputs x) { return ops::dirichlet_entropy(x[0]); });
  const Shape sequences{2, 150, 24};
  add("full_attention", {sequences, sequences, sequences},
      [](Tape&, Inputs x) { return ops::full_attention(x[0], x[1], x[2], 3); });
  add("local_attention", {sequences, sequences, sequences},
      [](Tape&, Inputs x) { return ops::local_attention(x[0], x[1], x[2], 3, 20); });
  add("linear_attention", {sequences, sequences, sequences},
      [](Tape&, Inputs x) { return ops::linear_attention(x[0], x[1], x[2], 3, 32); });
  return cases;
}

}  // namespace

TEST_CASE("every operation: value, gradient and composed form") {
  const Context context;
  for_each_case(context, [&](const OpCase& op_case) {
    const GradientCheck result = check(context, op_case);
    CAPTURE(result.where);
    CAPTURE(result.worst_value_error);
    CAPTURE(result.worst_gradient_error);
    CAPTURE(result.worst_composed_error);
    CHECK(result.ok);
  });
}

TEST_CASE("the check finds a wrong value, a wrong gradient, a wrong composed form and NaN") {
  const Context context;
  const auto scaled = [](double value, double slope) {
    return [=](Tape& tape, std::span<const Variable> x) {
      Tensor y = x[0].value().clone(tape.context());
      for (double& element : y.span<double>()) element *= value;
      return tape.record("scaled", {x[0]}, y, [=](Backward& pass) {
        Tensor dx = pass.gradient().clone(pass.context());
        for (double& element : dx.span<double>()) element *= slope;
        pass.add(0, dx);
      });
    };
  };
  const std::vector<double> x{0.5, -1, 2};
  OpCase op_case{.name = "twice",
                 .inputs = {Tensor::from<double>(context, {3}, x)},
                 .op = scaled(2, 2),
                 .reference =
                     [](std::span<const Tensor>) {
                       return std::vector<double>{1, -2, 4};
                     },
                 .composed = scaled(2, 2)};
  CHECK(check(context, op_case).ok);
  op_case.op = scaled(2.0001, 2.0001);
  CHECK_FALSE(check(context, op_case).ok);
  op_case.op = scaled(2, 2.0001);
  CHECK_FALSE(check(context, op_case).ok);
  op_case.op = scaled(2, NAN);
  CHECK_FALSE(check(context, op_case).ok);
  op_case.op = scaled(NAN, 2);
  CHECK_FALSE(check(context, op_case).ok);
  op_case.op = scaled(2, 2);
  op_case.composed = scaled(2, 2.0001);
  CHECK_FALSE(check(context, op_case).ok);
  op_case.composed = nullptr;
  op_case.reference_vjp = [](std::span<const Tensor>, const Tensor& dy) { return std::vector<Tensor>{dy}; };
  CHECK_FALSE(check(context, op_case).ok);
}

TEST_CASE("every file of autograd/src/ops is in the op list") {
  std::set<std::string> listed, files;
  for (const OpEntry& entry : op_list()) listed.insert(entry.file);
  const auto folder = std::filesystem::path(DIRIGO_TEST_DIR) / ".." / "autograd" / "src" / "ops";
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() == ".cpp") files.insert(file.path().filename().string());
  }
  CHECK(files == listed);
  CHECK(listed.size() == op_list().size());
}

TEST_CASE("f32 agrees with f64") {
  const Context context;
  for_each_case(context, [&](const OpCase& op_case) {
    const Result single = run(context, op_case, DType::f32), exact = run(context, op_case, DType::f64);
    CHECK(single.value.dtype() == DType::f32);
    CHECK(worst_difference(single.value, exact.value) < 1e-4);
    REQUIRE(single.gradients.size() == exact.gradients.size());
    for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
      CAPTURE(i);
      CHECK(worst_difference(single.gradients[i], exact.gradients[i]) < 1e-4);
    }
  });
}

TEST_CASE("cutting the work into blocks changes no value and no gradient") {
  const Context context;
  int compared = 0;
  for (OpCase& op_case : large_cases(context)) {
    if (!op_case.composed) continue;
    CAPTURE(op_case.name);
    const Result blocks = run(context, op_case, DType::f64);
    op_case.op = op_case.composed;
    const Result whole = run(context, op_case, DType::f64);
    CHECK(worst_difference(blocks.value, whole.value) < 1e-12);
    REQUIRE(blocks.gradients.size() == op_case.inputs.size());
    for (std::size_t i = 0; i < blocks.gradients.size(); ++i) {
      CAPTURE(i);
      CHECK(worst_difference(blocks.gradients[i], whole.gradients[i]) < 1e-11);
    }
    ++compared;
  }
  CHECK(compared == 25);
}

TEST_CASE("values and gradients have the same bits on 1, 2 and 3 threads") {
  const Context one({.threads = 1}), two({.threads = 2}), three({.threads = 3});
  for_each_case(one, [&](const OpCase& op_case) { check_thread_counts(one, {&two, &three}, op_case); });
  // The cases are small. These are cut into several blocks, the last of them shorter.
  for (const OpCase& op_case : large_cases(one)) {
    CAPTURE(op_case.name);
    check_thread_counts(one, {&two, &three}, op_case);
  }
}
