"""Genes drawn at random: what any method must beat."""

from __future__ import annotations

import numpy as np

from scmap_cli.markers.base import MarkerData, Selection, best


def select(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Draw k genes without replacement; the score is the number drawn for each, uniform in [0, 1)."""
    draws_g = np.random.default_rng(seed).random(data.n_genes)
    genes = best(draws_g, k)
    return Selection(genes, draws_g[genes])
