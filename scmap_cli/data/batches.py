"""Minibatches from sparse counts: rows are gathered and made dense on the device, one small copy a batch.

The whole matrix sits on the device as CSR when it fits (``CsrStore.to``), else in host memory; a batch is a
vectorised row gather. Index and count types are as small as the data allow, so a million cells by 2,000 genes take
about 4 bytes a stored count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scmap_cli.data.matrices import cell_totals, rows_per_block
from scmap_cli.nn.noise import Noise

_OF_CELLS = ("condition_n", "size_n", "constant_n", "covariate_nc", "reference_nr", "weight_n")
_HELD = ("indptr", "indices", "values", *_OF_CELLS)


@dataclass(frozen=True)
class Batch:
    """Cells of one step.

    Attributes
    ----------
    n, g
        Cells and features.
    flat_m
        Positions ``cell * g + feature`` of the stored counts, int64, without repeats.
    value_m
        The stored counts, in the dtype of the model.
    size_n
        Library size: counts over the model's features, in the dtype of the model.
    constant_n
        Sum of ``log(x!)`` of each cell's counts, the part of a count likelihood that no parameter changes.
    condition_n
        Condition of each cell, int64.
    covariate_nc
        Further numbers that a model is told of each cell, (n, c); c is 0 for most.
    reference_nr
        Embedding of another modality of each cell, (n, r), rows of length one, zeros where a cell lacks it; r is 0 for
        most.
    weight_n
        How far that embedding is to be trusted, (n,).
    noise
        The step's random numbers, None for deterministic inference.
    progress
        Training progress in epochs, for annealing; infinite outside training.
    """

    n: int
    g: int
    flat_m: Tensor
    value_m: Tensor
    size_n: Tensor
    constant_n: Tensor
    condition_n: Tensor
    covariate_nc: Tensor
    reference_nr: Tensor
    weight_n: Tensor
    noise: Noise | None = None
    progress: float = float("inf")

    def dense(self, value_m: Tensor) -> Tensor:
        """A dense (n, g) matrix with ``value_m`` at the stored positions and 0 elsewhere."""
        x_n = torch.zeros(self.n * self.g, dtype=value_m.dtype, device=value_m.device)
        x_n[self.flat_m] = value_m
        return x_n.view(self.n, self.g)


class Store(Protocol):
    """What the training loop and batched inference know of data: cells that are gathered by row as batches."""

    n: int
    condition_n: Tensor
    device: torch.device

    def to(self, device: torch.device) -> Store:
        """Let batches go to ``device``."""

    def order(self, rows: np.ndarray, seed: int, sampling: str) -> np.ndarray:
        """The rows of one epoch in a seeded order."""

    def batch(self, rows: Tensor, noise: Noise | None = None, progress: float = float("inf")) -> Any:
        """Gather ``rows`` into what the model's loss takes."""


class CsrStore:
    """Counts and conditions of all cells, ready for row gathers on one device.

    Parameters
    ----------
    counts
        CSR, cells x features, non-negative, checked by the reader.
    condition_n
        Condition code of each cell.
    dtype
        Floating type of the batches.
    covariates
        (n, c) further numbers of each cell, or None.
    reference, weights
        (n, r) and (n,) of a second modality, see :class:`Batch`, or None.
    size_n
        (n,) library size of each cell, where it is not the sum of its counts here.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        condition_n: np.ndarray,
        dtype: torch.dtype = torch.float32,
        covariates: np.ndarray | None = None,
        reference: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        size_n: np.ndarray | None = None,
    ) -> None:
        self.n, self.g = counts.shape
        self.dtype = dtype
        self.indptr = torch.from_numpy(counts.indptr.astype(np.int64))
        self.indices = torch.from_numpy(counts.indices.astype(_index_type(self.g), copy=False))
        self.values = torch.from_numpy(_compact(counts.data))
        self.condition_n = torch.from_numpy(np.asarray(condition_n, dtype=np.int64))
        sums_n = cell_totals(counts) if size_n is None else size_n
        self.size_n = torch.from_numpy(sums_n).to(dtype)
        self.constant_n = _log_factorials(counts).to(dtype)
        self.covariate_nc = torch.from_numpy(np.zeros((self.n, 0)) if covariates is None else covariates).to(dtype)
        self.reference_nr = torch.from_numpy(np.zeros((self.n, 0)) if reference is None else reference).to(dtype)
        self.weight_n = torch.from_numpy(np.zeros(self.n) if weights is None else weights).to(dtype)
        self.device = torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        tensors = [getattr(self, name) for name in _HELD]
        return sum(t.numel() * t.element_size() for t in tensors)

    def to(self, device: torch.device) -> CsrStore:
        """Move the data to ``device`` when it fits into half of the free memory there; batches always go there."""
        self.device = device
        if device.type == "cuda" and self.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            for name in _HELD:
                setattr(self, name, getattr(self, name).to(device))
        return self

    def order(self, rows: np.ndarray, seed: int, sampling: str) -> np.ndarray:
        """As :func:`epoch_order` with the conditions of ``rows``."""
        return rows[epoch_order(self.condition_n.cpu().numpy()[rows], seed, sampling)]

    def batch(self, rows: Tensor, noise: Noise | None = None, progress: float = float("inf")) -> Batch:
        """Gather ``rows`` (int64, in any order, repeats allowed)."""
        rows = rows.to(self.indptr.device)
        flat_m, value_m = self._stored(rows)
        return Batch(
            n=len(rows),
            g=self.g,
            flat_m=flat_m.to(self.device),
            value_m=value_m.to(self.device),
            **{name: getattr(self, name)[rows].to(self.device) for name in _OF_CELLS},
            noise=noise,
            progress=progress,
        )

    def _stored(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Flat positions and values of the stored counts of ``rows``, where the data are."""
        start_n = self.indptr.index_select(0, rows)
        length_n = self.indptr.index_select(0, rows + 1) - start_n
        if rows.device.type == "cpu":
            # numba takes half a second to import, which data on a GPU need not wait for
            from scmap_cli.data.gather import gather_rows

            size = int(length_n.sum())
            flat_m, value_m = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=self.dtype)
            arrays = [t.numpy() for t in (self.indptr, self.indices, self.values, rows)]
            gather_rows(*arrays, self.g, flat_m.numpy(), value_m.numpy())
            return flat_m, value_m
        end_n = length_n.cumsum(0)
        cell_m = torch.repeat_interleave(length_n)
        position_m = torch.arange(len(cell_m), device=rows.device)
        stored_m = position_m + (start_n - end_n + length_n).index_select(0, cell_m)
        flat_m = cell_m * self.g + self.indices.index_select(0, stored_m)
        return flat_m, self.values.index_select(0, stored_m).to(self.dtype)


def _log_factorials(counts: sparse.csr_matrix) -> Tensor:
    """Sum of ``log(x!)`` over the stored counts of each row, float64, computed in blocks of rows."""
    total_n = torch.zeros(counts.shape[0], dtype=torch.float64)
    block = rows_per_block(counts)
    for start in range(0, len(total_n), block):
        edges = torch.from_numpy(counts.indptr[start : start + block + 1].astype(np.int64))
        stored_m = counts.data[edges[0] : edges[-1]]
        # Of open and closed peaks all are zero.
        if (stored_m == 1).all():
            continue
        value_m = torch.from_numpy(stored_m.astype(np.float64))
        row_m = torch.repeat_interleave(edges.diff())
        total_n[start : start + block].index_add_(0, row_m, torch.lgamma(value_m.clamp_min_(0.0) + 1.0))
    return total_n


def _index_type(columns: int) -> type[np.integer]:
    return np.int16 if columns <= np.iinfo(np.int16).max else np.int32


def _compact(data: np.ndarray) -> np.ndarray:
    """Integer counts that fit as int16, everything else as float32 (float64 stays)."""
    whole = data.dtype.kind in "iu" or bool(np.all(data == np.rint(data)))
    if whole and (len(data) == 0 or data.max() <= np.iinfo(np.int16).max):
        return data.astype(np.int16, copy=False)
    return data if data.dtype == np.float64 else data.astype(np.float32, copy=False)


def epoch_order(condition_n: np.ndarray, seed: int, sampling: str = "shuffle") -> np.ndarray:
    """Rows of one epoch: a seeded permutation, or draws with replacement that are balanced over the conditions.

    Parameters
    ----------
    condition_n
        Condition codes of the training cells.
    seed
        Seed of this epoch's order.
    sampling
        ``shuffle``: every cell once. ``balanced``: as many draws as cells, each condition equally likely, each cell
        of a condition equally likely (the released expiMap trainer).

    Returns
    -------
    ndarray
        int64 positions into ``condition_n``.
    """
    rng = np.random.default_rng(seed)
    n = len(condition_n)
    if sampling == "shuffle":
        return rng.permutation(n)
    edges = np.cumsum(1.0 / np.bincount(condition_n)[condition_n])
    return np.minimum(np.searchsorted(edges, rng.random(n) * edges[-1], side="right"), n - 1)
