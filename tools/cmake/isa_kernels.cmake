# One object library per instruction set: only these files get ISA flags, and only they include xsimd.
# Every shipped binary holds them all; core/src/dispatch.cpp chooses one at run time.

# Debian's xsimd target drags in -lxtl: take its include directory only.
get_target_property(DIRIGO_XSIMD_INCLUDE xsimd INTERFACE_INCLUDE_DIRECTORIES)

function(dirigo_isa name)
  set(source core/src/kernels/isa_${name}.cpp)
  if(DIRIGO_MUTANTS AND name STREQUAL "portable")  # one instruction set is enough: the templates are the same
    dirigo_use_mutated(source)
  endif()
  add_library(dirigo_isa_${name} OBJECT ${source})
  target_include_directories(dirigo_isa_${name} PRIVATE core/include core/src)
  target_include_directories(dirigo_isa_${name} SYSTEM PRIVATE ${DIRIGO_XSIMD_INCLUDE})
  # Optimised in every configuration: xsimd's intrinsics need inlining, and -O0 kernels are useless.
  target_compile_options(dirigo_isa_${name} PRIVATE ${DIRIGO_COMPILE_OPTIONS} ${DIRIGO_KERNEL_OPTIMISATION} -fno-exceptions
                                                    -fno-math-errno -fno-trapping-math ${ARGN})
  target_sources(dirigo_core PRIVATE $<TARGET_OBJECTS:dirigo_isa_${name}>)
endfunction()

dirigo_isa(portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  dirigo_isa(avx2 -march=x86-64-v3)
  dirigo_isa(avx512 -march=x86-64-v4 -mprefer-vector-width=512 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
             $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)
  target_compile_definitions(dirigo_core PRIVATE DIRIGO_X86=1)
endif()
target_link_libraries(dirigo_core PRIVATE $<BUILD_INTERFACE:TBB::tbb> $<BUILD_INTERFACE:Eigen3::Eigen>
                      PUBLIC Threads::Threads)
foreach(name nn data meta_attention)
  target_link_libraries(dirigo_${name} PRIVATE $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
endforeach()
