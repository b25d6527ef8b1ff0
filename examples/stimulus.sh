#!/usr/bin/env bash
# Which gene programs answer a stimulus, in all cells and within each cell type; the table goes through sort and head.
#
#   bash examples/stimulus.sh [OUTPUT_FOLDER [COUNTS.h5ad PROGRAMS.gmt CONDITION_COLUMN TREATED CONTROL TYPE_COLUMN]]
#
# Without COUNTS.h5ad cells are simulated, half of them stimulated. TRAIN holds further options of the training.
set -euo pipefail

out=${1:-scmap-stimulus}
data=${2:-} sets=${3:-} condition=${4:-condition} treated=${5:-stim} control=${6:-ctrl} type=${7:-cell_type}
mkdir -p "$out"

if [ -z "$data" ]; then
  data=$out/cells.h5ad sets=$out/programs.gmt
  : "${TRAIN=--epochs 60}"
  scmap simulate rna -o "$data" --preset "${PRESET:-default}" --n-batches 1 --stimulated 0.5 --gmt-output "$sets" --force
fi
read -ra train <<< "${TRAIN-}"
read -ra view <<< "${VIEW---umap}"

# Treated and control cells are one batch here: a batch of its own would explain part of the stimulus away.
scmap preprocess programs "$sets" -o "$out/programs.npz" --genes "$data" --min-genes 5 --force
scmap train expimap "$data" -o "$out/model" --programs "$out/programs.npz" --force "${train[@]}"

# over all cells, straight from stdout: the programs that rise, strongest first (head leaves before the table ends: 141)
contrast=(--groupby "$condition" --group "$treated" --against "$control")
scmap gp-test "$out/model" "$data" -o - "${contrast[@]}" \
  | tail -n +2 | sort -t $'\t' -k 11,11r -k 4,4n | cut -f 5,7,11 | head -n 10 || [ $? -eq 141 ]

# the same within each type, as a file and a picture
scmap gp-test "$out/model" "$data" -o "$out/tests.tsv" "${contrast[@]}" --within "$type" --plot "$out/tests.png" --force

scmap embed "$out/model" "$data" -o "$out/embedded.h5ad" --cluster leiden --force "${view[@]}"
scmap report "$out/model" "$out/embedded.h5ad" "$out/tests.tsv" -o "$out/report.html" --force
