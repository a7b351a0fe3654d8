// The areas of the audit that check mathematics in double precision: special functions, sampling, closed
// forms, and any table of reference values.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "audit/claim.hpp"
#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/gamma_sampling.hpp"
#include "dirigo/core/special.hpp"

namespace dirigo::tools {

// The functions under audit: the library's, or wrong ones, with which the tests show that the audit notices.
struct AuditedMath {
  using Values = dirichlet::Values;
  double (*lgamma)(double) = special::lgamma;
  double (*digamma)(double) = special::digamma;
  double (*trigamma)(double) = special::trigamma;
  double (*draw_derivative)(double a, double y) = special::log_gamma_draw_derivative;
  double (*draw)(PhiloxStream&, double a) = log_gamma_draw;
  double (*log_beta)(Values) = dirichlet::log_beta;
  double (*kl)(Values, Values) = dirichlet::kl;
  void (*kl_gradient)(Values, Values, std::span<double>) = dirichlet::kl_gradient;
  double (*entropy)(Values) = dirichlet::entropy;
  void (*entropy_gradient)(Values, std::span<double>) = dirichlet::entropy_gradient;
  double (*expected_categorical_entropy)(Values) = dirichlet::expected_categorical_entropy;
  double (*mutual_information)(Values) = dirichlet::mutual_information;
  void (*sample)(Values, PhiloxStream&, std::span<double>, std::span<double>) = dirichlet::sample;
  void (*sample_vjp)(Values, Values, Values, Values, std::span<double>) = dirichlet::sample_vjp;
  double (*log_prob)(Values, Values) = dirichlet::log_prob;
};

std::vector<AuditTask> special_audit(const AuditedMath& math = {});
std::vector<AuditTask> sampling_audit(const AuditedMath& math = {});
std::vector<AuditTask> closed_form_audit(const AuditedMath& math = {});

// One claim per function that the table holds, in the format of tests/golden/special.json. Throws IoError or
// ValueError for a file that is missing, damaged or something else.
std::vector<Claim> audit_table(const std::string& file);

}  // namespace dirigo::tools
