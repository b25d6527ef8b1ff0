"""Values of a gene in units of its standard deviation, with mean and deviation taken from chosen cells alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from scmap_cli.data.matrices import row_chunks, rows_per_block

CLIP = 10.0
"""Largest scaled value, as in scanpy's tutorials and the MarkerMap paper's code."""


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation (n - 1) of every gene, (g,) float64 each; a constant gene has deviation 1."""

    mean: np.ndarray
    deviation: np.ndarray
    clip: float = CLIP

    def apply(self, matrix: sp.csr_matrix, genes: np.ndarray | None = None) -> np.ndarray:
        """Scaled values of the matrix, or of its columns ``genes``: dense float32, within plus and minus ``clip``."""
        chosen = matrix if genes is None else matrix[:, genes]
        mean, deviation = (self.mean, self.deviation) if genes is None else (self.mean[genes], self.deviation[genes])
        dense = np.asarray(chosen.todense(), dtype=np.float32)
        dense -= mean.astype(np.float32)
        dense /= deviation.astype(np.float32)
        return np.clip(dense, -self.clip, self.clip, out=dense)


def fit_scaling(matrix: sp.csr_matrix, clip: float = CLIP) -> Scaling:
    """Mean and deviation of every gene over the cells of ``matrix``, (n, g) CSR, in double precision.

    scanpy's ``pp.scale(max_value=clip)`` gives the same values on the same cells.
    """
    n, g = matrix.shape
    blocks = [block for _, block in row_chunks(matrix, rows_per_block(matrix))]
    stored, total, squares = np.zeros(g, dtype=np.int64), np.zeros(g), np.zeros(g)
    for block in blocks:
        stored += np.bincount(block.indices, minlength=g)
        total += np.bincount(block.indices, weights=block.data, minlength=g)
    column_means = total / max(n, 1)
    for block in blocks:
        # Squares of what is left after the mean, so that a large mean costs no digits.
        left_over = (block.data - column_means[block.indices]) ** 2
        squares += np.bincount(block.indices, weights=left_over, minlength=g)
    squares += (n - stored) * column_means**2
    deviation = np.sqrt(squares / max(n - 1, 1))
    # What rounding leaves of a constant gene is no deviation.
    constant = deviation <= 1e-6 * np.maximum(np.abs(column_means), 1e-6)
    return Scaling(column_means, np.where(constant, 1.0, deviation), clip)
