"""Expresser: the equations against plain code, the leaks, many masks against one, and every preset and switch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn.functional import softplus

from scmap_cli.data.tokens import make_batch, thinned
from scmap_cli.errors import UsageError
from scmap_cli.models.expresser import PRESETS, Expresser, ExpresserConfig
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
    told_head = torch.cat([p, torch.full((len(p), 1), float(largest), dtype=torch.float64)], 1)
    return softplus(net.head(told_head)[:, 0]), value[masked]


@pytest.mark.parametrize("options", [{}, {"residual": False}, {"binning": "quantile"}, {"leaky": True}], ids=str)
def test_the_loss_is_that_of_the_equations(options):
    net, matrix = model(**options), cells()
    batch = batch_of(matrix)
    masks = net._masks(batch, batch.noise).numpy()
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
    mask = net._masks(few, few.noise)
    draw = net._draw(few, mask)
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
        draw = net._draw(batch, torch.from_numpy(asked)[None])
        return net._predict(batch, net.encode(batch), draw)

    closed, leaky = model(), model(leaky=True)
    torch.testing.assert_close(told(closed, matrix), told(closed, louder), rtol=0, atol=0)
    assert (told(leaky, matrix) - told(leaky, louder)).abs().max() > 1e-4


def test_the_encoder_sees_no_values():
    net, matrix = model(), cells()
    other = matrix.copy()
    other.data[:] = 1
    assert torch.equal(net.encode(batch_of(matrix)), net.encode(batch_of(other)))


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
    masks = net._masks(batch, batch.noise)
    encoded, total = net.encode(batch), 0.0
    for mask in masks:
        draw = net._draw(batch, mask[None])
        error = net._predict(batch, encoded, draw) - draw.value_st.flatten()[draw.masked_q]
        total += error.detach().square().sum().item()
    assert net.loss(batch).total.item() == pytest.approx(total / (3 * 6 * net.structure["masked_genes"]))


def test_packing_does_not_show():
    """Cells alone, together, and in another order give the same loss."""
    net, matrix = model(), cells()
    whole = net.loss(batch_of(matrix)).total.item()
    parts = [net.loss(batch_of(matrix[i : i + 2], start=i)).total.item() for i in (0, 2, 4)]
    assert np.mean(parts) == pytest.approx(whole)


def test_masks_hold_their_share_and_leave_both_kinds():
    net = model(draws=8, mask_low=0.2, mask_high=0.6)
    matrix = cells(n=200, rate=1.5)
    batch = batch_of(matrix)
    masks = net._masks(batch, Noise(0, 200, 0, torch.device("cpu"))).double()
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


def test_asked_genes_are_predicted_and_their_counts_not_read():
    net, matrix = model(), cells()
    asked = sparse.random(6, G, 0.2, format="csr", random_state=3)
    asked.sort_indices()
    louder = matrix.copy()
    hit = asked.astype(bool).toarray()[np.repeat(np.arange(6), np.diff(matrix.indptr)), matrix.indices]
    louder.data[hit] += 1000
    assert hit.any()
    found = net.impute(asked_batch(matrix, asked, torch.float64))
    assert len(found) == asked.nnz
    torch.testing.assert_close(found, net.impute(asked_batch(louder, asked, torch.float64)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [{"leaky": True}, {"decoder": False}, {"residual": False}, {"binning": "quantile"}, {"bins": 10}, {"layers": 2}],
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


def test_flops_are_those_of_the_layers():
    """The stated formula against a count of the products of one encoder pass."""
    net = model(layers=2, width=8)
    p, d = 12, 8
    forward = 2 * (2 * p * (4 * d * d + 8 * d * d) + 4 * p * p * d) + 2 * p * 4 * d * d
    assert net.flops(np.array([p])) == pytest.approx(3 * forward)


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
