#!/usr/bin/env bash
# New cells in a finished reference: Ensembl ids where the reference has symbols, missing genes, and two new batches.
#
#   bash examples/query.sh [OUTPUT_FOLDER [REFERENCE.h5ad PROGRAMS.gmt LABEL_COLUMN SAMPLE.h5ad SAMPLE.h5ad...]]
#
# REFERENCE.h5ad has a column "batch" and the labels. The genes of each SAMPLE are named by Ensembl ids; their symbols are
# in the column "symbol" of var (SYMBOLS names another). Without files, three batches are simulated, of which two become
# such samples. (Folders and .h5 of Cell Ranger are named by symbols when they are read and need no SYMBOLS.)
# TRAIN and MAP hold further options of the training and the mapping, VIEW those of the pictures.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-scmap-query}
mkdir -p "$out"

if [ $# -gt 1 ]; then
  reference=$2 sets=$3 label=$4
  shift 4
else
  reference=$out/reference.h5ad sets=$out/programs.gmt label=cell_type
  : "${TRAIN=--epochs 100}" "${MAP=--epochs 100}"
  scmap simulate rna -o "$out/simulated.h5ad" --preset "${PRESET:-default}" --n-batches 3 --gmt-output "$sets" --force
  # one batch is the reference; two become samples, a fifth of their genes left out
  python3 "$here/data/split_for_query.py" "$out/simulated.h5ad" "$reference" "$out/sample1.h5ad" "$out/sample2.h5ad"
  set -- "$out/sample1.h5ad" "$out/sample2.h5ad"
fi
read -ra train <<< "${TRAIN-}"
read -ra map <<< "${MAP-}"
read -ra view <<< "${VIEW---umap}"

# the reference
scmap preprocess programs "$sets" -o "$out/programs.npz" --genes "$reference" --min-genes 5 --force
scmap train expimap "$reference" -o "$out/model" --programs "$out/programs.npz" --batch-key batch --force "${train[@]}"
scmap embed "$out/model" "$reference" -o "$out/embedded.h5ad" --force

# the query: one file of all samples, named by symbols, a batch for each
scmap preprocess rna "$@" -o "$out/query.h5ad" --gene-column "${SYMBOLS:-symbol}" --batch-key batch --force

# what would be matched, without doing it; then the mapping, with labels of the reference carried over
scmap map-query "$out/model" "$out/query.h5ad" -o "$out/mapped.h5ad" --model-out "$out/mapped-model" --dry-run
scmap map-query "$out/model" "$out/query.h5ad" -o "$out/mapped.h5ad" --model-out "$out/mapped-model" \
  --batch-key batch --reference "$reference" --label-key "$label" \
  --join "$out/joined.h5ad" --force "${map[@]}"

# do the new batches lie among the old ones, and the labels apart?
scmap evaluate integration "$out/joined.h5ad" -o "$out/integration.json" --batch-key scmap_batch --label-key scmap_label \
  --baseline pca --components 10 --force
scmap embed "$out/mapped-model" "$out/query.h5ad" -o "$out/query-embedded.h5ad" --cluster leiden --force "${view[@]}"

scmap report "$out/model" "$out/mapped-model" "$out/mapped.h5ad" "$out/query-embedded.h5ad" "$out/integration.json" \
  -o "$out/report.html" --force
