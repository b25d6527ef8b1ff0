"""SAILER's sensitivity to lambda, latent dimensions and hidden units: the layout of the thesis's Tables 2.1 to 2.3.

    python examples/benchmarks/sailer_sweep.py --work-dir sweep -o sweep.json
    python examples/benchmarks/sailer_sweep.py --input atac.h5ad --label-key cell_type --work-dir sweep

Without ``--input`` the cells are the preset ``sim3`` of ``scmap simulate atac``: two batches of different depth. One
setting is changed at a time, the others stay at their defaults; every row is ``scmap train sailer``, ``embed`` and
``evaluate``. Mutual information (nats, mean over the dimensions) is with depth and with the batch; ARI and NMI are
those at the number of clusters nearest to the number of labels, which picks nothing by the labels. Baselines are
``embed --baseline lsi`` with the thesis's 10 dimensions, with and without the first component.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure
from measure import flags, measured, say

GRIDS: dict[str, list[str]] = {
    "invariance": ["0", "0.01", "0.1", "1", "2", "10", "50"],
    "latent": ["2", "5", "10", "15", "20"],
    "hidden": ["1000,50", "1000,100", "1000,200", "1000,350", "1000,500"],
}
BASELINES = {"LSI": {}, "LSI, all components": {"keep_first": True}}


def scores(args: argparse.Namespace, embedded: Path) -> dict[str, float]:
    """The four figures of one embedding."""
    words = {"batch_key": args.batch_key, "label_key": args.label_key, "threads": args.threads, "seed": args.seed}
    return measure.embedding_scores(measure.scmap_command(args.scmap), [embedded], **words)[0]


def one(args: argparse.Namespace, data: Path, option: str, value: str) -> dict[str, float]:
    """Train with one changed option, embed, score."""
    command, name = measure.scmap_command(args.scmap), f"{option}_{value.replace(',', '-')}"
    model, embedded = args.work_dir / f"model_{name}", args.work_dir / f"embedded_{name}.h5ad"
    run = flags(seed=args.seed, threads=args.threads, force=True, quiet=True)
    words = flags(o=model, batch_key=args.batch_key, epochs=args.epochs, **{option: value})
    measured([*command, "train", "sailer", data, *words, *run], args.threads)
    measured([*command, "embed", model, data, *flags(o=embedded), *run], args.threads)
    return scores(args, embedded)


def main() -> None:
    """Run the grids and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="h5ad of peaks (default: simulated)")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--cells", type=int, default=20_000, help="of the simulation")
    parser.add_argument("--peaks", type=int, default=20_000, help="of the simulation")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--epochs", type=int, default=100)
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    command, data = measure.scmap_command(args.scmap), args.input
    run = flags(seed=args.seed, threads=args.threads, force=True, quiet=True)
    if data is None:
        data = args.work_dir / "sim3.h5ad"
        words = flags(o=data, preset="sim3", n_cells=args.cells, n_peaks=args.peaks)
        measured([*command, "simulate", "atac", *words, *run], args.threads)
    results: dict[str, Any] = {"baselines": {}}
    for name, more in BASELINES.items():
        embedded = args.work_dir / f"embedded_{'_'.join(more) or 'lsi'}.h5ad"
        words = flags(o=embedded, baseline="lsi", components=10, batch_key=args.batch_key, **more)
        measured([*command, "embed", data, *words, *run], args.threads)
        results["baselines"][name] = scores(args, embedded)
    for option in args.grids:
        results[option] = {value: one(args, data, option, value) for value in GRIDS[option]}
        header = [option, *next(iter(results[option].values()))]
        rows = [[k, *(f"{x:.3f}" for x in v.values())] for k, v in {**results[option], **results["baselines"]}.items()]
        say("\n" + measure.table(header, rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "sailer_sweep",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata"),
        },
    )


if __name__ == "__main__":
    main()
