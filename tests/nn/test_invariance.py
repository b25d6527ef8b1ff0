"""Both bounds equal the loop over pairs, and stand in the order that they must."""

import math

import pytest
import torch

from scmap_cli.nn.invariance import mean_pairwise_kl, mixture_kl


def posteriors(n: int, z: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = torch.Generator().manual_seed(0)
    mean = 5 + spread * torch.randn(n, z, generator=gen, dtype=torch.float64)
    return mean, 0.1 + torch.rand(n, z, generator=gen, dtype=torch.float64)


def pairs(mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    normal = torch.distributions.Normal
    rows = [
        [
            torch.distributions.kl_divergence(normal(mean[i], var[i].sqrt()), normal(mean[j], var[j].sqrt())).sum()
            for j in range(len(mean))
        ]
        for i in range(len(mean))
    ]
    return torch.stack([torch.stack(row) for row in rows])


def test_mean_pairwise_equals_the_loop_and_its_gradient() -> None:
    mean, var = posteriors(13, 4)
    grads = []
    for function in (lambda m, v: pairs(m, v).mean(), mean_pairwise_kl):
        m, v = mean.clone().requires_grad_(), var.clone().requires_grad_()
        value = function(m, v)
        value.backward()
        grads.append((value.detach(), m.grad, v.grad))
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_mixture_equals_the_loop() -> None:
    mean, var = posteriors(9, 3)
    expected = -(torch.exp(-pairs(mean, var)).mean(1)).log().mean()
    torch.testing.assert_close(mixture_kl(mean, var), expected, rtol=1e-10, atol=1e-10)


def test_the_mixture_is_the_tighter_bound() -> None:
    for spread in (0.0, 0.3, 3.0, 30.0):
        mean, var = posteriors(40, 5, spread)
        assert 0 <= mixture_kl(mean, var) <= mean_pairwise_kl(mean, var)
        assert mixture_kl(mean, var) <= math.log(40) + 1e-9


def test_the_mixture_is_exact_in_float32_and_under_mixed_precision() -> None:
    gen = torch.Generator().manual_seed(1)
    mean, var = 5 + 0.05 * torch.randn(200, 10, generator=gen), torch.full((200, 10), 1e-3)
    exact = mixture_kl(mean.double(), var.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mixture_kl(mean, var).item() == pytest.approx(exact, rel=1e-5)


def test_equal_posteriors_have_no_divergence_in_float32() -> None:
    mean, var = torch.full((500, 10), 30.0), torch.full((500, 10), 1e-3)
    assert mean_pairwise_kl(mean, var).item() == pytest.approx(0.0, abs=1e-6)
