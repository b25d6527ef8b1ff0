"""Imputation of withheld expression values: which entries are hidden, two plain baselines, and scores.

A share of a cell's expressed entries is hidden (thesis of Cao 2023, section 4.2.4). What is left is all that a method
sees, its normalisation included: truth and predictions are log1p of counts per 10,000 *observed* counts of the cell.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

MOST_MEASURED = 300
"""How many genes, those with most withheld entries, the correlation within genes is averaged over."""

_ROUNDS = 30


@dataclass(frozen=True)
class Withheld:
    """A matrix with hidden entries, all by entry of the full CSR.

    Attributes
    ----------
    hidden_m
        bool: the withheld entries.
    value_m
        float64 log1p of counts per 10,000 observed counts, withheld or not.
    cell_m, gene_m
        Where they are.
    total_n
        (n,) observed counts of each cell.
    shape
        Cells and genes.
    """

    hidden_m: np.ndarray
    value_m: np.ndarray
    cell_m: np.ndarray
    gene_m: np.ndarray
    total_n: np.ndarray
    shape: tuple[int, int]


def withhold(counts: sparse.csr_matrix, share: float, seed: int, cells: np.ndarray, genes: np.ndarray) -> Withheld:
    """Hide each expressed entry with probability ``share``; every cell keeps at least one.

    Whether an entry is hidden depends on the seed and the names of its cell and gene (and, for the one that is kept, on
    what else the cell expresses), not on where it is in the file or on other cells.

    Parameters
    ----------
    counts
        (n, g) CSR of counts, sorted indices.
    share, seed
        Share and seed.
    cells, genes
        (n,) and (g,) names.
    """
    cell_m = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    gene_m = counts.indices.astype(np.int64)
    drawn_m = _uniform(_codes(cells, seed)[cell_m] + _codes(genes, seed)[gene_m])
    highest_n = np.full(counts.shape[0], -1.0)
    np.maximum.at(highest_n, cell_m, drawn_m)
    hidden_m = (drawn_m < share) & (drawn_m != highest_n[cell_m])
    total_n = np.bincount(cell_m, weights=counts.data * ~hidden_m, minlength=counts.shape[0])
    value_m = np.log1p(counts.data.astype(np.float64) * 1e4 / np.maximum(total_n, 1.0)[cell_m])
    return Withheld(hidden_m, value_m, cell_m, gene_m, total_n, (counts.shape[0], counts.shape[1]))


def _codes(names: np.ndarray, seed: int) -> np.ndarray:
    """(n,) uint64: a hash of each name and the seed."""
    key = str(seed).encode()
    found = (hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in names.tolist())
    return np.frombuffer(b"".join(found), dtype="<u8")


def _uniform(state_m: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) from sums of hashes, by the last steps of splitmix64."""
    state_m = (state_m ^ (state_m >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_m = (state_m ^ (state_m >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = ((state_m ^ (state_m >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return found


def digest(counts: sparse.csr_matrix, split: Withheld, cells: np.ndarray, genes: np.ndarray) -> str:
    """SHA-256 of the withheld entries, their counts and the observed totals, whatever the order of cells and genes."""
    hidden_m = split.hidden_m
    by_cell, by_gene = np.argsort(cells), np.argsort(genes)
    cell_q, gene_q = np.argsort(by_cell)[split.cell_m[hidden_m]], np.argsort(by_gene)[split.gene_m[hidden_m]]
    order = np.lexsort((gene_q, cell_q))
    total = hashlib.sha256()
    for names in (cells[by_cell], genes[by_gene]):
        total.update("\n".join([*names.tolist(), ""]).encode())
    for values in (cell_q[order], gene_q[order]):
        total.update(values.astype("<i8").tobytes())
    for numbers in (counts.data[hidden_m][order], split.total_n[by_cell]):
        total.update(numbers.astype("<f8").tobytes())
    return f"sha256:{total.hexdigest()}"


def gene_means(value_m: np.ndarray, gene_m: np.ndarray, genes: int) -> np.ndarray:
    """(g,) mean of each gene's expressed values; the mean of all where a gene has none."""
    count_g = np.bincount(gene_m, minlength=genes)
    sum_g = np.bincount(gene_m, weights=value_m, minlength=genes)
    return np.where(count_g > 0, sum_g / np.maximum(count_g, 1), value_m.mean() if len(value_m) else 0.0)


def additive_fit(
    value_m: np.ndarray, cell_m: np.ndarray, gene_m: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of ``value = cell + gene`` over expressed entries, by turns: (n,) and (g,) effects.

    A gene without entries has the mean effect of those that have some.
    """
    n, g = shape
    gene_g = gene_means(value_m, gene_m, g)
    cell_n = np.zeros(n)
    count_g = np.bincount(gene_m, minlength=g)
    for _ in range(_ROUNDS):
        cell_n = cell_effects(value_m, cell_m, gene_m, gene_g, n)
        left = np.bincount(gene_m, weights=value_m - cell_n[cell_m], minlength=g)
        gene_g = np.where(count_g > 0, left / np.maximum(count_g, 1), 0.0)
        gene_g[count_g == 0] = (gene_g[gene_m].mean()) if len(gene_m) else 0.0
    return cell_effects(value_m, cell_m, gene_m, gene_g, n), gene_g


def cell_effects(
    value_m: np.ndarray, cell_m: np.ndarray, gene_m: np.ndarray, gene_g: np.ndarray, cells: int
) -> np.ndarray:
    """(n,) effect of each cell given the effects of genes."""
    left = np.bincount(cell_m, weights=value_m - gene_g[gene_m], minlength=cells)
    return left / np.maximum(np.bincount(cell_m, minlength=cells), 1)


def scores(predicted_q: np.ndarray, truth_q: np.ndarray, gene_q: np.ndarray) -> dict[str, Any]:
    """MAE, RMSE and Pearson over all withheld entries, and Pearson within genes.

    Returns
    -------
    dict
        ``mae``, ``rmse``, ``pearson``, ``within_gene_pearson`` (mean over the :data:`MOST_MEASURED` genes with most
        entries; a constant prediction counts as 0), ``within_genes`` (how many those are), ``mae_of_genes`` (mean over
        all genes of the MAE of each).
    """
    error_q = np.abs(predicted_q - truth_q)
    count_g = np.bincount(gene_q)
    order = np.argsort(-count_g, kind="stable")[:MOST_MEASURED]
    own_g = _entries(gene_q, count_g)
    within = [correlation(predicted_q[own_g[g]], truth_q[own_g[g]]) for g in order if count_g[g] >= 3]
    mae_g = np.bincount(gene_q, weights=error_q) / np.maximum(count_g, 1)
    return {
        "mae": float(error_q.mean()),
        "rmse": float(np.sqrt((error_q**2).mean())),
        "pearson": correlation(predicted_q, truth_q),
        "within_gene_pearson": float(np.mean(within)) if within else 0.0,
        "within_genes": len(within),
        "mae_of_genes": float(mae_g[count_g > 0].mean()),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 1e-12 else 0.0


def by_gene(
    predicted_q: np.ndarray, truth_q: np.ndarray, gene_q: np.ndarray, genes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries (g,), MAE (g,) and Pearson (g,) of every gene; NaN where it has too few entries to tell."""
    count_g = np.bincount(gene_q, minlength=genes)
    mae_g = np.full(genes, np.nan)
    found = count_g > 0
    mae_g[found] = np.bincount(gene_q, weights=np.abs(predicted_q - truth_q), minlength=genes)[found] / count_g[found]
    pearson_g = np.full(genes, np.nan)
    own_g = _entries(gene_q, count_g)
    for g in np.flatnonzero(count_g >= 3):
        pearson_g[g] = correlation(predicted_q[own_g[g]], truth_q[own_g[g]])
    return count_g, mae_g, pearson_g


def _entries(gene_q: np.ndarray, count_g: np.ndarray) -> list[np.ndarray]:
    """Positions of the entries of every gene, in order."""
    return np.split(np.argsort(gene_q, kind="stable"), np.cumsum(count_g)[:-1])
