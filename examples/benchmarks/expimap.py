"""The same expiMap training by scmap and by scArches: cells per second, peak memory, fraction of the limit.

    python examples/benchmarks/expimap.py --scarches-python scarches-env/bin/python -o expimap.json

Run it with the Python that has scmap. The peer's environment is made as the head of ``peer_scarches.py`` says; without
``--scarches-python`` only scmap and the limit are measured. Cells and programs are synthetic (6,512 cells, 2,000 genes,
8 % of the entries filled, 300 programs of about 25 genes, two batches) unless ``--cells`` and ``--gmt`` name real ones.

Both sides train a 256 x 3 encoder, the negative binomial, KL weight 0.5 annealed over 100 epochs, group lasso 0.7, on
90 % of the cells with the rest for validation, on the CPU with the same number of threads. Every figure is a process of
its own; the sides take turns, ``--repeats`` times.

cells/s   training cells of all epochs but the first over the wall seconds of those epochs, the validation pass at the
          end of each epoch included on both sides (the JSON also has the peer's rate without it)
memory    peak resident memory of the whole process, imports and reading included; for scmap also writing the model
limit     the rate of the step's matrix products alone; formula and shapes in ``limit.py``
Figures are medians, smallest and largest in brackets. A ratio is scmap over the peer, from the medians.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from measure import HERE, flags, measured, say


def steady(cells: float, seconds: list[float]) -> float:
    """Cells per second over all epochs but the first."""
    return cells * (len(seconds) - 1) / sum(seconds[1:])


def prepare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Cells as CSR and dense, programs for both sides; returns their places and numbers."""
    cells, gmt = args.cells, args.gmt
    if cells is None:
        cells, gmt = work / "cells.h5ad", work / "programs.gmt"
        measured([sys.executable, HERE / "synthetic.py", cells, *flags(gmt=gmt, seed=args.seed)])
    programs, dense, mask = work / "programs.npz", work / "dense.h5ad", work / "mask.npz"
    options = flags(o=programs, genes=cells, min_genes=args.min_genes)
    measured([*args.scmap, "preprocess", "programs", gmt, *options])
    options = flags(o=dense, programs=programs, mask=mask)
    facts = measured([sys.executable, HERE / "cells.py", "peer", cells, *options]).json()
    return {"csr": cells, "dense": dense, "programs": programs, "mask": mask, "facts": facts}


def run_scmap(args: argparse.Namespace, data: dict[str, Any], work: Path, batch_size: int) -> dict[str, Any]:
    """One training by scmap, from CSR."""
    model = work / "model"
    common = flags(epochs=args.epochs, batch_size=batch_size, seed=args.seed, threads=args.threads, device=args.device)
    options = flags(o=model, programs=data["programs"], batch_key=args.batch_key, kl_weight=0.5, force=True)
    more = shlex.split(args.train_options)
    run = measured([*args.scmap, "train", "expimap", data["csr"], *options, *common, *more], args.threads)
    told = measure.training_facts(model)
    return {
        "cells_per_second": steady(told["cells_per_epoch"], told["epoch_seconds"]),
        "peak_bytes": run.peak_bytes,
        "process_seconds": run.seconds,
        "last_train_loss": told["train_loss"][-1],
    }


def run_peer(args: argparse.Namespace, data: dict[str, Any], batch_size: int, form: str) -> dict[str, Any]:
    """One training by scArches from dense or CSR cells."""
    options = flags(mask=data["mask"], input=form, batch_key=args.batch_key, threads=args.threads)
    common = flags(epochs=args.epochs, batch_size=batch_size)
    run = measured(
        [args.scarches_python, HERE / "peer_scarches.py", "time", data[form], *options, *common], args.threads
    )
    told = run.json()
    return {
        "cells_per_second": steady(told["cells_per_epoch"], told["epoch_seconds"]),
        "without_validation": steady(told["cells_per_epoch"], told["train_seconds"]),
        "peak_bytes": run.peak_bytes,
        "process_seconds": run.seconds,
        "last_train_loss": told["train_loss"][-1],
        "versions": told["versions"],
    }


def run_limit(args: argparse.Namespace, data: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Rate of the matrix products of one step."""
    shape = flags(genes=data["facts"]["genes"], programs=data["facts"]["programs"], batch_sizes=batch_size)
    options = flags(threads=args.threads, device="cuda" if args.device.startswith("cuda") else "cpu")
    told = measured([sys.executable, HERE / "limit.py", *shape, *options], args.threads).json()
    return dict(told | told["batches"][str(batch_size)])


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and spreads of every figure of every side at one batch size, ratios and fractions."""
    figures = ("cells_per_second", "without_validation", "peak_bytes", "process_seconds", "flops", "square_flops")
    out: dict[str, Any] = {
        side: {name: measure.spread(run[name] for run in found) for name in figures if name in found[0]}
        for side, found in runs.items()
    }
    ours, limit = out["scmap"], out["limit"]["cells_per_second"]["median"]
    for found in out.values():
        rate = found["cells_per_second"]["median"]
        found["fraction_of_limit"] = rate / limit
        found["scmap_is_times_faster"] = ours["cells_per_second"]["median"] / rate
        if "peak_bytes" in found:
            found["scmap_memory_share"] = ours["peak_bytes"]["median"] / found["peak_bytes"]["median"]
    return out


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    rows = []
    for batch_size, sides in results.items():
        for side, found in sides.items():
            rate, peak = found["cells_per_second"], found.get("peak_bytes")
            rows.append(
                [
                    f"{side}, batch {batch_size}",
                    f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})",
                    f"{found['scmap_is_times_faster']:.2f}" if side.startswith("scarches") else "",
                    f"{found['fraction_of_limit']:.2f}",
                    f"{peak['median'] / 1e6:,.0f}" if peak else "",
                ]
            )
        shapes, square = (sides["limit"][name]["median"] / 1e9 for name in ("flops", "square_flops"))
        say(f"batch {batch_size}: F = {shapes:.0f} GFLOP/s in these shapes, {square:.0f} in a product of 2048 squared")
    say("\n" + measure.table(["", "cells/s", "scmap is x faster", "of limit", "peak MB"], rows))


def main() -> None:
    """Parse, prepare, take turns, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scarches-python", help="Python of the peer's environment")
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--cells", type=Path, help="h5ad with raw counts in X (default: synthetic)")
    parser.add_argument("--gmt", type=Path, help="gene programs for --cells")
    parser.add_argument("--min-genes", type=int, default=13, help="smallest program kept")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--epochs", type=int, default=6, help="the first is dropped")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu", help="for scmap; a GPU's limit is measured on the GPU")
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    if (args.cells is None) != (args.gmt is None):
        parser.error("--cells and --gmt go together")
    if args.epochs < 2:
        parser.error("--epochs must be 2 or more: the first is dropped")
    args.scmap = measure.scmap_command(args.scmap)
    if args.device == "cpu":
        # the peer takes a GPU wherever it sees one
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    machine = measure.machine()
    sides = ["limit", *(["scarches dense", "scarches csr"] if args.scarches_python else []), "scmap"]
    runs: dict[int, dict[str, list[dict[str, Any]]]] = {size: {side: [] for side in sides} for size in args.batch_sizes}
    with tempfile.TemporaryDirectory(prefix="scmap-benchmark-") as folder:
        work = Path(folder)
        data = prepare(args, work)
        say(f"{machine['cpu']}, {args.threads} threads, load {machine['load_at_start']:.1f}; {data['facts']}")
        for repeat in range(args.repeats):
            for batch_size in args.batch_sizes:
                for side in sides:
                    if side == "limit":
                        run = run_limit(args, data, batch_size)
                    elif side == "scmap":
                        run = run_scmap(args, data, work, batch_size)
                    else:
                        run = run_peer(args, data, batch_size, side.split()[1])
                    runs[batch_size][side].append(run)
                    say(f"repeat {repeat + 1}, batch {batch_size}, {side}: {run['cells_per_second']:,.0f} cells/s")
    results = {str(size): summary(found) for size, found in runs.items()}
    say("")
    show(results)
    measure.write_json(
        args.output,
        {
            "benchmark": "expimap",
            "machine": machine,
            "settings": measure.settings(args),
            "data": data["facts"],
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "scipy", "anndata"),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
