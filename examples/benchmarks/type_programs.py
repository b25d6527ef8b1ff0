r"""Can cell types be read off program scores? expiMap is trained on marker sets (PanglaoDB), and each cell is called.

    python examples/benchmarks/type_programs.py cells.h5ad --gmt PanglaoDB_markers_27_Mar_2020.gmt --batch-key batch \
        --label-key cell_type --answers answers.tsv --work-dir types -o types.json

``cells.h5ad`` holds raw counts of all genes. As in the paper's pancreas example, sets of 3 to 200 genes of the data are
kept and genes in none are dropped; ``--hvg`` also takes variable ones only. A program's score is its posterior mean,
turned so that larger means more expression; scores are scaled to mean 0 and deviation 1 over all cells, and a cell is
called by the program of its largest score. Programs of ambiguous direction take no part. Labels are used to judge:

tested     the program that leads upward when ``scmap gp-test`` compares a label with all other cells, and its log BF
called     the program that most cells of the label are called by, and their share
right      share of cells called by a program that ``--answers`` (label TAB program, several rows a label) accepts

Right means right to the letter of that file: a monocyte called by the set of macrophages is wrong unless it says so.
"""

from __future__ import annotations

import argparse
import csv
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import flags, measured, say

#: share of weight with one sign from which a program has a direction, as in gp-test
CLEAR = 0.6


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows by column."""
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


class Steps:
    """scmap commands whose outputs are not there yet."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.scmap = args, measure.scmap_command(args.scmap)

    def run(self, name: str, *words: Any, **options: object) -> Path:
        """One command; its output."""
        output = Path(self.args.work_dir / name)
        if not output.exists():
            common = flags(o=output, seed=self.args.seed, threads=self.args.threads, quiet=True, force=True)
            done = measured([*self.scmap, *words, *flags(**options), *common], self.args.threads)
            say(f"{name}: {done.seconds:.0f} s")
        return output


def embedded(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Prepare, train, embed and test: the model, the embedded cells and the tests."""
    steps = Steps(args)
    sizes: dict[str, object] = {"min_genes": args.min_genes, "max_genes": args.max_genes}
    first = steps.run("programs_all.npz", "preprocess", "programs", args.gmt, genes=args.cells, **sizes)
    batch: dict[str, object] = {"batch_key": args.batch_key} if args.batch_key else {}
    chosen = {"hvg": args.hvg} | {f"hvg_{key}": value for key, value in batch.items()} if args.hvg else {}
    rna = steps.run("rna.h5ad", "preprocess", "rna", args.cells, programs=first, **chosen)
    programs = steps.run("programs.npz", "preprocess", "programs", args.gmt, genes=rna, **sizes)
    more = shlex.split(args.train_options)
    model = steps.run("model", "train", "expimap", rna, *more, programs=programs, **batch)
    out = steps.run("embedded.h5ad", "embed", model, rna)
    return model, out, steps.run("tests.tsv", "gp-test", model, rna, groupby=args.label_key)


def calls(model: Path, cells: Path) -> np.ndarray:
    """The program of the largest score of each cell."""
    adata = anndata.read_h5ad(cells)
    told = {row["program"]: row for row in read_tsv(model / "programs.tsv")}
    names = np.asarray(adata.uns["expimap_names"]).astype(str)
    clear = [k for k, name in enumerate(names) if usable(told[name])]
    sign = np.array([int(told[name]["direction_sum"]) for name in names[clear]])
    score = np.asarray(adata.obsm["X_expimap"], dtype=np.float64)[:, clear] * sign
    score = (score - score.mean(0)) / np.maximum(score.std(0), 1e-12)
    return np.asarray(names[clear][score.argmax(1)])


def usable(row: dict[str, str]) -> bool:
    """Whether a program is active and has a direction."""
    return row["active"] == "1" and row["direction_sum"] != "0" and float(row["agreement"]) >= CLEAR


def main() -> None:
    """Train, call, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--gmt", type=Path, required=True, help="marker sets")
    parser.add_argument("--answers", type=Path, help="TSV of label and program that counts as right for it")
    parser.add_argument("--batch-key")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--min-genes", type=int, default=3)
    parser.add_argument("--max-genes", type=int, default=200)
    parser.add_argument("--hvg", type=int, help="variable genes to keep (default: all genes of the sets)")
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    answers: dict[str, set[str]] = {}
    for line in args.answers.read_text().splitlines() if args.answers else ():
        label, program = line.split("\t")
        answers.setdefault(label, set()).add(program)
    model, cells, tests = embedded(args)
    called = calls(model, cells)
    labels = anndata.read_h5ad(cells).obs[args.label_key].astype(str).to_numpy()
    leading: dict[str, dict[str, str]] = {}
    for row in read_tsv(tests):
        if row["active"] == "1" and row["direction"] == "up":
            leading.setdefault(row["group"], row)
    results, rows = [], []
    for label in sorted(set(labels)):
        mine = called[labels == label]
        first, count = Counter(mine.tolist()).most_common(1)[0]
        up = leading.get(label)
        found: dict[str, Any] = {"label": label, "cells": len(mine), "called": first, "called_share": count / len(mine)}
        found["tested"] = up["program"] if up else None
        found["log_bf"] = abs(float(up["log_bf"])) if up else None
        found["right"] = float(np.isin(mine, list(answers[label])).mean()) if label in answers else None
        results.append(found)
        right = "-" if found["right"] is None else f"{found['right']:.3f}"
        tested = f"{found['tested']} {found['log_bf']:.1f}" if up else "-"
        rows.append([label, str(len(mine)), tested, f"{first} {count / len(mine):.2f}", right])
    judged = [found for found in results if found["right"] is not None]
    if judged:
        total = sum(found["cells"] for found in judged)
        overall = sum(found["cells"] * found["right"] for found in judged) / total
        mean = sum(found["right"] for found in judged) / len(judged)
        rows.append(["all with an answer", str(total), "", "", f"{overall:.3f}, mean over labels {mean:.3f}"])
    say("\n" + measure.table(["label", "cells", "tested, log BF", "called, share", "right"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "type_programs",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata"),
        },
    )


if __name__ == "__main__":
    main()
