"""Genes by what they do in classes of cells: the filter of the MarkerMap paper as ``preprocess rna`` applies it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmap_cli.data.gene_filter import markermap_filter
from scmap_cli.data.merge import Sample
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.text import read_names
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import text_column

GENE_FILTERS = ("markermap",)
"""Filters of ``--gene-filter``."""

LOG_BASES: dict[str, float | None] = {"e": None, "2": 2.0, "10": 10.0}
"""Bases of ``--log-base``, as scanpy writes them to ``uns["log1p"]["base"]``."""


def check_gene_filter(
    gene_filter: str | None,
    label_key: str | None,
    housekeeping: Path | str | None,
    train_cells: Path | str | None,
    normalize: bool,
    log_base: str,
    chosen: bool,
) -> None:
    """Refuse options that contradict each other; :class:`UsageError` says which.

    ``chosen``: whether genes are chosen by cells in another way, too.
    """
    if train_cells is not None and not chosen and gene_filter is None:
        raise UsageError(
            "--train-cells says nothing without a choice of genes", "give --gene-filter, --hvg or --min-cells"
        )
    if gene_filter is None:
        concerned = (("--label-key", label_key), ("--housekeeping", housekeeping))
        for flag, value in concerned:
            if value is not None:
                raise UsageError(f"{flag} says nothing without --gene-filter", "give --gene-filter markermap")
    elif gene_filter not in GENE_FILTERS:
        raise UsageError(f"--gene-filter must be {', '.join(GENE_FILTERS)}, not {gene_filter!r}")
    elif label_key is None:
        raise UsageError("--gene-filter markermap needs classes", "name their column with --label-key")
    if log_base not in LOG_BASES:
        raise UsageError(f"--log-base must be one of {', '.join(LOG_BASES)}, not {log_base!r}")
    if log_base != "e" and not normalize:
        raise UsageError("--log-base says nothing without --normalize")


def named_cells(obs: pd.DataFrame, file: Path | str) -> list[str]:
    """Names of cells that a file lists; :class:`InputError` where one is not in the data."""
    wanted = read_names(file)
    absent = sorted(set(wanted) - set(obs.index))
    if absent:
        raise InputError(f"{file}: {len(absent)} cells are not in the data, such as {absent[0]!r}")
    return wanted


def filter_by_class(
    one: Sample, label_key: str, housekeeping: Sequence[str], train_cells: Path | str | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """The gene filter of the MarkerMap paper, decided by the training cells alone where they are named.

    Parameters
    ----------
    one
        Merged counts and their tables.
    label_key
        ``obs`` column of the classes; cells without one are not decided by.
    housekeeping
        Names of house-keeping genes.
    train_cells
        File with the names of the cells to decide by.

    Returns
    -------
    tuple
        (g,) bool, which genes are kept, and a report of JSON values.

    Raises
    ------
    InputError
        There is no such column or cell, or no gene is left.
    """
    labels = text_column(one.obs, label_key, Path("the data"))
    used = labels != ""
    if train_cells is not None:
        used &= one.obs.index.isin(read_names(train_cells))
    if not used.any():
        raise InputError(f"no cell to decide by has a label in {label_key!r}", "see --label-key and --train-cells")
    names, codes = np.unique(labels[used], return_inverse=True)
    if not housekeeping:
        log.warning("--gene-filter markermap takes no house-keeping gene out: list them in a file for --housekeeping")
    kept, steps = markermap_filter(one.matrix[used], list(one.var.index), codes, housekeeping)
    before, after = len(kept), int(kept.sum())
    for step, count in steps.items():
        log.info("--gene-filter markermap, %s: %d genes out", step, count)
    what = "--gene-filter markermap, by %d cells of %d classes: %d of %d genes kept"
    log.info(what, int(used.sum()), len(names), after, before)
    if after == 0:
        raise InputError(f"--gene-filter markermap leaves none of {before} genes", "see the numbers in the log")
    return kept, {"before": before, "after": after, "cells": int(used.sum()), "classes": len(names), "out": steps}
