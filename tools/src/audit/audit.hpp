// The audit: collects the tasks of all areas, runs the chosen ones, and shows what they found.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audit/claim.hpp"

namespace dirigo::tools {

// The tasks of all areas. Kernels are audited for `isa` if it is given, else for every instruction set of
// this machine.
std::vector<AuditTask> audit_tasks(std::optional<Isa> isa);

// Which claims --only asks for: of the task of that very name, else of the tasks whose names match, else the
// claims whose names match ("TASK: PROPERTY"). A pattern with * or ? must match the whole name, another one a
// part of it. An empty pattern matches everything.
class Selection {
 public:
  // Throws ValueError, naming the nearest task, if the pattern can match none of them.
  Selection(std::vector<AuditTask> tasks, std::string pattern);

  // Runs the tasks one after another; `progress` (may be empty) hears which one, and what fraction is done. A
  // task that throws yields a claim that fails. Throws ValueError if no claim matches.
  std::vector<Claim> run(const Context& context,
                         const std::function<void(const std::string&, double)>& progress) const;

 private:
  std::vector<AuditTask> tasks_;
  std::string pattern_;
  bool by_claim_ = false;
};

bool all_ok(const std::vector<Claim>& claims);
std::string audit_text(const std::vector<Claim>& claims);  // the table, and a line that sums it up
// Errors that are no finite numbers are null, as JSON has none.
std::string audit_json(const std::vector<Claim>& claims, Isa isa);

}  // namespace dirigo::tools
