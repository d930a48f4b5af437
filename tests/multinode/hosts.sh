#!/usr/bin/env bash
# hosts.sh: hosts h1, h2 ... on this machine, for tests: network namespaces joined by a bridge, 10.77.0.1, 10.77.0.2 ... Needs root and iproute2.
#
#   hosts.sh up LAB N                 makes them; LAB keeps the hosts of one test apart from those of another
#   hosts.sh on LAB HOST COMMAND...   runs a shell command on a host, under its own name; mpirun takes "hosts.sh on LAB" for ssh
#   hosts.sh link LAB HOST up|down    its network
#   hosts.sh down LAB                 kills what still runs on them and removes them
set -eu
action=$1 lab=$2
shift 2

up() {
  local host
  ip netns add "$lab-switch"
  ip -n "$lab-switch" link add bridge type bridge
  ip -n "$lab-switch" link set bridge up
  for ((host = 1; host <= $1; ++host)); do
    ip netns add "$lab-h$host"
    ip link add wire netns "$lab-h$host" type veth peer name "port$host" netns "$lab-switch"
    ip -n "$lab-switch" link set "port$host" master bridge up
    ip -n "$lab-h$host" address add "10.77.0.$host/24" dev wire
    ip -n "$lab-h$host" link set lo up
    ip -n "$lab-h$host" link set wire up
  done
}

down() {
  local name
  for name in $(ip netns list | awk -v lab="$lab-" 'index($1, lab) == 1 {print $1}'); do
    ip netns pids "$name" | xargs -r kill -KILL
    ip netns delete "$name"
  done
}

case $action in
  up) up "$1" ;;
  down) down ;;
  link) ip -n "$lab-$1" link set wire "$2" ;;
  on)
    host=$1
    shift
    # A name of its own makes MPI take it for another machine, with which it shares no memory.
    # shellcheck disable=SC2016  # the inner shell expands it
    exec ip netns exec "$lab-$host" unshare --uts -- sh -c 'hostname "$0"; exec sh -c "$*"' "$host" "$@"
    ;;
  *) echo "hosts.sh: unknown action $action" >&2; exit 2 ;;
esac
