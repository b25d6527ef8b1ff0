"""Expression of genes that a cell was not seen to express, from a trained Expresser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.features import align, apply
from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import Bundle
from scmap_cli.io.h5ad import check_csr, write_h5ad_rows
from scmap_cli.io.npz import write_npz_rows
from scmap_cli.io.text import read_names
from scmap_cli.keys import HISTORY
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import RnaInput, aligned_counts
from scmap_cli.training.asked import impute_entries
from scmap_cli.training.infer import restore_model

_AT_ONCE = 32
"""Candidate genes asked for together: each is taken for expressed, and many would change what a cell looks like."""


def impute_values(
    bundle: Bundle,
    input: Path,
    output: Path,
    run: provenance.Run,
    *,
    features: Path | None,
    entries_layer: str | None,
    layer: str | None,
    batch_size: int,
    min_overlap: float,
    where: torch.device,
    force: bool,
    dry_run: bool,
) -> dict[str, Any]:
    """Predict values of genes, given that they are expressed: log1p of counts per 10,000 observed counts.

    With ``features`` the output is dense: a gene's own value where the cell expresses it, else the predicted one, where
    candidates are asked for a few dozen at a time. With ``entries_layer`` it is sparse and holds the marked entries
    alone, which are asked for together; counts that the input has there are not used.

    Returns
    -------
    dict
        Cells, genes, entries predicted, overlap of genes.

    Raises
    ------
    UsageError, InputError
        Neither or both of the two are given; a gene is not the model's; there is no such layer.
    """
    if (features is None) == (entries_layer is None):
        raise UsageError(
            "an expresser imputes the genes that are asked for",
            "give a list of genes by --features, or the entries by --entries-layer",
        )
    data, counts, report = aligned_counts(bundle, input, layer=layer, min_overlap=min_overlap)
    counts.sort_indices()
    n = counts.shape[0]
    chosen = np.arange(len(bundle.features)) if features is None else _columns(bundle.features, features)
    marked = None if entries_layer is None else _marked(data, bundle, entries_layer, input)
    predicted = n * len(chosen) - counts[:, chosen].nnz if marked is None else marked.nnz
    summary = {"cells": n, "genes": len(chosen), "entries": int(predicted), "overlap": report}
    if dry_run:
        return summary
    model: Any = restore_model(get_model("expresser").load(), bundle.config, bundle.tensors, where)

    def blocks() -> Iterator[Any]:
        if marked is not None:
            yield impute_entries(model, counts, marked, where, batch_size)
            return
        for start in range(0, n, 1024):
            yield _filled(model, counts[start : start + 1024], chosen, where, batch_size)

    shape = (n, len(chosen))
    if output.suffix == ".npz":
        names = {"cells": data.cells, "features": bundle.features[chosen]}
        header = {"kind": "imputed", "unit": "log1p CP10k, given that the gene is expressed", "history": [run.record]}
        write_npz_rows(output, blocks(), shape, names, header, force)
    else:
        frame = AnnData(obs=data.adata.obs.copy(), var=data.adata.var.reindex(bundle.features[chosen]))
        frame.uns = {k: v for k, v in data.adata.uns.items() if k == HISTORY}
        run.stamp(frame.uns)
        write_h5ad_rows(frame, blocks(), shape, output, force=force)
    log.info("wrote %s: %d entries of %d cells predicted, given that their genes are expressed", output, predicted, n)
    return summary


def _filled(
    model: Any, counts: sparse.csr_matrix, chosen: np.ndarray, where: torch.device, batch_size: int
) -> np.ndarray:
    """(rows, chosen) float32: a cell's own values, and predictions where it has none."""
    values = log1p_cp10k(counts)[:, chosen].toarray().astype(np.float32)
    absent = values == 0
    for start in range(0, len(chosen), _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, len(chosen)))
        row, column = np.nonzero(absent[:, part])
        wanted = sparse.csr_matrix((np.ones(len(row)), (row, chosen[part][column])), shape=counts.shape)
        wanted.sort_indices()
        found = impute_entries(model, counts, wanted, where, batch_size)
        values[:, part] += found[:, chosen[part]].toarray()
    return values


def _marked(data: RnaInput, bundle: Bundle, name: str, path: Path) -> sparse.csr_matrix:
    """The entries that a layer marks, in the genes of the model."""
    if name not in data.adata.layers:
        raise InputError(f"{path} has no layer {name!r}", f"layers: {', '.join(data.adata.layers) or 'none'}")
    layer = sparse.csr_matrix(data.adata.layers[name])
    check_csr(layer, f"{path}: layer {name!r}")
    layer.eliminate_zeros()
    names = data.adata.var_names.to_numpy().astype(str)
    aligned = apply(layer, align(names, bundle.features))
    if aligned.nnz == 0:
        raise InputError(f"layer {name!r} of {path} marks no entry of a gene of the model")
    aligned.sort_indices()
    return aligned


def _columns(names: np.ndarray, path: Path) -> np.ndarray:
    wanted = read_names(path)
    index = align(names, wanted).index
    missing = [name for name, at in zip(wanted, index.tolist(), strict=True) if at < 0]
    if missing:
        raise InputError(
            f"{path} names {len(missing)} genes that the model lacks, first {missing[0]!r}",
            f"the model's genes are named like {names[0]!r}",
        )
    return index
