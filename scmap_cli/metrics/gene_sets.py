r"""Classical gene-set tests of a contrast on log-normalised expression, to set beside a model's Bayes factors.

``fry`` (Wu et al., Bioinformatics 26 (2010), doi:10.1093/bioinformatics/btq401, in the closed form of limma, which the
expiMap paper compares with) asks whether a set's genes change: genes are divided by their residual standard deviations,
averaged over the set, and the average is tested by the linear model's t. limma's moderation of the deviations is left
out, which with hundreds of cells changes nothing.

``camera`` (Wu and Smyth, Nucleic Acids Research 40 (2012), doi:10.1093/nar/gks461, the form with ranks) asks whether
they change more than the other genes do: the rank sum of the genes' t statistics against its variance for genes that
correlate (Barry, Nobel and Wright, Annals of Applied Statistics 2 (2008), doi:10.1214/07-AOAS146).

The linear model is group + batch, so differences between batches are not taken for those between groups. Cells count
as replicates, as they do for the Bayes factors: p-values are for ranking, not for inference about donors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy import stats

from scmap_cli.errors import InputError

INTER_GENE_CORRELATION = 0.01
"""Correlation of the genes of a set that camera supposes, limma's default."""

METHODS = ("fry", "camera")


@dataclass(frozen=True)
class SetTest:
    """Statistics of the sets, arrays over them; NaN where a set has no gene that varies, or all of them.

    Attributes
    ----------
    statistic
        fry: t; camera: z. Above 0 the set's expression is higher in the group.
    p
        Two-sided p-value.
    fdr
        Benjamini and Hochberg's adjustment of it over the sets.
    """

    statistic: np.ndarray
    p: np.ndarray
    fdr: np.ndarray


@dataclass(frozen=True)
class LinearFit:
    """Group effects of a linear model with batches, by column.

    Attributes
    ----------
    t
        t statistics, NaN where a column does not vary within groups and batches.
    sd
        Residual standard deviations.
    df
        Residual degrees of freedom.
    """

    t: np.ndarray
    sd: np.ndarray
    df: int


def separable(inside_n: np.ndarray, batch_n: np.ndarray) -> bool:
    """Whether some batch has cells on both sides."""
    _, code_n = np.unique(batch_n, return_inverse=True)
    inside_b = np.bincount(code_n, np.asarray(inside_n, dtype=np.float64))
    return bool(((inside_b > 0) & (inside_b < np.bincount(code_n))).any())


def group_effects(values_ng: sp.csr_matrix | np.ndarray, inside_n: np.ndarray, batch_n: np.ndarray) -> LinearFit:
    """Fit column ~ group + batch for every column at once.

    Parameters
    ----------
    values_ng
        Cells x columns.
    inside_n
        (n,) bool: the group.
    batch_n
        (n,) codes or names.

    Raises
    ------
    InputError
        Groups and batches cannot be told apart, or no degree of freedom is left.
    """
    _, code_n = np.unique(batch_n, return_inverse=True)
    size_b = np.bincount(code_n)
    n, df = len(code_n), len(code_n) - len(size_b) - 1
    if df < 1:
        raise InputError(f"{n} cells in {len(size_b)} batches are too few for a linear model")
    group_n = np.asarray(inside_n, dtype=np.float64)
    x_n = group_n - (np.bincount(code_n, group_n) / size_b)[code_n]
    weight = float(x_n @ x_n)
    if not separable(inside_n, batch_n):
        raise InputError("every batch is of one group alone, so groups and batches cannot be told apart")
    values = sp.csr_matrix(values_ng, dtype=np.float64)
    batches = sp.csr_matrix((np.ones(n), (code_n, np.arange(n))))
    sum_bg = (batches @ values).toarray()
    effect_g = (values.T @ x_n) / weight
    squares_g = np.asarray(values.multiply(values).sum(0)).ravel()
    within_g = squares_g - (sum_bg**2 / size_b[:, None]).sum(0)
    residual_g = np.maximum(within_g - effect_g**2 * weight, 0.0)
    # What is left of rounding where a column is constant is no variance.
    sd_g = np.where(residual_g > 1e-10 * squares_g, np.sqrt(residual_g / df), 0.0)
    t_g = np.divide(effect_g * np.sqrt(weight), sd_g, out=np.full(len(sd_g), np.nan), where=sd_g > 0)
    return LinearFit(t_g, sd_g, df)


def fry(
    values_ng: sp.csr_matrix, inside_n: np.ndarray, batch_n: np.ndarray, fit: LinearFit, member_gk: sp.csc_matrix
) -> SetTest:
    """Test whether the average standardised expression of each set differs.

    Parameters
    ----------
    values_ng, inside_n, batch_n
        Log-normalised expression, group and batch of the cells.
    fit
        :func:`group_effects` of them.
    member_gk
        Genes x sets, any non-zero is a member.
    """
    scale_g = np.divide(1.0, fit.sd, out=np.zeros_like(fit.sd), where=fit.sd > 0)
    member = _membership(member_gk)
    size_k = member.T @ (scale_g > 0)
    weights = sp.diags(scale_g) @ member @ sp.diags(1.0 / np.maximum(size_k, 1.0))
    score_nk = np.asarray((sp.csr_matrix(values_ng) @ weights).todense())
    tested = group_effects(score_nk, inside_n, batch_n)
    return _result(np.where(size_k > 0, tested.t, np.nan), lambda t: stats.t.sf(t, tested.df))


def camera(fit: LinearFit, member_gk: sp.csc_matrix, correlation: float = INTER_GENE_CORRELATION) -> SetTest:
    """Test whether each set's genes change more, in one direction, than the genes outside it.

    Parameters
    ----------
    fit
        :func:`group_effects` of the expression; genes without a statistic are left out.
    member_gk
        Genes x sets, any non-zero is a member.
    correlation
        Mean correlation of the genes of a set.
    """
    known = ~np.isnan(fit.t)
    rank_g = stats.rankdata(fit.t[known])
    n = len(rank_g)
    member = _membership(member_gk)[known]
    a = np.asarray(member.sum(0)).ravel()
    b = n - a
    above = member.T @ rank_g - a * (a + 1) / 2 - a * b / 2
    pairs = [
        (np.pi / 2, np.ones_like(a)),
        (np.arcsin(0.5), b - 1),
        (np.arcsin(correlation / 2), (a - 1) * (b - 1)),
        (np.arcsin((1 + correlation) / 2), a - 1),
    ]
    variance = a * b * sum(angle * count for angle, count in pairs) / (2 * np.pi)
    ties = np.unique(rank_g, return_counts=True)[1].astype(np.float64)
    variance = variance * (1.0 - float((ties**3 - ties).sum()) / max(float(n) ** 3 - n, 1.0))
    z = np.divide(above, np.sqrt(variance), out=np.full(len(a), np.nan), where=variance > 0)
    return _result(z, stats.norm.sf)


def _membership(member_gk: sp.csc_matrix) -> sp.csc_matrix:
    """Genes x sets of 0 and 1."""
    member = sp.csc_matrix(member_gk, dtype=np.float64)
    member.data[:] = member.data != 0
    return member


def _result(statistic_k: np.ndarray, tail: Callable[[np.ndarray], np.ndarray]) -> SetTest:
    """With two-sided p-values of the statistics that are known."""
    known = ~np.isnan(statistic_k)
    p_k, fdr_k = (np.full(len(statistic_k), np.nan) for _ in range(2))
    if known.any():
        p_k[known] = 2.0 * tail(np.abs(statistic_k[known]))
        fdr_k[known] = stats.false_discovery_control(p_k[known])
    return SetTest(statistic_k, p_k, fdr_k)
