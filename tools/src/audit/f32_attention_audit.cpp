// The attention kernels in float against their O(T^2) definitions in double: every length 1..70, head widths
// around the vectors, all offsets, windows and chunks, forward and backward.
#include "audit/checks.hpp"
#include "audit/f32.hpp"

namespace dirigo::tools {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr double smallest_denominator =
    1e-20;  // of linear attention (core/src/kernels/linear_attention.inl.hpp)

// One head: T positions of width d. window > 0: softmax attention; window == 0: linear attention in chunks.
struct Case {
  std::int64_t length, d, window, chunk;
  std::size_t offset;
};

// T x d values, rows d + 1 apart, beginning at the case's offset.
struct Rows {
  std::int64_t d, stride;
  std::size_t offset;
  Floats values;

  Rows(const Case& c, std::uint32_t site)
      : d(c.d),
        stride(c.d + 1),
        offset(c.offset),
        values(uniform_floats(c.offset + std::size_t(c.length * (c.d + 1)), -1.7, 1.7, site)) {}
  float* data() { return values.data() + offset; }
  const float* data() const { return values.data() + offset; }
  double at(std::int64_t i, std::int64_t c) const { return double(data()[i * stride + c]); }
};

struct Inputs {
  Rows q, k, v, dout;
  explicit Inputs(const Case& c) : q(c, 1), k(c, 2), v(c, 3), dout(c, 4) {}
};

struct Results {
  Rows out, dq, dk, dv;
  Floats normaliser;  // log_sum_exp or denominator
  explicit Results(const Case& c)
      : out(c, 5), dq(c, 5), dk(c, 5), dv(c, 5), normaliser(std::size_t(c.length)) {}
};

template <class Head>
void connect(Head& head, const Case& c, const Inputs& in, Results& results, float* scratch) {
  head.length = head.queries = c.length;
  head.head_dim = c.d;
  head.q = in.q.data();
  head.k = in.k.data();
  head.v = in.v.data();
  head.out = results.out.data();
  head.q_stride = head.k_stride = head.v_stride = head.out_stride = in.q.stride;
  head.scratch = scratch;
}

template <class Gradient>
void connect_gradient(Gradient& gradient, const Inputs& in, Results& results) {
  gradient.dout = in.dout.data();
  gradient.dq = results.dq.data();
  gradient.dk = results.dk.data();
  gradient.dv = results.dv.data();
  gradient.dout_stride = gradient.dq_stride = gradient.dk_stride = gradient.dv_stride = in.q.stride;
}

float scale_of(const Case& c) {
  return float(1 / std::sqrt(double(c.d)));
}

Results compute(const FloatKernels& kernels, const Case& c, const Inputs& in) {
  Results results(c);
  if (c.window > 0) {
    Floats scratch(std::size_t(softmax_attention_scratch(c.length, c.d)));
    AttentionHeadGradient<float> gradient;
    connect(gradient.forward, c, in, results, scratch.data());
    gradient.forward.window = c.window;
    gradient.forward.scale = scale_of(c);
    gradient.forward.log_sum_exp = results.normaliser.data();
    connect_gradient(gradient, in, results);
    kernels.softmax_attention(gradient.forward);
    kernels.softmax_attention_vjp(gradient);
  } else {
    Floats scratch(std::size_t(linear_attention_scratch(c.length, c.d, c.chunk)));
    LinearHeadGradient<float> gradient;
    connect(gradient.forward, c, in, results, scratch.data());
    gradient.forward.chunk = c.chunk;
    gradient.forward.denominator = results.normaliser.data();
    connect_gradient(gradient, in, results);
    kernels.linear_attention(gradient.forward);
    kernels.linear_attention_vjp(gradient);
  }
  return results;
}

// The definitions, one query at a time, with gradients by the chain rule; T x d values each.
struct Exact {
  std::int64_t d;
  Doubles out, dq, dk, dv, normaliser;

  Exact(const Case& c, const Inputs& in)
      : d(c.d), out(std::size_t(c.length * c.d)), dq(out.size()), dk(out.size()), dv(out.size()) {
    for (std::int64_t i = 0; i < c.length; ++i) c.window > 0 ? softmax_query(c, in, i) : linear_query(in, i);
  }

  static double dot(const Rows& a, std::int64_t i, const Rows& b, std::int64_t j) {
    double sum = 0;
    for (std::int64_t c = 0; c < a.d; ++c) sum += a.at(i, c) * b.at(j, c);
    return sum;
  }
  static double phi(double u) { return u > 0 ? u + 1 : std::exp(u); }
  static double phi_slope(double u) { return u > 0 ? 1 : std::exp(u); }
  std::size_t at(std::int64_t i, std::int64_t c) const { return std::size_t(i * d + c); }

  void softmax_query(const Case& c, const Inputs& in, std::int64_t i) {
    const std::int64_t low = std::max<std::int64_t>(0, i - c.window + 1);
    const double scale = double(scale_of(c));
    Doubles p;
    for (std::int64_t j = low; j <= i; ++j) p.push_back(scale * dot(in.q, i, in.k, j));
    const double largest = *std::max_element(p.begin(), p.end());
    double total = 0, delta = 0;
    for (double& x : p) total += x = std::exp(x - largest);
    normaliser.push_back(largest + std::log(total));
    for (std::int64_t j = low; j <= i; ++j) {
      const double weight = p[std::size_t(j - low)] /= total;
      delta += weight * dot(in.dout, i, in.v, j);
      for (std::int64_t e = 0; e < d; ++e) out[at(i, e)] += weight * in.v.at(j, e);
    }
    for (std::int64_t j = low; j <= i; ++j) {
      const double weight = p[std::size_t(j - low)];
      const double ds = scale * weight * (dot(in.dout, i, in.v, j) - delta);
      for (std::int64_t e = 0; e < d; ++e) {
        dv[at(j, e)] += weight * in.dout.at(i, e);
        dq[at(i, e)] += ds * in.k.at(j, e);
        dk[at(j, e)] += ds * in.q.at(i, e);
      }
    }
  }

  void linear_query(const Inputs& in, std::int64_t i) {
    Doubles w;
    double total = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      double s = 0;
      for (std::int64_t e = 0; e < d; ++e) s += phi(in.q.at(i, e)) * phi(in.k.at(j, e));
      w.push_back(s);
      total += s;
    }
    normaliser.push_back(total);
    const double denominator = std::max(total, smallest_denominator);
    double through_total = 0;
    for (std::int64_t e = 0; e < d; ++e) {
      for (std::int64_t j = 0; j <= i; ++j) out[at(i, e)] += w[std::size_t(j)] * in.v.at(j, e) / denominator;
      if (total >= smallest_denominator) through_total += out[at(i, e)] * in.dout.at(i, e);
    }
    for (std::int64_t j = 0; j <= i; ++j) {
      const double dw = (dot(in.dout, i, in.v, j) - through_total) / denominator;
      for (std::int64_t e = 0; e < d; ++e) {
        dv[at(j, e)] += w[std::size_t(j)] / denominator * in.dout.at(i, e);
        dq[at(i, e)] += dw * phi(in.k.at(j, e)) * phi_slope(in.q.at(i, e));
        dk[at(j, e)] += dw * phi(in.q.at(i, e)) * phi_slope(in.k.at(j, e));
      }
    }
  }
};

double largest_of(const Doubles& values) {
  double largest = 0;
  for (const double x : values) largest = std::fmax(largest, std::abs(x));
  return largest;
}

// The worst error relative to `unit`; infinite if anything between the rows was written.
double rows_error(const Rows& got, const Rows& before, const Doubles& exact, double unit) {
  Worst worst;
  for (std::size_t i = 0; i < got.values.size(); ++i) {
    const auto place = std::int64_t(i) - std::int64_t(got.offset);
    const bool inside = place >= 0 && place % got.stride < got.d;
    if (!inside) {
      worst.see(got.values[i] == before.values[i] ? 0 : HUGE_VAL);
      continue;
    }
    const std::size_t at = std::size_t(place / got.stride * got.d + place % got.stride);
    worst.see(std::abs(double(got.values[i]) - exact[at]) / unit);
  }
  return worst.value();
}

struct Errors {
  Worst value, gradient, normaliser;
};

// In epsilon of the largest output, and of the largest dV (dQ and dK vanish where a query sees one key only).
void see_case(const std::vector<FloatTable>& tables, const Case& c, std::vector<Errors>& errors) {
  const Inputs in(c);
  const Exact exact(c, in);
  const Results before(c);
  const double value_unit = f32_epsilon * largest_of(exact.out),
               gradient_unit = f32_epsilon * largest_of(exact.dv);
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const Results got = compute(tables[t].kernels, c, in);
    errors[t].value.see(rows_error(got.out, before.out, exact.out, value_unit));
    errors[t].gradient.see(rows_error(got.dq, before.dq, exact.dq, gradient_unit));
    errors[t].gradient.see(rows_error(got.dk, before.dk, exact.dk, gradient_unit));
    errors[t].gradient.see(rows_error(got.dv, before.dv, exact.dv, gradient_unit));
    for (std::size_t i = 0; i < got.normaliser.size(); ++i) {
      const double unit = f32_epsilon * std::fmax(1.0, std::abs(exact.normaliser[i]));
      errors[t].normaliser.see(std::abs(double(got.normaliser[i]) - exact.normaliser[i]) / unit);
    }
  }
}

// Every length meets every window or chunk; widths and offsets take turns, so that all of them occur.
std::vector<Case> cases(const std::vector<std::int64_t>& windows, const std::vector<std::int64_t>& chunks) {
  constexpr std::int64_t widths[] = {1, 4, 5, 8, 16, 19, 32, 40};
  std::vector<Case> all;
  std::size_t turn = 0;
  for (std::int64_t length = 1; length <= std::int64_t(most_elements); ++length) {
    const auto add = [&](std::int64_t window, std::int64_t chunk) {
      all.push_back({length, widths[turn % 8], window, chunk, turn * 5 % (most_offset + 1)});
      ++turn;
    };
    for (const std::int64_t window : windows) add(window, 0);
    for (const std::int64_t chunk : chunks) add(0, chunk);
    ++turn;
  }
  return all;
}

struct Kind {
  const char *name, *file, *section;
  std::vector<Case> cases;
};

std::vector<Claim> attention_claims(const Kind& kind, const std::vector<FloatTable>& tables) {
  std::vector<Errors> errors(tables.size());
  for (const Case& c : kind.cases) see_case(tables, c, errors);
  const std::string how =
      std::to_string(kind.cases.size()) + " shapes, T 1..70, d 1..40, offsets 0..15; relative to ";
  std::vector<Claim> claims;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const auto add = [&](const char* property, const char* unit, const Worst& worst, double bound) {
      claims.push_back({std::string("f32/") + kind.name + ": " + property + ", " + tables[t].isa, how + unit,
                        worst.value(), bound, kind.file, kind.section});
    };
    add("value in epsilon", "the largest output", errors[t].value, 8);
    add("gradient in epsilon", "the largest dV", errors[t].gradient, 25);
    add("normaliser in epsilon", "max(1, normaliser)", errors[t].normaliser, 8);
  }
  return claims;
}

// Scores of +-1e30 put all weight on the largest, ties share it, and a NaN key reaches exactly the queries
// that see it.
double boundary_faults(const FloatKernels& kernels) {
  constexpr std::int64_t window = 5;
  const Case c{40, 1, window, 0, 0};
  Inputs in(c);
  for (std::int64_t i = 0; i < c.length; ++i) {
    in.q.data()[i * in.q.stride] = 1e15F;
    in.k.data()[i * in.k.stride] = i == 3 ? 1e15F : -1e15F;
  }
  const Results huge = compute(kernels, c, in);
  double faults = 0;
  for (std::int64_t i = 3; i < 3 + window; ++i) faults += huge.out.at(i, 0) != in.v.at(3, 0);
  for (std::int64_t i = 3 + window; i < c.length; ++i) {
    double mean = 0;
    for (std::int64_t j = i - window + 1; j <= i; ++j) mean += in.v.at(j, 0) / double(window);
    faults += !(std::abs(huge.out.at(i, 0) - mean) <= 4 * f32_epsilon);
  }
  Inputs with_nan(c);
  with_nan.k.data()[20 * with_nan.k.stride] = f32_nan;
  const Results nan = compute(kernels, c, with_nan);
  for (std::int64_t i = 0; i < c.length; ++i)
    faults += std::isnan(nan.out.at(i, 0)) != (i >= 20 && i < 20 + window);
  return faults;
}

// phi(q) phi(k) = e^-60 is below the least denominator, which then carries no gradient: the definition says
// the same.
double clamped_denominator_error(const FloatTable& table) {
  const Case c{6, 1, 0, 4, 0};
  Inputs in(c);
  for (std::int64_t i = 0; i < c.length; ++i)
    in.q.data()[i * in.q.stride] = in.k.data()[i * in.k.stride] = -30.0F;
  const Exact exact(c, in);
  const Results before(c), got = compute(table.kernels, c, in);
  const double unit = f32_epsilon * largest_of(exact.dv);
  Worst worst;
  worst.see(rows_error(got.out, before.out, exact.out, f32_epsilon * largest_of(exact.out)));
  worst.see(rows_error(got.dq, before.dq, exact.dq, unit));
  worst.see(rows_error(got.dk, before.dk, exact.dk, unit));
  worst.see(rows_error(got.dv, before.dv, exact.dv, unit));
  return worst.value();
}

}  // namespace

std::vector<AuditTask> f32_attention_tasks(const std::vector<FloatTable>& tables) {
  constexpr const char *softmax_file = "core/src/kernels/softmax_attention.inl.hpp",
                       *linear_file = "core/src/kernels/linear_attention.inl.hpp";
  const std::vector<Kind> kinds{
      {"full_attention", softmax_file, "softmax-attention", cases({1000}, {})},
      {"local_attention", softmax_file, "sliding-window", cases({1, 2, 31, 33}, {})},
      {"linear_attention", linear_file, "linear-attention", cases({}, {1, 5, 32, 64})}};
  std::vector<AuditTask> tasks;
  for (const Kind& kind : kinds) {
    tasks.push_back({std::string("f32/") + kind.name, [kind, tables](const Context&) {
                       std::vector<Claim> claims = attention_claims(kind, tables);
                       for (const FloatTable& table : tables) {
                         if (kind.name == std::string("local_attention")) {
                           claims.push_back({"f32/local_attention: boundary values, " + table.isa,
                                             "wrong results for scores of +-1e30, ties of the largest, NaN",
                                             boundary_faults(table.kernels), 0, kind.file, kind.section});
                         } else if (kind.name == std::string("linear_attention")) {
                           claims.push_back(
                               {"f32/linear_attention: clamped denominator in epsilon, " + table.isa,
                                "the definition with z . phi(q) below 1e-20, forward and backward",
                                clamped_denominator_error(table), 8, kind.file, kind.section});
                         }
                       }
                       return claims;
                     }});
  }
  return tasks;
}

}  // namespace dirigo::tools
