"""What a linear decoder says about gene programs: direction, gene importance, dominance (expiMap, Methods).

All functions take the decoder matrix W, genes x programs; the importance of a gene in a program is ``|W|``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from scmap_cli.errors import UsageError

DIRECTIONS = ("sum", "counts")

OUTSIDE_INACTIVE = 0.9
"""Share of the weights outside soft programs that ought to end as zero; the authors advise to raise ``soft_l1`` when it
is lower, as programs then lose what sets them apart."""


def directions(w_gk: np.ndarray, method: str = "sum") -> np.ndarray:
    """Whether a rising score means up-regulation of the program (+1), down-regulation (-1), or cannot be told (0).

    Parameters
    ----------
    w_gk
        Decoder weights, genes x programs.
    method
        ``sum``: sign of the sum of the column's weights. ``counts``: sign of the majority of its non-zero weights.

    Returns
    -------
    ndarray
        int8, (k,); 0 for inactive programs and ties.
    """
    if method not in DIRECTIONS:
        raise UsageError(f"unknown direction {method!r}", f"choose one of {', '.join(DIRECTIONS)}")
    evidence_k = w_gk.sum(0, dtype=np.float64) if method == "sum" else np.sign(w_gk).sum(0)
    return np.sign(evidence_k).astype(np.int8)


def agreement(w_gk: np.ndarray) -> np.ndarray:
    """Share of a column's absolute weight that has the sign of its sum, (k,) in [0, 1]; 0 for inactive programs.

    Near 0.5 the direction of a program is ambiguous.
    """
    total_k = np.abs(w_gk).sum(0, dtype=np.float64)
    net_k = np.abs(w_gk.sum(0, dtype=np.float64))
    return np.divide(total_k + net_k, 2 * total_k, out=np.zeros_like(total_k), where=total_k > 0)


def normalised_entropy(w_gk: np.ndarray) -> np.ndarray:
    """Entropy of a program's gene importances over that of equal ones, (k,): 0 one gene rules, 1 all alike."""
    weight_gk = np.abs(w_gk.astype(np.float64))
    total_k = weight_gk.sum(0)
    share_gk = np.divide(weight_gk, total_k, out=np.zeros_like(weight_gk), where=total_k > 0)
    logs_gk = np.log(share_gk, out=np.zeros_like(share_gk), where=share_gk > 0)
    size_k = (weight_gk > 0).sum(0)
    limit_k = np.log(np.maximum(size_k, 2))
    return np.asarray(np.where(size_k > 1, -(share_gk * logs_gk).sum(0) / limit_k, 0.0))


def importance_against_expression(w_gk: np.ndarray, mean_g: np.ndarray) -> np.ndarray:
    """Spearman's correlation of gene importance and mean expression over the genes of each program, (k,).

    Near 1 a program's weights mirror how much its genes are expressed (paper, Supplementary Note 2). NaN for programs
    of fewer than three genes with a weight, or whose genes are all alike.

    Parameters
    ----------
    w_gk
        Decoder weights, genes x programs.
    mean_g
        Mean expression on any scale: ranks alone count.
    """
    found = np.full(w_gk.shape[1], np.nan)
    for k, column in enumerate(w_gk.T):
        used = np.flatnonzero(column)
        if len(used) < 3:
            continue
        ranks = [rankdata(values[used]) - (len(used) + 1) / 2 for values in (np.abs(column), mean_g)]
        norm = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
        if norm > 0:
            found[k] = ranks[0] @ ranks[1] / norm
    return found


PROGRAM_COLUMNS = (
    "program",
    "kind",
    "active",
    "size_before",
    "size",
    "genes_nonzero",
    "genes_outside",
    "norm",
    "direction_sum",
    "direction_counts",
    "agreement",
    "entropy",
    "expression_rho",
    "top_genes",
)


def program_rows(
    w_gk: np.ndarray,
    mask_gk: np.ndarray,
    genes: np.ndarray,
    programs: Sequence[str],
    size_before: Sequence[int | None],
    mean_g: np.ndarray,
    top: int = 10,
) -> list[list[Any]]:
    """Rows of ``programs.tsv`` in the order of :data:`PROGRAM_COLUMNS`.

    Parameters
    ----------
    w_gk, mask_gk
        Decoder weights and membership, genes x programs; a column of the mask without a member is an unconstrained
        program.
    genes, programs
        Names.
    size_before
        Genes of each program in its source, None where it has none.
    mean_g
        Mean expression of the genes, for ``expression_rho`` (:func:`importance_against_expression`).
    top
        Genes listed for each program by importance as ``GENE(+0.123)``, with ``*`` for a gene outside the program.
    """
    sum_k, count_k = directions(w_gk, "sum"), directions(w_gk, "counts")
    share_k, entropy_k = agreement(w_gk), normalised_entropy(w_gk)
    rho_k = importance_against_expression(w_gk, mean_g)
    rows = []
    for k, name in enumerate(programs):
        column, member = w_gk[:, k], mask_gk[:, k] != 0
        used = np.flatnonzero(column)
        listed = top_genes(column, genes, top, member)
        rows.append(
            [
                name,
                "program" if member.any() else "unconstrained",
                int(len(used) > 0),
                "" if size_before[k] is None else int(size_before[k] or 0),
                int(member.sum()),
                len(used),
                int((~member[used]).sum()),
                f"{np.linalg.norm(column):.6g}",
                int(sum_k[k]),
                int(count_k[k]),
                f"{share_k[k]:.4f}",
                f"{entropy_k[k]:.4f}",
                "" if np.isnan(rho_k[k]) else f"{rho_k[k]:.4f}",
                listed,
            ]
        )
    return rows


def by_importance(column_g: np.ndarray) -> np.ndarray:
    """Genes with a weight, the largest absolute one first."""
    used = np.flatnonzero(column_g)
    ordered: np.ndarray = used[np.argsort(-np.abs(column_g[used]), kind="stable")]
    return ordered


def top_genes(column_g: np.ndarray, genes: np.ndarray, top: int = 10, member_g: np.ndarray | None = None) -> str:
    """The most important genes of one program as ``GENE(+0.123)``, comma-separated.

    With ``member_g`` (bool) a gene outside the program has ``*`` behind it.
    """
    order = by_importance(column_g)[:top]
    marks = ["" if member_g is None or member_g[g] else "*" for g in order]
    return ",".join(f"{genes[g]}({column_g[g]:+.3f}){mark}" for g, mark in zip(order, marks, strict=True))


OVERLAP_COLUMNS = (
    *("program", "kind", "active", "genes_nonzero", "rank"),
    *("known_program", "known_size", "shared", "share", "top_genes"),
)


def overlap_rows(
    w_gk: np.ndarray,
    mask_gk: np.ndarray,
    genes: np.ndarray,
    programs: Sequence[str],
    n_new: int,
    *,
    compared: int = 50,
    top_programs: int = 3,
) -> list[list[Any]]:
    """What the last ``n_new`` programs are, told by the known ones: rows in the order of :data:`OVERLAP_COLUMNS`.

    Parameters
    ----------
    w_gk, mask_gk
        Decoder weights and membership, genes x programs.
    genes, programs
        Names.
    n_new
        How many programs at the end are new.
    compared
        A new program is compared by its most important genes, at most this many (paper, Fig. 4c).
    top_programs
        Known programs listed for each, by the genes they share (large programs share more by their size alone);
        ``share`` is of the compared genes. A new program that shares nothing has one row without a known program.
    """
    n_known = w_gk.shape[1] - n_new
    member_gk = mask_gk[:, :n_known] != 0
    rows: list[list[Any]] = []
    for k in range(n_known, w_gk.shape[1]):
        column = w_gk[:, k]
        used = by_importance(column)
        best = used[:compared]
        kind = "program" if mask_gk[:, k].any() else "unconstrained"
        listed = top_genes(column, genes)
        shared_k = member_gk[best].sum(0)
        order = np.argsort(-shared_k, kind="stable")[: top_programs if len(best) else 0]
        told = [programs[k], kind, int(len(used) > 0), len(used)]
        found = [
            [
                *told,
                rank,
                programs[m],
                int(member_gk[:, m].sum()),
                int(shared_k[m]),
                f"{shared_k[m] / len(best):.4f}",
                listed,
            ]
            for rank, m in enumerate(order, 1)
            if shared_k[m]
        ]
        rows += found or [[*told, 1, "", "", 0, f"{0:.4f}", listed]]
    return rows
