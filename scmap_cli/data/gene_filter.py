"""The gene filter of the MarkerMap paper (Gregory et al. 2024, Methods, Data processing), after SMaSH.

Out go genes of general function and listed house-keeping genes, genes found in less than 30 % of the cells of every
class, and genes found in at least 75 % of the cells of at least half of the classes. The released code knows general
genes by how their names begin (``Mt``, ``Rps``, ``Rpl``, ``Hsp``, ``Hla``), which also takes Mtor, Rps6ka1 and Hspg2,
and finds neither the mitochondrial genes (``mt-``) nor the MHC (``H2-``) of mouse. Here whole names count, in any case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

GENERAL: dict[str, re.Pattern[str]] = {
    "mitochondrial": re.compile(r"MT-.+", re.IGNORECASE),
    # RPS6, RPL13A, RPS4X, RPS4Y1, RPL22L1, RPL36AL, RPLP0, RPSA; not RPS6KA1, RPS19BP1
    "ribosomal": re.compile(r"RP[SL](\d+(A\d?|AL|L\d?|X|Y\d?)?|P[0-2]|A)", re.IGNORECASE),
    # HSPA1A, HSPB1, HSP90AB1; not HSPG2, HSPBP1
    "heat shock": re.compile(r"HSP(90\w+|[ABCDEH]\d\w*)", re.IGNORECASE),
    "MHC": re.compile(r"(HLA|H2)-.+", re.IGNORECASE),
}
"""Kinds of general genes, and what their names look like."""

LOW, HIGH, CLASSES = 0.3, 0.75, 0.5
"""Share of a class's cells below which, or from which, a gene is out, and share of classes for the latter."""


def general_genes(names: Sequence[str]) -> np.ndarray:
    """(g,) kind of each gene in :data:`GENERAL`, empty for the others."""
    return np.array([next((kind for kind, form in GENERAL.items() if form.fullmatch(name)), "") for name in names])


def class_shares(counts: sp.csr_matrix, codes: np.ndarray) -> np.ndarray:
    """(classes, g) share of each class's cells that have a gene; every class has cells."""
    sizes = np.bincount(codes)
    members = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(sizes), len(codes)))
    return np.asarray((members @ (counts > 0).astype(np.float64)).todense()) / sizes[:, None]


def markermap_filter(
    counts: sp.csr_matrix, names: Sequence[str], codes: np.ndarray, housekeeping: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, int]]:
    """Which genes are kept, and how many each step takes of those that the steps before it left.

    Parameters
    ----------
    counts
        (n, g) CSR counts of the cells to decide by.
    names
        (g,) gene names.
    codes
        (n,) class codes, every code from 0 to the largest in use.
    housekeeping
        Names of house-keeping genes, compared in any case.

    Returns
    -------
    tuple
        (g,) bool, and the numbers by step in their order.
    """
    listed = {name.upper() for name in housekeeping}
    kinds = general_genes(names)
    shares_cg = class_shares(counts, codes)
    steps = {
        **{f"general: {kind}": kinds == kind for kind in GENERAL},
        "house-keeping": np.array([name.upper() in listed for name in names], dtype=bool),
        f"in less than {LOW:.0%} of every class": ~(shares_cg >= LOW).any(axis=0),
        f"in {HIGH:.0%} of half of the classes": (shares_cg >= HIGH).mean(axis=0) >= CLASSES,
    }
    kept = np.ones(len(names), dtype=bool)
    taken: dict[str, int] = {}
    for step, out in steps.items():
        taken[step] = int((kept & out).sum())
        kept &= ~out
    return kept, taken
