"""Positions fitted to each cell: towards the mode of its posterior, cell by cell, and nowhere without a reason."""

import numpy as np
import pytest
import torch
from scipy import optimize, sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig
from scmap_cli.models.refine import refined_positions
from scmap_cli.training.infer import embed_cells

MASK = sparse.csc_matrix(np.random.default_rng(0).random((20, 4)) < 0.4)
N = 24


def case(**options: object) -> tuple[ExpiMap, CsrStore, np.ndarray]:
    """A model that was never trained, so that its encoder is far off, and whose second program is inactive."""
    config = ExpiMapConfig(**({"hidden": (8,), "kl_weight": 0.5} | options))  # type: ignore[arg-type]
    model = ExpiMap.create(config, MASK, 2, seed=1).double()
    with torch.no_grad():
        block = model.programs(0)
        if config.membership == "hard":
            block.member_e[block.pattern.program_e == 1] = 0.0
        else:
            block.soft_gk[:, 1] = 0.0
    counts = np.random.default_rng(1).poisson(3.0, (N, 20)).astype(np.float64)
    store = CsrStore(sparse.csr_matrix(counts), np.arange(N) % 2, torch.float64)
    return model, store, embed_cells(model, store)[0]


def cost(model: ExpiMap, store: CsrStore, z_nz: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.cost(torch.from_numpy(z_nz).double(), store.batch(torch.arange(len(z_nz)))).numpy()


@pytest.mark.parametrize(
    "options", [{}, {"mean": "exp"}, {"mean": "softplus"}, {"membership": "soft"}, {"likelihood": "mse"}]
)
def test_many_steps_end_at_the_mode(options: dict[str, str]) -> None:
    model, store, start = case(**options)
    found = refined_positions(model, store, start, 500)
    for cell in (0, 7):
        batch = store.batch(torch.tensor([cell]))

        def value(z: np.ndarray, batch=batch) -> float:  # type: ignore[no-untyped-def]
            return float(model.cost(torch.from_numpy(z)[None], batch).detach())

        best = optimize.minimize(value, start[cell].astype(np.float64), method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(found[cell], best.x, atol=2e-3)


def test_few_steps_lower_the_cost_of_every_cell() -> None:
    model, store, start = case()
    before, after = cost(model, store, start), cost(model, store, refined_positions(model, store, start, 25))
    assert (after < before).all()
    assert abs(refined_positions(model, store, start, 5) - start).max() <= 0.5 + 1e-6


def test_no_step_changes_nothing_and_an_inactive_program_stays_at_0() -> None:
    model, store, start = case()
    assert refined_positions(model, store, start, 0) is start
    assert (start[:, 1] == 0).all()
    assert (refined_positions(model, store, start, 25)[:, 1] == 0).all()


def test_a_cell_does_not_depend_on_the_others() -> None:
    model, store, start = case()
    whole = refined_positions(model, store, start, 25)
    np.testing.assert_array_equal(refined_positions(model, store, start, 25, batch_size=5), whole)


def test_the_model_stays_as_it_is() -> None:
    model, store, start = case()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refined_positions(model, store, start, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
