"""The fused relaxed top-k is the loop of k softmaxes, forward and backward, and tends to a hard choice."""

import pytest
import torch

from scmap_cli.nn.subset import gumbel, masked_product, relaxed_top_k, top_k


def plain_loop(logits_g: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    mask_g, w_g = torch.zeros_like(logits_g), logits_g
    for _ in range(k):
        a_g = torch.softmax(w_g / temperature, 0)
        mask_g, w_g = mask_g + a_g, w_g + torch.log1p(-a_g)
    return mask_g


def with_gradient(function, logits_g, *arguments):
    logits_g = logits_g.clone().requires_grad_()
    mask_g = function(logits_g, *arguments)
    weight_g = torch.linspace(-1, 2, len(logits_g), dtype=logits_g.dtype)
    (mask_g * weight_g).square().sum().backward()
    return mask_g.detach(), logits_g.grad


@pytest.mark.parametrize("temperature", [3.0, 1.0, 0.3, 0.1])
@pytest.mark.parametrize(("g", "k"), [(5, 5), (40, 7), (1003, 50)])
def test_equals_the_loop(g, k, temperature):
    logits_g = 2 * torch.randn(g, dtype=torch.float64, generator=torch.Generator().manual_seed(g))
    mask_g, slope_g = with_gradient(plain_loop, logits_g, k, temperature)
    fused_g, fused_slope_g = with_gradient(relaxed_top_k, logits_g, k, temperature)
    torch.testing.assert_close(fused_g, mask_g, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fused_slope_g, slope_g, rtol=1e-6, atol=1e-9)
    compiled_g, compiled_slope_g = with_gradient(relaxed_top_k, logits_g.float(), k, temperature)
    torch.testing.assert_close(compiled_g.double(), mask_g, rtol=1e-3, atol=2e-5)
    assert (compiled_slope_g.double() - slope_g).norm() < 1e-3 * slope_g.norm() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_logit_far_above_the_others_keeps_its_digits(dtype):
    """Where a softmax is all but one-hot, 1 - a of the top entry underflows in the plain loop."""
    logits_g = torch.tensor([90.0, 0.0, -1.0, -2.0], dtype=dtype)
    mask_g, slope_g = with_gradient(relaxed_top_k, logits_g, 2, 2.0)
    assert mask_g.sum().item() == pytest.approx(2.0, rel=1e-6)
    assert torch.isfinite(slope_g).all()
    exact_g, exact_slope_g = with_gradient(relaxed_top_k, logits_g.double(), 2, 2.0)
    torch.testing.assert_close(mask_g.double(), exact_g, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope_g.double(), exact_slope_g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [5.0, 0.5, 1e-4])
def test_sums_to_k(temperature):
    mask_g = relaxed_top_k(torch.randn(300, generator=torch.Generator().manual_seed(1)), 20, temperature)
    assert mask_g.sum().item() == pytest.approx(20, rel=1e-4)
    assert mask_g.min().item() >= 0


def test_tends_to_the_hard_choice():
    logits_g = torch.arange(30.0).flip(0)[torch.randperm(30, generator=torch.Generator().manual_seed(3))]
    mask_g = relaxed_top_k(logits_g, 6, 1e-3)
    assert set((mask_g > 1e-6).nonzero()[:, 0].tolist()) == set(top_k(logits_g, 6).tolist())
    torch.testing.assert_close(mask_g[top_k(logits_g, 6)], torch.ones(6), rtol=1e-5, atol=1e-5)


def test_equal_logits_are_taken_in_order():
    assert top_k(torch.tensor([1.0, 2.0, 1.0, 2.0]), 3).tolist() == [1, 3, 0]


def test_gumbel_numbers():
    drawn = gumbel(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert drawn.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert drawn.var().item() == pytest.approx(1.6449, abs=0.03)
    assert torch.isfinite(gumbel(torch.tensor([0.0, 1.0 - 2**-24]))).all()


def test_masked_product_has_the_gradients_of_the_plain_one():
    gen = torch.Generator().manual_seed(0)
    x, m, w = (torch.rand(s, dtype=torch.float64, generator=gen) for s in ((6, 9), (9,), (9, 4)))
    found = []
    for function in (masked_product, lambda x, m, w: (x * m) @ w):
        mask, weight = m.clone().requires_grad_(), w.clone().requires_grad_()
        (function(x, mask, weight) ** 2).sum().backward()
        found.append((mask.grad, weight.grad))
    torch.testing.assert_close(found[0], found[1])


def test_logits_that_are_no_numbers_give_no_numbers():
    logits_g = torch.randn(600)
    logits_g[300] = float("nan")
    for of_type in (torch.float32, torch.float64):
        assert relaxed_top_k(logits_g.to(of_type), 5, 1.0).isnan().any()
