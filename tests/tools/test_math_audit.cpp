// The mathematical areas of the audit: they pass on the library, fail on wrong mathematics, and tables of
// reference values are checked, or refused with one clear line.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "audit/areas.hpp"
#include "audit/math_areas.hpp"
#include "dirigo/core/errors.hpp"
#include "tools_fixture.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;

namespace {

using Tasks = std::vector<AuditTask>;
using Values = AuditedMath::Values;
using Out = std::span<double>;

const std::string golden_file = DIRIGO_TEST_DIR "/golden/special.json";

// The claims of the tasks whose names start with `prefix`.
std::vector<Claim> run(const Tasks& tasks, const std::string& prefix = "") {
  const Context context({.threads = 1});
  std::vector<Claim> claims;
  for (const AuditTask& task : tasks) {
    if (task.name.rfind(prefix, 0) != 0) continue;
    for (const Claim& claim : task.run(context)) claims.push_back(claim);
  }
  return claims;
}

void require_all_ok(const std::vector<Claim>& claims, std::size_t at_least) {
  CHECK(claims.size() >= at_least);
  for (const Claim& claim : claims) {
    CHECK_MESSAGE(claim.ok(), claim.name << ": " << claim.worst_error << " > " << claim.bound);
    CHECK_FALSE(claim.how.empty());
    CHECK_FALSE(claim.file.empty());
    CHECK_FALSE(claim.section.empty());
  }
}

std::size_t failures(const std::vector<Claim>& claims) {
  REQUIRE_FALSE(claims.empty());
  std::size_t n = 0;
  for (const Claim& claim : claims) n += claim.ok() ? 0 : 1;
  return n;
}

// The library's mathematics with one function replaced.
template <class Member, class F>
AuditedMath with(Member AuditedMath::*member, F wrong) {
  AuditedMath math;
  math.*member = wrong;
  return math;
}

nlohmann::json golden() {
  return nlohmann::json::parse(read_file(golden_file));
}

}  // namespace

TEST_CASE("audit: special functions and closed forms hold") {
  require_all_ok(run(special_audit()), 25);
  require_all_ok(run(closed_form_audit()), 30);
}

TEST_CASE("audit: the special functions of every instruction set hold") {
  const std::vector<Isa> isas = available_isas();
  require_all_ok(run(gamma_kernels_audit(isas)), 7 * isas.size());
}

TEST_CASE("audit: tasks name their claims") {
  for (const Tasks& tasks : {special_audit(), closed_form_audit()}) {
    for (const AuditTask& task : tasks) {
      for (const Claim& claim : run({task})) CHECK(claim.name.rfind(task.name + ":", 0) == 0);
    }
  }
}

TEST_CASE("audit: sampling holds") {
  require_all_ok(run(sampling_audit()), 30);
}

TEST_CASE("audit: wrong special functions are caught") {
  const auto lgamma = with(&AuditedMath::lgamma, [](double x) { return special::lgamma(x) * (1 + 5e-15); });
  CHECK(failures(run(special_audit(lgamma), "special/lgamma")) == 5);
  const auto digamma =
      with(&AuditedMath::digamma, [](double x) { return special::digamma(x) * (1 + 5e-15); });
  CHECK(failures(run(special_audit(digamma), "special/digamma")) == 5);
  const auto trigamma =
      with(&AuditedMath::trigamma, [](double x) { return special::trigamma(x) * (1 + 5e-15); });
  CHECK(failures(run(special_audit(trigamma), "special/trigamma")) == 3);
  CHECK(failures(run(special_audit(trigamma), "special/gamma_family")) == 1);
  const auto nan =
      with(&AuditedMath::digamma, [](double x) { return x > 20 ? std::nan("") : special::digamma(x); });
  CHECK(failures(run(special_audit(nan), "special/digamma")) == 1);
  const auto derivative = with(&AuditedMath::draw_derivative, [](double a, double y) {
    return special::log_gamma_draw_derivative(a, y) * (1 + 2e-12);
  });
  CHECK(failures(run(special_audit(derivative), "special/draw_derivative")) >= 9);
}

TEST_CASE("audit: wrong sampling is caught") {
  // A shape 5% off; a boost that forgets U^(1/a); draws that stop at double's smallest.
  const auto shape = with(&AuditedMath::draw,
                          [](PhiloxStream& stream, double a) { return log_gamma_draw(stream, 1.05 * a); });
  CHECK(failures(run(sampling_audit(shape), "sampling/gamma")) >= 2);
  const auto clamped = with(&AuditedMath::draw, [](PhiloxStream& stream, double a) {
    return std::fmax(log_gamma_draw(stream, a), std::log(1e-38));
  });
  CHECK(failures(run(sampling_audit(clamped), "sampling/tail")) >= 1);
  // Concentrations a little off in one entry.
  const auto sample = with(&AuditedMath::sample, [](Values b, PhiloxStream& stream, Out y, Out alpha) {
    std::vector<double> other(b.begin(), b.end());
    other.back() *= 1.05;
    dirichlet::sample(other, stream, y, alpha);
  });
  CHECK(failures(run(sampling_audit(sample), "sampling/dirichlet")) >= 3);
}

TEST_CASE("audit: wrong implicit gradients are caught") {
  // The limit x -> 0 everywhere, as if the series had one term.
  const auto one_term = with(&AuditedMath::draw_derivative,
                             [](double a, double y) { return (special::digamma(a + 1) - y) / a; });
  CHECK(failures(run(sampling_audit(one_term), "sampling/implicit gradient")) >= 1);
  CHECK(failures(run(sampling_audit(one_term), "sampling/dirichlet form")) == 1);
  // The softmax's other term left out.
  const auto vjp = with(&AuditedMath::sample_vjp, [](Values b, Values y, Values alpha, Values g, Out db) {
    for (std::size_t i = 0; i < b.size(); ++i)
      db[i] = alpha[i] * special::log_gamma_draw_derivative(b[i], y[i]) * g[i];
  });
  CHECK(failures(run(sampling_audit(vjp), "sampling/implicit gradient")) >= 1);
}

TEST_CASE("audit: wrong closed forms are caught") {
  // Each in the table and by the identities that need no table.
  const auto kl = with(&AuditedMath::kl, [](Values b, Values p) { return dirichlet::kl(p, b); });
  CHECK(failures(run(special_audit(kl), "special/dirichlet")) == 1);
  CHECK(failures(run(closed_form_audit(kl), "closed/kl")) >= 1);
  CHECK(failures(run(closed_form_audit(kl), "closed/evidence")) >= 1);
  const auto shifted = with(&AuditedMath::kl, [](Values b, Values p) { return dirichlet::kl(b, p) - 1e-6; });
  CHECK(failures(run(closed_form_audit(shifted), "closed/kl")) >= 3);
  CHECK(failures(run(closed_form_audit(shifted), "closed/evidence")) >= 1);
  const auto kl_gradient = with(&AuditedMath::kl_gradient, [](Values b, Values p, Out out) {
    for (std::size_t i = 0; i < b.size(); ++i) out[i] = (b[i] - p[i]) * special::trigamma(b[i]);
  });
  CHECK(failures(run(special_audit(kl_gradient), "special/dirichlet")) == 1);
  CHECK(failures(run(closed_form_audit(kl_gradient), "closed/gradient")) == 1);
  const auto entropy_gradient = with(&AuditedMath::entropy_gradient, [](Values b, Out out) {
    dirichlet::entropy_gradient(b, out);
    out[0] *= 1 + 1e-8;
  });
  CHECK(failures(run(closed_form_audit(entropy_gradient), "closed/gradient")) == 1);
  const auto expected = with(&AuditedMath::expected_categorical_entropy, [](Values b) {
    return dirichlet::expected_categorical_entropy(b) * (1 + 1e-12);
  });
  CHECK(failures(run(closed_form_audit(expected), "closed/uncertainty")) >= 2);
  // An objective without the KL would exceed the evidence.
  const auto none = with(&AuditedMath::kl, [](Values, Values) { return 0.0; });
  CHECK(failures(run(closed_form_audit(none), "closed/objective")) >= 1);
}

TEST_CASE("audit: a table of reference values passes, and a wrong digit in it is caught") {
  require_all_ok(audit_table(golden_file), 9);

  const TemporaryDirectory directory;
  const std::string file = directory / "table.json";
  const auto failing = [&](const nlohmann::json& table) {
    write_file(file, table.dump());
    std::string names;
    for (const Claim& claim : audit_table(file)) names += claim.ok() ? "" : claim.name + ";";
    return names;
  };
  const auto change = [](nlohmann::json& value) {  // the tenth digit
    auto text = value.get<std::string>();
    std::size_t at = text.find_first_of("123456789");
    for (int digits = 1; digits < 10; ++digits) at = text.find_first_of("0123456789", at + 1);
    text[at] = text[at] == '0' ? '7' : '0';
    value = text;
  };
  for (const auto& [section, key, name] : std::vector<std::array<std::string, 3>>{
           {"unary", "lgamma", "table/lgamma;"},
           {"unary", "digamma", "table/digamma;"},
           {"unary", "trigamma", "table/trigamma;"},
           {"dirichlet", "expected_categorical_entropy", "table/dirichlet expected_categorical_entropy;"}}) {
    auto table = golden();
    change(table[section][7][key]);
    CHECK(failing(table) == name);
  }
  auto table = golden();
  table["gamma_draw_derivative"][3]["D"] = "1.0";
  CHECK(failing(table) == "table/gamma_draw_derivative;");
  table = golden();
  table["dirichlet"][0]["kl"] = "-5.07470666304704";
  table["dirichlet"][0]["dkl_db"][1] = "21.3887025828575000280075";
  table["dirichlet"][0]["entropy"] = "2.485346859192844837665903";
  table["dirichlet"][0]["dentropy_db"][0] = "0";
  CHECK(failing(table) ==
        "table/dirichlet kl;table/dirichlet dkl_db;table/dirichlet entropy;"
        "table/dirichlet dentropy_db;");
}

TEST_CASE("audit: a table may hold a part, notes, and values beside the roots and far out") {
  const TemporaryDirectory directory;
  const std::string file = directory / "table.json";
  // x = 1 + 1e-14 to 25 digits: the double nearest to x is 7e-18 off, 0.07% of what lgamma has to tell.
  write_file(file, R"({"digits": 25, "source": "by hand", "unary": [
    {"x": "1.00000000000001", "lgamma": "-5.772156649015246359362e-15", "digamma": "-0.5772156649015164112658436",
     "trigamma": "1.644934066848202395334352"},
    {"x": "1", "lgamma": "0", "digamma": "-0.5772156649015328606065121", "trigamma": "1.644934066848226436472415"}],
    "gamma_draw_derivative": [{"a": "0.5", "y": "-1e4", "D": "20000.07297994795715304112"},
                              {"a": "2", "y": "1000", "D": "0"}]})");
  const auto claims = audit_table(file);
  require_all_ok(claims, 4);
  CHECK(claims.size() == 4);
}

TEST_CASE("audit: damaged and alien tables are refused with one clear line") {
  const TemporaryDirectory directory;
  const std::string file = directory / "table.json";
  const auto message = [&](const std::string& content) -> std::string {
    write_file(file, content);
    try {
      audit_table(file);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  const auto changed = [&](const std::function<void(nlohmann::json&)>& change) {
    auto table = golden();
    for (const char* section : {"unary", "gamma_draw_derivative", "dirichlet"})
      table[section].erase(table[section].begin() + 2, table[section].end());
    change(table);
    return message(table.dump());
  };
  using Json = nlohmann::json;
  const std::string text = read_file(golden_file);

  struct Case {
    std::string message, words;
  };
  const std::string unary = "unary[1].x: expected a decimal number > 0, at most 1e300, as a string, got ";
  const std::vector<Case> cases = {
      {message(""), "content: expected a JSON object, got invalid JSON"},
      {message(text.substr(0, text.size() / 2)), "got invalid JSON"},
      {message(std::string("\x00\xff\x7f\x45\x4c\x46", 6)), "got invalid JSON"},
      {message("[1, 2]"), "expected a JSON object, got array"},
      {message("{}"), "digits: expected a whole number from 17 to 1000, got nothing"},
      {message(R"({"digits": 25})"),
       "expected rows under unary, gamma_draw_derivative or dirichlet, got none"},
      {message(R"({"digits": 1e999})"), "got invalid JSON"},
      {message(R"({"digits": "25"})"), "digits: expected a whole number from 17 to 1000, got \"25\""},
      {message(R"({"digits": 3})"), "digits: expected a whole number from 17 to 1000, got 3"},
      {message(R"({"digits": -99999999999999999999})"), "digits: expected"},
      {message(std::string(200000, '[')), "levels of nesting"},
      {message(R"({"digits": 25, "unary": [[[[[[]]]]]]})"), "at most 4 levels of nesting, got more"},
      {changed([](Json& t) { t["bessel"] = Json::array({1}); }), "\"bessel\": expected only the lists"},
      {changed([](Json& t) { t["unary"] = 7; }), "unary: expected a list of rows, got 7"},
      {changed([](Json& t) { t["unary"][1] = "x"; }), "unary[1]: expected an object with x, lgamma"},
      {changed([](Json& t) { t["unary"][1].erase("digamma"); }),
       "unary[1].digamma: expected a value, got nothing"},
      {changed([](Json& t) { t["unary"][1]["psi"] = "1"; }), "unary[1]: expected only x, lgamma"},
      {changed([](Json& t) { t["unary"][1]["x"] = 1.5; }), unary + "1.5"},
      {changed([](Json& t) { t["unary"][1]["x"] = nullptr; }), unary + "null"},
      {changed([](Json& t) { t["unary"][1]["x"] = Json::object(); }), unary + "object"},
      {changed([](Json& t) { t["unary"][1]["x"] = "nan"; }), unary + "\"nan\""},
      {changed([](Json& t) { t["unary"][1]["x"] = "inf"; }), unary + "\"inf\""},
      {changed([](Json& t) { t["unary"][1]["x"] = "-1"; }), unary + "\"-1\""},
      {changed([](Json& t) { t["unary"][1]["x"] = "0"; }), unary + "\"0\""},
      {changed([](Json& t) { t["unary"][1]["x"] = "0x1p3"; }), unary},
      {changed([](Json& t) { t["unary"][1]["x"] = "1.5 "; }), unary},
      {changed([](Json& t) { t["unary"][1]["x"] = "1.5.5"; }), unary},
      {changed([](Json& t) { t["unary"][1]["x"] = "e"; }), unary},
      {changed([](Json& t) { t["unary"][1]["x"] = ""; }), unary + "\"\""},
      {changed([](Json& t) { t["unary"][1]["x"] = "1e99999999999"; }), unary},
      {changed([](Json& t) { t["unary"][1]["x"] = std::string(100000, '1'); }), "..."},
      {changed([](Json& t) { t["unary"][1]["lgamma"] = "1e400"; }),
       "unary[1].lgamma: expected a decimal number"},
      {changed([](Json& t) { t["gamma_draw_derivative"][0]["a"] = "1e8"; }),
       "gamma_draw_derivative[0].a: expected a decimal number > 0, at most 1e7"},
      {changed([](Json& t) { t["gamma_draw_derivative"][0]["y"] = "-1e309"; }), "gamma_draw_derivative[0].y"},
      {changed([](Json& t) { t["dirichlet"][1]["b"] = "0.5"; }),
       "dirichlet[1].b: expected a list of 1 to 1024"},
      {changed([](Json& t) { t["dirichlet"][1]["b"] = Json::array(); }), "dirichlet[1].b: expected a list"},
      {changed([](Json& t) { t["dirichlet"][1]["b"][0] = "-0.5"; }), "dirichlet[1].b[0]: expected"},
      {changed([](Json& t) { t["dirichlet"][1]["b"][0] = Json::array({"1"}); }),
       "at most 4 levels of nesting"},
      {changed([](Json& t) { t["dirichlet"][1]["p"].push_back("1"); }), "numbers, as b has, got"},
      {changed([](Json& t) { t["dirichlet"][1]["dkl_db"].erase(0); }),
       "dirichlet[1].dkl_db: expected a list of"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.words);
    CAPTURE(c.message.substr(0, 300));
    CHECK(c.message.find("[" + file + "] ") == 0);
    CHECK(c.message.find(c.words) != std::string::npos);
    CHECK(c.message.find('\n') == std::string::npos);
    CHECK(c.message.size() < 300);
  }
  CHECK_THROWS_AS(audit_table(directory / "none.json"), IoError);
  CHECK_THROWS_AS(audit_table(directory.path()), IoError);
  // Not UTF-8 in a string that is shown: refused by the parser, or shown with replacements; never a crash.
  CHECK(message("{\"digits\": 25, \"unary\": [{\"x\": \"\xc3\x28\"}]}").find("expected") !=
        std::string::npos);
}
