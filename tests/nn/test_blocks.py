"""The sparse decoder product equals the dense masked one; the encoder's condition table equals a one-hot layer."""

import pytest
import torch
from scipy import sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.nn.blocks import ConditionalEncoder
from scmap_cli.nn.noise import Noise, mixed_seed
from scmap_cli.nn.programs import SparsePattern


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("n", [1, 6])
def test_sparse_product_equals_dense(share: float, n: int) -> None:
    gen = torch.Generator().manual_seed(4)
    mask_gk = torch.rand(13, 5, generator=gen) < share
    gene_e, program_e = mask_gk.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(gene_e), generator=gen)
    pattern = SparsePattern(13, 5, len(gene_e))
    pattern.set(gene_e[shuffled], program_e[shuffled])
    w_e = torch.randn(len(gene_e), generator=gen, dtype=torch.float64, requires_grad=True)
    z_nk = torch.randn(n, 5, generator=gen, dtype=torch.float64, requires_grad=True)
    shift_bg = torch.randn(2, 13, generator=gen, dtype=torch.float64, requires_grad=True)
    condition_n = torch.arange(n) % 2
    target_ng = torch.randn(n, 13, generator=gen, dtype=torch.float64)
    found_ng = pattern.product(z_nk, w_e, shift_bg, condition_n)
    found = torch.autograd.grad((found_ng * target_ng).sum(), (z_nk, w_e, shift_bg))
    dense_ng = z_nk @ pattern.dense(w_e).T + torch.nn.functional.one_hot(condition_n, 2).double() @ shift_bg
    expected = torch.autograd.grad((dense_ng * target_ng).sum(), (z_nk, w_e, shift_bg))
    torch.testing.assert_close(found_ng, dense_ng)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert not (pattern.dense(w_e) * ~mask_gk).any()


def test_the_condition_table_is_a_layer_on_the_one_hot() -> None:
    encoder = ConditionalEncoder(8, 3, (6, 4), dropout=0.1).double()
    assert not encoder.condition_bh.any()
    torch.nn.init.normal_(encoder.condition_bh)
    x_ng, condition_n = torch.rand(5, 8, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    store = CsrStore(sparse.csr_matrix(x_ng.numpy()), condition_n.numpy(), torch.float64)
    batch = store.batch(torch.arange(5))
    (second,) = encoder.layers
    one_hot = torch.nn.functional.one_hot(condition_n, 3).double()
    h = x_ng @ encoder.first_gh + encoder.first_bias_h + one_hot @ encoder.condition_bh
    h = torch.relu((h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt())
    h = second(h)
    h = torch.relu((h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(encoder(batch, batch.value_m), h)


def test_ranks_draw_the_rows_of_the_global_batch() -> None:
    device = torch.device("cpu")
    whole = Noise(7, 8, 0, device)
    halves = [Noise(7, 8, 0, device), Noise(7, 8, 4, device)]
    like = torch.ones(4, 3)
    torch.testing.assert_close(whole.normal(torch.ones(8, 3)), torch.cat([h.normal(like) for h in halves]))
    torch.testing.assert_close(whole.dropout(torch.ones(8, 3), 0.5), torch.cat([h.dropout(like, 0.5) for h in halves]))


def test_dropout_keeps_the_mean() -> None:
    dropped = Noise(1, 200, 0, torch.device("cpu")).dropout(torch.ones(200, 500), 0.25)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_seeds_differ_by_every_counter() -> None:
    seeds = {
        mixed_seed(s, stream, e, i)
        for s in range(3)
        for stream in ("train", "valid")
        for e in range(5)
        for i in range(5)
    }
    assert len(seeds) == 3 * 2 * 5 * 5
    assert all(0 <= s < 2**63 for s in seeds)
