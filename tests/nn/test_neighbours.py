"""The neighbours' loss is its definition, and draws the mask to genes on which classes lie apart."""

import math

import pytest
import torch

from scmap_cli.nn.neighbours import neighbour_loss


def by_definition(x, mask, reach, classes):
    losses = []
    for i in range(len(x)):
        chance = {j: math.exp(-float((mask * (x[i] - x[j]) ** 2).sum()) / reach) for j in range(len(x)) if j != i}
        own = [p for j, p in chance.items() if classes[j] == classes[i]]
        if own:
            losses.append(-math.log(sum(own) / sum(chance.values())))
    return sum(losses) / len(losses)


def test_equals_its_definition():
    gen = torch.Generator().manual_seed(0)
    x, mask = torch.randn(12, 5, dtype=torch.float64, generator=gen), torch.rand(5, dtype=torch.float64, generator=gen)
    classes = torch.tensor([0, 0, 1, 1, 1, 2, 0, 0, 1, 3, 3, 1])
    found = neighbour_loss(x, mask, torch.tensor(1.5, dtype=torch.float64).log(), classes)
    assert found.item() == pytest.approx(by_definition(x, mask, 1.5, classes.tolist()), rel=1e-9)


def test_without_pairs_it_is_zero():
    assert neighbour_loss(torch.randn(3, 2), None, torch.tensor(0.0), torch.arange(3)).item() == 0.0


def test_the_mask_is_drawn_to_genes_that_tell_classes():
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(80, 4, generator=gen)
    classes = torch.arange(80) % 2
    x[:, 0] += 3 * classes
    mask = torch.full((4,), 0.5, requires_grad=True)
    neighbour_loss(x, mask, torch.tensor(0.0), classes).backward()
    assert mask.grad is not None
    assert mask.grad.argmin() == 0
    assert mask.grad[0] < 0 < mask.grad[1:].min()
