r"""How good the reference embedding is: expiMap by scmap beside scArches expiMap, scVI, Harmony and PCA, one scorer.

    python examples/benchmarks/reference_quality.py cells.h5ad --gmt reactome.gmt --label-key cell_type \
        --only-batch zheng_facs pbmc3k_10x --scarches-python scarches-env/bin/python --work-dir quality -o quality.json

``cells.h5ad`` holds raw counts of all genes with a batch and a label column; labels are used for scores only. It is
prepared as the expiMap paper does: programs with at least ``--min-genes`` genes in the data, genes in no program
dropped, ``--hvg`` highly variable genes by batch on log-normalised counts (``--hvg-flavor``), programs with at least
``--min-genes`` genes left, genes in no remaining program dropped. All methods but PCA and Harmony get these counts;
those two get log1p CP10k of the same genes.

expimap           scmap with its shipped defaults, seeds 0 to ``--seeds`` - 1: posterior means
scarches_means    scArches 0.6.1 as in its tutorial (see ``peer_scarches.py``): posterior means of the active programs
scarches_sample   the same model, one posterior sample: what its ``get_latent`` returns by default
scvi, ldvae       scVI and LinearSCVI with their defaults (10 dimensions), from the same peer environment
pca, harmony      50 components; harmonypy's defaults, left out where it is not installed

NMI, ARI   the best over a grid of neighbours and Leiden resolutions, each on its own
kNN        label accuracy of 15 neighbours, 5-fold
mixing     entropy of the batches among 50 neighbours, corrected for batch sizes: 0 apart, 1 mixed
The scorer is ``scmap evaluate clustering``, or any script given by ``--scorer`` that takes ``FILE --emb KEY --label L
--batch B --seed S`` and prints JSON with clustering.best.{ari,nmi}, knn_acc and mixing. Figures are means +- standard
deviations over seeds. Finished steps in ``--work-dir`` are not repeated: delete the folder to start anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
from measure import HERE, flags, measured, say

METHODS = ("expimap", "baselines", "scarches", "scvi", "ldvae")
FIGURES = ("nmi", "ari", "knn", "mixing")


class Steps:
    """Runs commands whose output is not there yet, and keeps their seconds and last JSON line beside the output."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work, self.scmap = args, args.work_dir, measure.scmap_command(args.scmap)

    def run(self, output: Path, command: list[Any]) -> dict[str, Any]:
        """Run unless ``output`` and its notes exist; return the notes."""
        notes = output.with_name(output.name + ".step.json")
        if not (output.exists() and notes.exists()):
            done = measured(command, self.args.threads)
            lines = done.stdout.strip().splitlines()
            told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
            notes.write_text(json.dumps({"process_seconds": done.seconds, "peak_bytes": done.peak_bytes, "told": told}))
            say(f"{output.name}: {done.seconds:.0f} s")
        return dict(json.loads(notes.read_text()))

    def helper(self, step: str, cells: Path, output: Path, **options: object) -> dict[str, Any]:
        """One step of ``cells.py``."""
        keys = flags(o=output, batch_key=self.args.batch_key, label_key=self.args.label_key)
        return self.run(output, [sys.executable, HERE / "cells.py", step, cells, *keys, *flags(**options)])

    def programs(self, genes: Path, output: Path) -> None:
        """``scmap preprocess programs`` with the size filter."""
        options = flags(o=output, genes=genes, min_genes=self.args.min_genes, force=True)
        self.run(output, [*self.scmap, "preprocess", "programs", self.args.gmt, *options])

    def rna(self, cells: Path, output: Path, programs: Path, **options: object) -> None:
        """``scmap preprocess rna`` down to the genes of the programs."""
        words = flags(o=output, programs=programs, force=True, **options)
        self.run(output, [*self.scmap, "preprocess", "rna", cells, *words])


def prepare(steps: Steps) -> tuple[Path, Path, Path]:
    """All genes of the chosen cells, the prepared counts, and their programs."""
    args, work = steps.args, steps.work
    cells = args.cells
    if args.only_batch:
        cells = work / "cells.h5ad"
        steps.helper("subset", args.cells, cells, only_batch=args.only_batch)
    first, hvg, second, rna = work / "programs_all.npz", work / "hvg.h5ad", work / "programs_hvg.npz", work / "rna.h5ad"
    steps.programs(cells, first)
    steps.rna(cells, hvg, first, hvg=args.hvg, hvg_flavor=args.hvg_flavor, hvg_batch_key=args.batch_key)
    steps.programs(hvg, second)
    steps.rna(hvg, rna, second)
    steps.programs(rna, work / "programs.npz")
    return cells, rna, work / "programs.npz"


def embed_scmap(steps: Steps, rna: Path, programs: Path) -> dict[str, list[str]]:
    """Train and embed for every seed."""
    args, work, found = steps.args, steps.work, []
    for seed in range(args.seeds):
        model, out = work / f"model_{seed}", work / f"embedded_{seed}.h5ad"
        common = flags(seed=seed, threads=args.threads, device=args.device, force=True)
        options = flags(o=model, programs=programs, batch_key=args.batch_key)
        more = shlex.split(args.train_options)
        steps.run(model, [*steps.scmap, "train", "expimap", rna, *options, *common, *more])
        steps.run(out, [*steps.scmap, "embed", model, rna, *flags(o=out), *common])
        found.append(f"{out}:X_expimap")
    return {"expimap": found}


def embed_baselines(steps: Steps, cells: Path, rna: Path) -> dict[str, list[str]]:
    """PCA and, if it is installed, Harmony."""
    out = steps.work / "baselines.npz"
    told = steps.helper("baselines", cells, out, genes=rna)["told"]
    if told["note"]:
        say(told["note"])
    return {name: [f"{out}:{name}"] for name in told["methods"]}


def embed_peer(steps: Steps, job: str, rna: Path, programs: Path) -> dict[str, list[str]]:
    """Train and embed by scArches expiMap or scVI for every peer seed."""
    args, work = steps.args, steps.work
    found: dict[str, list[str]] = {}
    dense, mask = work / "dense.h5ad", work / "mask.npz"
    steps.helper("peer", rna, dense, programs=programs, mask=mask)
    keys = {
        "expimap": {"scarches_means": "means", "scarches_sample": "sample"},
        "scvi": {"scvi": "means"},
        "scvi-linear": {"ldvae": "means"},
    }[job]
    for seed in range(args.peer_seeds):
        out = work / f"{job}_{seed}.npz"
        options = flags(o=out, mask=mask, batch_key=args.batch_key, seed=seed, threads=args.threads)
        steps.run(out, [args.scarches_python, HERE / "peer_scarches.py", job, dense, *options])
        for name, key in keys.items():
            found.setdefault(name, []).append(f"{out}:{key}")
    return found


def score(steps: Steps, rna: Path, name: str, seed: int, where: str) -> dict[str, float]:
    """Score one embedding: the four figures and its number of dimensions."""
    args, work = steps.args, steps.work
    label = f"{name}_{seed}"
    one = work / f"scored_{label}.h5ad"
    dims = steps.helper("collect", rna, one, embedding=f"{label}={where}")["told"]["dims"][label]
    out = work / f"score_{label}.{args.scorer.stem if args.scorer else 'scmap'}.json"
    if args.scorer:
        if not out.exists():
            options = flags(emb=f"X_{label}", label=args.label_key, batch=args.batch_key, seed=0)
            out.write_text(measured([sys.executable, args.scorer, one, *options], args.threads).stdout)
        return from_scorer(json.loads(out.read_text())) | {"dims": dims}
    keys = flags(label_key=args.label_key, batch_key=args.batch_key, embedding=f"X_{label}")
    command = [*steps.scmap, "evaluate", "clustering", one, *keys, *flags(o=out, seed=0, force=True)]
    steps.run(out, command)
    return from_scmap(json.loads(out.read_text())) | {"dims": dims}


def from_scorer(told: dict[str, Any]) -> dict[str, float]:
    """Pick the four figures out of the JSON of ``--scorer``."""
    best = told["clustering"]["best"]
    return {"nmi": best["nmi"], "ari": best["ari"], "knn": told["knn_acc"], "mixing": told["mixing"]}


def from_scmap(told: dict[str, Any]) -> dict[str, float]:
    """Pick the four figures out of the JSON of ``scmap evaluate clustering``."""
    found = told["results"][0]
    nmi, ari = found["best_nmi"]["nmi"], found["best_ari"]["ari"]
    return {"nmi": nmi, "ari": ari, "knn": found["knn_accuracy"], "mixing": found["mixing"]}


def main() -> None:
    """Parse, prepare, embed, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="h5ad with raw counts, a batch and a label column")
    parser.add_argument("--gmt", type=Path, required=True, help="gene programs")
    parser.add_argument("--work-dir", type=Path, required=True, help="where every step is kept")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--only-batch", nargs="+", help="keep only cells of these batches")
    parser.add_argument("--min-genes", type=int, default=13)
    parser.add_argument("--hvg", type=int, default=2000)
    parser.add_argument("--hvg-flavor", default="seurat", help="what the paper's tutorial used")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5, help="number of scmap seeds")
    parser.add_argument("--peer-seeds", type=int, default=1, help="number of seeds of scArches and scVI")
    parser.add_argument("--scarches-python", help="Python of the peers' environment; without it they are left out")
    parser.add_argument("--scorer", type=Path, help="script that scores (default: scmap evaluate clustering)")
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu", help="for scmap")
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    steps = Steps(args)
    machine = measure.machine()
    cells, rna, programs = prepare(steps)
    jobs: dict[str, Callable[[], dict[str, list[str]]]] = {
        "expimap": lambda: embed_scmap(steps, rna, programs),
        "baselines": lambda: embed_baselines(steps, cells, rna),
    }
    if args.scarches_python:
        jobs["scarches"] = lambda: embed_peer(steps, "expimap", rna, programs)
        jobs["scvi"] = lambda: embed_peer(steps, "scvi", rna, programs)
        jobs["ldvae"] = lambda: embed_peer(steps, "scvi-linear", rna, programs)
    results: dict[str, Any] = {}
    for method in args.methods:
        for name, places in jobs[method]().items() if method in jobs else ():
            runs = [score(steps, rna, name, seed, where) for seed, where in enumerate(places)]
            results[name] = {key: measure.mean_sd(run[key] for run in runs) for key in (*FIGURES, "dims")}
            say(f"{name}: " + ", ".join(f"{key} {results[name][key]['mean']:.3f}" for key in FIGURES))
    rows = []
    for name, found in results.items():
        shown = [f"{found[key]['mean']:.3f} +- {found[key]['sd']:.3f}" for key in FIGURES]
        rows.append([name, str(len(found["nmi"]["values"])), f"{found['dims']['mean']:.0f}", *shown])
    say("\n" + measure.table(["", "seeds", "dims", "NMI", "ARI", "kNN", "mixing"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "reference_quality",
            "machine": machine,
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata", "scanpy", "igraph", "harmonypy"),
        },
    )


if __name__ == "__main__":
    main()
