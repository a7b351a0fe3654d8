// Files that are built into the program (tools/cmake/report_assets.cmake): the report's style and scripts.
#pragma once

#include <string_view>

namespace dirigo::tools::assets {

extern const std::string_view style, charts, reader;
// Chart.js and its licence; empty where the build had none.
extern const std::string_view chart_js, chart_js_license;

}  // namespace dirigo::tools::assets
