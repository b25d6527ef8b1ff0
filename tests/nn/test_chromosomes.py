"""The network by chromosome equals a list of small dense nets, and one dense net with zeros between its blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from scmap_cli.data.batches import Batch, CsrStore
from scmap_cli.models.sailerx import SailerX, SailerXConfig
from scmap_cli.nn import bernoulli
from scmap_cli.nn.bernoulli import open_peaks_loss, sum_of_open
from scmap_cli.nn.chromosomes import ChromosomeLinear, edges_of

SIZES = (7, 1, 12, 5)
EDGES = edges_of(SIZES)
N, P, C = 9, sum(SIZES), len(SIZES)


def made(share: float = 0.3, dtype: torch.dtype = torch.float64) -> tuple[Batch, torch.Tensor]:
    """A batch with an empty cell and an empty chromosome, and its dense 0/1 matrix."""
    x = (np.random.default_rng(3).random((N, P)) < share).astype(np.int16)
    x[0], x[1, 8:20] = 0, 0
    batch = CsrStore(sparse.csr_matrix(x * 2), np.zeros(N), dtype).batch(torch.arange(N))
    return batch, torch.from_numpy(x).to(dtype)


def model(**options: object) -> SailerX:
    config = SailerXConfig(**({"hidden": (6, 4), "latent": 3, "positive_weight": "2.5"} | options))  # type: ignore[arg-type]
    sizes = {"chromosome_peaks": SIZES, "n_conditions": 1, "n_covariates": 0, "n_reference": 0, "gamma": 1.0}
    return SailerX.create(config, np.full(P, 0.3), seed=0, **sizes).double()


class Published(nn.Module):
    """The published form of the same network: one dense net a chromosome in a list, dense input and output."""

    def __init__(self, made: SailerX) -> None:
        super().__init__()
        first, second = made.config.hidden
        self.made = made
        self.into = nn.ModuleList(nn.Linear(size, first, bias=False) for size in SIZES)
        self.down = nn.ModuleList(nn.Linear(first, second) for _ in SIZES)
        self.up = nn.ModuleList(nn.Linear(second, first) for _ in SIZES)
        self.out = nn.ModuleList(nn.Linear(first, size) for size in SIZES)
        self.double()
        with torch.no_grad():
            for c, (a, b) in enumerate(pairwise(EDGES)):
                self.into[c].weight.copy_(made.first_ph[a:b].T)
                self.out[c].weight.copy_(made.last_ph[a:b])
                self.out[c].bias.copy_(made.last_p[a:b])
                for layer, ours in ((self.down[c], made.encoder[0]), (self.up[c], made.decoder[0])):
                    layer.weight.copy_(ours.weight_cio[c].T)
                    layer.bias.copy_(ours.bias_co[c])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made, parts = self.made, x.split(SIZES, dim=1)
        h = made.first_norm(torch.stack([net(part) for net, part in zip(self.into, parts, strict=True)], 1))
        h = made.encoder[1](torch.stack([net(h[:, c]) for c, net in enumerate(self.down)], 1))
        mean = made.head(h.flatten(1)).chunk(2, 1)[0]
        h = made.spread_norm(made.spread(mean).view(len(x), C, -1))
        h = made.decoder[1](torch.stack([net(h[:, c]) for c, net in enumerate(self.up)], 1))
        return torch.cat([net(h[:, c]) for c, net in enumerate(self.out)], 1)


def ours(model: SailerX, batch: Batch, x: torch.Tensor) -> torch.Tensor:
    h_nch = model._hidden(model._posterior(batch).mean_nz, batch)
    return open_peaks_loss(h_nch, model.last_ph, model.last_p, batch.flat_m, 2.5, None, model.edges_c)


def test_it_equals_a_list_of_dense_nets_in_value_and_gradients() -> None:
    batch, x = made()
    network = model()
    published = Published(network)
    logits = published(x)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, x, pos_weight=torch.tensor(2.5), reduction="sum")
    (expected / N).backward()
    shared = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    found = ours(network, batch, x)
    found.backward()
    torch.testing.assert_close(found, (expected / N).detach(), rtol=1e-12, atol=0)
    joined = {
        "first_ph": torch.cat([net.weight.grad.T for net in published.into]),
        "last_ph": torch.cat([net.weight.grad for net in published.out]),
        "last_p": torch.cat([net.bias.grad for net in published.out]),
        "encoder.0.weight_cio": torch.stack([net.weight.grad.T for net in published.down]),
        "encoder.0.bias_co": torch.stack([net.bias.grad for net in published.down]),
        "decoder.0.weight_cio": torch.stack([net.weight.grad.T for net in published.up]),
        "decoder.0.bias_co": torch.stack([net.bias.grad for net in published.up]),
    }
    checked = shared | joined
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, checked[name], rtol=1e-9, atol=1e-12, msg=name)
    assert len(checked) == len(list(network.parameters()))


def test_its_layers_equal_a_dense_net_with_zeros_between_the_blocks() -> None:
    batch, x = made()
    network = model()
    layer: ChromosomeLinear = network.encoder[0]
    with torch.no_grad():
        sums = sum_of_open(batch, network.first_ph, network.group_p, C)
        into = torch.block_diag(*(network.first_ph[a:b] for a, b in pairwise(EDGES)))
        torch.testing.assert_close(sums.flatten(1), x @ into, rtol=1e-12, atol=1e-12)
        down = torch.block_diag(*layer.weight_cio)
        expected = sums.flatten(1) @ down + layer.bias_co.flatten()
        torch.testing.assert_close(layer(sums).flatten(1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [1 << 23, 20])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_single_precision_with_any_blocks_equals_double(
    share: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The smaller share takes the compiled sums, the larger one the embedding bag.
    monkeypatch.setattr(bernoulli, "_BLOCK", block)
    found = []
    for dtype in (torch.float64, torch.float32):
        batch, x = made(share, dtype)
        network = model().to(dtype)
        loss = ours(network, batch, x)
        loss.backward()
        found.append([loss.detach().double(), network.first_ph.grad.double(), network.last_ph.grad.double()])
    for exact, single in zip(*found, strict=True):
        torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-5)


def test_a_sample_of_the_peaks_is_right_on_average() -> None:
    batch, _ = made()
    gen = torch.Generator().manual_seed(1)
    h, w, b = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((N, C, 4), (P, 4), (P,)))
    pairs = [torch.tensor([i, j]) for j in range(P) for i in range(j)]
    whole = open_peaks_loss(h, w, b, batch.flat_m, 3.0, None, EDGES)
    sampled = torch.stack([open_peaks_loss(h, w, b, batch.flat_m, 3.0, some, EDGES) for some in pairs])
    torch.testing.assert_close(sampled.mean(), whole, rtol=1e-10, atol=0)


def test_imputation_equals_the_published_form() -> None:
    batch, x = made()
    network = model()
    with torch.no_grad():
        expected = (Published(network)(x) - float(np.log(2.5))).sigmoid()
    some = torch.tensor([24, 0, 7, 8, 3, 19])
    torch.testing.assert_close(network.impute(batch, some), expected[:, some], rtol=1e-12, atol=1e-14)


def test_one_chromosome_is_one_block() -> None:
    batch, _ = made()
    config = SailerXConfig(hidden=(6, 4), latent=3)
    sizes = {"chromosome_peaks": [P], "n_conditions": 1, "n_covariates": 0, "n_reference": 0, "gamma": 0.0}
    network = SailerX.create(config, np.full(P, 0.3), seed=0, **sizes).double()
    assert network.embed(batch).mean_nz.shape == (N, 3)
