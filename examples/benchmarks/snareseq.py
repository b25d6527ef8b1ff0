"""SAILERX on paired RNA and ATAC of labelled cells: beside its own reference, without its parts, and on a hybrid.

    python examples/benchmarks/snareseq.py --rna rna.h5ad --atac atac.h5ad --label-key cell_type --batch-key library \
        --drop-label Mis --hide-batch 09A 09B 09C 09D --lone-types Pvalb L4 \
        --scvi-python scvi-env/bin/python --work-dir snare -o snare.json

Every row is the command line with its shipped defaults: ``preprocess multiome``, ``train``, ``embed``, ``evaluate``.
Four files are made of the cells, once:

paired   all cells with both modalities
hybrid   the RNA of the cells of ``--hide-batch`` taken away; they stay with their ATAC alone
lone     the same, and no cell with RNA is of the first of ``--lone-types``: it is among the cells without RNA alone
sides    all cells paired; the cells of ``--hide-batch`` lack the first type, the others the second (Fig. 3.12)

Rows are of all cells of their file, and of a hybrid also of its cells without RNA by themselves. ``no alignment`` is
``--alignment-weight 0``; ``length one`` are the rows of the reference scaled to length one, whose distances go by the
cosines that the alignment is of: what it can bring without the ATAC. ``own reference`` is the embedding of
``--reference-key`` in ``obsm`` of the RNA; without it, scVI's is made (``peer_peaks.py scvi``). SAILER is trained on
the ATAC of all cells, also those that ``lone`` lacks, and tells there how far the ATAC by itself keeps the type apart.
MultiVI is trained on the hybrid's counts (``peer_peaks.py multivi``). Without their Python the peers are left out.

Best ARI and NMI are over the grid of ``evaluate clustering``, the next two at the number of clusters nearest to that of
the labels; kNN is the 5-fold accuracy of 15 neighbours. Mixing is the entropy of batches, or of cells with and without
RNA, among 50 neighbours, and iLISI that of ``evaluate integration`` with these two as the batches. F1, neighbours:
of a lone type, the F1 of its best Leiden cluster where the clusters are as many as the labels, and the share of its
cells' 15 neighbours that are of it (the lower of two types). Where labels come from the RNA, methods that see the RNA
are favoured. Runs that the output file holds are not repeated. The thesis's tables are made of these runs by
``snareseq_tables.py``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import HERE, flags, measured, say
from sklearn.preprocessing import normalize

from scmap_cli.metrics.clustering import RESOLUTIONS
from scmap_cli.metrics.graph import knn, leiden, to_igraph

FIGURES = {
    "best ARI": "best_ari", "best NMI": "best_nmi", "ARI": "ari", "NMI": "nmi", "kNN": "knn",
    "silhouette": "silhouette", "mixing": "mixing", "depth MI": "depth_mi", "batch MI": "batch_mi",
    "mixing by RNA": "rna_mixing", "iLISI": "rna_ilisi", "F1": "f1", "neighbours": "neighbours",
}  # fmt: skip
KEYS = {
    "reference": "X_rna",
    "directions": "X_rna",
    "sailerx": "X_sailerx",
    "sailer": "X_sailer",
    "multivi": "X_multivi",
}


def write_inputs(args: argparse.Namespace) -> None:
    """The four pairs of files, ``NAME_rna.h5ad`` and ``NAME_atac.h5ad``, of cells that have both and a wanted label."""
    rna, atac = anndata.read_h5ad(args.rna), anndata.read_h5ad(args.atac)
    cells = atac.obs_names[atac.obs_names.isin(rna.obs_names)]
    rna, atac = rna[cells].copy(), atac[cells].copy()
    for key in (args.label_key, args.batch_key):
        column = (atac if key in atac.obs else rna).obs[key]
        rna.obs[key] = atac.obs[key] = column
    label, hidden = atac.obs[args.label_key], atac.obs[args.batch_key].astype(str).isin(args.hide_batch).to_numpy()
    kept = (label.notna() & ~label.astype(str).isin(["", *args.drop_label])).to_numpy()
    first, second = ((label.astype(str) == name).to_numpy() for name in args.lone_types or ("", ""))
    chosen = {
        "paired": (kept, kept),
        "hybrid": (kept & ~hidden, kept),
        "lone": (kept & ~hidden & ~first, kept & (hidden | ~first)),
        "sides": (kept & ~(hidden & first) & ~(~hidden & second),) * 2,
    }
    for name in needed(args):
        for kind, whole, of_kind in zip(("rna", "atac"), (rna, atac), chosen[name], strict=True):
            whole[of_kind].copy().write_h5ad(args.work_dir / f"{name}_{kind}.h5ad")


def needed(args: argparse.Namespace) -> list[str]:
    """Names of the files that the options ask for."""
    return ["paired", *(["hybrid"] if args.hide_batch else []), *(["lone", "sides"] if args.lone_types else [])]


class Run:
    """All rows of one seed, in a folder of its own."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed, self.folder = args, seed, args.work_dir / f"seed_{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scmap = measure.scmap_command(args.scmap)

    def call(self, *words: str | Path, **options: object) -> str:
        """Run scmap; what is there is replaced."""
        common = flags(**options, seed=self.seed, threads=self.args.threads, quiet=True)
        return measured([*self.scmap, *words, *common], self.args.threads).stdout

    def peer(self, job: str, cells: Path, output: Path, **options: object) -> None:
        """Run a job of ``peer_peaks.py``."""
        words = [cells, *flags(o=output, seed=self.seed, batch_key=self.args.batch_key, **options)]
        if self.args.peer_epochs:
            words += flags(epochs=self.args.peer_epochs)
        measured([self.args.scvi_python, HERE / "peer_peaks.py", job, *words], self.args.threads)

    def data(self, name: str) -> Path:
        """The multiome file of a pair of files; ``own`` is ``paired`` with another reference."""
        path = self.folder / "own.h5ad" if name == "own" else self.args.work_dir / f"{name}.h5ad"
        if path.exists():
            return path
        pair = {kind: self.args.work_dir / f"{name}_{kind}.h5ad" for kind in ("rna", "atac")}
        more = {}
        if name == "own":
            pair = {kind: self.args.work_dir / f"paired_{kind}.h5ad" for kind in ("rna", "atac")}
            more = {"reference_key": self.args.reference_key or "X_scvi"}
            if not self.args.reference_key:
                made = self.folder / "scvi.h5ad"
                self.peer("scvi", pair["rna"], made)
                rna = anndata.read_h5ad(pair["rna"])
                rna.obsm["X_scvi"] = anndata.read_h5ad(made)[rna.obs_names].obsm["X_scvi"]
                pair["rna"] = self.folder / "own_rna.h5ad"
                rna.write_h5ad(pair["rna"])
        self.call("preprocess", "multiome", o=path, **pair, batch_key=self.args.batch_key, **more)
        return path

    def embedded(self, name: str, kind: str, data: str, **options: object) -> Path:
        """The embedding of a file by a model with these options, beside the columns that scores need."""
        path = self.folder / f"{name}.h5ad"
        if path.exists():
            return path
        source, key = self.data(data), KEYS[kind]
        made = source
        if kind == "multivi":
            made = self.folder / "peer.h5ad"
            self.peer("multivi", source, made, rna=self.args.work_dir / f"{data}_rna.h5ad")
        elif kind not in ("reference", "directions"):
            # SAILER is the same with and without the RNA of some cells.
            model = self.folder / ("sailer-model" if kind == "sailer" else f"{name}-model")
            made = self.folder / "whole.h5ad"
            if not (model / "config.json").exists():
                epochs = {"epochs": self.args.epochs} if self.args.epochs else {}
                common = {"batch_key": self.args.batch_key, "device": self.args.device, **epochs}
                self.call("train", kind, source, o=model, **common, **options)
            self.call("embed", model, source, o=made, force=True)
        table = anndata.read_h5ad(source, backed="r").obs[
            [self.args.label_key, self.args.batch_key, "has_rna", "atac_depth"]
        ]
        found = anndata.read_h5ad(made, backed="r")
        emb_nz = np.asarray(found[table.index].obsm[key], dtype=np.float32)
        if kind == "directions":
            emb_nz = normalize(emb_nz)
        anndata.AnnData(obs=table, obsm={key: emb_nz}).write_h5ad(path)
        if made != source:
            made.unlink()
        return path

    def scores(self, path: Path, kind: str, alone: bool = False) -> dict[str, Any]:
        """Scores of an embedding, or of its cells without RNA ``alone``."""
        args, key = self.args, KEYS[kind]
        both = not alone and not anndata.read_h5ad(path, backed="r").obs["has_rna"].all()
        if alone:
            whole, path = anndata.read_h5ad(path), self.folder / "alone.h5ad"
            whole[~whole.obs["has_rna"]].copy().write_h5ad(path)
        by_label = {"label_key": args.label_key, "embedding": key}
        by_depth = {"depth_key": "atac_depth", "embedding": key}
        alike = self.told("clustering", path, **by_label, subsamples=args.subsamples)
        several = anndata.read_h5ad(path, backed="r").obs[args.batch_key].nunique() > 1
        telling = self.told("invariance", path, **by_depth, **({"batch_key": args.batch_key} if several else {}))
        found = {
            "cells": alike["cells"],
            "best_ari": alike["best_ari"]["ari"],
            "best_nmi": alike["best_nmi"]["nmi"],
            **{name: alike["matched"][name] for name in ("ari", "nmi", "clusters")},
            "knn": alike["knn_accuracy"],
            **{name: alike[name] for name in ("silhouette", "silhouette_clusters")},
            "subsamples": alike.get("subsamples"),
            "mixing": telling.get("mixing"),
            **{name: telling[name]["mean"] for name in ("depth_mi", "batch_mi") if name in telling},
        }
        if both:
            found["rna_mixing"] = self.told("invariance", path, **by_depth, batch_key="has_rna")["mixing"]
            found["rna_scib"] = self.told("integration", path, **by_label, batch_key="has_rna")["scores"]
            found["rna_ilisi"] = found["rna_scib"]["ilisi"]
        return found

    def told(self, what: str, path: Path, **options: object) -> dict[str, Any]:
        """The one result of ``scmap evaluate``."""
        return dict(json.loads(self.call("evaluate", what, path, **options))["results"][0])

    def apart(self, path: Path, kind: str, types: list[str]) -> dict[str, float]:
        """How far types are apart from all others."""
        adata = anndata.read_h5ad(path)
        label = adata.obs[self.args.label_key].astype(str).to_numpy()
        near, _ = knn(adata.obsm[KEYS[kind]], 15, self.seed)
        found = matched_clusters(near, len(set(label)), self.seed)
        f1, share = [], []
        for name in types:
            of_type = label == name
            both = [(int((of_type & (found == c)).sum()), int((found == c).sum())) for c in np.unique(found)]
            f1.append(max(2 * shared / (size + of_type.sum()) for shared, size in both))
            share.append(float((label[near[of_type]] == name).mean()))
        return {"f1": float(min(f1)), "neighbours": min(share)}

    def rows(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Makers of the scores of each row, by its name."""
        args, found = self.args, {}

        def add(name: str, kind: str, data: str, alone: bool = False, types: tuple[str, ...] = (), **more: Any) -> None:
            file = f"{data}, {name}".lower().replace(", ", "-").replace(" ", "-")

            def made() -> dict[str, Any]:
                path = self.embedded(file, kind, data, **more)
                told = self.scores(path, kind, alone)
                return told | (self.apart(path, kind, list(types)) if types else {})

            found[f"{data}{', without RNA' if alone else ''}: {name}"] = made

        add("RNA reference", "reference", "paired")
        add("RNA reference, length one", "directions", "paired")
        add("SAILERX", "sailerx", "paired")
        add("SAILERX, no alignment", "sailerx", "paired", alignment_weight=0)
        add("SAILER", "sailer", "paired")
        if args.reference_key or args.scvi_python:
            add("own reference", "reference", "own")
            add("own reference, length one", "directions", "own")
            add("SAILERX", "sailerx", "own")
        for alone in (True, False) if args.hide_batch else ():
            add("SAILERX", "sailerx", "hybrid", alone)
            add("SAILER", "sailer", "hybrid", alone)
            if args.scvi_python:
                add("MultiVI", "multivi", "hybrid", alone)
        if args.lone_types:
            add("SAILERX", "sailerx", "lone", types=(args.lone_types[0],))
            add("SAILER", "sailer", "lone", types=(args.lone_types[0],))
            add("SAILERX", "sailerx", "sides", types=tuple(args.lone_types))
        return found


def matched_clusters(near: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Leiden clusters of a graph of 15 neighbours, at the resolution that gives a number nearest to ``wanted``."""
    graph = to_igraph(near)
    tried = [leiden(graph, resolution, seed) for resolution in RESOLUTIONS]
    return min(tried, key=lambda one: abs(len(np.unique(one)) - wanted))


def tables(runs: dict[str, dict[str, Any]], names: list[str]) -> str:
    """One row a name, means and deviations over the seeds."""
    rows = []
    for name in names:
        told = [run for key, run in runs.items() if key.rpartition(", seed ")[0] == name]
        if told:
            values = [[one[figure] for one in told if one.get(figure) is not None] for figure in FIGURES.values()]
            rows.append([name, str(len(told)), *map(measure.shown, values)])
    return measure.table(["", "seeds", *FIGURES], rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that the tables of the thesis need as well."""
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--work-dir", type=Path, required=True, help="files, models and embeddings of every run")
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON with every figure")


def main() -> None:
    """Make the rows that are missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rna", type=Path, required=True, help="h5ad of counts of genes")
    parser.add_argument("--atac", type=Path, required=True, help="h5ad of counts of peaks in the same cells")
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--drop-label", nargs="+", default=[], help="labels whose cells are left out")
    parser.add_argument("--hide-batch", nargs="+", default=[], help="batches whose RNA the hybrid lacks")
    parser.add_argument("--lone-types", nargs=2, metavar="LABEL", help="with --hide-batch: types of one side alone")
    parser.add_argument("--reference-key", help="obsm key of the RNA with another reference (default: scVI's)")
    parser.add_argument("--scvi-python", help="Python with scvi-tools")
    parser.add_argument("--peer-epochs", type=int, default=0, help="of the peers (default: their own)")
    parser.add_argument("--epochs", type=int, default=0, help="of scmap's models (default: their own)")
    parser.add_argument("--subsamples", type=int, default=5, help="of 90 %% of the cells, for error bars")
    parser.add_argument("--rows", nargs="+", help="names of the rows to make, as 'paired: SAILERX' (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--device", default="cpu")
    add_options(parser)
    args = parser.parse_args()
    if args.lone_types and not args.hide_batch:
        parser.error("--lone-types needs --hide-batch, which makes the two sides")
    compared = (
        "rna", "atac", "label_key", "batch_key", "drop_label", "hide_batch", "lone_types", "reference_key",
        "peer_epochs", "epochs", "subsamples",
    )  # fmt: skip
    settings = {name: value for name, value in measure.settings(args).items() if name in compared}
    runs = measure.earlier_runs(args.output, settings)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    if not (args.work_dir / f"{needed(args)[-1]}_atac.h5ad").exists():
        write_inputs(args)
    names: list[str] = []
    for seed in args.seeds:
        rows = Run(args, seed).rows()
        names = list(rows)
        if unknown := set(args.rows or ()) - set(rows):
            parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
        for name, made in rows.items():
            key = f"{name}, seed {seed}"
            if key not in runs and (args.rows is None or name in args.rows):
                runs[key] = made()
                say(f"{key}: {json.dumps(runs[key])}")
                measure.write_runs(args, "snareseq", settings, runs)
    say("\n" + tables(runs, names))


if __name__ == "__main__":
    main()
