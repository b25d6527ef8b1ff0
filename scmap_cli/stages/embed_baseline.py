"""``scmap embed --baseline``: linear embeddings without a model, written as those of models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.data.decomposition import TFIDF, harmony, lsi, pca
from scmap_cli.data.matrices import cell_totals
from scmap_cli.errors import UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.embeddings import BASELINES, baseline_slot
from scmap_cli.stages.inputs import condition_labels, load_rna
from scmap_cli.stages.views import Embedding, Views, arrange, check_color, check_ending, draw_umap, write_embedding


def embed_baseline(
    input: Path,
    output: Path,
    *,
    baseline: str,
    components: int = 30,
    drop_first: bool = True,
    tfidf: str = "log-tfidf",
    binary: bool = False,
    input_scale: str = "counts",
    batch_key: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    umap: bool = False,
    tsne: bool = False,
    cluster_method: str | None = None,
    resolution: float = 1.0,
    neighbors: int = 15,
    cluster_backend: str = "igraph",
    plot: Path | None = None,
    color: str | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Embed the cells of a file by a linear method, see :mod:`scmap_cli.data.decomposition`.

    Parameters
    ----------
    input
        Raw counts of peaks or genes.
    output
        ``.h5ad``: the input with ``obsm["X_lsi"]``, ``X_pca`` or ``X_lsi_harmony`` added. ``.npz``: the embedding
        alone.
    baseline
        ``lsi``, ``pca``, or ``lsi-harmony``: LSI corrected for the batches of ``batch_key``.
    components
        Dimensions written.
    drop_first
        Leave the first component of LSI out, which mostly follows depth.
    tfidf, binary
        Form of TF-IDF, and whether counts above 0 are taken as 1 first.
    input_scale
        ``counts``, or ``as-is`` for ``pca`` of values whatever their scale: what ``impute`` wrote.
    batch_key
        ``obs`` column of the batches, for ``lsi-harmony`` and as a colour of the plot.
    layer, gene_column
        Where counts and feature names are.
    umap, tsne, cluster_method, resolution, neighbors, cluster_backend, plot, color
        As :func:`scmap_cli.stages.embed.embed`.

    Returns
    -------
    dict
        Cells, dimensions, clusters, correlation of the first dimension with log depth.

    Raises
    ------
    UsageError, InputError, WriteError
        With exit codes 2, 3 and 6.
    """
    input, output = Path(input), Path(output)
    check_ending(output)
    views = Views(umap or plot is not None, tsne, cluster_method, resolution, neighbors, cluster_backend)
    _check_options(baseline, components, tfidf, input_scale, batch_key)
    check_outputs(output, figures=[plot], force=force)
    by_tfidf = {"drop_first": drop_first, "tfidf": tfidf, "binary": binary}
    parameters = {
        "baseline": baseline,
        "components": components,
        **({"input_scale": input_scale} if baseline == "pca" else by_tfidf),
        "batch_key": batch_key,
        "layer": layer,
        "gene_column": gene_column,
        **views.record,
    }
    with provenance.run(
        "embed", inputs=[input], output=None if dry_run else output, parameters=parameters, seed=seed
    ) as run:
        as_is = input_scale == "as-is"
        data = load_rna(input, layer, gene_column, as_is)
        labels = condition_labels(data.adata.obs, batch_key, input)
        summary: dict[str, Any] = {"baseline": baseline, "cells": len(data.cells), "dimensions": components}
        dropped = int(drop_first and baseline != "pca")
        names = [f"{baseline.partition('-')[0].upper()}{i + 1 + dropped}" for i in range(components)]
        check_color(color, data, names, views)
        if dry_run:
            return summary
        if baseline == "pca":
            emb_nz = pca(data.counts, components, as_is=as_is, seed=seed)
        else:
            emb_nz = lsi(data.counts, components, form=tfidf, binary=binary, drop_first=drop_first, seed=seed)
        depth_n = np.zeros(1) if as_is else np.log1p(cell_totals(data.counts))
        if depth_n.std() > 0:
            summary["first_with_depth"] = round(float(np.corrcoef(emb_nz[:, 0], depth_n)[0, 1]), 6)
        if baseline == "lsi-harmony":
            emb_nz = harmony(emb_nz, labels, seed=seed)
        active = np.ones(components, dtype=bool)
        result = Embedding(baseline_slot(baseline), names, emb_nz.astype(np.float32), None, active)
        summary |= arrange(result, views, seed)
        write_embedding(output, result, data, False, run, force)
        if plot is not None:
            draw_umap(plot, result, data, labels, color, force)
        log.info("wrote %s: %d cells x %d components of %s", output, *emb_nz.shape, baseline)
    return summary


def _check_options(baseline: str, components: int, tfidf: str, input_scale: str, batch_key: str | None) -> None:
    if baseline not in BASELINES:
        raise UsageError(f"unknown baseline {baseline!r}", f"choose one of {', '.join(BASELINES)}")
    if components < 1:
        raise UsageError(f"--components must be at least 1, not {components}")
    if tfidf not in TFIDF:
        raise UsageError(f"unknown TF-IDF {tfidf!r}", f"choose one of {', '.join(TFIDF)}")
    if input_scale not in ("counts", "as-is"):
        raise UsageError(f"unknown scale {input_scale!r}", "choose counts or as-is")
    if input_scale == "as-is" and baseline != "pca":
        raise UsageError(f"--input-scale as-is is for pca; {baseline} is of counts")
    if baseline == "lsi-harmony" and batch_key is None:
        raise UsageError("lsi-harmony corrects for batches", "name their column with --batch-key")
