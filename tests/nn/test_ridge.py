"""The ridge loss is ridge regression on the masked genes, and draws the mask to a gene that others follow."""

import pytest
import torch

from scmap_cli.nn.ridge import ridge_loss


def test_equals_regression_on_genes():
    gen = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, width, dtype=torch.float64, generator=gen) for width in (6, 9))
    mask = torch.rand(6, dtype=torch.float64, generator=gen)
    weighted = x * mask.sqrt()
    asked = torch.arange(40) % 4 == 3
    fitted, others = weighted[~asked], weighted[asked]
    beta = torch.linalg.solve(fitted.T @ fitted + 1.7 * torch.eye(6, dtype=torch.float64), fitted.T @ y[~asked])
    expected = 0.5 * (y[asked] - others @ beta).square().mean()
    found = ridge_loss(x, mask, torch.tensor(1.7, dtype=torch.float64).log(), y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_mask_is_drawn_to_genes_that_others_follow():
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=gen)
    x[:, 1:4] += 3 * x[:, :1]
    mask = torch.full((8,), 0.5, requires_grad=True)
    ridge_loss(x, mask, torch.tensor(1.0), x).backward()
    assert mask.grad is not None
    assert mask.grad.argmin() == 0
    assert mask.grad[0] < 3 * mask.grad[1:].min()


def test_too_few_cells_are_rebuilt_by_their_mean():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    assert ridge_loss(x, None, torch.tensor(0.0), x).item() == pytest.approx(0.5 * x.square().mean().item())
