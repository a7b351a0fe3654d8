#include "dirigo/core/product.hpp"

#include <algorithm>

#include "dirigo/core/kernels.hpp"
#include "product_blocking.hpp"

namespace dirigo {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// How C is cut into blocks. Only speed depends on it.
struct Grid {
  std::int64_t rows, columns;              // of a block
  std::int64_t block_rows, block_columns;  // number of blocks
};

template <class T>
Grid choose_grid(const Context& context, const Product<T>& p) {
  const std::int64_t m = p.m, n = p.n, k = p.k;
  constexpr std::int64_t least_work = 1 << 20;  // multiply-adds: some 10 us, well above the cost of a task
  constexpr std::int64_t least_extent = 128;    // packing a panel should serve this many rows or columns
  // Rows of A that are read in place need no room: the more of them meet a packed B, the better.
  Grid grid{p.a_col == 1 ? m : std::min(m, product_rows), std::min(n, product_columns), 0, 0};
  // Every block of a transposed A packs its rows of A and its columns of B, so these products are cut least.
  const std::int64_t threads = context.free_threads();
  const std::int64_t wanted = threads * (threads > 1 && p.a_col == 1 ? 4 : 1);
  while (true) {
    grid.block_rows = ceil_div(m, grid.rows);
    grid.block_columns = ceil_div(n, grid.columns);
    std::int64_t& longer = grid.columns >= 2 * grid.rows ? grid.columns : grid.rows;
    const bool enough = grid.block_rows * grid.block_columns >= wanted;
    if (enough || longer < 2 * least_extent || grid.rows * grid.columns * k < 2 * least_work) return grid;
    longer = ceil_div(longer / 2, least_extent) * least_extent;
  }
}

}  // namespace

std::int64_t product_panel_size(std::int64_t /*k*/) noexcept {
  return 2 * product_panels;
}

template <class T>
void product(const Context& context, const Product<T>& p) {
  if (p.m == 0 || p.n == 0) return;
  const Grid grid = choose_grid(context, p);
  const KernelTable<T>& kernels = context.kernels<T>();
  context.parallel_for<T>(grid.block_rows * grid.block_columns, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch<T> panel(*context.allocator(), std::size_t(product_panel_size(p.k)));
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t i = block / grid.block_columns * grid.rows;
      const std::int64_t j = block % grid.block_columns * grid.columns;
      kernels.product_block(p, i, std::min(i + grid.rows, p.m), j, std::min(j + grid.columns, p.n),
                            panel.data());
    }
  });
  context.flops().products += 2 * std::uint64_t(p.m) * std::uint64_t(p.n) * std::uint64_t(p.k);
}

std::int64_t panels_size(std::int64_t k, std::int64_t n) noexcept {
  return ceil_div(n, product_panel_columns) * product_panel_columns * k;
}

template <class T>
void pack_panels(const Context& context, std::int64_t k, std::int64_t n, const T* b, std::int64_t b_row,
                 std::int64_t b_col, T* panels) {
  context.kernels<T>().pack_panels(k, n, b, b_row, b_col, panels);
}

template void product<float>(const Context&, const Product<float>&);
template void product<double>(const Context&, const Product<double>&);
template void pack_panels<float>(const Context&, std::int64_t, std::int64_t, const float*, std::int64_t,
                                 std::int64_t, float*);
template void pack_panels<double>(const Context&, std::int64_t, std::int64_t, const double*, std::int64_t,
                                  std::int64_t, double*);

}  // namespace dirigo
