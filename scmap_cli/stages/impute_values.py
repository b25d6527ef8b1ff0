"""Expression of genes that a cell was not seen to express, from a trained Expresser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.data.features import align, apply
from scmap_cli.data.matrices import cell_totals, log1p_cp10k, row_chunks
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import Bundle
from scmap_cli.io.h5ad import check_csr
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log, progress
from scmap_cli.stages.imputed import Sample, write_imputed
from scmap_cli.stages.inputs import RnaInput, aligned_counts, named_columns
from scmap_cli.training.asked import check_told, impute_entries, impute_genes
from scmap_cli.training.infer import restore_model

_CELLS = 1024


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
    plot: Path | None,
    seed: int,
    force: bool,
    dry_run: bool,
) -> dict[str, Any]:
    """Predict values of genes, given that they are expressed: log1p of counts per 10,000 of the input's counts.

    With ``features`` the output is dense: a gene's own value where the cell expresses it, else the predicted one, which
    does not depend on the other genes of the list. With ``entries_layer`` it is sparse and holds the marked entries
    alone, which are asked for together: what else a cell expresses is told by them. Counts that the input has there are
    not used. Cells without a count in a gene of the model are left at 0, and a warning tells how many.

    Returns
    -------
    dict
        Cells, genes, entries predicted, overlap of genes.

    Raises
    ------
    UsageError, InputError
        Neither or both of the two are given; a gene is not the model's; there is no such layer; no cell has a count.
    """
    if (features is None) == (entries_layer is None):
        raise UsageError(
            "an expresser imputes the genes that are asked for",
            "give a list of genes by --features, or the entries by --entries-layer",
        )
    data, counts, report = aligned_counts(bundle, input, layer=layer, min_overlap=min_overlap)
    n = counts.shape[0]
    chosen = named_columns(bundle.features, features, "genes")
    shown, marked = data.counts, None
    if entries_layer is not None:
        hidden = _marked(data, entries_layer, input)
        shown = (shown - shown.multiply(hidden)).tocsr()
        shown.eliminate_zeros()
        alignment = align(data.genes, bundle.features)
        counts, marked = apply(shown, alignment), apply(hidden, alignment)
        if marked.nnz == 0:
            raise InputError(f"layer {entries_layer!r} of {input} marks no entry of a gene of the model")
    total_n = cell_totals(shown)
    check_told(counts)
    predicted = n * len(chosen) - counts[:, chosen].nnz if marked is None else marked.nnz
    summary = {"cells": n, "genes": len(chosen), "entries": int(predicted), "overlap": report}
    if dry_run:
        return summary
    model: Any = restore_model(get_model("expresser").load(), bundle.config, bundle.tensors, where)

    def blocks() -> Iterator[Any]:
        if marked is not None:
            yield impute_entries(model, counts, marked, total_n, where, batch_size)
            return
        with progress("imputing cells", n) as bar:
            for rows, block in row_chunks(counts, _CELLS):
                own_ng = log1p_cp10k(block, totals=total_n[rows])[:, chosen].toarray()
                found_ng = impute_genes(model, block, chosen, total_n[rows], where, batch_size)
                bar.advance(block.shape[0])
                yield np.where(own_ng > 0, own_ng, found_ng)

    header = {
        "unit": "log1p CP10k, given that the gene is expressed",
        "withheld": provenance.read_withheld(data.adata.uns),
    }
    names, sample = bundle.features[chosen], Sample(n, seed)
    values = blocks()
    if plot is not None:
        before = log1p_cp10k(counts[sample.rows], totals=total_n[sample.rows])
        values = sample.watch(values, before[:, chosen], adds=marked is not None)
    write_imputed(output, data, names, values, run, header, force)
    if plot is not None:
        asked = "every gene taken as expressed" if marked is None else "with the marked entries"
        sample.draw(plot, force, names, "genes", "log1p CP10k of the input", f"log1p CP10k, {asked}")
    log.info("wrote %s: %d entries of %d cells predicted, given that their genes are expressed", output, predicted, n)
    return summary


def _marked(data: RnaInput, name: str, path: Path) -> sparse.csr_matrix:
    """1 for the entries that a layer marks, in the genes of the counts."""
    if name not in data.adata.layers:
        raise InputError(f"{path} has no layer {name!r}", f"layers: {', '.join(data.adata.layers) or 'none'}")
    layer = sparse.csr_matrix(data.adata.layers[name])
    check_csr(layer, f"{path}: layer {name!r}")
    layer.eliminate_zeros()
    layer.data = np.ones(layer.nnz, dtype=np.float32)
    return apply(layer, align(data.adata.var_names.to_numpy().astype(str), data.genes))
