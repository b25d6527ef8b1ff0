"""What the training loop and the stages know of a model: a config, a loss with named parts, declared capabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from scmap_cli.data.batches import Batch, CsrStore, Store


@dataclass(frozen=True)
class LossOutput:
    """Loss of one batch.

    Attributes
    ----------
    total
        What is minimised: a scalar, mean over the cells of the batch.
    score
        What model selection looks at: the objective with all weights at their final values, without the penalties that
        a proximal step applies.
    parts
        Named scalars for the history (means over cells, unweighted).
    work
        What the batch took, for the record of the run's speed: ``tokens``, ``flops``.
    """

    total: Tensor
    score: Tensor
    parts: dict[str, Tensor]
    work: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Posterior:
    """Gaussian posterior of the latent variables: means and variances, both (n, z); a point's variances are (n, 0)."""

    mean_nz: Tensor
    var_nz: Tensor


class ScmapModel(nn.Module, ABC):
    """Base of all models.

    A model is built as ``Model(config, **structure)``, where ``structure`` holds the numbers that follow from the data,
    so that a saved one is rebuilt from JSON and then loads its tensors.

    Attributes
    ----------
    name, config_type
        As in the registry, and the class of its settings.
    capabilities
        What it can do: ``embed``, ``impute``, ``map_query``, ``programs``, ``classify``, ``gene-embedding``.
    features
        What the columns of its input are: ``genes`` or ``peaks``.
    told_condition
        Whether its encoder is told a cell's condition, so that only conditions of the training can be embedded.
    has_variance
        Whether its embedding of a cell has a variance.
    every_cell
        Whether an epoch leaves out no training cell, where others end with the last whole batch.
    most_cells
        How many cells are looked at together at most where no gradient is wanted.
    tall
        Names of parameters with a row a feature, whose second moments Adam keeps by row.
    sparse_gradients
        Whether gradients of these may be sparse; who trains the model tells.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]
    capabilities: ClassVar[frozenset[str]]

    features: ClassVar[str] = "genes"
    told_condition: ClassVar[bool] = True
    has_variance: ClassVar[bool] = True
    every_cell: ClassVar[bool] = False
    most_cells: ClassVar[int] = 2048
    tall: ClassVar[frozenset[str]] = frozenset()
    sparse_gradients: bool = False

    config: Any
    structure: dict[str, Any]

    def __init__(self, *args: Any, **structure: Any) -> None:
        super().__init__()
        # Tensors that are put back after every step: what a mapping leaves as it is (models/surgery.py).
        self.held: dict[str, Tensor] = {}

    @classmethod
    def make_store(
        cls,
        counts: sparse.csr_matrix,
        condition_n: np.ndarray,
        dtype: torch.dtype = torch.float32,
        **told: np.ndarray | None,
    ) -> Store:
        """Cells in memory as this model reads them; ``told`` as :class:`~scmap_cli.data.batches.CsrStore` takes it."""
        return CsrStore(counts, condition_n, dtype, **told)

    def compile_parts(self, backend: str = "inductor") -> None:
        """Let torch compile what gains from it; a model for which that is nothing compiles nothing."""

    @abstractmethod
    def loss(self, batch: Batch) -> LossOutput:
        """Loss of a batch whose ``noise`` and ``progress`` are set."""

    def forward(self, batch: Batch) -> LossOutput:
        """The loss; this is what a distributed wrapper calls."""
        return self.loss(batch)

    def after_step(self, lr: float, progress: float) -> None:
        """Called after each optimiser step with the current learning rate, for proximal steps."""

    def finished(self, lr: float) -> None:
        """Called once when training is over and the best weights are in place; ``lr`` is the largest rate it had."""

    def keep(self, store: Any, seed: int) -> None:
        """Called once, the best weights in place, with what :meth:`make_store` made of the training's cells."""

    def lr_share(self, progress: float) -> float:
        """Share of the learning rate that a step at a time in epochs takes."""
        return 1.0

    @property
    def anneal_epochs(self) -> float:
        """Epochs over which some weight of the loss still rises; early stopping waits for them."""
        return 0.0

    def shorten_annealing(self, epochs: int) -> None:
        """Adapt the annealing to a run of ``epochs`` epochs."""

    @classmethod
    def upgraded(cls, tensors: dict[str, np.ndarray], version: int) -> dict[str, np.ndarray]:
        """Tensors of a model directory of an earlier ``schema_version`` under today's names and in today's shapes."""
        return tensors

    def loaded(self) -> None:
        """Called after tensors were loaded, to refresh what is derived from them."""

    @abstractmethod
    def embed(self, batch: Batch) -> Posterior:
        """Posterior of the cells of a batch, without noise."""

    def report(self) -> dict[str, Any]:
        """Numbers of the trained model for ``metrics.json``, JSON values."""
        return {}

    def described(self, features: np.ndarray) -> dict[str, Any]:
        """What ``config.json`` says of the trained model beside its structure, JSON values.

        Parameters
        ----------
        features
            (g,) names of the columns of its input.
        """
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.parameters()).dtype
