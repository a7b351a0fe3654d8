// Matrix products in float: relative to sum |a||b|, over shapes around the tiles, transposed operands,
// offsets, with bias and accumulating; and the row rule.
#include "audit/checks.hpp"
#include "audit/f32.hpp"
#include "dirigo/core/product.hpp"

namespace dirigo::tools {
namespace {

using Floats = std::vector<float>;

constexpr const char* file = "core/src/kernels/product.inl.hpp";

struct Case {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b, bias, accumulate;
  std::size_t offset;
};

// The operands of a case. C starts as `start`, three columns wider than needed.
struct Operands {
  Floats a, b, bias, start;
  Product<float> product;

  explicit Operands(const Case& c)
      : a(uniform_floats(c.offset + std::size_t(c.m * c.k), -1, 1, 1)),
        b(uniform_floats(c.offset + std::size_t(c.k * c.n), -1, 1, 2)),
        bias(uniform_floats(std::size_t(c.n), -1, 1, 3)),
        start(uniform_floats(c.offset + std::size_t(c.m * (c.n + 3)), -1, 1, 4)) {
    product.m = c.m;
    product.n = c.n;
    product.k = c.k;
    product.a = a.data() + c.offset;
    product.b = b.data() + c.offset;
    product.a_row = c.transpose_a ? 1 : c.k;
    product.a_col = c.transpose_a ? c.m : 1;
    product.b_row = c.transpose_b ? 1 : c.n;
    product.b_col = c.transpose_b ? c.k : 1;
    product.c_row = c.n + 3;
    product.bias = c.bias ? bias.data() : nullptr;
    product.accumulate = c.accumulate;
  }
};

// Rows [first, last) of C by one call of the kernel.
Floats compute(const FloatKernels& kernels, const Operands& operands, std::size_t offset, std::int64_t first,
               std::int64_t last) {
  Floats c = operands.start;
  Product<float> p = operands.product;
  p.c = c.data() + offset;
  Floats panel(std::size_t(product_panel_size(p.k)));
  kernels.product_block(p, first, last, 0, p.n, panel.data());
  return c;
}

// In epsilon, relative to sum |a||b| (+ |bias| or |C|); infinite if anything beside C was written.
double case_error(const FloatKernels& kernels, const Case& c) {
  const Operands operands(c);
  const Floats got = compute(kernels, operands, c.offset, 0, c.m);
  const Product<float>& p = operands.product;
  Worst worst;
  for (std::int64_t i = 0; i < c.m; ++i) {
    for (std::int64_t j = 0; j < c.n + 3; ++j) {
      const std::size_t at = c.offset + std::size_t(i * p.c_row + j);
      const double before = double(operands.start[at]), result = double(got[at]);
      if (j >= c.n) {
        worst.see(result == before ? 0 : HUGE_VAL);
        continue;
      }
      double exact = c.bias ? double(p.bias[j]) : c.accumulate ? before : 0;
      double scale = std::abs(exact);
      for (std::int64_t l = 0; l < c.k; ++l) {
        const double term = double(p.a[i * p.a_row + l * p.a_col]) * double(p.b[l * p.b_row + j * p.b_col]);
        exact += term;
        scale += std::abs(term);
      }
      worst.see(scale == 0 ? std::abs(result) : std::abs(result - exact) / (f32_epsilon * scale));
    }
  }
  return worst.value();
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (std::int64_t n = 1; n <= std::int64_t(most_elements); ++n) {
    for (const std::int64_t k : {0, 1, 2, 7, 33}) {
      const auto turn = std::size_t(n + 3 * k);
      const std::int64_t m = 1 + std::int64_t(turn) % 19;
      all.push_back(
          {m, n, k, turn % 2 == 1, turn % 3 == 1, turn % 5 == 1, turn % 5 == 2, turn % (most_offset + 1)});
    }
  }
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      all.push_back({37, 45, 600, transpose_a, transpose_b, false, false, 1});
      all.push_back({5, 65, 300, transpose_a, transpose_b, true, false, 3});
    }
  }
  return all;
}

// Elements of a product whose bits change when its rows are computed one at a time.
double row_rule_faults(const FloatKernels& kernels) {
  double faults = 0;
  for (const Case& c :
       {Case{37, 45, 70, false, false, false, false, 1}, Case{20, 33, 300, true, true, true, false, 2}}) {
    const Operands operands(c);
    const Floats whole = compute(kernels, operands, c.offset, 0, c.m);
    for (std::int64_t i = 0; i < c.m; ++i) {
      const Floats alone = compute(kernels, operands, c.offset, i, i + 1);
      const std::size_t at = c.offset + std::size_t(i * operands.product.c_row), count = std::size_t(c.n);
      faults += different_bits(std::span<const float>(whole).subspan(at, count),
                               std::span<const float>(alone).subspan(at, count));
    }
  }
  return faults;
}

std::vector<Claim> product_claims(const std::vector<FloatTable>& tables) {
  std::vector<Claim> claims;
  for (const FloatTable& table : tables) {
    Worst worst;
    for (const Case& c : cases()) worst.see(case_error(table.kernels, c));
    claims.push_back(
        {"f32/product: error in epsilon sum |a||b|, " + table.isa,
         std::to_string(cases().size()) + " shapes (n 1..70, m 1..37, k 0..600) x transposes x offsets",
         worst.value(), 2, file, "reverse-mode"});
    claims.push_back({"f32/product: row rule, " + table.isa,
                      "elements that change when rows are computed one at a time",
                      row_rule_faults(table.kernels), 0, file, "1 Experts"});
  }
  return claims;
}

}  // namespace

std::vector<AuditTask> f32_product_tasks(const std::vector<FloatTable>& tables) {
  return {{"f32/product", [tables](const Context&) { return product_claims(tables); }}};
}

}  // namespace dirigo::tools
