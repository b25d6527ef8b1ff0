"""The compiled kernels equal the plain formulas in float64, whatever the sizes and the number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from scmap_cli.nn import kernels
from scmap_cli.nn.distributions import negative_binomial_nll
from scmap_cli.nn.programs import SparsePattern


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def counts(n: int, g: int, b: int) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(5)
    x_ng = torch.poisson(8 * torch.rand(n, g, generator=gen) ** 6, generator=gen)
    x_ng[0] = 0
    x_ng[1, :4] = torch.tensor([16.0, 17.0, 300.0, 30_000.0])
    flat_m = x_ng.reshape(-1).nonzero()[:, 0]
    return {
        "logits_ng": 3 * torch.randn(n, g, generator=gen),
        "log_theta_bg": 10 - 12 * torch.rand(b, g, generator=gen),
        "size_n": x_ng.sum(1),
        "condition_n": torch.randint(b, (n,), generator=gen),
        "flat_m": flat_m,
        "value_m": x_ng.reshape(-1)[flat_m],
        "constant_n": torch.zeros(n),
    }


def value_and_gradients(case: dict[str, torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    case = {name: t.detach().to(dtype) if t.is_floating_point() else t for name, t in case.items()}
    for name in ("logits_ng", "log_theta_bg"):
        case[name] = case[name].clone().requires_grad_()
    nll_n = negative_binomial_nll(**case)
    (nll_n * torch.linspace(0.5, 2, len(nll_n), dtype=dtype)).sum().backward()
    return [t.double() for t in (nll_n.detach(), case["logits_ng"].grad, case["log_theta_bg"].grad)]


@pytest.mark.parametrize(("n", "g", "b"), [(3, 11, 1), (70, 130, 3), (600, 37, 2)])
def test_negative_binomial(threads: int, n: int, g: int, b: int) -> None:
    case = counts(n, g, b)
    nll_n, by_logit_ng, by_theta_bg = value_and_gradients(case, torch.float32)
    exact_n, exact_by_logit_ng, exact_by_theta_bg = value_and_gradients(case, torch.float64)
    torch.testing.assert_close(nll_n, exact_n, rtol=3e-6, atol=1e-3)
    torch.testing.assert_close(by_logit_ng, exact_by_logit_ng, rtol=2e-5, atol=2e-4)
    # At the largest dispersions the derivative is a small difference of large numbers.
    torch.testing.assert_close(by_theta_bg, exact_by_theta_bg, rtol=2e-5, atol=3e-3 * n / b)


def test_a_bad_logit_or_dispersion_shows_in_its_cell_alone() -> None:
    for name, bad in (("logits_ng", float("nan")), ("logits_ng", float("inf")), ("log_theta_bg", float("nan"))):
        case = counts(6, 9, 6)
        case["condition_n"] = torch.arange(6)
        case[name][2, 3] = bad
        finite_n = torch.isfinite(negative_binomial_nll(**case))
        assert finite_n.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize(("n", "g", "k"), [(1, 1, 1), (63, 17, 5), (64, 16, 40), (600, 33, 7)])
def test_sparse_product(threads: int, n: int, g: int, k: int) -> None:
    gen = torch.Generator().manual_seed(n)
    filled_gk = torch.rand(g, k, generator=gen) < 0.3
    filled_gk[g // 2] = False
    gene_e, program_e = filled_gk.nonzero(as_tuple=True)
    pattern = SparsePattern(g, k, len(gene_e))
    pattern.set(gene_e, program_e)
    found = []
    for dtype in (torch.float32, torch.float64):
        # a slice of a wider matrix: rows that do not follow one another in memory
        z_nk = torch.randn(n, 2 * k, generator=gen.manual_seed(1))[:, :k].to(dtype).detach().requires_grad_()
        w_e = torch.randn(len(gene_e), generator=gen.manual_seed(2)).to(dtype).requires_grad_()
        shift_bg = torch.randn(3, g, generator=gen.manual_seed(4)).to(dtype).requires_grad_()
        condition_n = torch.arange(n) * 7 % 3
        product_ng = pattern.product(z_nk, w_e, shift_bg, condition_n)
        product_ng.backward(torch.randn(g, n, generator=gen.manual_seed(3)).T.to(dtype))
        found.append([t.double() for t in (product_ng.detach(), z_nk.grad, w_e.grad, shift_bg.grad)])
        dense_ng = z_nk @ pattern.dense(w_e).T + shift_bg[condition_n]
        assert torch.equal(product_ng, dense_ng) or dtype is torch.float32
    for single, exact in zip(*found, strict=True):
        torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-4)


def test_exponential_and_logarithm() -> None:
    x = np.linspace(-87, 88, 20_001, dtype=np.float32)
    found = np.array([kernels.exp32(v) for v in x], dtype=np.float64)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=4e-7)
    t = np.concatenate([[0.0], np.logspace(-30, 30, 20_001)]).astype(np.float32)
    found = np.array([kernels.log1p32(v) for v in t], dtype=np.float64)
    np.testing.assert_allclose(found, np.log1p(t.astype(np.float64)), rtol=2e-7)


def test_shares_cover_the_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert kernels.in_shares(255, lambda a, b: (a, b)) == [(0, 255)]
    assert kernels.in_shares(1000, lambda a, b: (a, b)) == [(0, 333), (333, 666), (666, 1000)]
