// exp, GELU, softplus and ELU + 1 with their derivatives, in ulp; and dropout and Adam.
#include <array>

#include "audit/checks.hpp"
#include "audit/f32.hpp"

namespace dirigo::tools {
namespace {

using Floats = std::vector<float>;

constexpr const char* elementwise_file = "core/src/kernels/elementwise.inl.hpp";
constexpr const char* math_file = "core/src/kernels/math.inl.hpp";
constexpr float largest = std::numeric_limits<float>::max();
constexpr float smallest = std::numeric_limits<float>::denorm_min();

struct Boundary {
  float x;
  double y, slack = 0;  // NaN means NaN
};

struct Function {
  const char* name;
  // y = f(x), or y = dy f'(x) for a vector-Jacobian product
  void (*kernel)(const FloatKernels& kernels, std::int64_t n, const float* x, const float* dy, float* y);
  double (*exact)(double x);  // with dy = 1
  double ulp_bound;
  double absolute_bound;  // > 0: an error of more than ulp_bound ulp is allowed up to this
  std::vector<Boundary> boundaries;
};

double normal_cumulative(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}
double normal_density(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2 * 3.14159265358979323846);
}

std::vector<Function> functions() {
  return {
      {"exp",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float*, float* y) { k.exp(n, x, y); },
       [](double x) { return std::exp(x); },
       2,
       0,
       {{0, 1},
        {-0.0F, 1},
        {smallest, 1},
        {-smallest, 1},
        {largest, HUGE_VAL},
        {-largest, 0},
        {f32_infinity, HUGE_VAL},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
      {"softplus",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float*, float* y) {
         k.softplus(n, x, y);
       },
       [](double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::abs(x))); },
       2,
       0,
       {{0, 0.6931471805599453, 1.2e-7},
        {smallest, 0.6931471805599453, 1.2e-7},
        {-smallest, 0.6931471805599453, 1.2e-7},
        {largest, double(largest)},
        {-largest, 0},
        {f32_infinity, HUGE_VAL},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
      {"elu1",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float*, float* y) { k.elu1(n, x, y); },
       [](double x) { return x > 0 ? x + 1 : std::exp(x); },
       2,
       0,
       {{0, 1},
        {-0.0F, 1},
        {smallest, 1},
        {-smallest, 1},
        {largest, double(largest)},
        {-largest, 0},
        {f32_infinity, HUGE_VAL},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
      {"gelu",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float*, float* y) { k.gelu(n, x, y); },
       [](double x) { return x * normal_cumulative(x); },
       4,
       2e-7,
       {{0, 0},
        {-0.0F, 0},
        {smallest, 0, double(smallest)},
        {-smallest, 0, double(smallest)},
        {largest, double(largest)},
        {-largest, 0},
        {f32_infinity, HUGE_VAL},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
      {"softplus_vjp",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float* dy, float* y) {
         k.softplus_vjp(n, x, dy, y);
       },
       [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); },
       3,
       0,
       {{0, 0.5},
        {smallest, 0.5},
        {-smallest, 0.5},
        {largest, 1},
        {-largest, 0},
        {f32_infinity, 1},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
      {"elu1_vjp",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float* dy, float* y) {
         k.elu1_vjp(n, x, dy, y);
       },
       [](double x) { return x > 0 ? 1.0 : std::exp(x); },
       2,
       0,
       {{0, 1},
        {smallest, 1},
        {-smallest, 1},
        {largest, 1},
        {-largest, 0},
        {f32_infinity, 1},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
      {"gelu_vjp",
       [](const FloatKernels& k, std::int64_t n, const float* x, const float* dy, float* y) {
         k.gelu_vjp(n, x, dy, y);
       },
       [](double x) { return normal_cumulative(x) + x * normal_density(x); },
       4,
       2e-7,
       {{0, 0.5, 2e-7},
        {smallest, 0.5, 2e-7},
        {-smallest, 0.5, 2e-7},
        {largest, 1},
        {-largest, 0},
        {f32_infinity, 1},
        {-f32_infinity, 0},
        {f32_nan, NAN}}},
  };
}

// Every 127th float of magnitude 2^-24 to 2^7, where the functions bend, and every 65537th of all floats.
Floats sweep() {
  Floats x;
  const auto add = [&](std::uint32_t first, std::uint32_t last, std::uint32_t step) {
    for (std::uint64_t bits = first; bits <= last; bits += step) {
      for (const std::uint32_t sign : {0x00000000U, 0x80000000U}) {
        const std::uint32_t pattern = std::uint32_t(bits) | sign;
        float value = 0;
        std::memcpy(&value, &pattern, sizeof value);
        x.push_back(value);
      }
    }
  };
  constexpr std::uint32_t one = 0x3F800000, octave = 0x00800000;
  add(one - 24 * octave, one + 7 * octave, 127);
  add(0, 0x7FFFFFFF, 65537);
  return x;
}

// The worst error of a function over the sweep: in ulp, or the absolute one where it exceeds ulp_bound.
double sweep_error(const Function& f, const FloatKernels& kernels, const Floats& x,
                   const std::vector<double>& exact) {
  const Floats ones(x.size(), 1.0F);
  Floats y(x.size());
  f.kernel(kernels, std::int64_t(x.size()), x.data(), ones.data(), y.data());
  Worst worst;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = ulps(y[i], exact[i]);
    if (f.absolute_bound == 0) worst.see(error);
    if (f.absolute_bound > 0 && !(error <= f.ulp_bound)) worst.see(std::abs(double(y[i]) - exact[i]));
  }
  return worst.value();
}

// Elements that are not those of the kernel called on one element, bitwise, over all sizes and offsets, in
// place and out of place, or that lie outside and were written.
double position_faults(const Function& f, const FloatKernels& kernels) {
  constexpr std::size_t total = most_offset + most_elements + 16;
  const Floats x = uniform_floats(total, -5, 5, 1), dy = uniform_floats(total, -1, 1, 2);
  Floats alone(total);
  for (std::size_t i = 0; i < total; ++i) f.kernel(kernels, 1, &x[i], &dy[i], &alone[i]);
  double faults = 0;
  for (std::size_t offset = 0; offset <= most_offset; ++offset) {
    for (std::size_t n = 0; n <= most_elements; ++n) {
      Floats y(total, -77.0F), in_place = x, expected(total, -77.0F), expected_in_place = x;
      std::copy_n(&alone[offset], n, &expected[offset]);
      std::copy_n(&alone[offset], n, &expected_in_place[offset]);
      f.kernel(kernels, std::int64_t(n), &x[offset], &dy[offset], &y[offset]);
      f.kernel(kernels, std::int64_t(n), &in_place[offset], &dy[offset], &in_place[offset]);
      faults += different_bits<float>(y, expected) + different_bits<float>(in_place, expected_in_place);
    }
  }
  return faults;
}

double boundary_faults(const Function& f, const FloatKernels& kernels) {
  double faults = 0;
  for (const Boundary& at : f.boundaries) {
    const float one = 1;
    float y = -77;
    f.kernel(kernels, 1, &at.x, &one, &y);
    const bool right =
        std::isnan(at.y) ? std::isnan(y) : double(y) == at.y || std::abs(double(y) - at.y) <= at.slack;
    faults += !right;
  }
  return faults;
}

std::vector<Claim> function_claims(const Function& f, const std::vector<FloatTable>& tables) {
  const Floats x = sweep();
  std::vector<double> exact;
  exact.reserve(x.size());
  for (const float value : x) exact.push_back(f.exact(double(value)));
  const bool absolute = f.absolute_bound > 0;
  std::vector<Claim> claims;
  for (const FloatTable& table : tables) {
    const std::string name = std::string("f32/") + f.name + ": ";
    claims.push_back({name + (absolute ? "absolute error beyond 4 ulp, " : "ulp, ") + table.isa,
                      std::to_string(x.size()) + " floats of all magnitudes against double",
                      sweep_error(f, table.kernels, x, exact), absolute ? f.absolute_bound : f.ulp_bound,
                      math_file, "1 Experts"});
    claims.push_back({name + "misalignment x remainder, " + table.isa,
                      "elements that depend on their position, sizes 0..70 x offsets 0..15",
                      position_faults(f, table.kernels), 0, elementwise_file, ""});
    claims.push_back({name + "boundary values, " + table.isa,
                      "wrong results at 0, denormals, +-largest, +-inf, NaN (rules: kernels.hpp)",
                      boundary_faults(f, table.kernels), 0, math_file, ""});
  }
  return claims;
}

// Elements that are not x / (1 - p) where Philox keeps them and 0 elsewhere.
double dropout_faults(const FloatKernels& kernels) {
  constexpr std::uint64_t seed = 0x123456789ABCDEF0;
  constexpr std::uint32_t first_block = 0xFFFFFFF0, step = 17,
                          purpose = 0x01000005;  // the counter wraps around
  double faults = 0;
  for (std::size_t n = 0; n <= 2 * most_elements; ++n) {
    const std::size_t offset = n % (most_offset + 1);
    const Floats x = uniform_floats(offset + n, 1, 2, 3);
    for (const float p : {0.0F, 0.1F, 0.5F, 0.999F}) {
      Floats y(offset + n + 1, -77.0F), expected = y;
      kernels.dropout(std::int64_t(n), first_block, seed, step, purpose, p, x.data() + offset, &y[offset]);
      for (std::size_t i = 0; i < n; ++i) {
        const PhiloxCounter words = philox4x32({first_block + std::uint32_t(i / 4), 0, step, purpose},
                                               {std::uint32_t(seed), std::uint32_t(seed >> 32)});
        const bool keep = double(words[i % 4]) >= double(p) * 0x1p32;
        expected[offset + i] = keep ? x[offset + i] * (1.0F / (1.0F - p)) : 0.0F;
      }
      faults += different_bits<float>(y, expected);
    }
  }
  return faults;
}

// Adam with decoupled weight decay: the worst error of parameter and moments, in units of epsilon at values
// of about 1.
double adam_error(const FloatKernels& kernels) {
  const AdamStep step{.lr = 0.01,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .eps = 1e-8,
                      .weight_decay = 0.1,
                      .correction1 = 1 - 0.9 * 0.9,
                      .correction2 = 1 - 0.99 * 0.99,
                      .gradient_scale = 0.5};
  Worst worst;
  for (std::size_t n = 0; n <= most_elements; ++n) {
    const Floats gradient = uniform_floats(n, -1, 1, 4), start = uniform_floats(n, -1, 1, 5);
    const Floats m0 = uniform_floats(n, -0.1, 0.1, 6), v0 = uniform_floats(n, 0, 0.1, 7);
    Floats parameter = start, m = m0, v = v0;
    kernels.adam(std::int64_t(n), step, gradient.data(), parameter.data(), m.data(), v.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double g = 0.5 * double(gradient[i]);
      const double moment1 = 0.9 * double(m0[i]) + 0.1 * g, moment2 = 0.99 * double(v0[i]) + 0.01 * g * g;
      const double update =
          0.01 * (moment1 / step.correction1) / (std::sqrt(moment2 / step.correction2) + 1e-8);
      worst.see(std::abs(double(m[i]) - moment1) / f32_epsilon);
      worst.see(std::abs(double(v[i]) - moment2) / f32_epsilon);
      worst.see(std::abs(double(parameter[i]) - (double(start[i]) * (1 - 0.001) - update)) / f32_epsilon);
    }
  }
  return worst.value();
}

}  // namespace

std::vector<AuditTask> f32_elementwise_tasks(const std::vector<FloatTable>& tables) {
  std::vector<AuditTask> tasks;
  for (const Function& f : functions()) {
    tasks.push_back(
        {std::string("f32/") + f.name, [f, tables](const Context&) { return function_claims(f, tables); }});
  }
  tasks.push_back({"f32/dropout", [tables](const Context&) {
                     std::vector<Claim> claims;
                     for (const FloatTable& table : tables) {
                       claims.push_back(
                           {"f32/dropout: keeps what Philox says, " + table.isa,
                            "elements that differ from the scalar generator, sizes 0..140, 4 rates",
                            dropout_faults(table.kernels), 0, elementwise_file, "4 Sampling"});
                     }
                     return claims;
                   }});
  tasks.push_back({"f32/adam", [tables](const Context&) {
                     std::vector<Claim> claims;
                     for (const FloatTable& table : tables) {
                       claims.push_back({"f32/adam: error in epsilon, " + table.isa,
                                         "one AdamW step in double, sizes 0..70, values of about 1",
                                         adam_error(table.kernels), 2, elementwise_file, ""});
                     }
                     return claims;
                   }});
  return tasks;
}

}  // namespace dirigo::tools
