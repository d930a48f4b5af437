# wuneng_library(name [DEPENDS folders] [LIBRARIES targets]): the static library wuneng_<name> of all sources in <name>/.
# trainer/main.cpp is the program's and stays out.
function(wuneng_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;LIBRARIES" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  add_library(wuneng_${name} STATIC ${sources})
  list(TRANSFORM ARG_DEPENDS PREPEND wuneng_)
  target_link_libraries(wuneng_${name} PUBLIC wuneng_options ${ARG_DEPENDS} ${ARG_LIBRARIES})
endfunction()

# wuneng_suites(program prefix sources...): a ctest <prefix>/<suite> for each suite of a test program's sources. Not for each case: every
# process loads LibTorch, which takes half a second, longer than most cases. Suites that start programs are the long ones and go first.
function(wuneng_suites program prefix)
  foreach(source IN LISTS ARGN)
    cmake_path(ABSOLUTE_PATH source)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    file(STRINGS ${source} cases REGEX "^(TEST|TEST_F|TEST_P)\\(")
    list(TRANSFORM cases REPLACE "^[A-Z_]+\\(([A-Za-z0-9_]+),.*" "\\1")
    list(REMOVE_DUPLICATES cases)
    file(STRINGS ${source} programs REGEX "tests/.*(process|_run)\\.h\"")
    foreach(suite IN LISTS cases)
      if(NOT TEST ${prefix}/${suite})
        add_test(NAME ${prefix}/${suite} COMMAND ${program} --gtest_brief=1 --gtest_filter=${suite}.*:*/${suite}.*)
        set_tests_properties(${prefix}/${suite} PROPERTIES TIMEOUT 600
          FAIL_REGULAR_EXPRESSION "0 tests from 0 test suites ran")
      endif()
      if(programs)
        set_tests_properties(${prefix}/${suite} PROPERTIES COST 10)
      endif()
    endforeach()
  endforeach()
endfunction()

# wuneng_tests(folder): the program <folder>_tests of tests/<folder>/*_test.cpp, each suite a ctest of its own.
# *_mpi_test.cpp go into <folder>_mpi_tests, which tests/CMakeLists.txt starts under mpirun.
function(wuneng_tests folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*_test.cpp)
  list(FILTER sources EXCLUDE REGEX "_mpi_test\\.cpp$")
  if(NOT sources)
    return()
  endif()
  add_executable(${folder}_tests ${sources})
  target_link_libraries(${folder}_tests PRIVATE wuneng_${folder} ${ARGN} GTest::gmock GTest::gtest_main)
  wuneng_suites(${folder}_tests ${folder} ${sources})
endfunction()

# wuneng_mpi_tests(folder RANKS n...): the program <folder>_mpi_tests of tests/<folder>/*_mpi_test.cpp, run under mpirun with each number of ranks.
# Its main (tests/support/mpi_main.cpp) fails when a test fails on any rank.
function(wuneng_mpi_tests folder)
  cmake_parse_arguments(ARG "" "" "RANKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*_mpi_test.cpp)
  add_executable(${folder}_mpi_tests ${sources} ${CMAKE_CURRENT_SOURCE_DIR}/support/mpi_main.cpp)
  target_link_libraries(${folder}_mpi_tests PRIVATE wuneng_${folder} GTest::gmock GTest::gtest)
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${folder}/mpi_${ranks}_ranks
      COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:${folder}_mpi_tests>)
    set_tests_properties(${folder}/mpi_${ranks}_ranks PROPERTIES
      TIMEOUT 300 PROCESSORS 2)
  endforeach()
endfunction()

# The commit goes into the program at configure time: a rank must never fork git once MPI runs.
execute_process(COMMAND git -C ${PROJECT_SOURCE_DIR} rev-parse --short=12 HEAD
  OUTPUT_VARIABLE WUNENG_GIT_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
execute_process(COMMAND git -C ${PROJECT_SOURCE_DIR} status --porcelain --untracked-files=no
  OUTPUT_VARIABLE _changes ERROR_QUIET)
if(NOT WUNENG_GIT_COMMIT)
  set(WUNENG_GIT_COMMIT unknown)
elseif(_changes)
  string(APPEND WUNENG_GIT_COMMIT "+changes")
endif()
set(WUNENG_CUDA_VERSION off)
if(WUNENG_WITH_CUDA)
  set(WUNENG_CUDA_VERSION ${WUNENG_NVCC_VERSION})
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/version.cpp.in ${PROJECT_BINARY_DIR}/version.cpp @ONLY)
