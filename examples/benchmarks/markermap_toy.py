"""The toy of the MarkerMap paper: a state that depends on three genes jointly, and on none of them alone.

    python examples/benchmarks/markermap_toy.py --seeds 10
    python examples/benchmarks/markermap_toy.py --seeds 3 --genes 1000 --methods l1-logistic greedy-labels t-test

Every gene of a cell is high (30 counts on average) or low (5) with equal chance; a cell is of state A if three genes,
drawn anew for each seed, are all high or all low. Each method chooses three genes from 5,000 cells; a seed counts where
it finds all three.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import say

from scmap_cli.markers.base import MarkerData, marker_data, run_selector
from scmap_cli.registry import get_selector


def toy(seed: int, cells: int, genes: int) -> tuple[MarkerData, set[int]]:
    """Counts with labels, and the three genes."""
    rng = np.random.default_rng(seed)
    high = rng.integers(0, 2, (cells, genes))
    three = rng.choice(genes, 3, replace=False)
    alike = high[:, three].sum(axis=1) % 3 == 0
    counts = rng.poisson(np.where(high, 30, 5))
    return marker_data(counts, np.where(alike, "A", "B")), set(three.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["markermap"])
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"settings": measure.settings(args), "machine": measure.machine()}
    rows = []
    for name in args.methods:
        hits, seconds = [], []
        for seed in range(args.seeds):
            data, three = toy(seed, args.cells, args.genes)
            start = time.perf_counter()
            found = run_selector(get_selector(name), data, 3, seed=seed)
            seconds.append(time.perf_counter() - start)
            hits.append(len(three & set(found.genes.tolist())))
        result[name] = {"genes_found": hits, "seconds": measure.spread(seconds)}
        rows.append([name, f"{sum(hit == 3 for hit in hits)} of {args.seeds}", f"{np.median(seconds):.1f} s"])
    say(measure.table(["method", "all three found", "time"], rows))
    measure.write_json(args.output, result)


if __name__ == "__main__":
    main()
