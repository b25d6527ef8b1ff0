"""One training step of SAILERX on 100,000 peaks: by scmap, and as a list of small dense nets, one a chromosome.

    python examples/benchmarks/sailerx.py -o sailerx.json

Cells are synthetic: every cell has the same number of open peaks, drawn uniformly, as the time of a step depends on
nothing else. Chromosomes have the human autosomes' shares of the peaks.

list      the same network as the published ones are written: ``nn.ModuleList`` of nets, dense 0/1 input and target
scmap     the network and objective as ``scmap train sailerx`` trains them, all peaks in each step
sampled   the same, a step looking at ``--peak-share`` of the peaks, the default of ``train sailerx``

cells/s   batch size over the median wall second of a step: forward, backward, optimiser, and making the batch
memory    peak resident memory of the process, imports and data included
launches  of kernels in one step, with ``--device cuda``
Every side is a process of its own; sides take turns, ``--repeats`` times. Medians, smallest and largest in brackets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
from measure import flags, measured, say
from sailer import cells, timed

SIDES = ("list", "scmap", "sampled")

# Megabases of the human autosomes.
AUTOSOMES = (249, 242, 198, 190, 182, 171, 159, 145, 138, 134, 135, 133, 114, 107, 102, 90, 83, 80, 59, 64, 47, 51)
REFERENCE = 50


def chromosome_peaks(peaks: int) -> list[int]:
    """Peaks of each chromosome, by length."""
    edges = [round(peaks * sum(AUTOSOMES[:i]) / sum(AUTOSOMES)) for i in range(len(AUTOSOMES) + 1)]
    return [b - a for a, b in pairwise(edges)]


def reference_of(n: int, seed: int) -> Any:
    """Random rows of length one."""
    import numpy as np

    rows = np.random.default_rng(seed).normal(size=(n, REFERENCE))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def launches(step: Callable[[int], None], device: str) -> dict[str, int]:
    """How many kernels a step starts on a GPU."""
    import torch

    if device == "cpu":
        return {}
    with torch.profiler.profile() as profile:
        step(0)
    return {"launches": sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)}


def run_scmap(args: argparse.Namespace, share: float) -> dict[str, Any]:
    """Steps of :class:`scmap_cli.models.sailerx.SailerX` as the training loop makes them."""
    import numpy as np
    import torch

    from scmap_cli.config import PretrainConfig
    from scmap_cli.data.batches import CsrStore
    from scmap_cli.models.sailerx import SailerX, SailerXConfig
    from scmap_cli.nn.noise import Noise
    from scmap_cli.runtime.memory import keep_freed_memory
    from scmap_cli.training.optimizer import make_optimizer

    keep_freed_memory()
    counts = cells(args)
    n = counts.shape[0]
    held = {"covariates": np.ones((n, 1)), "reference": reference_of(n, args.seed), "weights": np.ones(n)}
    device = torch.device(args.device)
    store = CsrStore(counts, np.zeros(n), **held).to(device)
    config = SailerXConfig(peak_share=str(share))
    sizes = {"n_conditions": 1, "n_covariates": 1, "n_reference": REFERENCE, "gamma": config.gamma()}
    share_p = np.asarray(counts.mean(0)).ravel()
    model = SailerX.create(config, share_p, seed=0, chromosome_peaks=chromosome_peaks(args.peaks), **sizes)
    model.to(device)
    optimizer = make_optimizer(model, PretrainConfig(lr=1e-3, adam_eps=1e-8))
    rows = torch.arange(n, device=device)

    def step(i: int) -> None:
        first = i % 2 * args.batch_size
        batch = store.batch(rows[first : first + args.batch_size], Noise(i, args.batch_size, 0, device), 1e9)
        loss = model.loss(batch).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return timed(step, args) | launches(step, args.device)


def run_list(args: argparse.Namespace) -> dict[str, Any]:
    """The same widths, losses and norms without any of the shortcuts."""
    import torch
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits, normalize

    counts, sizes = cells(args), chromosome_peaks(args.peaks)
    reference = torch.from_numpy(reference_of(counts.shape[0], args.seed)).float().to(args.device)

    def layer(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.LeakyReLU(0.2))

    encoders = nn.ModuleList(nn.Sequential(layer(p, 64), layer(64, 32)) for p in sizes)
    beside = layer(REFERENCE + 1, 128)
    head = nn.Linear(32 * len(sizes) + 128, 100)
    spread = layer(51, 32 * len(sizes))
    decoders = nn.ModuleList(nn.Sequential(layer(32, 64), nn.Linear(64, p)) for p in sizes)
    parts = nn.ModuleList([encoders, beside, head, spread, decoders]).to(args.device)
    optimizer = torch.optim.Adam(parts.parameters(), lr=1e-3, fused=True)

    def step(i: int) -> None:
        first = i % 2 * args.batch_size
        x = torch.from_numpy(counts[first : first + args.batch_size].toarray()).to(args.device)
        rows = reference[first : first + args.batch_size]
        told = beside(torch.cat([rows, torch.ones(len(x), 1, device=x.device)], 1))
        h = [net(part) for net, part in zip(encoders, x.split(sizes, 1), strict=True)]
        mean, log_var = head(torch.cat([*h, told], 1)).chunk(2, 1)
        var = log_var.exp() + 1e-4
        z = mean + var.sqrt() * torch.randn_like(mean)
        up = spread(torch.cat([z, torch.ones(len(x), 1, device=x.device)], 1)).chunk(len(sizes), 1)
        logits = torch.cat([net(part) for net, part in zip(decoders, up, strict=True)], 1)
        weight = torch.tensor(8.0, device=x.device)
        recon = binary_cross_entropy_with_logits(logits, x, pos_weight=weight, reduction="sum") / len(x)
        kl = 0.5 * (mean.square() + var - var.log() - 1).sum(1).mean()
        ratio = (var[:, None] + (mean[:, None] - mean[None]).square()) / var[None] - 1
        pairs = 0.5 * (ratio + var.log()[None] - var.log()[:, None]).sum(2).mean()
        unit = normalize(mean, dim=1)
        loss = 2 * recon + kl + pairs + 6e4 * (unit @ unit.T - rows @ rows.T).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return timed(step, args) | launches(step, args.device)


def main() -> None:
    """Run the sides in turns, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peaks", type=int, default=100_000)
    parser.add_argument("--open-share", type=float, default=0.04)
    parser.add_argument("--batch-size", type=int, default=400)
    parser.add_argument("--peak-share", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=5, help="steps timed, after two that are not")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    if args.side:
        import torch

        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)  # noqa: TID251
        share = args.peak_share if args.side == "sampled" else 1.0
        say(json.dumps(run_list(args) if args.side == "list" else run_scmap(args, share)))
        return
    names = ("peaks", "open_share", "batch_size", "peak_share", "steps", "threads", "device", "seed")
    options = flags(**{name: getattr(args, name) for name in names})
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(args.repeats):
        for side in SIDES:
            run = measured([sys.executable, __file__, "--side", side, *options], args.threads)
            runs[side].append(run.json() | {"peak_bytes": run.peak_bytes})
            say(f"repeat {repeat + 1}, {side}: {runs[side][-1]['cells_per_second']:,.0f} cells/s")
    found = {
        side: {name: measure.spread(run[name] for run in of_side) for name in of_side[0]}
        for side, of_side in runs.items()
    }
    rows = []
    for side, figures in found.items():
        rate, peak = figures["cells_per_second"], figures["peak_bytes"]
        shown = f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})"
        ratio = rate["median"] / found["list"]["cells_per_second"]["median"]
        more = f"{figures['launches']['median']:.0f}" if "launches" in figures else ""
        rows.append([side, shown, f"{ratio:.2f}", f"{peak['median'] / 1e9:.2f}", more])
    say("\n" + measure.table(["", "cells/s", "x list", "peak GB", "launches"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "sailerx",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": found,
            "versions": measure.versions("scmap-cli", "torch", "numpy"),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
