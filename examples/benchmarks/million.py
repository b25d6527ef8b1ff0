"""One epoch of expiMap on a million cells: seconds, cells per second and peak memory.

    python examples/benchmarks/million.py -o million.json

Writes a synthetic h5ad (1,000,000 cells x 2,000 genes, CSR float32, about 8 % of the entries filled: some 1.3 GB; see
``synthetic.py``) block by block, then runs ``scmap preprocess programs`` and ``scmap train expimap --epochs 1`` on it.
``--cells`` scales it down. Needs about 3 GB of free disk for a million cells under ``--work-dir`` (default: the
temporary folder); a file that is already there from the same settings is used again.

Peak memory is the largest resident size of the training process, reading, splitting, training, validating and writing
the model included; process seconds are that whole process. cells/s is training cells over the epoch's wall seconds, its
validation pass included. The bar is 6 GiB.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import measure
from measure import HERE, flags, measured, say

BAR_BYTES = 6 * 2**30


def main() -> None:
    """Parse, write the cells, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--density", type=float, default=0.08)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train-options", default="", help="more options for scmap train, in one string")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work-dir", type=Path, help="keep the cells and the model here")
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    scmap = measure.scmap_command(args.scmap)
    machine = measure.machine()
    with tempfile.TemporaryDirectory(prefix="scmap-benchmark-") as folder:
        work = args.work_dir or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        stem = f"cells{args.cells}_genes{args.genes}_programs{args.programs}_density{args.density}_seed{args.seed}"
        cells, gmt, programs, model = work / f"{stem}.h5ad", work / f"{stem}.gmt", work / f"{stem}.npz", work / "model"
        if not (cells.exists() and gmt.exists()):
            part = work / f"{stem}.part"
            shape = flags(cells=args.cells, genes=args.genes, programs=args.programs, density=args.density)
            made = measured([sys.executable, HERE / "synthetic.py", part, *shape, *flags(gmt=gmt, seed=args.seed)])
            part.rename(cells)
            size, peak = cells.stat().st_size / 1e9, made.peak_bytes / 2**20
            say(f"wrote {size:.2f} GB in {made.seconds:.0f} s, peak {peak:.0f} MiB")
        measured([*scmap, "preprocess", "programs", gmt, *flags(o=programs, genes=cells, force=True)])
        common = flags(epochs=1, batch_size=args.batch_size, seed=args.seed, threads=args.threads, device=args.device)
        options = flags(o=model, programs=programs, batch_key="batch", force=True)
        more = shlex.split(args.train_options)
        run = measured([*scmap, "train", "expimap", cells, *options, *common, *more], args.threads)
        told = measure.training_facts(model)
        size = cells.stat().st_size
    result = {
        "cells": args.cells,
        "file_bytes": size,
        "process_seconds": run.seconds,
        "epoch_seconds": told["epoch_seconds"][0],
        "cells_per_second": told["cells_per_epoch"] / told["epoch_seconds"][0],
        "peak_bytes": run.peak_bytes,
        "peak_below_bar": run.peak_bytes < BAR_BYTES,
    }
    say(f"{machine['cpu']}, {args.threads} threads, load {machine['load_at_start']:.1f}")
    row = [
        f"{args.cells:,}",
        f"{size / 1e9:.2f}",
        f"{run.seconds:.0f}",
        f"{result['epoch_seconds']:.0f}",
        f"{result['cells_per_second']:,.0f}",
        f"{run.peak_bytes / 2**30:.2f}",
        f"{BAR_BYTES / 2**30:.0f}",
    ]
    say(measure.table(["cells", "file GB", "process s", "epoch s", "cells/s", "peak GiB", "bar GiB"], [row]))
    measure.write_json(
        args.output,
        {
            "benchmark": "million",
            "machine": machine,
            "settings": measure.settings(args),
            "result": result,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata"),
        },
    )


if __name__ == "__main__":
    main()
