// Identities of the causal attentions, in f32 and at lengths of several tiles and chunks.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>

#include "dirigo/autograd/ops.hpp"

using namespace dirigo;

namespace {

constexpr int heads = 3;
constexpr std::int64_t batch = 2, length = 300, width = 24;

struct Attention {
  const char* name;
  std::function<Variable(const Variable&, const Variable&, const Variable&, ops::Rows)> run;
};

Tensor random_tensor(const Context& context, const Shape& shape, std::uint32_t site) {
  std::vector<float> values(static_cast<std::size_t>(shape.size()));
  philox_normal(random_key(8, 0, Purpose::test, site), 0, values);
  return Tensor::from<float>(context, shape, values);
}

Variable biased(const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) {
  const Tensor bias = random_tensor(q.context(), {heads, 40}, 9);
  return ops::local_attention(q, k, v, heads, 40, rows, q.tape().constant(bias));
}

const std::vector<Attention>& attentions() {
  static const std::vector<Attention> all{
      {"full",
       [](auto& q, auto& k, auto& v, auto rows) { return ops::full_attention(q, k, v, heads, rows); }},
      {"local",
       [](auto& q, auto& k, auto& v, auto rows) { return ops::local_attention(q, k, v, heads, 40, rows); }},
      {"linear",
       [](auto& q, auto& k, auto& v, auto rows) { return ops::linear_attention(q, k, v, heads, 32, rows); }},
      {"local with a bias", biased},
  };
  return all;
}

struct Inputs {
  Tensor q, k, v;
  explicit Inputs(const Context& context, DType dtype = DType::f32)
      : q(random_tensor(context, {batch, length, width}, 1).cast(context, dtype)),
        k(random_tensor(context, {batch, length, width}, 2).cast(context, dtype)),
        v(random_tensor(context, {batch, length, width}, 3).cast(context, dtype)) {}
};

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// The value and the gradients of q, k, v for the cotangent v.
std::vector<Tensor> forward_and_backward(const Context& context, const Inputs& in,
                                         const Attention& attention) {
  Tape tape(context);
  const Variable q = tape.leaf(in.q), k = tape.leaf(in.k), v = tape.leaf(in.v);
  const Variable y = attention.run(q, k, v, {});
  tape.backward(y, in.v);
  return {y.value(), tape.gradient(q), tape.gradient(k), tape.gradient(v)};
}

Tensor forward(const Context& context, const Inputs& in, const Attention& attention) {
  Tape tape(context, Tape::Mode::inference);
  return attention.run(tape.constant(in.q), tape.constant(in.k), tape.constant(in.v), {}).value();
}

}  // namespace

TEST_CASE("a window of T or more is full attention, bitwise") {
  const Context context;
  const Inputs in(context);
  const auto full = forward_and_backward(context, in, attentions()[0]);
  for (const std::int64_t window : {length, length + 1, std::int64_t{1} << 60}) {
    const Attention local{"", [window](auto& q, auto& k, auto& v, auto rows) {
                            return ops::local_attention(q, k, v, heads, window, rows);
                          }};
    const auto result = forward_and_backward(context, in, local);
    for (std::size_t i = 0; i < full.size(); ++i)
      CHECK(same_bits(result[i].span<float>(), full[i].span<float>()));
  }
  const Attention narrower{"", [](auto& q, auto& k, auto& v, auto rows) {
                             return ops::local_attention(q, k, v, heads, length - 1, rows);
                           }};
  CHECK_FALSE(same_bits(forward(context, in, narrower).span<float>(), full[0].span<float>()));
}

TEST_CASE("a window of 1 returns v") {
  const Context context;
  const Inputs in(context);
  const Attention local{
      "", [](auto& q, auto& k, auto& v, auto rows) { return ops::local_attention(q, k, v, heads, 1, rows); }};
  CHECK(same_bits(forward(context, in, local).span<float>(), in.v.span<float>()));
}

TEST_CASE("causal: what comes later changes no bit of what came before") {
  const Context context;
  const Inputs in(context);
  for (const Attention& attention : attentions()) {
    CAPTURE(std::string(attention.name));
    const Tensor before = forward(context, in, attention);
    for (const std::int64_t t : {0, 31, 32, 255, 298}) {
      CAPTURE(t);
      Inputs changed(context);
      for (Tensor* x : {&changed.q, &changed.k, &changed.v}) {
        for (std::int64_t b = 0; b < batch; ++b) {
          for (std::int64_t i = (b * length + t + 1) * width; i < (b + 1) * length * width; ++i) {
            x->data<float>()[i] = float(i % 7) - 3.0f;
          }
        }
      }
      const Tensor after = forward(context, changed, attention);
      for (std::int64_t b = 0; b < batch; ++b) {
        const auto from = std::size_t(b * length * width), count = std::size_t((t + 1) * width);
        CHECK(same_bits(after.span<float>().subspan(from, count), before.span<float>().subspan(from, count)));
        CHECK_FALSE(same_bits(after.span<float>().subspan(from + count, width),
                              before.span<float>().subspan(from + count, width)));
      }
    }
  }
}

TEST_CASE("the attention of some rows is that of all rows, bitwise, and costs less") {
  const Context context;
  const Inputs in(context);
  std::vector<std::vector<std::int32_t>> subsets{
      {0}, {299}, {300}, {17, 18, 19, 350}, {599}, {5, 299, 300, 301, 598}};
  subsets.emplace_back(batch * length);
  std::iota(subsets.back().begin(), subsets.back().end(), 0);
  subsets.emplace_back();
  for (std::int32_t i = 0; i < batch * length; i += 3) subsets.back().push_back(i);
  for (const Attention& attention : attentions()) {
    CAPTURE(std::string(attention.name));
    const auto count_before = context.flops().attention.load();
    const Tensor all = forward(context, in, attention);
    const auto count_all = context.flops().attention.load() - count_before;
    for (const auto& rows : subsets) {
      CAPTURE(rows.size());
      Tape tape(context, Tape::Mode::inference);
      const Variable q = ops::gather_rows(tape.constant(in.q.reshape({batch * length, width})), rows);
      const auto subset_before = context.flops().attention.load();
      const Tensor some = attention.run(q, tape.constant(in.k), tape.constant(in.v), rows).value();
      const auto count_some = context.flops().attention.load() - subset_before;
      CHECK(count_some > 0);
      CHECK((std::int64_t(rows.size()) == batch * length ? count_some == count_all : count_some < count_all));
      REQUIRE(some.shape() == Shape({std::int64_t(rows.size()), width}));
      for (std::size_t i = 0; i < rows.size(); ++i) {
        CHECK(same_bits(some.span<float>().subspan(i * width, width),
                        all.span<float>().subspan(std::size_t(rows[i]) * width, width)));
      }
    }
  }
}

TEST_CASE("the attention of some rows, written in place: those bits, and nothing else") {
  const Context context;
  const Inputs in(context);
  std::vector<std::vector<std::int32_t>> subsets{{}, {0}, {299, 300}, {5, 299, 300, 301, 598}};
  subsets.emplace_back(batch * length);
  std::iota(subsets.back().begin(), subsets.back().end(), 0);
  for (const Attention& attention : attentions()) {
    CAPTURE(std::string(attention.name));
    const Tensor all = forward(context, in, attention);
    for (const auto& rows : subsets) {
      CAPTURE(rows.size());
      Tape tape(context, Tape::Mode::inference);
      const Tensor into = Tensor::full(context, in.q.shape(), 7);
      const Variable y =
          attention.run(tape.constant(in.q), tape.constant(in.k), tape.constant(in.v), {rows, into});
      CHECK(y.value().data<float>() == into.data<float>());
      const auto got = into.span<float>(), expected = all.span<float>();
      for (std::int64_t row = 0; row < batch * length; ++row) {
        const bool chosen = std::find(rows.begin(), rows.end(), row) != rows.end();
        const auto values = got.subspan(std::size_t(row * width), width);
        if (chosen) CHECK(same_bits(values, expected.subspan(std::size_t(row * width), width)));
        if (!chosen) CHECK(std::all_of(values.begin(), values.end(), [](float x) { return x == 7; }));
      }
    }
  }
}

TEST_CASE("ragged rows are cut into tasks: the same bits and counts for any number of threads") {
  // More queries in a head than a task takes, unequally many in the two sequences.
  const std::int64_t n = 5000;
  std::vector<std::int32_t> rows;
  for (std::int32_t i = 0; i < n; ++i)
    if (i % 7 != 3) rows.push_back(i);
  for (std::int32_t i = 0; i < n; i += 9) rows.push_back(std::int32_t(n) + i);
  for (const Attention& attention : attentions()) {
    CAPTURE(std::string(attention.name));
    std::vector<Tensor> results;
    std::vector<std::uint64_t> counts;
    for (const int threads : {1, 2, 3}) {
      const Context context(Context::Options{.threads = threads});
      Tape tape(context, Tape::Mode::inference);
      std::vector<Variable> x;
      for (std::uint32_t i = 0; i < 3; ++i)
        x.push_back(tape.constant(random_tensor(context, {2, n, width}, 30 + i)));
      const Tensor into = Tensor::zeros(context, {2, n, width});
      attention.run(x[0], x[1], x[2], {rows, into});
      results.push_back(into);
      counts.push_back(context.flops().attention);
      counts.push_back(context.flops().attention_padding);
      if (threads > 1) continue;
      const auto expected = attention.run(x[0], x[1], x[2], {}).value().span<float>();
      bool same = true;
      for (const std::int32_t row : rows) {
        const auto at = std::size_t(row * width);
        same = same && same_bits(into.span<float>().subspan(at, width), expected.subspan(at, width));
      }
      CHECK(same);
    }
    for (std::size_t i = 1; i < results.size(); ++i) {
      CHECK(same_bits(results[0].span<float>(), results[i].span<float>()));
      CHECK(counts[2 * i] == counts[0]);
      CHECK(counts[2 * i + 1] == counts[1]);
    }
  }
}

TEST_CASE("attention in place: what cannot be written to is refused") {
  const Context context;
  const Inputs in(context);
  const std::vector<std::int32_t> rows{1, 4};
  for (const Attention& attention : attentions()) {
    Tape tape(context, Tape::Mode::inference);
    const Variable q = tape.constant(in.q), k = tape.constant(in.k), v = tape.constant(in.v);
    const auto into = [&](const Tensor& target) { attention.run(q, k, v, {rows, target}); };
    CHECK_THROWS_AS(into(Tensor::zeros(context, {2, width})), ShapeError);
    CHECK_THROWS_AS(into(Tensor::zeros(context, in.q.shape(), DType::f64)), ValueError);
    CHECK_THROWS_AS(into(Tensor::zeros(context, {batch, width, length}).transpose(1, 2)), ValueError);
    const Tensor good = Tensor::zeros(context, in.q.shape());
    CHECK_THROWS_AS(
        attention.run(ops::gather_rows(ops::reshape(q, {batch * length, width}), rows), k, v, {rows, good}),
        ShapeError);
    const std::vector<std::int32_t> unordered{4, 1};
    CHECK_THROWS_AS(attention.run(q, k, v, {unordered, good}), ValueError);
    Tape training(context);
    const Variable x = training.leaf(in.q);
    CHECK_THROWS_AS(attention.run(x, x, x, {rows, good}), StateError);
  }
}

TEST_CASE("a sequence's bits do not depend on the rest of the batch") {
  const Context context;
  const Inputs in(context);
  for (const Attention& attention : attentions()) {
    CAPTURE(std::string(attention.name));
    const auto both = forward_and_backward(context, in, attention);
    Inputs second(context);
    for (Tensor* x : {&second.q, &second.k, &second.v}) *x = x->slice(0, 1, 2);
    const auto alone = forward_and_backward(context, second, attention);
    for (std::size_t i = 0; i < both.size(); ++i) {
      CHECK(same_bits(both[i].span<float>().subspan(length * width), alone[i].span<float>()));
    }
  }
}

namespace {

// The value, then the gradients of the weights, q, k and v for the cotangent v.
using Mixed = std::function<Variable(const Variable&, const Variable&, const Variable&, const Variable&)>;
std::vector<Tensor> mixed_both_ways(const Context& context, const Inputs& in, const Tensor& weights,
                                    const Mixed& mixed) {
  Tape tape(context);
  const Variable w = tape.leaf(weights), q = tape.leaf(in.q), k = tape.leaf(in.k), v = tape.leaf(in.v);
  const Variable y = mixed(w, q, k, v);
  tape.backward(y, in.v);
  return {y.value(), tape.gradient(w), tape.gradient(q), tape.gradient(k), tape.gradient(v)};
}

Variable fused(const Variable& w, const Variable& q, const Variable& k, const Variable& v) {
  return ops::mixed_attention(w, q, k, v, heads, 40, 32);
}
Variable apart(const Variable& w, const Variable& q, const Variable& k, const Variable& v) {
  std::vector<Variable> outputs;
  for (const std::size_t expert : {0, 2, 1}) {  // full, linear, local
    outputs.push_back(ops::reshape(attentions()[expert].run(q, k, v, {}), {batch * length, width}));
  }
  return ops::reshape(ops::mix(w, outputs), {batch, length, width});
}

}  // namespace

TEST_CASE("mixed attention is the mixture of the three: the same bits forward, the same sums backward") {
  const Context context;
  const Inputs in(context);
  const Tensor weights = random_tensor(context, {batch * length, 3}, 4);
  const auto count_before = context.flops().attention.load();
  const auto expected = mixed_both_ways(context, in, weights, apart);
  const auto count_apart = context.flops().attention.load() - count_before;
  const auto got = mixed_both_ways(context, in, weights, fused);
  const auto count_fused = context.flops().attention.load() - count_before - count_apart;
  CHECK(same_bits(got[0].span<float>(), expected[0].span<float>()));
  for (std::size_t i = 1; i < got.size(); ++i) {
    CAPTURE(i);
    double worst = 0, largest = 0;
    const auto a = got[i].to_vector(), b = expected[i].to_vector();
    for (std::size_t j = 0; j < a.size(); ++j) {
      largest = std::max(largest, std::abs(b[j]));
      if (!(std::abs(a[j] - b[j]) <= worst)) worst = std::abs(a[j] - b[j]);
    }
    CHECK(worst < 3e-6 * largest);
  }
  // Backward, local attention shares the five products of full attention.
  CHECK(count_apart - count_fused == batch * 10 * width * (40 * 41 / 2 + (length - 40) * 40));
}

TEST_CASE("mixed attention: bits independent of threads and batch, and causal") {
  const Context one(Context::Options{.threads = 1}), two(Context::Options{.threads = 2});
  const Inputs in(one);
  const Tensor weights = random_tensor(one, {batch * length, 3}, 4);
  const auto serial = mixed_both_ways(one, in, weights, fused),
             parallel = mixed_both_ways(two, in, weights, fused);
  Inputs second(one), changed(one);
  for (Tensor* x : {&second.q, &second.k, &second.v}) *x = x->slice(0, 1, 2);
  const auto alone = mixed_both_ways(one, second, weights.slice(0, length, 2 * length), fused);
  for (std::size_t i = 0; i < serial.size(); ++i) {
    CHECK(same_bits(serial[i].span<float>(), parallel[i].span<float>()));
    const auto all = serial[i].span<float>();
    CHECK(same_bits(all.subspan(all.size() / 2), alone[i].span<float>()));
  }
  for (Tensor* x : {&changed.q, &changed.k, &changed.v}) {
    for (std::int64_t i = 256 * width; i < length * width; ++i) x->data<float>()[i] = float(i % 7) - 3.0f;
  }
  const auto after = mixed_both_ways(one, changed, weights, fused);
  const auto past = [](const Tensor& x) { return x.span<float>().subspan(0, 256 * width); };
  CHECK(same_bits(past(serial[0]), past(after[0])));
}

TEST_CASE("linear attention is its quadratic form at any chunk") {
  const Context context;
  const Inputs in(context, DType::f64);
  std::vector<double> mask;
  for (std::int64_t i = 0; i < length; ++i) {
    for (std::int64_t j = 0; j < length; ++j) mask.push_back(j <= i ? 1 : 0);
  }
  const Attention quadratic{
      "", [&](auto& q, auto& k, auto& v, auto) {
        const auto split = [](const Variable& x) {
          return ops::transpose(ops::reshape(x, {batch, length, heads, width / heads}), 1, 2);
        };
        const Variable visible = q.tape().constant(Tensor::from<double>(context, {length, length}, mask));
        const Variable scores = ops::matmul(ops::elu1(split(q)), ops::elu1(split(k)), false, true);
        const Variable weights = ops::normalize(ops::multiply(scores, visible));
        return ops::reshape(ops::transpose(ops::matmul(weights, split(v)), 1, 2), {batch, length, width});
      }};
  const auto expected = forward_and_backward(context, in, quadratic);
  for (const std::int64_t chunk : {1, 7, 64, 300, 1000}) {
    CAPTURE(chunk);
    const Attention linear{"", [chunk](auto& q, auto& k, auto& v, auto rows) {
                             return ops::linear_attention(q, k, v, heads, chunk, rows);
                           }};
    const auto result = forward_and_backward(context, in, linear);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto a = result[i].to_vector(), b = expected[i].to_vector();
      double worst = 0;
      for (std::size_t j = 0; j < a.size(); ++j) {
        const double error = std::abs(a[j] - b[j]);
        if (!(error <= worst)) worst = error;
      }
      CHECK(worst < 1e-11);
    }
  }
}

TEST_CASE("the FLOP counter counts unmasked pairs") {
  const Context context;
  const Inputs in(context);
  const auto counted = [&](const Attention& attention) {
    const auto before = context.flops().attention.load();
    forward(context, in, attention);
    return std::int64_t(context.flops().attention.load() - before);
  };
  // QK and PV: 2 products of d multiply-adds for each pair, over all heads 4 D FLOPs.
  CHECK(counted(attentions()[0]) == batch * 4 * width * length * (length + 1) / 2);
  CHECK(counted(attentions()[1]) == batch * 4 * width * (40 * 41 / 2 + (length - 40) * 40));
  CHECK(counted(attentions()[2]) < counted(attentions()[0]));
}

TEST_CASE("attention refuses what it cannot do") {
  const Context context;
  Tape tape(context);
  const auto variable = [&](const Shape& shape) { return tape.leaf(Tensor::zeros(context, shape)); };
  const Variable x = variable({2, 5, 6});
  const std::vector<std::int32_t> rows{1, 3};
  CHECK_THROWS_AS(ops::full_attention(x, x, x, 4), ValueError);
  CHECK_THROWS_AS(ops::full_attention(x, x, x, 0), ValueError);
  CHECK_THROWS_AS(ops::full_attention(x, variable({2, 5, 4}), x, 2), ShapeError);
  CHECK_THROWS_AS(ops::full_attention(variable({2, 4, 6}), x, x, 2), ShapeError);
  CHECK_THROWS_AS(ops::full_attention(variable({5, 6}), variable({5, 6}), variable({5, 6}), 2), ShapeError);
  CHECK_THROWS_AS(ops::local_attention(x, x, x, 2, 0), ValueError);
  CHECK_THROWS_AS(ops::linear_attention(x, x, x, 2, 0), ValueError);
  const Variable weights = variable({10, 3});
  CHECK_THROWS_AS(ops::mixed_attention(weights, x, x, x, 2, 0, 4), ValueError);
  CHECK_THROWS_AS(ops::mixed_attention(weights, x, x, x, 2, 3, 0), ValueError);
  CHECK_THROWS_AS(ops::mixed_attention(variable({10, 2}), x, x, x, 2, 3, 4), ShapeError);
  CHECK_THROWS_AS(ops::local_attention(x, x, x, 2, 3, {}, variable({2, 4})), ShapeError);
  CHECK_THROWS_AS(ops::local_attention(x, x, x, 2, 3, {}, variable({1, 3})), ShapeError);
  CHECK_THROWS_AS(ops::mixed_attention(weights, x, x, x, 2, 3, 4, {{}, {}, variable({2, 4})}), ShapeError);
  CHECK_THROWS_AS(ops::mixed_attention(weights, x, x, x, 2, 3, 4, {x, {}, {}}), ShapeError);
  CHECK_THROWS_AS(ops::mixed_attention(weights, x, x, x, 2, 3, 4, {x, variable({2, 4, 6}), {}}), ShapeError);
  CHECK_THROWS_AS(ops::full_attention(variable({3, 6}), x, x, 2, rows), ShapeError);
  Tape inference(context, Tape::Mode::inference);
  const Variable k = inference.constant(x.value()), q = inference.constant(Tensor::zeros(context, {2, 6}));
  CHECK_THROWS_AS(ops::full_attention(q, k, k, 2, std::vector<std::int32_t>{3, 1}), ValueError);
  CHECK_THROWS_AS(ops::full_attention(q, k, k, 2, std::vector<std::int32_t>{1, 1}), ValueError);
  CHECK_THROWS_AS(ops::full_attention(q, k, k, 2, std::vector<std::int32_t>{1, 10}), ValueError);
  CHECK(ops::full_attention(q, k, k, 2, rows).shape() == Shape({2, 6}));
}

TEST_CASE("the gradients of some rows are those of all rows with no gradient elsewhere, and cost less") {
  const Context context;
  const Inputs in(context);
  std::vector<std::int32_t> thinned, dense{299, 300, 301};
  for (std::int32_t i = 0; i < batch * length; i += 1 + i % 7 + (i % 50 == 0 ? 60 : 0)) thinned.push_back(i);
  for (std::int32_t i = 20; i < 200; ++i) dense.insert(dense.end() - 3, i);
  for (const Attention& attention : attentions()) {
    CAPTURE(std::string(attention.name));
    for (const auto& rows : {thinned, dense, std::vector<std::int32_t>{599}, std::vector<std::int32_t>{1}}) {
      CAPTURE(rows.size());
      const auto work = [&](auto f) {
        const auto before = context.flops().attention.load();
        f();
        return std::int64_t(context.flops().attention.load() - before);
      };
      const auto flat = [](const Variable& x) { return ops::reshape(x, {batch * length, width}); };
      std::vector<Tensor> some, all;
      const auto count_some = work([&] {
        Tape tape(context);
        const Variable q = tape.leaf(in.q), k = tape.leaf(in.k), v = tape.leaf(in.v);
        const Variable y = attention.run(ops::gather_rows(flat(q), rows), k, v, rows);
        tape.backward(y, ops::gather_rows(flat(tape.constant(in.v)), rows).value());
        some = {y.value(), tape.gradient(q), tape.gradient(k), tape.gradient(v)};
      });
      const auto count_all = work([&] {
        Tape tape(context);
        const Variable q = tape.leaf(in.q), k = tape.leaf(in.k), v = tape.leaf(in.v);
        const Variable y = ops::gather_rows(flat(attention.run(q, k, v, {})), rows);
        tape.backward(y, ops::gather_rows(flat(tape.constant(in.v)), rows).value());
        all = {y.value(), tape.gradient(q), tape.gradient(k), tape.gradient(v)};
      });
      CHECK(count_some < count_all);
      CHECK(same_bits(some[0].span<float>(), all[0].span<float>()));
      for (std::size_t i = 1; i < some.size(); ++i) {
        CAPTURE(i);
        const auto a = some[i].to_vector(), b = all[i].to_vector();
        double worst = 0, largest = 0;
        for (std::size_t j = 0; j < a.size(); ++j) {
          largest = std::max(largest, std::abs(b[j]));
          if (!(std::abs(a[j] - b[j]) <= worst)) worst = std::abs(a[j] - b[j]);
        }
        CHECK(largest > 0);
        CHECK(worst <= 2e-6 * largest);
      }
      if (attention.name == std::string("linear")) continue;
      // 2 products forward and 5 backward for every pair that a chosen query sees.
      std::int64_t pairs = 0;
      const std::int64_t window = attention.name == std::string("full") ? length : 40;
      for (const std::int32_t row : rows) pairs += std::min<std::int64_t>(row % length + 1, window);
      CHECK(count_some == 14 * width * pairs);
    }
  }
}

TEST_CASE("gradients of some rows have the same bits on 1, 2 and 3 threads") {
  std::vector<std::vector<Tensor>> results;
  std::vector<std::unique_ptr<Context>> contexts;
  std::vector<std::int32_t> rows;
  for (std::int32_t i = 0; i < batch * length; i += 1 + i % 5) rows.push_back(i);
  for (const int threads : {1, 2, 3}) {
    contexts.push_back(std::make_unique<Context>(Context::Options{.threads = threads}));
    const Context& context = *contexts.back();
    const Inputs in(context);
    std::vector<Tensor>& all = results.emplace_back();
    for (const Attention& attention : attentions()) {
      Tape tape(context);
      const Variable
          q = tape.leaf(ops::gather_rows(tape.constant(in.q.reshape({batch * length, width})), rows).value()),
          k = tape.leaf(in.k), v = tape.leaf(in.v);
      tape.backward(attention.run(q, k, v, rows));
      for (const Variable& x : {q, k, v}) all.push_back(tape.gradient(x));
    }
  }
  for (std::size_t i = 0; i < results[0].size(); ++i) {
    CHECK(same_bits(results[0][i].span<float>(), results[1][i].span<float>()));
    CHECK(same_bits(results[0][i].span<float>(), results[2][i].span<float>()));
  }
}

TEST_CASE("a bias of zero changes no bit, and a large one moves all weight to its distance") {
  const Context context;
  const Inputs in(context);
  const auto with = [&](const Tensor& bias) {
    Tape tape(context, Tape::Mode::inference);
    return ops::local_attention(tape.constant(in.q), tape.constant(in.k), tape.constant(in.v), heads, 40, {},
                                tape.constant(bias))
        .value();
  };
  CHECK(same_bits(with(Tensor::zeros(context, {heads, 40})).span<float>(),
                  forward(context, in, attentions()[1]).span<float>()));
  Tensor bias = Tensor::zeros(context, {heads, 40});
  for (int head = 0; head < heads; ++head) bias.span<float>()[std::size_t(head * 40 + 7)] = 500;
  const Tensor moved = with(bias);
  for (std::int64_t i = 7; i < length; ++i) {
    for (std::int64_t c = 0; c < width; ++c) CHECK(moved.at({1, i, c}) == in.v.at({1, i - 7, c}));
  }
}

TEST_CASE("mixed attention with a bias, and linear attention apart, is the mixture of the three") {
  const Context context;
  const Inputs in(context);
  const Tensor weights = random_tensor(context, {batch * length, 3}, 4);
  const Tensor bias = random_tensor(context, {heads, 40}, 9);
  const Inputs other = [&] {
    Inputs x(context);
    x.q = random_tensor(context, {batch, length, width}, 20);
    x.k = random_tensor(context, {batch, length, width}, 21);
    return x;
  }();
  std::vector<std::vector<Tensor>> results;
  for (const bool fused_form : {true, false}) {
    Tape tape(context);
    const Variable w = tape.leaf(weights), q = tape.leaf(in.q), k = tape.leaf(in.k), v = tape.leaf(in.v),
                   lq = tape.leaf(other.q), lk = tape.leaf(other.k), b = tape.leaf(bias);
    const Shape rows{batch * length, width};
    Variable y;
    if (fused_form) {
      y = ops::mixed_attention(w, q, k, v, heads, 40, 32, {lq, lk, b});
    } else {
      const std::vector<Variable> outputs{
          ops::reshape(ops::full_attention(q, k, v, heads), rows),
          ops::reshape(ops::linear_attention(lq, lk, v, heads, 32), rows),
          ops::reshape(ops::local_attention(q, k, v, heads, 40, {}, b), rows)};
      y = ops::reshape(ops::mix(w, outputs), {batch, length, width});
    }
    tape.backward(y, in.v);
    auto& all = results.emplace_back();
    all.push_back(y.value());
    for (const Variable& x : {w, q, k, v, lq, lk, b}) all.push_back(tape.gradient(x));
  }
  CHECK(same_bits(results[0][0].span<float>(), results[1][0].span<float>()));
  for (std::size_t i = 1; i < results[0].size(); ++i) {
    CAPTURE(i);
    const auto a = results[0][i].to_vector(), b = results[1][i].to_vector();
    double worst = 0, largest = 0;
    for (std::size_t j = 0; j < a.size(); ++j) {
      largest = std::max(largest, std::abs(b[j]));
      if (!(std::abs(a[j] - b[j]) <= worst)) worst = std::abs(a[j] - b[j]);
    }
    CHECK(worst < 3e-6 * largest);
  }
}

TEST_CASE("rotary: lengths stay, scores depend on the distance, and far angles are exact") {
  const Context context;
  Tape tape(context, Tape::Mode::inference);
  const Tensor q = random_tensor(context, {4, width}, 1), k = random_tensor(context, {4, width}, 2);
  const auto turned = [&](const Tensor& x, std::vector<std::int32_t> positions) {
    return ops::rotary(tape.constant(x), ops::RotaryAngles(context, positions, width / heads)).value();
  };
  const auto dot = [](const Tensor& a, const Tensor& b, std::int64_t row) {
    double sum = 0;
    for (std::int64_t c = 0; c < width; ++c) sum += a.at({row, c}) * b.at({row, c});
    return sum;
  };
  const Tensor near_q = turned(q, {5, 9, 700, 33}), near_k = turned(k, {0, 9, 699, 1});
  const Tensor far_q = turned(q, {60005, 60009, 60700, 60033}),
               far_k = turned(k, {60000, 60009, 60699, 60001});
  for (std::int64_t row = 0; row < 4; ++row) {
    CHECK(dot(near_q, near_k, row) == doctest::Approx(dot(far_q, far_k, row)).epsilon(1e-5).scale(1));
    CHECK(dot(near_q, near_q, row) == doctest::Approx(dot(q, q, row)).epsilon(1e-6));
  }
  CHECK(same_bits(turned(q, {0, 0, 0, 0}).span<float>(), q.span<float>()));
  // 65535 * 10000^(-c/4) to the last place of a float
  const ops::RotaryAngles angles(context, std::vector<std::int32_t>{65535}, 8);
  for (std::int64_t pair = 0; pair < 4; ++pair) {
    const long double at = 65535.0L * std::pow(10000.0L, -(long double)(pair) / 4.0L);
    CHECK(angles.cosines.at({0, pair}) == doctest::Approx(double(std::cos(at))).epsilon(1e-7));
    CHECK(angles.sines.at({0, pair}) == doctest::Approx(double(std::sin(at))).epsilon(1e-7));
  }
}

TEST_CASE("rotary: a row's bits depend on its position alone, and bad arguments are refused") {
  const Context context;
  Tape tape(context, Tape::Mode::inference);
  const Tensor x = random_tensor(context, {6, width}, 1);
  const std::vector<std::int32_t> positions{0, 1, 2, 0, 1, 2}, rows{1, 5};
  const ops::RotaryAngles angles(context, positions, width / heads);
  const Tensor all = ops::rotary(tape.constant(x), angles).value();
  const Tensor some = ops::rotary(ops::gather_rows(tape.constant(x), rows), angles.of_rows(rows)).value();
  const Tensor alone = ops::rotary(ops::gather_rows(tape.constant(x), rows),
                                   ops::RotaryAngles(context, std::vector<std::int32_t>{1, 2}, width / heads))
                           .value();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto expected = all.span<float>().subspan(std::size_t(rows[i]) * width, width);
    CHECK(same_bits(some.span<float>().subspan(i * width, width), expected));
    CHECK(same_bits(alone.span<float>().subspan(i * width, width), expected));
  }
  CHECK_THROWS_AS(ops::RotaryAngles(context, positions, 3), ValueError);
  CHECK_THROWS_AS(ops::RotaryAngles(context, positions, 0), ValueError);
  CHECK_THROWS_AS(ops::RotaryAngles(context, std::vector<std::int32_t>{-1}, 4), ValueError);
  CHECK_THROWS_AS(angles.of_rows(std::vector<std::int32_t>{6}), ValueError);
  CHECK_THROWS_AS(ops::rotary(tape.constant(random_tensor(context, {5, width}, 1)), angles), ShapeError);
  CHECK_THROWS_AS(ops::rotary(tape.constant(random_tensor(context, {6, 12}, 1)), angles), ShapeError);
}

TEST_CASE("mix_rows: exploring one other expert has the straight-through gradient in expectation") {
  // Two tokens of three experts; every outcome of exploring is enumerated with its probability, in f64.
  const Context context;
  const double explore = 0.3, others = 2;
  const Tensor weights = Tensor::from<double>(context, {2, 3}, std::vector<double>{.5, .3, .2, .1, .2, .7});
  std::vector<Tensor> outputs;
  for (std::uint32_t e = 0; e < 3; ++e)
    outputs.push_back(random_tensor(context, {2, 4}, 30 + e).cast(context, DType::f64));
  const Tensor dy = random_tensor(context, {2, 4}, 40).cast(context, DType::f64);
  const std::vector<std::int32_t> chosen{0, 2};

  Tape soft(context);
  const Variable w = soft.leaf(weights);
  std::vector<Variable> experts;
  for (const Tensor& output : outputs) experts.push_back(soft.leaf(output));
  const Variable expected = ops::mix(ops::one_hot_straight_through(w), experts);
  soft.backward(expected, dy);

  std::vector<double> mean(6);
  double total = 0;
  for (int first = 0; first < 3; ++first) {
    for (int second = 0; second < 3; ++second) {  // shift of the explored expert; 0: none
      const int shift[] = {first, second};
      double probability = 1;
      Tape tape(context);
      const Variable leaf = tape.leaf(weights);
      std::vector<ops::RoutedRows> parts;
      std::vector<Variable> own;
      for (std::int32_t t = 0; t < 2; ++t) {
        const auto part = [&](std::int64_t e) {
          return tape.leaf(outputs[std::size_t(e)].slice(0, t, t + 1));
        };
        own.push_back(part(chosen[std::size_t(t)]));
        parts.push_back({chosen[std::size_t(t)], {t}, own.back(), 1, 1});
        probability *= shift[t] == 0 ? 1 - explore : explore / others;
        if (shift[t] == 0) continue;
        const std::int64_t other = (chosen[std::size_t(t)] + shift[t]) % 3;
        parts.push_back({other, {t}, part(other), 0, others / explore});
      }
      const Variable y = ops::mix_rows(leaf, parts);
      CHECK(y.value().to_vector() == expected.value().to_vector());
      tape.backward(y, dy);
      const auto gradient = tape.gradient(leaf).to_vector();
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += probability * gradient[i];
      total += probability;
      for (std::int32_t t = 0; t < 2; ++t) {  // the experts' own gradients are those of the one-hot
        const Tensor of_all = soft.gradient(experts[std::size_t(chosen[std::size_t(t)])]).slice(0, t, t + 1);
        CHECK(tape.gradient(own[std::size_t(t)]).to_vector() == of_all.to_vector());
      }
      for (const ops::RoutedRows& part : parts) {
        if (part.weight != 0) continue;
        for (const double value : tape.gradient(part.output).to_vector()) CHECK(value == 0);
      }
    }
  }
  CHECK(total == doctest::Approx(1).epsilon(1e-14));
  const auto exact = soft.gradient(w).to_vector();
  for (std::size_t i = 0; i < mean.size(); ++i) CHECK(mean[i] == doctest::Approx(exact[i]).epsilon(1e-12));
}

TEST_CASE("mix_rows refuses what it cannot do") {
  const Context context;
  Tape tape(context);
  const Variable w = tape.leaf(Tensor::zeros(context, {3, 2})), x = tape.leaf(Tensor::zeros(context, {2, 4}));
  const auto mix = [&](std::int64_t expert, std::vector<std::int32_t> rows) {
    return ops::mix_rows(w, std::vector<ops::RoutedRows>{{expert, std::move(rows), x, 1, 1}});
  };
  CHECK(mix(1, {0, 2}).shape() == Shape({3, 4}));
  CHECK_THROWS_AS(mix(2, {0, 2}), ValueError);
  CHECK_THROWS_AS(mix(-1, {0, 2}), ValueError);
  CHECK_THROWS_AS(mix(1, {0, 3}), ValueError);
  CHECK_THROWS_AS(mix(1, {2, 2}), ValueError);
  CHECK_THROWS_AS(mix(1, {0}), ShapeError);
  CHECK_THROWS_AS(ops::mix_rows(w, {}), ValueError);
}
