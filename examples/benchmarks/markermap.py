"""MarkerMap's training and its relaxed choice of k genes, by scmap and by the package markermap, side by side.

    python examples/benchmarks/markermap.py zeisel.h5ad --label-key cell_type --markermap-python ENV/bin/python

Run it with the Python that has scmap; the peer's environment is made as the head of ``peer_markermap.py`` says, and
without it only scmap is clocked. Both sides train on the same scaled log1p CP10k values. scmap begins with the peer's
objective, width and batches of 64 (``same objective``) and goes to its defaults step by step, see :data:`STEPS`;
``--steps`` picks some. The sides take turns, ``--repeats`` times; figures are medians over all epochs but the first, of
the epochs with a soft mask alone and of all: those with a hard mask see k genes, and the peer has none.
``--top-k`` clocks one relaxed choice, forward and backward, at ``--genes`` and ``--choose``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import HERE, flags, measured, say

#: what a row of scmap trains with: each gives up something of the peer that the row before had
STEPS = {
    "same objective": {"batch_size": 64, "gene_share": 1, "direct_share": 0, "loss_scale": "sum",
                       "rebuild_by": "gaussian", "lr": 1e-3, "width": 256},
    "batches of 256": {"gene_share": 1, "direct_share": 0, "loss_scale": "sum", "rebuild_by": "gaussian", "lr": 1e-3,
                       "width": 256},
    "a quarter of the genes": {"direct_share": 0, "loss_scale": "sum", "rebuild_by": "gaussian", "lr": 1e-3,
                               "width": 256},
    "own objective": {"width": 256},
    "as shipped": {},
}  # fmt: skip


def write_scaled(args: argparse.Namespace, path: Path) -> int:
    """Scaled values and class codes for the peer; returns the number of cells."""
    from scmap_cli.stages.panel import load_panel

    panel = load_panel(args.input, label_key=args.label_key)
    data = panel.data(np.ones(len(panel.strata), dtype=bool))
    np.savez(path, scaled=data.scaled, codes=panel.strata)
    return len(panel.strata)


def ours(args: argparse.Namespace, mode: str, work: Path, step: dict[str, Any]) -> dict[str, float]:
    """Cells a second of one training by scmap: in all epochs, and in those whose mask is soft."""
    model = work / "model"
    common = flags(o=model, mode=mode, epochs=args.epochs, threads=args.threads, k=args.choose, force=True, **step)
    more = flags(label_key=args.label_key, device="cpu", seed=args.seed, patience=0)
    measured([*args.scmap, "train", "markermap", args.input, *common, *more], args.threads)
    told = measure.training_facts(model)
    soft = told["epoch_seconds"][1 : max(2, args.epochs * 2 // 3)]
    rest = told["epoch_seconds"][1:]
    cells = told["cells_per_epoch"]
    return {"all": cells * len(rest) / sum(rest), "soft": cells * len(soft) / sum(soft)}


def theirs(args: argparse.Namespace, mode: str, cells: Path) -> dict[str, Any]:
    """Cells a second of one training by the peer."""
    options = flags(cells=cells, mode=mode, epochs=args.peer_epochs, threads=args.threads, k=args.choose)
    run = measured([args.markermap_python, HERE / "peer_markermap.py", "time", *options], args.threads).json()
    rest = run["epoch_seconds"][1:]
    return {"all": run["cells_per_epoch"] * len(rest) / sum(rest), "versions": run["versions"]}


def clock_top_k(args: argparse.Namespace) -> list[float]:
    """Seconds of our relaxed choice, forward and backward."""
    import torch

    from scmap_cli.nn.subset import relaxed_top_k

    torch.set_num_threads(args.threads)
    logits = torch.randn(args.genes, generator=torch.Generator().manual_seed(args.seed)).requires_grad_()
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        mask = relaxed_top_k(logits, args.choose, 1.0)
        torch.autograd.grad(mask.square().sum(), logits)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--markermap-python")
    parser.add_argument("--modes", nargs="+", default=["supervised", "unsupervised"])
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--peer-epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--top-k", action="store_true")
    parser.add_argument("--genes", type=int, default=12000)
    parser.add_argument("--choose", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scmap")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    args.scmap = measure.scmap_command(args.scmap)
    result: dict[str, Any] = {"settings": measure.settings(args), "machine": measure.machine()}
    if args.top_k:
        mine, peer = [], []
        for _ in range(args.repeats):
            mine += clock_top_k(args)
            if args.markermap_python:
                options = flags(genes=args.genes, k=args.choose, threads=args.threads, epochs=4)
                command = [args.markermap_python, HERE / "peer_markermap.py", "top-k", *options]
                peer += measured(command, args.threads).json()["seconds"][1:]
        result["top_k"] = {"scmap": measure.spread(mine)}
        say(f"choice of {args.choose} among {args.genes}: scmap {1e3 * statistics.median(mine):.1f} ms")
        if peer:
            result["top_k"]["peer"] = measure.spread(peer)
            ratio = statistics.median(peer) / statistics.median(mine)
            say(f"  markermap {1e3 * statistics.median(peer):.1f} ms, {ratio:.1f} times as long")
    if args.input is not None:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            cells = work / "cells.npz"
            result["cells"] = write_scaled(args, cells)
            rows = []
            for mode in args.modes:
                peer: list[float] = []
                found: dict[str, list[dict[str, float]]] = {name: [] for name in args.steps}
                for _ in range(args.repeats):
                    if args.markermap_python:
                        peer.append(theirs(args, mode, cells)["all"])
                    for name in args.steps:
                        found[name].append(ours(args, mode, work, STEPS[name]))
                base = statistics.median(peer) if peer else float("nan")
                result[mode] = {"peer": measure.spread(peer)} if peer else {}
                if peer:
                    rows.append([f"{mode}, markermap", f"{base:.0f}", "1.0", "", ""])
                for name, runs in found.items():
                    result[mode][name] = {part: measure.spread(run[part] for run in runs) for part in ("soft", "all")}
                    soft, both = (result[mode][name][part]["median"] for part in ("soft", "all"))
                    rates = f"{soft:.0f}", f"{soft / base:.1f}", f"{both:.0f}", f"{both / base:.1f}"
                    rows.append([f"{mode}, {name}", *rates])
            header = ["training", "cells/s, soft", "of the peer", "cells/s, all", "of the peer"]
            say(measure.table(header, rows))
    measure.write_json(args.output, result)


if __name__ == "__main__":
    main()
