"""What genes that a query lacks cost: label accuracy and mixing of mapped cells, for each policy and share of genes.

    python examples/benchmarks/missing_genes.py model --reference rna.h5ad --query query.h5ad --label-key cell_type \
        --work-dir missing -o missing.json

A seeded random share of the model's genes is dropped from the query, and ``scmap map-query`` maps it as one batch by
``--missing zero`` and by ``--missing reference-mean``. Accuracy is the share of right labels, ``unknown`` being wrong,
over the query's cells whose true label the reference has; mixing is the entropy of reference and query among 50
neighbours, corrected for their sizes: 0 apart, 1 mixed. True labels are used for scores only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import flags, measured, say

from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.mixing import batch_entropy

POLICIES = ("zero", "reference-mean")


def genes_of(model: Path) -> list[str]:
    """Names in the order of the model."""
    lines = (model / "features.tsv").read_text().splitlines()[1:]
    return [line.split("\t")[1] for line in lines]


def one(args: argparse.Namespace, share: float, policy: str, seed: int) -> dict[str, float]:
    """Drop, map, score."""
    work: Path = args.work_dir
    name = f"{share:g}_{policy}_{seed}"
    query, mapped, joined = (work / f"{kind}_{name}.h5ad" for kind in ("query", "mapped", "joined"))
    if not joined.exists():
        adata = anndata.read_h5ad(args.query)
        genes = np.array([g for g in genes_of(args.model) if g in set(adata.var_names)])
        dropped = np.random.default_rng(seed).choice(genes, round(share * len(genes)), replace=False)
        adata[:, ~adata.var_names.isin(dropped)].copy().write_h5ad(query)
        words = flags(o=mapped, model_out=work / f"model_{name}", one_batch="query", reference=args.reference)
        words += flags(label_key=args.label_key, join=joined, missing=policy, min_overlap=0, seed=seed, force=True)
        words += flags(threads=args.threads, quiet=True)
        measured([*measure.scmap_command(args.scmap), "map-query", args.model, query, *words], args.threads)
    found = anndata.read_h5ad(joined)
    inside = (found.obs["scmap_origin"] == "query").to_numpy()
    truth = found.obs[args.label_key].astype(str).to_numpy()
    called = anndata.read_h5ad(mapped).obs["scmap_label"].astype(str).to_numpy()
    known = np.isin(truth[inside], truth[~inside])
    indices, _ = knn(found.obsm["X_expimap"], 50)
    return {
        "accuracy": float((called == truth[inside])[known].mean()),
        "mixing": batch_entropy(indices, inside),
    }


def main() -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="reference model")
    parser.add_argument("--reference", type=Path, required=True, help="the cells it was trained on")
    parser.add_argument("--query", type=Path, required=True)
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.1, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    rows, results = [], []
    for share in args.shares:
        for policy in POLICIES:
            runs = [one(args, share, policy, seed) for seed in range(args.seeds)]
            entry: dict[str, Any] = {"share_dropped": share, "policy": policy}
            entry |= {key: measure.mean_sd(run[key] for run in runs) for key in runs[0]}
            results.append(entry)
            shown = [f"{entry[key]['mean']:.3f} +- {entry[key]['sd']:.3f}" for key in ("accuracy", "mixing")]
            rows.append([f"{share:.0%}", policy, *shown])
            say(json.dumps(rows[-1]))
    say("\n" + measure.table(["genes dropped", "--missing", "label accuracy", "mixing"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "missing_genes",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata"),
        },
    )


if __name__ == "__main__":
    main()
