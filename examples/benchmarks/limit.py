"""The limit of expiMap training on this machine: the rate of its matrix products alone.

One step on B cells of an expiMap with G genes, three hidden layers of H and T programs multiplies, for every linear
layer, activations by weights (forward), activations by output gradients (weight gradient) and, but for the first layer,
output gradients by weights (input gradient). With

    params        = G*H + 2*H*H + 2*H*T + T*G          two hidden-to-hidden layers, mean and variance heads, decoder
    FLOPs / cell  = 6*params - 2*G*H

the limit is F / (FLOPs / cell) cells per second, where F is the rate of float32 products. F is measured here with
products of exactly these shapes, so at small batches it is below the machine's best; the rate of one large square
product stands beside it. Everything else a step does (loss, Adam, proximal step, batches) counts as loss against the
limit. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time


def main() -> None:
    """Parse, multiply for the given time at each batch size, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent at each batch size")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's own number")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    generator = torch.Generator(device=device).manual_seed(0)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    def rate(jobs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], flops: float, seconds: float) -> float:
        """Time rounds of all products, warm-up apart, and give FLOPs per second over all of the time."""
        for _ in range(3):
            for left, right, out in jobs:
                torch.mm(left, right, out=out)
        wait()
        rounds, clock = 0, time.perf_counter()
        while True:
            for _ in range(10):
                for left, right, out in jobs:
                    torch.mm(left, right, out=out)
            wait()
            rounds += 10
            spent = time.perf_counter() - clock
            if spent >= seconds:
                return rounds * flops / spent

    genes, hidden, programs = args.genes, args.hidden, args.programs
    encoder = [(genes, hidden), (hidden, hidden), (hidden, hidden)]
    layers = [*encoder, (hidden, programs), (hidden, programs), (programs, genes)]
    params = sum(a * b for a, b in layers)
    flops_per_cell = 6 * params - 2 * genes * hidden
    batches = {}
    for size in args.batch_sizes:
        jobs = []
        for number, (inner, outer) in enumerate(layers):
            weight, inputs, grads = random(outer, inner), random(size, inner), random(size, outer)
            jobs.append((inputs, weight.T, random(size, outer)))
            jobs.append((grads.T, inputs, random(outer, inner)))
            if number:
                jobs.append((grads, weight, random(size, inner)))
        flops = rate(jobs, size * flops_per_cell, args.seconds)
        batches[str(size)] = {"flops": flops, "cells_per_second": flops / flops_per_cell}
    side = 2048
    square = rate([(random(side, side), random(side, side), random(side, side))], 2 * side**3, args.seconds)
    result = {
        "params": params,
        "flops_per_cell": flops_per_cell,
        "batches": batches,
        "square_flops": square,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
