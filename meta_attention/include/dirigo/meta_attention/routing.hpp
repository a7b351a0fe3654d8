// Routing: from controller outputs to expert weights (docs/mathematics.md, section 2).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "dirigo/autograd/ops.hpp"
#include "dirigo/meta_attention/config.hpp"

namespace dirigo::meta {

// How evaluation turns the routing distribution m_t into computation.
enum class RoutingMode { soft, hard, gated };
RoutingMode parse_routing_mode(std::string_view name);  // throws ValueError naming the nearest
std::string_view name_of(RoutingMode mode) noexcept;

// When a gated token is certain enough to be routed hard.
Gate parse_gate(std::string_view name);
std::string_view name_of(Gate gate) noexcept;
double default_eta(Gate gate) noexcept;  // mi: 0.05; max_mean: 0.9; entropy: -5

// The router's answer for N tokens.
struct RoutingDistribution {
  Variable mean;           // m (N, K)
  Variable concentration;  // bhat (N, K); empty for routers without a Dirichlet
};

// The distribution from controller outputs h (N, K), by router kind and posterior.
RoutingDistribution routing_distribution(const RouterConfig& router, std::span<const double> prior,
                                         const Variable& h);

// argmax_k m_tk; ties go to the lowest cost, then the lowest index.
std::vector<std::int32_t> argmax_rows(const Tensor& weights, std::span<const double> costs);

}  // namespace dirigo::meta
