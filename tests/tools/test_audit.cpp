// dirigo audit: which claims run, what fails it, and what scripts read.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "audit/audit.hpp"
#include "run_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;
using nlohmann::json;

namespace {

Claim claim(const std::string& name, double error, double bound) {
  return {name, "by hand", error, bound, "core/src/special.cpp", "4 Sampling"};
}

AuditTask task(const std::string& name, const std::vector<Claim>& claims) {
  return {name, [claims](const Context&) { return claims; }};
}

std::vector<AuditTask> some_tasks() {
  return {task("ops/linear", {claim("ops/linear: value", 0, 1), claim("ops/linear: gradient", 0, 1)}),
          task("ops/linear_attention", {claim("ops/linear_attention: value", 0, 1)}),
          task("f32/exp", {claim("f32/exp: ulp, avx2", 1, 2), claim("f32/exp: ulp, sse2", 1, 2)})};
}

std::vector<std::string> names(const std::string& pattern) {
  const Context context({.threads = 1});
  std::vector<std::string> result;
  for (const Claim& c : Selection(some_tasks(), pattern).run(context, nullptr)) result.push_back(c.name);
  return result;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("audit: a claim holds up to its bound, and NaN never") {
  CHECK(claim("a", 1, 1).ok());
  CHECK_FALSE(claim("a", 1.01, 1).ok());
  CHECK_FALSE(claim("a", std::numeric_limits<double>::quiet_NaN(), 1).ok());
  CHECK_FALSE(claim("a", HUGE_VAL, 1).ok());
  CHECK(all_ok({claim("a", 0, 0), claim("b", 1, 2)}));
  CHECK_FALSE(all_ok({claim("a", 0, 0), claim("b", 3, 2)}));
}

TEST_CASE(
    "audit: --only selects tasks by name, part of a name or pattern, and claims by what follows the colon") {
  CHECK(names("").size() == 5);
  CHECK(names("ops/linear") == Names{"ops/linear: value", "ops/linear: gradient"});
  CHECK(names("linear").size() == 3);
  CHECK(names("ops/*").size() == 3);
  CHECK(names("ops/linea?") == names("ops/linear"));
  CHECK(names("ops/linear: gradient") == Names{"ops/linear: gradient"});
  CHECK(names("ops/*: value") == Names{"ops/linear: value", "ops/linear_attention: value"});
  CHECK(names("f32/*avx2") == Names{"f32/exp: ulp, avx2"});
  CHECK(names("*sse2") == Names{"f32/exp: ulp, sse2"});
  CHECK_THROWS_WITH_AS(names("linaer"), doctest::Contains("'ops/linear'"), ValueError);
  CHECK_THROWS_WITH_AS(names("ops/linear: valeu"), doctest::Contains("'ops/linear: value'"), ValueError);
}

TEST_CASE("audit: a task that throws is a claim that fails") {
  const Context context({.threads = 1});
  const AuditTask broken{
      "ops/broken", [](const Context&) -> std::vector<Claim> { throw std::runtime_error("no such row"); }};
  std::vector<std::string> heard;
  const auto claims =
      Selection({broken, some_tasks()[0]}, "").run(context, [&](const std::string& name, double) {
        heard.push_back(name);
      });
  REQUIRE(claims.size() == 3);
  CHECK_FALSE(claims[0].ok());
  CHECK(claims[0].how.find("no such row") != std::string::npos);
  CHECK(claims[1].ok());
  CHECK(heard == Names{"ops/broken", "ops/linear"});
}

TEST_CASE("audit: the table and the JSON say what failed") {
  const std::vector<Claim> claims{claim("ops/a: value", 1e-13, 1e-12),
                                  claim("ops/b: value", HUGE_VAL, 1e-12)};
  const std::string text = audit_text(claims);
  CHECK(text.find("FAILED") != std::string::npos);
  CHECK(text.find("1 of 2 claims hold") != std::string::npos);
  CHECK(text.find("core/src/special.cpp") != std::string::npos);
  const json document = json::parse(audit_json(claims, Isa::portable));
  CHECK(document["format_version"] == 1);
  CHECK(document["isa"] == std::string(isa_name(Isa::portable)));
  REQUIRE(document["claims"].size() == 2);
  CHECK(document["claims"][0]["ok"] == true);
  CHECK(document["claims"][1]["ok"] == false);
  CHECK(document["claims"][1]["worst_error"].is_null());
  for (const char* key : {"name", "how", "worst_error", "bound", "ok", "file", "section"})
    CHECK(document["claims"][0].contains(key));
}

TEST_CASE("audit: the command") {
  const RunDirectory directory;
  const auto result = directory.command("audit --only ops/softmax --json --threads 1");
  CHECK(result.code == 0);
  CHECK(result.err.empty());
  const json document = json::parse(result.out);
  REQUIRE(document["claims"].size() >= 6);
  for (const json& c : document["claims"]) {
    CHECK(c["ok"] == true);
    CHECK(c["name"].get<std::string>().rfind("ops/softmax: ", 0) == 0);
    CHECK(c["file"] == "autograd/src/ops/softmax.cpp");
  }
  const auto text = directory.command("audit --only f32/exp --isa " + std::string(isa_name(Isa::portable)));
  CHECK(text.code == 0);
  CHECK(text.out.find("3 of 3 claims hold") != std::string::npos);
  CHECK(directory.command("audit --help").out.find("Example: dirigo audit") != std::string::npos);
}

TEST_CASE("audit: unusable input is one line") {
  const RunDirectory directory;
  CHECK(directory.refusal_fault("audit --only ops/sofmax", "'ops/softmax'") == "");
  CHECK(directory.refusal_fault("audit --only softmx --json", "'ops/softmax'") == "");
  CHECK(directory.refusal_fault("audit --only 'ops/softmax: nothing'", "'ops/softmax: ") == "");
  CHECK(directory.refusal_fault("audit --isa avx1024", "'avx1024'") == "");
  CHECK(directory.refusal_fault("audit --threads -1", "threads") == "");
  write_file(directory / "damaged.json", "{\"points\": [");
  CHECK(directory.refusal_fault("audit --table damaged.json", "damaged.json") == "");
  CHECK(directory.refusal_fault("audit --table missing.json", "missing.json") == "");
  CHECK(directory.refusal_fault("audit --table damaged.json --only ops/", "got both") == "");
}

TEST_CASE("audit: names are unique, and begin with that of their task") {
  std::vector<std::string> seen;
  for (const AuditTask& t : audit_tasks(Isa::portable)) {
    CHECK(t.name.find('/') != std::string::npos);
    CHECK(t.name.find(": ") == std::string::npos);
    CHECK(std::find(seen.begin(), seen.end(), t.name) == seen.end());
    seen.push_back(t.name);
  }
  const Context context({.threads = 1});
  for (const char* pattern : {"ops/", "attention/window", "random/philox", "f32/exp"}) {
    std::vector<std::string> claims;
    for (const AuditTask& t : audit_tasks(Isa::portable)) {
      if (t.name.find(pattern) == std::string::npos) continue;
      for (const Claim& c : t.run(context)) {
        CHECK(c.name.rfind(t.name + ": ", 0) == 0);
        CHECK(std::find(claims.begin(), claims.end(), c.name) == claims.end());
        claims.push_back(c.name);
      }
    }
  }
}
