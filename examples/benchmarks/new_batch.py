"""Cells of batches that a SAILER or SAILERX never saw, embedded as they are, beside a model trained with them.

    python examples/benchmarks/new_batch.py atac.h5ad --label-key cell_type --batch-key batch --new-batch B \
        --work-dir new -o new.json
    python examples/benchmarks/new_batch.py multiome.h5ad --system sailerx --label-key cell_type --batch-key library \
        --new-batch 09A 09B --work-dir new -o new.json

The decoder of both is told the batch and the encoder is not, so a surgery that gives the decoder a column for a new
batch moves no cell: what `embed` does with such cells is all that there is to do, short of training anew.

``with them``     trained on all cells
``never seen``    trained on the cells of the other batches; `embed` of all cells
``by themselves`` trained on the new cells alone; not for SAILERX, whose new cells have no RNA here

Best ARI and NMI, and the 5-fold label accuracy of 15 neighbours, of the new cells alone; `labels` is the share of them
whose type most of their 15 nearest other cells have; mixing is the entropy of new and other cells among 50 neighbours.
What the output file holds is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import flags, measured, say
from sklearn.neighbors import KNeighborsClassifier

FIGURES = ("best_ari", "best_nmi", "knn", "labels", "mixing")


class Run:
    """One seed: its files, models and scores."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed, self.folder = args, seed, args.work_dir / f"seed_{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scmap = measure.scmap_command(args.scmap)
        self.key = f"X_{args.system}"

    def call(self, *words: str | Path, **options: object) -> str:
        """Run scmap; what is there is replaced."""
        common = flags(**options, seed=self.seed, threads=self.args.threads, quiet=True)
        return measured([*self.scmap, *words, *common], self.args.threads).stdout

    def scores(self, trained_on: str) -> dict[str, Any]:
        """Train on a part of the cells, embed all of them (or that part alone), score."""
        args = self.args
        adata = anndata.read_h5ad(args.cells)
        new_n = adata.obs[args.batch_key].astype(str).isin(args.new_batch).to_numpy()
        if not new_n.any():
            raise SystemExit(f"no cell of {args.cells} is of the batches {', '.join(args.new_batch)}")
        path, model, out = self.folder / "part.h5ad", self.folder / "model", self.folder / "embedded.h5ad"
        part = {"with them": adata, "never seen": adata[~new_n], "by themselves": adata[new_n]}[trained_on]
        part.copy().write_h5ad(path)
        batches = {} if part.obs[args.batch_key].nunique() < 2 else {"batch_key": args.batch_key}
        options = {"o": model, "force": True, "device": args.device, **batches}
        self.call("train", args.system, path, *shlex.split(args.train_options), **options)
        self.call("embed", model, path if trained_on == "by themselves" else args.cells, o=out, force=True)
        found = anndata.read_h5ad(out)
        of_new = found.obs[args.batch_key].astype(str).isin(args.new_batch).to_numpy()
        found.obs["new"] = np.where(of_new, "new", "other")
        slim = anndata.AnnData(obs=found.obs[[args.label_key, "new"]], obsm={self.key: found.obsm[self.key]})
        scores: dict[str, Any] = {"cells": int(of_new.sum())} | self.figures(slim[of_new], path)
        if not of_new.all():
            whole = self.figures(slim, path, batch_key="new")
            scores |= {"mixing": whole["mixing"], "all_ari": whole["best_ari"], "all_nmi": whole["best_nmi"]}
            emb_nz, label_n = np.asarray(slim.obsm[self.key]), slim.obs[args.label_key].astype(str).to_numpy()
            votes = KNeighborsClassifier(15).fit(emb_nz[~of_new], label_n[~of_new])
            scores["labels"] = float((votes.predict(emb_nz[of_new]) == label_n[of_new]).mean())
        return scores

    def figures(self, cells: anndata.AnnData, path: Path, **options: object) -> dict[str, Any]:
        """Scores of these cells by themselves."""
        cells.copy().write_h5ad(path)
        words = {"embedding": self.key, "label_key": self.args.label_key, **options}
        told = json.loads(self.call("evaluate", "clustering", path, **words))["results"][0]
        found = {"best_ari": told["best_ari"]["ari"], "best_nmi": told["best_nmi"]["nmi"], "knn": told["knn_accuracy"]}
        return found | {"mixing": told.get("mixing")}


def main() -> None:
    """Make the runs that are missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="h5ad of peaks, for SAILERX that of preprocess multiome")
    parser.add_argument("--system", choices=["sailer", "sailerx"], default="sailer")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--new-batch", nargs="+", required=True, metavar="BATCH")
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON with every figure")
    args = parser.parse_args()
    same = {
        name: value
        for name, value in measure.settings(args).items()
        if name in ("cells", "system", "label_key", "batch_key", "new_batch", "train_options")
    }
    runs = measure.earlier_runs(args.output, same)
    rows = ["with them", "never seen", *(["by themselves"] if args.system == "sailer" else [])]
    for seed in args.seeds:
        for row in rows:
            name = f"{row}, seed {seed}"
            if name not in runs:
                runs[name] = Run(args, seed).scores(row)
                say(f"{name}: {json.dumps(runs[name])}")
                measure.write_runs(args, "new_batch", same, runs)
    lines = []
    for row in rows:
        told = [one for name, one in runs.items() if name.startswith(row)]
        values = [[one[figure] for one in told if one.get(figure) is not None] for figure in FIGURES]
        lines.append([row, str(len(told)), *map(measure.shown, values)])
    say("\n" + measure.table(["new cells", "seeds", *FIGURES], lines))


if __name__ == "__main__":
    main()
