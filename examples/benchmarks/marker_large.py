"""MarkerMap on as many cells and genes as the largest set of its paper: wall time and peak memory of the training.

    python examples/benchmarks/marker_large.py --work-dir work -o found.json
    python examples/benchmarks/marker_large.py --work-dir work --device cuda --modes supervised unsupervised

Counts of 39,583 cells x 4,581 genes in 9 types are simulated once, then each mode is trained with its defaults. The
paper took 5 minutes supervised and 15 unsupervised on a cloud GPU. Figures are those of the whole process, reading and
writing included.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure
from measure import flags, measured, say


def simulated(args: argparse.Namespace) -> Path:
    """The counts, made where they are not there yet."""
    path: Path = args.work_dir / f"cells_{args.cells}_{args.genes}_{args.types}_{args.seed}.h5ad"
    if not path.exists():
        args.work_dir.mkdir(parents=True, exist_ok=True)
        words = flags(o=path, n_cells=args.cells, n_genes=args.genes, n_types=args.types, n_batches=1, seed=args.seed)
        measured([*args.scmap, "simulate", "rna", *words, *flags(threads=args.threads, q=True)], args.threads)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=39583)
    parser.add_argument("--genes", type=int, default=4581)
    parser.add_argument("--types", type=int, default=9)
    parser.add_argument("--choose", type=int, default=50)
    parser.add_argument("--modes", nargs="+", default=["supervised"])
    parser.add_argument("--epochs", type=int, help="default: that of the model")
    parser.add_argument("--device", default="cpu")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.scmap = measure.scmap_command(args.scmap)
    result: dict[str, Any] = {"settings": measure.settings(args), "machine": measure.machine()}
    rows, data = [], simulated(args)
    for mode in args.modes:
        model = args.work_dir / f"model_{mode}"
        words = flags(o=model, k=args.choose, mode=mode, label_key="cell_type", device=args.device, seed=args.seed)
        words += flags(threads=args.threads, force=True, q=True)
        if args.epochs:
            words += flags(epochs=args.epochs)
        run = measured([*args.scmap, "train", "markermap", data, *words], args.threads)
        told = measure.training_facts(model)
        trained = sum(told["epoch_seconds"])
        result[mode] = {
            "seconds": run.seconds,
            "training_seconds": trained,
            "epochs": len(told["epoch_seconds"]),
            "peak_bytes": run.peak_bytes,
        }
        cells = f"{run.seconds / 60:.1f} min", f"{trained / 60:.1f} min", str(len(told["epoch_seconds"]))
        rows.append([mode, *cells, f"{run.peak_bytes / 2**30:.2f} GiB"])
    say(measure.table([f"{args.cells} x {args.genes}", "wall", "training", "epochs", "peak memory"], rows))
    measure.write_json(args.output, result)


if __name__ == "__main__":
    main()
