// dirigo audit: proves the mathematics of this build on this machine.
#include <fmt/format.h>

#include "audit/audit.hpp"
#include "audit/math_areas.hpp"
#include "commands.hpp"
#include "dirigo/core/errors.hpp"
#include "progress.hpp"

namespace dirigo::tools {
namespace {

struct Arguments {
  std::string only;
  std::optional<std::string> isa, table;
  int threads = 0;
  bool json = false;
};

std::vector<Claim> claims_of(const Arguments& a, std::optional<Isa> isa, const Context& context) {
  if (a.table) return audit_table(*a.table);
  const Selection selection(audit_tasks(isa), a.only);
  ProgressNote note(stderr, "auditing");
  return selection.run(context, [&](const std::string&, double fraction) { note.update(fraction); });
}

int audit_command(const Arguments& a) {
  if (a.table && !a.only.empty()) throw ValueError("[audit] claims: expected --table or --only, got both");
  std::optional<Isa> isa;
  if (a.isa) isa = parse_isa(*a.isa);
  Context::Options options;
  options.threads = a.threads;
  if (isa) options.isa = *isa;
  const Context context(options);
  const std::vector<Claim> claims = claims_of(a, isa, context);
  fmt::print("{}", a.json ? audit_json(claims, context.isa()) : audit_text(claims));
  return all_ok(claims) ? 0 : 1;
}

}  // namespace

void add_audit(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  CLI::App* command = app.add_subcommand("audit", "prove the mathematics of this build on this machine");
  command->add_option("--only", a.only,
                      "claims of one kind: a name, a part of one, or a pattern with * and ?, such as "
                      "ops/softmax, f32/, '*, avx2' or 'ops/*: gradient'");
  command->add_option("--isa", a.isa,
                      "one instruction set (default: the kernels of all, the rest with the fastest)");
  command->add_option(
      "--table", a.table,
      "a table of reference values (JSON, as tests/golden/special.json) instead of the claims");
  command->add_option("--threads", a.threads, "0: as many as help")->capture_default_str();
  command->add_flag("--json", a.json, "JSON alone on stdout");
  command->footer(
      "A table of claims: what is claimed, the worst error found and its bound, the file of the code, the "
      "page or\n"
      "section of docs/mathematics that derives it, and how it was checked. Exit code 1 if a claim fails.\n\n"
      "Example: dirigo audit --only ops/layer_norm");
  command->callback([&run, arguments] { run = [arguments] { return audit_command(*arguments); }; });
}

}  // namespace dirigo::tools
