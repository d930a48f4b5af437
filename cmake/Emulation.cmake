# Kernels on the CPU: the emulator (tests/emulator) and the three programs made of each of its tests.
include_guard(GLOBAL)

# The emulator is never instrumented: the sanitizers see the kernels only.
add_library(wuneng_emulator OBJECT EXCLUDE_FROM_ALL
  ${PROJECT_SOURCE_DIR}/tests/emulator/fibers.cpp ${PROJECT_SOURCE_DIR}/tests/emulator/machine.cpp
  ${PROJECT_SOURCE_DIR}/tests/emulator/memory.cpp ${PROJECT_SOURCE_DIR}/tests/emulator/primitives.cpp
  ${PROJECT_SOURCE_DIR}/tests/emulator/scheduler.cpp)
add_library(wuneng_shadow OBJECT EXCLUDE_FROM_ALL
  ${PROJECT_SOURCE_DIR}/tests/emulator/shadow.cpp ${PROJECT_SOURCE_DIR}/tests/emulator/shadow_hooks.cpp
  ${PROJECT_SOURCE_DIR}/tests/emulator/source_lines.cpp)
foreach(part wuneng_emulator wuneng_shadow)
  target_link_libraries(${part} PRIVATE wuneng_options)
  target_compile_options(${part} PRIVATE -O3 -g1)
endforeach()

# wuneng_emulated_program(name BUILD order|shadow|asan SOURCES sources... [LIBRARIES targets]): one program of kernels on the emulator.
function(wuneng_emulated_program name)
  cmake_parse_arguments(ARG "" "BUILD" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} $<TARGET_OBJECTS:wuneng_emulator>)
  target_link_libraries(${name} PRIVATE wuneng_options ${ARG_LIBRARIES})
  # A register that nobody set is then always wrong; lines are for the reports.
  target_compile_options(${name} PRIVATE -O2 -g1 -Wno-unknown-pragmas -ftrivial-auto-var-init=pattern)
  if(ARG_BUILD STREQUAL shadow)  # compiled for libtsan, but linked without: shadow_hooks.cpp stands in for it
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:wuneng_shadow>)
    target_compile_options(${name} PRIVATE -fsanitize=thread
      $<IF:$<CXX_COMPILER_ID:GNU>,--param=tsan-instrument-func-entry-exit=0;-Wno-tsan,SHELL:-mllvm -tsan-instrument-func-entry-exit=0>)
  elseif(ARG_BUILD STREQUAL asan)
    target_compile_options(${name} PRIVATE -fsanitize=address,alignment -fno-sanitize-recover=all)
    target_link_options(${name} PRIVATE -fsanitize=address,alignment)
  endif()
endfunction()

# wuneng_emulated_tests(name sources... [ORDER_ONLY sources...] [LIBRARIES targets]): <name>_order, <name>_shadow and <name>_asan, each suite a
# ctest of its own, emulated/order/... and so on. A test asks seeds() how many seeds its build should try.
function(wuneng_emulated_tests name)
  cmake_parse_arguments(ARG "" "" "ORDER_ONLY;LIBRARIES" ${ARGN})
  foreach(build order shadow asan)
    set(sources ${ARG_UNPARSED_ARGUMENTS})
    if(build STREQUAL order)
      list(APPEND sources ${ARG_ORDER_ONLY})
    endif()
    wuneng_emulated_program(${name}_${build} BUILD ${build} SOURCES ${sources}
      LIBRARIES ${ARG_LIBRARIES} GTest::gmock GTest::gtest_main)
    wuneng_suites(${name}_${build} emulated/${build} ${sources})
  endforeach()
endfunction()
