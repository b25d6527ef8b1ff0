"""What ``scmap map-query`` writes: the query with labels and novelty, reference and query together, their picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import recall_score

from scmap_cli import keys
from scmap_cli.io.columns import text_series
from scmap_cli.io.h5ad import new_adata
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.transfer import UNKNOWN_LABEL, Transfer
from scmap_cli.plots.draw import embedding
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import text_column
from scmap_cli.stages.query_inputs import Cells
from scmap_cli.stages.views import umap_layout

_NEIGHBOURS = 15


def query_file(cells: Cells, model: str, names: list[str]) -> AnnData:
    """The query's own AnnData with the embedding and the conditions added."""
    adata = cells.data.adata
    adata.obsm[keys.embedding_key(model)] = cells.mean_nz
    adata.uns[keys.latent_names_key(model)] = np.array(names, dtype=object)
    adata.obs[keys.BATCH] = pd.Categorical(cells.conditions)
    return adata


def put_labels(adata: AnnData, found: Transfer) -> None:
    """Write labels, their probability and entropy, and novelty into ``obs``."""
    adata.obs[keys.LABEL] = pd.Categorical(found.labels)
    adata.obs[keys.CONFIDENCE] = found.confidence.astype(np.float32)
    adata.obs[keys.LABEL_ENTROPY] = found.entropy.astype(np.float32)
    adata.obs[keys.NOVELTY] = found.novelty.astype(np.float32)


def agreement(found: Transfer, obs: pd.DataFrame, key: str) -> dict[str, Any]:
    """Shares of labels, and where the query has true ones that the reference knows, how many were met.

    ``accuracy`` and ``macro_recall`` compare the most probable label; ``accuracy_of_called`` leaves out the cells that
    are called unknown.
    """
    names, counts = np.unique(found.labels, return_counts=True)
    report: dict[str, Any] = {
        "cells": len(found.labels),
        "called": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
        "unknown_share": float((found.labels == UNKNOWN_LABEL).mean()),
        "mean_novelty": float(found.novelty.mean()),
    }
    if key not in obs:
        return report
    truth = text_column(obs, key, None)
    shared = np.isin(truth, found.names)
    report["true_labels"] = {"cells": int((truth != "").sum()), "known_to_reference": int(shared.sum())}
    if shared.any():
        met = found.best[shared] == truth[shared]
        called = found.labels[shared] != UNKNOWN_LABEL
        report["accuracy"] = float(met.mean())
        report["macro_recall"] = float(
            recall_score(truth[shared], found.best[shared], labels=np.unique(truth[shared]), average="macro")
        )
        report["accuracy_of_called"] = float(met[called].mean()) if called.any() else None
    return report


def label_line(report: dict[str, Any]) -> str:
    """One line for the log."""
    line = f"labels carried over to {report['cells']} cells, {report['unknown_share']:.1%} unknown"
    if "accuracy" in report:
        cells = report["true_labels"]["known_to_reference"]
        line += f"; {report['accuracy']:.3f} of {cells} cells with a known true label agree"
        line += f" (mean over labels {report['macro_recall']:.3f})"
    return line


def draw_map(query: Cells, reference: Cells | None, found: Transfer | None, seed: int, path: Path) -> None:
    """A UMAP of the query, and of the reference where it was given, by origin, batch and label."""
    parts = [query] if reference is None else [reference, query]
    mean_nz = np.concatenate([cells.mean_nz for cells in parts])
    columns = {"batch": np.concatenate([cells.conditions for cells in parts])}
    if reference is not None:
        columns["origin"] = np.repeat(["reference", "query"], [len(reference.codes), len(query.codes)])
        if found is not None and reference.labels is not None:
            columns["label"] = np.concatenate([reference.labels, found.labels])
    embedding(umap_layout(mean_nz, *knn(mean_nz, _NEIGHBOURS, seed), seed), columns, path)


def joined_file(
    reference: Cells, query: Cells, adata: AnnData, features: np.ndarray, model: str, names: list[str]
) -> AnnData:
    """Reference and query over the model's genes; ``obs`` columns that both have, the labels, and where cells are from.

    Where a name is of a cell of both, all names get ``-reference`` or ``-query`` behind them.
    """
    left, right = reference.data.adata.obs, adata.obs
    shared = [column for column in left.columns if column in right.columns]
    others = [*left.columns.difference(shared), *right.columns.difference(shared)]
    if others:
        log.info("--join: cell columns of one of the two files alone are left out: %s", ", ".join(map(str, others)))
    obs = pd.concat([left[shared].astype(object), right[shared].astype(object)])
    for column in shared:
        values = obs[column]
        numeric = pd.api.types.is_numeric_dtype(left[column]) and pd.api.types.is_numeric_dtype(right[column])
        obs[column] = pd.to_numeric(values) if numeric else pd.Categorical(text_series(values))
    origin = np.repeat(["reference", "query"], [len(left), len(right)])
    obs[keys.ORIGIN] = pd.Categorical(origin)
    obs[keys.BATCH] = pd.Categorical(np.concatenate([reference.conditions, query.conditions]))
    for column in (keys.LABEL, keys.CONFIDENCE, keys.LABEL_ENTROPY, keys.NOVELTY):
        if column in right:
            text = column == keys.LABEL
            none: list[Any] = [None if text else np.nan] * len(left)
            values = pd.Series([*none, *right[column].tolist()], index=obs.index)
            obs[column] = pd.Categorical(values) if text else values.astype(np.float32)
    cells = np.concatenate([reference.data.cells, query.data.cells])
    if len(np.unique(cells)) < len(cells):
        cells = np.array([f"{cell}-{where}" for cell, where in zip(cells, origin, strict=True)])
    obs.index = pd.Index(cells)
    counts = sparse.csr_matrix(sparse.vstack([reference.counts, query.counts]))
    both = new_adata(counts, obs, pd.DataFrame(index=pd.Index(features.astype(str))))
    both.obsm[keys.embedding_key(model)] = np.concatenate([reference.mean_nz, query.mean_nz])
    both.uns[keys.latent_names_key(model)] = np.array(names, dtype=object)
    return both
