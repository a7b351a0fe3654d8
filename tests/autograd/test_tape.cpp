// The tape: accumulation, generations, sinks, modes, memory.
#include <doctest/doctest.h>

#include <array>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/autograd/tape.hpp"

using namespace dirigo;

namespace {

using Values = std::vector<double>;

Tensor values(const Context& context, const Values& v) {
  return Tensor::from<double>(context, {std::int64_t(v.size())}, v);
}

}  // namespace

TEST_CASE("a value that is used several times gets the sum of its gradients") {
  const Context context;
  Tape tape(context);
  const Variable x = tape.leaf(values(context, {1, 2, 3}));
  const Variable y = ops::add(ops::add(x, x), ops::multiply(x, ops::add(x, x)));  // 2x + 2x^2
  tape.backward(ops::sum(y));
  CHECK(tape.gradient(x).to_vector() == Values{6, 10, 14});
}

TEST_CASE("gradients that share storage are not added to in place") {
  const Context context;
  Tape tape(context);
  const Variable a = tape.leaf(values(context, {1, 2})), b = tape.leaf(values(context, {3, 4}));
  // add hands one tensor to a, to b and (as a view) to the reshape; a then receives more.
  const Variable sum = ops::add(ops::reshape(a, {2}), b);
  const Variable loss = ops::sum(ops::add(sum, ops::scale(a, 10)));
  tape.backward(loss);
  CHECK(tape.gradient(a).to_vector() == Values{11, 11});
  CHECK(tape.gradient(b).to_vector() == Values{1, 1});
}

TEST_CASE("the seed is neither changed nor handed out") {
  const Context context;
  Tape tape(context);
  const Tensor seed = values(context, {5, 7});
  const Variable x = tape.leaf(values(context, {1, 1})), y = tape.leaf(values(context, {1, 1}));
  tape.backward(ops::add(ops::add(x, y), x), seed);
  CHECK(seed.to_vector() == Values{5, 7});
  Tensor gradient = tape.gradient(y);
  gradient.fill(0);
  CHECK(seed.to_vector() == Values{5, 7});
  CHECK(tape.gradient(x).to_vector() == Values{10, 14});
  CHECK(tape.gradient(y).to_vector() == Values{5, 7});
}

TEST_CASE("a leaf that backward does not reach has a zero gradient") {
  const Context context;
  Tape tape(context);
  const Variable x = tape.leaf(values(context, {1, 2})), unused = tape.leaf(values(context, {1, 2, 3}));
  const Variable behind = ops::scale(x, 3);
  tape.backward(ops::sum(x));
  CHECK(tape.gradient(unused).to_vector() == Values{0, 0, 0});
  CHECK(tape.gradient(x).to_vector() == Values{1, 1});
  CHECK(behind.value().to_vector() == Values{3, 6});
}

TEST_CASE("backward from a leaf gives the seed") {
  const Context context;
  Tape tape(context);
  const Variable x = tape.leaf(values(context, {1, 2}));
  tape.backward(x);
  CHECK(tape.gradient(x).to_vector() == Values{1, 1});
}

TEST_CASE("an undefined sink is set, a defined one is added to") {
  const Context context;
  Tensor sink_a, sink_b;
  for (int step = 1; step <= 2; ++step) {
    Tape tape(context);
    const Variable a = tape.leaf(values(context, {1, 2}), &sink_a),
                   b = tape.leaf(values(context, {3, 4}), &sink_b);
    tape.backward(ops::sum(ops::add(ops::add(a, b), ops::multiply(a, a))));
    CHECK_THROWS_AS(tape.gradient(a), StateError);
    CHECK(sink_a.to_vector() == Values{3.0 * step, 5.0 * step});
    CHECK(sink_b.to_vector() == Values{1.0 * step, 1.0 * step});
  }
}

TEST_CASE("sinks of one gradient tensor do not share storage") {
  const Context context;
  Tensor sink_a, sink_b;
  Tape tape(context);
  const Variable a = tape.leaf(values(context, {1, 2}), &sink_a),
                 b = tape.leaf(values(context, {3, 4}), &sink_b);
  tape.backward(ops::add(a, b));
  sink_a.fill(9);
  CHECK(sink_b.to_vector() == Values{1, 1});
}

TEST_CASE("a product adds to what a sink holds, in place") {
  const Context context;
  const Tensor x = Tensor::from<double>(context, {1, 2}, Values{1, 2});
  const Tensor w = Tensor::from<double>(context, {1, 2}, Values{3, 4});
  const auto run = [&](Tensor& sink) {
    Tape tape(context);
    tape.backward(ops::linear(tape.constant(x), tape.leaf(w, &sink)));
  };
  Tensor sink = Tensor::from<double>(context, {1, 2}, Values{10, 20});
  const double* const at = sink.data<double>();
  run(sink);
  CHECK(sink.to_vector() == Values{11, 22});
  CHECK(sink.data<double>() == at);
  const Tensor shared = sink;  // somebody else's too: still added to, and seen by both
  run(sink);
  CHECK(sink.to_vector() == Values{12, 24});
  CHECK(shared.to_vector() == Values{12, 24});
  Tensor narrow = Tensor::from<double>(context, {1, 1}, Values{0});
  CHECK_THROWS_AS(run(narrow), ShapeError);
}

TEST_CASE("one parameter behind two leaves with one sink (tied weights)") {
  const Context context;
  Tensor sink;
  Tape tape(context);
  const Tensor weight = values(context, {2, 3});
  const Variable first = tape.leaf(weight, &sink), second = tape.leaf(weight, &sink);
  tape.backward(ops::sum(ops::multiply(first, ops::scale(second, 2))));
  CHECK(sink.to_vector() == Values{8, 12});
}

TEST_CASE("a redirected sink is left alone, another is not") {
  const Context context;
  Tensor sink, own, other;
  const Tape::Sinks sinks{{&sink, &own}};
  Tape tape(context);
  tape.redirect(&sinks);
  const Variable a = tape.leaf(values(context, {1, 2}), &sink),
                 b = tape.leaf(values(context, {3, 4}), &other);
  tape.backward(ops::multiply(a, b));
  CHECK_FALSE(sink.defined());
  CHECK(own.to_vector() == Values{3, 4});
  CHECK(other.to_vector() == Values{1, 2});
}

TEST_CASE("misuse is refused") {
  const Context context;
  Tape tape(context), other(context);
  const Variable x = tape.leaf(values(context, {1, 2}));
  const Variable y = ops::sum(x);

  SUBCASE("a second backward") {
    tape.backward(y);
    CHECK_THROWS_AS(tape.backward(y), StateError);
  }
  SUBCASE("a stale variable") {
    tape.clear();
    CHECK_THROWS_AS(ops::sum(x), StateError);
    CHECK_THROWS_AS(tape.backward(y), StateError);
    CHECK_THROWS_AS(tape.gradient(x), StateError);
    const Variable fresh = tape.leaf(values(context, {1, 2}));
    CHECK_THROWS_AS(ops::add(fresh, x), StateError);
    tape.backward(ops::sum(fresh));
    CHECK(tape.gradient(fresh).to_vector() == Values{1, 1});
  }
  SUBCASE("a stale constant") {
    const Variable constant = tape.constant(values(context, {1, 2}));
    tape.clear();
    CHECK_THROWS_AS(ops::add(tape.leaf(values(context, {1, 2})), constant), StateError);
  }
  SUBCASE("a variable of another tape") {
    const Variable z = other.leaf(values(context, {1, 2}));
    CHECK_THROWS_AS(ops::add(x, z), StateError);
    CHECK_THROWS_AS(tape.backward(z), StateError);
    CHECK_THROWS_AS(tape.gradient(z), StateError);
  }
  SUBCASE("an empty variable") {
    CHECK_THROWS_AS(ops::gelu({}), StateError);
    CHECK_THROWS_AS(Variable().tape(), StateError);
  }
  SUBCASE("backward from a constant") {
    CHECK_THROWS_AS(tape.backward(ops::sum(tape.constant(values(context, {1})))), StateError);
  }
  SUBCASE("a seed of another shape or dtype") {
    CHECK_THROWS_AS(tape.backward(y, values(context, {1})), ShapeError);
    CHECK_THROWS_AS(tape.backward(y, Tensor::full(context, {}, 1.0, DType::f32)), ShapeError);
    tape.backward(y);  // the refused seeds left the tape as it was
    CHECK(tape.gradient(x).to_vector() == Values{1, 1});
  }
  SUBCASE("the gradient of another variable, or too early") {
    CHECK_THROWS_AS(tape.gradient(x), StateError);
    tape.backward(y);
    CHECK_THROWS_AS(tape.gradient(y), StateError);
    CHECK_THROWS_AS(tape.gradient(tape.constant(values(context, {1}))), StateError);
  }
  SUBCASE("a vjp that hands over a wrong shape") {
    const Variable bad = tape.record("bad", {x}, values(context, {1, 2}), [&](Backward& pass) {
      pass.add(0, values(context, {1, 2, 3}));
    });
    CHECK_THROWS_AS(tape.backward(bad), ShapeError);
  }
  SUBCASE("two dtypes") {
    const Variable single = tape.leaf(Tensor::zeros(context, {2}, DType::f32));
    CHECK_THROWS_AS(ops::add(x, single), ShapeError);
    CHECK_THROWS_AS(ops::concat(std::array{x, single}, 0), ShapeError);
    CHECK_THROWS_AS(ops::linear(ops::reshape(x, {1, 2}), ops::reshape(single, {1, 2})), ShapeError);
  }
}

TEST_CASE("needs is false for constants and absent inputs, and nothing is recorded without leaves") {
  const Context context;
  Tape tape(context);
  const Variable leaf = tape.leaf(values(context, {1, 2})), constant = tape.constant(values(context, {3, 4}));
  const std::size_t before = tape.node_count();
  CHECK_FALSE(ops::multiply(constant, constant).requires_gradient());
  CHECK(tape.node_count() == before);
  std::vector<bool> needs;
  const Variable y =
      tape.record("probe", {leaf, constant, Variable()}, values(context, {0, 0}), [&](Backward& pass) {
        for (std::size_t i = 0; i < 4; ++i) needs.push_back(pass.needs(i));
        pass.add(0, pass.gradient());
        pass.add(1, pass.gradient());  // ignored
      });
  tape.backward(y);
  CHECK(needs == std::vector<bool>{true, false, false, false});
  CHECK(tape.gradient(leaf).to_vector() == Values{1, 1});
}

TEST_CASE("inference records nothing and computes the same") {
  const Context context;
  Tape training(context), inference(context, Tape::Mode::inference);
  Tensor sink;
  const Tensor x = values(context, {-1, 0.5, 2});
  const Variable trained = ops::gelu(training.leaf(x));
  const Variable inferred = ops::gelu(inference.leaf(x, &sink));
  CHECK(inferred.value().to_vector() == trained.value().to_vector());
  CHECK_FALSE(inferred.requires_gradient());
  CHECK(inference.node_count() == 0);
  CHECK_FALSE(inference.recording());
  CHECK_THROWS_AS(inference.backward(inferred), StateError);
  CHECK_FALSE(sink.defined());
}

TEST_CASE("backward and clear give the memory back") {
  const Context context;
  const auto in_use = [&] { return context.allocator()->statistics().bytes_in_use; };
  const std::size_t at_start = in_use();
  Tape tape(context);
  {
    const Variable x = tape.leaf(Tensor::full(context, {1000}, 0.5, DType::f64));
    Variable y = x;
    for (int i = 0; i < 20; ++i) y = ops::gelu(y);
    const Variable loss = ops::sum(y);
    y = {};
    const std::size_t recorded = in_use();
    CHECK(recorded > at_start + 19 * 8000);  // what the vjps keep
    tape.backward(loss);
    CHECK(in_use() < at_start + 4 * 8000);  // x, its gradient, the loss
  }
  tape.clear();
  CHECK(tape.node_count() == 0);
  CHECK(in_use() == at_start);
}

TEST_CASE("a training step after the first asks the system for no memory") {
  const Context context;
  Tensor sink = Tensor::zeros(context, {64, 32});
  const Tensor weight = Tensor::full(context, {64, 32}, 0.01), input = Tensor::full(context, {16, 32}, 1.0);
  const auto step = [&] {
    Tape tape(context);
    tape.backward(ops::sum(ops::gelu(ops::linear(tape.constant(input), tape.leaf(weight, &sink)))));
  };
  step();
  const auto before = context.allocator()->statistics().system_allocations;
  step();
  step();
  CHECK(context.allocator()->statistics().system_allocations == before);
}

TEST_CASE("a deep tape needs no deep stack") {
  const Context context;
  Tape tape(context);
  const Variable x = tape.leaf(values(context, {1}));
  Variable y = x;
  for (int i = 0; i < 20000; ++i) y = ops::scale(y, 1.0);
  tape.backward(y);
  CHECK(tape.gradient(x).item() == 1.0);
}
