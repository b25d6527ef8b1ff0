r"""Does a query teach a reference what it lacks: a state none of its programs describes, and a type it never saw?

    grep SIGNALING_BY_THE_B_CELL_RECEPTOR reactome.gmt > given.gmt
    scmap preprocess programs given.gmt -o given.npz --genes rna.h5ad
    python examples/benchmarks/learning_anew.py rna.h5ad --query query.h5ad --programs programs.npz --batch-key batch \
        --without 'INTERFERON|CYTOKINE|IMMUNE_SYSTEM$|B_CELL|MHC_CLASS_II' --given given.npz --label-key cell_type \
        --lacking B --groupby condition --group stim --against ctrl --work-dir anew -o anew.json

As in the expiMap paper (Fig. 4): the reference is trained without the cells of one type and without the programs whose
names fit ``--without``; the query is mapped as one batch with ``--new-programs`` unconstrained programs and the given
one. By the area under the ROC curve of posterior means, larger of both directions:

state       the new program that tells ``--group`` from ``--against`` best, and its genes of the largest weights
type        the given program, cells of the lacking type against all others of the query, and its genes
all others  the best that any program of the reference does for the same two

Labels are used for scores only. One row a seed, which seeds training and mapping; finished steps are not repeated.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import flags, measured, say
from query_robustness import without
from sklearn.metrics import roc_auc_score

from scmap_cli.io.programs import load_programs


def either_way(score_n: np.ndarray, positive_n: np.ndarray) -> float:
    """Area under the curve, whichever direction is up."""
    area = float(roc_auc_score(positive_n, score_n))
    return max(area, 1 - area)


def leading_genes(model: Path) -> dict[str, str]:
    """Genes of every added program, the largest weights first, as ``map-query`` tells them."""
    lines = (model / "new_programs.tsv").read_text().splitlines()
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]
    return {row["program"]: row["top_genes"] for row in rows}


def one(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train, map and score with one seed."""
    work: Path = args.work_dir
    scmap, common = measure.scmap_command(args.scmap), flags(seed=seed, threads=args.threads, quiet=True, force=True)
    reference, programs = work / "reference.h5ad", work / "programs.npz"
    model, mapped_model, mapped = work / f"model_{seed}", work / f"mapped_model_{seed}", work / f"mapped_{seed}.h5ad"
    if not model.exists():
        words = flags(o=model, programs=programs, batch_key=args.batch_key)
        words += shlex.split(args.train_options)
        took = measured([*scmap, "train", "expimap", reference, *words, *common], args.threads)
        say(f"{model.name}: {took.seconds:.0f} s")
    if not mapped.exists():
        words = flags(o=mapped, model_out=mapped_model, one_batch="query", programs=args.given)
        words += flags(new_programs=args.new_programs)
        words += shlex.split(args.map_options)
        took = measured([*scmap, "map-query", model, args.query, *words, *common], args.threads)
        say(f"{mapped.name}: {took.seconds:.0f} s")
    cells = anndata.read_h5ad(mapped)
    names, z_nk = list(cells.uns["expimap_names"]), cells.obsm["X_expimap"]
    (given,) = load_programs(args.given).programs
    new = [name for name in names if re.fullmatch(r"new_\d+", name)]
    group_n = cells.obs[args.groupby].astype(str).to_numpy()
    compared_n = np.isin(group_n, [args.group, args.against])
    state_n = group_n == args.group
    type_n = cells.obs[args.label_key].astype(str).to_numpy() == args.lacking
    state = {name: either_way(z_nk[compared_n, names.index(name)], state_n[compared_n]) for name in names}
    kind = {name: either_way(z_nk[:, names.index(name)], type_n) for name in names}
    best, genes = max(new, key=state.__getitem__), leading_genes(mapped_model)
    known = [name for name in names if name not in (*new, given)]
    return {
        "seed": seed,
        "state": {"program": best, "auc": state[best], "genes": genes.get(best, "")},
        "state_of_all_new": {name: state[name] for name in new},
        "state_of_the_known": max((state[name], name) for name in known),
        "type": {"program": given, "auc": kind[given], "genes": genes.get(given, "")},
        "type_of_the_known": max((kind[name], name) for name in known),
    }


def prepare(args: argparse.Namespace) -> None:
    """The reference without the type, the programs without those that fit."""
    args.work_dir.mkdir(parents=True, exist_ok=True)
    cells = anndata.read_h5ad(args.cells)
    labels = cells.obs[args.label_key].astype(str).to_numpy()
    if args.lacking not in labels:
        raise SystemExit(f"{args.cells} has no cell labelled {args.lacking}")
    cells[labels != args.lacking].copy().write_h5ad(args.work_dir / "reference.h5ad")
    fitting = [name for name in load_programs(args.programs).programs if re.search(args.without, name)]
    without(args.programs, args.work_dir / "programs.npz", fitting)
    say(f"{(labels == args.lacking).sum()} cells and {len(fitting)} programs taken out: {', '.join(fitting)}")


def main() -> None:
    """Every seed, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="cells of the reference, the lacking type among them")
    parser.add_argument("--query", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="programs.npz")
    parser.add_argument("--without", required=True, help="regular expression of the programs to take out")
    parser.add_argument("--given", type=Path, required=True, help="programs.npz with the one program of the type")
    parser.add_argument("--new-programs", type=int, default=3)
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--lacking", required=True, help="label whose cells the reference lacks")
    parser.add_argument("--groupby", required=True, help="column of the query with the two states")
    parser.add_argument("--group", required=True)
    parser.add_argument("--against", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    parser.add_argument("--map-options", default="", help="more options for scmap map-query, in one string")
    measure.add_run_options(parser)
    args = parser.parse_args()
    prepare(args)
    found = [one(args, args.seed + i) for i in range(args.seeds)]
    rows = [
        [
            str(result["seed"]),
            *(f"{result[part]['auc']:.3f} {result[part]['genes'][:60]}" for part in ("state", "type")),
            *(f"{result[part][0]:.3f}" for part in ("state_of_the_known", "type_of_the_known")),
        ]
        for result in found
    ]
    say("\n" + measure.table(["seed", "state", "type", "all others: state", "all others: type"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "learning_anew",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": found,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata", "scikit-learn"),
        },
    )


if __name__ == "__main__":
    main()
