// Text that goes into the report: escaped, or packed.
#pragma once

#include <fmt/format.h>

#include <iterator>
#include <string>
#include <string_view>
#include <utility>

namespace dirigo::tools {

inline constexpr const char* none = "&ndash;";  // stands for a number that is not there

template <class... Values>
void append(std::string& out, fmt::format_string<Values...> format, Values&&... values) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Values>(values)...);
}

// & < > " ' and line breaks as entities, other control bytes as \xNN: safe as text and inside quoted
// attributes.
std::string escape_html(std::string_view text);

// A <script> that holds data and runs nothing; no content can end it early.
std::string json_script(std::string_view json);

std::string base64(std::string_view bytes);

}  // namespace dirigo::tools
