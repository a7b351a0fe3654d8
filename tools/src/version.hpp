// The version of Dirigo that wrote a file.
#pragma once

#include <string>

namespace dirigo::tools {

std::string version();  // "0.1.0"

}  // namespace dirigo::tools
