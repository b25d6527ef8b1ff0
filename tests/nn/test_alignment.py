"""The alignment equals loops over pairs, does not depend on the batch size, and passes over cells without RNA."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from scmap_cli.nn.alignment import alignment_gap


def made(n: int, missing: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gen = torch.Generator().manual_seed(2)
    mean = torch.randn(n, 4, generator=gen, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(n, 6, generator=gen, dtype=torch.float64), dim=1)
    weight = torch.rand(n, generator=gen, dtype=torch.float64)
    unit[list(missing)] = 0
    return mean, unit, weight


def by_loops(mean: torch.Tensor, unit: torch.Tensor, weight: torch.Tensor) -> float:
    """Equations 3.3 and 3.4 as they are written, over the pairs of cells with a reference."""
    cells = [i for i in range(len(mean)) if unit[i].abs().sum() > 0]
    total = 0.0
    for i in cells:
        for j in cells:
            if i != j:
                ours = float(mean[i] @ mean[j] / mean[i].norm() / mean[j].norm())
                theirs = float(unit[i] @ unit[j] / unit[i].norm() / unit[j].norm())
                total += float(weight[i] * weight[j]) * (ours - theirs) ** 2
    return total / (len(cells) * (len(cells) - 1))


@pytest.mark.parametrize("missing", [(), (0,), (1, 4, 5)])
def test_it_equals_loops_over_pairs(missing: tuple[int, ...]) -> None:
    mean, unit, weight = made(7, missing)
    assert alignment_gap(mean, unit, weight).item() == pytest.approx(by_loops(mean, unit, weight), rel=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_over_all_batches_of_any_size_its_mean_is_the_value_of_all_cells(size: int) -> None:
    mean, unit, weight = made(7)
    whole = alignment_gap(mean, unit, weight)
    batches = [list(rows) for rows in combinations(range(7), size)]
    values = torch.stack([alignment_gap(mean[rows], unit[rows], weight[rows]) for rows in batches])
    torch.testing.assert_close(values.mean(), whole, rtol=1e-12, atol=0)


def test_cells_without_reference_change_nothing_and_get_no_gradient() -> None:
    mean, unit, weight = made(7, (2, 3))
    mean.requires_grad_()
    found = alignment_gap(mean, unit, weight)
    found.backward()
    kept = [0, 1, 4, 5, 6]
    torch.testing.assert_close(found, alignment_gap(mean[kept], unit[kept], weight[kept]), rtol=1e-12, atol=0)
    assert mean.grad is not None
    assert not mean.grad[[2, 3]].any()
    assert mean.grad[kept].abs().sum(1).all()


@pytest.mark.parametrize("missing", [(0, 1, 2), (0, 1)])
def test_fewer_than_two_cells_with_reference_give_zero_and_finite_gradients(missing: tuple[int, ...]) -> None:
    mean, unit, weight = made(3, missing)
    mean.requires_grad_()
    found = alignment_gap(mean, unit, weight)
    found.backward()
    assert found.item() == 0
    assert torch.isfinite(mean.grad).all()


def test_lengths_do_not_matter_and_equal_structure_has_no_gap() -> None:
    mean, unit, weight = made(6)
    scaled = mean * torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    torch.testing.assert_close(alignment_gap(scaled, unit, weight), alignment_gap(mean, unit, weight))
    turned = unit @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert alignment_gap(3 * turned, unit, weight).item() == pytest.approx(0, abs=1e-28)


def test_a_model_without_reference_has_none() -> None:
    mean, unit, weight = made(4)
    assert alignment_gap(mean, unit[:, :0], weight).item() == 0


def test_mixed_precision_leaves_the_products_exact() -> None:
    mean, unit, weight = (part.float() for part in made(40))
    plain = alignment_gap(mean, unit, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (mean @ mean.T).dtype == torch.bfloat16
        mixed = alignment_gap(mean, unit, weight)
    assert mixed.dtype == torch.float32
    assert mixed.item() == plain.item()
