"""The thesis's further tables, of one seed of ``snareseq.py``: markers, motifs, and clusters of imputed accessibility.

    python examples/benchmarks/snareseq_tables.py --work-dir snare --label-key cell_type --types Pvalb L4 \
        --motifs motifs.h5ad --imputed-motifs motifs_imputed.h5ad --magic-python magic-env/bin/python \
        --scopen-python scopen-env/bin/python -o tables.json

Markers (Tables 3.2-3.3): a type's ten markers are those that scanpy ranks first by Wilcoxon's test of log counts of
the labelled type against all others. The cells of a method are those of its clusters most of whose cells are of the
type; clusters are Leiden's of 15 neighbours, as many as labels or nearly. Told is the mean log expression (log1p of
counts per 10,000) of the markers in these cells, and the p-value of Welch's t-test of the cells' means against
SAILERX's.

Motifs (Figs 3.13-3.14), given ``preprocess motifs`` of the paired cells: for each of the two labelled types the three
motifs that are highest beside the other by Wilcoxon's test of raw z-scores; their mean z-scores in the same cells of
each method, and the t-tests. Where the genome is not at hand, ``planted_genome.py`` makes one. ``--imputed-motifs`` is
``preprocess motifs`` of ``scmap impute --binarize scale`` of SAILERX: the same motifs there.

Imputed accessibility (Fig. 3.15): the 50 first components of a randomised PCA of imputed peaks (the thesis does not say
how many), scored by ``evaluate clustering`` beside LSI of the counts: of SAILERX's probabilities and their log-odds, of
MAGIC with its own graph and with one of the RNA's reference, and of scOpen. Rows that the output file holds are not
made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
import pandas as pd
import scanpy
from measure import HERE, flags, measured, say
from scipy.stats import ttest_ind
from sklearn.decomposition import PCA
from snareseq import KEYS, add_options, matched_clusters

from scmap_cli.io.npz import read_npz
from scmap_cli.metrics.graph import knn

METHODS = {
    "RNA reference": "reference",
    "SAILERX": "sailerx",
    "SAILERX, no alignment": "sailerx",
    "SAILER": "sailer",
}
MARKERS, MOTIFS, COMPONENTS = 10, 3, 50
LOG_ODDS = "SAILERX, log-odds"


def majority(folder: Path, label_key: str, seed: int) -> dict[str, pd.Series]:
    """Of each method that was run, every cell's label as most cells of its cluster have it."""
    found = {}
    for name, kind in METHODS.items():
        path = folder / f"paired-{name.lower().replace(', ', '-').replace(' ', '-')}.h5ad"
        if not path.exists():
            continue
        adata = anndata.read_h5ad(path)
        label = adata.obs[label_key].astype(str)
        near, _ = knn(adata.obsm[KEYS[kind]], 15, seed)
        cluster = pd.Series(matched_clusters(near, label.nunique(), seed), index=label.index)
        found[name] = cluster.map(label.groupby(cluster).agg(lambda of_cluster: of_cluster.mode().iloc[0]))
    return found


def compared(values: pd.DataFrame, called: dict[str, pd.Series], label: str) -> dict[str, dict[str, Any]]:
    """Mean of some columns over the cells that each method calls so, and Welch's test against SAILERX's cells."""
    of_cells = values.mean(axis=1)
    cells = {name: of_cells[called[name].index[called[name] == label]] for name in called}
    told: dict[str, dict[str, Any]] = {}
    for name, chosen in cells.items():
        told[name] = {"cells": len(chosen), "mean": float(chosen.mean()) if len(chosen) else None}
        if name != "SAILERX" and min(len(chosen), len(cells["SAILERX"])) > 1:
            told[name]["p"] = float(ttest_ind(chosen, cells["SAILERX"], equal_var=False).pvalue)
    return told


def first_ranked(adata: anndata.AnnData, label_key: str, label: str, against: str, count: int) -> list[str]:
    """The columns that differ most between a label and another, or ``rest``."""
    scanpy.tl.rank_genes_groups(adata, label_key, groups=[label], reference=against, method="wilcoxon")
    return list(scanpy.get.rank_genes_groups_df(adata, label)["names"][:count])


def marker_tables(args: argparse.Namespace, called: dict[str, pd.Series]) -> dict[str, Any]:
    """Tables 3.2 and 3.3."""
    rna = anndata.read_h5ad(args.work_dir / "paired_rna.h5ad")
    scanpy.pp.normalize_total(rna, target_sum=1e4)
    scanpy.pp.log1p(rna)
    rna.obs[args.label_key] = rna.obs[args.label_key].astype(str).astype("category")
    found = {}
    for label in args.types:
        genes = first_ranked(rna, args.label_key, label, "rest", MARKERS)
        found[label] = {"markers": genes, "methods": compared(rna[:, genes].to_df(), called, label)}
    return found


def motif_tables(args: argparse.Namespace, called: dict[str, pd.Series]) -> dict[str, Any]:
    """Figures 3.13 and 3.14: each motif by itself, in the cells of either type."""
    raw = anndata.read_h5ad(args.motifs)
    reference = next(iter(called.values())).index
    label = anndata.read_h5ad(args.work_dir / "paired_atac.h5ad", backed="r").obs[args.label_key].astype(str)
    raw = raw[reference].copy()
    raw.obs[args.label_key] = label[reference].astype("category")
    ways = (args.types, args.types[::-1])
    motifs = [motif for one, other in ways for motif in first_ranked(raw, args.label_key, one, other, MOTIFS)]
    sources = {"raw": raw}
    if args.imputed_motifs:
        sources["imputed"] = anndata.read_h5ad(args.imputed_motifs)[reference]
    return {
        name: {motif: {one: compared(adata[:, [motif]].to_df(), called, one) for one in args.types} for motif in motifs}
        for name, adata in sources.items()
    }


def imputed_tables(args: argparse.Namespace, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Figure 3.15: scores of clusters of imputed peaks, but for the ``known`` ones."""
    scmap, data = measure.scmap_command(args.scmap), args.work_dir / "paired.h5ad"
    common = flags(seed=args.seed, threads=args.threads, quiet=True)
    table = anndata.read_h5ad(data, backed="r").obs[[args.label_key]]

    def scored(path: Path, key: str) -> dict[str, float]:
        words = ["evaluate", "clustering", path, *flags(label_key=args.label_key, embedding=key), *common]
        told = json.loads(measured([*scmap, *words], args.threads).stdout)["results"][0]
        best = {f"best_{name}": told[f"best_{name}"][name] for name in ("ari", "nmi")}
        return best | {name: told["matched"][name] for name in ("ari", "nmi")} | {"knn": told["knn_accuracy"]}

    lsi, found = folder / "lsi.h5ad", dict(known)
    if "LSI of counts" not in found:
        measured([*scmap, "embed", data, *flags(o=lsi, baseline="lsi", force=True), *common], args.threads)
        found["LSI of counts"] = scored(lsi, "X_lsi")
    values, reduced = folder / "imputed.npz", folder / "imputed-pca.h5ad"
    impute = [*scmap, "impute", folder / "paired-sailerx-model", data, *flags(o=values, force=True), *common]
    jobs = {"SAILERX": impute, LOG_ODDS: impute}
    if args.magic_python:
        magic = [args.magic_python, HERE / "peer_peaks.py", "magic", data, *flags(o=values, seed=args.seed)]
        jobs |= {"MAGIC, graph of ATAC": magic, "MAGIC, graph of RNA": [*magic, *flags(graph_key=KEYS["reference"])]}
    if args.scopen_python:
        jobs["scOpen"] = [args.scopen_python, HERE / "peer_peaks.py", "scopen", data, *flags(o=values, seed=args.seed)]
    for name, words in jobs.items():
        if name in found:
            continue
        measured(words, args.threads)
        held = read_npz(values, foreign=True)[1]
        imputed, cells = held["imputed"], held["cells"]
        if name == LOG_ODDS:
            imputed = np.log(imputed) - np.log1p(-imputed)
        pca = PCA(min(COMPONENTS, *imputed.shape), svd_solver="randomized", random_state=args.seed, copy=False)
        emb = pca.fit_transform(imputed).astype(np.float32)
        anndata.AnnData(obs=table.loc[cells], obsm={"X_imputed": emb}).write_h5ad(reduced)
        found[name] = scored(reduced, "X_imputed")
        values.unlink()
    return found


def shown(name: str, told: dict[str, dict[str, Any]]) -> list[str]:
    """Cells: of each method the mean, with the thesis's stars where it is not SAILERX's; empty if it was not run."""
    cells = [name]
    for one in METHODS:
        if one not in told:
            cells.append("")
            continue
        p, mean = told[one].get("p"), told[one]["mean"]
        stars = "" if p is None else " ns" if p > 0.05 else " " + "*" * (1 + (p < 0.01) + (p < 0.001))
        cells.append("no cluster" if mean is None else f"{mean:.3f}{stars}")
    return cells


def main() -> None:
    """Make the tables that are missing, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs=2, metavar="LABEL", required=True, help="labels whose cells are compared")
    parser.add_argument("--motifs", type=Path, help="h5ad of scmap preprocess motifs of the paired cells")
    parser.add_argument("--imputed-motifs", type=Path, help="the same of imputed accessibility")
    parser.add_argument("--magic-python", help="Python with magic-impute")
    parser.add_argument("--scopen-python", help="Python with scOpen")
    parser.add_argument("--seed", type=int, default=0, help="which of snareseq.py's")
    add_options(parser)
    args = parser.parse_args()
    settings = {name: value for name, value in measure.settings(args).items() if name in ("label_key", "types", "seed")}
    runs, folder = measure.earlier_runs(args.output, settings), args.work_dir / f"seed_{args.seed}"
    called = majority(folder, args.label_key, args.seed)
    if "markers" not in runs:
        runs["markers"] = marker_tables(args, called)
    if args.motifs and "motifs" not in runs:
        runs["motifs"] = motif_tables(args, called)
    measure.write_runs(args, "snareseq_tables", settings, runs)
    runs["imputed"] = imputed_tables(args, folder, runs.get("imputed", {}))
    measure.write_runs(args, "snareseq_tables", settings, runs)
    rows = [shown(f"{label}, markers", told["methods"]) for label, told in runs["markers"].items()]
    for name, of_motif in runs.get("motifs", {}).items():
        rows += [
            shown(f"{motif} in {label}, {name}", told)
            for motif, of_label in of_motif.items()
            for label, told in of_label.items()
        ]
    say("\n" + measure.table(["mean in the clusters of", *METHODS], rows) + "\n")
    scores = [[name, *(f"{value:.3f}" for value in told.values())] for name, told in runs["imputed"].items()]
    say(measure.table(["imputed", "best ARI", "best NMI", "ARI", "NMI", "kNN"], scores))


if __name__ == "__main__":
    main()
