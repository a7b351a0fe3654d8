// The row kernels: softmax, cross-entropy, layer norm, mixtures, sums, against plain double loops over all
// row lengths 0..70 (where allowed) and offsets 0..15.
#include "audit/checks.hpp"
#include "audit/f32.hpp"

namespace dirigo::tools {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr const char* file = "core/src/kernels/rows.inl.hpp";
constexpr std::size_t rows = 3;

// Calls body(cols, offset) for all row lengths from `least` on and all offsets.
template <class Body>
void for_all_rows(std::size_t least, const Body& body) {
  for (std::size_t offset = 0; offset <= most_offset; ++offset) {
    for (std::size_t cols = least; cols <= most_elements; ++cols) body(cols, offset);
  }
}

// `rows` rows of `cols` values that start `offset` values into their array.
Floats random_rows(std::size_t cols, std::size_t offset, double low, double high, std::uint32_t site) {
  return uniform_floats(offset + rows * cols, low, high, site);
}

Doubles exact_softmax(const float* x, std::size_t cols) {
  double largest = -HUGE_VAL, total = 0;
  for (std::size_t j = 0; j < cols; ++j) largest = std::fmax(largest, double(x[j]));
  Doubles y(cols);
  for (std::size_t j = 0; j < cols; ++j) total += y[j] = std::exp(double(x[j]) - largest);
  for (double& value : y) value /= total;
  return y;
}

struct BothWays {
  Worst value, gradient;
};

// Relative to the exact probability (and to |dy| <= 1), in epsilon: x - max alone costs |x - max| <= 18
// halves of one.
BothWays softmax_errors(const FloatKernels& kernels) {
  BothWays worst;
  for_all_rows(1, [&](std::size_t cols, std::size_t offset) {
    const Floats x = random_rows(cols, offset, -9, 9, 1), dy = random_rows(cols, offset, -1, 1, 2);
    Floats y = x, dx(x.size());
    const auto n = std::int64_t(cols);
    kernels.softmax(rows, n, &y[offset], &y[offset]);
    kernels.softmax_vjp(rows, n, &y[offset], &dy[offset], &dx[offset]);
    for (std::size_t begin = offset; begin < x.size(); begin += cols) {
      const Doubles exact = exact_softmax(&x[begin], cols);
      double mean = 0;
      for (std::size_t j = 0; j < cols; ++j) mean += exact[j] * double(dy[begin + j]);
      for (std::size_t j = 0; j < cols; ++j) {
        const double unit = f32_epsilon * exact[j], slope = exact[j] * (double(dy[begin + j]) - mean);
        worst.value.see(std::abs(double(y[begin + j]) - exact[j]) / unit);
        worst.gradient.see(std::abs(double(dx[begin + j]) - slope) / unit);
      }
    }
  });
  return worst;
}

// Masked entries, ties of the largest, huge values; nothing but masked entries, +inf and NaN give NaN.
double softmax_faults(const FloatKernels& kernels) {
  struct Row {
    float x[3];
    double y[3];
  };
  const float inf = f32_infinity;
  const std::vector<Row> cases{
      {{1, -inf, 1}, {0.5, 0, 0.5}},         {{1e30F, 0, 1e30F}, {0.5, 0, 0.5}},
      {{-3e38F, 3e38F, 0}, {0, 1, 0}},       {{0, -0.0F, 1e-45F}, {1 / 3.0, 1 / 3.0, 1 / 3.0}},
      {{-inf, -inf, -inf}, {NAN, NAN, NAN}}, {{0, inf, 0}, {NAN, NAN, NAN}},
      {{0, f32_nan, 0}, {NAN, NAN, NAN}}};
  double faults = 0;
  for (const Row& row : cases) {
    float y[3];
    kernels.softmax(1, 3, row.x, y);
    for (int j = 0; j < 3; ++j) {
      faults += !(std::isnan(row.y[j]) ? std::isnan(y[j]) : std::abs(double(y[j]) - row.y[j]) <= 1e-7);
    }
  }
  return faults;
}

// The loss relative to max(1, loss), the gradient absolutely, in epsilon.
BothWays cross_entropy_errors(const FloatKernels& kernels) {
  BothWays worst;
  for_all_rows(1, [&](std::size_t cols, std::size_t offset) {
    const Floats logits = random_rows(cols, offset, -30, 30, 3);
    const std::int32_t targets[rows] = {0, std::int32_t(cols) - 1, std::int32_t(cols / 2)};
    Floats gradient = logits;
    float losses[rows];
    kernels.cross_entropy(rows, std::int64_t(cols), &gradient[offset], targets, losses, &gradient[offset]);
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const row = &logits[offset + r * cols];
      const auto target = std::size_t(targets[r]);
      const Doubles p = exact_softmax(row, cols);
      double largest = -HUGE_VAL, total = 0;
      for (std::size_t j = 0; j < cols; ++j) largest = std::fmax(largest, double(row[j]));
      for (std::size_t j = 0; j < cols; ++j) total += std::exp(double(row[j]) - largest);
      const double loss = std::log(total) + (largest - double(row[target]));
      worst.value.see(std::abs(double(losses[r]) - loss) / f32_epsilon / std::fmax(1.0, loss));
      for (std::size_t j = 0; j < cols; ++j) {
        const double exact = p[j] - (j == target ? 1 : 0);
        worst.gradient.see(std::abs(double(gradient[offset + r * cols + j]) - exact) / f32_epsilon);
      }
    }
  });
  return worst;
}

// A target of probability 0 costs +inf; a NaN anywhere gives NaN.
double cross_entropy_faults(const FloatKernels& kernels) {
  const float logits[] = {0, -f32_infinity, 0, -f32_infinity, 0, f32_nan, 1e30F, -1e30F};
  const std::int32_t targets[] = {1, 0, 0, 0};
  float losses[4], gradient[8];
  kernels.cross_entropy(4, 2, logits, targets, losses, gradient);
  double faults = 0;
  faults += losses[0] != f32_infinity || gradient[0] != 1 || gradient[1] != -1;
  faults += losses[1] != 0 || gradient[2] != 0 || gradient[3] != 0;
  faults += !std::isnan(losses[2]) || !std::isnan(gradient[4]) || !std::isnan(gradient[5]);
  faults += losses[3] != 0 || gradient[6] != 0 || gradient[7] != 0;
  return faults;
}

constexpr double layer_norm_eps = 1e-5;

struct NormalRow {
  Doubles normal;  // (x - mean) rstd
  double rstd = 0;
};

NormalRow exact_layer_norm(const float* x, std::size_t cols) {
  double mean = 0, variance = 0;
  for (std::size_t j = 0; j < cols; ++j) mean += double(x[j]) / double(cols);
  for (std::size_t j = 0; j < cols; ++j)
    variance += (double(x[j]) - mean) * (double(x[j]) - mean) / double(cols);
  NormalRow row;
  row.rstd = 1 / std::sqrt(variance + layer_norm_eps);
  for (std::size_t j = 0; j < cols; ++j) row.normal.push_back((double(x[j]) - mean) * row.rstd);
  return row;
}

// Inputs around `centre`, at a deviation of about 1. Rounding x - mean costs |x| rstd epsilon, which is the
// unit (as is that of the row's largest term); dx carries another factor rstd.
BothWays layer_norm_errors(const FloatKernels& kernels, double centre) {
  BothWays worst;
  for_all_rows(2, [&](std::size_t cols, std::size_t offset) {
    const Floats x = random_rows(cols, offset, centre - 2, centre + 2, 4),
                 dy = random_rows(cols, offset, -1, 1, 5);
    const Floats gamma = uniform_floats(cols, 0.5, 2, 6), beta = uniform_floats(cols, -1, 1, 7);
    Floats y(x.size()), dx(x.size()), mean(rows), rstd(rows), dgamma(cols), dbeta(cols);
    const auto n = std::int64_t(cols);
    kernels.layer_norm(rows, n, float(layer_norm_eps), &x[offset], gamma.data(), beta.data(), &y[offset],
                       mean.data(), rstd.data());
    kernels.layer_norm_vjp(rows, n, &x[offset], gamma.data(), mean.data(), rstd.data(), &dy[offset],
                           &dx[offset], dgamma.data(), dbeta.data());
    Doubles sum_gamma(cols), sum_beta(cols);
    double unit_of_sums = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t begin = offset + r * cols;
      const NormalRow row = exact_layer_norm(&x[begin], cols);
      const double unit = f32_epsilon * (1 + (std::abs(centre) + 2) * row.rstd);
      unit_of_sums += unit;
      double g_mean = 0, gx_mean = 0;
      for (std::size_t j = 0; j < cols; ++j) {
        const double g = double(dy[begin + j]) * double(gamma[j]);
        g_mean += g / double(cols);
        gx_mean += g * row.normal[j] / double(cols);
        sum_gamma[j] += double(dy[begin + j]) * row.normal[j];
        sum_beta[j] += double(dy[begin + j]);
      }
      for (std::size_t j = 0; j < cols; ++j) {
        const double g = double(dy[begin + j]) * double(gamma[j]);
        worst.value.see(
            std::abs(double(y[begin + j]) - (row.normal[j] * double(gamma[j]) + double(beta[j]))) / unit);
        const double slope = row.rstd * (g - g_mean - row.normal[j] * gx_mean);
        worst.gradient.see(std::abs(double(dx[begin + j]) - slope) / (unit * row.rstd));
      }
    }
    for (std::size_t j = 0; j < cols; ++j) {
      worst.gradient.see(std::abs(double(dgamma[j]) - sum_gamma[j]) / unit_of_sums);
      worst.gradient.see(std::abs(double(dbeta[j]) - sum_beta[j]) / unit_of_sums);
    }
  });
  return worst;
}

// Mixtures of experts and their backward, relative to the sum of |terms|, in epsilon.
BothWays mix_errors(const FloatKernels& kernels) {
  BothWays worst;
  constexpr std::size_t experts = 3;
  for_all_rows(0, [&](std::size_t cols, std::size_t offset) {
    const Floats w = uniform_floats(rows * experts, 0, 1, 8);
    Floats x[experts], dx[experts];
    const float* inputs[experts];
    float* gradients[experts];
    for (std::size_t k = 0; k < experts; ++k) {
      x[k] = random_rows(cols, offset, -1, 1, std::uint32_t(9 + k));
      dx[k].resize(x[k].size());
      inputs[k] = x[k].data() + offset;
      gradients[k] = dx[k].data() + offset;
    }
    const Floats dy = random_rows(cols, offset, -1, 1, 12);
    Floats y(dy.size()), dw(rows * experts);
    const auto n = std::int64_t(cols);
    kernels.mix(rows, n, experts, w.data(), inputs, y.data() + offset);
    kernels.mix_vjp(rows, n, experts, w.data(), inputs, dy.data() + offset, gradients, dw.data());
    for (std::size_t t = 0; t < rows; ++t) {
      double dot[experts] = {}, scale[experts] = {};
      for (std::size_t i = offset + t * cols; i < offset + (t + 1) * cols; ++i) {
        double exact = 0, terms = 0;
        for (std::size_t k = 0; k < experts; ++k) {
          const double weight = double(w[t * experts + k]), value = double(x[k][i]), d = double(dy[i]);
          exact += weight * value;
          terms += std::abs(weight * value);
          dot[k] += d * value;
          scale[k] += std::abs(d * value);
          worst.gradient.see(ulps(dx[k][i], weight * d));
        }
        worst.value.see(std::abs(double(y[i]) - exact) / (f32_epsilon * terms));
      }
      for (std::size_t k = 0; k < experts; ++k) {
        if (cols > 0)
          worst.gradient.see(std::abs(double(dw[t * experts + k]) - dot[k]) / (f32_epsilon * scale[k]));
        if (cols == 0) worst.gradient.see(std::abs(double(dw[t * experts + k])));
      }
    }
  });
  return worst;
}

// sum, sum_squares and dot in double, relative to the sum of |terms|. 32 interleaved partial sums and then
// their sum make at most 210 / 32 + 32 additions of half an ulp in a row.
constexpr double sum_bound = (rows * most_elements / 32.0 + 32) * 0x1p-53;

double sum_error(const FloatKernels& kernels) {
  Worst worst;
  for_all_rows(0, [&](std::size_t cols, std::size_t offset) {
    const std::size_t n = rows * cols;
    const Floats a = random_rows(cols, offset, -1, 1, 13), b = random_rows(cols, offset, -1, 1, 14);
    long double sum = 0, squares = 0, dot = 0, size = 0, dot_size = 0;
    for (std::size_t i = offset; i < offset + n; ++i) {
      const long double u = a[i], v = b[i];
      sum += u;
      squares += u * u;
      dot += u * v;
      size += u < 0 ? -u : u;
      dot_size += u * v < 0 ? -u * v : u * v;
    }
    const auto count = std::int64_t(n);
    const auto see = [&](double got, long double exact, long double scale) {
      worst.see(n == 0 ? std::abs(got) : std::abs(double((got - exact) / scale)));
    };
    see(kernels.sum(count, a.data() + offset), sum, size);
    see(kernels.sum_squares(count, a.data() + offset), squares, squares);
    see(kernels.dot(count, a.data() + offset, b.data() + offset), dot, dot_size);
  });
  return worst.value();
}

// Sums of columns: the exact order of additions is part of the rule, so the bits are compared.
double column_sum_faults(const FloatKernels& kernels) {
  double faults = 0;
  for (std::size_t cols = 0; cols <= 2 * most_elements; ++cols) {
    const std::size_t stride = cols + 3, offset = cols % (most_offset + 1);
    const Floats x = uniform_floats(offset + rows * stride, -1, 1, 15);
    Floats y(cols + 1, 3.0F), expected = y;
    kernels.add_column_sums(rows, std::int64_t(cols), x.data() + offset, std::int64_t(stride), y.data());
    for (std::size_t j = 0; j < cols; ++j) {
      float total = 0;
      for (std::size_t r = 0; r < rows; ++r) total += x[offset + r * stride + j];
      expected[j] = 3.0F + total;
    }
    faults += different_bits<float>(y, expected);
  }
  return faults;
}

// What is measured for every table, as claims "f32/NAME: PROPERTY, ISA".
struct Measure {
  std::string property, how;
  double bound;
  double (*error)(const FloatKernels&);
};

AuditTask task(const std::string& name, const std::string& section, const std::vector<FloatTable>& tables,
               const std::vector<Measure>& measures) {
  return {"f32/" + name, [=](const Context&) {
            std::vector<Claim> claims;
            for (const FloatTable& table : tables) {
              for (const Measure& m : measures) {
                claims.push_back({"f32/" + name + ": " + m.property + ", " + table.isa, m.how,
                                  m.error(table.kernels), m.bound, file, section});
              }
            }
            return claims;
          }};
}

}  // namespace

std::vector<AuditTask> f32_row_tasks(const std::vector<FloatTable>& tables) {
  const std::string sweep = ", row lengths to 70 x offsets 0..15";
  return {
      task(
          "softmax", "softmax-attention", tables,
          {{"value in epsilon", "relative to the probability" + sweep, 16,
            [](const FloatKernels& k) { return softmax_errors(k).value.value(); }},
           {"gradient in epsilon", "relative to the probability" + sweep, 16,
            [](const FloatKernels& k) { return softmax_errors(k).gradient.value(); }},
           {"boundary values", "wrong results for masks, ties, huge values, +-inf, NaN", 0, softmax_faults}}),
      task("cross_entropy", "cross-entropy", tables,
           {{"value in epsilon", "relative to max(1, loss)" + sweep, 4,
             [](const FloatKernels& k) { return cross_entropy_errors(k).value.value(); }},
            {"gradient in epsilon", "absolute" + sweep, 8,
             [](const FloatKernels& k) { return cross_entropy_errors(k).gradient.value(); }},
            {"boundary values", "wrong results for impossible targets, huge values, NaN", 0,
             cross_entropy_faults}}),
      task("layer_norm", "layer-norm", tables,
           {{"value in epsilon", "relative to 1 + |x| rstd, mean 0" + sweep, 8,
             [](const FloatKernels& k) { return layer_norm_errors(k, 0).value.value(); }},
            {"gradient in epsilon", "relative to (1 + |x| rstd) rstd, mean 0" + sweep, 8,
             [](const FloatKernels& k) { return layer_norm_errors(k, 0).gradient.value(); }},
            {"value in epsilon at mean 100", "relative to 1 + |x| rstd" + sweep, 8,
             [](const FloatKernels& k) { return layer_norm_errors(k, 100).value.value(); }},
            {"gradient in epsilon at mean 100", "relative to (1 + |x| rstd) rstd" + sweep, 8,
             [](const FloatKernels& k) { return layer_norm_errors(k, 100).gradient.value(); }}}),
      task("mix", "1 Experts", tables,
           {{"value in epsilon", "relative to the sum of |terms|" + sweep, 2,
             [](const FloatKernels& k) { return mix_errors(k).value.value(); }},
            {"gradient in epsilon", "relative to the sum of |terms|" + sweep, 2,
             [](const FloatKernels& k) { return mix_errors(k).gradient.value(); }}}),
      task("sums", "", tables,
           {{"in double", "sum, sum of squares, dot product; relative to the sum of |terms|" + sweep,
             sum_bound, sum_error},
            {"columns", "elements that differ from additions in ascending order", 0, column_sum_faults}}),
  };
}

}  // namespace dirigo::tools
