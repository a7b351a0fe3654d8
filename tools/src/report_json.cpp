#include "report_json.hpp"

#include <fmt/format.h>

#include "dirigo/core/errors.hpp"

namespace dirigo::tools {

Json parse_object(std::string_view content, const std::string& where) {
  Json json = Json::parse(content.begin(), content.end(), nullptr, false);
  if (!json.is_object()) {
    throw IoError(fmt::format("[{}] content: expected a JSON object, got {}", where,
                              json.is_discarded() ? "invalid JSON" : json.type_name()));
  }
  return json;
}

void refuse(const std::string& where, std::string_view key, std::string_view expected, const Json& got) {
  throw IoError(fmt::format(
      "[{}] {}: expected {}, got {}", where, key, expected,
      got.is_structured() ? got.type_name() : got.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

const Json& member(const Json& object, const char* key) {
  static const Json none;
  if (!object.is_object()) return none;
  const auto found = object.find(key);
  return found == object.end() ? none : *found;
}

std::optional<double> optional_number(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key);
  if (value.is_null()) return std::nullopt;
  if (!value.is_number()) refuse(where, key, "a number", value);
  return value.get<double>();
}

double number(const Json& object, const char* key, const std::string& where) {
  const auto value = optional_number(object, key, where);
  if (!value) refuse(where, key, "a number", Json());
  return *value;
}

std::int64_t count(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key);
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0)
    refuse(where, key, "a whole number >= 0", value);
  return value.get<std::int64_t>();
}

const Json& array(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key);
  if (!value.is_array()) refuse(where, key, "a list", value);
  return value;
}

std::string text(const Json& object, const char* key, const std::string& fallback) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : fallback;
}

}  // namespace dirigo::tools
