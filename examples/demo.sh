#!/usr/bin/env bash
# From raw counts and a GMT file to an interpretable model, an embedding, a picture and scores.
#
#   bash examples/demo.sh [OUTPUT_FOLDER]        (default ./scmap-demo)
#
# Data: 2,700 blood cells (PBMC 3k, 10x Genomics, CC BY 4.0) and 40 immune gene programs; see examples/data/README.md.
set -euo pipefail

data=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/data
out=${1:-scmap-demo}
mkdir -p "$out"

say() { printf '\n== %s\n' "$*" >&2; }

say "1/7 counts: quality filters"
scmap preprocess rna "$data/pbmc3k_slice.h5ad" -o "$out/pbmc.h5ad" \
  --min-genes 200 --min-cells 3 --max-mito 10 --force

say "2/7 programs over the genes of the data"
scmap preprocess programs "$data/immune_programs.gmt" -o "$out/programs.all.npz" \
  --genes "$out/pbmc.h5ad" --min-genes 13 --force

# the order of the expiMap paper: genes in some program, then variable genes, then the size filter once more
say "3/7 genes in a program, and of those the most variable"
scmap preprocess rna "$out/pbmc.h5ad" -o "$out/train.h5ad" \
  --programs "$out/programs.all.npz" --hvg 800 --force

say "4/7 programs over the genes that are left"
scmap preprocess programs "$data/immune_programs.gmt" -o "$out/programs.npz" \
  --genes "$out/train.h5ad" --min-genes 10 --force

say "5/7 training"
scmap train expimap "$out/train.h5ad" -o "$out/model" \
  --programs "$out/programs.npz" --epochs 100 --force

say "6/7 embedding, clusters, UMAP"
scmap embed "$out/model" "$out/train.h5ad" -o "$out/embedded.h5ad" \
  --umap --cluster leiden --resolution 0.5 --plot "$out/umap.png" --force

say "7/7 scores against rule-based marker labels"
scmap evaluate clustering "$out/embedded.h5ad" -o "$out/scores.json" \
  --label-key marker_label --exclude-labels unassigned --force

# the result for a reader: clusters with their programs, then where the files are

# tab-separated text as aligned columns, long cells cut
table() {
  awk -F '\t' -v widest=44 '
    { for (i = 1; i <= NF; i++) { cell[NR, i] = substr($i, 1, widest); if (length(cell[NR, i]) > width[i]) width[i] = length(cell[NR, i]) }
      if (NF > columns) columns = NF }
    END { for (r = 1; r <= NR; r++) { line = ""
            for (i = 1; i <= columns; i++) line = line sprintf("%-" width[i] "s  ", cell[r, i])
            sub(/ +$/, "", line); print line } }' "$1"
}

printf '\nClusters, their size, and the programs that set them apart\n\n'
table "$out/embedded.h5ad.programs.tsv"
printf '\nFiles\n'
printf '  %-34s %s\n' \
  "$out/umap.png" "the embedding in two dimensions, by cluster" \
  "$out/model/loss.png" "loss curves" \
  "$out/model/programs.tsv" "programs: active or not, size, top genes" \
  "$out/embedded.h5ad" "cells with X_expimap, X_umap and clusters" \
  "$out/scores.json" "ARI, NMI and silhouette over the grid"
