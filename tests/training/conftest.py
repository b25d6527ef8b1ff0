"""A small planted case that trains in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.config import TrainConfig
from scmap_cli.data.batches import CsrStore
from scmap_cli.data.simulation import simulate_rna_data
from scmap_cli.data.splits import validation_split
from scmap_cli.keys import PROGRAMS_VARM
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig
from scmap_cli.training.checkpoint import Checkpoint
from scmap_cli.training.distributed import Ranks
from scmap_cli.training.loop import Trainer

MODEL = ExpiMapConfig(hidden=(16,), kl_anneal_epochs=4)


@dataclass(frozen=True)
class Case:
    counts: sparse.csr_matrix
    codes: np.ndarray
    mask: sparse.csc_matrix
    held: np.ndarray

    def trainer(
        self,
        *,
        model: ExpiMapConfig = MODEL,
        seed: int = 0,
        checkpoint: Checkpoint | None = None,
        ranks: Ranks | None = None,
        dtype: torch.dtype = torch.float32,
        **options: object,
    ) -> Trainer:
        config = TrainConfig(**({"epochs": 4, "batch_size": 32, "checkpoint_minutes": 60.0} | options))  # type: ignore[arg-type]
        network = ExpiMap.create(model, self.mask, int(self.codes.max()) + 1, seed).to(dtype)
        store = CsrStore(self.counts, self.codes, dtype)
        rows = np.flatnonzero(~self.held), np.flatnonzero(self.held)
        return Trainer(network, store, *rows, config, seed=seed, checkpoint=checkpoint, ranks=ranks)


@pytest.fixture(scope="session")
def case() -> Case:
    data = simulate_rna_data(
        n_cells=200,
        n_genes=60,
        n_programs=5,
        n_types=3,
        n_batches=2,
        genes_per_program=8,
        noise_genes=10,
        active_per_type=2,
        seed=1,
    )
    codes = data.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    mask = sparse.csc_matrix(data.varm[PROGRAMS_VARM])
    return Case(data.X, codes, mask, validation_split(codes, 0.1, 0))


@pytest.fixture
def same() -> Callable[[torch.nn.Module, torch.nn.Module], bool]:
    def compare(a: torch.nn.Module, b: torch.nn.Module) -> bool:
        left, right = a.state_dict(), b.state_dict()
        return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)

    return compare
