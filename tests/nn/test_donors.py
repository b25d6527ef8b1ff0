"""Donors of encodings: beside a plain search in float64, where no donor is like a cell, and where there are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scmap_cli.nn.donors import Donors


def filled(blind: np.ndarray, seeing: np.ndarray) -> Donors:
    found = Donors(len(seeing), len(blind) - len(seeing), blind.shape[1])
    found.fill(torch.from_numpy(blind).float(), torch.from_numpy(seeing).float())
    return found


def plain(blind: np.ndarray, donors: int, cells: np.ndarray, smoothed: int, around: int):  # type: ignore[no-untyped-def]
    """Donor and trust of each cell by full sorting."""

    def nearest(x: np.ndarray, of: np.ndarray, count: int) -> np.ndarray:
        return np.argsort(((x[:, None] - of) ** 2).sum(2), axis=1)[:, :count]

    def centre(x: np.ndarray) -> np.ndarray:
        return blind[:donors][nearest(x, blind[:donors], smoothed)].mean(1)

    share = (nearest(cells, blind, around) < donors).mean(1)
    return nearest(centre(cells), centre(blind[:donors]), 1)[:, 0], np.minimum(1, share * len(blind) / donors)


@pytest.mark.parametrize(("donors", "others", "smoothed", "around"), [(700, 300, 8, 21), (2100, 600, 20, 50)])
def test_a_donor_is_found_as_by_full_sorting(donors: int, others: int, smoothed: int, around: int) -> None:
    rng = np.random.default_rng(0)
    blind, seeing = rng.normal(size=(donors + others, 5)), rng.normal(size=(donors, 5))
    cells = rng.normal(size=(600, 5))
    expected, trust = plain(blind, donors, cells, smoothed, around)
    found, trusted = filled(blind, seeing).lent(torch.from_numpy(cells).float())
    assert (np.abs(found.numpy() - seeing[expected]).max(1) < 1e-5).mean() > 0.995
    assert (np.abs(trusted.numpy() - trust) < 1e-5).mean() > 0.995


def test_cells_that_no_donor_is_like_are_not_trusted_to_one() -> None:
    rng = np.random.default_rng(1)
    blind = rng.normal(size=(300, 4))
    blind[200:] += 20
    bank = filled(blind, rng.normal(size=(200, 4)))
    _, near = bank.lent(torch.from_numpy(rng.normal(size=(50, 4))).float())
    _, far = bank.lent(torch.from_numpy(rng.normal(size=(50, 4)) + 20).float())
    assert (near == 1).all()
    assert (far == 0).all()


def test_one_donor_lends_to_all_and_none_asks_for_nothing() -> None:
    bank = filled(np.zeros((1, 3)), np.ones((1, 3)))
    donor, trust = bank.lent(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert (donor == 1).all()
    assert (trust == 1).all()
    donor, trust = bank.lent(torch.zeros(0, 3))
    assert (donor.shape, trust.shape) == ((0, 3), (0,))
