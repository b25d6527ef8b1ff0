"""How long the Bayes tests of all groups against the rest take, and how far the sampled factors are from exact ones.

    python examples/benchmarks/gp_test.py [--cells 32000] [--programs 300] [--groups 9] [--repeats 5] -o gp_test.json

Posteriors are drawn (seeded), so the figures are those of the comparison alone, without reading and encoding. The
agreement is measured on one contrast small enough for all pairs in float64, against scipy's normal distribution.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import measure
import numpy as np
from measure import say
from scipy.stats import norm

from scmap_cli.metrics.bayes import EXACT_PAIRS, SAMPLED_PAIRS, bayes_factors


def main() -> None:
    """Draw, time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=32_000)
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--groups", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    machine = measure.machine()
    rng = np.random.default_rng(args.seed)
    mean = rng.normal(size=(args.cells, args.programs)).astype(np.float32)
    var = rng.uniform(0.01, 0.5, mean.shape).astype(np.float32)
    group = rng.integers(0, args.groups, args.cells)

    seconds, tables = [], []
    for _ in range(args.repeats):
        clock = time.perf_counter()
        found = [bayes_factors(mean[group == g], var[group == g], mean[group != g], var[group != g], seed=args.seed)
                 for g in range(args.groups)]  # fmt: skip
        seconds.append(time.perf_counter() - clock)
        tables.append(b"".join(one.log_bf.tobytes() for one in found))

    few = (slice(0, 200), slice(200, 450))
    exact = bayes_factors(mean[few[0]], var[few[0]], mean[few[1]], var[few[1]])
    gap = mean[few[0], None].astype(float) - mean[None, few[1]].astype(float)
    p = norm.cdf(gap / np.sqrt(var[few[0], None].astype(float) + var[None, few[1]].astype(float))).mean((0, 1))
    error = float(np.abs(exact.log_bf - (np.log(p) - np.log1p(-p))).max())

    times = measure.spread(seconds)
    what = f"{args.groups} groups against the rest, {args.cells} cells x {args.programs} programs"
    spent = f"median {times['median']:.2f} s ({times['min']:.2f} to {times['max']:.2f})"
    say(f"{what}, {found[0].pairs} pairs each: {spent}")
    say(f"same bytes in every repeat: {len(set(tables)) == 1}; largest difference to brute force: {error:.2g}")
    measure.write_json(
        args.output,
        {
            "benchmark": "gp_test",
            "machine": machine,
            "settings": measure.settings(args) | {"exact_pairs": EXACT_PAIRS, "sampled_pairs": SAMPLED_PAIRS},
            "seconds": times,
            "same_bytes": len(set(tables)) == 1,
            "brute_force_error": error,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "scipy"),
        },
    )


if __name__ == "__main__":
    main()
