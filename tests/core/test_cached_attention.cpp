// Attention of one query over a paged cache, and the product of one row: bit by bit what the kernels for
// whole sequences compute.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/kernels.hpp"

using namespace dirigo;

namespace {

template <class T>
std::vector<T> normals(std::int64_t n, unsigned seed, double spread = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal(0, spread);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = T(normal(rng));
  return values;
}

// A sequence as rows and as pages. What a page holds beyond the sequence is NaN: nothing may depend on it.
template <class T>
struct Sequence {
  std::int64_t length, heads, d, width;
  std::vector<T> q, k, v, bias;  // bias: by head and distance
  std::vector<std::vector<T>> pages;
  std::vector<const T*> table;

  Sequence(std::int64_t n, std::int64_t h, std::int64_t head_dim, unsigned seed)
      : length(n),
        heads(h),
        d(head_dim),
        width(h * head_dim),
        q(normals<T>(n * width, seed, 2)),
        k(normals<T>(n * width, seed + 1, 2)),
        v(normals<T>(n * width, seed + 2)),
        bias(normals<T>(h * n, seed + 3, 3)) {
    for (std::int64_t begin = 0; begin < n; begin += cache_page) {
      std::vector<T> page(std::size_t(cache_page_size(width)), T(NAN));
      for (std::int64_t j = begin; j < std::min(n, begin + cache_page); ++j) {
        for (std::int64_t c = 0; c < width; ++c) {
          page[std::size_t((j - begin) * width + c)] = v[std::size_t(j * width + c)];
          page[std::size_t((width + c) * cache_page + j - begin)] = k[std::size_t(j * width + c)];
        }
      }
      pages.push_back(std::move(page));
    }
    for (const auto& page : pages) table.push_back(page.data());
  }

  CachedQuery<T> query(std::int64_t position, T* out, T* scratch) const {
    CachedQuery<T> query;
    query.width = width;
    query.head_dim = d;
    query.heads = heads;
    query.position = position;
    query.pages = table.data();
    query.q = q.data() + position * width;
    query.out = out;
    query.scratch = scratch;
    query.scale = T(1 / std::sqrt(double(d)));
    return query;
  }
};

template <class T>
bool same_row(const std::vector<T>& rows, std::int64_t row, const std::vector<T>& one) {
  return std::memcmp(rows.data() + row * std::int64_t(one.size()), one.data(), one.size() * sizeof(T)) == 0;
}

template <class T>
void check_softmax(const Context& context, const Sequence<T>& s, std::int64_t window, bool biased = false) {
  const auto& kernels = context.kernels<T>();
  std::vector<T> whole(std::size_t(s.length * s.width)), one(std::size_t(s.width), T(0));
  std::vector<T> large(std::size_t(softmax_attention_scratch(s.length, s.d)));
  std::vector<T> scratch(std::size_t(cached_attention_scratch(s.width, s.d, 1)));
  context.parallel_for<T>(1, 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t h = 0; h < s.heads; ++h) {
      AttentionHead<T> head;
      head.length = head.queries = s.length;
      head.head_dim = s.d;
      head.window = window;
      head.scale = T(1 / std::sqrt(double(s.d)));
      head.bias = biased ? s.bias.data() + h * window : nullptr;
      head.q = s.q.data() + h * s.d;
      head.k = s.k.data() + h * s.d;
      head.v = s.v.data() + h * s.d;
      head.out = whole.data() + h * s.d;
      head.q_stride = head.k_stride = head.v_stride = head.out_stride = s.width;
      head.scratch = large.data();
      kernels.softmax_attention(head);
    }
    for (std::int64_t p = 0; p < s.length; ++p) {
      CachedQuery<T> query = s.query(p, one.data(), scratch.data());
      query.window = window;
      query.bias = biased ? s.bias.data() : nullptr;
      const AttentionWork work = kernels.cached_softmax_attention(query);
      CHECK(work.useful == 4 * s.width * std::min(window, p + 1));
      CHECK(work.padding >= 0);
      if (!same_row(whole, p, one)) FAIL_CHECK("position " << p << ", window " << window << ", d " << s.d);
      // Some heads alone, and pages that are not seen.
      std::vector<const T*> seen = s.table;
      for (std::int64_t page = 0; page < (p - window + 1) / cache_page; ++page)
        seen[std::size_t(page)] = nullptr;
      query.pages = seen.data();
      query.first_head = s.heads / 2;
      query.heads = s.heads - query.first_head;
      const std::vector<T> before = one;
      std::fill(one.begin() + query.first_head * s.d, one.end(), T(7));
      kernels.cached_softmax_attention(query);
      CHECK(std::memcmp(one.data(), before.data(), one.size() * sizeof(T)) == 0);
    }
  });
}

template <class T>
void check_linear(const Context& context, const Sequence<T>& s, std::int64_t chunk) {
  const auto& kernels = context.kernels<T>();
  const std::int64_t padded = padded_head(s.d);
  std::vector<T> whole(std::size_t(s.length * s.width)), one(std::size_t(s.width), T(0));
  std::vector<T> large(std::size_t(linear_attention_scratch(s.length, s.d, chunk)));
  std::vector<T> scratch(std::size_t(cached_attention_scratch(s.width, s.d, chunk)));
  std::vector<T> sums(std::size_t(s.width * padded)), totals(std::size_t(s.heads * padded));
  context.parallel_for<T>(1, 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t h = 0; h < s.heads; ++h) {
      LinearHead<T> head;
      head.length = head.queries = s.length;
      head.head_dim = s.d;
      head.chunk = chunk;
      head.q = s.q.data() + h * s.d;
      head.k = s.k.data() + h * s.d;
      head.v = s.v.data() + h * s.d;
      head.out = whole.data() + h * s.d;
      head.q_stride = head.k_stride = head.v_stride = head.out_stride = s.width;
      head.scratch = large.data();
      kernels.linear_attention(head);
    }
    std::int64_t absorbed = 0;
    for (std::int64_t p = 0; p < s.length; ++p) {
      const std::int64_t state = p / chunk * chunk;
      if (state > absorbed) {
        AbsorbedKeys<T> keys{s.width,        s.d,         absorbed,      state,
                             s.table.data(), sums.data(), totals.data(), scratch.data()};
        CHECK(kernels.absorb_keys(keys).useful == 2 * s.width * (s.d + 1) * (state - absorbed));
        absorbed = state;
      }
      CachedQuery<T> query = s.query(p, one.data(), scratch.data());
      query.chunk = chunk;
      query.sums = sums.data();
      query.totals = totals.data();
      const AttentionWork work = kernels.cached_linear_attention(query);
      CHECK(work.useful == s.heads * ((state > 0 ? 2 * s.d * (s.d + 1) : 0) + 4 * s.d * (p - state + 1)));
      if (!same_row(whole, p, one)) FAIL_CHECK("position " << p << ", chunk " << chunk << ", d " << s.d);
    }
  });
}

struct Size {
  std::int64_t length, heads, d;
};
constexpr Size sizes[] = {{70, 1, 5},  {100, 2, 8}, {100, 3, 16}, {130, 4, 32},
                          {70, 5, 40}, {66, 18, 4}, {40, 1, 64}};

}  // namespace

TEST_CASE_TEMPLATE("cached softmax attention has the bits of whole sequences", T, float, double) {
  const Context context({.threads = 1});
  for (const Size& size : sizes) {
    const Sequence<T> sequence(size.length, size.heads, size.d, 3);
    for (const std::int64_t window : {std::int64_t{1}, std::int64_t{7}, std::int64_t{33}, size.length}) {
      for (const bool biased : {false, true}) check_softmax(context, sequence, window, biased);
    }
  }
  // Past blocks of 512 keys.
  const Sequence<T> longer(1100, 2, 8, 5);
  check_softmax(context, longer, 1100);
  for (const bool biased : {false, true}) check_softmax(context, longer, 600, biased);
}

TEST_CASE_TEMPLATE("cached linear attention has the bits of whole sequences", T, float, double) {
  const Context context({.threads = 1});
  for (const Size& size : sizes) {
    const Sequence<T> sequence(size.length, size.heads, size.d, 4);
    for (const std::int64_t chunk : {1, 5, 8, 32, 64, 200}) check_linear(context, sequence, chunk);
  }
}

TEST_CASE_TEMPLATE("the product of one row has the bits of the product of many", T, float, double) {
  const Context context({.threads = 1});
  for (const std::int64_t n : {1, 3, 8, 31, 32, 96, 100, 128, 129, 384, 400}) {
    for (const std::int64_t k : {1, 18, 128, 300, 700}) {
      const std::int64_t rows = 20, b_row = (n + 31) / 32 * 32;
      const auto x = normals<T>(rows * k, 1), b = normals<T>(k * b_row, 2), bias = normals<T>(b_row, 3);
      for (const bool biased : {false, true}) {
        std::vector<T> y(std::size_t(rows * n)), one(std::size_t(n + 1), T(7));
        product<T>(context, {.m = rows,
                             .n = n,
                             .k = k,
                             .a = x.data(),
                             .a_row = k,
                             .b = b.data(),
                             .b_row = b_row,
                             .c = y.data(),
                             .c_row = n,
                             .bias = biased ? bias.data() : nullptr});
        for (std::int64_t row = 0; row < rows; ++row) {
          context.kernels<T>().row_product(n, k, x.data() + row * k, b.data(), b_row,
                                           biased ? bias.data() : nullptr, one.data());
          CAPTURE(n);
          CAPTURE(k);
          CHECK(std::memcmp(one.data(), y.data() + row * n, std::size_t(n) * sizeof(T)) == 0);
          CHECK(one.back() == T(7));
        }
      }
    }
  }
}
