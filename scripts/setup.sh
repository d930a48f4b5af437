#!/usr/bin/env bash
# setup.sh [--tests]: installs what is missing to build WuNeng on Debian 12 or the like, and says each step with its time.
#
#   packages of the distribution   compiler, CMake, Open MPI, yaml-cpp, spdlog ... by apt, as root or through sudo
#   LibTorch                       by pip into .deps/libtorch, the parts that a CPU needs; skipped where CMAKE_PREFIX_PATH has one
#   --tests                        also the Python packages that the tests compare with, into .deps/python and .deps/cuda; the program that
#                                  reads compiled CUDA kernels, into .deps/cuobjdump; and where there is no nvcc 13, nvcc into .deps/nvcc, so
#                                  that CUDA is compiled even on a machine without it
#
# It can be run again at any time: what is there is left alone. About 4 GB of disk are needed (10 GB with --tests), half of it only while installing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

torch_version=2.11.0
libtorch_packages=("torch==$torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

# Python's torch loads its CUDA half even on a machine without a GPU, so the tests need the libraries that this half names (and no others).
cuda_packages=(nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56 nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6
  nvidia-curand==10.4.0.35 nvidia-cusparse==12.6.3.3 nvidia-cusparselt-cu13==0.8.0 nvidia-nccl-cu13==2.28.9
  nvidia-nvjitlink==13.0.88 nvidia-nvshmem-cu13==3.4.5)
reference_packages=(rwkv==0.8.32 transformers==5.0.0 fla-core==0.6.0 flash-linear-attention==0.6.0 einops==0.8.2)
support_packages=(numpy==2.3.5 typing-extensions==4.15.0 sympy==1.14.0 mpmath==1.3.0 jinja2==3.1.6 markupsafe==3.0.3 filelock==3.20.0
  tokenizers==0.22.1 huggingface-hub==1.3.1 safetensors==0.7.0 regex==2025.11.3 packaging==25.0 pyyaml==6.0.3 tqdm==4.67.1
  httpx==0.28.1 httpcore==1.0.9 anyio==4.11.0 sniffio==1.3.1 h11==0.16.0 certifi==2025.10.5 idna==3.11)

# nvcc itself, and what reads the code that it made (no release 13.0 of these two; newer ones read older code).
nvcc_packages=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88)
cuobjdump_packages=(nvidia-cuda-cuobjdump==13.2.86 nvidia-cuda-nvdisasm==13.2.86)

system_packages=(g++ cmake ninja-build pkg-config git ca-certificates python3 python3-pip libopenmpi-dev openmpi-bin libyaml-cpp-dev
  libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libxxhash-dev libdnnl-dev libgtest-dev libgmock-dev libbenchmark-dev
  xz-utils bzip2)

# Hosts made of network namespaces (tests/multinode), what reads shell scripts, and clang for libFuzzer (tests/fuzz).
test_packages=(iproute2 util-linux shellcheck clang libclang-rt-dev)

setup_system() {
  local wanted=("${system_packages[@]}") missing
  if $tests; then wanted+=("${test_packages[@]}"); fi
  if ! command -v apt-get >/dev/null; then
    say "no apt-get here: taking for granted that these Debian packages, or their like, are installed: ${wanted[*]}"
    return
  fi
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  if [ ${#missing[@]} = 0 ]; then return; fi
  step "system packages" "Is the network there? Else install as root and run this again: apt-get install ${missing[*]}" \
    install_packages "${missing[@]}"
}

# pip_into FOLDER PACKAGE...: a folder of its own; a stamp names what is in it, so that an interrupted install is not taken for a whole one.
# pip unpacks beside the folder, not in /tmp, which is small on some machines.
pip_into() {
  local folder=$root/.deps/$1 partial=$root/.deps/$1.partial quiet=(--quiet)
  shift
  if [ -t 1 ]; then quiet=(); fi
  rm -rf "$partial"
  mkdir -p "$partial/.tmp"
  TMPDIR=$partial/.tmp python3 -m pip install "${quiet[@]}" --no-deps --no-compile --target "$partial" "$@"
  rm -rf "$partial/.tmp" "$folder"
  printf '%s\n' "$@" >"$partial/.stamp"
  mv "$partial" "$folder"
}

# setup_pip FOLDER GIGABYTES WHAT PACKAGE...
setup_pip() {
  local folder=$1 gigabytes=$2 what=$3 stamp=$root/.deps/$1/.stamp
  shift 3
  if [ -f "$stamp" ] && [ "$(<"$stamp")" = "$(printf '%s\n' "$@")" ]; then return; fi
  [ "$(free_gigabytes)" -ge "$gigabytes" ] ||
    die "$what needs $gigabytes GB of free disk in $root, but only $(free_gigabytes) GB are left: make room and run this again"
  step "$what into .deps/$folder" \
    "Is the network there, is there room on the disk ($(free_gigabytes) GB free), is $(python3 -V) one of 3.10 to 3.14? Run this again to go on." \
    pip_into "$folder" "$@"
}

nvcc_13_is_there() { PATH=$PATH:/usr/local/cuda/bin nvcc --version 2>/dev/null | grep -q 'release 13\.'; }

tests=false
for argument in "$@"; do
  case $argument in
    --help | -h) help_and_exit ;;
    --tests) tests=true ;;
    *) die "unknown argument '$argument'; see --help" ;;
  esac
done

setup_system
if ! $tests && [ -n "$(libtorch_of_the_user)" ]; then
  say "LibTorch: $(libtorch_of_the_user), from CMAKE_PREFIX_PATH"
else
  setup_pip libtorch 4 "LibTorch $torch_version (530 MB)" "${libtorch_packages[@]}"
fi
if $tests; then
  setup_pip python 1 "Python packages of the tests (60 MB)" "${support_packages[@]}" "${reference_packages[@]}"
  setup_pip cuda 6 "CUDA libraries that Python's torch loads (2.2 GB of disk)" "${cuda_packages[@]}"
  nvcc_13_is_there || setup_pip nvcc 1 "nvcc (250 MB of disk)" "${nvcc_packages[@]}"
  setup_pip cuobjdump 1 "cuobjdump and nvdisasm (6 MB)" "${cuobjdump_packages[@]}"
fi
say "everything is installed"
