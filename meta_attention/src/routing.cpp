// Derivation: docs/mathematics/elbo.md
#include "dirigo/meta_attention/routing.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"

namespace dirigo::meta {

namespace {

template <class Enum>
Enum parse_name(std::string_view what, std::string_view word, const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == word) return Enum(i);
  }
  throw ValueError(fmt::format("[routing] {}: expected one of {}, got '{}'{}", what, fmt::join(names, ", "),
                               word, did_you_mean(word, names)));
}

const std::vector<std::string>& mode_names() {
  static const std::vector<std::string> names = {"soft", "hard", "gated"};
  return names;
}

const std::vector<std::string>& gate_names() {
  static const std::vector<std::string> names = {"entropy", "mi", "max_mean"};
  return names;
}

// beta (K values) as a constant row that broadcasts over tokens.
Variable constant_row(const Variable& like, std::span<const double> values) {
  Tensor row = Tensor::empty(like.context(), Shape{std::int64_t(values.size())}, like.dtype());
  visit_dtype(like.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = row.data<T>();
    for (const double value : values) *out++ = T(value);
  });
  return like.tape().constant(row);
}

}  // namespace

RoutingMode parse_routing_mode(std::string_view name) {
  return parse_name<RoutingMode>("mode", name, mode_names());
}
std::string_view name_of(RoutingMode mode) noexcept {
  constexpr std::string_view names[] = {"soft", "hard", "gated"};
  return names[std::size_t(mode)];
}
Gate parse_gate(std::string_view name) {
  return parse_name<Gate>("gate", name, gate_names());
}
std::string_view name_of(Gate gate) noexcept {
  constexpr std::string_view names[] = {"entropy", "mi", "max_mean"};
  return names[std::size_t(gate)];
}
double default_eta(Gate gate) noexcept {
  constexpr double etas[] = {-5, 0.05, 0.9};
  return etas[std::size_t(gate)];
}

RoutingDistribution routing_distribution(const RouterConfig& router, std::span<const double> prior,
                                         const Variable& h) {
  if (router.kind != RouterKind::bayes) return {ops::softmax(h), {}};
  // additive: bhat = beta + softplus(h);  free: bhat = eps + softplus(h)
  const std::vector<double> eps(prior.size(), router.eps);
  const auto base = router.posterior == Posterior::additive ? prior : std::span<const double>(eps);
  const Variable concentration = ops::add(ops::softplus(h), constant_row(h, base));
  return {ops::normalize(concentration), concentration};
}

std::vector<std::int32_t> argmax_rows(const Tensor& weights, std::span<const double> costs) {
  const std::int64_t rows = weights.shape()[0], count = weights.shape()[1];
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(rows));
  visit_dtype(weights.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* w = weights.span<T>().data();
    for (std::int64_t t = 0; t < rows; ++t, w += count) {
      std::int64_t best = 0;
      for (std::int64_t k = 1; k < count; ++k) {
        const bool cheaper = w[k] == w[best] && costs[std::size_t(k)] < costs[std::size_t(best)];
        if (w[k] > w[best] || cheaper) best = k;
      }
      chosen[std::size_t(t)] = std::int32_t(best);
    }
  });
  return chosen;
}

}  // namespace dirigo::meta
