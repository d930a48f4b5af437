#!/usr/bin/env bash
# mpirun.sh HOSTFILE COMMAND ARGUMENT...: runs `wuneng COMMAND ...` on all hosts of a file, by Open MPI over ssh.
#
#   HOSTFILE   one host a line with its number of processes: "node1 slots=8"
#
#   scripts/launch/mpirun.sh hosts.txt train configs/tiny.yaml --set data.train=corpus --output runs/first
#
# The program, the corpus and the run folder have the same paths on every host. From the environment:
#
#   NETWORK        the network that joins the hosts, where they have several: 10.1.0.0/16
#   WUNENG         the program; else build/wuneng of this checkout
#   MPIRUN_FLAGS   more flags, e.g. "--map-by ppr:4:socket --report-bindings"
#
# Signals to this script reach every process: USR1 saves and stops (exit code 3; the same command goes on), USR2 saves and goes on. TERM ends the job within
# seconds, which is too short for a save. A lost host ends it within half a minute.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0; fi
fail() { echo "mpirun.sh: $*" >&2; exit 2; }

[ $# -ge 2 ] || fail "give the hosts and a command of wuneng; see --help"
hostfile=$1
shift
program=${WUNENG:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/wuneng}
[ -r "$hostfile" ] || fail "$hostfile: cannot be read; write one host a line: node1 slots=8"
[ -x "$program" ] || fail "$program: is not there; run scripts/build.sh, or set WUNENG"
processes=$(awk '!/^[[:space:]]*(#|$)/ {n = 1; for (i = 2; i <= NF; ++i) if (sub(/^slots=/, "", $i)) n = $i; sum += n} END {print sum + 0}' "$hostfile")
[ "$processes" -ge 1 ] || fail "$hostfile: names no host; write one host a line: node1 slots=8"

# Threads find their cores by themselves: bound to the one core that mpirun gives by default, they would share it.
flags=(-n "$processes" --hostfile "$hostfile" --bind-to none)
# A host that is gone, without a word, is noticed after 10 + 3 * 5 seconds; without these after minutes.
export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-10}
export OMPI_MCA_oob_tcp_keepalive_intvl=${OMPI_MCA_oob_tcp_keepalive_intvl:-5}
export OMPI_MCA_oob_tcp_keepalive_probes=${OMPI_MCA_oob_tcp_keepalive_probes:-3}
if [ -n "${NETWORK:-}" ]; then flags+=(--mca btl_tcp_if_include "$NETWORK" --mca oob_tcp_if_include "$NETWORK"); fi
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi  # in containers
# By themselves only variables OMPI_* travel to the other hosts.
for name in $(compgen -e); do
  case $name in NCCL_* | UCX_* | OMP_* | MKL_* | WUNENG_* | CUDA_VISIBLE_DEVICES | LD_LIBRARY_PATH) flags+=(-x "$name") ;; esac
done
read -ra more <<<"${MPIRUN_FLAGS:-}"
exec mpirun "${flags[@]}" "${more[@]}" "$program" "$@"
