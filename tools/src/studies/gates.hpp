// Gates on one trained run: quality and cost over their thresholds, and whether their certainty knows when
// the router's choice is wrong. All definitions: docs/study.md, section eta.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "dirigo/meta_attention/evaluation.hpp"

namespace dirigo::tools {

inline constexpr double oracle_epsilon = 0.1;  // nats that a right choice may cost more than the best one

// Choices with a score, larger for more certain ones. All the functions below average over ties.
struct Judged {
  std::vector<double> certainty;
  std::vector<bool> wrong;
};

// Probability that a wrong choice is less certain than a right one; none without both.
std::optional<double> auroc(const Judged& judged);

struct RiskCoverage {
  std::vector<double> coverage, risk;  // at 20 equal steps up to 1
  double area = 0;                     // mean risk over all coverages: 1/n, 2/n, ..., 1
};
// Precondition: at least one choice.
RiskCoverage risk_coverage(const Judged& judged);

struct Reliability {
  std::vector<double> predicted, observed;  // mean over each bin that is not empty
  std::vector<std::int64_t> tokens;
  double ece = 0, brier = 0;
};
// Of predicted probabilities of being right, in 15 bins of equal width.
Reliability reliability(std::span<const double> probability, const std::vector<bool>& wrong);

// Probabilities for the choices of `judged`: the share of right ones among choices of similar certainty in
// `fitted`, cut into 15 bins of equal count.
std::vector<double> calibrated(const Judged& fitted, const Judged& judged);

// As JSON: {format_version, epsilon, sweep, calibration, gates, risk_coverage, reliability,
// raw_reliability}. The model must have a Dirichlet, and every byte of the text must be scored. Throws
// meta::Interrupted where `progress` returned false.
std::string measure_gates(const Context& context, meta::LanguageModel& model,
                          const meta::EvaluationText& text, const std::function<bool(double)>& progress);

}  // namespace dirigo::tools
