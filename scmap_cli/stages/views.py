"""What embeddings of models and baselines share: layouts, clusters, colours of the plot, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.columns import column_text
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import write_npz
from scmap_cli.keys import CONFIDENCE, LABEL, TSNE, UMAP, cluster_key, embedding_key, latent_names_key, variance_key
from scmap_cli.metrics.graph import BACKENDS, METHODS, cluster, knn, to_igraph
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.draw import embedding as draw_embedding
from scmap_cli.runtime import provenance
from scmap_cli.stages.inputs import RnaInput

_MIN_DIST = 0.3
_PERPLEXITY = 30.0

# Values of a whole-number column that are still taken for names.
_MOST_NAMES = 60


@dataclass
class Embedding:
    """An embedding before it is written.

    Attributes
    ----------
    name
        What made it, as in its slots.
    names
        Names of the dimensions.
    mean_nz, var_nz
        (n, z) float32 positions, and posterior variances where there are any.
    active
        (z,) bool: dimensions that the decoder uses.
    w_gk
        (g, z) weights of a linear decoder.
    umap, tsne, clusters
        What :func:`arrange` has found.
    labels, confidence
        (n,) label that a classifier gives to each cell, and its probability.
    """

    name: str
    names: list[str]
    mean_nz: np.ndarray
    var_nz: np.ndarray | None
    active: np.ndarray
    w_gk: np.ndarray | None = None
    umap: np.ndarray | None = None
    tsne: np.ndarray | None = None
    clusters: np.ndarray | None = None
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class Views:
    """Layouts and clusters wanted of an embedding, as the options of :func:`scmap_cli.stages.embed.embed`.

    Raises
    ------
    UsageError
        One makes no sense.
    """

    umap: bool
    tsne: bool
    cluster_method: str | None
    resolution: float
    neighbors: int
    cluster_backend: str

    def __post_init__(self) -> None:
        if self.cluster_method is not None and self.cluster_method not in METHODS:
            raise UsageError(f"unknown cluster method {self.cluster_method!r}", f"choose one of {', '.join(METHODS)}")
        if self.cluster_backend not in BACKENDS:
            raise UsageError(
                f"unknown cluster backend {self.cluster_backend!r}", f"choose one of {', '.join(BACKENDS)}"
            )
        if not self.resolution > 0:
            raise UsageError(f"--resolution {self.resolution} must be above 0")
        if self.neighbors < 1:
            raise UsageError(f"--neighbors {self.neighbors} must be at least 1")

    @property
    def record(self) -> dict[str, Any]:
        """What the record of a run keeps of them."""
        return {
            "umap": self.umap,
            "tsne": self.tsne,
            "cluster": self.cluster_method,
            "resolution": self.resolution,
            "neighbors": self.neighbors,
            "cluster_backend": self.cluster_backend,
        }


def arrange(result: Embedding, views: Views, seed: int) -> dict[str, Any]:
    """Find the layouts and clusters wanted of an embedding; return the number of clusters for the summary."""
    summary: dict[str, Any] = {}
    if views.cluster_method or views.umap:
        indices, distances = knn(result.mean_nz, views.neighbors, seed)
    if views.cluster_method:
        graph = to_igraph(indices)
        result.clusters = cluster(graph, views.cluster_method, views.resolution, seed, views.cluster_backend)
        summary["clusters"] = int(result.clusters.max()) + 1
    if views.umap:
        result.umap = umap_layout(result.mean_nz, indices, distances, seed)
    if views.tsne:
        result.tsne = tsne_layout(result.mean_nz, seed)
    return summary


def check_ending(output: Path) -> None:
    """:class:`UsageError` for an output that ends neither in .h5ad nor in .npz."""
    if output.suffix not in (".h5ad", ".npz"):
        raise UsageError(f"the output {output.name} ends neither in .h5ad nor in .npz", "choose one of the two")


def umap_layout(
    mean_nz: np.ndarray, indices: np.ndarray, distances: np.ndarray, seed: int, min_dist: float = _MIN_DIST
) -> np.ndarray:
    """Two-dimensional UMAP of an embedding on given neighbours, float32 (n, 2); seeded, so on one thread."""
    import umap

    n = len(mean_nz)
    self_first = np.column_stack([np.arange(n), indices]).astype(np.int32)
    self_zero = np.column_stack([np.zeros(n), distances]).astype(np.float32)
    with warnings.catch_warnings():
        # Neighbours given from outside cannot place new points later, which nobody asks of this layout.
        warnings.simplefilter("ignore")
        layout = umap.UMAP(
            n_neighbors=self_first.shape[1],
            min_dist=min_dist,
            # Spectral layouts need more cells than the dimensions of their solver.
            init="spectral" if n > 100 else "random",
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(self_first, self_zero),
        ).fit_transform(mean_nz)
    return np.asarray(layout, dtype=np.float32)


def tsne_layout(mean_nz: np.ndarray, seed: int) -> np.ndarray:
    """Two-dimensional t-SNE by scikit-learn, float32 (n, 2): perplexity 30 (less for few cells), started from PCA.

    Sums over threads would depend on their number, so it runs on one.
    """
    from sklearn.manifold import TSNE as Layout
    from threadpoolctl import threadpool_limits

    n, z = mean_nz.shape
    perplexity = min(_PERPLEXITY, max((n - 1) / 3, 1.0))
    with threadpool_limits(1):
        init = "pca" if min(n, z) >= 2 else "random"
        found = Layout(perplexity=perplexity, init=init, random_state=seed, n_jobs=1).fit_transform(mean_nz)
    return np.asarray(found, dtype=np.float32)


def check_color(color: str | None, data: RnaInput, names: Sequence[str], views: Views) -> None:
    """Refuse what :func:`plot_columns` could not show, before anything is computed.

    Raises
    ------
    InputError
        A name is neither a column or feature of the input nor a dimension; the message says what there is.
    """
    obs = data.adata.obs
    known = {*map(str, obs.columns), *names, *(["clusters"] if views.cluster_method else []), *data.genes.tolist()}
    for name in color.split(",") if color else []:
        if name not in known:
            raise InputError(
                f"--color {name!r} is neither an obs column, a program of the model nor a gene or peak",
                f"columns: {', '.join(map(str, list(obs.columns)[:12])) or 'none'}",
            )


def log1p_of(column: Any) -> np.ndarray:
    """A gene's or peak's column of a matrix, sparse or dense, as (n,) float64 log1p; below 0 counts as 0."""
    values = np.asarray(column.todense() if hasattr(column, "todense") else column, dtype=np.float64).ravel()
    return np.log1p(np.maximum(values, 0))


def plot_columns(result: Embedding, data: RnaInput, labels: np.ndarray, color: str | None) -> dict[str, np.ndarray]:
    """What the panels show: the columns asked for (obs, programs, clusters, features), else clusters and conditions."""
    obs = data.adata.obs
    columns: dict[str, np.ndarray] = {}
    for name in color.split(",") if color else []:
        if name in obs:
            # Whole numbers of few kinds are names, such as clusters; of many they are amounts, such as genes found.
            whole = pd.api.types.is_integer_dtype(obs[name])
            numeric = pd.api.types.is_float_dtype(obs[name]) or (whole and obs[name].nunique() > _MOST_NAMES)
            columns[name] = obs[name].to_numpy(float) if numeric else column_text(obs[name], "nan")
        elif name in result.names:
            columns[name] = result.mean_nz[:, result.names.index(name)].astype(float)
        elif name == "clusters" and result.clusters is not None:
            columns[name] = result.clusters.astype(str)
        else:
            columns[f"log1p {name}"] = log1p_of(data.counts[:, np.flatnonzero(data.genes == name)[0]])
    if not color and result.clusters is not None:
        columns["clusters"] = result.clusters.astype(str)
    if not color and (len(np.unique(labels)) > 1 or not columns):
        columns["condition"] = labels
    return columns


def draw_umap(
    plot: Path, result: Embedding, data: RnaInput, labels: np.ndarray, color: str | None, force: bool
) -> None:
    """Draw the UMAP of an embedding by :func:`plot_columns`."""
    publish(plot, force, "the UMAP", draw_embedding, result.umap, plot_columns(result, data, labels, color))


def write_embedding(
    output: Path, result: Embedding, data: RnaInput, variance: bool, run: provenance.Run, force: bool
) -> None:
    """Write an embedding alone (.npz), or with all that the input holds (.h5ad)."""
    if output.suffix == ".npz":
        arrays: dict[str, Any] = {
            "embedding": result.mean_nz,
            "cells": data.cells,
            "names": np.array(result.names),
            "active": result.active,
        }
        if variance:
            arrays["variance"] = result.var_nz
        if result.umap is not None:
            arrays["umap"] = result.umap
        if result.tsne is not None:
            arrays["tsne"] = result.tsne
        if result.clusters is not None:
            arrays["clusters"] = result.clusters
        if result.labels is not None:
            arrays |= {"labels": result.labels, "confidence": result.confidence}
        write_npz(output, arrays, {"kind": "embedding", "model": result.name, "history": [run.record]}, force)
        return
    adata: AnnData = data.adata
    adata.obsm[embedding_key(result.name)] = result.mean_nz
    adata.uns[latent_names_key(result.name)] = np.array(result.names, dtype=object)
    if variance:
        adata.obsm[variance_key(result.name)] = result.var_nz
    if result.umap is not None:
        adata.obsm[UMAP] = result.umap
    if result.tsne is not None:
        adata.obsm[TSNE] = result.tsne
    if result.clusters is not None:
        names = [str(i) for i in range(int(result.clusters.max()) + 1)]
        adata.obs[cluster_key(result.name)] = pd.Categorical.from_codes(result.clusters.tolist(), pd.Index(names))
    if result.labels is not None:
        adata.obs[LABEL], adata.obs[CONFIDENCE] = pd.Categorical(result.labels), result.confidence
    run.stamp(adata.uns)
    write_h5ad(adata, output, force=force)
