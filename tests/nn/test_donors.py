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

    def far(x: np.ndarray, of: np.ndarray) -> np.ndarray:
        return ((x[:, None] - of) ** 2).sum(2)

    def nearest(x: np.ndarray, of: np.ndarray, count: int) -> np.ndarray:
        return np.argsort(far(x, of), axis=1)[:, :count]

    def centre(x: np.ndarray) -> np.ndarray:
        return blind[:donors][nearest(x, blind[:donors], smoothed)].mean(1)

    share = (nearest(cells, blind, around) < donors).mean(1)
    found = (far(centre(cells), centre(blind[:donors])) + 1e-3 * far(cells, blind[:donors])).argmin(1)
    return found, np.minimum(1, share * len(blind) / donors)


@pytest.mark.parametrize(("donors", "others", "smoothed", "around"), [(700, 300, 8, 21), (2100, 600, 20, 50)])
def test_a_donor_is_found_as_by_full_sorting(donors: int, others: int, smoothed: int, around: int) -> None:
    rng = np.random.default_rng(0)
    blind, seeing = rng.normal(size=(donors + others, 5)), rng.normal(size=(donors, 5))
    cells = rng.normal(size=(600, 5))
    expected, trust = plain(blind, donors, cells, smoothed, around)
    found, trusted = filled(blind, seeing).lent(torch.from_numpy(cells).float())
    assert (np.abs(found.numpy() - seeing[expected]).max(1) < 1e-5).mean() > 0.998
    assert (np.abs(trusted.numpy() - trust) < 1e-5).mean() > 0.998


def test_a_cell_finds_the_same_donor_by_itself() -> None:
    rng = np.random.default_rng(2)
    blind = rng.normal(size=(450, 6))
    bank = filled(blind / np.linalg.norm(blind, axis=1, keepdims=True), rng.normal(size=(300, 6)))
    cells = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(400, 6))).float())
    together, trust = bank.lent(cells)
    alone = [bank.lent(cells[i : i + 1]) for i in range(400)]
    torch.testing.assert_close(torch.cat([donor for donor, _ in alone]), together, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([one for _, one in alone]), trust)


def test_a_kept_cell_neither_borrows_from_itself_nor_counts_for_itself() -> None:
    rng = np.random.default_rng(3)
    blind = rng.normal(size=(60, 5))
    seeing = rng.normal(size=(40, 5))
    bank = filled(blind, seeing)
    donor, _ = bank.lent(torch.from_numpy(blind[:40]).float())
    assert (np.abs(donor.numpy() - seeing).max(1) > 1e-3).all()
    # The others are among the donors here, so that a few of the five around each are donors.
    _, trust = bank.lent(torch.from_numpy(blind[40:]).float())
    far = ((blind[40:, None] - blind) ** 2).sum(2)
    far[np.arange(20), np.arange(40, 60)] = np.inf
    share = (np.argsort(far, axis=1)[:, :5] < 40).mean(1)
    np.testing.assert_allclose(trust.numpy(), np.minimum(1, share * 60 / 40), atol=1e-5)


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
