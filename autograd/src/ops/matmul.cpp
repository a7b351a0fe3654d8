// C = A B with A = op(a), B = op(b), op a transpose of the last two axes or nothing; one product for each
// index of the leading axes. From <dC, A B> = <dC B^T, A> = <A^T dC, B>:
//   dA = dC B^T,  dB = A^T dC,  and where a is transposed da = (dA)^T = B dC^T, db = (dB)^T = dC^T A.
// A plain matrix b is shared by all leading indices, so its gradient is their sum.
#include "dirigo/core/product.hpp"
#include "support.hpp"

namespace dirigo::ops {
namespace {

// A row-major matrix, or the transpose of one.
template <class T>
struct View {
  const T* data;
  std::int64_t row, col;
  View transposed() const { return {data, col, row}; }
};

struct Sizes {
  std::int64_t batches, m, k, n;
  bool transpose_a, transpose_b, shared_b;
};

template <class T>
View<T> view_of(const T* data, std::int64_t rows, std::int64_t cols, bool transpose) {
  return transpose ? View<T>{data, 1, rows} : View<T>{data, cols, 1};  // op(x) is rows x cols
}

template <class T>
void multiply_into(const Context& context, std::int64_t m, std::int64_t n, std::int64_t k, View<T> a,
                   View<T> b, T* c, bool accumulate = false) {
  product<T>(context, {.m = m,
                       .n = n,
                       .k = k,
                       .a = a.data,
                       .a_row = a.row,
                       .a_col = a.col,
                       .b = b.data,
                       .b_row = b.row,
                       .b_col = b.col,
                       .c = c,
                       .c_row = n,
                       .accumulate = accumulate});
}

template <class T>
View<T> a_at(const Sizes& s, const T* a, std::int64_t batch) {
  return view_of(a + batch * s.m * s.k, s.m, s.k, s.transpose_a);
}

template <class T>
View<T> b_at(const Sizes& s, const T* b, std::int64_t batch) {
  return view_of(b + (s.shared_b ? 0 : batch * s.k * s.n), s.k, s.n, s.transpose_b);
}

template <class T>
void forward(const Context& context, const Sizes& s, const T* a, const T* b, T* c) {
  for (std::int64_t batch = 0; batch < s.batches; ++batch) {
    multiply_into(context, s.m, s.n, s.k, a_at(s, a, batch), b_at(s, b, batch), c + batch * s.m * s.n);
  }
}

template <class T>
void vjp_a(const Context& context, const Sizes& s, const T* dc, const T* b, T* da) {
  for (std::int64_t batch = 0; batch < s.batches; ++batch) {
    const View<T> dc_view = view_of(dc + batch * s.m * s.n, s.m, s.n, false), b_view = b_at(s, b, batch);
    T* to = da + batch * s.m * s.k;
    if (s.transpose_a) {
      multiply_into(context, s.k, s.m, s.n, b_view, dc_view.transposed(), to);
    } else {
      multiply_into(context, s.m, s.k, s.n, dc_view, b_view.transposed(), to);
    }
  }
}

template <class T>
void vjp_b(const Context& context, const Sizes& s, const T* dc, const T* a, T* db) {
  for (std::int64_t batch = 0; batch < s.batches; ++batch) {
    const View<T> dc_view = view_of(dc + batch * s.m * s.n, s.m, s.n, false), a_view = a_at(s, a, batch);
    T* to = db + (s.shared_b ? 0 : batch * s.k * s.n);
    const bool accumulate = s.shared_b && batch > 0;
    if (s.transpose_b) {
      multiply_into(context, s.n, s.k, s.m, dc_view.transposed(), a_view, to, accumulate);
    } else {
      multiply_into(context, s.k, s.n, s.m, a_view.transposed(), dc_view, to, accumulate);
    }
  }
}

Sizes sizes_of(const Shape& a, const Shape& b, bool transpose_a, bool transpose_b) {
  if (a.rank() < 2) throw_shape("matmul", "a", "(..., m, k)", a);
  if (b.rank() < 2) throw_shape("matmul", "b", "(..., k, n)", b);
  Sizes s{1, a[-2], a[-1], b[-1], transpose_a, transpose_b, b.rank() == 2};
  std::int64_t b_rows = b[-2];
  if (transpose_a) std::swap(s.m, s.k);
  if (transpose_b) std::swap(b_rows, s.n);
  const auto leading = [](const Shape& shape) {
    return shape.extents().first(std::size_t(shape.rank() - 2));
  };
  const auto a_leading = leading(a), b_leading = leading(b);
  const bool fits =
      s.shared_b || std::equal(a_leading.begin(), a_leading.end(), b_leading.begin(), b_leading.end());
  if (!fits || b_rows != s.k) {
    throw_shape("matmul", "b",
                "a shape that multiplies " + a.to_string() + (transpose_a ? "^T" : "") +
                    (transpose_b ? " as b^T" : ""),
                b);
  }
  for (const std::int64_t extent : a_leading) s.batches *= extent;
  // Batches of rows against one matrix are one product.
  if (s.shared_b && !transpose_a) s.m *= std::exchange(s.batches, 1);
  return s;
}

Values reference(Tensors v, bool transpose_a, bool transpose_b) {
  const auto element = [](const Values& x, const Tensor& t, std::int64_t batch, std::int64_t i,
                          std::int64_t j) {
    return x[std::size_t((batch * t.shape()[-2] + i) * t.shape()[-1] + j)];
  };
  const Values a = v[0].to_vector(), b = v[1].to_vector();
  const std::int64_t m = v[0].shape()[transpose_a ? -1 : -2], k = v[0].shape()[transpose_a ? -2 : -1];
  const std::int64_t n = v[1].shape()[transpose_b ? -2 : -1];
  std::int64_t batches = 1;
  for (int axis = 0; axis + 2 < v[0].rank(); ++axis) batches *= v[0].shape()[axis];
  Values c;
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    const std::int64_t b_batch = v[1].rank() == 2 ? 0 : batch;
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t p = 0; p < k; ++p) {
          sum += (transpose_a ? element(a, v[0], batch, p, i) : element(a, v[0], batch, i, p)) *
                 (transpose_b ? element(b, v[1], b_batch, j, p) : element(b, v[1], b_batch, p, j));
        }
        c.push_back(sum);
      }
    }
  }
  return c;
}

}  // namespace

Variable matmul(const Variable& a, const Variable& b, bool transpose_a, bool transpose_b) {
  const Sizes s = sizes_of(a.shape(), b.shape(), transpose_a, transpose_b);
  const Tensor in_a = row_major(a), in_b = row_major(b);
  const Shape shape = a.shape().with(-2, a.shape()[transpose_a ? -1 : -2]).with(-1, s.n);
  Tensor c = Tensor::empty(a.context(), shape, a.dtype());
  visit_dtype(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    forward(a.context(), s, in_a.data<T>(), in_b.data<T>(), c.data<T>());
  });
  return a.tape().record("matmul", {a, b}, c, [s, in_a, in_b](Backward& pass) {
    visit_dtype(in_a.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const T* dc = pass.gradient().data<T>();
      if (pass.needs(0)) {
        Tensor da = Tensor::empty(pass.context(), in_a.shape(), in_a.dtype());
        vjp_a(pass.context(), s, dc, in_b.data<T>(), da.data<T>());
        pass.add(0, da);
      }
      if (pass.needs(1)) {
        Tensor db = s.batches == 0 ? Tensor::zeros(pass.context(), in_b.shape(), in_b.dtype())
                                   : Tensor::empty(pass.context(), in_b.shape(), in_b.dtype());
        vjp_b(pass.context(), s, dc, in_a.data<T>(), db.data<T>());
        pass.add(1, db);
      }
    });
  });
}

std::vector<OpCase> matmul_cases(const Context& context) {
  const auto make = [](const char* name, Tensor a, Tensor b, bool ta, bool tb) {
    return OpCase{.name = name,
                  .inputs = {std::move(a), std::move(b)},
                  .op = [ta, tb](Tape&, Variables v) { return matmul(v[0], v[1], ta, tb); },
                  .reference = [ta, tb](Tensors v) { return reference(v, ta, tb); }};
  };
  OpCase gram = make("a^T a", uniform(context, {4, 3}, 1), uniform(context, {0}, 2), true, false);
  gram.inputs.pop_back();
  gram.op = [](Tape&, Variables v) { return matmul(v[0], v[0], true); };
  gram.reference = [](Tensors v) { return reference(std::vector<Tensor>{v[0], v[0]}, true, false); };
  return {
      make("a b", uniform(context, {3, 4}, 3), uniform(context, {4, 5}, 4), false, false),
      make("a^T b", uniform(context, {4, 3}, 5), uniform(context, {4, 5}, 6), true, false),
      make("a b^T", uniform(context, {3, 4}, 7), uniform(context, {5, 4}, 8), false, true),
      make("a^T b^T", uniform(context, {4, 3}, 9), uniform(context, {5, 4}, 10), true, true),
      make("batches", uniform(context, {2, 2, 3, 2}, 11), uniform(context, {2, 2, 2, 3}, 12), false, false),
      make("batches, a b^T", uniform(context, {2, 3, 2}, 13), uniform(context, {2, 4, 2}, 14), false, true),
      make("batches, plain b", uniform(context, {3, 2, 4}, 15), uniform(context, {4, 2}, 16), false, false),
      make("batches of a^T, plain b^T", uniform(context, {3, 4, 2}, 17), uniform(context, {3, 4}, 18), true,
           true),
      make("strided views", uniform(context, {3, 4}, 19).transpose(0, 1),
           uniform(context, {3, 8}, 20).slice(1, 1, 4), false, false),
      make("zero rows", uniform(context, {0, 4}, 21), uniform(context, {4, 2}, 22), false, false),
      make("no batches", uniform(context, {0, 2, 3}, 23), uniform(context, {4, 2}, 24), true, true),
      gram,
  };
}

}  // namespace dirigo::ops
