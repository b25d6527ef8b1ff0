"""Counts with planted markers: five genes of each of four classes, the rest alike in all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from scmap_cli.markers.base import MarkerData, marker_data

CLASSES = np.array(["A", "B", "C", "D"])
PLANTED = 20


@dataclass(frozen=True)
class Planted:
    counts: np.ndarray
    labels: np.ndarray
    data: MarkerData


def plant(n: int = 240, g: int = 120, seed: int = 0) -> Planted:
    """Genes 5 c to 5 c + 4 mark class c; the last five genes are never found, the five before have one count a cell."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 4
    mean = np.tile(rng.gamma(2.0, 0.8, g), (n, 1))
    for code in range(4):
        mean[np.ix_(codes == code, range(5 * code, 5 * code + 5))] = 9.0
    counts = rng.poisson(mean * rng.lognormal(0, 0.2, (n, 1)))
    counts[:, -5:], counts[:, -10:-5] = 0, 1
    return Planted(counts, CLASSES[codes], marker_data(counts, CLASSES[codes], held=np.arange(n) % 10 == 0))


@pytest.fixture(scope="session")
def planted() -> Planted:
    return plant()
