# The report's style and scripts (tools/report) and the chart library, as a C++ file in the build directory.
# The library is Chart.js of the Debian package libjs-chart.js, which is not in this repository. Without it reports
# show the numbers of their charts as tables.
find_file(DIRIGO_CHART_JS NAMES chart.min.js chart.umd.js PATHS /usr/share/javascript/chart.js NO_DEFAULT_PATH
          DOC "Chart.js 3 or 4, minified, for the charts of reports")
find_file(DIRIGO_CHART_JS_LICENSE NAMES copyright PATHS /usr/share/doc/libjs-chart.js NO_DEFAULT_PATH
          DOC "The licence of Chart.js, shown in reports")
set(chart_js none)
set(chart_js_license none)
if(DIRIGO_CHART_JS AND DIRIGO_CHART_JS_LICENSE)
  set(chart_js ${DIRIGO_CHART_JS})
  set(chart_js_license ${DIRIGO_CHART_JS_LICENSE})
else()
  message(WARNING "Chart.js or its licence was not found: reports will show tables instead of charts. "
                  "Install the Debian package libjs-chart.js, or set DIRIGO_CHART_JS and DIRIGO_CHART_JS_LICENSE to files.")
endif()

set(report_assets ${CMAKE_CURRENT_BINARY_DIR}/report_assets.cpp)
set(report_files ${CMAKE_CURRENT_SOURCE_DIR}/report/report.css ${CMAKE_CURRENT_SOURCE_DIR}/report/charts.js
                 ${CMAKE_CURRENT_SOURCE_DIR}/report/reader.js)
set(embedded ${report_files} ${chart_js} ${chart_js_license})
list(JOIN embedded "," embedded_names)
set(embed_script ${CMAKE_CURRENT_LIST_DIR}/embed.cmake)
set(embed_needs ${embedded})
list(REMOVE_ITEM embed_needs none)
add_custom_command(OUTPUT ${report_assets} DEPENDS ${embed_script} ${embed_needs} VERBATIM
                   COMMAND ${CMAKE_COMMAND} -DOUT=${report_assets} -DNAMES=style,charts,reader,chart_js,chart_js_license
                           -DFILES=${embedded_names} -P ${embed_script})
target_sources(dirigo_tools PRIVATE ${report_assets})
