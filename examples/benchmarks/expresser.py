"""Expresser with and without its decoder: withheld values of a study it has not seen, and tasks on gene embeddings.

    python examples/benchmarks/expresser.py --train pbmc_multistudy.h5ad --batch-key batch \
        --train-batches zheng_facs kang_ctrl kang_stim --held-out pbmc3k.h5ad \
        --pairs gene2vec_pairs_train.tsv.gz gene2vec_pairs_valid.tsv.gz --pairs ppi_cellchat_human.tsv.gz \
        --lists lists.tsv.gz haploinsufficient tolerant --scvi-python scvi-env/bin/python --work-dir runs -o runs.json

The training cells, of whole files or of some of their batches, are put into one file of the genes that all of them and
the held-out file have, and that into a corpus. Every seed then goes by the command line: ``train expresser`` with and
without ``--no-decoder``; ``evaluate imputation --withhold`` on the held-out file, beside baselines that learn from the
training cells (zero-shot); both models trained on what is left of the held-out cells (``--start-from``, a corpus of the
file that ``--observed-output`` writes) and scored beside baselines that learn from the same (fine-tuned), among which
are scVI if a Python that has it is given (``peer_scvi.py``) and scImpute's method (``peer_scimpute.py``); ``evaluate
genes`` for every file of pairs (with a second file to test on) and two lists, of the models' tables and of the mean
vectors of genes in the training cells (``in-cells``), beside an SVD of the training cells' co-expression, random
vectors and any ``--tables``.

Seeds are of training, of the entries withheld and of the splits; figures are means over them. Unrelated pairs are drawn
where a file has none. What the output file holds of a run is not repeated: the same call goes on after a stop, or adds
tasks and peers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import measure
import pandas as pd
from measure import HERE, flags, measured, say, shown

KINDS = {"decoder": [], "no-decoder": ["--no-decoder"]}
#: entries of a run with methods that have learned from what is left of the held-out study
PEERS = ("fine-tuned", "scVI", "scImpute")
ERRORS = ("mae", "pearson", "within_gene_pearson")
#: what makes figures comparable; tasks may be added later
COMPARED = (
    "train", "batch_key", "train_batches", "held_out", "withhold", "model_options", "train_options", "tune_options",
    "baselines", "tables", "gene_table",
)  # fmt: skip


def prepare(args: argparse.Namespace) -> None:
    """``train.h5ad`` and ``corpus.zarr`` in the working folder, unless they are there."""
    data, corpus = args.work_dir / "train.h5ad", args.work_dir / "corpus.zarr"
    args.work_dir.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        parts = {}
        for path in map(Path, args.train):
            adata = anndata.read_h5ad(path)
            study = pd.Series(path.stem, adata.obs_names) if args.batch_key is None else adata.obs[args.batch_key]
            kept = study.astype(str).isin(args.train_batches) if args.train_batches else study.notna()
            obs = pd.DataFrame({"study": study.astype(str)})
            parts[path.stem] = anndata.AnnData(adata.X, obs, adata.var[[]])[kept.to_numpy()]
        unique = "-" if len(parts) > 1 else None
        whole = anndata.concat(parts, index_unique=unique)
        held_out = anndata.read_h5ad(args.held_out, backed="r").var_names
        whole[:, whole.var_names.isin(held_out)].copy().write_h5ad(data)
    if not corpus.exists():
        words = flags(o=corpus, study_key="study", threads=args.threads, quiet=True)
        measured([*measure.scmap_command(args.scmap), "preprocess", "corpus", data, *words], args.threads)


class Run:
    """All that is done with one seed, in a folder of its own."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        self.scmap, self.folder = measure.scmap_command(args.scmap), args.work_dir / f"seed_{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.training, self.observed = args.work_dir / "train.h5ad", self.folder / "observed.h5ad"

    def call(self, *words: str | Path, **options: object) -> str:
        """Run scmap; what is there is replaced."""
        given = {name: value for name, value in options.items() if value is not None}
        common = flags(**given, seed=self.seed, threads=self.args.threads, force=True, quiet=True)
        return measured([*self.scmap, *words, *common], self.args.threads).stdout

    def jobs(self) -> dict[str, Callable[[], Any]]:
        """What is to be done by name, in an order in which everything finds what it needs."""
        found: dict[str, Callable[[], Any]] = {f"train {kind}": partial(self.train, kind) for kind in KINDS}
        found["zero-shot"] = self.zero_shot
        found |= {f"tune {kind}": partial(self.tune, kind) for kind in KINDS}
        found["fine-tuned"] = self.fine_tuned
        if self.args.scvi_python:
            found["scVI"] = partial(
                self.peer, "scVI", self.args.scvi_python, "peer_scvi.py", "impute", *flags(threads=self.args.threads)
            )
        if self.args.scimpute_clusters:
            words = flags(clusters=self.args.scimpute_clusters)
            found["scImpute"] = partial(self.peer, "scImpute", sys.executable, "peer_scimpute.py", *words)
        for files in self.args.pairs:
            names = dict(zip(("gene_pairs", "test_pairs"), files, strict=False))
            found[f"pairs {' '.join(Path(file).name for file in files)}"] = partial(self.genes, **names)
        for file, first, second in self.args.lists:
            options = {"lists": file, "positive_list": first, "negative_list": second}
            found[f"lists {first} {second}"] = partial(self.genes, **options)
        return found

    def fit(self, corpus: Path, kind: str, output: Path, more: str, start_from: Path | None = None) -> dict[str, Any]:
        """Train; seconds of each epoch and cells in one."""
        words = [*shlex.split(self.args.model_options), *KINDS[kind], *shlex.split(more)]
        self.call("train", "expresser", corpus, *words, o=output, device=self.args.device, start_from=start_from)
        facts = measure.training_facts(output)
        return {name: facts[name] for name in ("epoch_seconds", "cells_per_epoch")}

    def train(self, kind: str) -> dict[str, Any]:
        """A model of the training studies."""
        return self.fit(self.args.work_dir / "corpus.zarr", kind, self.folder / kind, self.args.train_options)

    def tune(self, kind: str) -> dict[str, Any]:
        """The same model, trained further on what is left of the held-out cells."""
        model, corpus = self.folder / kind, self.folder / "observed.zarr"
        self.call("preprocess", "corpus", self.observed, o=corpus, genes=model)
        return self.fit(corpus, kind, self.folder / f"tuned-{kind}", self.args.tune_options, start_from=model)

    def imputation(self, *inputs: Path, **options: object) -> dict[str, dict[str, float]]:
        """Errors by method on the genes that the training files have too."""
        common = {"raw": self.args.held_out, "withhold": self.args.withhold, "features": self.folder / "decoder"}
        told = json.loads(self.call("evaluate", "imputation", *inputs, **common, **options, device=self.args.device))
        return {entry["method"]: {name: entry[name] for name in ERRORS} for entry in told["results"]}

    def zero_shot(self) -> dict[str, dict[str, float]]:
        """Models and baselines that have not learned from the held-out study."""
        models = [self.folder / kind for kind in KINDS]
        return self.imputation(*models, fit_on=self.training, observed_output=self.observed)

    def fine_tuned(self) -> dict[str, dict[str, float]]:
        """Models and baselines that have learned from what is left of it."""
        return self.imputation(*(self.folder / f"tuned-{kind}" for kind in KINDS), baselines=self.args.baselines)

    def peer(self, name: str, python: str, script: str, *words: str) -> dict[str, Any]:
        """A peer that has learned from what is left of it."""
        values = self.folder / f"{name}.npz"
        command = [python, HERE / script, *words, self.observed, *flags(o=values, seed=self.seed)]
        told = dict(measured(command, self.args.threads).json())
        found = self.imputation(values)
        values.unlink()
        return {name: found[values.name], "told": told}

    def genes(self, **task: str) -> list[dict[str, Any]]:
        """One task on the gene embeddings of both models, as they are and in cells, and what they are compared with."""
        in_cells = [self.folder / f"{kind}-in-cells.npz" for kind in KINDS]
        for kind, path in zip(KINDS, in_cells, strict=True):
            if not path.exists():
                self.call("embed", self.folder / kind, self.training, "--genes", o=path, device=self.args.device)
        tables = [*(self.folder / kind for kind in KINDS), *in_cells, *map(Path, self.args.tables)]
        told = self.call(
            "evaluate", "genes", *tables, **task, coexpression=self.training, gene_table=self.args.gene_table
        )
        return list(json.loads(told)["results"])


def tables(runs: dict[str, Any]) -> str:
    """One table of withheld values, and one of the tasks on genes."""
    errors: dict[tuple[str, str], list[dict[str, float]]] = {}
    aucs: dict[tuple[str, ...], list[float]] = {}
    for run in runs.values():
        for setting, source in (("zero-shot", "zero-shot"), *(("fine-tuned", name) for name in PEERS)):
            for method, found in run.get(source, {}).items():
                if method != "told":
                    errors.setdefault((setting, method.removeprefix("tuned-")), []).append(found)
        for job in (job for job in run if job.startswith(("pairs ", "lists "))):
            for entry in run[job]:
                key = (job.partition(" ")[2], entry.get("split", ""), entry["embedding"])
                aucs.setdefault(key, []).append(entry["auc"])
    rows = [
        [f"{setting}, {method}", str(len(found)), *(shown([one[name] for one in found]) for name in ERRORS)]
        for (setting, method), found in sorted(errors.items(), key=lambda item: item[0][0], reverse=True)
    ]
    parts = [measure.table(["withheld values", "seeds", "MAE", "Pearson", "within genes"], rows)]
    rows = [[", ".join(filter(None, key)), str(len(found)), shown(found)] for key, found in aucs.items()]
    return "\n\n".join([*parts, measure.table(["genes", "seeds", "AUC"], rows)] if rows else parts)


def main() -> None:
    """Make the runs that are missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="H5AD", help="raw counts in X")
    parser.add_argument("--batch-key", help="column of the training files with studies (default: one a file)")
    parser.add_argument("--train-batches", nargs="+", default=[], help="studies trained on (default: all)")
    parser.add_argument("--held-out", required=True, metavar="H5AD", help="a study that is not in the training files")
    parser.add_argument("--withhold", type=float, default=0.1, help="share of the held-out file's expressed entries")
    parser.add_argument("--pairs", nargs="+", action="append", default=[], metavar="TSV", help="and pairs to test on")
    parser.add_argument(
        "--lists", nargs=3, action="append", default=[], metavar=("TSV", "LIST", "LIST"), help="and two lists in it"
    )
    parser.add_argument("--tables", nargs="+", default=[], metavar="FILE", help="more tables of gene embeddings")
    parser.add_argument("--gene-table", help="identifiers and symbols, where tables or tasks name genes differently")
    parser.add_argument("--model-options", default="--preset tiny --max-genes 256", help="in one string")
    parser.add_argument("--train-options", default="--lr 3e-3", help="more options for scmap train expresser")
    parser.add_argument("--tune-options", default="--lr 1e-3", help="the same for fine-tuning")
    parser.add_argument("--baselines", default="gene-mean,additive,magic", help="beside fine-tuned models")
    parser.add_argument("--scvi-python", help="Python with scvi-tools")
    parser.add_argument("--scimpute-clusters", type=int, help="groups of cells; without it scImpute is left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work-dir", type=Path, required=True, help="corpora and models of every run")
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON with every figure")
    args = parser.parse_args()
    if any(len(files) > 2 for files in args.pairs):
        parser.error("--pairs takes one file, or one to train on and one to test on; repeat it for more")
    compared = {name: value for name, value in measure.settings(args).items() if name in COMPARED}
    runs = measure.earlier_runs(args.output, compared)
    prepare(args)
    for seed in args.seeds:
        told = runs.setdefault(f"seed {seed}", {})
        for name, job in Run(args, seed).jobs().items():
            if name in told:
                continue
            told[name] = job()
            say(f"seed {seed}, {name}: {json.dumps(told[name])}")
            result = {"benchmark": "expresser", "machine": measure.machine(), "compared": compared, "runs": runs}
            versions = measure.versions("scmap-cli", "torch", "numpy", "scikit-learn", "anndata")
            measure.write_json(args.output, result | {"settings": measure.settings(args), "versions": versions})
    say("\n" + tables(runs))


if __name__ == "__main__":
    main()
