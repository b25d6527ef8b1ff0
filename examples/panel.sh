#!/usr/bin/env bash
# A panel of 50 genes that tells cell types apart, beside other ways to choose it, on cells that had no say in the choice.
#
#   bash examples/panel.sh [OUTPUT_FOLDER [COUNTS.h5ad [LABEL_COLUMN]]]
#
# Without COUNTS.h5ad cells are simulated. GENES and SPLITS change the size of the panel and the number of splits.
set -euo pipefail

out=${1:-scmap-panel}
data=${2:-}
label=${3:-cell_type}
genes=${GENES:-50}
splits=${SPLITS:-3}
mkdir -p "$out"

if [ -z "$data" ]; then
  data=$out/cells.h5ad
  scmap simulate rna -o "$data" --preset "${PRESET:-default}" --force
fi

# the panel, with a picture of it
scmap select-markers "$data" -o "$out/panel.tsv" -k "$genes" --method l1-logistic --label-key "$label" \
  --h5ad-output "$out/marked.h5ad" --plot "$out/panel.png" --force

# the same method and others, each choosing without the test cells of every split
printf '%s\n' l1-logistic greedy-labels t-test hvg random > "$out/methods.txt"
scmap select-markers "$data" -o "$out/benchmark.tsv" --label-key "$label" --benchmark "$out/methods.txt" \
  --k-grid "$((genes / 5)),$genes" --splits "$splits" --plot "$out/benchmark.png" --force

# what a panel that stays wrong looks like: accuracy by number of genes, and the whole transcriptome rebuilt from it
scmap evaluate markers "$data" -o "$out/accuracy.json" --label-key "$label" --method l1-logistic \
  --k-grid "$((genes / 5)),$genes" --splits "$splits" --plot "$out/accuracy.png" --force
scmap evaluate reconstruction "$data" -o "$out/reconstruction.json" --method greedy-columns -k "$genes" \
  --splits "$splits" --force

scmap report "$out/panel.tsv" "$out/benchmark.tsv" "$out/accuracy.json" "$out/reconstruction.json" -o "$out/report.html" --force
