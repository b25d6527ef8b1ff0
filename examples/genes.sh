#!/usr/bin/env bash
# Pretraining on several studies; what the embeddings tell of pairs of genes, and the model of values that it cannot see.
#
#   bash examples/genes.sh [OUTPUT_FOLDER [PAIRS.tsv HELD_OUT.h5ad STUDY.h5ad STUDY.h5ad...]]
#
# The studies hold raw counts, with genes named alike (or give `preprocess corpus` a --gene-table that has both names).
# PAIRS.tsv has two related genes a line, or a third column 0 or 1. Without files, three studies are simulated: two to
# learn from, one to test on; the pairs are ten genes of each planted program. TRAIN holds further options of the
# training: the preset of the thesis wants a GPU (--preset thesis --precision bf16).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-scmap-genes}
mkdir -p "$out"

if [ $# -gt 1 ]; then
  pairs=$2 test=$3
  shift 3
else
  pairs=$out/pairs.tsv test=$out/held-out.h5ad
  : "${TRAIN=--preset tiny --max-genes 128 --lr 3e-3 --epochs 2}"
  scmap simulate rna -o "$out/simulated.h5ad" --preset "${PRESET:-default}" --n-batches 3 \
    --gmt-output "$out/programs.gmt" --force
  python3 "$here/data/split_studies.py" "$out/simulated.h5ad" "$out/study1.h5ad" "$out/study2.h5ad" "$test"
  awk -F '\t' '{ for (i = 3; i < 13; i++) for (j = i + 1; j < 13; j++) print $i "\t" $j }' "$out/programs.gmt" > "$pairs"
  set -- "$out/study1.h5ad" "$out/study2.h5ad"
fi
read -ra train <<< "${TRAIN---preset tiny --max-genes 256 --lr 3e-3}"

# all studies in one shuffled store of expressed genes, and the model of them
scmap preprocess corpus "$@" -o "$out/corpus.zarr" --force
scmap train expresser "$out/corpus.zarr" -o "$out/model" --force "${train[@]}"

# one vector a gene, for any other program, and what it tells of pairs beside an SVD of the counts and random vectors
scmap embed --genes "$out/model" -o "$out/genes.tsv" --force
scmap evaluate genes "$out/genes.tsv" -o "$out/genes.json" --gene-pairs "$pairs" --coexpression "$1" --force

# a tenth of what the held-out cells express is hidden; baselines learn from a study that the model has seen
hidden=(--withhold 0.1 --raw "$test" --fit-on "$1")
scmap evaluate imputation "$out/model" "${hidden[@]}" -o "$out/zero-shot.json" --observed-output "$out/observed.h5ad" --force

# the hidden values as a file; files of any other method made of observed.h5ad are scored in the same way
scmap impute "$out/model" "$out/observed.h5ad" -o "$out/imputed.h5ad" --entries-layer scmap_withheld --force
scmap evaluate imputation "$out/imputed.h5ad" "${hidden[@]}" -o "$out/file.json" --features "$out/model" --force

scmap report "$out/model" "$out/genes.json" "$out/zero-shot.json" "$out/file.json" -o "$out/report.html" --force
