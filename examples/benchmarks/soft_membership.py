r"""Does soft membership find the genes that a program's list lacks? Genes are withheld from it, and looked for again.

    python examples/benchmarks/soft_membership.py model --query query.h5ad --programs programs.npz \
        --program REACTOME_INTERFERON_SIGNALING --work-dir soft -o soft.json

``model`` is an expiMap reference trained without the program (``query_robustness.py`` leaves one behind as
``model_fewer``). A seeded half of the program's genes is withheld, ``scmap map-query --programs --membership soft``
learns the rest from the query, and the genes outside the shortened list are looked at (expiMap paper, Fig. 4b, Extended
Data Fig. 7). One row a value of ``--soft-l1``:

outside zero   share of the weights outside the list that are zero; the paper wants at least 0.9
taken in       genes outside the list with a weight
regained       withheld genes among these, of how many were withheld
by chance      how many a random choice of as many genes would hold on average, and the probability of so many or more
AUC            by absolute weight, withheld genes against all others outside; 0.5 is chance
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any, cast

import measure
import numpy as np
import torch
from measure import flags, measured, say
from scipy.sparse import csc_matrix
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score

from scmap_cli.io.bundle import load_bundle
from scmap_cli.io.programs import Programs, load_programs, save_programs
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.training.infer import restore_model

#: name of the shortened program in the mapped model
SHORTENED = "shortened"


def shortened(programs: Path, program: str, genes: np.ndarray, share: float, seed: int, output: Path) -> np.ndarray:
    """Write the program without a share of those of its genes that the model has; return these."""
    table = load_programs(programs)
    place = np.flatnonzero(table.programs == program)
    if not len(place):
        raise SystemExit(f"{programs} has no program {program}")
    members = np.intersect1d(table.genes[table.mask[:, place[0]].toarray().ravel() > 0], genes)
    withheld = np.random.default_rng(seed).choice(members, round(share * len(members)), replace=False)
    kept = np.isin(table.genes, np.setdiff1d(members, withheld))
    size = np.array([kept.sum()])
    mask = csc_matrix(kept[:, None].astype(np.uint8))
    save_programs(output, Programs(mask, table.genes, np.array([SHORTENED]), size, size), force=True)
    return np.sort(withheld)


def weights_of(model: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genes, weights of the program that the query added, and which genes are in its list."""
    bundle = load_bundle(model)
    network = cast(ExpiMap, restore_model(ExpiMap, bundle.config, bundle.tensors, torch.device("cpu")))
    k = bundle.categories["latent"].index(SHORTENED)
    return bundle.features, network.decoder_weights().numpy()[:, k], network.membership().numpy()[:, k] != 0


def one(args: argparse.Namespace, soft_l1: float) -> dict[str, Any]:
    """Withhold, map, look for the genes."""
    work: Path = args.work_dir
    extra, model = work / "shortened.npz", work / f"mapped_model_{soft_l1:g}"
    genes = load_bundle(args.model).features
    withheld = shortened(args.programs, args.program, genes, args.withhold, args.seed, extra)
    if not model.exists():
        words = flags(o=work / f"mapped_{soft_l1:g}.h5ad", model_out=model, one_batch="query", programs=extra)
        words += flags(membership="soft", soft_l1=soft_l1, seed=args.seed, threads=args.threads, quiet=True, force=True)
        words += shlex.split(args.map_options)
        command = [*measure.scmap_command(args.scmap), "map-query", args.model, args.query, *words]
        say(f"{model.name}: {measured(command, args.threads).seconds:.0f} s")
    genes, weight_g, listed_g = weights_of(model)
    outside_g = ~listed_g
    sought_g, taken_g = np.isin(genes, withheld)[outside_g], (weight_g != 0)[outside_g]
    counts = (len(taken_g), int(sought_g.sum()), int(taken_g.sum()))
    regained = int((sought_g & taken_g).sum())
    order = np.argsort(-np.abs(weight_g[outside_g]), kind="stable")[:10]
    return {
        "soft_l1": soft_l1,
        "listed": int(listed_g.sum()),
        "listed_active": int((weight_g[listed_g] != 0).sum()),
        "outside_zero": float(1 - taken_g.mean()),
        "taken_in": counts[2],
        "withheld": counts[1],
        "regained": regained,
        "by_chance": counts[1] * counts[2] / counts[0],
        "p": float(hypergeom.sf(regained - 1, *counts)),
        "auc": float(roc_auc_score(sought_g, np.abs(weight_g[outside_g]))),
        "regained_genes": genes[outside_g][sought_g & taken_g].tolist(),
        "first_outside": genes[outside_g][order].tolist(),
    }


def main() -> None:
    """Map for every penalty and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="reference model without the program")
    parser.add_argument("--query", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="programs.npz that holds the program")
    parser.add_argument("--program", required=True)
    parser.add_argument("--withhold", type=float, default=0.5, help="share of its genes to withhold")
    parser.add_argument("--soft-l1", type=float, nargs="+", default=[0.5])
    parser.add_argument("--map-options", default="", help="more options for scmap map-query, in one string")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    results, rows = [], []
    for soft_l1 in args.soft_l1:
        found = one(args, soft_l1)
        results.append(found)
        shown = [f"{found['outside_zero']:.3f}", str(found["taken_in"]), f"{found['regained']} of {found['withheld']}"]
        rows.append([f"{soft_l1:g}", *shown, f"{found['by_chance']:.1f}, {found['p']:.1g}", f"{found['auc']:.3f}"])
        say(json.dumps(found))
    say("\n" + measure.table(["--soft-l1", "outside zero", "taken in", "regained", "by chance", "AUC"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "soft_membership",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata", "scipy", "scikit-learn"),
        },
    )


if __name__ == "__main__":
    main()
