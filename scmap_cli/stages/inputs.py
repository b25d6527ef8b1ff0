"""What the model stages share: counts of a file aligned with a model, and its conditions as codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.matrices import find_counts
from scmap_cli.errors import InputError
from scmap_cli.io.rna import read_rna
from scmap_cli.runtime.logs import log

UNKNOWN = "unknown"
"""Category that missing values of a batch column become."""

SINGLE = "all"
"""The one condition of data without a batch column."""


@dataclass(frozen=True)
class RnaInput:
    """Counts of one file: CSR (n, g), names of genes and cells, where the counts were, and the AnnData itself."""

    counts: sparse.csr_matrix
    genes: np.ndarray
    cells: np.ndarray
    source: str
    adata: AnnData


def load_rna(path: Path, layer: str | None = None, gene_column: str | None = None, as_is: bool = False) -> RnaInput:
    """Read raw counts, or with ``as_is`` the values of ``layer`` (``X`` by default) whatever their scale.

    Raises
    ------
    InputError
        As :func:`scmap_cli.io.rna.read_rna` and :func:`scmap_cli.data.matrices.find_counts`; with ``as_is`` also for
        values that are not finite.
    """
    adata = read_rna(path, gene_column=gene_column)
    cells = adata.obs_names.to_numpy().astype(str)
    if as_is:
        if layer is not None and layer not in adata.layers:
            raise InputError(f"{path} has no layer {layer!r}", f"layers: {', '.join(adata.layers) or 'none'}")
        matrix = sparse.csr_matrix(adata.layers[layer] if layer else adata.X)
        if not np.isfinite(matrix.data).all():
            raise InputError(f"{path}: {int((~np.isfinite(matrix.data)).sum())} values are not finite")
        return RnaInput(
            matrix, adata.var_names.to_numpy().astype(str), cells, f"layer {layer!r}" if layer else "X", adata
        )
    found = find_counts(adata, layer)
    return RnaInput(found.matrix, found.var_names, cells, found.source, adata)


def condition_labels(obs: pd.DataFrame, key: str | None, path: Path) -> np.ndarray:
    """Each cell's condition as text; missing values become ``unknown``, no key gives one condition for all.

    Raises
    ------
    InputError
        There is no such column; the message names the columns that could be meant.
    """
    if key is None:
        return np.full(len(obs), SINGLE)
    if key not in obs:
        text = [str(c) for c in obs.columns if not pd.api.types.is_float_dtype(obs[c])]
        raise InputError(f"{path} has no obs column {key!r}", f"columns: {', '.join(text[:12]) or 'none'}")
    column = obs[key]
    missing = column.isna().to_numpy()
    if missing.any():
        log.warning("%d cells have no %s; they become the condition %r", missing.sum(), key, UNKNOWN)
    return np.where(missing, UNKNOWN, column.astype(object).astype(str).to_numpy())


def condition_codes(labels: np.ndarray, known: list[str] | None, path: Path) -> tuple[np.ndarray, list[str]]:
    """Codes of the conditions: of the sorted labels themselves, or of the ``known`` ones of a model.

    Raises
    ------
    InputError
        A label is none of the known ones.
    """
    if known is None:
        names, codes = np.unique(labels, return_inverse=True)
        return codes.astype(np.int64), [str(name) for name in names]
    position = {name: i for i, name in enumerate(known)}
    strange = sorted(set(labels) - set(position))
    if strange:
        raise InputError(
            f"{path} has {len(strange)} conditions that the model does not know: {', '.join(map(repr, strange[:5]))}",
            f"the model knows {', '.join(map(repr, known[:8]))}; a new batch is mapped into a model, not embedded",
        )
    return np.array([position[label] for label in labels], dtype=np.int64), known


def plain_records(record: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a parameters dict: paths become their names."""
    return {key: value.name if isinstance(value, Path) else value for key, value in record.items()}
