"""One training step on 100,000 peaks: SAILER by scmap, the same network written densely, and PeakVI.

    python examples/benchmarks/sailer.py --peer-python scvi-env/bin/python -o sailer.json

Run it with the Python that has scmap; ``--peer-python`` has scvi-tools (``pip install torch==2.13.0 scvi-tools``).
Without it PeakVI is left out. Cells are synthetic: every cell has the same number of open peaks, drawn uniformly, as
the time of a step depends on nothing else.

dense     1000-100-10 layers, dense 0/1 input, binary cross-entropy on a dense target, fused Adam, plain torch
scmap     the same network and objective as ``scmap train sailer`` trains it: a step looks at 12,500 of the peaks
whole     the same, a step looking at all of them (``--peak-share 1``)
peakvi    scvi-tools' module with its defaults, the same optimiser, without its training framework

cells/s   batch size over the median wall second of a step: forward, backward, optimiser, and making the batch
memory    peak resident memory of the process, imports and data included; on a GPU the largest that torch held there
limit     cells/s if a step did no more than read and write the weights and first moments of the two layers with a row
          a peak, at the rate at which this device copies memory (``scmap`` and ``whole``)
Every side is a process of its own; sides take turns, ``--repeats`` times. Medians, smallest and largest in brackets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
from measure import flags, measured, say

SIDES = ("dense", "scmap", "whole", "peakvi")


def cells(args: argparse.Namespace) -> Any:
    """Two batches of cells as CSR, float32 ones."""
    import numpy as np
    from scipy import sparse

    rng = np.random.default_rng(args.seed)
    count, n = round(args.open_share * args.peaks), 2 * args.batch_size
    columns = np.concatenate([np.sort(rng.choice(args.peaks, count, replace=False)) for _ in range(n)])
    indptr = np.arange(n + 1) * count
    return sparse.csr_matrix((np.ones(n * count, np.float32), columns, indptr), shape=(n, args.peaks))


def clocked(step: Callable[[int], None], steps: int, device: str) -> float:
    """Median seconds of the steps but for the first two."""
    import torch

    seconds = []
    for i in range(steps + 2):
        clock = time.perf_counter()
        step(i)
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - clock)
    return sorted(seconds[2:])[steps // 2]


def timed(step: Callable[[int], None], args: argparse.Namespace) -> dict[str, Any]:
    """Cells a second, and on a GPU the largest memory there."""
    import torch

    found = {"cells_per_second": args.batch_size / clocked(step, args.steps, args.device)}
    if args.device != "cpu":
        found["device_bytes"] = torch.cuda.max_memory_allocated(args.device)
    return found


def run_limit(args: argparse.Namespace) -> dict[str, Any]:
    """Cells a second by the memory that a step of Adam must move, in a process of its own: it takes memory itself."""
    import torch

    from scmap_cli.models.sailer import SailerConfig

    width = SailerConfig().hidden[0]

    source = torch.ones(1 << 27, device=args.device)
    target = torch.empty_like(source)
    rate = 2 * 4 * source.numel() / clocked(lambda _: target.copy_(source), args.steps, args.device)
    # two layers, weight and moment, read and written, four bytes
    return {"cells_per_second": args.batch_size * rate / (2 * 2 * 2 * 4 * args.peaks * width)}


def run_scmap(args: argparse.Namespace, share: str) -> dict[str, Any]:
    """Steps of :class:`scmap_cli.models.sailer.Sailer` as the training loop makes them."""
    import numpy as np
    import torch

    from scmap_cli.config import PretrainConfig
    from scmap_cli.data.batches import CsrStore
    from scmap_cli.models.sailer import Sailer, SailerConfig
    from scmap_cli.nn.noise import Noise
    from scmap_cli.runtime.memory import keep_freed_memory
    from scmap_cli.training.optimizer import make_optimizer

    keep_freed_memory()
    counts, device = cells(args), torch.device(args.device)
    store = CsrStore(counts, np.zeros(counts.shape[0]), covariates=np.ones((counts.shape[0], 1))).to(device)
    sizes = {"n_conditions": 1, "n_covariates": 1}
    model = Sailer.create(SailerConfig(peak_share=share), np.asarray(counts.mean(0)).ravel(), seed=0, **sizes)
    model.to(device)
    optimizer, model.sparse_gradients = make_optimizer(model, PretrainConfig(lr=1e-3, adam_eps=1e-8)), True
    rows = torch.arange(counts.shape[0], device=device)

    def step(i: int) -> None:
        first = i % 2 * args.batch_size
        optimizer.zero_grad(set_to_none=True)
        batch = store.batch(rows[first : first + args.batch_size], Noise(i, args.batch_size, 0, device), 1e9)
        model.loss(batch).total.backward()
        optimizer.step()

    return timed(step, args)


def run_dense(args: argparse.Namespace) -> dict[str, Any]:
    """The same network without any of the shortcuts."""
    import torch
    from torch import nn

    def layers(*widths: int) -> list[nn.Module]:
        parts: list[nn.Module] = []
        for a, b in pairwise(widths):
            parts += [nn.Linear(a, b), nn.LayerNorm(b), nn.LeakyReLU(0.2)]
        return parts

    counts, p = cells(args), args.peaks
    encoder = nn.Sequential(*layers(p, 1000, 100), nn.Linear(100, 20))
    decoder = nn.Sequential(*layers(11, 100, 1000), nn.Linear(1000, p))
    encoder.to(args.device), decoder.to(args.device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True)

    def step(i: int) -> None:
        first = i % 2 * args.batch_size
        optimizer.zero_grad(set_to_none=True)
        x = torch.from_numpy(counts[first : first + args.batch_size].toarray()).to(args.device)
        mean, log_var = encoder(x).chunk(2, 1)
        var = log_var.exp() + 1e-4
        z = mean + var.sqrt() * torch.randn_like(mean)
        logits = decoder(torch.cat([z, torch.ones(len(x), 1, device=x.device)], 1))
        recon = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = 0.5 * (mean.square() + var - var.log() - 1).sum(1).mean()
        ratio = (var[:, None] + (mean[:, None] - mean[None]).square()) / var[None] - 1
        pairs = 0.5 * (ratio + var.log()[None] - var.log()[:, None]).sum(2).mean()
        (2 * recon + kl + pairs).backward()
        optimizer.step()

    return timed(step, args)


def run_peakvi(args: argparse.Namespace) -> dict[str, Any]:
    """PeakVI's module on the same cells."""
    import torch
    from scvi import REGISTRY_KEYS
    from scvi.module import PEAKVAE

    counts = cells(args)
    module = PEAKVAE(n_input_regions=args.peaks, n_batch=1).to(args.device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def step(i: int) -> None:
        first = i % 2 * args.batch_size
        optimizer.zero_grad(set_to_none=True)
        x = torch.from_numpy(counts[first : first + args.batch_size].toarray()).to(args.device)
        none = torch.zeros(len(x), 1, dtype=torch.long, device=x.device)
        tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: none}
        _, _, losses = module(tensors, loss_kwargs={"kl_weight": 1.0})
        losses.loss.backward()
        optimizer.step()

    return timed(step, args)


def main() -> None:
    """Run the sides in turns, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python with scvi-tools")
    parser.add_argument("--peaks", type=int, default=100_000)
    parser.add_argument("--open-share", type=float, default=0.04)
    parser.add_argument("--batch-size", type=int, default=400)
    parser.add_argument("--steps", type=int, default=5, help="steps timed, after two that are not")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=(*SIDES, "limit"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    if args.side:
        import torch

        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)  # noqa: TID251
        share = "1" if args.side == "whole" else "auto"
        jobs = {"dense": run_dense, "peakvi": run_peakvi, "limit": run_limit}
        say(json.dumps(jobs[args.side](args) if args.side in jobs else run_scmap(args, share)))
        return
    names = ("peaks", "open_share", "batch_size", "steps", "threads", "device", "seed")
    options = flags(**{name: getattr(args, name) for name in names})
    sides = [side for side in SIDES if side != "peakvi" or args.peer_python]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat in range(args.repeats):
        for side in sides:
            python = args.peer_python if side == "peakvi" else sys.executable
            run = measured([python, __file__, "--side", side, *options], args.threads)
            told = run.json()
            runs[side].append(told | {"peak_bytes": told.get("device_bytes", run.peak_bytes)})
            say(f"repeat {repeat + 1}, {side}: {runs[side][-1]['cells_per_second']:,.0f} cells/s")
    most = measured([sys.executable, __file__, "--side", "limit", *options], args.threads).json()["cells_per_second"]
    found = {
        side: {name: measure.spread(run[name] for run in of_side) for name in ("cells_per_second", "peak_bytes")}
        for side, of_side in runs.items()
    }
    rows = []
    for side, figures in found.items():
        rate, peak = figures["cells_per_second"], figures["peak_bytes"]
        against = [
            f"{rate['median'] / found[other]['cells_per_second']['median']:.2f}" if other in found else ""
            for other in ("dense", "peakvi")
        ]
        shown = f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})"
        share = f"{rate['median'] / most:.2f}" if side in ("scmap", "whole") else ""
        rows.append([side, shown, *against, f"{peak['median'] / 1e9:.2f}", share])
    say("\n" + measure.table(["", "cells/s", "x dense", "x peakvi", "peak GB", "of the limit"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "sailer",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": found,
            "limit": most,
            "versions": measure.versions("scmap-cli", "torch", "numpy"),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
