"""HSIC: equal to its definition, zero for constants, and finite with finite gradients at any width."""

import math

import pytest
import torch

from scmap_cli.nn.hsic import hsic_one_against_rest, kernel_precision


def by_definition(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n

    def kernel(z: torch.Tensor) -> torch.Tensor:
        g = 2 * math.exp(math.lgamma((z.shape[1] + 1) / 2) - math.lgamma(z.shape[1] / 2))
        return torch.exp(-(torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") ** 2) / (2 * g * g))

    return torch.sqrt(torch.trace(centre @ kernel(x) @ centre @ kernel(y)) / n**2 + 1e-10)


def test_equals_the_definition_for_every_column() -> None:
    z = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[:, 5] = z[:, 0] ** 2
    columns = [3, 5]
    expected = sum(by_definition(z[:, [c]], z[:, [i for i in range(6) if i != c]]) for c in columns)
    torch.testing.assert_close(hsic_one_against_rest(z, columns), expected)


def test_dependence_is_seen() -> None:
    a, b = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
    dependent, independent = torch.stack([a, a**2], 1), torch.stack([a, b**2], 1)
    assert hsic_one_against_rest(dependent, [1]) > 2 * hsic_one_against_rest(independent, [1])


def test_the_width_is_the_mean_distance_of_two_normal_vectors() -> None:
    a, b = torch.randn(2, 200_000, 3, generator=torch.Generator().manual_seed(1))
    assert (1 / (2 * kernel_precision(3))) ** 0.5 == pytest.approx((a - b).norm(dim=1).mean().item(), rel=0.01)


@pytest.mark.parametrize("width", [2, 343, 344, 2000])
@pytest.mark.parametrize("spread", [1.0, 1e-4, 0.0])
def test_value_and_gradient_are_finite(width: int, spread: float) -> None:
    z = torch.randn(64, width, generator=torch.Generator().manual_seed(2))
    z[:, -1] *= spread
    z.requires_grad_()
    penalty = hsic_one_against_rest(z, [width - 1])
    penalty.backward()
    assert torch.isfinite(penalty)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_nothing_to_compare_costs_nothing() -> None:
    assert hsic_one_against_rest(torch.randn(5, 1), [0]) == 0
    assert hsic_one_against_rest(torch.randn(5, 3), []) == 0
