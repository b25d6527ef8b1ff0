"""Jobs of a benchmark of marker genes, and the tables of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmap_cli.metrics.markers import CLASSIFIERS

AS_PUBLISHED = "as-published"
"""Word after a method's name in the file of methods."""

SHORT = {"knn": "knn", "random-forest": "rf"}
MEASURES = (
    *(f"{SHORT[c]}_{m}" for c in CLASSIFIERS for m in ("accuracy", "macro_f1", "weighted_f1", "misclassification")),
    *("mse", "mae"),
)
"""Columns with scores; those of classifiers are empty without labels."""


@dataclass(frozen=True)
class Job:
    """One method on one split, for one or several numbers of genes."""

    method: str
    as_published: bool
    split: int
    ks: tuple[int, ...]

    @property
    def name(self) -> str:
        """Method, with how it is run."""
        return f"{self.method} {AS_PUBLISHED}" if self.as_published else self.method


def job_name(row: dict[str, Any]) -> str:
    """Name of a row's job: the method, with how it is run."""
    return Job(row["method"], row["as_published"], 0, ()).name


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}"


def tables(rows: Sequence[dict[str, Any]], listed: Sequence[tuple[str, bool]], grid: Sequence[int]) -> tuple[str, str]:
    """The table of all rows, and that of means and standard deviations."""
    front = ("method", "as_published", "k")
    lines = ["\t".join((*front, "split", *MEASURES))]
    short = ["\t".join((*front, "splits", *(f"{m}_{what}" for m in MEASURES for what in ("mean", "sd"))))]
    for name, published in listed:
        for k in grid:
            ours = [row for row in rows if (row["method"], row["as_published"], row["k"]) == (name, published, k)]
            start = [name, str(published).lower(), str(k)]
            for row in ours:
                lines.append("\t".join([*start, str(row["split"]), *(_text(row.get(m)) for m in MEASURES)]))
            cells = [*start, str(len(ours))]
            for measure in MEASURES:
                values = [row[measure] for row in ours if measure in row]
                cells.append(_text(float(np.mean(values)) if values else None))
                cells.append(_text(float(np.std(values, ddof=1)) if len(values) > 1 else None))
            short.append("\t".join(cells))
    return "\n".join(lines) + "\n", "\n".join(short) + "\n"


def report(
    rows: Sequence[dict[str, Any]], listed: Sequence[tuple[str, bool]], grid: Sequence[int], seconds: dict[str, float]
) -> Iterator[str]:
    """One line a method at the largest number of genes."""
    for one in listed:
        name = Job(*one, 0, ()).name
        ours = [row for row in rows if job_name(row) == name and row["k"] == grid[-1]]
        means = {m: float(np.mean([row[m] for row in ours])) for m in MEASURES if m in ours[0]}
        told = [f"{m} {means[m]:.3f}" for m in ("knn_accuracy", "rf_accuracy", "mse") if m in means]
        yield f"{name}, {grid[-1]} genes: {', '.join(told)}; {seconds[name]:.1f} s"
