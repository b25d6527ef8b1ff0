"""Architecture surgery: what is frozen keeps its bits whatever the optimiser does; what is new trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig
from scmap_cli.models.surgery import extend, trained_parameters
from scmap_cli.nn.noise import Noise

GENES, CELLS = 20, 24
RNG = np.random.default_rng(0)
MASK = sparse.csc_matrix(RNG.random((GENES, 4)) < 0.3)
MORE = sparse.csc_matrix(RNG.random((GENES, 2)) < 0.3)
COUNTS = sparse.csr_matrix(RNG.poisson(1.0, (CELLS, GENES)).astype(np.float32))


def reference(**options: object) -> ExpiMap:
    config = ExpiMapConfig(**({"hidden": (8, 6), "unconstrained": 1} | options))  # type: ignore[arg-type]
    model = ExpiMap.create(config, MASK, 2, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return model


def query_config(**options: object) -> ExpiMapConfig:
    return ExpiMapConfig(**({"hidden": (8, 6), "dropout": 0.0} | options))  # type: ignore[arg-type]


def train(model: ExpiMap, codes: np.ndarray, optimizer: torch.optim.Optimizer, steps: int = 10) -> None:
    store = CsrStore(COUNTS, codes)
    for i in range(steps):
        batch = store.batch(torch.arange(CELLS), Noise(i, CELLS, 0, torch.device("cpu")), 1e9)
        optimizer.zero_grad()
        model.loss(batch).total.backward()
        optimizer.step()
        model.after_step(0.05, 1e9)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.5),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("soft", [False, True])
def test_the_reference_keeps_its_bits(name: str, soft: bool) -> None:
    known = reference(membership="soft" if soft else "hard")
    config = query_config(unconstrained=2, membership="soft" if soft else "hard")
    model = extend(known, config, 2, seed=5, mask_gk=MORE)
    before = {k: v.clone() for k, v in known.state_dict().items()}
    # Cells of a known condition too: their rows must not move.
    codes = np.arange(CELLS) % 4
    train(model, codes, OPTIMIZERS[name]([p for p in model.parameters() if p.requires_grad]))
    after = model.state_dict()
    for key, tensor in before.items():
        kept = after[key][: len(tensor)] if key in model.tables() else after[key]
        assert torch.equal(kept, tensor), key
    cells = CsrStore(COUNTS, np.arange(CELLS) % 2).batch(torch.arange(CELLS))
    old, new = known.embed(cells), model.embed(cells)
    assert torch.equal(new.mean_nz[:, :5], old.mean_nz)
    assert torch.equal(new.var_nz[:, :5], old.var_nz)
    for key in model.tables():
        assert not torch.equal(after[key][2:], before[key].mean(0).expand(2, -1)), key
    assert not torch.equal(
        after["blocks.1.free_gu"], extend(known, config, 2, seed=5, mask_gk=MORE).programs(1).free_gu
    )


def test_a_new_condition_starts_as_the_mean_of_the_known_ones() -> None:
    known = reference()
    model = extend(known, query_config(), 3, seed=0)
    for name in model.tables():
        rows = model.state_dict()[name]
        assert rows.shape[0] == 5
        torch.testing.assert_close(rows[2:], rows[:2].mean(0).expand(3, -1))
    assert len(model.blocks) == 1


def test_what_trains_is_counted() -> None:
    known = reference()
    assert trained_parameters(extend(known, query_config(), 0, seed=0)) == 0
    assert trained_parameters(extend(known, query_config(), 2, seed=0)) == 2 * (8 + 2 * GENES)
    added = trained_parameters(extend(known, query_config(unconstrained=2), 0, seed=0, mask_gk=MORE))
    assert added == (6 + 1) * 2 * 4 + MORE.nnz + 2 * GENES


def test_only_new_unconstrained_programs_are_kept_independent() -> None:
    model = extend(reference(), query_config(unconstrained=2), 1, seed=0, mask_gk=MORE)
    assert model._trained_free() == [7, 8]
    batch = CsrStore(COUNTS, np.full(CELLS, 2)).batch(torch.arange(CELLS), Noise(0, CELLS, 0, torch.device("cpu")))
    assert "hsic" in model.loss(batch).parts
    without = extend(reference(), query_config(), 1, seed=0, mask_gk=MORE)
    assert "hsic" not in without.loss(batch).parts


def test_penalties_touch_added_programs_alone() -> None:
    config = query_config(unconstrained=1, group_lasso=0.0, unconstrained_l1=1e3, membership="soft", soft_l1=1e3)
    model = extend(reference(), config, 1, seed=0, mask_gk=MORE)
    old = model.programs(0).weights().clone()
    model.after_step(0.1, 1e9)
    assert torch.equal(model.programs(0).weights(), old)
    assert not model.programs(1).free_gu.any()
    outside = torch.from_numpy(MORE.toarray() == 0)
    assert not model.programs(1).soft_gk.detach()[outside].any()
    assert model.programs(1).soft_gk.detach()[~outside].any()
    assert model.outside_share_inactive() == 1.0


def test_a_mapped_model_can_be_mapped_onto() -> None:
    once = extend(reference(), query_config(unconstrained=1), 1, seed=0)
    twice = extend(once, query_config(unconstrained=1), 1, seed=1, mask_gk=MORE)
    assert [block["n_free"] for block in twice.structure["blocks"]] == [1, 1, 1]
    cells = CsrStore(COUNTS, np.arange(CELLS) % 3).batch(torch.arange(CELLS))
    assert torch.equal(twice.embed(cells).mean_nz[:, :6], once.embed(cells).mean_nz)
    again = ExpiMap(twice.config, **twice.structure)
    again.load_state_dict(twice.state_dict())
    again.loaded()
    assert torch.equal(again.embed(cells).mean_nz, twice.embed(cells).mean_nz)
