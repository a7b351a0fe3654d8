// `dirigo audit --table FILE`: the special functions and Dirichlet closed forms against anybody's reference
// values, in the format of tests/golden/special.json:
//   {"digits": 25,
//    "unary": [{"x", "lgamma", "digamma", "trigamma"}, ...],
//    "gamma_draw_derivative": [{"a", "y", "D"}, ...],
//    "dirichlet": [{"b": [...], "p": [...], "kl", "dkl_db": [...], "entropy", "dentropy_db": [...],
//                   "expected_categorical_entropy"}, ...]}
// with numbers as decimal strings. Any of the lists may be absent. Further members at the top may hold notes,
// but no lists or objects, which would be values that nobody checks.
//
// Arguments have more digits than a double: the value at the double that is used differs from the table's by
// the slope times the rounding, which is taken into account to first order.
#include <fmt/format.h>

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "audit/dirichlet_scale.hpp"
#include "audit/math_areas.hpp"
#include "audit/worst.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/run_files.hpp"

namespace dirigo::tools {
namespace {

using Json = nlohmann::json;
using Vector = std::vector<double>;

constexpr std::int64_t kMaxBytes = std::int64_t{64} << 20;
constexpr int kMaxDepth = 4;  // {"dirichlet": [{"b": ["0.1"]}]}
constexpr std::size_t kMaxText = 200, kMaxEntries = 1024;

// A number of the table: the double that is used as an argument, and what rounding to it left over.
struct Number {
  long double exact = 0;
  double value = 0;
  double rest() const { return static_cast<double>(exact - static_cast<long double>(value)); }
};

struct UnaryRow {
  Number x, lgamma, digamma, trigamma;
};
struct DrawRow {
  Number a, y, d;
};
struct DirichletRow {
  Vector b, p;
  Number kl, entropy, expected_entropy;
  std::vector<Number> kl_gradient, entropy_gradient;
};
struct Table {
  std::vector<UnaryRow> unary;
  std::vector<DrawRow> draws;
  std::vector<DirichletRow> dirichlet;
};

// --- Reading

struct Range {
  double from, to;  // inclusive
  const char* name;
};
constexpr Range kAny = {-DBL_MAX, DBL_MAX, "a decimal number within double's range as a string"};
constexpr Range kPositive = {DBL_MIN, 1e300, "a decimal number > 0, at most 1e300, as a string"};
constexpr Range kShape = {DBL_MIN, 1e7, "a decimal number > 0, at most 1e7, as a string"};

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {}

  Table read() const {
    const Json json = parse();
    check_top(json);
    Table table;
    for_rows(json, "unary", [&](const std::string& where, const Json& row) {
      check_keys(where, row, {"x", "lgamma", "digamma", "trigamma"});
      table.unary.push_back({number(where, row, "x", kPositive), number(where, row, "lgamma", kAny),
                             number(where, row, "digamma", kAny), number(where, row, "trigamma", kAny)});
    });
    for_rows(json, "gamma_draw_derivative", [&](const std::string& where, const Json& row) {
      check_keys(where, row, {"a", "y", "D"});
      table.draws.push_back(
          {number(where, row, "a", kShape), number(where, row, "y", kAny), number(where, row, "D", kAny)});
    });
    for_rows(json, "dirichlet", [&](const std::string& where, const Json& row) {
      table.dirichlet.push_back(dirichlet(where, row));
    });
    if (table.unary.empty() && table.draws.empty() && table.dirichlet.empty())
      refuse("content", "rows under unary, gamma_draw_derivative or dirichlet", "none");
    return table;
  }

 private:
  [[noreturn]] void refuse(const std::string& field, std::string_view expected,
                           const std::string& got) const {
    throw IoError(fmt::format("[{}] {}: expected {}, got {}", file_, field, expected, got));
  }

  // A value as one short line, whatever it is.
  static std::string shown(const Json& value) {
    if (value.is_structured()) return value.type_name();
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

  Json parse() const {
    const std::string text = meta::read_text_file(file_, kMaxBytes);
    bool too_deep = false;
    // Depth 0 is the document itself; what lies too deep is dropped as it is read.
    const auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
      too_deep = too_deep || depth > kMaxDepth;
      return depth <= kMaxDepth;
    };
    const Json json = Json::parse(text, limit_depth, false);
    if (too_deep) refuse("content", fmt::format("at most {} levels of nesting", kMaxDepth), "more");
    if (!json.is_object())
      refuse("content", "a JSON object", json.is_discarded() ? "invalid JSON" : json.type_name());
    return json;
  }

  void check_top(const Json& json) const {
    const auto digits = json.find("digits");
    const bool good = digits != json.end() && digits->is_number_integer() && *digits >= 17 && *digits <= 1000;
    if (!good)
      refuse("digits", "a whole number from 17 to 1000", digits == json.end() ? "nothing" : shown(*digits));
    for (const auto& [key, value] : json.items()) {
      const bool known = key == "unary" || key == "gamma_draw_derivative" || key == "dirichlet";
      if (!known && value.is_structured())
        refuse(shown(key), "only the lists unary, gamma_draw_derivative and dirichlet", value.type_name());
    }
  }

  template <class F>
  void for_rows(const Json& json, const char* section, const F& read_row) const {
    const auto rows = json.find(section);
    if (rows == json.end()) return;
    if (!rows->is_array()) refuse(section, "a list of rows", shown(*rows));
    for (std::size_t i = 0; i < rows->size(); ++i) read_row(fmt::format("{}[{}]", section, i), (*rows)[i]);
  }

  void check_keys(const std::string& where, const Json& row,
                  std::initializer_list<std::string_view> keys) const {
    if (!row.is_object()) refuse(where, fmt::format("an object with {}", fmt::join(keys, ", ")), shown(row));
    for (const std::string_view key : keys) {
      if (row.find(key) == row.end()) refuse(fmt::format("{}.{}", where, key), "a value", "nothing");
    }
    for (const auto& [key, value] : row.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        refuse(where, fmt::format("only {}", fmt::join(keys, ", ")), shown(key));
    }
  }

  // [-]digits[.digits][e[+-]digits], nothing else: no hexadecimal, infinity, NaN or blanks.
  Number parse_number(const std::string& field, const Json& value, const Range& range) const {
    if (!value.is_string()) refuse(field, range.name, shown(value));
    const std::string& text = value.get_ref<const std::string&>();
    Number number;
    const auto end = text.data() + text.size();
    const bool decimal = !text.empty() && text.size() <= kMaxText &&
                         text.find_first_not_of("0123456789+-.eE") == std::string::npos;
    if (!decimal) refuse(field, range.name, shown(value));
    const auto result = std::from_chars(text.data(), end, number.exact, std::chars_format::general);
    number.value = static_cast<double>(number.exact);
    // Not (a < b), so that NaN fails. Beyond double's range the conversion gives infinity.
    const bool good = result.ec == std::errc() && result.ptr == end && std::isfinite(number.value) &&
                      number.value >= range.from && number.value <= range.to;
    if (!good) refuse(field, range.name, shown(value));
    return number;
  }

  Number number(const std::string& where, const Json& row, const char* key, const Range& range) const {
    const Json& value = row.at(key);
    // The name of the field is only made where it is needed: tables may be long.
    if (!value.is_string()) refuse(fmt::format("{}.{}", where, key), range.name, shown(value));
    return parse_number(fmt::format("{}.{}", where, key), value, range);
  }

  std::vector<Number> numbers(const std::string& where, const Json& row, const char* key, std::size_t size,
                              const Range& range) const {
    const std::string field = fmt::format("{}.{}", where, key);
    const Json& values = row.at(key);
    const bool good = values.is_array() && !values.empty() && values.size() <= kMaxEntries &&
                      (size == 0 || values.size() == size);
    if (!good) {
      refuse(field,
             size == 0 ? fmt::format("a list of 1 to {} numbers", kMaxEntries)
                       : fmt::format("a list of {} numbers, as b has", size),
             values.is_array() ? fmt::format("{}", values.size()) : shown(values));
    }
    std::vector<Number> result;
    for (std::size_t i = 0; i < values.size(); ++i)
      result.push_back(parse_number(fmt::format("{}[{}]", field, i), values[i], range));
    return result;
  }

  DirichletRow dirichlet(const std::string& where, const Json& row) const {
    check_keys(where, row,
               {"b", "p", "kl", "dkl_db", "entropy", "dentropy_db", "expected_categorical_entropy"});
    const auto doubles = [](const std::vector<Number>& numbers) {
      Vector values;
      for (const Number& number : numbers) values.push_back(number.value);
      return values;
    };
    DirichletRow result;
    result.b = doubles(numbers(where, row, "b", 0, kPositive));
    const std::size_t k = result.b.size();
    result.p = doubles(numbers(where, row, "p", k, kPositive));
    result.kl = number(where, row, "kl", kAny);
    result.kl_gradient = numbers(where, row, "dkl_db", k, kAny);
    result.entropy = number(where, row, "entropy", kAny);
    result.entropy_gradient = numbers(where, row, "dentropy_db", k, kAny);
    result.expected_entropy = number(where, row, "expected_categorical_entropy", kAny);
    return result;
  }

  const std::string& file_;
};

// --- Checking

// What the rounding of an argument changes: to first order, and what remains of it.
struct Rounding {
  double correction = 0, allowance = 0;
};

template <class F>
Rounding rounding_of(const F& f, const Number& x, double limit) {
  if (x.value == 0) return {};
  constexpr double step = 1.0 / 8192;
  const double a = x.value * (1 - step), b = std::fmin(x.value * (1 + step), limit);
  const double change = f(b) - f(a);
  const double correction = change * (x.rest() / (b - a));
  // The digits of long double beyond which the argument is unknown, and the difference quotient's error.
  const double unknown = std::fabs(change * (x.value / (b - a))) * double{LDBL_EPSILON};
  return {correction, unknown + 1e-6 * std::fabs(correction)};
}

// |got + correction - expected| beyond the allowance, relative to the expected value; NaN stays NaN.
double error_of(double got, const Number& expected, Rounding rounding) {
  const long double difference =
      static_cast<long double>(got) + static_cast<long double>(rounding.correction) - expected.exact;
  const double error = static_cast<double>(std::fabs(difference));
  const double scale = std::fmax(std::fabs(expected.value), DBL_MIN);
  return (error <= rounding.allowance ? 0 : error - rounding.allowance) / scale;
}

std::string how_of(std::size_t rows) {
  return fmt::format("{} rows of the table, relative", rows);
}

Claim unary_claim(const char* name, const Table& table, double (*f)(double), Number UnaryRow::*expected) {
  double worst = 0;
  for (const UnaryRow& row : table.unary)
    worst = worse(worst, error_of(f(row.x.value), row.*expected, rounding_of(f, row.x, DBL_MAX)));
  return {std::string("table/") + name,
          how_of(table.unary.size()),
          worst,
          1e-14,
          "core/src/special.cpp",
          "3 Closed forms"};
}

// Shapes above 1000 apart: the error grows with sqrt(a) (core/include/dirigo/core/special.hpp).
void add_draw_claims(const Table& table, std::vector<Claim>& claims) {
  constexpr auto derivative = special::log_gamma_draw_derivative;
  constexpr double large = 1000;
  for (const bool above : {false, true}) {
    double worst = 0;
    std::size_t rows = 0;
    for (const DrawRow& row : table.draws) {
      const double a = row.a.value, y = row.y.value;
      if ((a > large) != above) continue;
      ++rows;
      const Rounding of_a = rounding_of([y](double v) { return derivative(v, y); }, row.a, kShape.to);
      const Rounding of_y = rounding_of([a](double v) { return derivative(a, v); }, row.y, DBL_MAX);
      worst = worse(worst, error_of(derivative(a, y), row.d,
                                    {of_a.correction + of_y.correction, of_a.allowance + of_y.allowance}));
    }
    if (rows == 0) continue;
    claims.push_back({above ? "table/gamma_draw_derivative, a > 1000" : "table/gamma_draw_derivative",
                      how_of(rows), worst, above ? 1e-10 : 1e-12, "core/src/special.cpp", "4 Sampling"});
  }
}

// Relative to the terms' magnitudes, beyond what rounding b and p to double does to their differences.
double gradient_error(const Vector& got, const std::vector<Number>& expected, const Vector& scales,
                      const Vector& roundings) {
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = static_cast<double>(std::fabs(static_cast<long double>(got[i]) - expected[i].exact));
    const double scale = std::fmax(std::fmax(std::fabs(expected[i].value), scales[i]), DBL_MIN);
    worst = worse(worst, (error <= roundings[i] ? 0 : error - roundings[i]) / scale);
  }
  return worst;
}

double kl_gradient_error(const DirichletRow& row) {
  const std::size_t k = row.b.size();
  Vector got(k), scales(k), roundings(k);
  dirichlet::kl_gradient(row.b, row.p, got);
  const double s = scale::sum(row.b), s_p = scale::sum(row.p);
  for (std::size_t i = 0; i < k; ++i) {
    scales[i] = scale::kl_gradient(row.b, row.p, i);
    roundings[i] = DBL_EPSILON *
                   ((row.b[i] + row.p[i]) * special::trigamma(row.b[i]) + (s + s_p) * special::trigamma(s));
  }
  return gradient_error(got, row.kl_gradient, scales, roundings);
}

double entropy_gradient_error(const DirichletRow& row) {
  const std::size_t k = row.b.size();
  Vector got(k), scales(k), roundings(k);
  dirichlet::entropy_gradient(row.b, got);
  const double s = scale::sum(row.b);
  for (std::size_t i = 0; i < k; ++i) {
    scales[i] = scale::entropy_gradient(row.b, i);
    roundings[i] = DBL_EPSILON * (row.b[i] * special::trigamma(row.b[i]) + s * special::trigamma(s));
  }
  return gradient_error(got, row.entropy_gradient, scales, roundings);
}

void add_dirichlet_claims(const Table& table, std::vector<Claim>& claims) {
  double kl = 0, kl_gradient = 0, entropy = 0, entropy_gradient = 0, expected_entropy = 0;
  for (const DirichletRow& row : table.dirichlet) {
    const Vector &b = row.b, &p = row.p;
    kl = worse(kl, relative_error(dirichlet::kl(b, p), row.kl.exact, scale::kl(b, p)));
    kl_gradient = worse(kl_gradient, kl_gradient_error(row));
    entropy = worse(entropy, relative_error(dirichlet::entropy(b), row.entropy.exact, scale::entropy(b)));
    entropy_gradient = worse(entropy_gradient, entropy_gradient_error(row));
    expected_entropy =
        worse(expected_entropy, relative_error(dirichlet::expected_categorical_entropy(b),
                                               row.expected_entropy.exact, scale::expected_entropy(b)));
  }
  const auto add = [&](const char* name, double worst) {
    claims.push_back({std::string("table/") + name, how_of(table.dirichlet.size()) + " to the sum of |terms|",
                      worst, 1e-14, "core/src/dirichlet_math.cpp", "3 Closed forms"});
  };
  add("dirichlet kl", kl);
  add("dirichlet dkl_db", kl_gradient);
  add("dirichlet entropy", entropy);
  add("dirichlet dentropy_db", entropy_gradient);
  add("dirichlet expected_categorical_entropy", expected_entropy);
}

}  // namespace

std::vector<Claim> audit_table(const std::string& file) {
  const Table table = Reader(file).read();
  std::vector<Claim> claims;
  if (!table.unary.empty()) {
    claims.push_back(unary_claim("lgamma", table, special::lgamma, &UnaryRow::lgamma));
    claims.push_back(unary_claim("digamma", table, special::digamma, &UnaryRow::digamma));
    claims.push_back(unary_claim("trigamma", table, special::trigamma, &UnaryRow::trigamma));
  }
  add_draw_claims(table, claims);
  if (!table.dirichlet.empty()) add_dirichlet_claims(table, claims);
  return claims;
}

}  // namespace dirigo::tools
