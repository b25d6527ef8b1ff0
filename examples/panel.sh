#!/usr/bin/env bash
# A panel of 50 genes that tells cell types apart, beside other ways to choose it, on cells that had no say in the choice.
#
#   bash examples/panel.sh [OUTPUT_FOLDER [COUNTS.h5ad [LABEL_COLUMN]]]
#
# Without COUNTS.h5ad cells are simulated. GENES and SPLITS change the size of the panel and the number of splits, METHODS
# what is compared, of which the first chooses the panel.
set -euo pipefail

out=${1:-scmap-panel}
data=${2:-}
label=${3:-cell_type}
genes=${GENES:-50}
splits=${SPLITS:-3}
read -ra methods <<< "${METHODS:-markermap l1-logistic greedy-labels t-test hvg random}"
mkdir -p "$out"

if [ -z "$data" ]; then
  data=$out/cells.h5ad
  scmap simulate rna -o "$data" --preset "${PRESET:-default}" --force
fi

# the panel, with a picture of it
scmap select-markers "$data" -o "$out/panel.tsv" -k "$genes" --method "${methods[0]}" --label-key "$label" \
  --h5ad-output "$out/marked.h5ad" --plot "$out/panel.png" --force

# the same method and others, each choosing without the test cells of every split
printf '%s\n' "${methods[@]}" > "$out/methods.txt"
scmap select-markers "$data" -o "$out/benchmark.tsv" --label-key "$label" --benchmark "$out/methods.txt" \
  --k-grid "$((genes / 5)),$genes" --splits "$splits" --plot "$out/benchmark.png" --force

# which types the panel takes for one another, by its first genes and by all (it was chosen from all cells: the fair
# comparison is the table above); then the whole transcriptome rebuilt from a panel made for that
scmap evaluate markers "$data" -o "$out/accuracy.json" --label-key "$label" --markers "$out/panel.tsv" \
  --k-grid "$((genes / 5)),$genes" --splits "$splits" --plot "$out/accuracy.png" --force
scmap evaluate reconstruction "$data" -o "$out/reconstruction.json" --method greedy-columns -k "$genes" \
  --splits "$splits" --force

scmap report "$out/panel.tsv" "$out/benchmark.tsv" "$out/accuracy.json" "$out/reconstruction.json" -o "$out/report.html" --force
