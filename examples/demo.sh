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

# steps this small gain little from threads, and lose much when the cores are shared
say "5/7 training"
scmap train expimap "$out/train.h5ad" -o "$out/model" \
  --programs "$out/programs.npz" --epochs "${EPOCHS:-100}" --threads 1 --force

say "6/7 embedding, clusters, UMAP, programs by cluster"
scmap embed "$out/model" "$out/train.h5ad" -o "$out/embedded.h5ad" \
  --umap --cluster leiden --resolution 0.8 --plot "$out/umap.png" --color clusters,marker_label \
  --program-scores "$out/programs.by_cluster.tsv" --groupby clusters --force

say "7/7 scores against rule-based marker labels"
scmap evaluate clustering "$out/embedded.h5ad" -o "$out/scores.json" \
  --label-key marker_label --exclude-labels unassigned --force

# For the reader: every cluster with the programs whose mean score lies furthest above the mean of all cells, and the
# genes that weigh most in them. Columns are found by name.
cluster_table() {
  awk -F '\t' -v programs=3 -v listed=4 '
    NR == FNR && FNR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    NR == FNR {
      count = split($at["top_genes"], gene, ","); text = ""
      for (i = 1; i <= count && i <= listed; i++) { sub(/\(.*/, "", gene[i]); text = text (i > 1 ? " " : "") gene[i] }
      genes[$at["program"]] = text; next
    }
    FNR == 1 { for (i = 3; i <= NF; i++) name[i] = $i; columns = NF; next }
    { rows++; cluster[rows] = $1; cells[rows] = $2; all += $2
      for (i = 3; i <= columns; i++) { score[rows, i] = $i; mean[i] += $2 * $i } }
    END {
      printf "%-8s %6s   %s\n", "cluster", "cells", "programs above the average (score difference: leading genes)"
      for (r = 1; r <= rows; r++) {
        split("", used)
        for (n = 1; n <= programs; n++) {
          best = 0
          for (i = 3; i <= columns; i++) {
            lead = score[r, i] - mean[i] / all
            if (!(i in used) && lead > 0 && (!best || lead > top)) { best = i; top = lead }
          }
          if (!best) break
          used[best] = 1
          printf "%-8s %6s   %-24s +%.2f: %s\n", n == 1 ? cluster[r] : "", n == 1 ? cells[r] : "", name[best], top, genes[name[best]]
        }
      }
    }' "$1" "$2"
}

printf '\n'
cluster_table "$out/model/programs.tsv" "$out/programs.by_cluster.tsv"
printf '\n'
printf '%s\n    %s\n' \
  "$out/umap.png" "UMAP by cluster and by marker label" \
  "$out/model/loss.png" "loss curves" \
  "$out/model/programs.tsv" "programs: active or not, size, top genes with weights" \
  "$out/programs.by_cluster.tsv" "mean program scores of the clusters" \
  "$out/embedded.h5ad" "cells with X_expimap, X_umap and expimap_cluster" \
  "$out/scores.json" "ARI, NMI and silhouette over the grid"
