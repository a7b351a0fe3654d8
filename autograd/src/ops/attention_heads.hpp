// What the causal attentions share: how (B, T, heads * d) falls into heads, and the references of their
// cases.
#pragma once

#include <atomic>
#include <limits>

#include "support.hpp"

namespace dirigo::ops {

// q, k, v as they lie in memory. Head h of sequence b starts at column h * d of row b * T.
struct AttentionInputs {
  Tensor q, k, v;
  std::int64_t batch = 0, length = 0, width = 0, heads = 1;
  std::vector<std::int32_t> rows;       // the queries' rows b * T + t; empty with `all`
  std::vector<std::int32_t> positions;  // and their t
  bool all = true;
  bool in_place = false;  // q has a row for every position, not for each of `rows` alone

  std::int64_t head_dim() const { return width / heads; }
  std::int64_t tasks() const { return length == 0 || width == 0 ? 0 : batch * heads; }
};

inline AttentionInputs attention_inputs(std::string_view op, const Variable& q, const Variable& k,
                                        const Variable& v, int heads, const Rows& rows) {
  require_rank(op, "k", k.shape(), 3, "(B, T, D)");
  AttentionInputs in;
  in.q = row_major(q);
  in.k = row_major(k);
  in.v = row_major(v);
  in.batch = k.shape()[0];
  in.length = k.shape()[1];
  in.width = k.shape()[2];
  in.heads = heads;
  in.in_place = rows.into.defined();
  in.all = rows.empty() && !in.in_place;
  if (heads < 1 || in.width % heads != 0) {
    throw_value(op, "heads", "a divisor of D = " + std::to_string(in.width), std::to_string(heads));
  }
  require_shape(op, "v", v.shape(), k.shape());
  if (in.all) {
    require_shape(op, "q", q.shape(), k.shape());
    return in;
  }
  if (in.in_place) {
    const bool wants_gradient = q.requires_gradient() || k.requires_gradient() || v.requires_gradient();
    if (q.tape().recording() && wants_gradient)
      throw StateError("[" + std::string(op) + "] into: expected inference, got inputs that need a gradient");
    require_shape(op, "q", q.shape(), k.shape());
    require_shape(op, "into", rows.into.shape(), k.shape());
    if (!rows.into.is_contiguous() || rows.into.dtype() != q.dtype())
      throw_value(op, "into", "a row-major tensor of q's type", "another");
  } else {
    require_shape(op, "q", q.shape(), {std::int64_t(rows.size()), in.width});
  }
  require_indices(op, rows, in.batch * in.length);
  if (std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) != rows.end()) {
    throw_value(op, "rows", "ascending rows", "another order");
  }
  in.rows.assign(rows.begin(), rows.end());
  for (const std::int32_t row : rows) in.positions.push_back(std::int32_t(row % in.length));
  return in;
}

// Where the attention of `rows` goes.
inline Tensor attention_output(const Variable& q, const Rows& rows) {
  return rows.into.defined() ? rows.into : Tensor::empty(q.context(), q.shape(), q.dtype());
}

// A value per query and head, heads apart (log-sum-exp, denominator). The vjp needs them.
inline Tensor query_values(const Context& context, const AttentionInputs& in, const Variable& q) {
  if (in.all) return Tensor::empty(context, {in.batch, in.heads, in.length}, q.dtype());
  if (!q.tape().recording()) return {};
  return Tensor::empty(context, {in.heads, std::int64_t(in.rows.size())}, q.dtype());
}

// Some queries of one head of one sequence: rows [first_query, first_query + queries) of all that are
// computed.
struct HeadTask {
  std::int64_t first_query = 0, queries = 0;
  std::int64_t query_offset = 0, key_offset = 0;  // of the first element in q (and out), and in k and v
  const std::int32_t* positions = nullptr;        // of the queries; null: all, in order
  std::int64_t index = 0;                         // sequence * heads + head
  std::int64_t value_offset = 0;                  // of the first query in query_values

  std::int64_t last_position() const { return positions ? positions[queries - 1] : queries - 1; }
  // At least the pairs of query and key, within a factor of two if the queries see all earlier keys.
  std::int64_t work() const { return queries * (last_position() + 1); }
};

inline HeadTask head_task(const AttentionInputs& in, std::int64_t index) {
  const std::int64_t sequence = index / in.heads, column = index % in.heads * in.head_dim();
  const std::int64_t key_offset = sequence * in.length * in.width + column;
  HeadTask task{sequence * in.length, in.length, key_offset, key_offset, nullptr, index, 0};
  if (!in.all) {
    const auto from = std::lower_bound(in.rows.begin(), in.rows.end(), sequence * in.length);
    const auto to = std::lower_bound(from, in.rows.end(), (sequence + 1) * in.length);
    task.first_query = from - in.rows.begin();
    task.queries = to - from;
    task.positions = in.positions.data() + task.first_query;
    if (!in.in_place) task.query_offset = task.first_query * in.width + column;
  }
  task.value_offset =
      in.all ? index * in.length : index % in.heads * std::int64_t(in.rows.size()) + task.first_query;
  return task;
}

// The queries of every head, at most about `most_queries` of them in a task, the heaviest tasks first.
inline std::vector<HeadTask> head_tasks(const AttentionInputs& in, std::int64_t most_queries) {
  std::vector<HeadTask> tasks;
  for (std::int64_t index = 0; index < in.tasks(); ++index) {
    const HeadTask head = head_task(in, index);
    const std::int64_t pieces = in.all ? 1 : (head.queries + most_queries - 1) / most_queries;
    for (std::int64_t piece = 0; piece < pieces && head.queries > 0; ++piece) {
      const std::int64_t begin = head.queries * piece / pieces, end = head.queries * (piece + 1) / pieces;
      HeadTask task = head;
      task.first_query += begin;
      task.value_offset += begin;
      task.queries = end - begin;
      if (!in.all) task.positions += begin;
      if (!in.all && !in.in_place) task.query_offset += begin * in.width;
      tasks.push_back(task);
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const HeadTask& a, const HeadTask& b) { return a.work() > b.work(); });
  return tasks;
}

// The fields that AttentionHead and LinearHead have in common.
template <class Head, class T>
void set_head(Head& head, const AttentionInputs& in, const HeadTask& task, T* out, T* scratch) {
  head.length = in.length;
  head.head_dim = in.head_dim();
  head.queries = task.queries;
  head.positions = task.positions;
  head.in_place = in.in_place;
  head.q = in.q.data<T>() + task.query_offset;
  head.k = in.k.data<T>() + task.key_offset;
  head.v = in.v.data<T>() + task.key_offset;
  head.out = out + task.query_offset;
  head.q_stride = head.k_stride = head.v_stride = head.out_stride = in.width;
  head.scratch = scratch;
}

// The gradients' tensors and the fields that the two gradient structs have in common.
struct AttentionGradients {
  Tensor dq, dk, dv;

  explicit AttentionGradients(const Context& context, const AttentionInputs& in)
      : dq(Tensor::empty(context, in.q.shape(), in.q.dtype())),
        dk(room(context, in, in.k)),
        dv(room(context, in, in.v)) {}

  // A sequence without queries is not visited: its keys and values have no gradient.
  static Tensor room(const Context& context, const AttentionInputs& in, const Tensor& x) {
    return in.all ? Tensor::empty(context, x.shape(), x.dtype())
                  : Tensor::zeros(context, x.shape(), x.dtype());
  }

  template <class T, class Gradient>
  void set(Gradient& gradient, const AttentionInputs& in, const HeadTask& task, const T* dout) {
    gradient.dout = dout + task.query_offset;
    gradient.dq = dq.data<T>() + task.query_offset;
    gradient.dk = dk.data<T>() + task.key_offset;
    gradient.dv = dv.data<T>() + task.key_offset;
    gradient.dout_stride = gradient.dq_stride = gradient.dk_stride = gradient.dv_stride = in.width;
  }

  void hand_over(Backward& pass) const {
    pass.add(0, dq);
    pass.add(1, dk);
    pass.add(2, dv);
  }
};

// Runs f(task, scratch) for every head with queries, and counts the work that f returns. `scratch_size` is in
// values of T. A thread that is free takes the heaviest task left.
template <class T, class F>
void for_heads(const Context& context, const AttentionInputs& in, std::int64_t scratch_size, F f,
               std::int64_t most_queries = std::numeric_limits<std::int64_t>::max() / 2) {
  const std::vector<HeadTask> tasks = head_tasks(in, most_queries);
  std::atomic<std::size_t> next{0};
  context.parallel_for<T>(std::int64_t(tasks.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> scratch(*context.allocator(), std::size_t(scratch_size));
    for (std::int64_t i = begin; i < end; ++i) {
      const AttentionWork work = f(tasks[next.fetch_add(1)], scratch.data());
      context.flops().attention.fetch_add(std::uint64_t(work.useful), std::memory_order_relaxed);
      context.flops().attention_padding.fetch_add(std::uint64_t(work.padding), std::memory_order_relaxed);
    }
  });
}

// --- cases -------------------------------------------------------------------------------------------------

// out_i = sum_j w_ij v_j / sum_j w_ij over the keys j in [max(0, i - window + 1), i], w_ij = weight(q_i,
// k_j, head, i - j), by loops. With `rows` q holds just those.
template <class F>
Values attention_reference(Tensors x, int heads, std::int64_t window, F weight, Rows rows = {}) {
  const std::int64_t length = x[1].shape()[1], d = x[1].shape()[2] / heads;
  const std::int64_t queries = rows.empty() ? x[1].shape()[0] * length : std::int64_t(rows.size());
  Values out;
  for (std::int64_t query = 0; query < queries; ++query) {
    const std::int64_t row = rows.empty() ? query : rows[std::size_t(query)];
    const std::int64_t b = row / length, i = row % length;
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto head = [&](const Tensor& tensor, std::int64_t t) {
        Values values;
        for (std::int64_t c = 0; c < d; ++c) values.push_back(tensor.at({b, t, h * d + c}));
        return values;
      };
      Values q;
      for (std::int64_t c = h * d; c < (h + 1) * d; ++c) {
        q.push_back(rows.empty() ? x[0].at({b, i, c}) : x[0].at({query, c}));
      }
      Values sums(static_cast<std::size_t>(d));
      double total = 0;
      for (std::int64_t j = std::max<std::int64_t>(0, i - window + 1); j <= i; ++j) {
        const double w = weight(q, head(x[1], j), h, i - j);
        const Values v = head(x[2], j);
        total += w;
        for (std::size_t c = 0; c < v.size(); ++c) sums[c] += w * v[c];
      }
      for (const double sum : sums) out.push_back(sum / total);
    }
  }
  return out;
}

// (B, T, D) -> (B, heads, T, d), and back.
inline Variable split_heads(const Variable& x, int heads) {
  const Shape& s = x.shape();
  return transpose(reshape(x, {s[0], s[1], heads, s[2] / heads}), 1, 2);
}
inline Variable join_heads(const Variable& x) {
  const Variable y = transpose(x, 1, 2);
  return reshape(y, {y.shape()[0], y.shape()[1], y.shape()[2] * y.shape()[3]});
}

// (T, T): `visible` where query i sees key j, else `hidden`.
inline Variable causal_mask(Tape& tape, std::int64_t length, std::int64_t window, double visible,
                            double hidden) {
  Values mask;
  for (std::int64_t i = 0; i < length; ++i) {
    for (std::int64_t j = 0; j < length; ++j) mask.push_back(j <= i && j > i - window ? visible : hidden);
  }
  return tape.constant(tensor(tape.context(), {length, length}, mask));
}

// The queries q (n, D) of `rows` among those of all rows, (B, T, D).
inline Variable among_all(const Variable& q, const Variable& k, Rows rows) {
  return reshape(scatter_rows(q, rows, k.shape()[0] * k.shape()[1]), k.shape());
}

// The composed form for just some rows from that for all: q goes to its rows, whose results are taken.
template <class F>
Variable composed_rows(Variables x, const std::vector<std::int32_t>& rows, F of_all) {
  std::vector<Variable> inputs(x.begin(), x.end());
  inputs[0] = among_all(x[0], x[1], rows);
  const Shape& s = x[1].shape();
  return gather_rows(reshape(of_all(Variables(inputs)), {s[0] * s[1], s[2]}), rows);
}

inline std::vector<Tensor> attention_tensors(const Context& context, const Shape& shape, std::uint32_t site) {
  return {uniform(context, shape, site), uniform(context, shape, site + 1),
          uniform(context, shape, site + 2)};
}

}  // namespace dirigo::ops
