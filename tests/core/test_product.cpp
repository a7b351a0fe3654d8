// Products against Eigen, the row rule, and independence of the number of threads.
#include <doctest/doctest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/kernels.hpp"
#include "dirigo/core/product.hpp"

using namespace dirigo;

namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = T(uniform(generator));
  return values;
}

enum class Layout { plain, transposed, strided };

// A rows x cols operand; strided ones have gaps in both directions.
template <class T>
struct Operand {
  std::vector<T> data;
  std::int64_t row, col;
  Operand(std::int64_t rows, std::int64_t cols, Layout layout, unsigned seed) {
    row = layout == Layout::plain ? cols + 1 : layout == Layout::transposed ? 1 : 2 * cols + 5;
    col = layout == Layout::plain ? 1 : layout == Layout::transposed ? rows + 2 : 2;
    data = random_values<T>(rows * row + cols * col + 1, seed);
  }
  Matrix<double> matrix(std::int64_t rows, std::int64_t cols) const {
    Matrix<double> m(rows, cols);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) m(i, j) = double(data[std::size_t(i * row + j * col)]);
    }
    return m;
  }
};

// Runs one product and compares it with Eigen's in double: an element's error is at most k rounding errors of
// the sum of |terms|. Values beside C must stay as they were.
template <class T>
void check_product(const Context& context, std::int64_t m, std::int64_t n, std::int64_t k, Layout a_layout,
                   Layout b_layout, bool bias, bool accumulate) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  const Operand<T> a(m, k, a_layout, 1), b(k, n, b_layout, 2);
  const std::vector<T> offsets = random_values<T>(n, 3);
  const std::int64_t c_row = n + 3;
  const std::vector<T> before = random_values<T>(m * c_row, 4);
  std::vector<T> c = before, from_panels = before;
  Product<T> p{.m = m,
               .n = n,
               .k = k,
               .a = a.data.data(),
               .a_row = a.row,
               .a_col = a.col,
               .b = b.data.data(),
               .b_row = b.row,
               .b_col = b.col,
               .c = c.data(),
               .c_row = c_row,
               .bias = bias ? offsets.data() : nullptr,
               .accumulate = accumulate};
  product<T>(context, p);
  const Matrix<double> am = a.matrix(m, k), bm = b.matrix(k, n);
  const Matrix<double> exact = am * bm, magnitude = am.cwiseAbs() * bm.cwiseAbs();
  const double unit = double(std::numeric_limits<T>::epsilon());
  bool close = true, untouched = true;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < c_row; ++j) {
      const std::size_t at = std::size_t(i * c_row + j);
      if (j >= n) {
        untouched = untouched && c[at] == before[at];
        continue;
      }
      const double start = accumulate ? double(before[at]) : bias ? double(offsets[std::size_t(j)]) : 0.0;
      const double bound = unit * (double(k) / 2 + 1) * (magnitude(i, j) + std::abs(start));
      close = close && std::abs(double(c[at]) - (start + exact(i, j))) <= bound;
    }
  }
  CHECK(close);
  CHECK(untouched);

  std::vector<T> panels(std::size_t(panels_size(k, n)), std::numeric_limits<T>::quiet_NaN());
  pack_panels<T>(context, k, n, b.data.data(), b.row, b.col, panels.data());
  p.b = nullptr;
  p.b_panels = panels.data();
  p.c = from_panels.data();
  product<T>(context, p);
  CHECK(from_panels == c);
}

// y = x W^T + bias for the given rows of x, each as the layer computes it.
std::vector<float> linear(const Context& context, std::int64_t m, std::int64_t n, std::int64_t k,
                          const float* x, const std::vector<float>& w, bool transposed) {
  std::vector<float> y(std::size_t(m * n));
  product<float>(context, {.m = m,
                           .n = n,
                           .k = k,
                           .a = x,
                           .a_row = k,
                           .b = w.data(),
                           .b_row = transposed ? 1 : n,
                           .b_col = transposed ? k : 1,
                           .c = y.data(),
                           .c_row = n,
                           .bias = w.data()});
  return y;
}

}  // namespace

TEST_CASE("products equal Eigen's for every layout, remainder and instruction set") {
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(isa_name(isa)));
    const Context context({.threads = 1, .isa = isa});
    for (const Layout a : {Layout::plain, Layout::transposed, Layout::strided}) {
      for (const Layout b : {Layout::plain, Layout::transposed, Layout::strided}) {
        for (const std::int64_t m : {1, 2, 7, 17, 21}) {
          for (const std::int64_t n : {1, 3, 8, 31, 32, 33, 50, 67}) {
            const std::int64_t k = (m + n) % 19;
            check_product<float>(context, m, n, k, a, b, false, false);
            check_product<float>(context, m, n, k, a, b, true, false);
            check_product<float>(context, m, n, k, a, b, false, true);
            if (isa == Isa::portable) check_product<double>(context, m, n, k, a, b, true, false);
          }
        }
        check_product<float>(context, 70, 40, 600, a, b, true, false);  // several blocks of k
        check_product<float>(context, 70, 40, 513, a, b, false, true);
      }
    }
  }
}

TEST_CASE("large products run in parallel blocks") {
  const Context context({.threads = 2});
  check_product<float>(context, 1100, 130, 300, Layout::plain, Layout::transposed, true, false);
  check_product<float>(context, 130, 700, 1025, Layout::transposed, Layout::plain, false, true);
  check_product<double>(context, 600, 70, 129, Layout::plain, Layout::transposed, true, false);
  check_product<float>(context, 200, 500, 600, Layout::plain, Layout::plain, true,
                       false);  // several spans of k
}

TEST_CASE("zero extents") {
  const Context context({.threads = 2});
  float c[2] = {5, 6};
  const float bias[2] = {1, 2};
  product<float>(context, {.m = 1, .n = 2, .k = 0, .c = c, .c_row = 2, .accumulate = true});
  CHECK(c[1] == 6);
  product<float>(context, {.m = 1, .n = 2, .k = 0, .c = c, .c_row = 2, .bias = bias});
  CHECK(c[1] == 2);
  product<float>(context, {.m = 1, .n = 2, .k = 0, .c = c, .c_row = 2});
  CHECK(c[0] == 0);
  CHECK(c[1] == 0);
  product<float>(context, {.m = 0, .n = 2, .k = 3});
  product<float>(context, {.m = 2, .n = 0, .k = 3});
  CHECK(context.flops().products == 0);
}

TEST_CASE("row rule: a row's bits do not depend on the rows computed with it") {
  constexpr std::int64_t rows = 70;
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(isa_name(isa)));
    const Context context({.threads = 2, .isa = isa});
    for (const std::int64_t k : {5, 128, 300}) {
      for (const std::int64_t n : {3, 32, 77}) {
        for (const bool transposed : {false, true}) {
          const std::vector<float> x = random_values<float>(rows * k, 1),
                                   w = random_values<float>(n * k + n, 2);
          const std::vector<float> all = linear(context, rows, n, k, x.data(), w, transposed);
          bool same = true;
          for (std::int64_t m = 1; m <= rows; ++m) {  // the last m rows, so that every row changes its tile
            const std::int64_t first = rows - m;
            const std::vector<float> some =
                linear(context, m, n, k, &x[std::size_t(first * k)], w, transposed);
            same = same &&
                   std::memcmp(some.data(), &all[std::size_t(first * n)], some.size() * sizeof(float)) == 0;
          }
          CHECK(same);
          std::vector<float> gathered;  // a scattered subset
          for (std::int64_t i = 0; i < rows; i += 3) {
            gathered.insert(gathered.end(), x.begin() + i * k, x.begin() + (i + 1) * k);
          }
          const std::int64_t count = std::int64_t(gathered.size()) / k;
          const std::vector<float> subset = linear(context, count, n, k, gathered.data(), w, transposed);
          same = true;
          for (std::int64_t i = 0; i < count; ++i) {
            same = same && std::memcmp(&subset[std::size_t(i * n)], &all[std::size_t(3 * i * n)],
                                       std::size_t(n) * sizeof(float)) == 0;
          }
          CHECK(same);
        }
      }
    }
  }
}

TEST_CASE("products are bitwise the same for any number of threads, denormals included") {
  for (const Isa isa : available_isas()) {
    const std::int64_t m = 1500, n = 160, k = 270;
    std::vector<float> x = random_values<float>(m * k, 1);
    const std::vector<float> w = random_values<float>(n * k + n, 2);
    for (std::size_t i = 0; i < x.size() / 2; ++i) x[i] *= 1e-38F;
    const Context one({.threads = 1, .isa = isa});
    const std::vector<float> expected = linear(one, m, n, k, x.data(), w, true);
    for (const int threads : {2, 3, 4}) {
      const Context context({.threads = threads, .isa = isa});
      CHECK(linear(context, m, n, k, x.data(), w, true) == expected);
    }
    CHECK(one.flops().products == 2ULL * 1500 * 160 * 270);
  }
}

TEST_CASE("NaN and infinity propagate through products") {
  const Context context({.threads = 1});
  const float values[4] = {1, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                           0};
  float c[1] = {};
  for (const int bad : {1, 2}) {
    product<float>(context, {.m = 1, .n = 1, .k = 1, .a = &values[bad], .a_row = 1, .b = &values[3], .c = c});
    CHECK(std::isnan(c[0]));
  }
}
