// Reading JSON that another program, or an older one, may have written: a missing member is null, a member of
// the wrong type an IoError that names the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace dirigo::tools {

using Json = nlohmann::ordered_json;

// An object, or IoError.
Json parse_object(std::string_view content, const std::string& where);

[[noreturn]] void refuse(const std::string& where, std::string_view key, std::string_view expected,
                         const Json& got);

const Json& member(const Json& object, const char* key);  // null where there is none
std::optional<double> optional_number(const Json& object, const char* key, const std::string& where);
double number(const Json& object, const char* key, const std::string& where);
std::int64_t count(const Json& object, const char* key, const std::string& where);  // >= 0
const Json& array(const Json& object, const char* key, const std::string& where);
std::string text(const Json& object, const char* key, const std::string& fallback);

}  // namespace dirigo::tools
