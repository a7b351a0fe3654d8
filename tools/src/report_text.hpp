// Text that goes into the report: escaped, or packed.
#pragma once

#include <string>
#include <string_view>

namespace dirigo::tools {

// & < > " ' and line breaks as entities, other control bytes as \xNN: safe as text and inside quoted
// attributes.
std::string escape_html(std::string_view text);

// A <script> that holds data and runs nothing; no content can end it early.
std::string json_script(std::string_view json);

std::string base64(std::string_view bytes);

}  // namespace dirigo::tools
