r"""How much of a contrast's answer hangs on the reference, on the number of cells and on single programs.

    python examples/benchmarks/query_robustness.py model --reference rna.h5ad --query query.h5ad \
        --programs programs.npz --label-key cell_type --groupby condition --group stim --against ctrl \
        --work-dir robust -o robust.json

``model`` is a trained expiMap reference, ``programs.npz`` what it was trained with. One row a setting of the paper's
(Supplementary Notes 3 and 4, Supplementary Fig. 4), each with ``scmap gp-test`` on the same contrast:

mapped             the whole query, mapped as one batch
``N`` %            a seeded sample of its cells, mapped
query alone        a model trained on the query's cells only, on the reference's genes and programs
without K leading  a reference trained without the K programs that lead in the first row, and the query mapped onto it;
                   genes stay, so the encoder sees what the programs left behind

Passing programs are those with \|log BF\| of at least 2.3. Agreement is Spearman's correlation of \|log BF\| with the
first row's over its 50 strongest programs (those of them active in both), and the programs shared by the two rows' five
leading ones. Accuracy is the share of right labels, ``unknown`` being wrong, over cells whose true label the reference
has; true labels are used for scores only. Finished steps in ``--work-dir`` are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import flags, measured, say
from scipy.stats import spearmanr

from scmap_cli.io.programs import Programs, load_programs, save_programs

#: leading programs that two rows are compared by
LEADING = 5

#: strongest programs of the first row whose order is compared; the many weak ones would agree by being weak
STRONGEST = 50


class Study:
    """The settings of one run, and the commands that they need."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work, self.scmap = args, args.work_dir, measure.scmap_command(args.scmap)

    def path(self, kind: str, name: str, suffix: str = ".h5ad") -> Path:
        """Where a step of a setting writes."""
        return Path(self.work / f"{kind}_{name}{suffix}")

    def run(self, output: Path, *words: Any, **options: object) -> None:
        """One scmap command, unless its output is there."""
        if not output.exists():
            common = flags(seed=self.args.seed, threads=self.args.threads, quiet=True, force=True)
            done = measured([*self.scmap, *words, *flags(o=output, **options), *common], self.args.threads)
            say(f"{output.name}: {done.seconds:.0f} s")

    def train(self, cells: Path, programs: Path, name: str, batch_key: str | None) -> Path:
        """A model of its own."""
        model = self.path("model", name, "")
        batch = flags(batch_key=batch_key) if batch_key else []
        more = shlex.split(self.args.train_options)
        self.run(model, "train", "expimap", cells, *batch, *more, programs=programs)
        return model

    def map(self, model: Path, query: Path, name: str) -> dict[str, Any]:
        """Map, test, and score the labels."""
        out, mapped = self.path("mapped", name), self.path("mapped_model", name, "")
        known = flags(reference=self.args.reference, label_key=self.args.label_key)
        more = shlex.split(self.args.map_options)
        self.run(out, "map-query", model, query, *known, *more, model_out=mapped, one_batch="query")
        return self.tested(mapped, out, name) | {"accuracy": self.accuracy(out)}

    def tested(self, model: Path, cells: Path, name: str) -> dict[str, Any]:
        """Programs of the contrast, strongest first."""
        table, args = self.path("tests", name, ".tsv"), self.args
        self.run(table, "gp-test", model, cells, groupby=args.groupby, group=args.group, against=args.against)
        with table.open(newline="") as handle:
            rows = [row for row in csv.DictReader(handle, delimiter="\t") if row["active"] == "1"]
        return {
            "cells": int(rows[0]["n"]) + int(rows[0]["n_against"]),
            "log_bf": {row["program"]: float(row["log_bf"]) for row in rows},
            "direction": {row["program"]: row["direction"] for row in rows},
            "passing": [row["program"] for row in rows if row["passes"] == "1"],
        }

    def accuracy(self, mapped: Path) -> float:
        """Share of right labels among cells whose true one the reference has."""
        key = self.args.label_key
        found = anndata.read_h5ad(mapped).obs
        truth = found[key].astype(str).to_numpy()
        known = np.isin(truth, anndata.read_h5ad(self.args.reference, backed="r").obs[key].astype(str))
        return float((found["scmap_label"].astype(str).to_numpy() == truth)[known].mean())


def sample(query: Path, output: Path, share: float, seed: int) -> None:
    """Some of the query's cells in their order."""
    adata = anndata.read_h5ad(query)
    rows = np.random.default_rng(seed).choice(adata.n_obs, round(share * adata.n_obs), replace=False)
    adata[np.sort(rows)].copy().write_h5ad(output)


def without(programs: Path, output: Path, names: list[str]) -> None:
    """The same file without some programs."""
    table = load_programs(programs)
    keep = ~np.isin(table.programs, names)
    sizes = (table.size_before[keep], table.size_after[keep])
    save_programs(output, Programs(table.mask[:, keep], table.genes, table.programs[keep], *sizes), force=True)


def settings(study: Study) -> dict[str, dict[str, Any]]:
    """Results of every setting by its name."""
    args, work = study.args, study.work
    found = {"mapped": study.map(args.model, args.query, "all")}
    for share in args.shares:
        cells = work / f"query_{share:g}.h5ad"
        if not cells.exists():
            sample(args.query, cells, share, args.seed)
        found[f"{share:.0%} of the cells"] = study.map(args.model, cells, f"{share:g}")
    genes = [line.split("\t")[1] for line in (args.model / "features.tsv").read_text().splitlines()[1:]]
    alone = work / "query_genes.h5ad"
    if not alone.exists():
        adata = anndata.read_h5ad(args.query)
        adata[:, [gene for gene in genes if gene in adata.var_names]].copy().write_h5ad(alone)
    found["query alone"] = study.tested(study.train(alone, args.programs, "alone", None), alone, "alone")
    leading = list(found["mapped"]["log_bf"])[: args.removed]
    fewer = work / "programs_fewer.npz"
    if not fewer.exists():
        without(args.programs, fewer, leading)
    batch_key = json.loads((args.model / "config.json").read_text())["batch_key"]
    model = study.train(args.reference, fewer, "fewer", batch_key)
    found[f"without {len(leading)} leading"] = study.map(model, args.query, "fewer") | {"removed": leading}
    return found


def agreement(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, int]:
    """Rank correlation of the strengths of the first's strongest programs, and how many leading ones are shared."""
    both = [name for name in list(one["log_bf"])[:STRONGEST] if name in other["log_bf"]]
    rho = spearmanr(*[[abs(side["log_bf"][name]) for name in both] for side in (one, other)]).statistic
    return float(rho), len(set(list(one["log_bf"])[:LEADING]) & set(list(other["log_bf"])[:LEADING]))


def main() -> None:
    """Run every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="reference model")
    parser.add_argument("--reference", type=Path, required=True, help="the cells it was trained on")
    parser.add_argument("--query", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="programs.npz it was trained with")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--groupby", required=True, help="column of the query with the two groups")
    parser.add_argument("--group", required=True)
    parser.add_argument("--against", required=True)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.25, 0.1])
    parser.add_argument("--removed", type=int, default=5, help="leading programs to train without")
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    parser.add_argument("--map-options", default="", help="more options for scmap map-query, in one string")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    found = settings(Study(args))
    rows = []
    for name, result in found.items():
        result["spearman"], result["leading_shared"] = agreement(found["mapped"], result)
        leads = ", ".join(
            f"{p} {result['log_bf'][p]:+.1f} {result['direction'][p]}" for p in list(result["log_bf"])[:3]
        )
        accuracy = f"{result['accuracy']:.3f}" if "accuracy" in result else "-"
        shown = [str(result["cells"]), str(len(result["passing"])), f"{result['spearman']:.2f}"]
        rows.append([name, *shown, f"{result['leading_shared']} of {LEADING}", accuracy, leads])
    header = ["", "cells", "passing", "Spearman", "leading shared", "labels", "leading programs, log BF, direction"]
    say("\n" + measure.table(header, rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "query_robustness",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": found,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata", "scipy"),
        },
    )


if __name__ == "__main__":
    main()
