// y_t = sum_k w_tk E_k(q, k, v)_t: full, linear and local attention of the same queries, keys and values,
// mixed token by token. It is `mix` of the three operations, head by head:
//   dw_tk = sum over heads of <dy_t, E_k,t>,   dE_k,t = w_tk dy_t,   dq = sum_k dq_k, and so dk and dv.
// A head's queries, keys, values and gradients stay in cache while the three experts use them; apart, every
// expert reads and writes them all in memory, and the tape adds three gradients to each of q, k and v there.
// Backward, local attention shares full attention's five products (softmax_attention.inl.hpp), with a bias
// too: it moves local attention's weights, not the derivative of a score in q and k. Linear attention may
// have queries and keys of its own (rotary positions turn those of the others); their gradients then stay
// apart. Short sequences without either take a pass that mixes the experts' weights of a key before they meet
// its value (mixed_attention.inl.hpp). Derivation: docs/mathematics/softmax-attention.md
#include <array>
#include <cstring>

#include "softmax_attention.hpp"

namespace dirigo::ops {
namespace {

enum ExpertIndex : std::size_t { full_expert, linear_expert, local_expert, expert_count };

struct Mixture {
  AttentionInputs in;
  Tensor weights;  // (B T, K)
  std::int64_t window, chunk;
  WindowBias bias;
  Tensor linear_q, linear_k;  // linear attention's; undefined: q and k
  Tensor outputs;             // (B H, K, T, d); undefined with is_short()
  Tensor normalisers;         // (B H, K, T): log-sum-exp of full and local, denominator of linear

  bool own_linear() const { return linear_q.defined(); }
  bool is_short() const { return in.length <= longest_mixed_head && !own_linear() && !bias.values.defined(); }
  std::int64_t head_size() const { return in.length * in.head_dim(); }
  std::int64_t head_scratch() const {
    return std::max(softmax_attention_scratch(in.length, in.head_dim()),
                    linear_attention_scratch(in.length, in.head_dim(), chunk));
  }
  template <class T>
  const T* weights_of(const HeadTask& task) const {
    return weights.data<T>() + task.first_query * std::int64_t(expert_count);
  }
};

// One head's (T, d) of every expert, one behind the other.
template <class T>
std::array<T*, expert_count> split(T* values, std::int64_t size) {
  return {values, values + size, values + 2 * size};
}

template <class T>
std::array<T*, expert_count> outputs_of(Mixture& m, const HeadTask& task) {
  return split(m.outputs.data<T>() + task.index * std::int64_t(expert_count) * m.head_size(), m.head_size());
}
template <class T>
std::array<T*, expert_count> normalisers_of(Mixture& m, const HeadTask& task) {
  return split(m.normalisers.data<T>() + task.index * std::int64_t(expert_count) * m.in.length, m.in.length);
}

template <class Head, class T>
Head expert_head(Mixture& m, const HeadTask& task, ExpertIndex expert, T* scratch) {
  Head head;
  set_head(head, m.in, task, m.outputs.data<T>(), scratch);
  head.out = outputs_of<T>(m, task)[expert];
  head.out_stride = m.in.head_dim();
  return head;
}

template <class T>
AttentionHead<T> expert_softmax_head(Mixture& m, const HeadTask& task, ExpertIndex expert, T* scratch) {
  auto head = expert_head<AttentionHead<T>>(m, task, expert, scratch);
  head.window = expert == full_expert ? m.in.length : std::min(m.window, m.in.length);
  head.scale = T(1 / std::sqrt(double(m.in.head_dim())));
  if (expert == local_expert) head.bias = m.bias.of_head<T>(task.index % m.in.heads);
  head.log_sum_exp = normalisers_of<T>(m, task)[expert];
  return head;
}

template <class T>
LinearHead<T> linear_head(Mixture& m, const HeadTask& task, T* scratch) {
  auto head = expert_head<LinearHead<T>>(m, task, linear_expert, scratch);
  if (m.own_linear()) {
    head.q = m.linear_q.data<T>() + task.query_offset;
    head.k = m.linear_k.data<T>() + task.key_offset;
  }
  head.chunk = m.chunk;
  head.denominator = normalisers_of<T>(m, task)[linear_expert];
  return head;
}

AttentionWork operator+(const AttentionWork& a, const AttentionWork& b) {
  return {a.useful + b.useful, a.padding + b.padding};
}

// A head's (T, d) between its place in (B, T, D) and consecutive rows.
template <class T>
void gather_head(const Mixture& m, const T* from, T* to) {
  for (std::int64_t t = 0; t < m.in.length; ++t, from += m.in.width, to += m.in.head_dim())
    std::memcpy(to, from, std::size_t(m.in.head_dim()) * sizeof(T));
}
template <class T>
void place_head(const Mixture& m, const T* from, T* to) {
  for (std::int64_t t = 0; t < m.in.length; ++t, from += m.in.head_dim(), to += m.in.width)
    std::memcpy(to, from, std::size_t(m.in.head_dim()) * sizeof(T));
}

template <class T>
void forward(const Context& context, Mixture& m, T* y) {
  const KernelTable<T>& kernels = context.kernels<T>();
  const std::int64_t size = m.head_size();
  for_heads<T>(context, m.in, size + m.head_scratch(), [&](const HeadTask& task, T* mixed) {
    T* const scratch = mixed + size;
    const AttentionWork work = kernels.softmax_attention(expert_softmax_head(m, task, full_expert, scratch)) +
                               kernels.linear_attention(linear_head(m, task, scratch)) +
                               kernels.softmax_attention(expert_softmax_head(m, task, local_expert, scratch));
    const auto outputs = outputs_of<T>(m, task);
    const std::array<const T*, expert_count> experts{outputs[full_expert], outputs[linear_expert],
                                                     outputs[local_expert]};
    kernels.mix(m.in.length, m.in.head_dim(), expert_count, m.weights_of<T>(task), experts.data(), mixed);
    place_head(m, mixed, y + task.query_offset);
    return work;
  });
}

template <class T>
MixedHead<T> short_head(Mixture& m, const HeadTask& task, T* scratch) {
  MixedHead<T> head;
  head.length = m.in.length;
  head.head_dim = m.in.head_dim();
  head.window = m.window;
  head.scale = T(1 / std::sqrt(double(m.in.head_dim())));
  head.q = m.in.q.data<T>() + task.query_offset;
  head.k = m.in.k.data<T>() + task.key_offset;
  head.v = m.in.v.data<T>() + task.key_offset;
  head.weights = m.weights_of<T>(task);
  const auto normalisers = normalisers_of<T>(m, task);
  head.log_sum = normalisers[full_expert];
  head.denominator = normalisers[linear_expert];
  head.narrow_log_sum = normalisers[local_expert];
  head.q_stride = head.k_stride = head.v_stride = head.out_stride = m.in.width;
  head.scratch = scratch;
  return head;
}

template <class T>
void forward_short(const Context& context, Mixture& m, T* y) {
  for_heads<T>(context, m.in, mixed_attention_scratch(m.in.length, m.in.head_dim()),
               [&](const HeadTask& task, T* scratch) {
                 MixedHead<T> head = short_head(m, task, scratch);
                 head.out = y + task.query_offset;
                 return context.kernels<T>().mixed_attention(head);
               });
}

// dq, dk and dv in consecutive rows.
template <class T, class Gradient>
void connect(Gradient& gradient, const Mixture& m, const T* dout, T* gradients) {
  const auto [dq, dk, dv] = split(gradients, m.head_size());
  gradient.dout = dout;
  gradient.dq = dq;
  gradient.dk = dk;
  gradient.dv = dv;
  gradient.dout_stride = gradient.dq_stride = gradient.dk_stride = gradient.dv_stride = m.in.head_dim();
}

// Full attention mixed with local.
template <class T>
AttentionHeadGradient<T> softmax_gradient(Mixture& m, const HeadTask& task, T* scratch) {
  AttentionHeadGradient<T> gradient;
  gradient.forward = expert_softmax_head(m, task, full_expert, scratch);
  const AttentionHead<T> narrow = expert_softmax_head(m, task, local_expert, scratch);
  const T* const weights = m.weights_of<T>(task);
  gradient.narrow = {narrow.window,
                     narrow.out,
                     narrow.log_sum_exp,
                     weights + std::size_t(full_expert),
                     weights + local_expert,
                     std::int64_t(expert_count),
                     narrow.bias};
  return gradient;
}

// Where the gradients of all heads go.
struct MixtureGradients {
  AttentionGradients sums;
  Tensor linear_dq, linear_dk;  // where linear attention has its own q and k
  Tensor weights;               // (B H, T, K)
  Tensor bias;                  // (B H, seen)
};

// The gradients of one head.
template <class T>
AttentionWork vjp_head(const Context& context, Mixture& m, const HeadTask& task, const T* dy,
                       MixtureGradients& to, T* scratch) {
  const KernelTable<T>& kernels = context.kernels<T>();
  const std::int64_t size = m.head_size();
  T *const dmixed = scratch, *const dlinear = dmixed + size, *const sum = dlinear + size,
           *const next = sum + 3 * size, *const rest = next + 3 * size;
  const auto outputs = outputs_of<T>(m, task);
  const std::array<const T*, expert_count> experts{outputs[full_expert], outputs[linear_expert],
                                                   outputs[local_expert]};
  const std::array<T*, expert_count> dexperts{nullptr, dlinear, nullptr};
  gather_head(m, dy + task.query_offset, dmixed);
  kernels.mix_vjp(m.in.length, m.in.head_dim(), expert_count, m.weights_of<T>(task), experts.data(), dmixed,
                  dexperts.data(),
                  to.weights.data<T>() + task.index * m.in.length * std::int64_t(expert_count));
  AttentionHeadGradient<T> softmax = softmax_gradient(m, task, rest);
  connect(softmax, m, dmixed, sum);
  softmax.narrow_dbias = to.bias.data<T>() + task.index * m.bias.seen;
  LinearHeadGradient<T> linear;
  linear.forward = linear_head(m, task, rest);
  connect(linear, m, dlinear, next);
  const AttentionWork work = kernels.softmax_attention_vjp(softmax) + kernels.linear_attention_vjp(linear);
  if (m.own_linear()) {
    kernels.add(size, sum + 2 * size, next + 2 * size, sum + 2 * size);
    place_head(m, next, to.linear_dq.data<T>() + task.query_offset);
    place_head(m, next + size, to.linear_dk.data<T>() + task.key_offset);
  } else {
    kernels.add(3 * size, sum, next, sum);
  }
  place_head(m, sum, to.sums.dq.data<T>() + task.query_offset);
  place_head(m, sum + size, to.sums.dk.data<T>() + task.key_offset);
  place_head(m, sum + 2 * size, to.sums.dv.data<T>() + task.key_offset);
  return work;
}

// (B H, T, K) -> (B T, K), heads in ascending order.
template <class T>
Tensor sum_heads(const Context& context, const Mixture& m, const T* parts) {
  Tensor sums = Tensor::zeros(context, m.weights.shape(), dtype_of<T>);
  T* const to = sums.data<T>();
  const std::int64_t size = m.in.length * std::int64_t(expert_count);
  for (std::int64_t task = 0; task < m.in.tasks(); ++task) {
    context.kernels<T>().add_scaled(size, T(1), parts + task * size, to + task / m.in.heads * size);
  }
  return sums;
}

template <class T>
AttentionWork vjp_short_head(const Context& context, Mixture& m, const HeadTask& task, const T* dy,
                             MixtureGradients& to, T* scratch) {
  MixedHeadGradient<T> gradient;
  gradient.forward = short_head(m, task, scratch);
  to.sums.set(gradient, m.in, task, dy);
  gradient.dweights = to.weights.data<T>() + task.index * m.in.length * std::int64_t(expert_count);
  return context.kernels<T>().mixed_attention_vjp(gradient);
}

template <class T>
void vjp(Backward& pass, Mixture& m) {
  const Context& context = pass.context();
  const auto like = [&](const Tensor& x) {
    return x.defined() ? Tensor::empty(context, x.shape(), x.dtype()) : Tensor();
  };
  MixtureGradients to{
      AttentionGradients(context, m.in), like(m.linear_q), like(m.linear_k),
      Tensor::empty(context, {m.in.batch * m.in.heads, m.in.length, expert_count}, dtype_of<T>),
      Tensor::zeros(context, {m.in.batch * m.in.heads, m.bias.seen}, dtype_of<T>)};
  const T* dy = pass.gradient().data<T>();
  const std::int64_t scratch_size = m.is_short() ? mixed_attention_scratch(m.in.length, m.in.head_dim())
                                                 : 8 * m.head_size() + m.head_scratch();
  for_heads<T>(context, m.in, scratch_size, [&](const HeadTask& task, T* scratch) {
    return m.is_short() ? vjp_short_head(context, m, task, dy, to, scratch)
                        : vjp_head(context, m, task, dy, to, scratch);
  });
  if (pass.needs(0)) pass.add(0, sum_heads(context, m, to.weights.data<T>()));
  pass.add(1, to.sums.dq);
  pass.add(2, to.sums.dk);
  pass.add(3, to.sums.dv);
  pass.add(4, to.linear_dq);
  pass.add(5, to.linear_dk);
  if (pass.needs(6)) pass.add(6, sum_bias_gradients<T>(context, m.bias, to.bias));
}

}  // namespace

Variable mixed_attention(const Variable& weights, const Variable& q, const Variable& k, const Variable& v,
                         int heads, std::int64_t window, std::int64_t chunk,
                         const MixedPositions& positions) {
  if (window < 1) throw_value("mixed_attention", "window", "a number >= 1", std::to_string(window));
  if (chunk < 1) throw_value("mixed_attention", "chunk", "a number >= 1", std::to_string(chunk));
  const Context& context = q.context();
  Mixture m;
  m.in = attention_inputs("mixed_attention", q, k, v, heads, {});
  m.weights = row_major(weights);
  m.window = window;
  m.chunk = chunk;
  if (positions.linear_q.defined() || positions.linear_k.defined()) {
    require_shape("mixed_attention", "linear_q", positions.linear_q.shape(), k.shape());
    require_shape("mixed_attention", "linear_k", positions.linear_k.shape(), k.shape());
    m.linear_q = row_major(positions.linear_q);
    m.linear_k = row_major(positions.linear_k);
  }
  m.bias = window_bias("mixed_attention", positions.local_bias, heads, window, std::min(window, m.in.length));
  require_shape("mixed_attention", "weights", weights.shape(),
                {m.in.batch * m.in.length, std::int64_t(expert_count)});
  const Shape normalisers{m.in.batch * heads, expert_count, m.in.length};
  m.normalisers = Tensor::empty(context, normalisers, q.dtype());
  if (!m.is_short()) {
    m.outputs =
        Tensor::empty(context, {normalisers[0], normalisers[1], normalisers[2], m.in.head_dim()}, q.dtype());
  }
  Tensor y = Tensor::empty(context, q.shape(), q.dtype());
  visit_dtype(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    m.is_short() ? forward_short(context, m, y.data<T>()) : forward(context, m, y.data<T>());
  });
  return q.tape().record("mixed_attention",
                         {weights, q, k, v, positions.linear_q, positions.linear_k, positions.local_bias}, y,
                         [m](Backward& pass) mutable {
                           visit_dtype(m.weights.dtype(), [&](auto zero) { vjp<decltype(zero)>(pass, m); });
                         });
}

// --- cases -------------------------------------------------------------------------------------------------

namespace {

// What the inputs of a case are, in this order.
struct CaseInputs {
  bool own_linear = false, bias = false;  // weights q k v [linear_q linear_k] [bias]

  template <class X>
  std::vector<X> linear(std::span<const X> x) const {
    return own_linear ? std::vector<X>{x[4], x[5], x[3]} : std::vector<X>{x[1], x[2], x[3]};
  }
  template <class X>
  std::vector<X> local(std::span<const X> x) const {
    std::vector<X> inputs{x[1], x[2], x[3]};
    if (bias) inputs.push_back(x.back());
    return inputs;
  }
};

// The three definitions by loops.
Values reference(Tensors x, int heads, std::int64_t window, const CaseInputs& inputs) {
  const auto kernel = [&](const Values& a, const Values& b, auto...) {
    const auto phi = [](double u) { return u > 0 ? u + 1 : std::exp(u); };
    double sum = 0;
    for (std::size_t c = 0; c < a.size(); ++c) sum += phi(a[c]) * phi(b[c]);
    return sum;
  };
  const std::int64_t length = x[1].shape()[1], width = x[1].shape()[2];
  const std::array<Values, expert_count> experts{softmax_attention_reference(x.subspan(1, 3), heads, length),
                                                 attention_reference(inputs.linear(x), heads, length, kernel),
                                                 softmax_attention_reference(inputs.local(x), heads, window)};
  Values y(experts[full_expert].size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    for (std::size_t e = 0; e < expert_count; ++e)
      y[i] += x[0].at({std::int64_t(i) / width, std::int64_t(e)}) * experts[e][i];
  }
  return y;
}

Variable composed(Variables x, int heads, std::int64_t window, std::int64_t chunk, const CaseInputs& inputs) {
  const Shape rows{x[0].shape()[0], x[1].shape()[2]};
  const auto linear = inputs.linear(x), local = inputs.local(x);
  const std::vector<Variable> experts{
      reshape(full_attention(x[1], x[2], x[3], heads), rows),
      reshape(linear_attention(linear[0], linear[1], linear[2], heads, chunk), rows),
      reshape(local_attention(local[0], local[1], local[2], heads, window, {},
                              inputs.bias ? local[3] : Variable{}),
              rows)};
  return reshape(mix(x[0], experts), x[1].shape());
}

MixedPositions positions_of(Variables x, const CaseInputs& inputs) {
  MixedPositions positions;
  if (inputs.own_linear) {
    positions.linear_q = x[4];
    positions.linear_k = x[5];
  }
  if (inputs.bias) positions.local_bias = x.back();
  return positions;
}

}  // namespace

std::vector<OpCase> mixed_attention_cases(const Context& context) {
  const auto make = [&](const char* name, const Shape& shape, int heads, std::int64_t window,
                        std::int64_t chunk, std::uint32_t site, const CaseInputs& own = {}) {
    std::vector<Tensor> inputs = attention_tensors(context, shape, site);
    inputs.insert(inputs.begin(), uniform(context, {shape[0] * shape[1], expert_count}, site + 3));
    if (own.own_linear) {
      inputs.push_back(uniform(context, shape, site + 4));
      inputs.push_back(uniform(context, shape, site + 5));
    }
    if (own.bias) inputs.push_back(uniform(context, {heads, window}, site + 6));
    return OpCase{.name = name,
                  .inputs = inputs,
                  .op =
                      [heads, window, chunk, own](Tape&, Variables x) {
                        return mixed_attention(x[0], x[1], x[2], x[3], heads, window, chunk,
                                               positions_of(x, own));
                      },
                  .reference = [heads, window, own](Tensors x) { return reference(x, heads, window, own); },
                  .composed = [heads, window, chunk, own](
                                  Tape&, Variables x) { return composed(x, heads, window, chunk, own); }};
  };
  OpCase strided = make("strided views", {2, 3, 4}, 2, 2, 2, 30);
  strided.inputs[0] = strided.inputs[0].reshape({3, 6}).transpose(0, 1);
  for (std::size_t i = 1; i < strided.inputs.size(); ++i)
    strided.inputs[i] = strided.inputs[i].reshape({2, 4, 3}).transpose(1, 2);
  const CaseInputs linear{.own_linear = true}, bias{.bias = true}, both{true, true};
  return {
      make("one head", {1, 5, 3}, 1, 3, 64, 1),
      make("heads and batch", {2, 5, 6}, 3, 3, 2, 5),
      make("across tiles", {1, 37, 2}, 1, 6, 8, 10),
      make("window beyond the sequence", {1, 4, 2}, 1, 9, 3, 15),
      make("longest short sequence", {1, longest_mixed_head, 1}, 1, 20, 64, 16),
      make("longer than short sequences", {1, longest_mixed_head + 3, 1}, 1, 20, 64, 17),
      make("no position", {2, 0, 4}, 2, 3, 3, 20),
      strided,
      make("linear apart", {2, 5, 6}, 3, 3, 2, 40, linear),
      make("bias", {2, 5, 6}, 3, 3, 2, 50, bias),
      make("bias, across tiles", {1, 37, 2}, 1, 6, 8, 60, bias),
      make("bias beyond the sequence", {2, 4, 2}, 1, 9, 3, 70, bias),
      make("linear apart and bias", {2, 37, 4}, 2, 20, 8, 80, both),
      make("all apart, no position", {2, 0, 4}, 2, 3, 3, 90, both),
  };
}

}  // namespace dirigo::ops
