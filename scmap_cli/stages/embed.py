"""``scmap embed``: posterior means of a trained model for every cell; layouts, clusters, program scores on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from scmap_cli.data.batches import Store
from scmap_cli.data.matrices import binarised
from scmap_cli.errors import UsageError
from scmap_cli.io.atomic import atomic_file, check_outputs
from scmap_cli.io.bundle import Bundle, load_bundle
from scmap_cli.metrics.programs import directions
from scmap_cli.models.base import ScmapModel
from scmap_cli.models.markermap import MarkerMap
from scmap_cli.models.sailerx import SailerX
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import (
    MISSING,
    SINGLE,
    RnaInput,
    aligned_counts,
    condition_labels,
    estimated_sizes,
    model_conditions,
    plain_records,
)
from scmap_cli.stages.multiome import check_reference_options, encoder_reference
from scmap_cli.stages.views import Embedding, Views, arrange, check_color, check_ending, draw_umap, write_embedding
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.infer import embed_cells, restore_model


def embed(
    model_dir: Path,
    input: Path,
    output: Path,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    variance: bool = False,
    umap: bool = False,
    tsne: bool = False,
    cluster_method: str | None = None,
    resolution: float = 1.0,
    neighbors: int = 15,
    cluster_backend: str = "igraph",
    program_scores: Path | None = None,
    groupby: str | None = None,
    plot: Path | None = None,
    color: str | None = None,
    batch_size: int = 2048,
    min_overlap: float = 0.5,
    missing: str | None = None,
    reference_key: str | None = None,
    ignore_rna: bool = False,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Embed the cells of a file with a trained model.

    Of a SAILERX model with donors, cells without RNA are moved towards theirs, but not with ``ignore_rna``.

    Parameters
    ----------
    model_dir
        Directory written by ``scmap train``.
    input
        Counts of cells from conditions the model knows; genes are matched by name.
    output
        ``.h5ad``: the input's ``obs``, ``var`` and matrices with the embedding added. ``.npz``: the embedding alone.
    batch_key
        ``obs`` column of the conditions; by default the one of the training.
    layer, gene_column
        Where counts and gene names are.
    variance
        Also write posterior variances.
    umap
        Also write a two-dimensional UMAP of the posterior means.
    tsne
        Also write a two-dimensional t-SNE of the posterior means.
    cluster_method, resolution, neighbors, cluster_backend
        ``leiden`` or ``louvain`` clusters on the graph of nearest neighbours; the backend is that of Leiden.
    program_scores
        Also write a TSV of scores by program, signed so that up means more expression: a row per cell, or with
        ``groupby`` the mean of every group.
    groupby
        ``obs`` column, or ``clusters`` for the clusters found here.
    plot
        Picture of the UMAP (implies ``umap``), coloured by ``color``: columns, programs, genes or peaks, separated by
        commas; else by clusters and conditions.
    batch_size
        Cells per inference batch.
    min_overlap
        Smallest share of the model's genes that the input must have.
    missing
        What cells get for genes that the input lacks: ``zero``, or ``reference-mean``; by default what a mapping took.
    reference_key, ignore_rna
        What a model of multiome cells is told of their RNA, see
        :func:`scmap_cli.stages.multiome.encoder_reference`.

    Returns
    -------
    dict
        Cells, overlap of genes, active programs, clusters.

    Raises
    ------
    UsageError, InputError, DeviceError, WriteError
        With exit codes 2, 3, 5 and 6.
    """
    model_dir, input, output = Path(model_dir), Path(input), Path(output)
    check_ending(output)
    views = Views(umap or plot is not None, tsne, cluster_method, resolution, neighbors, cluster_backend)
    _check_options(cluster_method, batch_size, min_overlap, groupby, missing)
    check_outputs(output, program_scores, figures=[plot], force=force)
    where = resolve_device(device)
    parameters = {
        "batch_key": batch_key,
        "layer": layer,
        "gene_column": gene_column,
        "variance": variance,
        **views.record,
        "batch_size": batch_size,
        "missing": missing,
        "reference_key": reference_key,
        "ignore_rna": ignore_rna,
    }
    with (
        provenance.run(
            "embed",
            inputs=[model_dir, input],
            output=None if dry_run else output,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        bundle = load_bundle(model_dir)
        kind = get_model(bundle.config["model"]).load()
        if kind.features == "peaks" and missing == "reference-mean":
            raise UsageError("--missing reference-mean scales counts; this model reads open and closed peaks")
        if bundle.config["model"] == "expresser" and missing == "reference-mean":
            raise UsageError("--missing reference-mean gives every cell all genes; this model reads which it expresses")
        if variance and not kind.has_variance:
            raise UsageError(f"--variance: an embedding by {bundle.config['model']} has none")
        check_reference_options(bundle, reference_key, ignore_rna)
        data, counts, report = aligned_counts(
            bundle, input, layer=layer, gene_column=gene_column, min_overlap=min_overlap, missing=missing
        )
        if kind.told_condition:
            labels, codes = model_conditions(bundle, data, batch_key, input)
        else:
            labels, codes = _unseen_conditions(bundle, data, batch_key, input), np.zeros(len(data.cells), np.int64)
        reference = encoder_reference(bundle, data.adata, input, reference_key, ignore_rna)
        sizes = estimated_sizes(counts, report) if "markers" in bundle.config else None
        values = binarised(counts) if kind.features == "peaks" else counts
        store = kind.make_store(values, codes, reference=reference, size_n=sizes)
        summary: dict[str, Any] = {"model": bundle.config["model"], "cells": store.n, "genes": report}
        check_color(color, data, bundle.categories.get("latent", []), views)
        if dry_run:
            return summary
        model = restore_model(kind, bundle.config, bundle.tensors, where)
        if isinstance(model, SailerX) and ignore_rna:
            model.donors = None
        mean_nz, var_nz = embed_cells(model, store.to(where), batch_size)
        result = _of_model(bundle, model, mean_nz, var_nz)
        if bundle.config.get("label_key") and isinstance(model, MarkerMap) and model.config.alpha < 1:
            result.labels, result.confidence = _predicted(bundle, model, store, batch_size)
        summary |= {"dimensions": mean_nz.shape[1], "active": int(result.active.sum())}
        summary |= arrange(result, views, seed)
        if program_scores is not None:
            _write_scores(program_scores, result, data, groupby, force)
        write_embedding(output, result, data, variance, run, force)
        if plot is not None:
            draw_umap(plot, result, data, labels, color, force)
        told = f" programs, {summary['active']} active" if result.w_gk is not None else " dimensions"
        log.info("wrote %s: %d cells x %d%s", output, *mean_nz.shape, told)
    return summary


def _predicted(bundle: Bundle, model: MarkerMap, store: Store, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Label of each cell by the model's classifier, and its probability."""
    chance_nc = np.concatenate(
        [
            model.classify(store.batch(torch.arange(start, min(start + batch_size, store.n)))).float().cpu().numpy()
            for start in range(0, store.n, batch_size)
        ]
    )
    names = np.array(bundle.categories["condition"])
    return names[chance_nc.argmax(1)], chance_nc.max(1)


def _of_model(bundle: Bundle, model: ScmapModel, mean_nz: np.ndarray, var_nz: np.ndarray) -> Embedding:
    names = [str(n) for n in bundle.categories.get("latent", [])] or [f"z{i}" for i in range(mean_nz.shape[1])]
    weights = getattr(model, "decoder_weights", None)
    w_gk = weights().cpu().numpy() if weights is not None else None
    active = (w_gk != 0).any(0) if w_gk is not None else np.ones(mean_nz.shape[1], dtype=bool)
    return Embedding(bundle.config["model"], names, mean_nz, var_nz, active, w_gk)


def _check_options(
    method: str | None, batch_size: int, min_overlap: float, groupby: str | None, missing: str | None
) -> None:
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1")
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"--min-overlap {min_overlap} is not in [0, 1]")
    if missing is not None and missing not in MISSING:
        raise UsageError(f"--missing is {missing!r}", f"choose one of {', '.join(MISSING)}")
    if groupby == "clusters" and method is None:
        raise UsageError("--groupby clusters needs clusters", "give --cluster leiden")


def _unseen_conditions(bundle: Bundle, data: RnaInput, batch_key: str | None, path: Path) -> np.ndarray:
    """Each cell's batch where the encoder is not told it; batches that the training did not see are only warned of."""
    key = batch_key or bundle.config["batch_key"]
    if key is None or (batch_key is None and key not in data.adata.obs):
        return np.full(len(data.cells), SINGLE)
    labels = condition_labels(data.adata.obs, key, path)
    strange = sorted(set(labels) - set(bundle.categories["condition"]))
    if strange:
        log.warning(
            "%d batches were not in the training (%s): the embedding is not made free of them",
            len(strange),
            ", ".join(map(repr, strange[:4])),
        )
    return labels


def _write_scores(path: Path, result: Embedding, data: RnaInput, groupby: str | None, force: bool) -> None:
    """Signed scores (posterior mean times direction) as TSV; an undecided direction keeps the model's sign."""
    sign_k = np.ones(len(result.names))
    if result.w_gk is not None:
        found = directions(result.w_gk, "sum")
        sign_k = np.where(found == 0, 1, found)
    table = pd.DataFrame(result.mean_nz * sign_k.astype(np.float32), index=data.cells, columns=result.names)
    table = table.loc[:, result.active]
    if groupby is not None:
        groups = result.clusters.astype(str) if groupby == "clusters" and result.clusters is not None else None
        if groups is None:
            groups = condition_labels(data.adata.obs, groupby, path)
        table.insert(0, "cells", 1.0)
        counts = table["cells"].groupby(groups).sum()
        table = table.groupby(groups).mean()
        table["cells"] = counts.astype(int)
        table = table.sort_index(key=lambda index: index.astype(int) if index.str.isdigit().all() else index)
        table.index.name = groupby
    else:
        table.index.name = "cell"
    with atomic_file(path, force) as tmp:
        table.to_csv(tmp, sep="\t", float_format="%.5g")
