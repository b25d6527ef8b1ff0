"""The blocked likelihood equals dense formulas in float64: values and all gradients."""

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.data.batches import Batch, CsrStore
from scmap_cli.nn import bernoulli
from scmap_cli.nn.bernoulli import open_peaks_loss


def open_peaks(n: int, g: int, share: float) -> sparse.csr_matrix:
    x = (np.random.default_rng(0).random((n, g)) < share).astype(np.int16)
    x[0] = 0
    return sparse.csr_matrix(x * 3)


def batch(counts: sparse.csr_matrix, dtype: torch.dtype) -> Batch:
    rows = torch.arange(counts.shape[0])
    return CsrStore(counts, np.zeros(counts.shape[0]), dtype).batch(rows)


@pytest.mark.parametrize("omega", [1.0, 7.5])
@pytest.mark.parametrize("block", [1 << 23, 40])
def test_loss_equals_dense_cross_entropy(omega: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bernoulli, "_BLOCK", block)
    counts = open_peaks(9, 31, 0.2)
    found = []
    for dense in (True, False):
        gen = torch.Generator().manual_seed(1)
        h, w, b = (
            torch.randn(*shape, generator=gen, dtype=torch.float64).requires_grad_()
            for shape in ((9, 4), (31, 4), (31,))
        )
        if dense:
            target = torch.from_numpy((counts.toarray() > 0).astype(float))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                h @ w.T + b, target, pos_weight=torch.tensor(omega), reduction="sum"
            )
            loss = loss / 9
        else:
            loss = open_peaks_loss(h, w, b, batch(counts, torch.float64).flat_m, omega)
        (2.5 * loss).backward()
        found.append([loss.detach(), h.grad, w.grad, b.grad])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_a_sample_of_the_peaks_is_right_on_average() -> None:
    counts, gen = open_peaks(9, 12, 0.2), torch.Generator().manual_seed(1)
    flat_m = batch(counts, torch.float64).flat_m
    h, w, b = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((9, 4), (12, 4), (12,)))
    found = []
    for samples in ([None], [torch.tensor([i, j, k]) for i in range(12) for j in range(i) for k in range(j)]):
        leaves = [t.clone().requires_grad_() for t in (h, w, b)]
        loss = torch.stack([open_peaks_loss(*leaves, flat_m, 3.0, some) for some in samples]).mean()
        loss.backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_a_sparse_gradient_is_the_dense_one() -> None:
    counts, gen = open_peaks(9, 31, 0.2), torch.Generator().manual_seed(1)
    flat_m, some = batch(counts, torch.float64).flat_m, torch.tensor([2, 3, 11, 30])
    h, w, b = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((9, 4), (31, 4), (31,)))
    found = []
    for sparse_one in (False, True):
        leaves = [t.clone().requires_grad_() for t in (h, w, b)]
        (2.5 * open_peaks_loss(*leaves, flat_m, 3.0, some, None, sparse_one)).backward()
        assert leaves[1].grad.is_sparse is sparse_one
        found.append([leaf.grad.to_dense() for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    # All peaks are looked at: nothing to leave out.
    open_peaks_loss(*leaves, flat_m, 3.0, None, None, True).backward()


@pytest.mark.parametrize(("precision", "cached"), [("fp32", 1 << 19), ("fp32", 2000), ("bf16", 1 << 19)])
@pytest.mark.parametrize("sampled", [False, True])
def test_single_precision_stays_close(
    precision: str, cached: int, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bernoulli, "_CACHED", cached)
    counts, gen = open_peaks(50, 700, 0.05), torch.Generator().manual_seed(2)
    h, w, b = (torch.randn(*shape, generator=gen) for shape in ((50, 20), (700, 20), (700,)))
    flat_m, some = batch(counts, torch.float32).flat_m, torch.arange(0, 700, 3) if sampled else None
    found = []
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype).requires_grad_() for t in (h, w, b)]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16" and dtype == torch.float32):
            loss = open_peaks_loss(*leaves, flat_m, 3.0, some)
        loss.backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for exact, got in zip(*found, strict=True):
        near = 1e-6 if precision == "fp32" else 1e-2
        torch.testing.assert_close(got.double(), exact, rtol=near, atol=near * float(exact.abs().max()))


@pytest.mark.parametrize("sampled", [False, True])
def test_without_gradients_the_loss_is_the_same_and_makes_none(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, gen = open_peaks(20, 60, 0.1), torch.Generator().manual_seed(3)
    leaves = [torch.randn(*shape, generator=gen).requires_grad_() for shape in ((20, 5), (60, 5), (60,))]
    flat_m, some = batch(counts, torch.float32).flat_m, torch.arange(0, 60, 2) if sampled else None
    expected = open_peaks_loss(*leaves, flat_m, 3.0, some).detach()
    wanted = []
    forward = bernoulli._OpenPeaks.forward

    def seen(ctx, *args):  # type: ignore[no-untyped-def]
        wanted.append(ctx.needs_input_grad[:3])
        return forward(ctx, *args)

    monkeypatch.setattr(bernoulli._OpenPeaks, "forward", staticmethod(seen))
    with torch.no_grad():
        torch.testing.assert_close(open_peaks_loss(*leaves, flat_m, 3.0, some), expected, rtol=0, atol=0)
    assert wanted == [(False, False, False)]
