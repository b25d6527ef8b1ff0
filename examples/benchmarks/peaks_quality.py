r"""How good SAILER's embedding of real peaks is, beside LSI and PeakVI, by one scorer in one run.

    python examples/benchmarks/peaks_quality.py atac.h5ad --label-key cell_type --batch-key batch --depth-key depth \
        --peakvi-python scvi-env/bin/python --work-dir quality -o quality.json

Cells hold raw counts of peaks, and columns of types, batches and depth. SAILER is ``scmap train sailer`` and ``embed``
with shipped defaults, seeds 0 to ``--seeds`` - 1; LSI has 30 components without the first; PeakVI is scvi-tools' with
its defaults, early stopping among them (see ``peer_peaks.py``). Labels are used for scores alone.

ARI, NMI   the best over the neighbours and Leiden resolutions of ``scmap evaluate clustering``, each on its own
kNN        label accuracy of 15 neighbours, 5-fold
depth MI   mutual information with depth in nats, mean and largest over the dimensions (``scmap evaluate invariance``)
batch MI   that with the batch, mean
mixing     entropy of the batches among 50 neighbours, corrected for batch sizes: 0 apart, 1 mixed

What the output file holds is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import measure
from measure import HERE, flags, measured, say

FIGURES = ("ari", "nmi", "knn", "depth_mi", "worst_depth_mi", "batch_mi", "mixing")


def scores(args: argparse.Namespace, embedded: Path, embedding: str) -> dict[str, float]:
    """The figures of one embedding."""
    words = flags(embedding=embedding, batch_key=args.batch_key, threads=args.threads, quiet=True)
    evaluate = [*measure.scmap_command(args.scmap), "evaluate"]
    told = measured([*evaluate, "clustering", embedded, *words, *flags(label_key=args.label_key)])
    alike = json.loads(told.stdout)["results"][0]
    told = measured([*evaluate, "invariance", embedded, *words, *flags(depth_key=args.depth_key)])
    known = json.loads(told.stdout)["results"][0]
    return {
        "ari": alike["best_ari"]["ari"],
        "nmi": alike["best_nmi"]["nmi"],
        "knn": alike["knn_accuracy"],
        "depth_mi": known["depth_mi"]["mean"],
        "worst_depth_mi": known["depth_mi"]["max"],
        "batch_mi": known["batch_mi"]["mean"],
        "mixing": alike["mixing"],
    }


def run(args: argparse.Namespace, method: str, seed: int) -> dict[str, float]:
    """Train, embed and score."""
    scmap, model, out = measure.scmap_command(args.scmap), args.work_dir / "model", args.work_dir / "embedded.h5ad"
    common = flags(seed=seed, threads=args.threads, force=True, quiet=True)
    key = {"SAILER": "X_sailer", "LSI": "X_lsi", "PeakVI": "X_peakvi"}[method]
    facts: dict[str, float] = {}
    if method == "SAILER":
        options = flags(o=model, batch_key=args.batch_key, depth_key=args.depth_key)
        more = shlex.split(args.train_options)
        facts["seconds"] = measured([*scmap, "train", "sailer", args.cells, *options, *common, *more]).seconds
        facts["epochs"] = len(measure.training_facts(model)["train_loss"])
        measured([*scmap, "embed", model, args.cells, *flags(o=out), *common])
    elif method == "LSI":
        measured([*scmap, "embed", args.cells, *flags(o=out, baseline="lsi", components=30), *common])
    else:
        options = flags(o=out, batch_key=args.batch_key, seed=seed)
        told = measured([args.peakvi_python, HERE / "peer_peaks.py", "peakvi", args.cells, *options], args.threads)
        facts |= {name: told.json()[name] for name in ("seconds", "epochs", "dimensions")}
    return scores(args, out, key) | facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="h5ad with raw counts in X")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--depth-key", required=True)
    parser.add_argument("--seeds", type=int, default=5, help="of SAILER")
    parser.add_argument("--peakvi-python", help="Python with scvi-tools; without it PeakVI is left out")
    parser.add_argument("--peakvi-seeds", type=int, default=1)
    parser.add_argument("--train-options", default="", help="more options for scmap train sailer, in one string")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON with every figure")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    wanted = {"LSI": 1, "SAILER": args.seeds, "PeakVI": args.peakvi_seeds if args.peakvi_python else 0}
    compared = ("cells", "label_key", "batch_key", "depth_key", "train_options")
    same = {name: value for name, value in measure.settings(args).items() if name in compared}
    runs = measure.earlier_runs(args.output, same)
    for method, seeds in wanted.items():
        for seed in range(seeds):
            name = f"{method}, seed {seed}"
            if name in runs:
                continue
            runs[name] = run(args, method, seed)
            say(f"{name}: {json.dumps(runs[name])}")
            measure.write_runs(args, "peaks_quality", same, runs)
    rows = []
    for method in wanted:
        told = [one for name, one in runs.items() if name.startswith(f"{method},")]
        found = {figure: measure.mean_sd(one[figure] for one in told) for figure in FIGURES} if told else {}
        cells = [f"{one['mean']:.3f} +- {one['sd']:.3f}" for one in found.values()]
        rows += [[method, str(len(told)), *cells]] if told else []
    header = ["", "seeds", "ARI", "NMI", "kNN", "depth MI", "largest", "batch MI", "mixing"]
    say("\n" + measure.table(header, rows))


if __name__ == "__main__":
    main()
