"""Counts with a known truth: negative binomial over programs x cell types x batches.

For cell n of batch b and gene g, with library size d_n and log-scale program activities z_nk::

    rate_ng = softmax_g( base_g + shift_bg + sum_k z_nk w_gk ) * d_n
    x_ng    ~ NB(mean = rate_ng, variance = rate_ng + dispersion * rate_ng^2)

drawn as a Poisson of a gamma. Rows are drawn in blocks and kept as CSR, so memory holds the result and one dense block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli import keys
from scmap_cli.errors import UsageError
from scmap_cli.runtime.threads import current_threads

TRUTH = "scmap_truth"
"""``uns``: one JSON string with the parameters and what was planted."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "n_cells": 2000,
        "n_genes": 1000,
        "n_programs": 40,
        "n_types": 6,
        "n_batches": 3,
        "genes_per_program": 25,
        "active_per_type": 5,
        "depth_mean": 3000.0,
        "depth_sigma": 0.4,
        "batch_shift": 0.3,
        "dispersion": 0.2,
        "rare_type_share": None,
        "stimulated": 0.0,
        "stim_programs": 3,
        "noise_genes": 200,
        "overlap": 0.2,
    },
    "tiny": {
        "n_cells": 300,
        "n_genes": 200,
        "n_programs": 12,
        "n_types": 3,
        "n_batches": 2,
        "genes_per_program": 15,
        "active_per_type": 3,
        "depth_mean": 1000.0,
        "depth_sigma": 0.3,
        "batch_shift": 0.3,
        "dispersion": 0.2,
        "rare_type_share": None,
        "stimulated": 0.0,
        "stim_programs": 2,
        "noise_genes": 40,
        "overlap": 0.2,
    },
}
"""Sizes to start from; every value can be changed by its own option."""

_BASE_SD = 1.0
_ACTIVE_MEAN, _ACTIVE_SD = 1.5, 0.3
_STIMULUS = 1.5
_WEIGHT_SD = 0.25
# Elements of one dense block: 8 MiB in float64, small enough for the cache of a big core and for many threads at once.
_BLOCK = 1 << 20


def simulate_rna_data(
    *,
    n_cells: int = 2000,
    n_genes: int = 1000,
    n_programs: int = 40,
    n_types: int = 6,
    n_batches: int = 3,
    genes_per_program: int = 25,
    active_per_type: int = 5,
    depth_mean: float = 3000.0,
    depth_sigma: float = 0.4,
    batch_shift: float = 0.3,
    dispersion: float = 0.2,
    rare_type_share: float | None = None,
    stimulated: float = 0.0,
    stim_programs: int = 3,
    noise_genes: int = 200,
    overlap: float = 0.2,
    seed: int = 0,
) -> AnnData:
    """Simulate counts.

    Parameters
    ----------
    n_cells, n_genes, n_programs, n_types, n_batches
        Sizes. Cells of a type are dealt evenly over the batches.
    genes_per_program
        Genes of each program.
    active_per_type
        Programs active in each type; types take different ones as long as there are enough.
    depth_mean, depth_sigma
        Median library size in counts, and the sd of its logarithm.
    batch_shift
        sd of each batch's log-fold shift of each gene.
    dispersion
        Excess of the variance, see above; 0 is Poisson.
    rare_type_share
        Share of cells in the last type, the rest evenly over the others; None is even.
    stimulated
        Share of cells of each type whose ``condition`` is ``stim`` rather than ``ctrl``.
    stim_programs
        Programs that the stimulus turns on, in all types; taken from those that no type uses while there are any.
    noise_genes
        Genes kept out of all programs (at least; genes that no program needed are noise too).
    overlap
        Share of each program's genes that it borrows from other programs.
    seed
        Same arguments and seed, same data.

    Returns
    -------
    AnnData
        ``X`` (n, g) CSR float32 counts. ``obs``: ``cell_type``, ``batch``, ``condition``, ``depth`` (the library size
        that was aimed at). ``var``: ``is_noise``. ``varm["scmap_programs"]`` (g, k) CSC uint8, names in
        ``uns["scmap_program_names"]``. ``obsm["true_activity"]`` (n, k) float32 z, ``varm["true_weights"]`` (g, k)
        float32 w, ``varm["true_batch_shift"]`` (g, b) float32. ``uns["scmap_truth"]``: JSON of the parameters, the
        active programs of each type, and the stimulated ones.

    Raises
    ------
    UsageError
        Numbers that cannot hold together.
    """
    parameters = {name: value for name, value in locals().items() if name != "seed"}
    check_rna_options(parameters)
    sequence = np.random.SeedSequence(seed)
    structure, blocks = sequence.spawn(2)
    rng = np.random.default_rng(structure)

    mask_gk = _draw_mask(rng, n_genes, n_programs, genes_per_program, noise_genes, overlap)
    weight_gk = mask_gk * rng.lognormal(0.0, _WEIGHT_SD, size=mask_gk.shape)
    active, stim = _draw_active(rng, n_types, n_programs, active_per_type, stim_programs if stimulated else 0)
    type_n, batch_n, stim_n = _draw_cells(rng, n_cells, n_types, n_batches, rare_type_share, stimulated)
    depth_n = rng.lognormal(np.log(depth_mean), depth_sigma, size=n_cells)
    base_g = rng.normal(0.0, _BASE_SD, size=n_genes)
    shift_bg = rng.normal(0.0, batch_shift, size=(n_batches, n_genes))
    on_nk = active[type_n] + np.outer(stim_n, stim) * (_STIMULUS / _ACTIVE_MEAN)
    activity_nk = (on_nk * rng.normal(_ACTIVE_MEAN, _ACTIVE_SD, size=on_nk.shape)).astype(np.float32)

    counts = _draw_counts(blocks, activity_nk, weight_gk, base_g + shift_bg, batch_n, depth_n, dispersion)

    program_names = np.array([f"PROGRAM{k + 1:0{len(str(n_programs))}d}" for k in range(n_programs)], dtype=object)
    type_names = [f"type{t + 1}" for t in range(n_types)]
    batch_names = [f"batch{b + 1}" for b in range(n_batches)]
    truth = {
        "parameters": parameters | {"seed": seed},
        "active_programs": {name: program_names[row].tolist() for name, row in zip(type_names, active, strict=True)},
        "stimulated_programs": program_names[stim].tolist(),
    }
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(type_n, pd.Index(type_names)),
            "batch": pd.Categorical.from_codes(batch_n, pd.Index(batch_names)),
            "condition": pd.Categorical.from_codes(stim_n.astype(int), pd.Index(["ctrl", "stim"])),
            "depth": depth_n.astype(np.float32),
        },
        index=pd.Index([f"cell{n + 1}" for n in range(n_cells)], dtype=object),
    )
    gene_names = [f"GENE{g + 1:0{max(4, len(str(n_genes)))}d}" for g in range(n_genes)]
    var = pd.DataFrame({"is_noise": ~mask_gk.any(axis=1)}, index=pd.Index(gene_names, dtype=object))
    return AnnData(
        X=counts,
        obs=obs,
        var=var,
        obsm={"true_activity": activity_nk},
        varm={
            keys.PROGRAMS_VARM: sparse.csc_matrix(mask_gk.astype(np.uint8)),
            "true_weights": weight_gk.astype(np.float32),
            "true_batch_shift": shift_bg.T.astype(np.float32),
        },
        uns={keys.PROGRAM_NAMES: program_names, TRUTH: json.dumps(truth, sort_keys=True)},
    )


def check_rna_options(p: dict[str, Any]) -> None:
    """Refuse arguments of :func:`simulate_rna_data` that cannot hold together, by :class:`UsageError`."""
    for name in ("n_cells", "n_genes", "n_programs", "n_types", "n_batches", "genes_per_program"):
        if p[name] < 1:
            raise UsageError(f"{_flag(name)} must be at least 1, not {p[name]}")
    for name in ("active_per_type", "stim_programs", "noise_genes", "depth_sigma", "batch_shift", "dispersion"):
        if not 0 <= p[name] < np.inf:
            raise UsageError(f"{_flag(name)} must be a number of at least 0, not {p[name]}")
    for name in ("stimulated", "overlap"):
        if not 0 <= p[name] <= 1:
            raise UsageError(f"{_flag(name)} must lie between 0 and 1, not {p[name]}")
    if not 0 < p["depth_mean"] < np.inf:
        raise UsageError(f"--depth-mean must be above 0, not {p['depth_mean']}")
    if p["rare_type_share"] is not None and not (0 < p["rare_type_share"] < 1 and p["n_types"] > 1):
        raise UsageError("--rare-type-share must lie between 0 and 1, and needs at least two types")
    if p["n_cells"] < p["n_types"]:
        raise UsageError(f"{p['n_cells']} cells cannot hold {p['n_types']} types")
    if p["active_per_type"] > p["n_programs"] or p["stim_programs"] > p["n_programs"]:
        raise UsageError(f"--active-per-type and --stim-programs cannot exceed the {p['n_programs']} programs")
    free, own = p["n_genes"] - p["noise_genes"], _own_genes(p["genes_per_program"], p["overlap"])
    if own * p["n_programs"] > free or p["genes_per_program"] > free:
        raise UsageError(
            f"{p['n_programs']} programs with {own} genes of their own need {own * p['n_programs']} genes, "
            f"but {p['n_genes']} genes less {p['noise_genes']} of noise leave {free}",
            "raise --overlap or --n-genes, or lower --genes-per-program, --n-programs or --noise-genes",
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_genes(genes_per_program: int, overlap: float) -> int:
    return max(round(genes_per_program * (1 - overlap)), 1)


def _draw_mask(
    rng: np.random.Generator, n_genes: int, n_programs: int, genes_per_program: int, noise_genes: int, overlap: float
) -> np.ndarray:
    """(g, k) bool membership: own genes are disjoint, the rest is borrowed from other programs' own genes."""
    own = _own_genes(genes_per_program, overlap)
    order = rng.permutation(n_genes)[: n_genes - noise_genes]
    mask_gk = np.zeros((n_genes, n_programs), dtype=bool)
    for k in range(n_programs):
        mask_gk[order[k * own : (k + 1) * own], k] = True
    for k in range(n_programs):
        others = np.concatenate([order[: k * own], order[(k + 1) * own : n_programs * own]])
        # A lone program has nobody to borrow from and then takes free genes.
        pool = others if len(others) >= genes_per_program - own else np.setdiff1d(order, order[k * own : (k + 1) * own])
        mask_gk[rng.choice(pool, genes_per_program - own, replace=False), k] = True
    return mask_gk


def _draw_active(
    rng: np.random.Generator, n_types: int, n_programs: int, active_per_type: int, stim_programs: int
) -> tuple[np.ndarray, np.ndarray]:
    """(t, k) bool programs active in each type, dealt round from a shuffled deck, and (k,) bool stimulated ones."""
    deck = rng.permutation(n_programs)
    active = np.zeros((n_types, n_programs), dtype=bool)
    for t in range(n_types):
        active[t, deck[np.arange(t * active_per_type, (t + 1) * active_per_type) % n_programs]] = True
    stim = np.zeros(n_programs, dtype=bool)
    used = np.asarray(active.any(axis=0))
    unused_first = deck[np.argsort(used[deck], kind="stable")]
    stim[unused_first[:stim_programs]] = True
    return active, stim


def _draw_cells(
    rng: np.random.Generator, n: int, n_types: int, n_batches: int, rare_share: float | None, stimulated: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Type and batch codes and the stimulus flag of each cell; numbers are exact, the order is shuffled."""
    if rare_share is None:
        type_n = np.arange(n) % n_types
    else:
        rare = min(max(round(n * rare_share), 1), n - n_types + 1)
        type_n = np.concatenate([np.arange(n - rare) % (n_types - 1), np.full(rare, n_types - 1)])
    type_n = rng.permutation(type_n)
    batch_n, stim_n = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    for t in range(n_types):
        cells = np.flatnonzero(type_n == t)
        batch_n[cells] = rng.permutation(np.arange(len(cells)) % n_batches)
        stim_n[rng.permutation(cells)[: round(len(cells) * stimulated)]] = True
    return type_n, batch_n, stim_n


def _draw_counts(
    seeds: np.random.SeedSequence,
    activity_nk: np.ndarray,
    weight_gk: np.ndarray,
    offset_bg: np.ndarray,
    batch_n: np.ndarray,
    depth_n: np.ndarray,
    dispersion: float,
) -> sparse.csr_matrix:
    """(n, g) CSR float32 counts, one dense block of rows at a time; every block has its own random stream."""
    n_cells, n_genes = len(activity_nk), len(weight_gk)
    rows = max(_BLOCK // n_genes, 1)
    starts = range(0, n_cells, rows)
    weight_kg = np.ascontiguousarray(weight_gk.T)

    def draw(job: tuple[int, np.random.SeedSequence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start, seed = job
        rng = np.random.default_rng(seed)
        part = slice(start, start + rows)
        rate_ng = activity_nk[part].astype(np.float64) @ weight_kg
        rate_ng += offset_bg[batch_n[part]]
        rate_ng -= rate_ng.max(axis=1, keepdims=True)
        np.exp(rate_ng, out=rate_ng)
        rate_ng *= (depth_n[part] / rate_ng.sum(axis=1))[:, None]
        if dispersion > 0:
            rate_ng *= rng.standard_gamma(1.0 / dispersion, size=rate_ng.shape)
            rate_ng *= dispersion
        count_ng = rng.poisson(rate_ng)
        held = sparse.csr_matrix(count_ng)
        return held.data.astype(np.float32), held.indices.astype(np.int32), np.diff(held.indptr)

    def results() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        # The pool runs at most a few blocks ahead, so that dense blocks do not pile up.
        jobs = list(zip(starts, seeds.spawn(len(starts)), strict=True))
        ahead = min(current_threads(), 8)
        with ThreadPoolExecutor(ahead) as pool:
            for first in range(0, len(jobs), ahead):
                yield from pool.map(draw, jobs[first : first + ahead])

    data, indices, lengths = map(list, zip(*results(), strict=True))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    return sparse.csr_matrix((_joined(data), _joined(indices), indptr), shape=(n_cells, n_genes))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts end to end; each is let go as soon as it is copied, so the peak stays near one copy."""
    whole = np.empty(sum(len(part) for part in parts), dtype=parts[0].dtype)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole
