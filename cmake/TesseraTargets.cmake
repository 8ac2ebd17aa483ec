# How targets are made. Every target gets the same language level and warnings from tessera_options;
# there are no global flags.

add_library(tessera_options INTERFACE)
target_compile_features(tessera_options INTERFACE cxx_std_20)
target_include_directories(tessera_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(tessera_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wsign-conversion -Wno-missing-field-initializers -Werror>
  # CMake 3.25 knows no CUDA_STANDARD above 17 for nvcc, so the flag is given by hand.
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -lineinfo -Xcompiler=-Wall,-Wextra -Werror=all-warnings>)

set(TESSERA_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, e.g. address,undefined")
if(TESSERA_SANITIZE)
  # GCC 12 warns of false alarms in Abseil's templates under sanitizers.
  target_compile_options(tessera_options INTERFACE
    -fsanitize=${TESSERA_SANITIZE} -fno-omit-frame-pointer
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan -Wno-maybe-uninitialized>)
  target_link_options(tessera_options INTERFACE -fsanitize=${TESSERA_SANITIZE})
endif()

function(_tessera_common_properties name)
  target_link_libraries(${name} PUBLIC tessera_options)
  set_target_properties(${name} PROPERTIES
    CXX_STANDARD 20 CXX_EXTENSIONS OFF)
endfunction()

# tessera_library(NAME SOURCES a.cc b.cu DEPS other_targets)
function(tessera_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  _tessera_common_properties(${name})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
endfunction()

# tessera_program(NAME SOURCES main.cc DEPS targets): an executable in ${binaryDir}/bin.
function(tessera_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  _tessera_common_properties(${name})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# tessera_test(NAME SOURCES x_test.cc ... DEPS targets [LABEL cpu|gpu|multigpu])
# One executable holds a module's tests; ctest lists each claim by itself. A test that skips is
# shown as skipped, not as passed.
function(tessera_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_LABEL)
    set(ARG_LABEL cpu)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  _tessera_common_properties(${name})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} tessera_test_support)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name}
    TEST_PREFIX "${name}."
    DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
endfunction()
