#!/usr/bin/env bash
# test.sh [CTEST ARGUMENTS]: installs what is missing, builds everything and runs every test, from a bare checkout.
#
#   scripts/test.sh                  all tests but the soaks (hundreds of kills, long fuzzing)
#   scripts/test.sh -R trainer/      only those whose name matches
#   scripts/test.sh -L soak          the soaks

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case ${1:-} in --help | -h) help_and_exit ;; esac

"$root/scripts/build.sh" --tests
say "tests"
arguments=("$@")
[[ " $* " == *" -L "* ]] || arguments+=(-LE soak)
begin=$SECONDS
status=0
ctest --test-dir "$root/build" --output-on-failure --no-tests=error --parallel 2 "${arguments[@]}" || status=$?
printf '    tests: %d s, everything: %d s\n' $((SECONDS - begin)) "$SECONDS"
exit $status
