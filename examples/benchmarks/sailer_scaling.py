"""SAILER's time and memory against the number of cells: the layout of the thesis's Figure 2.5B, 5,000 to a million.

    python examples/benchmarks/sailer_scaling.py --work-dir scaling -o scaling.json

For each number of cells a synthetic h5ad is written block by block (``synthetic.py``; CSR, ``--open-share`` of the
features open in a cell), and ``scmap train sailer --epochs 1`` runs on it with its other defaults. Seconds of the epoch
hold its validation pass; the process's hold reading, splitting and writing the model. Peak memory is the process's.
The cells are held in memory as CSR, so memory grows by what an open peak takes; ``bytes a cell`` is that growth from
the smallest number to each other. A million cells need some 3 GB of disk in ``--work-dir``; files there are used again.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import measure
from measure import HERE, flags, measured, say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[5_000, 20_000, 100_000, 1_000_000])
    parser.add_argument("--peaks", type=int, default=5000)
    parser.add_argument("--open-share", type=float, default=0.04)
    parser.add_argument("--train-options", default="", help="more options for scmap train sailer, in one string")
    parser.add_argument("--device", default="cpu")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    scmap, machine, found, rows = measure.scmap_command(args.scmap), measure.machine(), [], []
    for cells in args.cells:
        data = args.work_dir / f"cells{cells}_peaks{args.peaks}_open{args.open_share}_seed{args.seed}.h5ad"
        if not data.exists():
            shape = flags(cells=cells, genes=args.peaks, density=args.open_share, seed=args.seed)
            measured([sys.executable, HERE / "synthetic.py", data.with_suffix(".part"), *shape])
            data.with_suffix(".part").rename(data)
        model = args.work_dir / "model"
        options = flags(o=model, batch_key="batch", epochs=1, device=args.device, force=True, quiet=True)
        more = [*flags(seed=args.seed, threads=args.threads), *shlex.split(args.train_options)]
        run = measured([*scmap, "train", "sailer", data, *options, *more], args.threads)
        told = measure.training_facts(model)
        one = {
            "cells": cells,
            "file_bytes": data.stat().st_size,
            "process_seconds": run.seconds,
            "epoch_seconds": told["epoch_seconds"][0],
            "cells_per_second": told["cells_per_epoch"] / told["epoch_seconds"][0],
            "peak_bytes": run.peak_bytes,
        }
        found.append(one)
        more_cells = cells - found[0]["cells"]
        growth = f"{(run.peak_bytes - found[0]['peak_bytes']) / more_cells:,.0f}" if more_cells else ""
        shown = [f"{one[name]:,.1f}" for name in ("process_seconds", "epoch_seconds", "cells_per_second")]
        rows.append([f"{cells:,}", *shown, f"{run.peak_bytes / 1e9:.2f}", growth])
        say(" ".join(rows[-1]))
    say("\n" + measure.table(["cells", "process s", "epoch s", "cells/s", "peak GB", "bytes a cell"], rows))
    result = {"benchmark": "sailer_scaling", "machine": machine, "settings": measure.settings(args), "runs": found}
    measure.write_json(args.output, result | {"versions": measure.versions("scmap-cli", "torch", "numpy", "anndata")})


if __name__ == "__main__":
    main()
