"""``scmap preprocess motifs``: motifs in the peaks, and each cell's deviation of accessibility at them (chromVAR).

The file written is one of cells x motifs: ``X`` z-scores, ``layers["deviations"]`` bias-corrected deviations, both
float32; ``var`` the motifs with their identifier, name, length, threshold and number of peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.deviations import background_peaks, deviations
from scmap_cli.data.matrices import find_counts
from scmap_cli.data.motifs import EVEN, frequencies_of, gc_content, match_motifs
from scmap_cli.data.peaks import peak_positions
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.io.fasta import read_regions
from scmap_cli.io.h5ad import read_h5ad, write_h5ad
from scmap_cli.io.jaspar import Motif, read_jaspar
from scmap_cli.io.npz import write_npz
from scmap_cli.keys import DEVIATIONS_LAYER, HISTORY
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.qc import variability
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.memory import available_memory, readable_size
from scmap_cli.runtime.threads import current_threads

FREQUENCIES = ("peaks", "even")
"""Where the background frequencies of bases are from: the peaks' own sequences, or a quarter each."""


def preprocess_motifs(
    input: Path | str,
    output: Path | str,
    *,
    genome: Path | str,
    motifs: Path | str,
    layer: str | None = None,
    p_value: float = 5e-5,
    pseudocount: float = 0.8,
    base_frequencies: str = "peaks",
    background_draws: int = 50,
    background_width: float = 0.1,
    background_bins: int = 50,
    min_expected: float = 1.0,
    matches_output: Path | str | None = None,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make an h5ad of motif deviations from one of peak counts.

    Parameters
    ----------
    input
        h5ad of counts of peaks; positions are in ``var`` (``chrom``, ``start``, ``end``) or in the names.
    output
        The h5ad to write; see the module for its layout. ``obs`` and ``obsm`` are those of the input.
    genome
        FASTA of the genome that the peaks are on, plain or bgzip.
    motifs
        Motifs in JASPAR's format, see :func:`scmap_cli.io.jaspar.read_jaspar`.
    layer
        Where the counts are.
    p_value, pseudocount, base_frequencies
        When a site matches, see :mod:`scmap_cli.data.motifs`; the last is one of :data:`FREQUENCIES`. The defaults are
        those of motifmatchr.
    background_draws, background_width, background_bins
        See :func:`scmap_cli.data.deviations.background_peaks`; the defaults are chromVAR's.
    min_expected
        Entries with smaller expected counts are 0 (chromVAR: missing).
    matches_output
        npz to write the matches to: ``indptr`` and ``indices`` of a CSC matrix peaks x motifs, ``peaks``, ``motifs``.
    plot
        Draw how much each motif varies over the cells.
    seed
        Of the background peaks.
    force, dry_run
        Replace existing outputs; check the inputs and options and write nothing.

    Returns
    -------
    dict
        Cells, peaks, motifs, what was left out, and the share of entries below ``min_expected``.

    Raises
    ------
    UsageError, OutputExistsError, InputError, WriteError
        With exit codes 2, 2, 3 and 6.
    """
    _check_options(
        p_value, pseudocount, base_frequencies, background_draws, background_width, background_bins, min_expected
    )
    check_outputs(output, matches_output, figures=[plot], force=force)
    parameters = {
        "genome": Path(genome).name,
        "motifs": Path(motifs).name,
        "layer": layer,
        "p_value": p_value,
        "pseudocount": pseudocount,
        "base_frequencies": base_frequencies,
        "background_draws": background_draws,
        "background_width": background_width,
        "background_bins": background_bins,
        "min_expected": min_expected,
    }
    with provenance.run(
        "preprocess motifs",
        inputs=[input, genome, motifs],
        output=None if dry_run else output,
        parameters=parameters,
        seed=seed,
    ) as run:
        known = read_jaspar(motifs)
        adata = read_h5ad(input)
        counts = find_counts(adata, layer)
        used = np.flatnonzero(np.bincount(counts.matrix.indices, minlength=counts.matrix.shape[1]))
        matrix = counts.matrix if len(used) == counts.matrix.shape[1] else counts.matrix[:, used]
        places = peak_positions(counts.var.iloc[used])
        codes = read_regions(genome, places.chrom, places.start, places.end)
        gc_p = _known_gc(codes, counts.var.index[used])
        summary: dict[str, Any] = {
            "cells": adata.n_obs,
            "peaks": len(used),
            "peaks_without_counts": counts.matrix.shape[1] - len(used),
            "motifs": len(known),
        }
        if summary["peaks_without_counts"]:
            log.info("%d peaks have no count and are left out", summary["peaks_without_counts"])
        _check_memory(adata.n_obs, len(known))
        if dry_run:
            return summary
        frequency_4 = frequencies_of(codes) if base_frequencies == "peaks" else EVEN
        threads = current_threads()
        match_pk, limit_k, rare_k = match_motifs(
            codes,
            [motif.counts_l4 for motif in known],
            frequency_4,
            p_value=p_value,
            pseudocount=pseudocount,
            threads=threads,
        )
        size_k = np.diff(match_pk.indptr)
        kept = np.flatnonzero(size_k)
        summary |= _told(known, size_k, rare_k, len(used), p_value)
        match_pk = match_pk[:, kept]
        total_p = np.asarray(matrix.sum(0, dtype=np.float64)).ravel()
        background = background_peaks(
            total_p, gc_p, draws=background_draws, width=background_width, bins=background_bins, seed=seed
        )
        z_nk, deviation_nk, below_k = deviations(matrix, match_pk, background, least=min_expected, threads=threads)
        summary["share_below_min_expected"] = round(float(below_k.mean() / max(adata.n_obs, 1)), 6)
        if below_k.any():
            log.info(
                "%.1f %% of the entries have expected counts below %g and are 0",
                100 * summary["share_below_min_expected"],
                min_expected,
            )
        made = AnnData(
            X=z_nk,
            obs=adata.obs,
            var=_table([known[i] for i in kept], size_k[kept], limit_k[kept], below_k),
            obsm=dict(adata.obsm),
            layers={DEVIATIONS_LAYER: deviation_nk},
            uns={HISTORY: adata.uns[HISTORY]} if HISTORY in adata.uns else {},
        )
        run.stamp(made.uns)
        if matches_output is not None:
            _write_matches(matches_output, match_pk, counts.var.index[used], made.var_names, force)
        write_h5ad(made, output, force=force)
        if plot is not None:
            publish(
                plot, force, "the variability", variability, z_nk.std(axis=0, dtype=np.float64), list(made.var_names)
            )
        log.info("%s: %d cells x %d motifs", output, *made.shape)
    return summary


def _check_options(
    p_value: float, pseudocount: float, frequencies: str, draws: int, width: float, bins: int, min_expected: float
) -> None:
    if not 0 < p_value < 1:
        raise UsageError(f"--p-value {p_value} is not between 0 and 1")
    if not 0 < pseudocount < float("inf"):
        raise UsageError(f"--pseudocount {pseudocount} must be above 0")
    if frequencies not in FREQUENCIES:
        raise UsageError(f"--base-frequencies is {frequencies!r}", f"choose one of {', '.join(FREQUENCIES)}")
    if draws < 2:
        raise UsageError(f"--background-draws {draws} must be at least 2, as a spread is computed")
    if not 0 < width < float("inf"):
        raise UsageError(f"--background-width {width} must be above 0")
    if not 1 <= bins <= 1000:
        raise UsageError(f"--background-bins {bins} is not from 1 to 1000")
    if not 0 <= min_expected < float("inf"):
        raise UsageError(f"--min-expected {min_expected} must not be negative")


def _known_gc(codes: Sequence[np.ndarray], names: pd.Index) -> np.ndarray:
    gc_p = gc_content(codes)
    unknown = np.isnan(gc_p)
    if unknown.any():
        raise InputError(
            f"{int(unknown.sum())} peaks have no known base in the genome, first {names[int(np.argmax(unknown))]!r}",
            "drop these peaks, or give a FASTA whose sequence is not masked by N",
        )
    return gc_p


def _check_memory(n: int, k: int) -> None:
    # z-scores and deviations in float32, and a copy while they are written.
    wanted, free = 3 * 4 * n * k, available_memory()
    if wanted > free:
        raise InputError(
            f"deviations of {n} cells at {k} motifs need {readable_size(wanted)}, "
            f"but {readable_size(free)} of memory are available",
            "give fewer motifs, or cells in several files",
        )


def _told(known: Sequence[Motif], size_k: np.ndarray, rare_k: np.ndarray, peaks: int, p_value: float) -> dict[str, Any]:
    """What the matching gave; motifs without a match are told and left out.

    Raises
    ------
    InputError
        No motif has a match.
    """
    none = size_k == 0
    if none.all():
        raise InputError(
            f"none of {len(known)} motifs has a match in {peaks} peaks",
            "check that genome and motifs are of the same organism, or raise --p-value",
        )
    if none.any():
        log.warning(
            "%d motifs have no match and are left out, such as %s", none.sum(), known[int(np.argmax(none))].label
        )
    if not rare_k.all():
        log.info(
            "%d motifs are too short or vague for --p-value %g, such as %s: their best sites alone match",
            (~rare_k).sum(),
            p_value,
            known[int(np.argmin(rare_k))].label,
        )
    log.info("a motif is in %.0f of %d peaks (median)", np.median(size_k[~none]), peaks)
    return {
        "motifs_without_matches": int(none.sum()),
        "motifs_of_best_sites": int((~rare_k).sum()),
        "median_matches": float(np.median(size_k[~none])),
    }


def _table(motifs: Sequence[Motif], size_k: np.ndarray, limit_k: np.ndarray, below_k: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "motif_id": [motif.id for motif in motifs],
            "motif_name": [motif.name for motif in motifs],
            "length": np.array([len(motif.counts_l4) for motif in motifs], dtype=np.int32),
            "threshold": limit_k,
            "n_peaks": size_k.astype(np.int32),
            "n_below": below_k.astype(np.int32),
        },
        index=pd.Index([motif.label for motif in motifs], dtype=object),
    )


def _write_matches(
    path: Path | str, match_pk: sparse.csc_matrix, peaks: pd.Index, motifs: pd.Index, force: bool
) -> None:
    arrays = {
        "indptr": match_pk.indptr.astype(np.int64),
        "indices": match_pk.indices.astype(np.int32),
        "peaks": peaks.to_numpy().astype(str),
        "motifs": motifs.to_numpy().astype(str),
    }
    write_npz(path, arrays, {"kind": "motif-matches", "shape": list(match_pk.shape)}, force)
    log.info("%s: matches of %d motifs", path, match_pk.shape[1])
