"""The sparse negative binomial equals the plain formula in float64: value, gradients, every mean function."""

import pytest
import torch
from scipy.stats import nbinom

from scmap_cli.errors import UsageError
from scmap_cli.nn.distributions import LINKS, gaussian_kl, gaussian_kl_between, negative_binomial_nll


def case(n: int = 7, g: int = 11, b: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(3)
    x_ng = torch.poisson(torch.rand(n, g, generator=gen) * 2, generator=gen).to(dtype)
    x_ng[0] = 0
    x_ng[1, 2] = 5000
    return {
        "x_ng": x_ng,
        "logits_ng": torch.randn(n, g, generator=gen, dtype=dtype),
        "log_theta_bg": torch.randn(b, g, generator=gen, dtype=dtype),
        "size_n": x_ng.sum(1) + 1,
        "condition_n": torch.randint(b, (n,), generator=gen),
    }


def plain(c: dict[str, torch.Tensor], link: str) -> torch.Tensor:
    logits = c["logits_ng"]
    if link == "softmax":
        mu = torch.softmax(logits, 1) * c["size_n"][:, None]
    else:
        mu = torch.nn.functional.softplus(logits) if link == "softplus" else logits.exp()
    theta = c["log_theta_bg"].exp()[c["condition_n"]]
    x = c["x_ng"]
    ll = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    ll = ll + theta * (theta / (theta + mu)).log() + x * (mu / (theta + mu)).log()
    return -ll.sum(1)


def ours(c: dict[str, torch.Tensor], link: str) -> torch.Tensor:
    flat = c["x_ng"].reshape(-1).nonzero()[:, 0]
    constant_n = torch.lgamma(c["x_ng"] + 1).sum(1)
    value_m = c["x_ng"].reshape(-1)[flat]
    return negative_binomial_nll(
        c["logits_ng"], c["log_theta_bg"], c["size_n"], c["condition_n"], flat, value_m, constant_n, link
    )


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("conditions", [1, 3])
def test_value_and_gradients_equal_the_plain_formula(link: str, conditions: int) -> None:
    grads = []
    for function in (plain, ours):
        c = case(b=conditions)
        c["condition_n"] = c["condition_n"] % conditions
        c["logits_ng"].requires_grad_()
        c["log_theta_bg"].requires_grad_()
        nll_n = function(c, link)
        weights = torch.linspace(0.5, 2, len(nll_n), dtype=nll_n.dtype)
        (nll_n * weights).sum().backward()
        grads.append((nll_n.detach(), c["logits_ng"].grad, c["log_theta_bg"].grad))
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_agrees_with_scipy() -> None:
    c = case()
    theta = c["log_theta_bg"].exp()[c["condition_n"]]
    mu = torch.softmax(c["logits_ng"], 1) * c["size_n"][:, None]
    expected = -nbinom.logpmf(c["x_ng"].numpy(), theta.numpy(), (theta / (theta + mu)).numpy()).sum(1)
    torch.testing.assert_close(ours(c, "softmax"), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("link", LINKS)
def test_float32_stays_close_to_float64(link: str) -> None:
    exact, single = case(), case(dtype=torch.float32)
    single = {k: exact[k].to(v.dtype) for k, v in single.items()}
    torch.testing.assert_close(ours(single, link).double(), ours(exact, link), rtol=2e-5, atol=1e-2)


def test_wild_logits_stay_finite() -> None:
    for link in LINKS:
        c = case()
        c["logits_ng"] = (c["logits_ng"] * 1e4).requires_grad_()
        nll = ours(c, link).sum()
        nll.backward()
        assert torch.isfinite(nll)
        assert torch.isfinite(c["logits_ng"].grad).all()  # type: ignore[union-attr]


def test_unknown_mean_function() -> None:
    with pytest.raises(UsageError, match="relu"):
        ours(case(), "relu")


def test_kl_equals_torch() -> None:
    mu, var = torch.randn(4, 5), torch.rand(4, 5) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, var.sqrt()), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(gaussian_kl(mu, var), expected)


def test_gaussian_kl_between_matches_torch() -> None:
    mu, other = torch.randn(2, 5, 4)
    var, other_var = torch.rand(2, 5, 4) + 0.1
    ours, theirs = (torch.distributions.Normal(m, v.sqrt()) for m, v in ((mu, var), (other, other_var)))
    expected = torch.distributions.kl_divergence(ours, theirs).sum(1)
    torch.testing.assert_close(gaussian_kl_between(mu, var, other, other_var), expected)
    torch.testing.assert_close(gaussian_kl_between(mu, var, torch.zeros(4), torch.ones(4)), gaussian_kl(mu, var))
