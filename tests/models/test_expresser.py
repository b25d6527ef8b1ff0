"""Expresser: the equations against plain code, the leaks, many masks against one, and every preset and switch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn.functional import softplus

from scmap_cli.data.masks import draw_masks, observe
from scmap_cli.data.tokens import make_batch, thinned
from scmap_cli.errors import UsageError
from scmap_cli.models import expresser
from scmap_cli.models.expresser import PRESETS, Expresser, ExpresserConfig
from scmap_cli.nn import attention
from scmap_cli.nn.attention import sizes_of
from scmap_cli.nn.noise import Noise
from scmap_cli.training.asked import asked_batch

G = 40


def cells(n=6, seed=0, rate=0.7):
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(rate * rng.lognormal(0, 0.8, (n, G))).astype(np.float64))


def model(seed=0, **options):
    config = ExpresserConfig(**({"preset": "tiny", "width": 8, "layers": 1, "heads": 2, "draws": 3} | options))
    return Expresser.create(config, G, 15.0, 4.0, seed).double()


def batch_of(matrix, noise_seed=1, asked=None, start=0):
    noise = Noise(noise_seed, 64, start, torch.device("cpu"))
    made = make_batch(matrix.indices, matrix.data, np.diff(matrix.indptr), torch.float64, asked)
    return replace(made, noise=noise)


def masks_of(net, batch):
    return draw_masks(batch, batch.noise, net.config.draws, net.config.mask_low, net.config.mask_high)


def scales(net, largest, total):
    """What the head is told of a cell: its largest value, and that of a single count."""
    return torch.tensor([[largest, np.log1p(1e4 / total)]], dtype=torch.float64)[:, : 1 + net.config.tell_scale]


def by_hand(net, genes, counts, masked, leaky=False, rest=(0.0, 0.0)):
    """Values that the formulas give for one cell, the encoder taken as it is."""
    config = net.config
    told = np.ones_like(masked) if leaky else ~masked
    total = rest[0] + counts[told].sum()
    value = np.log1p(counts * 1e4 / total)
    largest = np.log1p(max(rest[1], counts[told].max()) * 1e4 / total)
    seen = value[~masked]
    if config.binning == "width":
        bins = np.clip(np.ceil(seen / largest * config.bins), 1, config.bins).astype(int) - 1
    else:
        rank = (seen[None] <= seen[:, None]).sum(1)
        bins = np.clip(np.ceil(rank / len(seen) * config.bins), 1, config.bins).astype(int) - 1
    alone = make_batch(genes, counts, np.array([len(genes)]), torch.float64)
    h = net.encode(alone)
    at, on = torch.from_numpy(masked), torch.from_numpy(~masked)
    heads, e = config.heads, config.width // config.heads
    q = net.query(h[at]).view(-1, heads, e)
    k = net.key(h[on]).view(-1, heads, e)
    v = net.value(net.bin_kd[torch.from_numpy(bins)]).view(-1, heads, e)
    score = torch.einsum("qhe,khe->hqk", q, k) / np.sqrt(e)
    mixed = torch.einsum("hqk,khe->qhe", score.softmax(-1), v).flatten(1)
    p = net.out(mixed) + (h[at] if config.residual else 0)
    told_head = torch.cat([p, scales(net, largest, total).expand(len(p), -1)], 1)
    return softplus(net.head(told_head)[:, 0]), value[masked]


def test_tokens_begin_as_an_embedding_where_there_is_one():
    net, before = model(), model().gene_gd.detach().numpy()
    embedding = np.random.default_rng(0).normal(size=(G, 5)) * 30
    embedding[3:6] = 0
    net.start_genes(embedding)
    table, known = net.gene_gd.detach().numpy().copy(), np.delete(np.arange(G), [3, 4, 5])
    np.testing.assert_array_equal(table[3:6], before[3:6])
    np.testing.assert_array_equal(table[:, 5:], before[:, 5:])
    ratio = table[known, :5] / embedding[known]
    np.testing.assert_allclose(ratio, ratio[0, 0])
    np.testing.assert_allclose(np.square(table[known, :5]).mean(), 0.01)
    net.start_genes(np.zeros((G, 0)))
    np.testing.assert_array_equal(net.gene_gd.detach().numpy(), table)


@pytest.mark.parametrize(
    "options", [{}, {"residual": False}, {"tell_scale": False}, {"binning": "quantile"}, {"leaky": True}], ids=str
)
def test_the_loss_is_that_of_the_equations(options):
    net, matrix = model(**options), cells()
    batch = batch_of(matrix)
    masks = masks_of(net, batch).numpy()
    squares, absolute = 0.0, 0.0
    for mask in masks:
        for i in range(matrix.shape[0]):
            own = slice(matrix.indptr[i], matrix.indptr[i + 1])
            predicted, truth = by_hand(
                net, matrix.indices[own], matrix.data[own], mask[own], leaky=options.get("leaky", False)
            )
            error = predicted.detach().numpy() - truth
            squares, absolute = squares + (error**2).sum(), absolute + np.abs(error).sum()
    found = net.loss(batch)
    constant = len(masks) * matrix.shape[0] * net.structure["masked_genes"]
    assert found.total.item() == pytest.approx(squares / constant, rel=1e-9)
    assert found.parts["mae"].item() == pytest.approx(absolute / constant, rel=1e-9)


def test_genes_outside_the_subset_count_for_scale_and_total():
    net, matrix = model(draws=1), cells(n=1, rate=2.0)
    batch = batch_of(matrix)
    few = thinned(batch, 8, batch.noise)
    mask = masks_of(net, few)
    draw = observe(few, mask)
    found = net._predict(few, net.encode(few), draw)
    rest = float(few.rest_total_n[0]), float(few.rest_max_n[0])
    assert rest[0] > 0
    expected, truth = by_hand(net, few.gene_t.numpy(), few.count_t.numpy(), mask[0].numpy(), rest=rest)
    torch.testing.assert_close(found, expected)
    np.testing.assert_allclose(draw.value_st[0][mask[0]].numpy(), truth)


def test_a_masked_count_does_not_leak():
    """Whatever the masked genes hold, the model is told the same; the text's way tells it."""
    matrix = cells(n=1)
    asked = np.zeros(matrix.nnz, dtype=bool)
    asked[[1, 4]] = True
    louder = matrix.copy()
    louder.data[asked] *= 500

    def told(net, counts):
        batch = batch_of(counts)
        draw = observe(batch, torch.from_numpy(asked)[None], net.config.leaky)
        return net._predict(batch, net.encode(batch), draw)

    closed, leaky = model(), model(leaky=True)
    torch.testing.assert_close(told(closed, matrix), told(closed, louder), rtol=0, atol=0)
    assert (told(leaky, matrix) - told(leaky, louder)).abs().max() > 1e-4


def test_the_encoder_sees_no_values():
    net, matrix = model(), cells()
    other = matrix.copy()
    other.data[:] = 1
    assert torch.equal(net.encode(batch_of(matrix)), net.encode(batch_of(other)))


@pytest.mark.slow
def test_many_masks_are_one_in_expectation():
    matrix = cells(n=4)
    one, many = model(draws=1), model(draws=4)
    one_total = [one.loss(batch_of(matrix, seed)).total.item() for seed in range(400)]
    many_total = [many.loss(batch_of(matrix, seed)).total.item() for seed in range(1000, 1100)]
    error = np.hypot(np.std(one_total) / 20, np.std(many_total) / 10)
    assert abs(np.mean(one_total) - np.mean(many_total)) < 4 * error
    assert np.std(many_total) < 0.75 * np.std(one_total)


def test_many_masks_are_the_mean_of_their_own():
    net, matrix = model(draws=3), cells()
    batch = batch_of(matrix)
    masks = masks_of(net, batch)
    encoded, total = net.encode(batch), 0.0
    for mask in masks:
        draw = observe(batch, mask[None])
        error = net._predict(batch, encoded, draw) - draw.value_st.flatten()[draw.masked_q]
        total += error.detach().square().sum().item()
    assert net.loss(batch).total.item() == pytest.approx(total / (3 * 6 * net.structure["masked_genes"]))


def test_packing_does_not_show():
    """Cells alone, together, and in another order give the same loss."""
    net, matrix = model(), cells()
    whole = net.loss(batch_of(matrix)).total.item()
    parts = [net.loss(batch_of(matrix[i : i + 2], start=i)).total.item() for i in (0, 2, 4)]
    assert np.mean(parts) == pytest.approx(whole)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("options", [{}, {"decoder": False, "layers": 2}], ids=str)
def test_kernels_of_a_gpu_are_told_the_sizes_once_a_batch(options, monkeypatch):
    """By jagged tensors the loss is the same, and no attention has to ask for the longest cell."""
    net, matrix = model(**options).float(), cells()
    batch = batch_of(matrix)
    batch = replace(batch, **{name: getattr(batch, name).float() for name in ("count_t", "rest_total_n", "rest_max_n")})
    expected = net.loss(batch).total
    told, original = [], torch.nested.nested_tensor_from_jagged

    def nested(values, offsets, **sizes):
        assert sizes == dict(zip(("min_seqlen", "max_seqlen"), sizes_of(offsets)[0], strict=True))
        told.append(sizes["max_seqlen"])
        return original(values, offsets, **sizes)

    monkeypatch.setattr(torch.nested, "nested_tensor_from_jagged", nested)
    monkeypatch.setattr(attention, "packed_attention", attention._jagged)
    monkeypatch.setattr(expresser, "packed_attention", attention._jagged)
    torch.testing.assert_close(net.loss(replace(batch, sizes=sizes_of(batch.edges)[0])).total, expected)
    assert len(told) == (9 if options else 6)


def test_masks_hold_their_share_and_leave_both_kinds():
    net = model(draws=8, mask_low=0.2, mask_high=0.6)
    matrix = cells(n=200, rate=1.5)
    batch = batch_of(matrix)
    masks = masks_of(net, replace(batch, noise=Noise(0, 200, 0, torch.device("cpu")))).double()
    assert abs(masks.mean().item() - 0.4) < 0.02
    per_cell = torch.zeros(8, 200, dtype=torch.float64).index_add_(1, batch.cell_t, masks)
    lengths = batch.edges.diff()
    assert (per_cell[:, lengths >= 2] >= 1).all()
    assert (per_cell[:, lengths >= 2] < lengths[lengths >= 2]).all()


def test_cells_of_one_gene_and_of_none_are_harmless():
    matrix = sparse.csr_matrix(np.eye(3, G)[[0, 1]] * 4)
    net = model()
    output = net.loss(batch_of(matrix))
    assert output.total.item() == 0
    empty = sparse.csr_matrix((2, G))
    assert (net.embed(batch_of(empty)).mean_nz == 0).all()
    everything = np.ones(cells(n=1).nnz, dtype=bool)
    assert torch.isfinite(net.impute(batch_of(cells(n=1), asked=everything))).all()


def test_asked_genes_are_predicted_in_their_order():
    net, matrix = model(), cells()
    asked = sparse.random(6, G, 0.2, format="csr", random_state=3)
    left = sparse.csr_matrix(matrix.multiply(asked.toarray() == 0))
    left.eliminate_zeros()
    found = net.impute(asked_batch(left, asked, torch.float64)).numpy()
    assert len(found) == asked.nnz
    for i in (0, 5):
        alone = net.impute(asked_batch(left[i], asked[i], torch.float64)).numpy()
        np.testing.assert_allclose(found[asked.indptr[i] : asked.indptr[i + 1]], alone)


def dense_beside(net, genes, counts, candidate):
    """One candidate beside the genes of a cell, by a mask of who looks at whom."""
    known = len(genes)
    looks = torch.ones(known + 1, known + 1, dtype=torch.bool)
    looks[:known, known] = False
    x = net.gene_gd[torch.tensor([*genes, candidate])]
    value = np.log1p(counts * 1e4 / counts.sum())
    bins = np.clip(np.ceil(value / value.max() * net.config.bins), 1, net.config.bins).astype(int) - 1

    def layer(block, x):
        q, k, v = block.qkv(block.norm(x)).view(known + 1, 3, block.heads, -1).unbind(1)
        score = torch.einsum("qhe,khe->hqk", q, k) / np.sqrt(q.shape[-1])
        mixed = torch.einsum("hqk,khe->qhe", score.masked_fill(~looks, -torch.inf).softmax(-1), v)
        x = x + block.out(mixed.flatten(1))
        return x + block.feed(x)

    for block in net.encoder:
        x = layer(block, x)
    x = net.norm(x)
    if net.config.decoder:
        shape = (-1, net.config.heads, net.config.width // net.config.heads)
        q, k = net.query(x[known:]).view(shape), net.key(x[:known]).view(shape)
        v = net.value(net.bin_kd[torch.from_numpy(bins)]).view(shape)
        weight = (torch.einsum("qhe,khe->hqk", q, k) / np.sqrt(q.shape[-1])).softmax(-1)
        found = net.out(torch.einsum("hqk,khe->qhe", weight, v).flatten(1)) + x[known:]
    else:
        found = layer(net.last, x + torch.cat([net.bin_kd[torch.from_numpy(bins)], net.mask_d[None]]))[known:]
    told = torch.cat([found, scales(net, value.max(), counts.sum())], 1)
    return softplus(net.head(told)[:, 0]).item()


@pytest.mark.parametrize("options", [{}, {"decoder": False}, {"layers": 2}], ids=str)
def test_a_candidate_depends_on_its_cell_alone(options):
    """Not on the other candidates, nor on the other cells; and it is what the formulas give."""
    net, matrix = model(**options), cells()
    batch = make_batch(matrix.indices, matrix.data, np.diff(matrix.indptr), torch.float64)
    candidates = torch.tensor([3, 17, 0, 22])
    found = net.impute_each(batch, candidates)
    assert found.shape == (6, 4)
    torch.testing.assert_close(net.impute_each(batch, candidates[[2, 0]]), found[:, [2, 0]])
    for i in (0, 4):
        own = matrix[i]
        alone = make_batch(own.indices, own.data, np.diff(own.indptr), torch.float64)
        torch.testing.assert_close(net.impute_each(alone, candidates)[0], found[i])
        by_hand = [dense_beside(net, own.indices, own.data, int(gene)) for gene in candidates]
        np.testing.assert_allclose(found[i].numpy(), by_hand)


def test_the_head_keeps_its_digits_under_bf16():
    net, matrix = model().float(), cells()
    batch = batch_of(matrix.astype(np.float32))
    batch = replace(
        batch,
        count_t=batch.count_t.float(),
        rest_total_n=batch.rest_total_n.float(),
        rest_max_n=batch.rest_max_n.float(),
    )
    draw = observe(batch, masks_of(net, batch))
    with torch.autocast("cpu", torch.bfloat16):
        found = net._predict(batch, net.encode(batch), draw)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16().float()).float().mean() > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"leaky": True},
        {"decoder": False},
        {"residual": False},
        {"tell_scale": False},
        {"binning": "quantile"},
        {"bins": 10},
        {"layers": 2},
    ],
    ids=str,
)
def test_every_switch_changes_the_result(options):
    matrix = cells()
    assert model(**options).loss(batch_of(matrix)).total != model().loss(batch_of(matrix)).total


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_a_real_step_on_the_cpu(preset):
    net = Expresser.create(ExpresserConfig(preset=preset, draws=1), 300, 40.0, 3.0, 0)
    assert (net.config.width, len(net.encoder)) == (PRESETS[preset]["width"], PRESETS[preset]["layers"])
    rng = np.random.default_rng(0)
    matrix = sparse.csr_matrix(rng.poisson(0.15, (4, 300)).astype(np.float32))
    batch = make_batch(matrix.indices, matrix.data, np.diff(matrix.indptr))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
    losses = []
    for _ in range(3):
        output = net(batch)
        optimizer.zero_grad()
        output.total.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimizer.step()
        losses.append(output.total.item())
    assert losses[-1] < losses[0]


def test_the_thesis_preset_has_the_thesis_sizes():
    net = Expresser(ExpresserConfig(preset="thesis"), n_genes=18483, masked_genes=1.0)
    assert net.gene_gd.shape == (18483, 200)
    assert net.bin_kd.shape == (50, 200)
    assert (len(net.encoder), net.encoder[0].heads) == (12, 4)


@pytest.mark.parametrize("decoder", [True, False])
def test_flops_are_those_of_the_products(decoder):
    """The stated formula against torch's own count of one forward pass, of which training takes three."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    net = model(layers=2, draws=4, decoder=decoder, mask_low=0.2, mask_high=0.6, bins=1)
    matrix = sparse.csr_matrix(np.ones((40, G)))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        net.loss(batch_of(matrix))
    assert net.flops(np.full(40, G)) == pytest.approx(3 * counter.get_total_flops(), rel=0.02)


@pytest.mark.filterwarnings("ignore")
def test_compiled_parts_are_compiled_and_keep_their_names():
    """Torch takes the layers for one graph; the backend is the one that needs no C++ compiler."""
    from torch._dynamo.utils import counters

    net, matrix = model(layers=2), cells()
    before, expected = set(net.state_dict()), net.loss(batch_of(matrix)).total.item()
    counters.clear()
    net.compile_parts("eager")
    assert net.loss(batch_of(matrix)).total.item() == pytest.approx(expected)
    assert counters["frames"]["ok"] >= 1
    assert set(net.state_dict()) == before


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "huge"},
        {"width": 10, "heads": 4},
        {"mask_low": 0.0},
        {"mask_low": 0.6, "mask_high": 0.5},
        {"binning": "log"},
        {"bins": 0},
        {"draws": 0},
        {"max_genes": 1},
        {"layers": -1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(UsageError):
        ExpresserConfig(**options)
