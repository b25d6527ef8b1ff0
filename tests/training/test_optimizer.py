"""Adam by rows: its formula in float64, torch's Adam where it must be, and gradients of either layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.config import PretrainConfig, TrainConfig
from scmap_cli.data.batches import CsrStore
from scmap_cli.errors import InputError
from scmap_cli.models.sailer import Sailer, SailerConfig
from scmap_cli.training.checkpoint import Checkpoint, unpack_optimizer
from scmap_cli.training.loop import Trainer
from scmap_cli.training.optimizer import RowAdam, make_optimizer

LR, EPS = 0.01, 1e-8


def row_adam(weight: torch.Tensor, decay: float = 0.0) -> RowAdam:
    return RowAdam([{"params": [weight], "rows": True}], lr=LR, eps=EPS, weight_decay=decay, fused=True)


def gradients(shape: tuple[int, int], count: int) -> list[torch.Tensor]:
    """Some of whose rows are zero, others in other steps."""
    gen = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=gen) * (torch.rand(shape[0], 1, generator=gen) < 0.4) for _ in range(count)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_the_formula(decay: float, dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.randn(13, 7, generator=torch.Generator().manual_seed(1)).to(dtype))
    found, optimizer = weight.detach().numpy().astype(np.float64), row_adam(weight, decay)
    mean, square = np.zeros((13, 7)), np.zeros((13, 1))
    for t, gradient in enumerate(gradients((13, 7), 20), start=1):
        weight.grad = gradient.to(dtype, copy=True)
        optimizer.step()
        assert weight.grad is None
        g = gradient.numpy().astype(np.float64) + decay * found
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * (g**2).mean(1, keepdims=True)
        found = found - LR * mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + EPS)
        np.testing.assert_allclose(
            weight.detach().numpy(), found, rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-12
        )


def test_rows_of_one_weight_are_plain_adam() -> None:
    start = torch.randn(40, 1, generator=torch.Generator().manual_seed(1))
    by_row, plain = (torch.nn.Parameter(start.clone()) for _ in range(2))
    ours, theirs = row_adam(by_row), torch.optim.Adam([plain], lr=LR, eps=EPS)
    for gradient in gradients((40, 1), 20):
        by_row.grad, plain.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(by_row, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_sparse_gradients_give_the_bits_of_dense_ones(dtype: torch.dtype, threads: int) -> None:
    shape, before = (600, 7), torch.get_num_threads()
    torch.set_num_threads(threads)
    start = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [row_adam(weight) for weight in weights]
    for gradient in gradients(shape, 10):
        weights[0].grad, weights[1].grad = gradient.to(dtype, copy=True), gradient.to(dtype).to_sparse(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.set_num_threads(before)
    assert torch.equal(*weights)


def trainer(*, checkpoint: Checkpoint | None = None, **options: float) -> Trainer:
    """SAILER, a step looking at a third of 60 peaks."""
    x = (np.random.default_rng(0).random((80, 60)) < 0.2).astype(np.float32)
    config = SailerConfig(hidden=(12, 6), latent=3, peak_share="0.3", warmup_epochs=1, cycle_epochs=1)
    model = Sailer.create(config, x.mean(0), seed=0, n_conditions=1, n_covariates=1)
    store = CsrStore(sparse.csr_matrix(x), np.zeros(80), covariates=np.ones((80, 1)))
    train = TrainConfig(**{"epochs": 4, "batch_size": 16, "adam_eps": EPS, **options})
    return Trainer(model, store, np.arange(64), np.arange(64, 80), train, seed=0, checkpoint=checkpoint)


def test_training_with_sparse_gradients_gives_the_bits_of_dense_ones(same) -> None:  # type: ignore[no-untyped-def]
    one, other = trainer(), trainer()
    assert one.model.sparse_gradients
    other.model.sparse_gradients = False
    assert one.fit().history == other.fit().history
    assert same(one.model, other.model)


def test_clipped_gradients_are_dense(same) -> None:  # type: ignore[no-untyped-def]
    loose, plain = trainer(grad_clip=1e9), trainer()
    assert not loose.model.sparse_gradients
    loose.fit(), plain.fit()
    assert same(loose.model, plain.model)


@pytest.mark.parametrize("at", [(0, 1), (1, 0), (2, 3)])
def test_a_stopped_run_goes_on_to_the_same_bits(same, tmp_path: Path, at: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    straight = trainer()
    straight.fit()
    first = trainer(checkpoint=Checkpoint(tmp_path, {}), checkpoint_minutes=0.0)
    original = first._step

    def step(rows):  # type: ignore[no-untyped-def]
        if (first.state.epoch, first.state.step) == at:
            raise KeyboardInterrupt
        return original(rows)

    first._step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = trainer(checkpoint=Checkpoint(tmp_path, {}))
    second.fit(resume=True)
    assert same(straight.model, second.model)


def test_which_parameters_have_moments_by_row() -> None:
    model = trainer().model
    optimizer = make_optimizer(model, PretrainConfig())
    assert isinstance(optimizer, RowAdam)
    others, tall = ([p.shape for p in group["params"]] for group in optimizer.param_groups)
    assert tall == [(60, 12), (60, 12)]
    assert len(others) + 2 == len(list(model.parameters()))
    assert type(make_optimizer(model, PretrainConfig(optimizer="adamw"))) is torch.optim.AdamW


def test_moments_by_weight_are_refused() -> None:
    model = trainer().model
    optimizer = make_optimizer(model, PretrainConfig())
    with pytest.raises(InputError, match=r"moments of last_ph have the shape \(60, 12\), not \(60, 1\)"):
        unpack_optimizer(model, optimizer, {"optimizer.exp_avg_sq.last_ph": torch.zeros(60, 12)})
