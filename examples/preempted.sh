#!/usr/bin/env bash
# A training on a machine that is taken away: told to stop, it saves and ends with 75; the same command then goes on.
#
#   bash examples/preempted.sh [OUTPUT_FOLDER [COUNTS.h5ad PROGRAMS.gmt]]
#
# COUNTS.h5ad has a column "batch". Without files, cells are simulated. Every output is whole or absent, so that what is
# there is not made again, and the script itself is simply run again: examples/stories.sbatch does so in a queue. Without a
# queue it takes its own machine away once, and then shows that nothing was lost (STOP=0 leaves both out).
# TRAIN holds further options of the training, VIEW those of the pictures, SEED its seed.
set -euo pipefail

out=${1:-scmap-preempted}
stop=${STOP:-$([ -n "${SLURM_JOB_ID-}" ] && echo 0 || echo 1)}
mkdir -p "$out"

if [ $# -gt 1 ]; then
  data=$2 sets=$3
else
  data=$out/cells.h5ad sets=$out/programs.gmt
  : "${TRAIN=--epochs 60}"
  [ -e "$data" ] || scmap simulate rna -o "$data" --preset "${PRESET:-default}" --gmt-output "$sets" --force
fi
read -ra train <<< "${TRAIN-}"
read -ra view <<< "${VIEW---umap}"

[ -e "$out/programs.npz" ] || scmap preprocess programs "$sets" -o "$out/programs.npz" --genes "$data" --min-genes 5
training=(scmap train expimap "$data" --programs "$out/programs.npz" --batch-key batch --seed "${SEED:-0}")
training+=(--checkpoint-minutes 0.02 "${train[@]}")

if [ "$stop" = 1 ] && [ ! -e "$out/model/config.json" ]; then
  # once something is saved, the signal that a queue sends before it takes the machine
  "${training[@]}" -o "$out/model" &
  job=$!
  until [ -e "$out/model/checkpoints/last.safetensors" ] || ! kill -0 "$job" 2> /dev/null; do sleep 0.05; done
  kill -USR1 "$job" 2> /dev/null || true
  code=0
  wait "$job" || code=$?
  echo "the training ended with $code" >&2
  [ "$code" -eq 75 ] || [ "$code" -eq 0 ] || exit "$code"
fi

# the same command; a finished model is left alone
[ -e "$out/model/config.json" ] || "${training[@]}" -o "$out/model"

if [ "$stop" = 1 ]; then
  [ -e "$out/undisturbed/config.json" ] || "${training[@]}" -o "$out/undisturbed"
  cmp "$out/model/model.safetensors" "$out/undisturbed/model.safetensors"
  echo "the weights are those of a run that nobody stopped, to the byte" >&2
fi

scmap embed "$out/model" "$data" -o "$out/embedded.h5ad" --cluster leiden --force "${view[@]}"
scmap report "$out/model" "$out/embedded.h5ad" -o "$out/report.html" --force
