"""All genes rebuilt by MarkerMap from k of them, and by scVI from all, in the layout of the MarkerMap paper's Table 4.

    python examples/benchmarks/marker_reconstruction.py zeisel.h5ad --label-key cell_type --work-dir work \\
        --scvi-python ENV/bin/python -o found.json

Both are trained on the training and validation cells of each split and rebuild its test cells; the environment of scVI
is made as the head of ``peer_scvi.py`` says, and without it MarkerMap alone is scored. Values are log2(1 + counts)
without depth normalisation, in units of one deviation around one mean, those of all test values; MarkerMap's, which are
log1p CP10k, are brought to counts at each cell's depth before. Everything is scored on that scale: in the paper the
first two scores of scVI are of its counts, so that its two sides are on different ones.

A split that is done is not done again. The paper's cells and genes are others, so its figures are a guide alone; l2 and
l1 also grow with the number of genes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import measure
from measure import HERE, flags, measured, say

SCORES = ("jaccard", "spearman", "l2", "l1")

#: Table 4: Jaccard, Spearman and l2 of MarkerMap with 50 genes, then of scVI with all 4,581; means of 5 splits
PAPER = {
    "Astro": (0.505, 0.578, 40.021, 0.858, 0.976, 51.765),
    "Endo": (0.162, 0.110, 42.404, 0.240, 0.265, 50.352),
    "Ext": (0.688, 0.913, 57.396, 0.925, 0.993, 74.897),
    "Inh": (0.663, 0.869, 56.244, 0.905, 0.988, 73.628),
    "LowQ": (0.551, 0.722, 52.773, 0.690, 0.859, 66.035),
    "Micro": (0.340, 0.351, 35.379, 0.762, 0.945, 44.239),
    "Nb": (0.351, 0.438, 42.272, 0.634, 0.848, 53.200),
    "OPC": (0.465, 0.591, 45.875, 0.794, 0.952, 58.249),
    "Oligo": (0.589, 0.655, 35.527, 0.908, 0.991, 48.340),
    "All": (0.738, 0.908, 48.234, 0.939, 0.994, 63.354),
}


def write_split(args: argparse.Namespace, number: int, folder: Path) -> None:
    """Counts and labels of the training and the test cells, and the names of the former."""
    import anndata
    import pandas as pd

    from scmap_cli.stages.panel import Fold, load_panel

    panel = load_panel(args.input, label_key=args.label_key)
    fold = Fold(panel, number, args.seed)
    names = panel.source.cells[panel.kept]
    for part, rows in (("train", fold.train), ("test", fold.test)):
        labels = [panel.classes[code] for code in panel.strata[rows]]
        obs = pd.DataFrame({args.label_key: labels}, index=names[rows])
        anndata.AnnData(panel.counts[rows], obs=obs, var=pd.DataFrame(index=panel.genes)).write_h5ad(
            folder / f"{part}.h5ad"
        )
    (folder / "train.txt").write_text("\n".join(names[fold.train]) + "\n")


def scored(args: argparse.Namespace, folder: Path, rebuilt: Path, values: str) -> dict[str, dict[str, float]]:
    """Scores of a reconstruction of the test cells by type, and of all."""
    words = flags(
        reconstruction=rebuilt, reconstruction_values=values, scale="global", label_key=args.label_key, q=True
    )
    command = [*args.scmap, "evaluate", "reconstruction", folder / "test.h5ad", "-q", *words]
    entry = json.loads(measured(command, args.threads).stdout)["results"][0]
    return {
        name: {key: one[key] for key in SCORES} for name, one in (entry["types"] | {"All": entry["overall"]}).items()
    }


def run_split(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Scores by model of one split, read where an earlier run left them."""
    folder = args.work_dir / f"split_{number}"
    done = folder / "scores.json"
    found: dict[str, Any] = json.loads(done.read_text()) if done.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.txt").exists():
        write_split(args, number, folder)
    if "MarkerMap" not in found:
        model, rebuilt = folder / "model", folder / "markermap.h5ad"
        words = flags(
            k=args.choose, mode="unsupervised", seed=args.seed, threads=args.threads, device=args.device, q=True
        )
        if args.epochs:
            words += flags(epochs=args.epochs)
        train = [*args.scmap, "train", "markermap", args.input, "-o", model, "--train-cells", folder / "train.txt"]
        run = measured([*train, "-q", "--label-key", args.label_key, "--force", *words], args.threads)
        impute = [*args.scmap, "impute", model, folder / "test.h5ad", "-o", rebuilt, "--force"]
        measured([*impute, *flags(threads=args.threads, q=True)], args.threads)
        found["MarkerMap"] = scored(args, folder, rebuilt, "log1p")
        found["MarkerMap seconds"] = run.seconds
        done.write_text(json.dumps(found))
    if args.scvi_python and "scVI" not in found:
        words = flags(o=folder, test=folder / "test.h5ad", seed=args.seed, threads=args.threads)
        if args.scvi_epochs:
            words += flags(epochs=args.scvi_epochs)
        peer = [args.scvi_python, HERE / "peer_scvi.py", "rebuild", folder / "train.h5ad", *words]
        told = measured(peer, args.threads).json()
        found["scVI"] = scored(args, folder, folder / "mean.h5ad", "counts")
        found["scVI, one draw"] = scored(args, folder, folder / "draw.h5ad", "counts")
        found["scVI seconds"], found["versions"] = told["seconds"], told["versions"]
        done.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--scvi-python")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--choose", type=int, default=50, help="genes that MarkerMap sees")
    parser.add_argument("--epochs", type=int, help="of MarkerMap (default: its own)")
    parser.add_argument("--scvi-epochs", type=int, help="of scVI (default: its own)")
    parser.add_argument("--device", default="auto")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.scmap = measure.scmap_command(args.scmap)
    splits = [run_split(args, number) for number in range(args.splits)]
    models = [name for name in ("MarkerMap", "scVI", "scVI, one draw") if name in splits[0]]
    result: dict[str, Any] = {"settings": measure.settings(args), "machine": measure.machine(), "splits": splits}
    for name in models:
        result[name] = {
            of: {key: measure.mean_sd(one[name][of][key] for one in splits) for key in SCORES} for of in splits[0][name]
        }
        rows = [[of, *(f"{found[key]['mean']:.3f}" for key in SCORES)] for of, found in result[name].items()]
        say(f"\n{name}, mean of {args.splits} splits\n" + measure.table([args.label_key, *SCORES], rows))
    rows = [[of, *(f"{value:.3f}" for value in values)] for of, values in PAPER.items()]
    say("\nThe paper's Table 4, mouse brain: MarkerMap, 50 genes, and scVI, 4,581")
    say(measure.table(["type", *SCORES[:3], *(f"scVI {name}" for name in SCORES[:3])], rows))
    measure.write_json(args.output, result)


if __name__ == "__main__":
    main()
