"""What a linear decoder says about gene programs: direction, gene importance, dominance (expiMap, Methods).

All functions take the decoder matrix W, genes x programs; the importance of a gene in a program is ``|W|``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scmap_cli.errors import UsageError

DIRECTIONS = ("sum", "counts")


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
    "top_genes",
)


def program_rows(
    w_gk: np.ndarray,
    mask_gk: np.ndarray,
    genes: np.ndarray,
    programs: Sequence[str],
    size_before: Sequence[int | None],
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
    top
        Genes listed for each program by importance as ``GENE(+0.123)``, with ``*`` for a gene outside the program.
    """
    sum_k, count_k = directions(w_gk, "sum"), directions(w_gk, "counts")
    share_k, entropy_k = agreement(w_gk), normalised_entropy(w_gk)
    rows = []
    for k, name in enumerate(programs):
        column, member = w_gk[:, k], mask_gk[:, k] != 0
        used = np.flatnonzero(column)
        order = used[np.argsort(-np.abs(column[used]), kind="stable")][:top]
        listed = ",".join(f"{genes[g]}({column[g]:+.3f}){'' if member[g] else '*'}" for g in order)
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
                listed,
            ]
        )
    return rows
