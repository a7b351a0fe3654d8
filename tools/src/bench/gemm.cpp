// dirigo bench gemm: the products of a training step.
#include <fmt/format.h>

#include <algorithm>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "bench/eigen_product.hpp"
#include "dirigo/core/product.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

struct Shape3 {
  const char* name;
  std::int64_t m, k, n;
  bool transpose_a, transpose_b;
  bool packed = false;  // B comes in panels, as the weights of a step do
};

// The three products of a layer (in -> out), weights stored (out, in): for 2048 tokens, and for so few that
// all operands stay in the second-level cache.
std::vector<Shape3> shapes() {
  struct Layer {
    std::int64_t in, out;
  };
  std::vector<Shape3> all;
  for (const Layer& layer : {Layer{128, 384}, Layer{128, 512}, Layer{512, 128}}) {
    for (const std::int64_t tokens : {2048, 256, 64}) {
      const bool packed = tokens < 2048;
      all.push_back(
          {packed ? "forward, packed W" : "forward X W^T", tokens, layer.in, layer.out, false, true, packed});
      all.push_back(
          {packed ? "dX, packed W" : "dX = dY W", tokens, layer.out, layer.in, false, false, packed});
      all.push_back({"dW = dY^T X", layer.out, tokens, layer.in, true, false});
    }
  }
  all.push_back({"square A B", 1024, 1024, 1024, false, false});
  return all;
}

Product<float> ours(const MatrixProduct& p, const Tensor& panels) {
  return {.m = p.m,
          .n = p.n,
          .k = p.k,
          .a = p.a,
          .a_row = p.transpose_a ? 1 : p.a_stride,
          .a_col = p.transpose_a ? p.a_stride : 1,
          .b = p.b,
          .b_row = p.transpose_b ? 1 : p.b_stride,
          .b_col = p.transpose_b ? p.b_stride : 1,
          .c = p.c,
          .c_row = p.n,
          .b_panels = panels.defined() ? panels.data<float>() : nullptr};
}

void (*eigen_for(Isa isa))(const MatrixProduct&) noexcept {
#if defined(__x86_64__)
  if (isa != Isa::portable) return eigen_product_avx2;
#endif
  static_cast<void>(isa);
  return eigen_product_portable;
}

// Eigen without OpenMP has one thread: each of ours gets a part of the result's rows.
void run_eigen(const Context& context, const MatrixProduct& whole) {
  const std::int64_t grain = (whole.m + context.threads() - 1) / context.threads();
  const auto product = eigen_for(context.isa());
  context.parallel_for<float>(whole.m, grain, [&](std::int64_t begin, std::int64_t end) {
    MatrixProduct part = whole;
    part.m = end - begin;
    part.a += begin * (whole.transpose_a ? 1 : whole.a_stride);
    part.c += begin * whole.n;
    product(part);
  });
}

// Operands and result of one shape.
struct Operands {
  Operands(const Context& context, const Shape3& s)
      : a(uniform_tensor(context, {s.m, s.k}, 1)),
        b(uniform_tensor(context, {s.k, s.n}, 2)),
        c(Tensor::zeros(context, {s.m, s.n})),
        product{.m = s.m,
                .k = s.k,
                .n = s.n,
                .a = a.data<float>(),
                .a_stride = s.transpose_a ? s.m : s.k,
                .transpose_a = s.transpose_a,
                .b = b.data<float>(),
                .b_stride = s.transpose_b ? s.k : s.n,
                .transpose_b = s.transpose_b,
                .c = c.data<float>()} {
    if (!s.packed) return;
    panels = Tensor::empty(context, Shape{panels_size(s.k, s.n)});
    pack_panels<float>(context, s.k, s.n, b.data<float>(), s.transpose_b ? 1 : s.n, s.transpose_b ? s.k : 1,
                       panels.data<float>());
  }
  Tensor a, b, c, panels;
  MatrixProduct product;
};

}  // namespace

BenchReport bench_gemm(const Context& context, const Sampling& sampling) {
  const std::vector<Shape3> all = shapes();
  std::vector<Operands> operands;
  for (const Shape3& shape : all) operands.emplace_back(context, shape);
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  for (const Operands& each : operands) {
    work.push_back({[&context, &each] { product(context, ours(each.product, each.panels)); }});
    work.push_back({[&context, &each] { run_eigen(context, each.product); }});
  }
  const std::vector<Timing> timings = time_in_turns(work, sampling);

  BenchReport report;
  peak.add_to(report, sampling, timings);
  Table table({"product", "M x K x N", "median ms", "quartiles", "GFLOP/s", "of peak", "Eigen, of peak"});
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Shape3& s = all[i];
    const Timing &own = timings[peak.size() + 2 * i], &eigen = timings[peak.size() + 2 * i + 1];
    const double flops = 2.0 * double(s.m) * double(s.k) * double(s.n);
    nlohmann::ordered_json row = timed_row(context, sampling, s.name, own);
    row.update({{"m", s.m}, {"k", s.k}, {"n", s.n}});
    row["gflop_per_s"] = flops / own.median_ms / 1e6;
    row["share_of_peak"] = peak.share(flops, own);
    row["eigen_median_ms"] = eigen.median_ms;
    row["eigen_share_of_peak"] = peak.share(flops, eigen);
    report.results.push_back(row);
    table.add({s.name, fmt::format("{} x {} x {}", s.m, s.k, s.n), fmt::format("{:.3f}", own.median_ms),
               percent(own.spread), fmt::format("{:.1f}", flops / own.median_ms / 1e6),
               percent(peak.share(flops, own)), percent(peak.share(flops, eigen))});
  }
  report.text = table.text() + peak.text();
  return report;
}

}  // namespace dirigo::tools
