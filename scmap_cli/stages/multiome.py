"""What the stages read of a multiome file beside its peaks: the reference embedding, and which cells have RNA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmap_cli.data.alignment import unit_rows
from scmap_cli.errors import InputError
from scmap_cli.io.bundle import Bundle
from scmap_cli.io.h5ad import is_sparse
from scmap_cli.keys import HAS_RNA, REFERENCE_ID
from scmap_cli.runtime.logs import log


def embedding(adata: AnnData, key: str, path: Path) -> np.ndarray:
    """An ``obsm`` entry as dense float64 (n, r), r of at least 2.

    Raises
    ------
    InputError
        There is none of that name, or it has another form.
    """
    if key not in adata.obsm:
        known = ", ".join(map(str, adata.obsm)) or "none"
        raise InputError(
            f"{path} has no obsm key {key!r} (keys: {known})",
            "name the embedding of the RNA by --reference-key; `scmap preprocess multiome` without it makes one",
        )
    found: Any = adata.obsm[key]
    values: np.ndarray = np.asarray(found.toarray() if is_sparse(found) else found, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise InputError(f"obsm {key!r} of {path} has shape {values.shape}", "give an embedding of several dimensions")
    return values


def reference_rows(adata: AnnData, key: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reference of each cell as rows of length one, float32 (n, r), zeros without RNA; and which cells have RNA, bool.

    Cells without RNA are those that ``obs["has_rna"]`` says, or in a file without it those whose whole row is NaN.

    Raises
    ------
    InputError
        There is no such key, ``has_rna`` is not of true and false, or a cell with RNA has no usable row.
    """
    values = embedding(adata, key, path)
    has_n: np.ndarray = np.asarray(~np.isnan(values).all(1))
    if HAS_RNA in adata.obs:
        column = adata.obs[HAS_RNA]
        if not pd.api.types.is_bool_dtype(column.dtype):
            raise InputError(f"obs column {HAS_RNA!r} of {path} is not of true and false", "make it so, or remove it")
        has_n = column.to_numpy(dtype=bool)
    return unit_rows(values, has_n, adata.obs_names.to_numpy().astype(str), f"obsm {key!r} of {path}"), has_n


def reference_id(adata: AnnData) -> str | None:
    """What tells the reference of a file from one made anew, None where nothing does."""
    found = adata.uns.get(REFERENCE_ID)
    return None if found is None else str(found)


def encoder_reference(bundle: Bundle, adata: AnnData, path: Path, key: str | None, ignore: bool) -> np.ndarray | None:
    """The reference that cells are encoded with, as :func:`reference_rows`; None for a model that takes none.

    A model knows the reference that it was trained with, if `preprocess multiome` made the file. Cells of a file with
    another one are then encoded by their peaks alone, with a warning, unless ``key`` names an embedding of the same
    space; a model trained on a file of another origin takes an embedding of the same name, with a warning.

    Parameters
    ----------
    bundle, adata, path
        The model, the cells, and where they are from.
    key
        ``obsm`` key; None takes that of the training.
    ignore
        Encode all cells by their peaks alone.

    Raises
    ------
    InputError
        As :func:`reference_rows`; or the embedding has another number of dimensions than the model's.
    """
    known = bundle.config.get("reference")
    if known is None:
        return None
    empty = np.zeros((adata.n_obs, int(known["dimensions"])), dtype=np.float32)
    if ignore:
        return empty
    if key is None:
        if known["key"] not in adata.obsm:
            log.info("%s has no obsm key %r: all cells are encoded by their peaks alone", path, known["key"])
            return empty
        if reference_id(adata) != known["id"]:
            log.warning(
                "obsm %r of %s is not the embedding that the model was trained with: all cells are encoded by their "
                "peaks alone (--reference-key takes it nevertheless, if it is of the same space)",
                known["key"],
                path,
            )
            return empty
        if known["id"] is None:
            log.warning(
                "nothing tells whether obsm %r of %s is of the space that the model was trained with; it is taken to "
                "be (--ignore-rna leaves it out)",
                known["key"],
                path,
            )
    rows, has_n = reference_rows(adata, key or known["key"], path)
    if rows.shape[1] != empty.shape[1]:
        raise InputError(
            f"the reference of {path} has {rows.shape[1]} dimensions, the model's {empty.shape[1]}",
            "give an embedding of the same space, or encode by the peaks alone with --ignore-rna",
        )
    log.info("%d cells are encoded with their RNA, %d by their peaks alone", has_n.sum(), (~has_n).sum())
    return rows
