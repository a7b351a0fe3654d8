// Identities of the three causal attentions at lengths of several tiles and chunks. Bitwise ones in float on
// the context's instruction set, algebraic ones in double.
#include <functional>
#include <numeric>

#include "audit/areas.hpp"
#include "audit/checks.hpp"
#include "dirigo/autograd/ops.hpp"

namespace dirigo::tools {
namespace {

constexpr int heads = 3;
constexpr std::int64_t batch = 2, length = 300, width = 24, window = 40, chunk = 32;
constexpr double algebraic_bound = 1e-13;  // two orders of the same additions in double

struct Attention {
  std::string name, file, section;
  std::function<Variable(const Variable&, const Variable&, const Variable&, ops::Rows)> run;
};

Attention full() {
  return {"full", "autograd/src/ops/full_attention.cpp", "softmax-attention",
          [](const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) {
            return ops::full_attention(q, k, v, heads, rows);
          }};
}
Attention local(std::int64_t w) {
  return {"local", "autograd/src/ops/local_attention.cpp", "sliding-window",
          [w](const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) {
            return ops::local_attention(q, k, v, heads, w, rows);
          }};
}
Attention linear(std::int64_t c) {
  return {"linear", "autograd/src/ops/linear_attention.cpp", "linear-attention",
          [c](const Variable& q, const Variable& k, const Variable& v, ops::Rows rows) {
            return ops::linear_attention(q, k, v, heads, c, rows);
          }};
}
std::vector<Attention> experts() {
  return {full(), local(window), linear(chunk)};
}

struct Inputs {
  Tensor q, k, v;
};

Inputs inputs(const Context& context, DType dtype, const Shape& shape = {batch, length, width}) {
  return {normal_tensor(context, shape, 1, dtype), normal_tensor(context, shape, 2, dtype),
          normal_tensor(context, shape, 3, dtype)};
}

// The value, and the gradients of q, k, v for the cotangent v.
std::vector<Tensor> both_ways(const Context& context, const Inputs& in, const Attention& attention) {
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

double different_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += tools::different_bits(a[i], b[i]);
  return count;
}

// Relative to the largest value of each expected tensor.
double relative_error(const std::vector<Tensor>& got, const std::vector<Tensor>& expected) {
  Worst worst;
  for (std::size_t t = 0; t < got.size(); ++t) {
    const std::vector<double> a = got[t].to_vector(), b = expected[t].to_vector();
    double largest = 0;
    for (const double x : b) largest = std::fmax(largest, std::abs(x));
    for (std::size_t i = 0; i < b.size(); ++i) worst.see(std::abs(a[i] - b[i]) / largest);
  }
  return worst.value();
}

// "attention/TASK: PROPERTY" of one attention.
Claim claim(const std::string& name, const Attention& attention, const std::string& how, double error,
            double bound) {
  return {"attention/" + name, how, error, bound, attention.file, attention.section};
}

// (B, T, D) -> (B, H, T, d), and back
Variable split(const Variable& x, std::int64_t t) {
  return ops::transpose(ops::reshape(x, {batch, t, heads, width / heads}), 1, 2);
}
Variable join(const Variable& x, std::int64_t t) {
  return ops::reshape(ops::transpose(x, 1, 2), {batch, t, width});
}

// T x T constants: `visible` where j <= i and i - j < w, else `hidden`.
Variable mask(const Variable& like, std::int64_t t, std::int64_t w, double visible, double hidden) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < t; ++i) {
    for (std::int64_t j = 0; j < t; ++j) values.push_back(j <= i && i - j < w ? visible : hidden);
  }
  return like.tape().constant(Tensor::from<double>(like.context(), {t, t}, values));
}

// The whole T x T matrix of weights, without blocks.
Attention quadratic_softmax(std::int64_t t, std::int64_t w) {
  return {"", "", "", [t, w](const Variable& q, const Variable& k, const Variable& v, ops::Rows) {
            const Variable scores = ops::scale(ops::matmul(split(q, t), split(k, t), false, true),
                                               1 / std::sqrt(double(width / heads)));
            const Variable weights = ops::softmax(ops::add(scores, mask(q, t, w, 0, -1e9)));
            return join(ops::matmul(weights, split(v, t)), t);
          }};
}
Attention quadratic_linear(std::int64_t t) {
  return {"", "", "", [t](const Variable& q, const Variable& k, const Variable& v, ops::Rows) {
            const Variable scores = ops::matmul(ops::elu1(split(q, t)), ops::elu1(split(k, t)), false, true);
            const Variable weights = ops::normalize(ops::multiply(scores, mask(q, t, t, 1, 0)));
            return join(ops::matmul(weights, split(v, t)), t);
          }};
}

// --- the claims --------------------------------------------------------------------------------------------

std::vector<Claim> window_claims(const Context& context) {
  const Inputs in = inputs(context, DType::f32);
  const std::vector<Tensor> expected = both_ways(context, in, full());
  double different = 0;
  for (const std::int64_t w : {length, length + 1, std::int64_t{1} << 60})
    different += different_bits(both_ways(context, in, local(w)), expected);
  return {claim("window: w >= T is full attention", local(0), "elements whose bits differ, both directions",
                different, 0),
          claim("window: w = 1 returns v", local(0), "elements whose bits differ",
                tools::different_bits(forward(context, in, local(1)), in.v), 0)};
}

// Lengths around the tiles of 32 keys and the blocks of 512.
std::vector<Claim> block_claims(const Context& context) {
  Worst worst_full, worst_local, worst_linear, worst_chunk;
  for (const std::int64_t t : {31, 32, 33, 97, 520}) {
    const Inputs in = inputs(context, DType::f64, {batch, t, width});
    worst_full.see(
        relative_error(both_ways(context, in, full()), both_ways(context, in, quadratic_softmax(t, t))));
    worst_local.see(relative_error(both_ways(context, in, local(window)),
                                   both_ways(context, in, quadratic_softmax(t, window))));
  }
  for (const std::int64_t t : {31, 97}) {
    const Inputs in = inputs(context, DType::f64, {batch, t, width});
    const std::vector<Tensor> quadratic = both_ways(context, in, quadratic_linear(t));
    const std::vector<Tensor> one_by_one = both_ways(context, in, linear(1));
    for (const std::int64_t c : {1, 7, 32, 64, 97, 1000}) {
      const std::vector<Tensor> got = both_ways(context, in, linear(c));
      worst_linear.see(relative_error(got, quadratic));
      worst_chunk.see(relative_error(got, one_by_one));
    }
  }
  const std::string how = "the whole T x T matrix in double, T = 31..520, both directions";
  return {
      claim("blocks: full equals its unblocked form", full(), how, worst_full.value(), algebraic_bound),
      claim("blocks: local equals its unblocked form", local(0), how, worst_local.value(), algebraic_bound),
      claim("blocks: linear equals its quadratic form", linear(0),
            "the whole T x T matrix in double, T = 31, 97, both directions", worst_linear.value(),
            algebraic_bound),
      claim("blocks: chunk size of linear does not matter", linear(0),
            "chunks of 1, 7, 32, 64, 97, 1000 against 1, both directions", worst_chunk.value(),
            algebraic_bound)};
}

// The heads of x in another order: 2, 0, 1.
Tensor permute_heads(const Context& context, const Tensor& x) {
  Tape tape(context, Tape::Mode::inference);
  const Variable all = tape.constant(x);
  std::vector<Variable> parts;
  for (const std::int64_t head : {2, 0, 1})
    parts.push_back(ops::slice(all, 2, head * width / heads, (head + 1) * width / heads));
  return ops::concat(parts, 2).value();
}

std::vector<Claim> head_claims(const Context& context) {
  const Inputs in = inputs(context, DType::f32);
  const Inputs permuted{permute_heads(context, in.q), permute_heads(context, in.k),
                        permute_heads(context, in.v)};
  std::vector<Claim> claims;
  for (const Attention& attention : experts()) {
    std::vector<Tensor> expected = both_ways(context, in, attention);
    for (Tensor& x : expected) x = permute_heads(context, x);
    claims.push_back(claim("heads: " + attention.name + ", permuted with q, k, v", attention,
                           "elements whose bits differ, both directions",
                           different_bits(both_ways(context, permuted, attention), expected), 0));
  }
  return claims;
}

std::vector<Claim> causality_claims(const Context& context) {
  const Inputs in = inputs(context, DType::f32);
  std::vector<Claim> claims;
  for (const Attention& attention : experts()) {
    const Tensor before = forward(context, in, attention);
    double changed_bits = 0;
    for (const std::int64_t t : {0, 31, 32, 255, 298}) {
      Inputs changed{in.q.clone(context), in.k.clone(context), in.v.clone(context)};
      for (Tensor* x : {&changed.q, &changed.k, &changed.v}) {
        for (std::int64_t b = 0; b < batch; ++b) {
          for (std::int64_t i = (b * length + t + 1) * width; i < (b + 1) * length * width; ++i)
            x->data<float>()[i] = float(i % 7) * 1e6F - 3e6F;
        }
      }
      const Tensor after = forward(context, changed, attention);
      changed_bits += tools::different_bits(after.slice(1, 0, t + 1).contiguous(context),
                                            before.slice(1, 0, t + 1).contiguous(context));
    }
    claims.push_back(claim("causality: " + attention.name, attention,
                           "elements up to t whose bits change with what follows t, 5 values of t",
                           changed_bits, 0));
  }
  return claims;
}

std::vector<Claim> row_claims(const Context& context) {
  const Inputs in = inputs(context, DType::f32);
  std::vector<std::vector<std::int32_t>> subsets{
      {0}, {299}, {300}, {17, 18, 19, 350}, {599}, {5, 299, 300, 301, 598}};
  for (const int step : {1, 3, 37}) {
    subsets.emplace_back();
    for (std::int32_t i = 0; i < batch * length; i += step) subsets.back().push_back(i);
  }
  std::vector<Claim> claims;
  for (const Attention& attention : experts()) {
    const Tensor all = forward(context, in, attention).reshape({batch * length, width});
    double routed = 0, batched = 0;
    for (const auto& rows : subsets) {
      Tape tape(context, Tape::Mode::inference);
      const Variable q = ops::gather_rows(tape.constant(in.q.reshape({batch * length, width})), rows);
      const Tensor some = attention.run(q, tape.constant(in.k), tape.constant(in.v), rows).value();
      routed += tools::different_bits(some, ops::gather_rows(tape.constant(all), rows).value());
    }
    const std::vector<Tensor> both = both_ways(context, in, attention);
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto one = [&](const Tensor& x) { return x.slice(0, b, b + 1).contiguous(context); };
      std::vector<Tensor> expected;
      for (const Tensor& x : both) expected.push_back(one(x));
      batched += different_bits(both_ways(context, {one(in.q), one(in.k), one(in.v)}, attention), expected);
    }
    claims.push_back(claim("rows: " + attention.name + ", any routed subset", attention,
                           "elements whose bits differ when only some rows are computed, 9 subsets", routed,
                           0));
    claims.push_back(claim("rows: " + attention.name + ", any batch", attention,
                           "elements whose bits differ when a sequence is alone, both directions", batched,
                           0));
  }
  return claims;
}

// The mixture with a one-hot row of weights is that expert: its value, its gradient dy, none for the others,
// and dw_k = <dy, E_k>.
std::vector<Claim> mixture_claims(const Context& context) {
  constexpr std::int64_t rows = batch * length, count = 3;
  const Inputs in = inputs(context, DType::f32);
  Tape tape(context);
  std::vector<Variable> outputs;
  for (const Attention& attention : experts())
    outputs.push_back(tape.leaf(forward(context, in, attention).reshape({rows, width})));
  Tensor weights = Tensor::zeros(context, {rows, count});
  for (std::int64_t t = 0; t < rows; ++t) weights.data<float>()[t * count + t * 7 % count] = 1;
  const Variable w = tape.leaf(weights), y = ops::mix(w, outputs);
  const Tensor dy = normal_tensor(context, {rows, width}, 4, DType::f32);
  tape.backward(y, dy);
  double wrong = 0;
  Worst weight_gradient;
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t k = 0; k < count; ++k) {
      const Variable& expert = outputs[std::size_t(k)];
      const Tensor gradient = tape.gradient(expert).slice(0, t, t + 1);
      const bool chosen = t * 7 % count == k;
      double dot = 0, terms = 0;
      for (std::int64_t c = 0; c < width; ++c) {
        const double d = dy.at({t, c}), value = expert.value().at({t, c});
        if (chosen) wrong += y.value().at({t, c}) != value;
        wrong += gradient.at({0, c}) != (chosen ? d : 0);
        dot += d * value;
        terms += std::abs(d * value);
      }
      weight_gradient.see(std::abs(tape.gradient(w).at({t, k}) - dot) / terms);
    }
  }
  const std::string file = "autograd/src/ops/mix.cpp", section = "1 Experts";
  return {{"attention/mixture: one-hot weights give the expert", "elements that differ, values and gradients",
           wrong, 0, file, section},
          {"attention/mixture: dw_k = <dy, E_k>", "relative to the sum of |terms|, float",
           weight_gradient.value(), 2.5e-7, file, section}};
}

// Executed FLOPs, 2 per multiply-add, counted by hand. Softmax: d for QK and for PV per visible pair and
// head. Linear: the same inside a chunk; d (d + 1) for every key that enters the state and every query that
// reads it.
std::vector<Claim> flop_claims(const Context& context) {
  const auto executed = [&](const Attention& attention, std::int64_t t) {
    const std::uint64_t before = context.flops().attention;
    forward(context, inputs(context, DType::f32, {batch, t, width}), attention);
    return double(context.flops().attention - before);
  };
  constexpr double d = double(width / heads), copies = 2.0 * batch * heads;
  // T = 10. Full: 55 pairs. Window 3: 1 + 2 + 8 * 3 = 27. Chunks of 4: 10 + 10 + 3 pairs, 8 keys, 6 queries.
  const double by_hand_full = copies * 2 * d * 55, by_hand_local = copies * 2 * d * 27;
  const double by_hand_linear = copies * (2 * d * 23 + d * (d + 1) * (8 + 6));
  const std::string how = "|executed - by hand|, T = 10, ";
  return {claim("flops: full as counted by hand", full(), how + "55 pairs",
                std::abs(executed(full(), 10) - by_hand_full), 0),
          claim("flops: local as counted by hand", local(0), how + "w = 3: 27 pairs",
                std::abs(executed(local(3), 10) - by_hand_local), 0),
          claim("flops: linear as counted by hand", linear(0),
                how + "chunks of 4: 23 pairs, 8 keys enter the state, 6 queries read it",
                std::abs(executed(linear(4), 10) - by_hand_linear), 0)};
}

}  // namespace

std::vector<AuditTask> attention_audit() {
  return {{"attention/window", window_claims}, {"attention/blocks", block_claims},
          {"attention/heads", head_claims},    {"attention/causality", causality_claims},
          {"attention/rows", row_claims},      {"attention/mixture", mixture_claims},
          {"attention/flops", flop_claims}};
}

}  // namespace dirigo::tools
