#include "audit/audit.hpp"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "audit/areas.hpp"
#include "audit/math_areas.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/suggest.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::ordered_json;

bool matches(const std::string& pattern, const std::string& name) {
  if (pattern.find_first_of("*?") == std::string::npos) return name.find(pattern) != std::string::npos;
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

std::vector<AuditTask> keep_if(const std::vector<AuditTask>& tasks,
                               const std::function<bool(const std::string&)>& wanted) {
  std::vector<AuditTask> kept;
  std::copy_if(tasks.begin(), tasks.end(), std::back_inserter(kept),
               [&](const AuditTask& task) { return wanted(task.name); });
  return kept;
}

// The tasks of that very name, else those whose names match.
std::vector<AuditTask> matching(const std::vector<AuditTask>& tasks, const std::string& pattern) {
  const auto exact = keep_if(tasks, [&](const std::string& name) { return name == pattern; });
  return exact.empty() ? keep_if(tasks, [&](const std::string& name) { return matches(pattern, name); })
                       : exact;
}

// The tasks some claim of which may match: those that match the part before the colon, or that begin as a
// pattern does before its first wildcard.
std::vector<AuditTask> possible(const std::vector<AuditTask>& tasks, const std::string& pattern) {
  const std::size_t colon = pattern.find(": "), wildcard = pattern.find_first_of("*?");
  if (colon != std::string::npos) return matching(tasks, pattern.substr(0, colon));
  if (wildcard == std::string::npos) return {};
  return keep_if(
      tasks, [&](const std::string& name) { return name.compare(0, wildcard, pattern, 0, wildcard) == 0; });
}

// The task that was probably meant: the pattern may lack the area, and what follows the colon does not count.
std::string nearest_task(const std::vector<AuditTask>& tasks, const std::string& pattern) {
  const std::string word = pattern.substr(0, pattern.find(": "));
  std::string best;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const AuditTask& task : tasks) {
    const std::string without_area = task.name.substr(task.name.find('/') + 1);
    const std::size_t distance = std::min(edit_distance(word, task.name), edit_distance(word, without_area));
    if (distance < least) best = task.name;
    least = std::min(least, distance);
  }
  return best;
}

Claim failed(const AuditTask& task, const std::string& what) {
  return {task.name + ": runs", "it threw: " + what, std::numeric_limits<double>::infinity(), 0, "", ""};
}

std::vector<Claim> run_task(const AuditTask& task, const Context& context) {
  try {
    return task.run(context);
  } catch (const std::exception& error) {
    return {failed(task, error.what())};
  }
}

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

using Row = std::array<std::string, 7>;

Row cells(const Claim& claim) {
  return {claim.name,
          fmt::format("{:.2g}", claim.worst_error),
          fmt::format("{:.2g}", claim.bound),
          claim.ok() ? "ok" : "FAILED",
          claim.file,
          claim.section,
          claim.how};
}

// All columns to the left, and the last, the longest, as wide as each row needs.
std::string aligned(const std::vector<Row>& rows) {
  std::array<std::size_t, std::tuple_size_v<Row>> widths{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const Row& row : rows) {
    for (std::size_t c = 0; c + 1 < row.size(); ++c) text += fmt::format("{:<{}}  ", row[c], widths[c]);
    text += row.back() + '\n';
  }
  return text;
}

}  // namespace

std::vector<AuditTask> audit_tasks(std::optional<Isa> isa) {
  const std::vector<Isa> isas = isa ? std::vector<Isa>{*isa} : available_isas();
  std::vector<AuditTask> tasks;
  for (std::vector<AuditTask> area :
       {ops_audit(), f32_audit(isas), special_audit(), gamma_kernels_audit(isas), sampling_audit(),
        closed_form_audit(), attention_audit(), model_audit(), random_audit()}) {
    std::move(area.begin(), area.end(), std::back_inserter(tasks));
  }
  return tasks;
}

Selection::Selection(std::vector<AuditTask> tasks, std::string pattern) : pattern_(std::move(pattern)) {
  tasks_ = matching(tasks, pattern_);
  if (!tasks_.empty()) return;
  by_claim_ = true;
  tasks_ = possible(tasks, pattern_);
  if (!tasks_.empty()) return;
  throw ValueError(
      fmt::format("[audit] --only: expected a part of a claim's name (did you mean '{}'?), got '{}'",
                  nearest_task(tasks, pattern_), pattern_));
}

std::vector<Claim> Selection::run(const Context& context,
                                  const std::function<void(const std::string&, double)>& progress) const {
  std::vector<Claim> claims;
  std::vector<std::string> seen;
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    if (progress) progress(tasks_[i].name, double(i) / double(tasks_.size()));
    for (Claim& claim : run_task(tasks_[i], context)) {
      seen.push_back(claim.name);
      if (!by_claim_ || matches(pattern_, claim.name)) claims.push_back(std::move(claim));
    }
  }
  if (claims.empty()) {
    throw ValueError(
        fmt::format("[audit] --only: expected a part of a claim's name (did you mean '{}'?), got '{}'",
                    nearest(pattern_, seen), pattern_));
  }
  return claims;
}

bool all_ok(const std::vector<Claim>& claims) {
  return std::all_of(claims.begin(), claims.end(), [](const Claim& claim) { return claim.ok(); });
}

std::string audit_text(const std::vector<Claim>& claims) {
  std::vector<Row> rows{{"claim", "worst error", "bound", "", "file", "derivation", "checked by"}};
  std::transform(claims.begin(), claims.end(), std::back_inserter(rows), cells);
  const auto held =
      std::count_if(claims.begin(), claims.end(), [](const Claim& claim) { return claim.ok(); });
  return aligned(rows) + fmt::format("{} of {} claims hold{}\n", held, claims.size(),
                                     all_ok(claims) ? "" : "; see FAILED above");
}

std::string audit_json(const std::vector<Claim>& claims, Isa isa) {
  Json rows = Json::array();
  for (const Claim& claim : claims) {
    rows.push_back({{"name", claim.name},
                    {"how", claim.how},
                    {"worst_error", number(claim.worst_error)},
                    {"bound", number(claim.bound)},
                    {"ok", claim.ok()},
                    {"file", claim.file},
                    {"section", claim.section}});
  }
  const Json document{{"format_version", 1}, {"isa", std::string(isa_name(isa))}, {"claims", rows}};
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace dirigo::tools
