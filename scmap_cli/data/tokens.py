"""Cells as sets of genes: packed minibatches for models that read one token a gene.

A :class:`TokenBatch` holds the expressed genes of its cells one cell after another, with their counts; nothing is
padded and nothing is made dense. Values (log1p CP10k), scales and bins follow from the counts where they are needed,
since they depend on which genes are taken for observed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scmap_cli.data.batches import epoch_order
from scmap_cli.nn.attention import Sizes, edges_of, sizes_of
from scmap_cli.nn.noise import Noise


@dataclass(frozen=True)
class TokenBatch:
    """Expressed genes of the cells of one step, t tokens in all.

    Attributes
    ----------
    n
        Cells.
    gene_t
        Gene of each token, int64.
    count_t
        Its count, in the dtype of the model; 0 for a gene that is only asked for.
    cell_t
        Cell of each token, int64, rising.
    edges
        (n + 1,) int64: where each cell's tokens begin.
    rest_total_n, rest_max_n
        Sum and largest of the counts of a cell's genes that are no tokens here (0 where all are).
    asked_t
        bool: genes whose value is asked for; None where the model draws them itself.
    sizes
        Fewest and most tokens of a cell, known where the batch is on a GPU, which would have to be asked.
    noise, progress
        As in :class:`scmap_cli.data.batches.Batch`.
    """

    n: int
    gene_t: Tensor
    count_t: Tensor
    cell_t: Tensor
    edges: Tensor
    rest_total_n: Tensor
    rest_max_n: Tensor
    asked_t: Tensor | None = None
    sizes: Sizes | None = None
    noise: Noise | None = None
    progress: float = float("inf")


class Rows(Protocol):
    """Where tokens come from: the expressed genes and counts of rows, in the order asked for."""

    def __len__(self) -> int:
        """Number of rows."""

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Genes, counts (both of all rows one after another) and the number of genes of each row."""

    def order(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A shuffle of ``rows`` that can be read fast from the first to the last."""


class MemoryRows:
    """Rows of a CSR matrix of counts in memory."""

    def __init__(self, counts: sparse.csr_matrix) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`Rows.read`."""
        start_n = self.counts.indptr[rows].astype(np.int64)
        length_n = self.counts.indptr[rows + 1] - start_n
        place_t = spans(start_n, length_n)
        return self.counts.indices[place_t], self.counts.data[place_t], length_n

    def order(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Any order is as fast as another."""
        return rng.permutation(rows)


def spans(start_n: np.ndarray, length_n: np.ndarray) -> np.ndarray:
    """int64 positions of several stretches, one after another."""
    end_n = np.cumsum(length_n, dtype=np.int64)
    total = int(end_n[-1]) if len(end_n) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(start_n - end_n + length_n, length_n)


class TokenStore:
    """Cells ready to be gathered as token batches on one device.

    Parameters
    ----------
    rows
        Where genes and counts come from.
    condition_n
        Code of each cell's study.
    dtype
        Floating type of the batches.
    limit
        Most genes of a cell in a training step: of a cell with more, a random subset is taken, drawn anew each epoch.
        Without noise all genes are taken.
    """

    def __init__(
        self, rows: Rows, condition_n: np.ndarray, dtype: torch.dtype = torch.float32, limit: int | None = None
    ) -> None:
        self.rows, self.dtype, self.limit = rows, dtype, limit
        self.n = len(rows)
        self.condition_n = torch.from_numpy(np.asarray(condition_n, dtype=np.int64))
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> TokenStore:
        """Let batches go to ``device``; the rows stay where they are."""
        self.device = device
        return self

    def order(self, rows: np.ndarray, seed: int, sampling: str) -> np.ndarray:
        """As :func:`scmap_cli.data.batches.epoch_order` chooses rows, in an order in which they are read fast."""
        if sampling == "balanced":
            rows = rows[epoch_order(self.condition_n.numpy()[rows], seed, sampling)]
        return self.rows.order(rows, np.random.default_rng(seed))

    def batch(self, rows: Tensor, noise: Noise | None = None, progress: float = float("inf")) -> TokenBatch:
        """Gather ``rows`` (int64, in any order)."""
        gene_t, count_t, length_n = self.rows.read(rows.numpy())
        batch = make_batch(gene_t, count_t, length_n, self.dtype)
        batch = replace(batch, noise=noise, progress=progress)
        if self.limit is not None and noise is not None and noise.hides and int(length_n.max(initial=0)) > self.limit:
            batch = thinned(batch, self.limit, noise)
        return on_device(batch, self.device)


def make_batch(
    gene_t: np.ndarray,
    count_t: np.ndarray,
    length_n: np.ndarray,
    dtype: torch.dtype = torch.float32,
    asked_t: np.ndarray | None = None,
) -> TokenBatch:
    """A batch on the CPU from the genes and counts of its cells, one cell after another."""
    lengths = torch.from_numpy(np.asarray(length_n, dtype=np.int64))
    return TokenBatch(
        n=len(lengths),
        gene_t=torch.from_numpy(gene_t.astype(np.int64)),
        count_t=torch.from_numpy(count_t.astype(np.float32)).to(dtype),
        cell_t=torch.repeat_interleave(lengths),
        edges=edges_of(lengths),
        rest_total_n=torch.zeros(len(lengths), dtype=dtype),
        rest_max_n=torch.zeros(len(lengths), dtype=dtype),
        asked_t=None if asked_t is None else torch.from_numpy(asked_t),
    )


def thinned(batch: TokenBatch, limit: int, noise: Noise) -> TokenBatch:
    """The batch with at most ``limit`` genes of each cell, drawn uniformly; the rest is known by sum and maximum."""
    drawn_t = noise.hashed(batch.cell_t, batch.gene_t, -1)
    # Rank within the cell: by cell, then by number drawn; ties go by place.
    by_draw = torch.argsort(drawn_t, stable=True)
    ordered = by_draw[torch.argsort(batch.cell_t[by_draw], stable=True)]
    rank_t = torch.empty_like(ordered)
    rank_t[ordered] = torch.arange(len(ordered)) - batch.edges[batch.cell_t[ordered]]
    keep_t = rank_t < limit
    gone_t, cell_gone = batch.count_t[~keep_t], batch.cell_t[~keep_t]
    return replace(
        batch,
        gene_t=batch.gene_t[keep_t],
        count_t=batch.count_t[keep_t],
        cell_t=batch.cell_t[keep_t],
        edges=edges_of(torch.bincount(batch.cell_t[keep_t], minlength=batch.n)),
        rest_total_n=batch.rest_total_n.index_add(0, cell_gone, gone_t),
        rest_max_n=batch.rest_max_n.scatter_reduce(0, cell_gone, gone_t, "amax"),
    )


def on_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """The batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    moved: dict[str, Any] = {
        name: value.pin_memory().to(device, non_blocking=True)
        for name, value in batch.__dict__.items()
        if isinstance(value, Tensor)
    }
    return replace(batch, **moved, sizes=sizes_of(batch.edges)[0] if batch.n else None)
