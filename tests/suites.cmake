# Tests of the repository itself: rules that no compiler checks. Each script says what it proves.
# Bash, because they grep and call nm; checks_can_fail plants a violation of every rule and wants it caught.

set(DIRIGO_CHECKS ${CMAKE_CURRENT_SOURCE_DIR}/scripts)

function(dirigo_repository_test name)
  add_test(NAME repository.${name} COMMAND ${ARGN} COMMAND_EXPAND_LISTS)
  set_tests_properties(repository.${name} PROPERTIES LABELS repository)
endfunction()

dirigo_repository_test(checks_can_fail ${DIRIGO_CHECKS}/checks_can_fail.sh ${CMAKE_CXX_COMPILER} ${CMAKE_NM})
dirigo_repository_test(layering ${DIRIGO_CHECKS}/check_layering.sh ${PROJECT_SOURCE_DIR})
dirigo_repository_test(library_calls ${DIRIGO_CHECKS}/check_library_calls.sh ${PROJECT_SOURCE_DIR})
dirigo_repository_test(headers ${DIRIGO_CHECKS}/check_headers.sh ${PROJECT_SOURCE_DIR} ${CMAKE_CXX_COMPILER})

set(isa_groups)
foreach(name portable avx2 avx512)
  if(TARGET dirigo_isa_${name})
    list(APPEND isa_groups --isa ${name} $<TARGET_OBJECTS:dirigo_isa_${name}>)
  endif()
endforeach()
# Archives for the other libraries; core's own archive also holds the groups themselves.
dirigo_repository_test(isa_symbols ${DIRIGO_CHECKS}/check_isa_symbols.sh ${CMAKE_NM} ${isa_groups}
                       --rest $<TARGET_OBJECTS:dirigo_core> $<TARGET_FILE:dirigo_autograd> $<TARGET_FILE:dirigo_nn>
                       $<TARGET_FILE:dirigo_data> $<TARGET_FILE:dirigo_meta_attention>)
# The tools' objects: Eigen's product, which `dirigo bench gemm` times beside ours, is compiled twice.
set(eigen_groups)
foreach(name portable avx2)
  if(TARGET dirigo_eigen_${name})
    list(APPEND eigen_groups --isa ${name} $<TARGET_OBJECTS:dirigo_eigen_${name}>)
  endif()
endforeach()
if(eigen_groups)
  dirigo_repository_test(tools_isa_symbols ${DIRIGO_CHECKS}/check_isa_symbols.sh ${CMAKE_NM} ${eigen_groups}
                         --rest $<TARGET_OBJECTS:dirigo> $<TARGET_OBJECTS:dirigo_tools> $<TARGET_FILE:dirigo_core>
                         $<TARGET_FILE:dirigo_autograd> $<TARGET_FILE:dirigo_nn> $<TARGET_FILE:dirigo_data>
                         $<TARGET_FILE:dirigo_meta_attention>)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT DIRIGO_SANITIZE AND NOT DIRIGO_MUTANTS)
  dirigo_repository_test(library_size ${DIRIGO_CHECKS}/check_library_size.sh ${CMAKE_CXX_COMPILER} ${CMAKE_STRIP} 4000000
                         $<TARGET_FILE:dirigo_core> $<TARGET_FILE:dirigo_autograd> $<TARGET_FILE:dirigo_nn>
                         $<TARGET_FILE:dirigo_data> $<TARGET_FILE:dirigo_meta_attention>)
endif()

if(TARGET dirigo)
  dirigo_repository_test(readme ${DIRIGO_CHECKS}/check_readme.sh ${PROJECT_SOURCE_DIR} $<TARGET_FILE:dirigo>)
  dirigo_repository_test(op_peers ${DIRIGO_CHECKS}/check_op_peers.sh ${PROJECT_SOURCE_DIR} $<TARGET_FILE:dirigo>)
endif()
find_program(DIRIGO_PYTHON python3)
if(DIRIGO_PYTHON)
  dirigo_repository_test(mutants ${DIRIGO_CHECKS}/check_mutants.sh ${PROJECT_SOURCE_DIR} ${DIRIGO_PYTHON}
                         ${CMAKE_CXX_COMPILER})
endif()
if(DIRIGO_MUTANTS)
  add_test(NAME mutation.sample COMMAND ${PROJECT_SOURCE_DIR}/tools/mutation-check --no-build --sample 180)
  set_tests_properties(mutation.sample PROPERTIES TIMEOUT 600)
endif()
dirigo_repository_test(readme_example ${DIRIGO_CHECKS}/check_readme_example.sh ${PROJECT_SOURCE_DIR})
dirigo_repository_test(links ${DIRIGO_CHECKS}/check_links.sh ${PROJECT_SOURCE_DIR})
dirigo_repository_test(get_data ${CMAKE_CURRENT_SOURCE_DIR}/data/get_data_test.sh)
set_tests_properties(repository.get_data PROPERTIES SKIP_RETURN_CODE 77)

# The examples of the documentation, run as a reader would. This one must start a little above ln 256 nats a byte,
# learn its line, and name an expert for each of the 32 bytes.
add_executable(example_route_text ${PROJECT_SOURCE_DIR}/docs/examples/route_text.cpp)
target_link_libraries(example_route_text PRIVATE dirigo::meta_attention)
target_compile_options(example_route_text PRIVATE ${DIRIGO_COMPILE_OPTIONS})
add_test(NAME example.route_text COMMAND example_route_text)
string(REPEAT ". [fl][a-z]+\n" 32 routed_bytes)
set_tests_properties(example.route_text PROPERTIES PASS_REGULAR_EXPRESSION
  "^step 0: 8[.][0-9]+ [^\n]+\nstep 33: [^\n]+\nstep 66: [^\n]+\nstep 99: 0[.]0[0-9]+ [^\n]+\n${routed_bytes}$")
# This one must find its line again, and a prompt that was stepped must have the logits of one that was prefilled.
add_executable(example_decode_text ${PROJECT_SOURCE_DIR}/docs/examples/decode_text.cpp)
target_link_libraries(example_decode_text PRIVATE dirigo::meta_attention)
target_compile_options(example_decode_text PRIVATE ${DIRIGO_COMPILE_OPTIONS})
add_test(NAME example.decode_text COMMAND example_decode_text)
set_tests_properties(example.decode_text PROPERTIES PASS_REGULAR_EXPRESSION
  "^to be or not to be, that is the q\nthe same logits after a rewind\n[1-9][0-9]+ bytes held, at most [1-9][0-9]+\n$")

# The suites that depend on the kernels, once per instruction set that this machine has; the plain entries run
# the one that is chosen by default.
set(DIRIGO_MACHINE_ISAS)
if(TARGET dirigo_isa_avx2 AND EXISTS /proc/cpuinfo)
  file(STRINGS /proc/cpuinfo cpu_flags REGEX "^flags" LIMIT_COUNT 1)
  set(DIRIGO_MACHINE_ISAS sse2)
  if(cpu_flags MATCHES " avx2( |$)" AND cpu_flags MATCHES " fma( |$)")
    list(APPEND DIRIGO_MACHINE_ISAS avx2)
  endif()
  if(cpu_flags MATCHES " avx512bw( |$)" AND cpu_flags MATCHES " avx512dq( |$)" AND cpu_flags MATCHES " avx512vl( |$)")
    list(APPEND DIRIGO_MACHINE_ISAS avx512)
  endif()
endif()
foreach(isa ${DIRIGO_MACHINE_ISAS})
  foreach(folder core meta_attention)
    if(TARGET test_${folder})
      add_test(NAME ${folder}.${isa} COMMAND test_${folder})
      set_tests_properties(${folder}.${isa} PROPERTIES LABELS isa ENVIRONMENT DIRIGO_ISA=${isa})
    endif()
  endforeach()
endforeach()

# The audit as a reader runs it: every claim, on every instruction set of this machine.
if(TARGET dirigo)
  add_test(NAME audit COMMAND dirigo audit)
endif()

# The quick study, from an empty directory to its report.
if(TARGET dirigo)
  set(quick_study ${CMAKE_CURRENT_BINARY_DIR}/quick-study)
  add_test(NAME study.clean COMMAND ${CMAKE_COMMAND} -E rm -rf ${quick_study})
  add_test(NAME study.quick COMMAND dirigo study table3 --quick --out ${quick_study})
  set_tests_properties(study.clean PROPERTIES FIXTURES_SETUP quick_study)
  set_tests_properties(study.quick PROPERTIES FIXTURES_REQUIRED quick_study FIXTURES_SETUP quick_report LABELS long TIMEOUT 900
                       PASS_REGULAR_EXPRESSION "null router .*Report: ")
endif()

# The other quick studies; the last ones have the arms of a file of the documentation.
if(TARGET dirigo)
  foreach(study collapse pareto eta need emergence window recall)
    set(quick_study ${CMAKE_CURRENT_BINARY_DIR}/quick-${study})
    set(arms)
    if(EXISTS ${PROJECT_SOURCE_DIR}/docs/examples/${study}-arms.json)
      set(arms --arms ${PROJECT_SOURCE_DIR}/docs/examples/${study}-arms.json)
    endif()
    add_test(NAME study.${study}.clean COMMAND ${CMAKE_COMMAND} -E rm -rf ${quick_study})
    add_test(NAME study.${study} COMMAND dirigo study ${study} ${arms} --quick --out ${quick_study})
    set_tests_properties(study.${study}.clean PROPERTIES FIXTURES_SETUP quick_${study})
    set_tests_properties(study.${study} PROPERTIES FIXTURES_REQUIRED quick_${study} LABELS long TIMEOUT 900
                         PASS_REGULAR_EXPRESSION "null router .*Report: ")
  endforeach()
endif()

include(exercises/exercises.cmake)

# Reports in a real browser: made for the purpose, and that of the quick study.
option(DIRIGO_BROWSER_TEST "Test reports in a headless Chromium" ON)
if(TARGET dirigo AND DIRIGO_BROWSER_TEST)
  find_program(DIRIGO_CHROMIUM NAMES chromium chromium-browser google-chrome)
  set(charts no)
  if(DIRIGO_CHART_JS AND DIRIGO_CHART_JS_LICENSE)
    set(charts yes)
  endif()
  set(check_report ${DIRIGO_PYTHON} ${DIRIGO_CHECKS}/check_report_browser.py --browser ${DIRIGO_CHROMIUM} --charts ${charts})
  add_test(NAME report.browser COMMAND ${check_report} --dirigo $<TARGET_FILE:dirigo>)
  add_test(NAME report.browser_study COMMAND ${check_report} --report ${CMAKE_CURRENT_BINARY_DIR}/quick-study/report.html)
  set_tests_properties(report.browser report.browser_study PROPERTIES TIMEOUT 600)
  set_tests_properties(report.browser_study PROPERTIES FIXTURES_REQUIRED quick_report LABELS long)
endif()
