#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/kernels.hpp"

using namespace dirigo;

namespace {

using Positions = std::vector<std::int32_t>;

// Rows of d values, `stride` apart; what lies between rows must stay untouched.
template <class T>
struct Matrix {
  static constexpr double untouched = 12345;
  std::int64_t rows, d, stride;
  std::vector<T> values;

  Matrix(std::int64_t row_count, std::int64_t columns, std::int64_t gap = 0)
      : rows(row_count),
        d(columns),
        stride(columns + gap),
        values(std::size_t(rows * stride), T(untouched)) {}
  T& at(std::int64_t i, std::int64_t c) { return values[std::size_t(i * stride + c)]; }
  double at(std::int64_t i, std::int64_t c) const { return double(values[std::size_t(i * stride + c)]); }
  bool row_equals(std::int64_t i, const Matrix& other, std::int64_t j) const {
    return std::memcmp(&values[std::size_t(i * stride)], &other.values[std::size_t(j * other.stride)],
                       std::size_t(d) * sizeof(T)) == 0;
  }
  bool gaps_untouched() const {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t c = d; c < stride; ++c) {
        if (at(i, c) != untouched) return false;
      }
    }
    return true;
  }
};

template <class T>
Matrix<T> random_matrix(std::int64_t rows, std::int64_t d, std::mt19937& rng, std::int64_t gap = 0,
                        double spread = 1) {
  Matrix<T> m(rows, d, gap);
  std::normal_distribution<double> normal(0, spread);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t c = 0; c < d; ++c) m.at(i, c) = T(normal(rng));
  }
  return m;
}

template <class T>
struct Inputs {
  std::int64_t length, d;
  Matrix<T> q, k, v, dout;
  Inputs(std::int64_t n, std::int64_t columns, unsigned seed, std::int64_t gap = 0, double spread = 1)
      : Inputs(n, columns, std::mt19937(seed), gap, spread) {}

 private:
  Inputs(std::int64_t n, std::int64_t columns, std::mt19937 rng, std::int64_t gap, double spread)
      : length(n),
        d(columns),
        q(random_matrix<T>(n, columns, rng, gap, spread)),
        k(random_matrix<T>(n, columns, rng, 2 * gap, spread)),
        v(random_matrix<T>(n, columns, rng, 3 * gap)),
        dout(random_matrix<T>(n, columns, rng, 4 * gap)) {}
};

template <class T>
struct Forward {
  Matrix<T> out;
  std::vector<T> normaliser;  // log_sum_exp or denominator
  AttentionWork work;
};

template <class T>
struct Gradients {
  Matrix<T> dq, dk, dv;
  AttentionWork work;
};

// Scratch of exactly the promised size, filled with NaN and followed by a guard.
template <class T>
class GuardedScratch {
 public:
  explicit GuardedScratch(std::int64_t size)
      : size_(std::size_t(size)), values_(size_ + 64, std::numeric_limits<T>::quiet_NaN()) {
    std::fill(values_.begin() + std::ptrdiff_t(size_), values_.end(), T(77));
  }
  ~GuardedScratch() {
    CHECK(
        std::all_of(values_.begin() + std::ptrdiff_t(size_), values_.end(), [](T x) { return x == T(77); }));
  }
  GuardedScratch(const GuardedScratch&) = delete;
  GuardedScratch& operator=(const GuardedScratch&) = delete;
  T* data() { return values_.data(); }

 private:
  std::size_t size_;
  std::vector<T> values_;
};

// One attention variant through a kernel table: window 0 means linear attention.
template <class T>
struct Attention {
  const KernelTable<T>& table;
  std::int64_t window = 0, chunk = 64;
  T scale = 1;

  template <class Head>
  Head head(const Inputs<T>& in, Matrix<T>& out, T* scratch) const {
    Head h;
    h.length = in.length;
    h.head_dim = in.d;
    h.queries = out.rows;
    h.q = in.q.values.data();
    h.k = in.k.values.data();
    h.v = in.v.values.data();
    h.out = out.values.data();
    h.q_stride = in.q.stride;
    h.k_stride = in.k.stride;
    h.v_stride = in.v.stride;
    h.out_stride = out.stride;
    h.scratch = scratch;
    return h;
  }

  AttentionHead<T> softmax_head(const Inputs<T>& in, Matrix<T>& out, T* scratch) const {
    auto h = head<AttentionHead<T>>(in, out, scratch);
    h.window = window;
    h.scale = scale;
    return h;
  }
  LinearHead<T> linear_head(const Inputs<T>& in, Matrix<T>& out, T* scratch) const {
    auto h = head<LinearHead<T>>(in, out, scratch);
    h.chunk = chunk;
    return h;
  }
  std::int64_t scratch_size(const Inputs<T>& in) const {
    return window > 0 ? softmax_attention_scratch(in.length, in.d)
                      : linear_attention_scratch(in.length, in.d, chunk);
  }

  // All queries, or the rows of `positions` gathered.
  Forward<T> forward(const Inputs<T>& in, const Positions* positions = nullptr) const {
    const std::int64_t queries = positions ? std::int64_t(positions->size()) : in.length;
    Matrix<T> gathered(queries, in.d, 1);
    for (std::int64_t i = 0; i < queries; ++i) {
      for (std::int64_t c = 0; c < in.d; ++c) {
        gathered.at(i, c) = T(in.q.at(positions ? (*positions)[std::size_t(i)] : i, c));
      }
    }
    Forward<T> result{Matrix<T>(queries, in.d, 3), std::vector<T>(std::size_t(queries)), {}};
    GuardedScratch<T> scratch(scratch_size(in));
    if (window > 0) {
      auto h = softmax_head(in, result.out, scratch.data());
      h.q = gathered.values.data();
      h.q_stride = gathered.stride;
      h.positions = positions ? positions->data() : nullptr;
      h.log_sum_exp = result.normaliser.data();
      result.work = table.softmax_attention(h);
    } else {
      auto h = linear_head(in, result.out, scratch.data());
      h.q = gathered.values.data();
      h.q_stride = gathered.stride;
      h.positions = positions ? positions->data() : nullptr;
      h.denominator = result.normaliser.data();
      result.work = table.linear_attention(h);
    }
    CHECK(result.out.gaps_untouched());
    return result;
  }

  // The queries at `positions`, read from and written to their own rows of all; the other rows stay 7.
  Matrix<T> forward_in_place(const Inputs<T>& in, const Positions& positions) const {
    Matrix<T> out(in.length, in.d, 3);
    for (std::int64_t i = 0; i < in.length; ++i)
      for (std::int64_t c = 0; c < in.d; ++c) out.at(i, c) = 7;
    GuardedScratch<T> scratch(scratch_size(in));
    const auto run = [&](auto h, auto kernel) {
      h.queries = std::int64_t(positions.size());
      h.positions = positions.data();
      h.in_place = true;
      kernel(h);
    };
    if (window > 0) {
      run(softmax_head(in, out, scratch.data()), table.softmax_attention);
    } else {
      run(linear_head(in, out, scratch.data()), table.linear_attention);
    }
    CHECK(out.gaps_untouched());
    return out;
  }

  Gradients<T> backward(const Inputs<T>& in, const NarrowAttention<T>& narrow = {}) const {
    Forward<T> saved = forward(in);
    const std::int64_t n = in.length;
    Gradients<T> g{Matrix<T>(n, in.d, 1), Matrix<T>(n, in.d, 2), Matrix<T>(n, in.d, 3), {}};
    GuardedScratch<T> scratch(scratch_size(in));
    const auto connect = [&](auto& gradient) {
      gradient.dout = in.dout.values.data();
      gradient.dout_stride = in.dout.stride;
      gradient.dq = g.dq.values.data();
      gradient.dk = g.dk.values.data();
      gradient.dv = g.dv.values.data();
      gradient.dq_stride = g.dq.stride;
      gradient.dk_stride = g.dk.stride;
      gradient.dv_stride = g.dv.stride;
    };
    if (window > 0) {
      AttentionHeadGradient<T> gradient;
      gradient.forward = softmax_head(in, saved.out, scratch.data());
      gradient.forward.log_sum_exp = saved.normaliser.data();
      gradient.narrow = narrow;
      connect(gradient);
      g.work = table.softmax_attention_vjp(gradient);
    } else {
      LinearHeadGradient<T> gradient;
      gradient.forward = linear_head(in, saved.out, scratch.data());
      gradient.forward.denominator = saved.normaliser.data();
      connect(gradient);
      g.work = table.linear_attention_vjp(gradient);
    }
    CHECK(g.dq.gaps_untouched());
    CHECK(g.dk.gaps_untouched());
    CHECK(g.dv.gaps_untouched());
    return g;
  }
};

double phi(double u) {
  return u > 0 ? u + 1 : std::exp(u);
}
double phi_slope(double u) {
  return u > 0 ? 1 : std::exp(u);
}

template <class T>
double dot(const Matrix<T>& a, std::int64_t i, const Matrix<T>& b, std::int64_t j) {
  double sum = 0;
  for (std::int64_t c = 0; c < a.d; ++c) sum += a.at(i, c) * b.at(j, c);
  return sum;
}

// The definitions in double, one query at a time: mathematics of the header, and gradients by the chain rule.
template <class T>
struct Reference {
  Matrix<double> out, dq, dk, dv;
  std::vector<double> normaliser;

  Reference(const Inputs<T>& in, std::int64_t window, double scale)
      : out(in.length, in.d), dq(in.length, in.d), dk(in.length, in.d), dv(in.length, in.d) {
    for (Matrix<double>* m : {&out, &dq, &dk, &dv}) std::fill(m->values.begin(), m->values.end(), 0.0);
    for (std::int64_t i = 0; i < in.length; ++i) {
      window > 0 ? softmax_query(in, i, window, scale) : linear_query(in, i);
    }
  }

  void softmax_query(const Inputs<T>& in, std::int64_t i, std::int64_t window, double scale) {
    const std::int64_t lo = std::max<std::int64_t>(0, i - window + 1);
    std::vector<double> p;
    for (std::int64_t j = lo; j <= i; ++j) p.push_back(scale * dot(in.q, i, in.k, j));
    const double largest = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - largest);
    for (double& x : p) x /= sum;
    normaliser.push_back(largest + std::log(sum));
    double delta = 0;
    for (std::int64_t j = lo; j <= i; ++j) {
      for (std::int64_t c = 0; c < in.d; ++c) out.at(i, c) += p[std::size_t(j - lo)] * in.v.at(j, c);
      delta += p[std::size_t(j - lo)] * dot(in.dout, i, in.v, j);
    }
    for (std::int64_t j = lo; j <= i; ++j) {
      const double weight = p[std::size_t(j - lo)];
      const double ds = scale * weight * (dot(in.dout, i, in.v, j) - delta);
      for (std::int64_t c = 0; c < in.d; ++c) {
        dv.at(j, c) += weight * in.dout.at(i, c);
        dq.at(i, c) += ds * in.k.at(j, c);
        dk.at(j, c) += ds * in.q.at(i, c);
      }
    }
  }

  void linear_query(const Inputs<T>& in, std::int64_t i) {
    std::vector<double> w;
    double sum = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      double s = 0;
      for (std::int64_t c = 0; c < in.d; ++c) s += phi(in.q.at(i, c)) * phi(in.k.at(j, c));
      w.push_back(s);
      sum += s;
    }
    normaliser.push_back(sum);
    const double clamped = std::max(sum, 1e-20);
    for (std::int64_t j = 0; j <= i; ++j) {
      for (std::int64_t c = 0; c < in.d; ++c) out.at(i, c) += w[std::size_t(j)] * in.v.at(j, c) / clamped;
    }
    const double through_sum = sum < 1e-20 ? 0 : dot(out, i, as_double(in.dout), i);
    for (std::int64_t j = 0; j <= i; ++j) {
      const double dw = (dot(in.dout, i, in.v, j) - through_sum) / clamped;
      for (std::int64_t c = 0; c < in.d; ++c) {
        dv.at(j, c) += w[std::size_t(j)] / clamped * in.dout.at(i, c);
        dq.at(i, c) += dw * phi(in.k.at(j, c)) * phi_slope(in.q.at(i, c));
        dk.at(j, c) += dw * phi(in.q.at(i, c)) * phi_slope(in.k.at(j, c));
      }
    }
  }

  static Matrix<double> as_double(const Matrix<T>& m) {
    Matrix<double> result(m.rows, m.d);
    for (std::int64_t i = 0; i < m.rows; ++i) {
      for (std::int64_t c = 0; c < m.d; ++c) result.at(i, c) = m.at(i, c);
    }
    return result;
  }
};

double largest_value(const Matrix<double>& m) {
  double largest = 0;
  for (const double x : m.values) largest = std::max(largest, std::abs(x));
  return largest;
}

// Largest difference, relative to `scale`.
template <class T>
double error(const Matrix<T>& got, const Matrix<double>& expected, double scale) {
  double worst = 0;
  for (std::int64_t i = 0; i < got.rows; ++i) {
    for (std::int64_t c = 0; c < got.d; ++c) {
      const double difference = std::abs(got.at(i, c) - expected.at(i, c));
      if (!std::isnan(worst) && !(difference <= worst)) worst = difference;  // keeps NaN
    }
  }
  return worst / scale;
}

template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 3e-6 : 1e-13;

template <class T>
void check_against_reference(const Attention<T>& attention, const Inputs<T>& in) {
  CAPTURE(in.length);
  CAPTURE(in.d);
  CAPTURE(attention.window);
  CAPTURE(attention.chunk);
  const Reference<T> expected(in, attention.window, double(attention.scale));
  const Forward<T> got = attention.forward(in);
  CHECK(error(got.out, expected.out, largest_value(expected.out)) < tolerance<T>);
  for (std::size_t i = 0; i < got.normaliser.size(); ++i) {
    const double bound = tolerance<T> * std::max(1.0, std::abs(expected.normaliser[i]));
    CHECK(std::abs(double(got.normaliser[i]) - expected.normaliser[i]) <= bound);
  }
  const Gradients<T> g = attention.backward(in);
  // dQ and dK vanish where a query sees one key only: dV sets the scale.
  const double scale = largest_value(expected.dv);
  CHECK(error(g.dq, expected.dq, scale) < 10 * tolerance<T>);
  CHECK(error(g.dk, expected.dk, scale) < 10 * tolerance<T>);
  CHECK(error(g.dv, expected.dv, scale) < 10 * tolerance<T>);
}

template <class Body>
void for_each_table(const Body& body) {
  for (const Isa isa : available_isas()) {
    const Context context(Context::Options{.threads = 1, .isa = isa});
    const std::string name(isa_name(isa));
    CAPTURE(name);
    body(context.kernels<float>());
  }
  const Context context(Context::Options{.threads = 1, .isa = Isa::portable});
  body(context.kernels<double>());
}

constexpr std::int64_t full = std::numeric_limits<std::int64_t>::max();

// Softmax attention with a few windows, and linear attention with a few chunks.
template <class T>
std::vector<Attention<T>> variants(const KernelTable<T>& table) {
  const T scale = T(0.37);
  return {{table, full, 64, scale}, {table, 1, 64, scale}, {table, 33, 64, scale}, {table, 100, 64, scale},
          {table, 0, 64, scale},    {table, 0, 7, scale},  {table, 0, 100, scale}};
}

template <class T>
bool same_bits(const std::vector<T>& a, std::size_t i, const std::vector<T>& b, std::size_t j) {
  return std::memcmp(&a[i], &b[j], sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("attention kernels equal the O(T^2) definitions, forward and backward") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    unsigned seed = 1;
    for (const std::int64_t length : {1, 2, 7, 31, 32, 33, 64, 100, 130, 700}) {
      for (const std::int64_t d : {1, 5, 8, 16, 32, 40, 64}) {
        if (length > 100 && d != 5) continue;
        const Inputs<T> in(length, d, seed++, length % 3);
        const T scale = T(1 / std::sqrt(double(d)));
        for (const std::int64_t window :
             {std::int64_t(1), std::int64_t(2), std::int64_t(31), std::int64_t(64), full}) {
          check_against_reference(Attention<T>{table, window, 64, scale}, in);
        }
        for (const std::int64_t chunk : {1, 5, 32, 64, 90}) {
          if (chunk == 1 && length > 64) continue;
          check_against_reference(Attention<T>{table, 0, chunk, scale}, in);
        }
      }
    }
  });
}

TEST_CASE("attention gradients match central differences in double") {
  const Context context(Context::Options{.threads = 1, .isa = Isa::portable});
  for (const Attention<double>& attention : variants(context.kernels<double>())) {
    CAPTURE(attention.window);
    CAPTURE(attention.chunk);
    Inputs<double> in(40, 5, 3);
    const Gradients<double> g = attention.backward(in);
    const auto loss = [&] {
      const Forward<double> result = attention.forward(in);
      double sum = 0;
      for (std::int64_t i = 0; i < in.length; ++i) sum += dot(result.out, i, in.dout, i);
      return sum;
    };
    const auto check = [&](Matrix<double>& x, const Matrix<double>& gradient) {
      for (std::int64_t i = 0; i < in.length; i += 3) {
        const std::int64_t c = i % in.d;
        const double step = 1e-5, saved = x.at(i, c);
        x.at(i, c) = saved + step;
        const double above = loss();
        x.at(i, c) = saved - step;
        const double below = loss();
        x.at(i, c) = saved;
        CHECK((above - below) / (2 * step) == doctest::Approx(gradient.at(i, c)).epsilon(1e-8).scale(1));
      }
    };
    check(in.q, g.dq);
    check(in.k, g.dk);
    check(in.v, g.dv);
  }
}

TEST_CASE("the gradient of a mixture of two windows is the sum of theirs") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    for (const std::int64_t length : {1, 33, 64, 300}) {
      for (const std::int64_t window : {1, 5, 40, 129, 300}) {
        CAPTURE(length);
        CAPTURE(window);
        const Inputs<T> in(length, 8, 17, 1);
        std::mt19937 rng(18);
        const Matrix<T> weights = random_matrix<T>(length, 2, rng);
        const Attention<T> wide{table, length}, narrow{table, std::min(window, length)};
        const auto weighted = [&](const Attention<T>& attention, std::int64_t column) {
          Inputs<T> scaled = in;
          for (std::int64_t i = 0; i < length; ++i) {
            for (std::int64_t c = 0; c < in.d; ++c) scaled.dout.at(i, c) *= T(weights.at(i, column));
          }
          return attention.backward(scaled);
        };
        const Gradients<T> first = weighted(wide, 0), second = weighted(narrow, 1);
        const Forward<T> inner = narrow.forward(in);
        NarrowAttention<T> mixed;
        mixed.window = narrow.window;
        mixed.out = inner.out.values.data();
        mixed.log_sum_exp = inner.normaliser.data();
        mixed.outer_weight = weights.values.data();
        mixed.weight = weights.values.data() + 1;
        mixed.weight_stride = weights.stride;
        const Gradients<T> got = wide.backward(in, mixed);
        CHECK(got.work.useful == first.work.useful);
        const auto check = [&](const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& sum) {
          Matrix<double> expected(length, in.d);
          for (std::int64_t i = 0; i < length; ++i) {
            for (std::int64_t c = 0; c < in.d; ++c) expected.at(i, c) = a.at(i, c) + b.at(i, c);
          }
          CHECK(error(sum, expected, 1 + largest_value(expected)) < tolerance<T>);
        };
        check(first.dq, second.dq, got.dq);
        check(first.dk, second.dk, got.dk);
        check(first.dv, second.dv, got.dv);
      }
    }
  });
}

namespace {

// The three attentions mixed in one pass, and its backward pass.
template <class T>
struct MixedResult {
  Matrix<T> out, dq, dk, dv, dweights;
};

template <class T>
T scale_of(std::int64_t d) {
  return T(1 / std::sqrt(double(d)));
}

template <class T>
MixedResult<T> mixed_in_one_pass(const KernelTable<T>& table, const Inputs<T>& in, const Matrix<T>& weights,
                                 std::int64_t window) {
  const std::int64_t n = in.length;
  MixedResult<T> result{Matrix<T>(n, in.d, 3), Matrix<T>(n, in.d, 1), Matrix<T>(n, in.d, 2),
                        Matrix<T>(n, in.d, 3), Matrix<T>(n, 3)};
  std::vector<T> log_sum(std::size_t(n), T(0)), narrow_log_sum = log_sum, denominator = log_sum;
  GuardedScratch<T> scratch(mixed_attention_scratch(n, in.d));
  MixedHeadGradient<T> gradient;
  MixedHead<T>& head = gradient.forward;
  head.length = n;
  head.head_dim = in.d;
  head.window = window;
  head.scale = scale_of<T>(in.d);
  head.q = in.q.values.data();
  head.k = in.k.values.data();
  head.v = in.v.values.data();
  head.q_stride = in.q.stride;
  head.k_stride = in.k.stride;
  head.v_stride = in.v.stride;
  head.weights = weights.values.data();
  head.out = result.out.values.data();
  head.out_stride = result.out.stride;
  head.log_sum = log_sum.data();
  head.narrow_log_sum = narrow_log_sum.data();
  head.denominator = denominator.data();
  head.scratch = scratch.data();
  const AttentionWork forward = table.mixed_attention(head);
  gradient.dout = in.dout.values.data();
  gradient.dout_stride = in.dout.stride;
  gradient.dq = result.dq.values.data();
  gradient.dk = result.dk.values.data();
  gradient.dv = result.dv.values.data();
  gradient.dq_stride = result.dq.stride;
  gradient.dk_stride = result.dk.stride;
  gradient.dv_stride = result.dv.stride;
  gradient.dweights = result.dweights.values.data();
  const AttentionWork backward = table.mixed_attention_vjp(gradient);
  CHECK(forward.useful == 6 * in.d * n * (n + 1) / 2);
  CHECK(backward.useful == 16 * in.d * n * (n + 1) / 2);
  CHECK(forward.padding >= 0);
  CHECK(backward.padding >= 0);
  for (const Matrix<T>* matrix : {&result.out, &result.dq, &result.dk, &result.dv})
    CHECK(matrix->gaps_untouched());
  return result;
}

// A sum of matrices, and the scale of what was added: terms may cancel.
struct Sum {
  Matrix<double> total;
  double scale = 1;

  Sum(std::int64_t rows, std::int64_t columns) : total(rows, columns) {
    std::fill(total.values.begin(), total.values.end(), 0.0);
  }
  template <class F>
  void add(F value) {
    double largest = 0;
    for (std::int64_t i = 0; i < total.rows; ++i) {
      for (std::int64_t c = 0; c < total.d; ++c) {
        total.at(i, c) += double(value(i, c));
        largest = std::max(largest, std::abs(double(value(i, c))));
      }
    }
    scale += largest;
  }
};

}  // namespace

TEST_CASE("three attentions mixed in one pass are the mixture of the three") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    for (const std::int64_t length : {1, 7, 32, 45, 64, 101, 128}) {
      for (const std::int64_t d : {5, 32, 40}) {
        for (const std::int64_t window : {1, 16, 37, 200}) {
          CAPTURE(length);
          CAPTURE(d);
          CAPTURE(window);
          const Inputs<T> in(length, d, 23, 1);
          std::mt19937 rng(24);
          const Matrix<T> weights = random_matrix<T>(length, 3, rng, 0, 0.3);
          const MixedResult<T> got = mixed_in_one_pass(table, in, weights, window);
          const Attention<T> experts[] = {{table, length, 64, scale_of<T>(d)},
                                          {table, 0},
                                          {table, std::min(window, length), 64, scale_of<T>(d)}};
          std::vector<Sum> sums(5, Sum(length, d));
          for (std::int64_t e = 0; e < 3; ++e) {
            Inputs<T> scaled = in;
            for (std::int64_t i = 0; i < length; ++i) {
              for (std::int64_t c = 0; c < d; ++c) scaled.dout.at(i, c) *= T(weights.at(i, e));
            }
            const Forward<T> forward = experts[e].forward(in);
            const Gradients<T> backward = experts[e].backward(scaled);
            const auto value = [&](const Matrix<T>& m) {
              return [&m](auto i, auto c) { return m.at(i, c); };
            };
            sums[0].add([&](auto i, auto c) { return weights.at(i, e) * forward.out.at(i, c); });
            sums[1].add(value(backward.dq));
            sums[2].add(value(backward.dk));
            sums[3].add(value(backward.dv));
            sums[4].add([&](auto i, auto c) { return c == e ? dot(forward.out, i, in.dout, i) : 0.0; });
          }
          const Matrix<T>* results[] = {&got.out, &got.dq, &got.dk, &got.dv};
          for (std::size_t r = 0; r < 4; ++r) {
            CAPTURE(r);
            CHECK(error(*results[r], sums[r].total, sums[r].scale) < tolerance<T>);
          }
          for (std::int64_t i = 0; i < length; ++i) {
            for (std::int64_t e = 0; e < 3; ++e) {
              const double difference = got.dweights.at(i, e) - sums[4].total.at(i, e);
              CHECK(std::abs(difference) < tolerance<T> * sums[4].scale);
            }
          }
        }
      }
    }
  });
}

TEST_CASE("attentions mixed in one pass: a window whose scores are far below the largest") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    Inputs<T> in(64, 8, 29);
    for (std::int64_t c = 0; c < 8; ++c) in.k.at(0, c) = T(600);  // e^-800 beside key 0, seen by full alone
    for (std::int64_t i = 0; i < 64; ++i) {
      for (std::int64_t c = 0; c < 8; ++c) in.q.at(i, c) = T(0.5);
    }
    Matrix<T> weights(64, 3);
    std::fill(weights.values.begin(), weights.values.end(), T(0));
    for (std::int64_t i = 0; i < 64; ++i) weights.at(i, 2) = T(1);
    const MixedResult<T> got = mixed_in_one_pass(table, in, weights, 4);
    const Forward<T> local = Attention<T>{table, 4, 64, scale_of<T>(8)}.forward(in);
    Matrix<double> expected(64, 8);
    for (std::int64_t i = 0; i < 64; ++i) {
      for (std::int64_t c = 0; c < 8; ++c) expected.at(i, c) = local.out.at(i, c);
    }
    CHECK(error(got.out, expected, 1 + largest_value(expected)) < tolerance<T>);
  });
}

TEST_CASE("attentions mixed in one pass: linear's clamped denominator carries no gradient") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    Inputs<T> in(64, 8, 37);
    for (std::int64_t i = 0; i < 64; ++i) {
      for (std::int64_t c = 0; c < 8; ++c) in.k.at(i, c) = T(-55 - 0.01 * double(c));  // z is about 1e-22
    }
    Matrix<T> weights(64, 3);
    for (std::int64_t i = 0; i < 64; ++i) {
      for (std::int64_t e = 0; e < 3; ++e) weights.at(i, e) = T(e == 1 ? 1 : 0);
    }
    const MixedResult<T> got = mixed_in_one_pass(table, in, weights, 4);
    const Gradients<T> linear = Attention<T>{table, 0}.backward(in);
    const Matrix<T>*results[] = {&got.dq, &got.dk, &got.dv},
          *expected[] = {&linear.dq, &linear.dk, &linear.dv};
    for (std::size_t r = 0; r < 3; ++r) {
      CAPTURE(r);
      double largest = 0, worst = 0;
      for (std::int64_t i = 0; i < 64; ++i) {
        for (std::int64_t c = 0; c < 8; ++c) {
          largest = std::max(largest, std::abs(double(expected[r]->at(i, c))));
          worst = std::max(worst, std::abs(double(results[r]->at(i, c)) - double(expected[r]->at(i, c))));
        }
      }
      CHECK(largest > 0);
      CHECK(worst < tolerance<T> * largest);
    }
  });
}

TEST_CASE("linear attention of some queries: keys behind the last one have the gradient 0") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    const Inputs<T> in(70, 8, 41);
    const Positions positions{0, 5, 20};
    const Attention<T> attention{table, 0, 16};
    const Forward<T> saved = attention.forward(in, &positions);
    Matrix<T> out = saved.out, q(3, 8), dout(3, 8), dq(3, 8), dk(70, 8), dv(70, 8);
    std::vector<T> denominator = saved.normaliser;
    for (std::int64_t i = 0; i < 3; ++i) {
      for (std::int64_t c = 0; c < 8; ++c) {
        q.at(i, c) = T(in.q.at(positions[std::size_t(i)], c));
        dout.at(i, c) = T(1);
      }
    }
    GuardedScratch<T> scratch(attention.scratch_size(in));
    LinearHeadGradient<T> gradient;
    gradient.forward = attention.linear_head(in, out, scratch.data());
    gradient.forward.q = q.values.data();
    gradient.forward.q_stride = q.stride;
    gradient.forward.positions = positions.data();
    gradient.forward.denominator = denominator.data();
    gradient.dout = dout.values.data();
    gradient.dq = dq.values.data();
    gradient.dk = dk.values.data();
    gradient.dv = dv.values.data();
    gradient.dout_stride = gradient.dq_stride = gradient.dk_stride = gradient.dv_stride = 8;
    table.linear_attention_vjp(gradient);
    for (std::int64_t j = 0; j < 70; ++j) {
      for (std::int64_t c = 0; c < 8; ++c) {
        CHECK((dk.at(j, c) == 0) == (j > 20));
        CHECK((dv.at(j, c) == 0) == (j > 20));
      }
    }
  });
}

TEST_CASE("attentions mixed in one pass: what follows a query changes nothing in it, bitwise") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    const Inputs<T> in(90, 32, 31);
    std::mt19937 rng(32);
    const Matrix<T> weights = random_matrix<T>(90, 3, rng);
    const MixedResult<T> whole = mixed_in_one_pass(table, in, weights, 16);
    for (const std::int64_t cut : {0, 5, 31, 32, 63, 77}) {
      Inputs<T> changed = in;
      for (std::int64_t i = cut + 1; i < 90; ++i) {
        for (std::int64_t c = 0; c < 32; ++c) {
          changed.k.at(i, c) += T(1);
          changed.v.at(i, c) -= T(2);
        }
      }
      const MixedResult<T> got = mixed_in_one_pass(table, changed, weights, 16);
      for (std::int64_t i = 0; i <= cut; ++i) CHECK(got.out.row_equals(i, whole.out, i));
      CHECK_FALSE(got.out.row_equals(cut + 1, whole.out, cut + 1));
    }
  });
}

TEST_CASE("a window of at least the length is full attention, bitwise") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    for (const std::int64_t length : {1, 45, 600}) {
      const Inputs<T> in(length, 20, 4);
      const Attention<T> unlimited{table, full}, exact{table, length}, longer{table, length + 5};
      const Gradients<T> expected = unlimited.backward(in);
      for (const Attention<T>& windowed : {exact, longer}) {
        CHECK(windowed.forward(in).out.values == unlimited.forward(in).out.values);
        const Gradients<T> got = windowed.backward(in);
        CHECK(got.dq.values == expected.dq.values);
        CHECK(got.dk.values == expected.dk.values);
        CHECK(got.dv.values == expected.dv.values);
        CHECK(got.work.useful == expected.work.useful);
      }
    }
  });
}

TEST_CASE("the row rule: a query's bits do not depend on which others are computed, nor on what follows") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    std::mt19937 rng(5);
    for (const Attention<T>& attention : variants(table)) {
      CAPTURE(attention.window);
      CAPTURE(attention.chunk);
      const Inputs<T> in(700, 24, 6, 1);  // more than one block of the online softmax
      const Forward<T> whole = attention.forward(in);
      for (const double density : {0.01, 0.1, 0.5, 0.95}) {
        Positions chosen;
        for (std::int32_t i = 0; i < in.length; ++i) {
          if (std::uniform_real_distribution<double>()(rng) < density) chosen.push_back(i);
        }
        const Forward<T> some = attention.forward(in, &chosen);
        bool same = true;
        for (std::size_t i = 0; i < chosen.size(); ++i) {
          same = same && some.out.row_equals(std::int64_t(i), whole.out, chosen[i]) &&
                 same_bits(some.normaliser, i, whole.normaliser, std::size_t(chosen[i]));
        }
        CHECK(same);
        const Matrix<T> placed = attention.forward_in_place(in, chosen);
        std::size_t next = 0;
        for (std::int64_t i = 0; i < in.length; ++i) {
          if (next < chosen.size() && chosen[next] == i) {
            ++next;
            same = same && placed.row_equals(i, whole.out, i);
          } else {
            for (std::int64_t c = 0; c < in.d; ++c) same = same && placed.at(i, c) == T(7);
          }
        }
        CHECK(same);
      }
      // A prefix alone, and its last row alone, as in decoding.
      for (const std::int64_t length : {1, 8, 65, 512, 513, 600}) {
        Inputs<T> prefix = in;
        prefix.length = length;
        const Forward<T> alone = attention.forward(prefix);
        bool same = true;
        for (std::int64_t i = 0; i < length; ++i) same = same && alone.out.row_equals(i, whole.out, i);
        CHECK(same);
        const Positions last{std::int32_t(length - 1)};
        CHECK(attention.forward(prefix, &last).out.row_equals(0, whole.out, length - 1));
      }
    }
  });
}

TEST_CASE("a window slides past more keys than scratch keeps") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    const Inputs<T> in(3000, 5, 19);
    for (const std::int64_t window : {1, 33, 600}) {
      const Attention<T> attention{table, window};
      if (window < 600) check_against_reference(attention, in);
      const Forward<T> whole = attention.forward(in);
      for (const std::int32_t step : {1, 7, 40, 900}) {
        Positions chosen;
        for (std::int32_t i = 11; i < in.length; i += step) chosen.push_back(i);
        const Forward<T> some = attention.forward(in, &chosen);
        bool same = true;
        for (std::size_t i = 0; i < chosen.size(); ++i)
          same = same && some.out.row_equals(std::int64_t(i), whole.out, chosen[i]);
        CHECK(same);
      }
    }
  });
}

TEST_CASE("causality: later queries, keys and values change no earlier bit") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    for (const Attention<T>& attention : variants(table)) {
      const Inputs<T> in(600, 9, 7), other(600, 9, 8, 0, 30);
      const Forward<T> before = attention.forward(in);
      for (const std::int64_t t : {0, 3, 130, 511, 598}) {
        Inputs<T> changed = in;
        for (std::int64_t i = t + 1; i < in.length; ++i) {
          for (std::int64_t c = 0; c < in.d; ++c) {
            changed.q.at(i, c) = T(other.q.at(i, c));
            changed.k.at(i, c) = T(other.k.at(i, c));
            changed.v.at(i, c) = T(-1e6 * other.v.at(i, c));
          }
        }
        const Forward<T> after = attention.forward(changed);
        bool same = true;
        for (std::int64_t i = 0; i <= t; ++i) same = same && after.out.row_equals(i, before.out, i);
        CHECK(same);
        CHECK_FALSE(after.out.row_equals(t + 1, before.out, t + 1));
      }
    }
  });
}

TEST_CASE("no positions: nothing is computed") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    const Inputs<T> in(50, 8, 9);
    const Positions none;
    for (const Attention<T>& attention : variants(table)) {
      const AttentionWork work = attention.forward(in, &none).work;
      CHECK(work.useful == 0);
      CHECK(work.padding == 0);
    }
  });
}

TEST_CASE("attention work counts") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    const auto work = [&](std::int64_t length, std::int64_t d, std::int64_t window, std::int64_t chunk,
                          const Positions* positions = nullptr) {
      return Attention<T>{table, window, chunk}.forward(Inputs<T>(length, d, 10), positions).work;
    };
    // One query sees one key of a panel of 32: QK computes 32 pairs, PV one.
    CHECK(work(1, 3, full, 64).useful == 4 * 3);
    CHECK(work(1, 3, full, 64).padding == 2 * 3 * 31);
    CHECK(work(100, 8, full, 64).useful == 4 * 8 * (100 * 101 / 2));
    // Window 10: 1 + ... + 9 pairs, then 10 for each of 91 queries.
    CHECK(work(100, 8, 10, 64).useful == 4 * 8 * (45 + 91 * 10));
    const Positions some{0, 31, 64};
    CHECK(work(100, 8, full, 64, &some).useful == 4 * 8 * (1 + 32 + 65));
    CHECK(work(100, 8, 10, 64, &some).useful == 4 * 8 * (1 + 10 + 10));
    const Positions edge{31};  // exactly one panel, all of it seen
    CHECK(work(100, 8, full, 64, &edge).padding == 0);

    // Linear, chunks of 4 over 10 positions: pairs 10 + 10 + 3, two chunks of keys update the state, six
    // queries read it.
    CHECK(work(10, 8, 0, 4).useful == 4 * 8 * (10 + 10 + 3) + 2 * 8 * 9 * (8 + 6));
    // Queries 1 and 5 alone: the third chunk is never touched.
    const Positions two{1, 5};
    CHECK(work(10, 8, 0, 4, &two).useful == 4 * 8 * (2 + 2) + 2 * 8 * 9 * (4 + 1));
    CHECK(work(10, 8, 0, 4, &two).padding == 2 * 8 * (30 + 30));

    const auto backward_work = [&](std::int64_t window, std::int64_t chunk) {
      return Attention<T>{table, window, chunk}.backward(Inputs<T>(10, 8, 10)).work;
    };
    CHECK(backward_work(full, 64).useful == 10 * 8 * 55);
    CHECK(backward_work(3, 64).useful == 10 * 8 * (1 + 2 + 8 * 3));
    CHECK(backward_work(3, 64).padding > 0);
    // Five products per pair; S and z built from 8 keys and read by 6 queries; R and r built from 6
    // queries, R read twice by 8 keys.
    CHECK(backward_work(0, 4).useful == 10 * 8 * 23 + 2 * 8 * 9 * (8 + 6 + 6) + 4 * 8 * 8 * 8);
  });
}

TEST_CASE("padding stays a small share of the work") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    const AttentionWork whole = Attention<T>{table, full}.forward(Inputs<T>(512, 8, 11)).work;
    CHECK(whole.padding < whole.useful / 10);
    const AttentionWork windowed = Attention<T>{table, 64}.forward(Inputs<T>(512, 8, 11)).work;
    CHECK(windowed.padding < windowed.useful / 2);
    Positions sparse;  // a query every 50 positions: bands of 64 must not be united
    for (std::int32_t i = 0; i < 512; i += 50) sparse.push_back(i);
    const AttentionWork gathered = Attention<T>{table, 64}.forward(Inputs<T>(512, 8, 11), &sparse).work;
    CHECK(gathered.padding < gathered.useful);
  });
}

TEST_CASE("softmax attention: huge and very negative scores") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    // Scores +-1e30: one key takes all the weight.
    Inputs<T> in(40, 1, 12);
    for (std::int64_t i = 0; i < in.length; ++i) {
      in.q.at(i, 0) = T(1e15);
      in.k.at(i, 0) = T(i == 3 ? 1e15 : -1e15);
    }
    for (const std::int64_t window : {std::int64_t(5), full}) {
      const Attention<T> attention{table, window};
      const Matrix<T> out = attention.forward(in).out;
      for (std::int64_t i = 3; i < 40; ++i) {
        if (i - 3 < window) CHECK(out.at(i, 0) == doctest::Approx(in.v.at(3, 0)));
      }
      // Equal scores of -1e30 average what the window holds.
      double mean = 0;
      for (std::int64_t j = 30; j < 35; ++j) mean += in.v.at(j, 0) / 5;
      if (window == 5) CHECK(out.at(34, 0) == doctest::Approx(mean));
      const Gradients<T> g = attention.backward(in);
      for (std::int64_t i = 0; i < in.length; ++i) CHECK(std::isfinite(g.dv.at(i, 0)));
    }
  });
}

TEST_CASE("softmax attention: NaN in a key reaches exactly the queries that see it") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    Inputs<T> in(80, 8, 13);
    in.k.at(40, 2) = std::numeric_limits<T>::quiet_NaN();
    const Matrix<T> out = Attention<T>{table, 16}.forward(in).out;
    for (std::int64_t i = 0; i < in.length; ++i) CHECK(std::isnan(out.at(i, 0)) == (i >= 40 && i < 56));
  });
}

TEST_CASE("softmax attention: the weights of two keys are exact to 2.5e-7") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    double worst = 0;
    for (int step = -200; step <= 200; ++step) {
      Inputs<T> in(2, 1, 15);
      in.q.at(1, 0) = 1;
      in.k.at(0, 0) = T(step / 100.0);
      in.k.at(1, 0) = 0;
      in.v.at(0, 0) = 1;
      in.v.at(1, 0) = 0;
      const double exact = 1 / (1 + std::exp(-double(in.k.at(0, 0))));
      worst = std::max(worst, std::abs(double(Attention<T>{table, full}.forward(in).out.at(1, 0)) - exact));
    }
    CHECK(worst < 2.5e-7);
  });
}

TEST_CASE("linear attention: features of very negative keys are 0") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    Inputs<T> in(10, 3, 16);
    for (std::int64_t i = 1; i < in.length; i += 2) in.k.at(i, 1) = T(-200 * i);
    check_against_reference(Attention<T>{table, 0, 4}, in);
  });
}

TEST_CASE("linear attention: the clamped denominator carries no gradient") {
  for_each_table([]<class T>(const KernelTable<T>& table) {
    // phi(q) phi(k) = exp(-60): far below 1e-20 even when summed.
    Inputs<T> in(6, 1, 14);
    for (std::int64_t i = 0; i < in.length; ++i) in.q.at(i, 0) = in.k.at(i, 0) = T(-30);
    check_against_reference(Attention<T>{table, 0, 4}, in);
    CHECK(Attention<T>{table, 0, 4}.forward(in).normaliser[5] < T(1e-20));
  });
}
