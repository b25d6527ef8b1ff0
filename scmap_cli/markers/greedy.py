"""Two strong and simple baselines: one gene after the other, each the one that least squares gains most by.

Let X be the scaled values (n, g) and a_j the part of gene j that the genes chosen before it do not explain. A gene then
lowers the squared error of a linear map onto targets Y by ||Y^T a_j||^2 / ||a_j||^2.

- Y = X: greedy column subset selection. The gains are kept up to date by the recursion of Farahat et al. (2011,
  doi:10.1109/ICDM.2011.22), which needs n x g operations a gene and no g x g matrix.
- Y = indicators of the classes, centred and divided by the root of the class size: forward selection for linear
  discriminants. Every class counts alike, however few its cells.
"""

from __future__ import annotations

import numpy as np

from scmap_cli.markers.base import MarkerData, Selection, named

_BLOCK = 512
# A gene of which less than this share is left is a combination of those chosen; dividing by it would be noise.
_LEAST = 1e-6


def _left_over(x_ng: np.ndarray, gene: int, taken_kg: list[np.ndarray]) -> np.ndarray:
    """Inner products of all genes with the unexplained part of one, divided by its norm: (g,)."""
    products = x_ng.T @ x_ng[:, gene]
    for omega in taken_kg:
        products -= omega[gene] * omega
    return products / np.sqrt(products[gene])


def _next(gain_g: np.ndarray, norm_g: np.ndarray, full_g: np.ndarray, free: np.ndarray) -> tuple[int, float]:
    """The free gene of largest gain; the first one where nothing is left to gain."""
    usable = free & (norm_g > _LEAST * np.maximum(full_g, 1.0))
    ratio = np.where(usable, gain_g / np.where(usable, norm_g, 1.0), -np.inf)
    gene = int(ratio.argmax())
    if not usable[gene]:
        return int(np.flatnonzero(free)[0]), 0.0
    return gene, max(float(ratio[gene]), 0.0)


def select_for_genes(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Greedy column subset; the score is the share of the variance that a gene explains beyond those before it."""
    x_ng = data.scaled.astype(np.float64)
    x_ng -= x_ng.mean(axis=0)
    g = x_ng.shape[1]
    norm_g = np.einsum("ng,ng->g", x_ng, x_ng)
    full_g, total = norm_g.copy(), max(float(norm_g.sum()), 1e-300)
    gain_g = np.empty(g)
    for start in range(0, g, _BLOCK):
        block = x_ng.T @ x_ng[:, start : start + _BLOCK]
        gain_g[start : start + _BLOCK] = np.einsum("gj,gj->j", block, block)
    free = np.ones(g, dtype=bool)
    taken: list[np.ndarray] = []
    genes: list[int] = []
    scores: list[float] = []
    for _ in range(k):
        gene, gained = _next(gain_g, norm_g, full_g, free)
        genes.append(gene)
        scores.append(gained / total)
        free[gene] = False
        if gained == 0.0:
            continue
        omega = _left_over(x_ng, gene, taken)
        # (G omega) for the unexplained part of the Gram matrix G, without forming it.
        spread = x_ng.T @ (x_ng @ omega)
        for before in taken:
            spread -= before * (before @ omega)
        gain_g += omega**2 * (omega @ omega) - 2 * omega * spread
        norm_g -= omega**2
        taken.append(omega)
    return Selection(np.array(genes, dtype=np.int64), np.array(scores))


def select_for_labels(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Forward selection on the classes; the score is the share of the classes' variance gained by a gene.

    A gene speaks for the class that has most of it, where what the genes before it explain is left out.
    """
    x_ng = data.scaled.astype(np.float64)
    x_ng -= x_ng.mean(axis=0)
    norm_g = np.einsum("ng,ng->g", x_ng, x_ng)
    full_g = norm_g.copy()
    y_nc = np.asarray(data.members.todense()).T
    y_nc = y_nc / np.sqrt(y_nc.sum(axis=0))
    y_nc -= y_nc.mean(axis=0)
    total = max(float((y_nc**2).sum()), 1e-300)
    cross_gc = x_ng.T @ y_nc
    free = np.ones(len(norm_g), dtype=bool)
    taken: list[np.ndarray] = []
    genes: list[int] = []
    scores: list[float] = []
    codes: list[int] = []
    for _ in range(k):
        gene, gained = _next((cross_gc**2).sum(axis=1), norm_g, full_g, free)
        genes.append(gene)
        scores.append(gained / total)
        codes.append(int(cross_gc[gene].argmax()))
        free[gene] = False
        if gained == 0.0:
            continue
        omega = _left_over(x_ng, gene, taken)
        cross_gc -= np.outer(omega, cross_gc[gene] / omega[gene])
        norm_g -= omega**2
        taken.append(omega)
    return Selection(np.array(genes, dtype=np.int64), np.array(scores), named(data, np.array(codes)))
