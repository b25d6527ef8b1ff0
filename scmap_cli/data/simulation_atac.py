"""scATAC counts with a known truth: cells drawn from bulk profiles, by the model of SCAN-ATAC-Sim.

Chen et al. 2021, doi:10.1093/bioinformatics/btaa1039, and its released sampler. For cell n of type t in batch b::

    d_n = exp(Normal(log mu_b, sigma_b^2)), held within [min_depth, max_depth]        fragments of the cell
    s_n = round(rho_b d_n)                                                            fragments in peaks
    d_n - s_n                                                                         background, outside all peaks

``s_n`` is halved over the two alleles. Each allele draws its peaks without replacement, one after the other with chance
proportional to the bulk profile of the type, so a count is 0, 1 or 2. ``mu`` is the median of the depth, as in the
released sampler, although thesis and paper call it the mean.

The released tool weighs peaks by the reads of the bulk library, of which some lie in peaks that are not called in the
type. Tables of called signal have 0 there, so a share ``bulk_noise`` of each type's weight is spread over all peaks::

    w_pt = (1 - bulk_noise) signal_pt / sum_p signal_pt + bulk_noise / P

The presets are the simulations of Cao's thesis (2023), section 2.2.5 and notes 2.5.3. It gives for ``sim1`` 10,000
cells, five types, 100 cells of a rare one, mu 5000, sigma 1.5, rho 0.4; for ``sim2`` nine types, mu 3000, sigma 1.5,
rho 0.4; for ``sim3`` two samples of mu 2500 and 5000 and rho 0.4 and 0.5, six types of which two are rare and occur in
one sample each; all else at the tool's defaults. It leaves open, and is chosen here: 10,000 cells for ``sim2`` and for
each sample of ``sim3``, 100 cells of each rare type, sigma 1.5 in ``sim3``, all other types equally many and in both
samples. From the tool's defaults come the bounds of the depth, 1,000 and 20,000 fragments. The bulk profiles (blood
cells of the tool's web page) are not named; without a table they are generated, over 90,635 peaks as in the authors'
notebooks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli import keys
from scmap_cli.data.bulk import Bulk
from scmap_cli.data.simulation import TRUTH
from scmap_cli.errors import UsageError
from scmap_cli.runtime.threads import current_threads

_TOOL: dict[str, Any] = {"min_depth": 1000, "max_depth": 20_000, "bulk_noise": 0.1}
_THESIS: dict[str, Any] = {**_TOOL, "n_peaks": 90_635, "rare_cells": 100, "rare_in": "all", "sigma": (1.5,)}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        **_TOOL,
        **{"n_cells": 2000, "n_peaks": 20_000, "n_types": 5, "n_batches": 1, "rare_types": 0, "rare_cells": 100},
        **{"rare_in": "all", "mu": (3000.0,), "sigma": (0.5,), "rho": (0.7,)},
    },
    "tiny": {
        **{"n_cells": 300, "n_peaks": 1500, "n_types": 3, "n_batches": 2, "rare_types": 0, "rare_cells": 20},
        **{"rare_in": "all", "mu": (600.0, 900.0), "sigma": (0.5,), "rho": (0.4, 0.5)},
        **{"min_depth": 100, "max_depth": 5000, "bulk_noise": 0.1},
    },
    "sim1": {
        **_THESIS,
        **{"n_cells": 10_000, "n_types": 5, "n_batches": 1, "rare_types": 1, "mu": (5000.0,), "rho": (0.4,)},
    },
    "sim2": {
        **_THESIS,
        **{"n_cells": 10_000, "n_types": 9, "n_batches": 1, "rare_types": 0, "mu": (3000.0,), "rho": (0.4,)},
    },
    "sim3": {
        **_THESIS,
        **{"n_cells": 20_000, "n_types": 6, "n_batches": 2, "rare_types": 2, "rare_in": "one"},
        **{"mu": (2500.0, 5000.0), "rho": (0.4, 0.5)},
    },
}
"""Values to start from; every one can be changed by its own option."""

RARE_IN = ("all", "one")
"""Whether a rare type occurs in all batches, or in one each, by turns."""

# Cells of one task; every block has its own random stream, so threads change nothing.
_BLOCK = 256
_ROUNDS = 6


def simulate_atac_data(
    bulk: Bulk,
    *,
    n_cells: int = 2000,
    n_batches: int = 1,
    rare_types: int = 0,
    rare_cells: int = 100,
    rare_in: str = "all",
    mu: Sequence[float] = (3000.0,),
    sigma: Sequence[float] = (0.5,),
    rho: Sequence[float] = (0.7,),
    min_depth: int = 1000,
    max_depth: int = 20_000,
    bulk_noise: float = 0.1,
    seed: int = 0,
) -> AnnData:
    """Simulate counts of peaks.

    Parameters
    ----------
    bulk
        Profiles of the types.
    n_cells, n_batches
        Sizes; cells are dealt evenly over the batches, and within a batch over the types that are not rare.
    rare_types, rare_cells
        The last so many types have so many cells each, in all batches together.
    rare_in
        ``all``: rare types are dealt over the batches; ``one``: rare type i occurs in batch i (modulo their number)
        only.
    mu, sigma
        Median of the fragments a cell, and standard deviation of their natural logarithm: one number, or one a batch.
    rho
        Share of a cell's fragments that lie in peaks, one number or one a batch.
    min_depth, max_depth
        Depths beyond are set to these.
    bulk_noise
        Share of a type's weight that is spread evenly over all peaks.
    seed
        Same arguments and seed, same data.

    Returns
    -------
    AnnData
        ``X`` (n, P) CSR float32 counts of 0, 1, 2. ``obs``: ``cell_type``, ``batch``, ``depth`` (all fragments, in
        peaks and in the background), ``rho``. ``var``: ``chrom``, ``start``, ``end``. ``varm["scmap_bulk"]`` (P, T)
        float32 signal, columns summing to 1; ``varm["scmap_bulk_open"]`` (P, T) uint8, the binary profiles.
        ``uns["scmap_truth"]``: JSON of the parameters.

    Raises
    ------
    UsageError
        Numbers that cannot hold together.
    """
    parameters = {name: value for name, value in locals().items() if name not in ("bulk", "seed")}
    n_types = len(bulk.types)
    check_atac_options(parameters, n_types)
    cells, blocks = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(cells)
    mu_b, sigma_b, rho_b = (np.resize(np.asarray(values, dtype=np.float64), n_batches) for values in (mu, sigma, rho))

    type_n, batch_n = _deal_cells(rng, n_cells, n_types, n_batches, rare_types, rare_cells, rare_in == "one")
    log_depth_n = rng.normal(np.log(mu_b)[batch_n], sigma_b[batch_n])
    # Whole fragments, as the released sampler cuts them; the exponential of a wild sigma must not overflow.
    depth_n = np.clip(np.exp(np.minimum(log_depth_n, 40.0)), min_depth, max_depth).astype(np.int64)
    peaks_n = _rounded(depth_n * rho_b[batch_n])
    weight_pt = (1 - bulk_noise) * bulk.signal_pt + bulk_noise / len(bulk.names)
    counts = _draw_counts(blocks, weight_pt, type_n, peaks_n)

    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(type_n, pd.Index(bulk.types)),
            "batch": pd.Categorical.from_codes(batch_n, pd.Index([f"batch{b + 1}" for b in range(n_batches)])),
            "depth": depth_n.astype(np.int32),
            "rho": rho_b[batch_n].astype(np.float32),
        },
        index=pd.Index([f"cell{n + 1}" for n in range(n_cells)], dtype=object),
    )
    peaks = bulk.peaks
    names = pd.Index(bulk.names, dtype=object)
    var = pd.DataFrame({"chrom": pd.Categorical(peaks.chrom), "start": peaks.start, "end": peaks.end}, index=names)

    def profile(values_pt: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values_pt, index=names, columns=pd.Index(bulk.types))

    return AnnData(
        X=counts,
        obs=obs,
        var=var,
        varm={
            keys.BULK: profile(bulk.signal_pt.astype(np.float32)),
            keys.BULK_OPEN: profile(bulk.open_pt.astype(np.uint8)),
        },
        uns={TRUTH: json.dumps({"parameters": parameters | {"seed": seed}}, sort_keys=True)},
    )


def draw_distinct(
    rng: np.random.Generator, n: int, draw: Callable[[int], np.ndarray], weights: Callable[[], np.ndarray], size: int
) -> np.ndarray:
    """Draw without replacement: ``size`` different numbers below ``n``, one after the other by their weights.

    Drawing with replacement and passing over what was drawn before has the very same distribution and looks at few of
    the ``n``; what a few rounds leave over, where the weights are very uneven or ``size`` is near ``n``, is drawn by
    exponential keys (Efraimidis and Spirakis 2006, doi:10.1016/j.ipl.2005.11.003).

    Parameters
    ----------
    rng
        Source of the keys.
    n
        Numbers to choose from, all of positive weight.
    draw
        Gives so many numbers with replacement.
    weights
        Gives the (n,) weights.
    size
        How many; all of them where there are no more.
    """
    if size >= n:
        return np.arange(n)
    found = np.zeros(0, dtype=np.int64)
    for _ in range(_ROUNDS):
        if len(found) == size:
            return found
        drawn = np.concatenate([found, draw(size - len(found) + (size >> 4) + 4)])
        first = np.unique(drawn, return_index=True)[1]
        found = drawn[np.sort(first)][:size]
    if len(found) < size:
        key = rng.standard_exponential(n) / weights()
        key[found] = np.inf
        left = size - len(found)
        found = np.concatenate([found, np.argpartition(key, left)[:left]])
    return found


def check_atac_options(p: dict[str, Any], n_types: int) -> None:
    """Refuse arguments of :func:`simulate_atac_data` that cannot hold together, by :class:`UsageError`."""
    for name in ("n_cells", "n_batches", "min_depth", "rare_cells"):
        if p[name] < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {p[name]}")
    for name in ("mu", "sigma", "rho"):
        values = p[name]
        if len(values) not in (1, p["n_batches"]):
            raise UsageError(
                f"--{name} has {len(values)} values for {p['n_batches']} batches",
                "give one value, or one for each batch",
            )
        low_ok = all(value >= 0 for value in values) if name == "sigma" else all(value > 0 for value in values)
        if not (low_ok and all(value < np.inf for value in values)):
            raise UsageError(f"--{name} must be {'at least' if name == 'sigma' else 'above'} 0, not {list(values)}")
    if max(p["rho"]) > 1:
        raise UsageError(f"--rho is a share, not {max(p['rho'])}")
    if not 0 <= p["bulk_noise"] <= 1:
        raise UsageError(f"--bulk-noise must lie between 0 and 1, not {p['bulk_noise']}")
    if p["max_depth"] < p["min_depth"]:
        raise UsageError(f"--max-depth {p['max_depth']} is below --min-depth {p['min_depth']}")
    if p["rare_in"] not in RARE_IN:
        raise UsageError(f"--rare-in is {p['rare_in']!r}", f"choose one of {', '.join(RARE_IN)}")
    if not 0 <= p["rare_types"] < n_types:
        raise UsageError(f"--rare-types must leave some of the {n_types} types, not be {p['rare_types']}")
    rare = p["rare_types"] * p["rare_cells"]
    if p["n_cells"] < rare + n_types - p["rare_types"]:
        raise UsageError(f"{p['n_cells']} cells cannot hold {n_types} types, of which the rare ones take {rare} cells")


def _rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest whole number, halves up, as C rounds positive numbers."""
    return np.floor(values + 0.5).astype(np.int64)


def _deal_cells(
    rng: np.random.Generator, n: int, n_types: int, n_batches: int, rare_types: int, rare_cells: int, apart: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Type and batch codes of the cells; numbers are exact, the order is shuffled."""
    major = n_types - rare_types
    types: list[np.ndarray] = []
    batches: list[np.ndarray] = []
    for b in range(n_batches):
        size = n // n_batches + (b < n % n_batches)
        rare: list[np.ndarray] = []
        for i in range(rare_types):
            if apart:
                here = rare_cells if i % n_batches == b else 0
            else:
                here = rare_cells // n_batches + ((b - i) % n_batches < rare_cells % n_batches)
            rare.append(np.full(here, major + i))
        rest = size - sum(map(len, rare))
        if rest < 0:
            raise UsageError(f"the {size} cells of a batch cannot hold its rare types", "lower --rare-cells")
        types.append(np.concatenate([np.arange(rest) % major, *rare]))
        batches.append(np.full(size, b))
    order = rng.permutation(n)
    return np.concatenate(types)[order], np.concatenate(batches)[order]


def _draw_counts(
    seeds: np.random.SeedSequence, weight_pt: np.ndarray, type_n: np.ndarray, peaks_n: np.ndarray
) -> sparse.csr_matrix:
    """(n, P) CSR float32 counts of 0, 1 and 2; ``peaks_n`` fragments of each cell over two alleles."""
    n_cells, n_peaks = len(type_n), len(weight_pt)
    able = [np.flatnonzero(weight_p > 0) for weight_p in weight_pt.T]
    positive = [weight_p[found] for weight_p, found in zip(weight_pt.T, able, strict=True)]
    cumulative = [np.cumsum(weights) for weights in positive]
    starts = range(0, n_cells, _BLOCK)

    def cell(rng: np.random.Generator, t: int, fragments: int) -> tuple[np.ndarray, np.ndarray]:
        def draw(size: int) -> np.ndarray:
            at = np.searchsorted(cumulative[t], rng.random(size) * cumulative[t][-1], side="right")
            return np.minimum(at, len(able[t]) - 1)

        first = (fragments + 1) // 2
        alleles = [
            draw_distinct(rng, len(able[t]), draw, lambda: positive[t], size) for size in (first, fragments - first)
        ]
        found, count = np.unique(np.concatenate(alleles), return_counts=True)
        return able[t][found].astype(np.int32), count.astype(np.float32)

    def block(job: tuple[int, np.random.SeedSequence]) -> sparse.csr_matrix:
        start, seed = job
        rng = np.random.default_rng(seed)
        some = range(start, min(start + _BLOCK, n_cells))
        drawn = [cell(rng, int(type_n[n]), int(peaks_n[n])) for n in some]
        indptr = np.cumsum([0, *(len(indices) for indices, _ in drawn)])
        indices, counts = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        return sparse.csr_matrix((counts, indices, indptr), shape=(len(some), n_peaks))

    def blocks() -> Iterator[sparse.csr_matrix]:
        with ThreadPoolExecutor(min(current_threads(), 8)) as pool:
            yield from pool.map(block, zip(starts, seeds.spawn(len(starts)), strict=True))

    return sparse.csr_matrix(sparse.vstack(list(blocks()), format="csr"))
