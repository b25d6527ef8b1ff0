"""What ``scmap gp-test`` says of a contrast beside the Bayes factors: gene-set tests, genes, relations of programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.data.features import align
from scmap_cli.data.matrices import cell_totals, log1p_cp10k
from scmap_cli.io.bundle import Bundle
from scmap_cli.metrics.gene_sets import METHODS, SetTest, camera, fry, group_effects, separable
from scmap_cli.metrics.programs import by_importance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.contrasts import Contrast, TestedCells
from scmap_cli.stages.inputs import RnaInput

SET_FIGURES = ("rank", "statistic", "p", "fdr")
"""Columns of each gene-set test, its name before them."""

RELATION_COLUMNS = (
    *("group", "against", "within", "program_a", "program_b", "genes_a", "genes_b", "shared", "jaccard"),
    *("correlation", "shared_genes"),
)
"""Columns of the table of pairs of passing programs. Genes are those with a weight; ``correlation`` is Pearson's of the
cells' scores, each program directed so that larger means more expression where its direction can be told."""

GENE_COLUMNS = (
    *("group", "against", "within", "program", "rank", "gene", "member", "weight", "importance"),
    *("mean", "mean_against", "difference"),
)
"""Columns of the table of genes of passing programs. ``importance`` is the absolute weight over the program's sum of
them; means are of log1p CP10k, empty where a file lacks the gene."""


@dataclass(frozen=True)
class Expression:
    """Log-normalised expression of all cells of a run: (n, g) over the model's genes, and which genes every file has.

    ``batch_n`` are the model's conditions.
    """

    values_ng: sparse.csr_matrix
    present_g: np.ndarray
    batch_n: np.ndarray


def expression_of(
    bundle: Bundle, data: RnaInput, counts: sparse.csr_matrix, codes: np.ndarray, as_is: bool
) -> Expression:
    """Expression of one file.

    Parameters
    ----------
    bundle
        The model.
    data, counts, codes
        The file, its counts aligned with the model, and its condition codes. Depth is over all genes of the file.
    as_is
        The values are normalised already.
    """
    values_ng = counts if as_is else log1p_cp10k(counts, totals=cell_totals(data.counts))
    return Expression(values_ng, align(data.genes, bundle.features).index >= 0, codes)


def joined(parts: Sequence[Expression]) -> Expression:
    """Expression of several files."""
    values_ng = sparse.csr_matrix(sparse.vstack([part.values_ng for part in parts]))
    present_g = np.logical_and.reduce([part.present_g for part in parts])
    return Expression(values_ng, present_g, np.concatenate([part.batch_n for part in parts]))


def set_tests(
    expression: Expression, contrast: Contrast, member_gk: np.ndarray, methods: Sequence[str]
) -> dict[str, SetTest]:
    """Results of gene-set tests of a contrast by method, over the programs' members that every file has."""
    rows = np.flatnonzero(contrast.left_n | contrast.right_n)
    inside_n, batch_n = contrast.left_n[rows], expression.batch_n[rows]
    if not separable(inside_n, batch_n):
        log.warning(
            "%s and %s are of different batches: the gene-set tests cannot tell the two apart",
            contrast.group,
            contrast.against,
        )
        batch_n = np.zeros_like(batch_n)
    values_ng = expression.values_ng[rows][:, expression.present_g]
    members = sparse.csc_matrix(member_gk[expression.present_g] != 0)
    fit = group_effects(values_ng, inside_n, batch_n)
    made = {"fry": lambda: fry(values_ng, inside_n, batch_n, fit, members), "camera": lambda: camera(fit, members)}
    return {name: made[name]() for name in METHODS if name in methods}


def set_columns(tests: dict[str, SetTest]) -> list[list[Any]]:
    """Values of the columns that gene-set tests add, a row a program; empty where a program has no set."""
    columns: list[list[Any]] = []
    for test in tests.values():
        known = ~np.isnan(test.statistic)
        order = np.argsort(np.where(known, -np.abs(test.statistic), np.inf), kind="stable")
        rank_k = np.empty(len(known), dtype=np.int64)
        rank_k[order] = np.arange(1, len(known) + 1)
        for values in (rank_k, test.statistic, test.p, test.fdr):
            columns.append([short(value) if ok else "" for value, ok in zip(values.tolist(), known, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def relation_rows(
    contrast: Contrast, passing: Sequence[int], names: Sequence[str], genes: np.ndarray, w_gk: np.ndarray,
    sign_k: np.ndarray, cells: TestedCells,
) -> list[list[Any]]:  # fmt: skip
    """Pairs of passing programs, in the order of :data:`RELATION_COLUMNS`."""
    scores_nk = cells.mean_nz[contrast.left_n | contrast.right_n][:, list(passing)].astype(np.float64)
    scores_nk = scores_nk * np.where(sign_k[list(passing)] == 0, 1, sign_k[list(passing)])
    scores_nk -= scores_nk.mean(0)
    norm_k = np.sqrt((scores_nk**2).sum(0))
    rows = []
    for i, j in combinations(range(len(passing)), 2):
        one, other = (w_gk[:, passing[k]] != 0 for k in (i, j))
        shared, product = one & other, norm_k[i] * norm_k[j]
        correlation = scores_nk[:, i] @ scores_nk[:, j] / product if product > 0 else np.nan
        rows.append(
            [
                *(contrast.group, contrast.against, contrast.within, names[passing[i]], names[passing[j]]),
                *(int(one.sum()), int(other.sum()), int(shared.sum())),
                f"{shared.sum() / (one | other).sum():.4f}",
                "" if np.isnan(correlation) else f"{correlation:.4f}",
                ",".join(genes[shared].tolist()),
            ]
        )
    return rows


def gene_rows(
    contrast: Contrast, passing: Sequence[int], names: Sequence[str], genes: np.ndarray, w_gk: np.ndarray,
    member_gk: np.ndarray, expression: Expression,
) -> list[list[Any]]:  # fmt: skip
    """Genes of passing programs by importance, in the order of :data:`GENE_COLUMNS`."""
    sides = [np.asarray(expression.values_ng[side].mean(0)).ravel() for side in (contrast.left_n, contrast.right_n)]
    rows = []
    for k in passing:
        total = np.abs(w_gk[:, k]).sum(dtype=np.float64)
        for rank, g in enumerate(by_importance(w_gk[:, k]), 1):
            told = (sides[0][g], sides[1][g], sides[0][g] - sides[1][g])
            rows.append(
                [
                    *(contrast.group, contrast.against, contrast.within, names[k], rank, genes[g]),
                    int(member_gk[g, k] != 0),
                    short(w_gk[g, k]),
                    short(abs(w_gk[g, k]) / total),
                    *(short(value) if expression.present_g[g] else "" for value in told),
                ]
            )
    return rows


def short(value: float) -> float | int:
    """Six digits, which every build of the libraries agrees on; whole numbers as they are."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
