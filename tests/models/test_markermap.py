"""MarkerMap's loss: few genes of many are all still learnt from, bf16 trains, and validation is inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.config import TrainConfig
from scmap_cli.data.batches import CsrStore
from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.models.markermap import MODES, MarkerMap, MarkerMapConfig
from scmap_cli.nn.noise import Noise
from scmap_cli.training.loop import Trainer

CELLS = 96


def made(genes: int = 60, **options: object) -> tuple[MarkerMap, CsrStore]:
    rng = np.random.default_rng(0)
    kind = np.arange(CELLS) % 3
    rate = np.exp(rng.normal(size=(3, genes)))[kind]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    config = MarkerMapConfig(**({"k": 5, "width": 16, "latent": 4, "anneal_epochs": 4.0} | options))  # type: ignore[arg-type]
    scaling = fit_scaling(log1p_cp10k(counts))
    classes = 0 if config.mode == "unsupervised" else 3
    return MarkerMap.create(config, scaling, classes, 0), CsrStore(counts, kind)


def noise(seed: int) -> Noise:
    return Noise(seed, CELLS, 0, torch.device("cpu"))


@pytest.mark.parametrize(("k", "genes"), [(1, 20_000), (5, 60), (60, 60)])
def test_every_gene_may_still_be_chosen_at_the_start(k, genes):
    model, store = made(genes, k=k, logits="free", temperature=50.0)
    model.loss(store.batch(torch.arange(CELLS), noise(0), 0.0)).total.backward()
    learnt = (model.first_gh.grad != 0).any(1).float().mean().item()
    assert learnt == 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("logits", ["network", "free"])
def test_bf16_trains_to_a_hard_mask(mode, logits):
    model, store = made(mode=mode, logits=logits)
    settings = TrainConfig(epochs=8, batch_size=24, lr=5e-3, adam_eps=1e-8, precision="bf16", checkpoint_minutes=60.0)
    rows = np.arange(CELLS)
    history = Trainer(model, store, rows[:80], rows[80:], settings, seed=0).fit().history
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_validation_draws_nothing(mode):
    model, store = made(mode=mode)
    rows = torch.arange(CELLS)
    plain = model.loss(store.batch(rows))
    for seed in range(2):
        found = model.loss(store.batch(rows, noise(seed)))
        assert {name: part.item() for name, part in found.parts.items()} == {
            name: part.item() for name, part in plain.parts.items()
        }


def test_validation_sees_what_is_imputed():
    model, store = made(mode="unsupervised")
    batch = store.batch(torch.arange(CELLS), noise(0))
    scaled = (model.impute(batch, torch.arange(60)) - model.mean_g) / model.deviation_g
    expected = 0.5 * (scaled - model._values(batch)).square().mean()
    assert model.loss(batch).parts["recon"].item() == pytest.approx(expected.item(), rel=1e-5)
