#!/usr/bin/env bash
# parents.sh FOLDER [STEPS [SEED...]]: the WuNeng's fusions and its parents at equal parameters on the King James text; prints each run's last validation loss.
#
# FOLDER gets the corpus and the runs, each of which goes on where it was interrupted. 300 steps and seeds 1, 2, 3 take about 50 minutes on one core.
set -euo pipefail
if [ $# = 0 ] || [ "$1" = --help ]; then sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$1 steps=${2:-300}
seeds=("${@:3}")
if [ ${#seeds[@]} = 0 ]; then seeds=(1 2 3); fi
wuneng=${WUNENG:-$root/build/wuneng}

base=(model.width=128 model.layers=4 model.attention.heads=4 model.attention.head_size=32 model.state.heads=2 data.sequence_length=256
  "trainer.steps=$steps" trainer.global_batch=8 trainer.micro_batch=4 trainer.threads=1 optimizer.lr=3e-3 optimizer.min_lr=1e-4 optimizer.warmup_steps=30)
# The feed-forward's width brings each to 1.344 M parameters within 0.35 %.
declare -A variants=(
  [transformer]="model.state.heads=0 model.ffn.hidden=664"
  [rwkv7]="model.attention.heads=0 model.ffn.kind=rwkv model.norm=layer model.embedding_norm=true model.init=rwkv optimizer.eps=1e-18 model.ffn.hidden=832"
  [hymba]="model.attention.heads=2 model.state.heads=1 model.ffn.hidden=600"
  [concat]="model.ffn.hidden=384"
  [additive]="model.fusion.mode=additive model.ffn.hidden=408"
  [gated]="model.fusion.mode=gated model.ffn.hidden=376"
  [mixed]="model.middle.mode=mixed model.ffn.hidden=328"
)

mkdir -p "$folder"
if [ ! -e "$folder/validation.bin" ]; then
  "$root/scripts/get_corpus.sh" kjv "$folder/text"
  for part in train validation; do "$wuneng" tokenize --tokenizer bytes --output "$folder/$part" "$folder/text/$part"/*; done
fi
for seed in "${seeds[@]}"; do
  for name in transformer rwkv7 hymba concat additive gated mixed; do
    flags=(--set "data.train=$folder/train" --set "data.validation=$folder/validation" --set "seed=$seed")
    for setting in "${base[@]}" ${variants[$name]}; do flags+=(--set "$setting"); done
    "$wuneng" train "$root/configs/tiny.yaml" "${flags[@]}" --output "$folder/$name-$seed" >"$folder/$name-$seed.out" 2>&1
    echo "$name, seed $seed: $(grep -o 'validation loss.*' "$folder/$name-$seed.out" | tail -n 1)"
  done
done
