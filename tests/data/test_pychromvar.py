"""Deviations beside pychromvar's (0.0.4), which reads the table of background peaks the other way round."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.deviations import background_peaks, deviations

CELLS, PEAKS, MOTIFS = 200, 1500, 20


class Older(AnnData):
    """As pychromvar makes it, with an argument that anndata no longer has."""

    def __init__(self, x: Any = None, dtype: Any = None, **more: Any) -> None:
        super().__init__(x, **more)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("pychromvar", reason="needs the package pychromvar")
    # The package has a function of the module's name.
    module = sys.modules["pychromvar.compute_deviations"]
    monkeypatch.setattr(module, "AnnData", Older)

    def scores(x: np.ndarray, match: np.ndarray, background: np.ndarray) -> np.ndarray:
        adata = Older(x.astype(np.float64))
        adata.varm["motif_match"], adata.varm["bg_peaks"] = match, background
        adata.uns["motif_name"] = [f"m{i}" for i in range(match.shape[1])]
        return np.asarray(module.compute_deviations(adata, n_jobs=1).X, dtype=np.float64)

    return scores


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, matches and GC content; motifs go with the GC content, and cells differ in some of them."""
    rng = np.random.default_rng(0)
    gc = rng.beta(8, 8, PEAKS)
    match = (rng.random((PEAKS, MOTIFS)) < 0.3 * gc[:, None]).astype(float)
    lifted = np.exp(0.3 * rng.integers(2, size=(CELLS, 4)) @ match[:, :4].T)
    x = rng.poisson(rng.lognormal(0, 0.3, CELLS)[:, None] * rng.lognormal(-1, 0.7, PEAKS) * lifted)
    x[0] += 1
    return x, match, gc


def ours(x: np.ndarray, match: np.ndarray, background: np.ndarray) -> np.ndarray:
    counts, sets = sparse.csr_matrix(x.astype(np.int32)), sparse.csc_matrix(match)
    return deviations(counts, sets, background, least=0.0)[0].astype(np.float64)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.slow
def test_given_permutations_and_their_inverses_the_scores_are_the_same(theirs: Any, made: Any) -> None:
    x, match, _ = made
    rng = np.random.default_rng(1)
    turns = np.stack([rng.permutation(PEAKS) for _ in range(50)], axis=1)
    # Theirs divides by the number of draws, ours by one less.
    np.testing.assert_allclose(
        ours(x, match, np.argsort(turns, axis=0)), theirs(x, match, turns) * np.sqrt(49 / 50), rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_given_the_same_table_they_agree_the_better_the_more_draws(theirs: Any, made: Any) -> None:
    x, match, gc = made
    few, many = (background_peaks(x.sum(0), gc, draws=draws, seed=2) for draws in (50, 500))
    of_few, of_many = (agreement(ours(x, match, one), theirs(x, match, one)) for one in (few, many))
    again = background_peaks(x.sum(0), gc, draws=50, seed=3)
    # No less than two tables of ours agree with each other.
    assert of_few > agreement(ours(x, match, few), ours(x, match, again)) - 0.02
    assert of_many > max(0.97, of_few)
