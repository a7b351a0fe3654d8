# The exercises of docs/exercises: as started by tools/exercise each must compile and be marked as failed, as
# solved (the repository's own code) it must pass. A test program links the one changed file, which the linker then
# prefers to the same file of a library.

add_library(exercise_marker OBJECT ${CMAKE_CURRENT_LIST_DIR}/marker.cpp)
target_link_libraries(exercise_marker PRIVATE dirigo_autograd)
target_compile_options(exercise_marker PRIVATE ${DIRIGO_COMPILE_OPTIONS})

function(dirigo_exercise_program name state op)
  set(copy ${CMAKE_BINARY_DIR}/exercises/${state}/${name})
  list(TRANSFORM ARGN PREPEND ${copy}/ OUTPUT_VARIABLE changed)
  file(GLOB_RECURSE watched ${PROJECT_SOURCE_DIR}/core/*.[ch]pp ${PROJECT_SOURCE_DIR}/autograd/*.[ch]pp
       ${PROJECT_SOURCE_DIR}/docs/exercises/*.cpp)
  add_custom_command(OUTPUT ${changed}
                     COMMAND ${CMAKE_COMMAND} -E rm -rf ${copy}
                     COMMAND ${PROJECT_SOURCE_DIR}/tools/exercise ${state} ${name} ${copy}
                     DEPENDS ${watched} ${PROJECT_SOURCE_DIR}/tools/exercise VERBATIM)
  add_executable(exercise_${name}_${state} $<TARGET_OBJECTS:exercise_marker> ${changed})
  # The copy's headers before the repository's.
  target_include_directories(exercise_${name}_${state} BEFORE PRIVATE ${copy}/core/src ${copy}/core/include
                             ${copy}/autograd/include)
  target_include_directories(exercise_${name}_${state} SYSTEM PRIVATE ${DIRIGO_XSIMD_INCLUDE})
  target_compile_options(exercise_${name}_${state} PRIVATE ${DIRIGO_COMPILE_OPTIONS} -O2 -fno-math-errno
                                                           -fno-trapping-math)
  target_link_libraries(exercise_${name}_${state} PRIVATE dirigo_autograd)
  set(expected 0)
  if(state STREQUAL start)
    set(expected 1)
  endif()
  add_test(NAME exercise.${name}.${state}
           COMMAND sh -c "\"$1\" \"$2\"; test $? = ${expected}" sh $<TARGET_FILE:exercise_${name}_${state}> ${op})
endfunction()

# NAME, the operation that marks it, and the files to compile.
set(isa core/src/kernels/isa_portable.cpp)  # double runs the portable kernels on every machine
dirigo_exercise_program(softmax_vjp start softmax ${isa})
dirigo_exercise_program(sliding_window start local_attention ${isa})
dirigo_exercise_program(linear_state start linear_attention ${isa})
dirigo_exercise_program(dirichlet_kl start dirichlet_kl core/src/dirichlet_math.cpp)
dirigo_exercise_program(implicit_gradient start dirichlet_rsample core/src/dirichlet_math.cpp)
dirigo_exercise_program(new_op start softsign autograd/src/op_list.cpp autograd/src/ops/softsign.cpp)
dirigo_exercise_program(new_op solve softsign autograd/src/op_list.cpp autograd/src/ops/softsign.cpp)

# The other solutions are the library itself.
add_executable(exercise_solutions $<TARGET_OBJECTS:exercise_marker>)
target_link_libraries(exercise_solutions PRIVATE dirigo_autograd)
foreach(op softmax local_attention linear_attention dirichlet_kl dirichlet_rsample)
  add_test(NAME exercise.solution.${op} COMMAND exercise_solutions ${op})
endforeach()

# Every exercise has its page, and the audit that the page names knows the claims and passes.
if(TARGET dirigo)
  dirigo_repository_test(exercises ${DIRIGO_CHECKS}/check_exercises.sh ${PROJECT_SOURCE_DIR} $<TARGET_FILE:dirigo>)
endif()
