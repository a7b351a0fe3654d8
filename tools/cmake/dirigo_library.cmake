# dirigo_library(NAME [DEPENDS ...]): a static library of every .cpp below NAME/src, with NAME/include public.
# One operation is one file: a new file is picked up without touching this build.

set(DIRIGO_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
if(DIRIGO_WERROR)
  list(APPEND DIRIGO_WARNINGS -Werror)
endif()

# Contracted a*b+c would make results depend on the compiler: kernels say fma where they mean it.
set(DIRIGO_COMPILE_OPTIONS ${DIRIGO_WARNINGS} -ffp-contract=off)
set(DIRIGO_KERNEL_OPTIMISATION -O3)
if(DIRIGO_SANITIZE)
  # Unrolled loops full of inline checks take GCC minutes a file: optimise less, and call the checks.
  set(DIRIGO_KERNEL_OPTIMISATION -O1)
  list(APPEND DIRIGO_COMPILE_OPTIONS -fsanitize=${DIRIGO_SANITIZE} -fno-omit-frame-pointer -O1)
  if(DIRIGO_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND DIRIGO_COMPILE_OPTIONS "SHELL:--param asan-instrumentation-with-call-threshold=0")
  endif()
  add_link_options(-fsanitize=${DIRIGO_SANITIZE})
endif()
if(DIRIGO_SANITIZE MATCHES "thread")
  # oneTBB's library is not instrumented: neither is the one file that calls it, which instead tells
  # ThreadSanitizer what a parallel region orders (DIRIGO_TSAN). All other code is checked, in the workers too.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/core/src/context.cpp PROPERTIES
                              COMPILE_OPTIONS -fno-sanitize=thread COMPILE_DEFINITIONS DIRIGO_TSAN=1)
endif()

function(dirigo_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${name}/src/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/isa_[a-z0-9]+\\.cpp$")  # built by isa_kernels.cmake
  if(DIRIGO_MUTANTS)
    dirigo_use_mutated(sources)
  endif()
  add_library(dirigo_${name} STATIC ${sources})
  add_library(dirigo::${name} ALIAS dirigo_${name})
  target_include_directories(dirigo_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/${name}/include>
                                                   $<INSTALL_INTERFACE:include>)
  target_include_directories(dirigo_${name} PRIVATE ${PROJECT_SOURCE_DIR}/${name}/src)
  target_compile_options(dirigo_${name} PRIVATE ${DIRIGO_COMPILE_OPTIONS})
  foreach(dependency ${ARG_DEPENDS})
    target_link_libraries(dirigo_${name} PUBLIC dirigo_${dependency})
  endforeach()
  target_link_libraries(dirigo_${name} PRIVATE $<BUILD_INTERFACE:fmt::fmt>)
endfunction()
