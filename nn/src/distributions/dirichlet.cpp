#include "dirigo/nn/distributions/dirichlet.hpp"

#include <cmath>
#include <vector>

#include "concentration.hpp"
#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::nn {
namespace {

constexpr std::int64_t grain = 64;  // rows; each costs some special functions per route

// The log density of each row, and its vjp, in double.
struct LogProb {
  Tensor concentration, alpha;  // (N, K), row-major

  std::int64_t rows() const { return concentration.shape()[0]; }
  std::int64_t routes() const { return concentration.shape()[1]; }

  template <class T>
  void load(std::int64_t row, std::vector<double>& b, std::vector<double>& log_alpha) const {
    const T* b_row = concentration.data<T>() + row * routes();
    const T* alpha_row = alpha.data<T>() + row * routes();
    for (std::size_t k = 0; k < b.size(); ++k) {
      b[k] = double(b_row[k]);
      log_alpha[k] = std::log(double(alpha_row[k]));
    }
  }

  template <class T>
  void forward(std::int64_t begin, std::int64_t end, T* out) const {
    std::vector<double> b(static_cast<std::size_t>(routes())), log_alpha(b.size());
    for (std::int64_t row = begin; row < end; ++row) {
      load<T>(row, b, log_alpha);
      out[row] = T(dirichlet::log_prob(b, log_alpha));
    }
  }

  // db_i = dvalue (log alpha_i - psi(b_i) + psi(s)), s = sum b
  template <class T>
  void backward(std::int64_t begin, std::int64_t end, const T* dvalue, T* db) const {
    std::vector<double> b(static_cast<std::size_t>(routes())), log_alpha(b.size());
    for (std::int64_t row = begin; row < end; ++row) {
      load<T>(row, b, log_alpha);
      double s = 0;
      for (const double b_i : b) s += b_i;
      // alpha is a rounded point of the simplex: normalised, as the forward pass does
      const double common = special::digamma(s) - dirichlet::log_sum_exp(log_alpha);
      for (std::size_t k = 0; k < b.size(); ++k) {
        db[row * routes() + std::int64_t(k)] =
            T(double(dvalue[row]) * (log_alpha[k] - special::digamma(b[k]) + common));
      }
    }
  }
};

}  // namespace

Dirichlet::Dirichlet(Variable concentration) : concentration_(std::move(concentration)) {
  check_concentration("dirichlet", concentration_);
  if (concentration_.shape().rank() != 2 || concentration_.shape()[1] < 1) {
    throw ShapeError(fmt::format("[dirichlet] concentration: expected (N, K >= 1), got {}",
                                 concentration_.shape().to_string()));
  }
}

Variable Dirichlet::mean() const {
  return ops::normalize(concentration_);
}

Variable Dirichlet::rsample(const RandomKey& key, double floor) const {
  return ops::dirichlet_rsample(concentration_, key, floor);
}

Variable Dirichlet::kl(std::span<const double> prior) const {
  return ops::dirichlet_kl(concentration_, prior);
}

Variable Dirichlet::entropy() const {
  return ops::dirichlet_entropy(concentration_);
}

Variable Dirichlet::log_prob(const Tensor& alpha) const {
  check_sample("dirichlet", alpha, concentration_);
  const Context& context = concentration_.context();
  const LogProb log_prob{concentration_.value().contiguous(context), alpha.contiguous(context)};
  Tensor value = Tensor::empty(context, {log_prob.rows()}, alpha.dtype());
  visit_dtype(alpha.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = value.data<T>();
    context.parallel_for<T>(log_prob.rows(), grain,
                            [&](std::int64_t begin, std::int64_t end) { log_prob.forward(begin, end, out); });
  });
  return concentration_.tape().record(
      "dirichlet_log_prob", {concentration_}, std::move(value), [log_prob](Backward& backward) {
        const Shape& shape = log_prob.concentration.shape();
        Tensor db = Tensor::empty(backward.context(), shape, log_prob.concentration.dtype());
        visit_dtype(db.dtype(), [&](auto zero) {
          using T = decltype(zero);
          T* out = db.data<T>();
          const T* dvalue = backward.gradient().data<T>();
          backward.context().parallel_for<T>(
              log_prob.rows(), grain,
              [&](std::int64_t begin, std::int64_t end) { log_prob.backward(begin, end, dvalue, out); });
        });
        backward.add(0, std::move(db));
      });
}

}  // namespace dirigo::nn
