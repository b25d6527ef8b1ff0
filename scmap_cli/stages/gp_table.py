"""The table of ``scmap gp-test``, contrast by contrast, and what is told of the programs that pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scmap_cli.io.bundle import Bundle
from scmap_cli.metrics.bayes import BayesTest
from scmap_cli.metrics.gene_sets import METHODS
from scmap_cli.metrics.programs import agreement, directions, top_genes
from scmap_cli.stages.contrasts import Contrast, TestedCells
from scmap_cli.stages.gp_evidence import (
    SET_FIGURES,
    Expression,
    gene_rows,
    relation_rows,
    set_columns,
    set_tests,
    short,
)

# Below this share of weight with one sign it is not said whether a program goes up or down.
_CLEAR = 0.6

COLUMNS = (
    *("group", "against", "within", "rank", "program", "active", "log_bf", "p", "se", "passes"),
    *("direction", "agreement", "effect", "n", "n_against", "top_genes"),
)
"""Columns of the table. ``log_bf`` and ``effect`` (difference of mean posterior means) have the sign of the latent
values; ``direction`` says what that means for the expression of the program's genes. Each gene-set test
adds :data:`~scmap_cli.stages.gp_evidence.SET_FIGURES`."""


class ProgramTable:
    """Rows of the output, contrast by contrast."""

    def __init__(
        self,
        bundle: Bundle,
        w_gk: np.ndarray,
        member_gk: np.ndarray,
        threshold: float,
        methods: Sequence[str],
        expression: Expression | None,
        *,
        pairs: bool,
        genes: bool,
    ) -> None:
        self.names = [str(name) for name in bundle.categories["latent"]]
        self.active = (w_gk != 0).any(0)
        self.sign, self.agreement = directions(w_gk, "sum"), agreement(w_gk)
        self.genes = [top_genes(w_gk[:, k], bundle.features) for k in range(w_gk.shape[1])]
        self.features, self.w_gk, self.member_gk = bundle.features, w_gk, member_gk
        self.threshold, self.methods, self.expression = threshold, methods, expression
        self.columns = (*COLUMNS, *(f"{m}_{figure}" for m in METHODS if m in methods for figure in SET_FIGURES))
        self.rows: list[list[Any]] = []
        self.relations: list[list[Any]] | None = [] if pairs else None
        self.gene_rows: list[list[Any]] | None = [] if genes else None

    def add(self, contrast: Contrast, test: BayesTest, cells: TestedCells) -> dict[str, Any]:
        """Append a contrast's rows, strongest program first and inactive ones last; return its summary."""
        used = np.flatnonzero(self.active)
        left, right = cells.mean_nz[contrast.left_n], cells.mean_nz[contrast.right_n]
        effect_z = left.mean(0, dtype=np.float64) - right.mean(0, dtype=np.float64)
        n, m = int(contrast.left_n.sum()), int(contrast.right_n.sum())
        order = np.argsort(-np.abs(test.log_bf), kind="stable")
        head = [contrast.group, contrast.against, contrast.within]
        sets: list[list[Any]] = [[] for _ in self.names]
        if self.methods and self.expression is not None:
            sets = set_columns(set_tests(self.expression, contrast, self.member_gk, self.methods))
        leading, passing = [], []
        for rank, i in enumerate(order, 1):
            k = used[i]
            clear = self.sign[k] != 0 and self.agreement[k] >= _CLEAR and test.log_bf[i] != 0
            rises = (test.log_bf[i] > 0) == (self.sign[k] > 0)
            direction = ("up" if rises else "down") if clear else "ambiguous"
            passes = bool(abs(test.log_bf[i]) >= self.threshold)
            figures = (test.log_bf[i], test.p[i], test.se[i])
            self.rows.append(
                [
                    *head,
                    rank,
                    self.names[k],
                    1,
                    *map(short, figures),
                    int(passes),
                    direction,
                    float(f"{self.agreement[k]:.4f}"),
                    short(effect_z[k]),
                    n,
                    m,
                    self.genes[k],
                    *sets[k],
                ]
            )
            if passes:
                passing.append(int(k))
                leading.append({"program": self.names[k], "log_bf": short(figures[0]), "direction": direction})
        for k in np.flatnonzero(~self.active):
            self.rows.append([*head, "", self.names[k], 0, "", "", "", "", "inactive", "", "", n, m, "", *sets[k]])
        told = (contrast, passing, self.names, self.features, self.w_gk)
        if self.relations is not None:
            self.relations += relation_rows(*told, self.sign, cells)
        if self.gene_rows is not None and self.expression is not None:
            self.gene_rows += gene_rows(*told, self.member_gk, self.expression)
        return {"pairs": test.pairs, "exact": test.exact, "passing": leading}

    def text(self) -> str:
        """The table as TSV."""
        return tsv(self.columns, self.rows)


def tsv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as text."""
    return "\n".join("\t".join(map(str, row)) for row in (header, *rows)) + "\n"
