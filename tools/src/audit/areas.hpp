// The areas of the audit, one file each. Adding an area: declare it here and register it in audit_tasks()
// (audit.cpp).
#pragma once

#include <span>
#include <vector>

#include "audit/claim.hpp"

namespace dirigo::tools {

std::vector<AuditTask> ops_audit();
// The float kernels of these instruction sets, each of which this machine must have.
std::vector<AuditTask> f32_audit(std::span<const Isa> isas);
// Their special functions in double, as the Dirichlet operations use them.
std::vector<AuditTask> gamma_kernels_audit(std::span<const Isa> isas);
std::vector<AuditTask> attention_audit();
std::vector<AuditTask> model_audit();
std::vector<AuditTask> random_audit();

}  // namespace dirigo::tools
