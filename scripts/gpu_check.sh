#!/usr/bin/env bash
# gpu_check.sh [--report FILE] [--parts LIST] [-D...]: everything that only a GPU can say about the kernels, in one report.
#
#   1. builds kernels/ for CUDA, a library of the operators for Python, and the emulator, into build-gpu/
#   2. runs the suite's own checks on the CPU: what fails here is not the GPU's fault
#   3. compares every warp primitive of the GPU with the emulator, register by register
#   4. runs the suite on the GPU: all checks on device tensors, compute-sanitizer on small shapes, the benchmark (with fla when Python finds it)
#   5. where build/wuneng is there and starts: trains small models of every kind on the GPU and on the CPU, resumes, and lets two processes share the GPU
#
#   --report FILE   where the report goes; else report.md in $OUT if that is set, in build-gpu/ if not
#   --parts LIST    which of checks,sanitizer,benchmark step 4 runs; all when not given
#   -DNAME=X        passed to CMake, e.g. -DWUNENG_CUDA_ARCHITECTURES=90a to build for one card only
#
# Needs nvcc 13, cmake, ninja, g++ and a python3 with torch 2.11 or newer, and no network: LibTorch is that of Python's torch, fmt the one whose headers
# torch carries. The rest of WuNeng (and so yaml-cpp, spdlog, CLI11, GoogleTest, MPI) is left out by -DWUNENG_KERNELS_ONLY=ON; the suite is plain Python.
# Where python3 has no torch, the one of scripts/setup.sh --tests is taken. Exit code 0: all passed; 3: no GPU; else something failed.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build=$root/build-gpu
report=${OUT:-$build}/report.md
cmake_flags=()
parts=checks,sanitizer,benchmark
command_line="scripts/gpu_check.sh $*"
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) help_and_exit ;;
    --report) [ $# -ge 2 ] || die "give the file to write to: --report FILE"; report=$2; shift ;;
    --parts) [ $# -ge 2 ] || die "give what to run: --parts checks,sanitizer,benchmark"; parts=$2; shift ;;
    -D*) cmake_flags+=("$1") ;;
    *) die "unknown argument '$1'; see --help" ;;
  esac
  shift
done

export PYTHONDONTWRITEBYTECODE=1
torch_of_python() { python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)' 2>/dev/null; }
if ! torch=$(torch_of_python); then
  export PYTHONPATH=$root/.deps/libtorch:$root/.deps/python
  LD_LIBRARY_PATH=$(printf '%s:' "$root"/.deps/cuda/nvidia/*/lib)${LD_LIBRARY_PATH:-}
  export LD_LIBRARY_PATH
  torch=$(torch_of_python) || die "python3 cannot import torch: install torch 2.11, or run scripts/setup.sh --tests"
fi
for program in cmake ninja g++; do
  command -v $program >/dev/null || die "no $program on PATH"
done

suite=(python3 "$root/tests/gpu/suite.py" --ops "$build/libwuneng_ops.so")
mkdir -p "$build" "$(dirname "$report")"
commit=$(git -C "$root" describe --always --dirty --abbrev=12 2>/dev/null) || commit=unknown
step "configure, torch of $torch" "The message above names what CMake did not find." \
  cmake -S "$root" -B "$build" -G Ninja -DWUNENG_KERNELS_ONLY=ON -DWUNENG_CUDA=ON "-DCMAKE_PREFIX_PATH=$torch" -U 'LibTorch_*' -U WUNENG_NVCC "${cmake_flags[@]}"
step "build" "The compiler's message above tells." ninja -C "$build" -j "$(parallel_compilers)"
step "the emulator's registers" "Run tests/kernels/emulated/conformance_test.cpp." \
  "$build/conformance_dump" "$build/emulator.txt"
step "the suite on the CPU" "The checks named above fail without any GPU." \
  env MALLOC_PERTURB_=128 "${suite[@]}" --device cpu

if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  printf '\nno GPU: torch.cuda.is_available() is false. Built and checked on the CPU; nothing was measured, no report was written.\n' >&2
  exit 3
fi
say "the suite on the GPU"
status=0
"${suite[@]}" --device cuda --parts "$parts" --conformance "$build/emulator.txt" --report "$report" --commit "$commit" --command "$command_line" || status=$?
if "$root/build/wuneng" --version >/dev/null 2>&1; then
  say "the trainer on the GPU"
  python3 "$root/tests/gpu/trainer_checks.py" --program "$root/build/wuneng" --device cuda --report "$report" || status=$?
else
  say "the trainer was not checked: build/wuneng is not there or does not start"
fi
say "report: $report"
exit $status
