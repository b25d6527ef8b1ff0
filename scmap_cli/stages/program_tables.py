"""What a directory of an expiMap model says of its programs, beside the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scmap_cli.io.bundle import PROGRAMS, write_table
from scmap_cli.metrics.programs import OUTSIDE_INACTIVE, OVERLAP_COLUMNS, PROGRAM_COLUMNS, overlap_rows, program_rows
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.runtime.logs import log

NEW_PROGRAMS = "new_programs.tsv"
"""Overlap of programs that a query has added with those of the reference."""


def write_programs(
    folder: Path,
    network: ExpiMap,
    genes: np.ndarray,
    names: Sequence[str],
    size_before: Sequence[int | None],
    means: np.ndarray,
    new: int = 0,
) -> None:
    """Write the programs with their top genes and, where some are new, how these overlap with the others.

    Warns where too few of the weights outside soft programs are zero.

    Parameters
    ----------
    folder
        The model's.
    network
        With its final weights.
    genes, names
        (g,) genes and the programs' names.
    size_before
        Genes that each program had in its source, None for unconstrained ones.
    means
        (g,) mean counts of the genes in the training cells.
    new
        How many of the programs, the last ones, a query has added.
    """
    w_gk, mask_gk = network.decoder_weights().cpu().numpy(), network.membership().cpu().numpy()
    write_table(folder / PROGRAMS, PROGRAM_COLUMNS, program_rows(w_gk, mask_gk, genes, names, size_before, means))
    if new:
        write_table(folder / NEW_PROGRAMS, OVERLAP_COLUMNS, overlap_rows(w_gk, mask_gk, genes, names, new))
    share = network.outside_share_inactive()
    if share is not None and share < OUTSIDE_INACTIVE:
        log.warning(
            "soft programs take in many genes: %.1f %% of the weights outside them are zero, at least %.0f %% are "
            "wanted; raise --soft-l1 and train again",
            100 * share,
            100 * OUTSIDE_INACTIVE,
        )
