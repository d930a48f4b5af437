#!/usr/bin/env bash
# setup.sh [--tests]: installs what is missing to build WuNeng on Debian 12 or the like, and says each step with its time.
#
#   packages of the distribution   compiler, CMake, Open MPI, yaml-cpp, spdlog ... by apt, as root or through sudo
#   LibTorch                       by pip into .deps/libtorch, the parts that a CPU needs; skipped where CMAKE_PREFIX_PATH is set
#   --tests                        also the Python packages that the tests compare with, into .deps/python
#
# It can be run again at any time: what is there is left alone. About 3.5 GB of disk are needed (7 GB with --tests).

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

torch_version=2.11.0
libtorch_packages=("torch==$torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

# Python's torch loads its CUDA half even on a machine without a GPU, so the tests need the libraries that this half names.
cuda_packages=(nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56 nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6
  nvidia-curand==10.4.0.35 nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3 nvidia-cusparselt-cu13==0.8.0
  nvidia-nccl-cu13==2.28.9 nvidia-nvjitlink==13.0.88 nvidia-nvshmem-cu13==3.4.5 nvidia-cuda-nvrtc==13.0.88 nvidia-nvtx==13.0.85)
reference_packages=(rwkv==0.8.32 transformers==5.0.0)
support_packages=(numpy==2.3.5 typing-extensions==4.15.0 sympy==1.14.0 networkx==3.6 jinja2==3.1.6 fsspec==2025.10.0 filelock==3.20.0
  setuptools==80.9.0 tokenizers==0.22.1 huggingface-hub==1.3.1 safetensors==0.7.0 regex==2025.11.3 packaging==25.0 pyyaml==6.0.3
  tqdm==4.67.1 httpx==0.28.1 httpcore==1.0.9 anyio==4.11.0 sniffio==1.3.1 h11==0.16.0 certifi==2025.10.5 idna==3.11)

system_packages=(g++ cmake ninja-build pkg-config git ca-certificates python3 python3-pip libopenmpi-dev openmpi-bin libyaml-cpp-dev
  libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libxxhash-dev libgtest-dev libgmock-dev libbenchmark-dev
  xz-utils bzip2)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 77; fi
}

missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

install_system_packages() {
  command -v apt-get >/dev/null || die "this machine has no apt-get; install these (or their like) by hand: $*"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
    die "these packages are missing and need root: $*. Run as root: apt-get install $*"
  as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "$@" >"$root/.deps/apt.log" 2>&1 ||
    { tail -n 5 "$root/.deps/apt.log" >&2; return 1; }
}

# pip_into FOLDER PACKAGE...: a folder of its own; a stamp names what is in it, so that an interrupted install is not taken for a whole one.
pip_into() {
  local folder=$root/.deps/$1
  shift
  rm -rf "$folder" "$folder.partial"
  python3 -m pip install --quiet --no-deps --no-compile --target "$folder.partial" "$@"
  printf '%s\n' "$@" >"$folder.partial/.stamp"
  mv "$folder.partial" "$folder"
}

has() {  # FOLDER PACKAGE...
  local stamp=$root/.deps/$1/.stamp
  shift
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(printf '%s\n' "$@")" ]
}

free_gigabytes() { df -Pk "$root" | awk 'NR==2 {print int($4 / 1048576)}'; }

main() {
  local tests=false
  for argument in "$@"; do
    case $argument in
      --help | -h) help_and_exit ;;
      --tests) tests=true ;;
      *) die "unknown argument '$argument'; see --help" ;;
    esac
  done
  mkdir -p "$root/.deps"

  local missing
  mapfile -t missing < <(missing_packages "${system_packages[@]}")
  if [ ${#missing[@]} -gt 0 ]; then
    step "system packages (${missing[*]})" "Is the network there? Else install these packages by hand and run this again." \
      install_system_packages "${missing[@]}"
  fi

  local pip_remedy
  pip_remedy="Is the network there, and is there room on the disk ($(free_gigabytes) GB free)? Run this again to go on."
  if [ -n "${CMAKE_PREFIX_PATH:-}" ] && ! $tests; then
    say "LibTorch: CMAKE_PREFIX_PATH is set, so $CMAKE_PREFIX_PATH is used"
  elif ! has libtorch "${libtorch_packages[@]}"; then
    [ "$(free_gigabytes)" -ge 4 ] || die "LibTorch needs 4 GB of free disk in $root, but only $(free_gigabytes) GB are left"
    step "LibTorch $torch_version into .deps/libtorch (530 MB)" "$pip_remedy" pip_into libtorch "${libtorch_packages[@]}"
  fi
  if $tests && ! has python "${support_packages[@]}" "${reference_packages[@]}"; then
    step "Python packages of the tests into .deps/python" "$pip_remedy" pip_into python "${support_packages[@]}" "${reference_packages[@]}"
  fi
  if $tests && ! has cuda "${cuda_packages[@]}"; then
    step "CUDA libraries that Python's torch loads into .deps/cuda (1.6 GB)" "$pip_remedy" pip_into cuda "${cuda_packages[@]}"
  fi
  say "everything is installed"
}

main "$@"
