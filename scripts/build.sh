#!/usr/bin/env bash
# build.sh [--tests] [--bench] [-D...]: installs what is missing, configures and builds into build/, and prints the time.
#
#   (no flag)   the program, build/wuneng
#   --tests     also all tests
#   --bench     also the benchmarks, build/wuneng_bench
#   -DNAME=X    passed to CMake, e.g. -DWUNENG_CUDA=OFF
#
# CMAKE_PREFIX_PATH, from the environment or as -DCMAKE_PREFIX_PATH=..., names another LibTorch; then none is installed for the program.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

setup_flags=()
cmake_flags=()
targets=(wuneng)
for argument in "$@"; do
  case $argument in
    --help | -h) help_and_exit ;;
    --tests) setup_flags=(--tests) cmake_flags+=(-DWUNENG_TESTS=ON) targets=(all) ;;
    --bench) cmake_flags+=(-DWUNENG_BENCHMARKS=ON) targets=(all) ;;
    -DCMAKE_PREFIX_PATH=*) export CMAKE_PREFIX_PATH=${argument#*=} ;;
    -D*) cmake_flags+=("$argument") ;;
    *) die "unknown argument '$argument'; see --help" ;;
  esac
done
if [ -n "${CMAKE_PREFIX_PATH:-}" ]; then cmake_flags+=("-DCMAKE_PREFIX_PATH=${CMAKE_PREFIX_PATH//:/;}"); fi

"$root/scripts/setup.sh" "${setup_flags[@]}"
step "configure" "The message above names what CMake did not find; scripts/setup.sh installs it." \
  cmake -S "$root" -B "$root/build" -G Ninja -U 'LibTorch_*' -U WUNENG_NVCC "${cmake_flags[@]}"
step "build" "The compiler's message above tells; when a compiler was killed, memory is short: ninja -C build -j1 goes on." \
  ninja -C "$root/build" -j "$(parallel_compilers)" "${targets[@]}"
