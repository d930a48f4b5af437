#!/usr/bin/env bash
# build.sh [--tests] [--bench] [-D...]: installs what is missing, configures and builds into build/, and prints the time.
#
#   (no flag)   the program, build/wuneng
#   --tests     also all tests
#   --bench     also the benchmarks, build/wuneng_bench
#   -DNAME=X    passed to CMake, e.g. -DWUNENG_CUDA=OFF -DCMAKE_PREFIX_PATH=/opt/libtorch

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

setup_flags=()
cmake_flags=()
targets=(wuneng)
for argument in "$@"; do
  case $argument in
    --help | -h) help_and_exit ;;
    --tests) setup_flags=(--tests) cmake_flags+=(-DWUNENG_TESTS=ON) targets=(all) ;;
    --bench) cmake_flags+=(-DWUNENG_BENCHMARKS=ON) targets=(all) ;;
    -D*) cmake_flags+=("$argument") ;;
    *) die "unknown argument '$argument'; see --help" ;;
  esac
done

"$root/scripts/setup.sh" "${setup_flags[@]}"
step "configure" "The message above names what CMake did not find; scripts/setup.sh installs it." \
  cmake -S "$root" -B "$root/build" -G Ninja "${cmake_flags[@]}"
step "build" "The compiler's message above tells; with little memory build with fewer jobs: ninja -C build -j1." \
  ninja -C "$root/build" "${targets[@]}"
