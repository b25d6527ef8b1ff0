"""What the stages of ``scmap evaluate`` share: which cells are scored, clusterings, a result as JSON text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.errors import UsageError
from scmap_cli.metrics.graph import BACKENDS, METHODS
from scmap_cli.runtime.logs import log

SUBSAMPLE_SHARE = 0.9
"""Share of the cells in each subsample, that of the SAILER thesis."""


def render(result: dict[str, Any]) -> str:
    """The result as the JSON text that the output file holds."""
    return json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def check_clusterings(inputs: Sequence[Path | str], grid: Sequence[float], method: str, backend: str) -> None:
    """Refuse a run without inputs, and clusterings that cannot be made.

    Raises
    ------
    UsageError
        There is no input, a resolution is not above 0, or a method or backend is not known.
    """
    if not inputs:
        raise UsageError("no input was given")
    if not grid or not all(0 < resolution < np.inf for resolution in grid):
        raise UsageError(f"resolutions must be above 0, not {list(grid)}")
    if method not in METHODS:
        raise UsageError(f"unknown cluster method {method!r}", f"known ones: {', '.join(METHODS)}")
    if backend not in BACKENDS:
        raise UsageError(f"unknown Leiden backend {backend!r}", f"known ones: {', '.join(BACKENDS)}")


def check_sources(names: Sequence[str]) -> None:
    """Refuse sources, such as files without their folders, that a result could not tell apart.

    Raises
    ------
    UsageError
        Two have the same name.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UsageError(f"two inputs have the same name, {repeated[0]}", "name files apart")


def finite_cells(path: Path, key: str, emb_nz: np.ndarray) -> np.ndarray:
    """(n,) bool: cells whose embedding is finite; a warning counts the others."""
    finite: np.ndarray = np.isfinite(emb_nz).all(axis=1)
    if not finite.all():
        log.warning("%s: %d cells have no finite %s and are left out", path, int((~finite).sum()), key)
    return finite


def cells_with_batch(path: Path, batch_n: np.ndarray) -> np.ndarray:
    """(n,) bool: cells whose batch is told; a warning counts the others."""
    told: np.ndarray = batch_n != ""
    if not told.all():
        log.warning("%s: %d cells have no batch and are left out", path, int((~told).sum()))
    return told


def sampled(keep: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """``keep``, (n,) bool, or a seeded sample of ``most`` of its cells where there are more."""
    if most is None or keep.sum() <= most:
        return keep
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(keep), most, replace=False)
    return np.isin(np.arange(len(keep)), chosen)


def check_subsamples(subsamples: int) -> None:
    """:class:`UsageError` for a number of subsamples of which no deviation can be told."""
    if subsamples < 0 or subsamples == 1:
        raise UsageError(f"--subsamples must be 0 or at least 2, not {subsamples}", "a deviation needs two")


def over_subsamples(
    n: int, count: int, seed: int, scored: Callable[[np.ndarray], Mapping[str, float | None]]
) -> dict[str, Any]:
    """Mean and standard deviation of scores over seeded subsamples of 90 % of the cells, drawn without replacement.

    Parameters
    ----------
    n
        Cells.
    count
        Subsamples, at least 2.
    seed
        Of the draws.
    scored
        Scores of the rows that it is given, sorted (m,) int64.

    Returns
    -------
    dict
        ``count``, ``cells`` of each, and ``mean`` and ``sd`` by name, for scores that every subsample has.
    """
    rng = np.random.default_rng(seed)
    size = round(SUBSAMPLE_SHARE * n)
    runs = [scored(np.sort(rng.choice(n, size, replace=False))) for _ in range(count)]
    defined = [name for name in runs[0] if all(run.get(name) is not None for run in runs)]
    values = {name: np.array([run[name] for run in runs], dtype=np.float64) for name in defined}
    mean = {name: float(found.mean()) for name, found in values.items()}
    deviation = {name: float(found.std(ddof=1)) for name, found in values.items()}
    return {"count": count, "cells": size, "mean": mean, "sd": deviation}
