# Shared by the scripts of this folder: where things are, timed steps, packages, and what to do when a step fails. Sourced, not run.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C.UTF-8 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

# Open MPI on one small machine: more ranks than cores, as root, without ssh.
mpi_environment=(OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none)
if [ "$(id -u)" = 0 ]; then mpi_environment+=(OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1); fi
command -v ssh >/dev/null || mpi_environment+=(OMPI_MCA_plm=isolated)
export "${mpi_environment[@]}"
export HWLOC_HIDE_ERRORS=2  # it complains of containers without /sys

say() { printf '\n==> %s\n' "$*"; }
die() { printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# step NAME REMEDY COMMAND...: runs the command and prints its time; when it fails, names the step and what to do.
step() {
  local name=$1 remedy=$2 begin=$SECONDS status
  shift 2
  say "$name"
  set +e  # not "$@" || ...: left of || bash ignores errexit, and a function would go on after its first failure
  (set -e; "$@")
  status=$?
  set -e
  step_seconds=$((SECONDS - begin))
  if [ $status != 0 ]; then
    printf '\n%s: the step "%s" failed (exit code %d). %s\n' "$(basename "$0")" "$name" $status "$remedy" >&2
    exit $status
  fi
  printf '    %s: %d s\n' "$name" $step_seconds
}

# The comment at the top of the calling script is its help.
help_and_exit() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0; }

# As many compilers at once as there are cores and 1.5 GB of free memory for each.
parallel_compilers() {
  local cores by_memory
  cores=$(nproc)
  by_memory=$(awk '/^MemAvailable/ {print int($2 / 1.5e6)}' /proc/meminfo)
  echo $((by_memory < 1 ? 1 : by_memory < cores ? by_memory : cores))
}

free_gigabytes() { df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}'; }

# Names those of the packages that dpkg does not know as installed.
missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

# install_packages PACKAGE...: by apt, as root or through sudo.
install_packages() {
  local as_root=() output
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "only root can install packages, and there is no sudo"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq || echo "    (not all package lists could be fetched: going on with those at hand)"
  output=$("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "$@" 2>&1) || { tail -n 5 <<<"$output" >&2; return 1; }
}

# The first LibTorch along CMAKE_PREFIX_PATH, searched as cmake/FindLibTorch.cmake does; nothing when there is none.
libtorch_of_the_user() {
  local prefix folder prefixes
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    for folder in "$prefix" "$prefix/torch" "$prefix/../.."; do
      if [ -f "$folder/include/ATen/core/Tensor.h" ]; then echo "$folder"; return; fi
    done
  done
}
