#!/usr/bin/env bash
# One embedding of cells with RNA and ATAC and of cells with ATAC alone: where do those lie that have no RNA?
#
#   bash examples/multiome.sh [OUTPUT_FOLDER [RNA.h5ad ATAC.h5ad ATAC_ONLY.h5ad [LABEL_COLUMN]]]
#
# RNA.h5ad and ATAC.h5ad hold the same cells by name; the peaks of ATAC_ONLY.h5ad are matched by position. A file of Cell
# Ranger ARC holds both: scmap preprocess multiome filtered_feature_bc_matrix.h5 -o multiome.h5ad. Without files, cells
# are simulated. TRAIN holds further options of the training, VIEW those of the pictures.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-scmap-multiome}
mkdir -p "$out"

if [ $# -gt 1 ]; then
  rna=$2 atac=$3 only=$4 label=${5:-cell_type}
else
  rna=$out/rna.h5ad atac=$out/atac.h5ad only=$out/atac-only.h5ad label=cell_type
  : "${TRAIN=--epochs 40}"
  types=(--preset "${PRESET:-default}" --n-types "${TYPES:-4}")
  scmap simulate rna -o "$out/simulated-rna.h5ad" "${types[@]}" --n-batches 1 --force
  scmap simulate atac -o "$out/simulated-atac.h5ad" "${types[@]}" --n-peaks "${PEAKS:-4000}" --mu 800 --min-depth 100 --n-batches 2 --force
  python3 "$here/data/pair_cells.py" "$out/simulated-rna.h5ad" "$out/simulated-atac.h5ad" "$rna" "$atac" "$only"
fi
read -ra train <<< "${TRAIN-}"
read -ra view <<< "${VIEW---umap}"

# one file of peaks with an embedding of the RNA where there is any; the log says how many cells were paired
scmap preprocess multiome --rna "$rna" --atac "$atac" --atac-only "$only" -o "$out/multiome.h5ad" --batch-key batch --force

# the model, its embedding of all cells and their imputed accessibility
scmap train sailerx "$out/multiome.h5ad" -o "$out/model" --batch-key batch --force "${train[@]}"
scmap embed "$out/model" "$out/multiome.h5ad" -o "$out/sailerx.h5ad" --cluster leiden --force "${view[@]}"
scmap impute "$out/model" "$out/multiome.h5ad" -o "$out/imputed.h5ad" --binarize cell --force

# do cells with and without RNA mix while types stay apart, beside an embedding of the peaks alone?
scmap evaluate integration "$out/sailerx.h5ad" -o "$out/integration.json" --batch-key batch --label-key "$label" \
  --baseline lsi --before lsi --components 10 --plot "$out/integration.png" --force
scmap evaluate clustering "$out/sailerx.h5ad" -o "$out/clustering.json" --label-key "$label" --force

scmap report "$out/model" "$out/sailerx.h5ad" "$out/integration.json" "$out/clustering.json" -o "$out/report.html" --force
