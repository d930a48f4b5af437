#!/usr/bin/env bash
# quickstart.sh [KEY=VALUE ...]: from a bare checkout to a trained model: installs what is missing, builds, fetches the King James Bible, trains a small
# WuNeng on it with two processes (about four minutes), and shows what it learnt. KEY=VALUE overrides a key of configs/quickstart.yaml.
#
# Interrupted, the same command goes on where it was. The run is kept in runs/quickstart; delete that folder to train anew.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
overrides=()
for argument in "$@"; do
  case $argument in
    --help | -h) help_and_exit ;;
    *=*) overrides+=(--set "$argument") ;;
    *) die "unknown argument '$argument'; see --help" ;;
  esac
done
cd "$root"
program=build/wuneng
corpus=corpora/kjv
run=runs/quickstart

tokenise() {
  local ids
  ids=$($program train configs/quickstart.yaml --print-config "${overrides[@]}" | awk '$1 == "vocab_size:" {print $2}')
  $program tokenize --train "$ids" --output $corpus/tokenizer.json $corpus/train/*.txt
  $program tokenize --tokenizer $corpus/tokenizer.json --output $corpus/train $corpus/train/*.txt
  $program tokenize --tokenizer $corpus/tokenizer.json --output $corpus/validation $corpus/validation/*.txt
}

train() {
  local progress=()
  if [ -t 2 ]; then progress=(--progress); fi
  mpirun -n 2 $program train configs/quickstart.yaml --output $run "${overrides[@]}" "${progress[@]}"
}

# Bits per byte that a compressor needs for the validation text.
compressed_bits() { awk -v got="$(cat $corpus/validation/*.txt | "$1" -9 -c | wc -c)" -v all="$2" 'BEGIN {printf "%.3f", got * 8 / all}'; }

show_results() {
  local result bytes tool
  result=$($program evaluate $run --data $corpus/validation --json)
  bytes=$(cat $corpus/validation/*.txt | wc -c)
  value() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" <<<"$result"; }
  printf '\nThe last 5 %% of the King James Bible, which the model has not seen (%d bytes):\n\n' "$bytes"
  printf '  %-28s %.4f nats per token\n' "validation loss" "$(value loss)"
  printf '  %-28s %.3f bits per byte\n' "this model" "$(value bits_per_byte)"
  for tool in gzip xz bzip2; do
    printf '  %-28s %s bits per byte\n' "$tool -9" "$(compressed_bits $tool "$bytes")"
  done
  printf '\nWhat it writes:\n\n'
  $program generate $run --prompt "And it came to pass" --tokens 160 --seed 1 | fold -s -w 100 | sed 's/^/  /'
  cat <<EOF

Go on with it, in $root:
  train on (resumes by itself)   scripts/quickstart.sh trainer.steps=2000
  the same by hand               export ${mpi_environment[*]}
                                 mpirun -n 2 $program train configs/quickstart.yaml --output $run --set trainer.steps=2000
  evaluate                       $program evaluate $run --data $corpus/validation
  generate                       $program generate $run --prompt "In the beginning" --tokens 200
  look at the curves             tensorboard --logdir $run      (pip install tensorboard)

EOF
}

scripts/build.sh
scripts/get_corpus.sh kjv $corpus
if [ ! -f $corpus/validation.idx ]; then step "tokenise" "Delete $corpus and run this again." tokenise; fi
step "train (mpirun -n 2)" "The message above tells; the same command goes on from the last checkpoint." train
training_seconds=$step_seconds
step "results" "The message above tells; the trained model is in $run." show_results
printf '\ntraining: %d s, everything: %d s\n' "$training_seconds" "$SECONDS"
