// What `dirigo audit` reports: one claim, how it was checked, and how far from true it was found.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dirigo/core/context.hpp"

namespace dirigo::tools {

struct Claim {       // one row of `dirigo audit`
  std::string name;  // what is claimed, e.g. "ops/softplus: gradient"; grouped by area before the slash
  std::string how;   // how it was checked, one clause
  double worst_error = 0, bound = 0;  // ok means worst_error <= bound (NaN is never ok)
  std::string file;                   // repository path of the code, e.g. "core/src/special.cpp"
  std::string section;  // "docs/mathematics/<page>.md" page stem or section number, e.g. "4 Sampling"
  bool ok() const { return worst_error <= bound; }
};

struct AuditTask {   // a group of claims computed together; selected by --only on the names it declares or
                     // yields
  std::string name;  // e.g. "special/lgamma"; its claims are named "special/lgamma: PROPERTY"
  std::function<std::vector<Claim>(const Context&)> run;
};

}  // namespace dirigo::tools
