# DIRIGO_MUTANTS=ON (docs/mutation.md): sources with mutants, and those that include them, are compiled from mutated
# copies in the build tree; all others, the tests among them, as ever.

find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(DIRIGO_MUTATED ${CMAKE_BINARY_DIR}/mutated)
set(DIRIGO_MUTANT_LISTS ${PROJECT_SOURCE_DIR}/tests/mutants)
execute_process(COMMAND ${Python3_EXECUTABLE} ${DIRIGO_MUTANT_LISTS}/mutants.py ${DIRIGO_MUTATED}
                OUTPUT_VARIABLE DIRIGO_MUTATED_SOURCES RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "the mutants do not fit the sources")
endif()
file(GLOB_RECURSE inputs CONFIGURE_DEPENDS ${DIRIGO_MUTANT_LISTS}/*
     ${PROJECT_SOURCE_DIR}/core/src/*pp ${PROJECT_SOURCE_DIR}/autograd/src/*pp ${PROJECT_SOURCE_DIR}/nn/src/*pp
     ${PROJECT_SOURCE_DIR}/data/src/*pp ${PROJECT_SOURCE_DIR}/meta_attention/src/*pp)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${inputs})

# Replaces the paths in the list `variable` that have a mutated copy. -O1: compile time counts for more here.
function(dirigo_use_mutated variable)
  set(result)
  foreach(path ${${variable}})
    cmake_path(ABSOLUTE_PATH path BASE_DIRECTORY ${PROJECT_SOURCE_DIR})
    cmake_path(RELATIVE_PATH path BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE name)
    if(name IN_LIST DIRIGO_MUTATED_SOURCES)
      string(REGEX MATCH "^[^/]+" library ${name})
      set(path ${DIRIGO_MUTATED}/${name})
      set_source_files_properties(${path} PROPERTIES
        INCLUDE_DIRECTORIES ${DIRIGO_MUTATED}/${library}/src
        COMPILE_OPTIONS "-O1;-w;-include;${DIRIGO_MUTANT_LISTS}/mutant.hpp")
    endif()
    list(APPEND result ${path})
  endforeach()
  set(${variable} ${result} PARENT_SCOPE)
endfunction()
