"""``scmap preprocess gene-scores``: activity of genes from the peaks at their promoters and bodies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.decomposition import lsi
from scmap_cli.data.gene_scores import diffuse, gene_weights
from scmap_cli.data.matrices import cell_totals, find_counts
from scmap_cli.data.peaks import peak_positions
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_output
from scmap_cli.io.genes import read_genes
from scmap_cli.io.h5ad import read_h5ad, write_h5ad
from scmap_cli.keys import HISTORY, MAGIC_LAYER
from scmap_cli.metrics.graph import knn
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.memory import available_memory, readable_size

SMOOTH_K = 5
"""Neighbour whose distance sets the width of MAGIC's kernel; three times as many are looked at."""

_COMPONENTS = 30


def preprocess_gene_scores(
    input: Path | str,
    output: Path | str,
    *,
    genes: Path | str,
    upstream: int = 2000,
    downstream: int = 0,
    decay: float | None = None,
    only: Sequence[str] | None = None,
    smooth: bool = False,
    smooth_on: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make an h5ad of gene scores from one of peak counts.

    Parameters
    ----------
    input
        h5ad of counts of peaks; positions are in ``var`` (``chrom``, ``start``, ``end``) or in the names.
    output
        The h5ad to write: ``X`` CSR float32 scores, whole counts without ``decay``; ``obs`` and ``obsm`` of the input;
        ``var`` with the position of each gene and its number of peaks.
    genes
        BED or GTF of genes, see :func:`scmap_cli.io.genes.read_genes`.
    upstream, downstream, decay
        See :func:`scmap_cli.data.gene_scores.gene_weights`.
    only
        Names of the genes to keep; by default all that have a peak.
    smooth
        Also write ``layers["magic"]``, dense float32: the square roots of scores per 10,000 of all genes' scores,
        smoothed over the cells by MAGIC, see :func:`scmap_cli.data.gene_scores.diffuse`.
    smooth_on
        ``obsm`` key of the embedding on which cells are neighbours; by default LSI of the peaks, 30 components without
        the first.
    layer
        Where the counts are.
    seed
        For LSI and approximate neighbours.
    force, dry_run
        Replace an existing output; check the inputs and options and write nothing.

    Returns
    -------
    dict
        Cells, peaks, genes, genes without a peak, share of the counts that lie at a gene.

    Raises
    ------
    UsageError, InputError, WriteError
        With exit codes 2, 3 and 6.
    """
    _check_options(upstream, downstream, decay, only, smooth, smooth_on)
    check_output(output, force)
    parameters = {
        "genes": Path(genes).name,
        "upstream": upstream,
        "downstream": downstream,
        "decay": decay,
        "only": None if only is None else list(only),
        "smooth": smooth,
        "smooth_on": smooth_on,
        "layer": layer,
    }
    with provenance.run(
        "preprocess gene-scores",
        inputs=[input, genes],
        output=None if dry_run else output,
        parameters=parameters,
        seed=seed,
    ) as run:
        adata = read_h5ad(input)
        counts = find_counts(adata, layer)
        found = gene_weights(
            peak_positions(counts.var), read_genes(genes), upstream=upstream, downstream=downstream, decay=decay
        )
        keep = _wanted(found.var, only, genes)
        at_gene = np.diff(found.weight_pg.tocsr().indptr) > 0
        summary: dict[str, Any] = {
            "cells": adata.n_obs,
            "peaks": counts.matrix.shape[1],
            "genes": len(keep),
            "genes_without_peaks": found.without_peaks,
            "share_of_counts_at_genes": round(float(counts.matrix[:, at_gene].sum() / counts.matrix.sum()), 6),
        }
        log.info(
            "%(genes)d genes, %(genes_without_peaks)d more have no peak; %(share_of_counts_at_genes).3f of the counts "
            "lie at a gene",
            summary,
        )
        if smooth:
            _check_smoothing(adata, input, smooth_on, len(keep))
        if dry_run:
            return summary
        scores = sparse.csr_matrix(counts.matrix @ found.weight_pg)
        scores.sort_indices()
        # Depth is that of all genes, also where few are kept.
        total_n = cell_totals(scores)
        scores = scores[:, keep]
        scored = AnnData(
            X=scores,
            obs=adata.obs,
            var=found.var.iloc[keep],
            obsm=dict(adata.obsm),
            uns={HISTORY: adata.uns[HISTORY]} if HISTORY in adata.uns else {},
        )
        if smooth:
            scored.layers[MAGIC_LAYER] = _smoothed(scores, total_n, *_neighbours(adata, counts.matrix, smooth_on, seed))
        run.stamp(scored.uns)
        write_h5ad(scored, output, force=force)
        log.info("%s: %d cells x %d genes", output, *scored.shape)
    return summary


def _check_options(
    upstream: int,
    downstream: int,
    decay: float | None,
    only: Sequence[str] | None,
    smooth: bool,
    smooth_on: str | None,
) -> None:
    for flag, value in (("--upstream", upstream), ("--downstream", downstream)):
        if value < 0:
            raise UsageError(f"{flag} must not be negative, but is {value}")
    if decay is not None and not 0 < decay < 1e9:
        raise UsageError(f"--decay must be above 0, not {decay}")
    if only is not None and (not only or "" in only):
        raise UsageError("--only has an empty name", "give names separated by commas")
    if smooth_on is not None and not smooth:
        raise UsageError("--smooth-on says nothing without --smooth")


def _wanted(var: pd.DataFrame, only: Sequence[str] | None, genes: Path | str) -> np.ndarray:
    """Columns of the genes to keep, in the order asked for."""
    if only is None:
        return np.arange(len(var))
    place = var.index.get_indexer(pd.Index(list(dict.fromkeys(only))))
    if (place < 0).any():
        missing = [name for name in only if name not in var.index]
        raise InputError(
            f"{len(missing)} genes of --only have no score ({', '.join(missing[:20])}): "
            f"they are not in {genes}, or no peak is near them",
            "leave them out of --only",
        )
    return np.asarray(place)


def _check_smoothing(adata: AnnData, path: Path | str, key: str | None, g: int) -> None:
    if key is not None and key not in adata.obsm:
        raise InputError(f"{path} has no embedding {key!r}", f"embeddings in it: {', '.join(adata.obsm) or 'none'}")
    n = adata.n_obs
    wanted, free = 2 * 4 * n * g, available_memory()
    if wanted > free:
        raise InputError(
            f"smoothed scores of {n} cells x {g} genes need {readable_size(wanted)}, "
            f"but {readable_size(free)} of memory are available",
            "name the genes of interest with --only",
        )


def _neighbours(adata: AnnData, counts: sparse.csr_matrix, key: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    emb_nz = lsi(counts, _COMPONENTS, seed=seed) if key is None else np.asarray(adata.obsm[key], dtype=np.float64)
    return knn(emb_nz, 3 * SMOOTH_K, seed)


def _smoothed(scores: sparse.csr_matrix, total_n: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> np.ndarray:
    scale_n = np.divide(1e4, total_n, out=np.zeros_like(total_n), where=total_n > 0)
    root = sparse.csr_matrix(sparse.diags(scale_n) @ scores)
    root.data = np.sqrt(root.data)
    smoothed = np.empty(scores.shape, dtype=np.float32)
    for part, block in diffuse(root, indices, distances, k=SMOOTH_K):
        smoothed[:, part] = block
    return smoothed
