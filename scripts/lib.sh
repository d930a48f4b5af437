# Shared by the scripts of this folder: where things are, timed steps, and what to do when one fails. Sourced, not run.
# shellcheck shell=bash
set -euo pipefail

# shellcheck disable=SC2034  # for the scripts that source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
# Open MPI: as root, on fewer cores than ranks, and where there is no ssh.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
command -v ssh >/dev/null || export OMPI_MCA_plm=isolated

say() { printf '\n==> %s\n' "$*"; }
die() { printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# step NAME REMEDY COMMAND...: runs the command, prints its time; when it fails, names the step and what to do.
step() {
  local name=$1 remedy=$2 begin=$SECONDS
  shift 2
  say "$name"
  "$@" || die "the step '$name' failed (exit code $?). $remedy"
  printf '    %s: %d s\n' "$name" $((SECONDS - begin))
}

# The comment at the top of the calling script is its help.
help_and_exit() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0; }
