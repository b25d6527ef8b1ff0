#!/usr/bin/env bash
# scATAC with depth and batch effects: does the embedding still tell how deep a cell was sequenced, and in which batch?
#
#   bash examples/scatac.sh [OUTPUT_FOLDER [PEAKS.h5ad [LABEL_COLUMN]]]
#
# Without PEAKS.h5ad two batches of unequal depth are simulated, with the truth. Your own fragments become PEAKS.h5ad by
#
#   scmap preprocess atac a.fragments.tsv.gz b.fragments.tsv.gz -o peaks.h5ad --peaks peaks.bed --sample A --sample B
#
# which has the batches in its column "batch". LSI with Harmony needs: pip install 'scmap-cli[harmony]'.
# TRAIN holds further options of the training, VIEW those of the pictures.
set -euo pipefail

out=${1:-scmap-scatac}
data=${2:-}
label=${3:-cell_type}
mkdir -p "$out"

if [ -z "$data" ]; then
  data=$out/peaks.h5ad
  : "${TRAIN=--epochs 25}"
  scmap simulate atac -o "$data" --preset "${PRESET:-default}" --n-peaks "${PEAKS:-4000}" --n-batches 2 --mu 400,1000 --min-depth 100 --force
fi
read -ra train <<< "${TRAIN-}"
read -ra view <<< "${VIEW---umap}"

# the model, its embedding and its imputed accessibility
scmap train sailer "$data" -o "$out/model" --batch-key batch --force "${train[@]}"
scmap embed "$out/model" "$data" -o "$out/sailer.h5ad" --cluster leiden --force "${view[@]}"
scmap impute "$out/model" "$data" -o "$out/imputed.h5ad" --binarize cell --force

# a linear embedding of the same cells beside it
scmap embed --baseline lsi "$data" -o "$out/lsi.h5ad" --components 10 --force

# how much either still tells of depth and batch, and how well batches mix while labels stay apart
scmap evaluate invariance "$out/sailer.h5ad" "$out/lsi.h5ad" -o "$out/invariance.json" \
  --batch-key batch --plot "$out/invariance.png" --force
scmap evaluate integration "$out/sailer.h5ad" -o "$out/integration.json" --batch-key batch --label-key "$label" \
  --baseline lsi,lsi-harmony --before lsi --components 10 --plot "$out/integration.png" --force

scmap report "$out/model" "$out/sailer.h5ad" "$out/invariance.json" "$out/integration.json" -o "$out/report.html" --force
