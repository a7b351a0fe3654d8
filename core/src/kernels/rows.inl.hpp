// Kernels over the rows of a matrix: softmax, layer norm, cross-entropy, column sums, mixtures.
#pragma once

#include "dirigo/core/kernels.hpp"
#include "kernels/math.inl.hpp"

namespace dirigo::kernels {

template <class Arch, class T>
DIRIGO_INLINE T row_max(std::int64_t n, const T* x) {
  Batch<Arch, T> most(-infinity<T>);
  for_each_vector<Arch, T>(
      n, [&](std::int64_t i, auto part) { most = xsimd::max(most, part.load(x + i, -infinity<T>)); });
  T lane[lanes<Arch, T>];
  most.store_unaligned(lane);
  for (int l = 1; l < lanes<Arch, T>; ++l) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
  return lane[0];
}

// y = exp(x - shift); returns the sum of y. A fill of -inf adds nothing to it.
template <class Arch, class T>
DIRIGO_INLINE T row_exp_sum(std::int64_t n, T shift, const T* x, T* y) {
  const Batch<Arch, T> shifts(shift);
  Batch<Arch, T> total(T(0));
  for_each_vector<Arch, T>(n, [&](std::int64_t i, auto part) {
    const auto e = exp_vector<Arch, T>(part.load(x + i, -infinity<T>) - shifts);
    if (y != nullptr) part.store(y + i, e);
    total += e;
  });
  return horizontal_sum<Arch, T>(total);
}

template <class Arch, class T>
DIRIGO_INLINE void row_scale(std::int64_t n, T factor, T* y) {
  const Batch<Arch, T> f(factor);
  for_each_vector<Arch, T>(n, [&](std::int64_t i, auto part) { part.store(y + i, part.load(y + i) * f); });
}

// A row with a NaN, +inf, or nothing but -inf gives NaN.
template <class Arch, class T>
void softmax(std::int64_t rows, std::int64_t cols, const T* x, T* y) noexcept {
  for (std::int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
    const T total = row_exp_sum<Arch, T>(cols, row_max<Arch, T>(cols, x), x, y);
    row_scale<Arch, T>(cols, T(1) / total, y);
  }
}

// dx = y (dy - sum_j y_j dy_j)
template <class Arch, class T>
void softmax_vjp(std::int64_t rows, std::int64_t cols, const T* y, const T* dy, T* dx) noexcept {
  // exercise softmax_vjp: for (std::int64_t i = 0; i < rows * cols; ++i) dx[i] = y[i] * dy[i];
  using V = Batch<Arch, T>;
  for (std::int64_t r = 0; r < rows; ++r, y += cols, dy += cols, dx += cols) {
    V products(T(0));
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      products = multiply_add(part.load(y + i), part.load(dy + i), products);
    });
    const V mean(horizontal_sum<Arch, T>(products));
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      part.store(dx + i, part.load(y + i) * (part.load(dy + i) - mean));
    });
  }
  // end of exercise
}

template <class Arch, class T>
void layer_norm(std::int64_t rows, std::int64_t cols, T eps, const T* x, const T* gamma, const T* beta, T* y,
                T* mean, T* rstd) noexcept {
  using V = Batch<Arch, T>;
  for (std::int64_t r = 0; r < rows; ++r, x += cols, y += cols) {
    V total(T(0));
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) { total += part.load(x + i); });
    mean[r] = horizontal_sum<Arch, T>(total) / T(cols);
    const V centre(mean[r]);
    V squares(T(0));
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      const V u = part.load(x + i, mean[r]) - centre;
      squares = multiply_add(u, u, squares);
    });
    rstd[r] = T(1) / T(__builtin_sqrt(horizontal_sum<Arch, T>(squares) / T(cols) + eps));
    const V factor(rstd[r]);
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      const V normal = (part.load(x + i) - centre) * factor;
      part.store(y + i, multiply_add(normal, part.load(gamma + i), part.load(beta + i)));
    });
  }
}

// Derivation: docs/mathematics/layer-norm.md
// With g = dy gamma and xhat = (x - mean) rstd: dx = rstd (g - mean(g) - xhat mean(g xhat)),
// dgamma += sum_rows dy xhat, dbeta += sum_rows dy.
template <class Arch, class T>
void layer_norm_vjp(std::int64_t rows, std::int64_t cols, const T* x, const T* gamma, const T* mean,
                    const T* rstd, const T* dy, T* dx, T* dgamma, T* dbeta) noexcept {
  using V = Batch<Arch, T>;
  for (std::int64_t r = 0; r < rows; ++r, x += cols, dy += cols) {
    const V centre(mean[r]), factor(rstd[r]);
    V g_sum(T(0)), gx_sum(T(0));
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      const V normal = (part.load(x + i) - centre) * factor;
      const V d = part.load(dy + i);
      const V g = d * part.load(gamma + i);
      g_sum += g;
      gx_sum = multiply_add(g, normal, gx_sum);
      if (dgamma != nullptr) {
        part.store(dgamma + i, multiply_add(d, normal, part.load(dgamma + i)));
        part.store(dbeta + i, part.load(dbeta + i) + d);
      }
    });
    if (dx == nullptr) continue;
    const V g_mean(horizontal_sum<Arch, T>(g_sum) / T(cols));
    const V gx_mean(horizontal_sum<Arch, T>(gx_sum) / T(cols));
    T* const out = dx + r * cols;
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      const V normal = (part.load(x + i) - centre) * factor;
      const V g = part.load(dy + i) * part.load(gamma + i);
      part.store(out + i, factor * (g - g_mean - normal * gx_mean));
    });
  }
}

// Derivation: docs/mathematics/cross-entropy.md
template <class Arch, class T>
void cross_entropy(std::int64_t rows, std::int64_t cols, const T* logits, const std::int32_t* targets,
                   T* losses, T* dlogits) noexcept {
  for (std::int64_t r = 0; r < rows; ++r, logits += cols) {
    if (targets[r] < 0) {  // ignored
      losses[r] = T(0);
      if (dlogits != nullptr) {
        for (std::int64_t j = 0; j < cols; ++j) dlogits[j] = T(0);
        dlogits += cols;
      }
      continue;
    }
    const T most = row_max<Arch, T>(cols, logits);
    const T chosen = logits[targets[r]];  // before dlogits, which may alias, overwrites it
    const T total = row_exp_sum<Arch, T>(cols, most, logits, dlogits);
    losses[r] = log_scalar<Arch, T>(total) + (most - chosen);
    if (dlogits != nullptr) {
      row_scale<Arch, T>(cols, T(1) / total, dlogits);
      dlogits[targets[r]] -= T(1);
      dlogits += cols;
    }
  }
}

template <class Arch, class T>
void add_column_sums(std::int64_t rows, std::int64_t cols, const T* x, std::int64_t stride, T* y) noexcept {
  using V = Batch<Arch, T>;
  // Four vectors of columns at a time, to read whole cache lines and to overlap the additions.
  constexpr int width = lanes<Arch, T>, vectors = 4;
  std::int64_t j = 0;
  for (; j + vectors * width <= cols; j += vectors * width) {
    V total[vectors] = {V(T(0)), V(T(0)), V(T(0)), V(T(0))};
    for (std::int64_t r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors; ++v) total[v] += load<Arch, T>(x + r * stride + j + v * width);
    }
    for (int v = 0; v < vectors; ++v) {
      (load<Arch, T>(y + j + v * width) + total[v]).store_unaligned(y + j + v * width);
    }
  }
  for_each_vector<Arch, T>(cols - j, [&](std::int64_t i, auto part) {
    V total(T(0));
    for (std::int64_t r = 0; r < rows; ++r) total += part.load(x + r * stride + j + i);
    part.store(y + j + i, part.load(y + j + i) + total);
  });
}

template <class Arch, class T>
void mix(std::int64_t rows, std::int64_t cols, std::int64_t experts, const T* weights, const T* const* x,
         T* y) noexcept {
  using V = Batch<Arch, T>;
  for (std::int64_t r = 0; r < rows; ++r, weights += experts) {
    for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
      V total(T(0));
      for (std::int64_t k = 0; k < experts; ++k) {
        if (x[k] != nullptr) total = multiply_add(V(weights[k]), part.load(x[k] + r * cols + i), total);
      }
      part.store(y + r * cols + i, total);
    });
  }
}

template <class Arch, class T>
void mix_vjp(std::int64_t rows, std::int64_t cols, std::int64_t experts, const T* weights, const T* const* x,
             const T* dy, T* const* dx, T* dweights) noexcept {
  using V = Batch<Arch, T>;
  for (std::int64_t r = 0; r < rows; ++r, dy += cols) {
    for (std::int64_t k = 0; k < experts; ++k) {
      if (dweights != nullptr) {
        V products(T(0));
        if (x[k] != nullptr) {
          for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
            products = multiply_add(part.load(dy + i), part.load(x[k] + r * cols + i), products);
          });
        }
        dweights[r * experts + k] = horizontal_sum<Arch, T>(products);
      }
      if (dx != nullptr && dx[k] != nullptr) {
        const V weight(weights[r * experts + k]);
        for_each_vector<Arch, T>(cols, [&](std::int64_t i, auto part) {
          part.store(dx[k] + r * cols + i, weight * part.load(dy + i));
        });
      }
    }
  }
}

}  // namespace dirigo::kernels
