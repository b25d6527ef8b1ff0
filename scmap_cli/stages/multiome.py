"""What the stages read of a multiome file beside its peaks: the reference embedding, and which cells have RNA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmap_cli.data.alignment import same_rows, sketch, unit_rows
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import Bundle, check_file
from scmap_cli.io.h5ad import is_sparse
from scmap_cli.io.npz import read_npz, write_npz
from scmap_cli.keys import HAS_RNA, REFERENCE_ID
from scmap_cli.runtime.logs import log

KEPT = "reference.npz"
"""File in a model directory: cells with RNA, and a sketch of the reference of each."""


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


def keep_reference(folder: Path, cells: np.ndarray, unit_nr: np.ndarray, has_n: np.ndarray) -> None:
    """Write into a model's folder by what the reference of each of its cells is known again."""
    arrays = {"cells": cells[has_n].astype(str), "sketch": sketch(unit_nr[has_n])}
    write_npz(folder / KEPT, arrays, {"kind": "reference"})


def check_reference_options(bundle: Bundle, key: str | None, ignore: bool) -> None:
    """Refuse options of :func:`encoder_reference` that would change nothing, as the model looks at no RNA."""
    if key is not None and not _sees_reference(bundle):
        raise UsageError("--reference-key: the encoder of this model takes no reference", "leave it out")
    if ignore and bundle.config.get("reference") is None:
        raise UsageError("--ignore-rna: this model has no RNA to leave out", "leave it out")


def _sees_reference(bundle: Bundle) -> bool:
    return bundle.config.get("reference") is not None and bundle.config["model_config"]["reference_dropout"] < 1


def encoder_reference(bundle: Bundle, adata: AnnData, path: Path, key: str | None, ignore: bool) -> np.ndarray | None:
    """The reference that cells are encoded with, as :func:`reference_rows`; None for an encoder that takes none.

    An embedding serves if it is of the space of the one that the model was trained with. Cells of the training that
    are among those given tell it: their rows must be the same. Where there are none of them, the digest that
    `preprocess multiome` wrote into both files tells it, or the user, who names the embedding by ``key``; of files of
    another origin it is assumed, with a warning. Cells with an embedding of another space are encoded by their peaks
    alone, with a warning.

    A model without agreement was not taught to put a cell without its RNA where it is with it: there is a warning.

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
        As :func:`reference_rows`; or the embedding named by ``key`` has other rows for cells of the training, or it
        has another number of dimensions than the model's.
    """
    rows = _fitting_reference(bundle, adata, path, key, ignore)
    if rows is None:
        return None
    blind = int((~rows.any(1)).sum())
    if blind and not ignore and not bundle.config["structure"].get("agreement"):
        log.warning(
            "%d cells are encoded without RNA by a model that was trained without agreement, as it is where all cells "
            "have RNA: they lie apart from cells that are encoded with it. For one space train with "
            "`--reference-agreement 10 --unit-length yes`",
            blind,
        )
    return rows


def _fitting_reference(bundle: Bundle, adata: AnnData, path: Path, key: str | None, ignore: bool) -> np.ndarray | None:
    """The reference without what :func:`encoder_reference` warns of."""
    if not _sees_reference(bundle):
        return None
    known = bundle.config["reference"]
    empty = np.zeros((adata.n_obs, int(known["dimensions"])), dtype=np.float32)
    if ignore:
        return empty
    if key is None and known["key"] not in adata.obsm:
        log.info("%s has no obsm key %r: all cells are encoded by their peaks alone", path, known["key"])
        return empty
    name = known["key"] if key is None else key
    rows, has_n = reference_rows(adata, name, path)
    fits = rows.shape[1] == empty.shape[1]
    same, other = _known_again(bundle, adata.obs_names.to_numpy().astype(str)[has_n], rows[has_n]) if fits else (0, 0)
    if other > same:
        what = (
            f"obsm {name!r} of {path} is not the embedding that the model was trained with: {other} of "
            f"{same + other} cells of the training have other rows in it"
        )
        if key is not None:
            raise InputError(
                what,
                "give the embedding of the training, or --ignore-rna; if these are other cells, give them other names",
            )
        log.warning("%s; all cells are encoded by their peaks alone", what)
        return empty
    if other:
        log.warning(
            "%d cells have the name of a cell of the training, and another row in obsm %r: taken to be other cells",
            other,
            name,
        )
    if not same and key is None and reference_id(adata) != known["id"]:
        log.warning(
            "obsm %r of %s is not the embedding that the model was trained with: all cells are encoded by their "
            "peaks alone (--reference-key takes it nevertheless, if it is of the same space)",
            name,
            path,
        )
        return empty
    if not same and key is None and known["id"] is None:
        log.warning(
            "nothing tells whether obsm %r of %s is of the space that the model was trained with; it is taken to "
            "be (--ignore-rna leaves it out)",
            name,
            path,
        )
    if not fits:
        raise InputError(
            f"the reference of {path} has {rows.shape[1]} dimensions, the model's {empty.shape[1]}",
            "give an embedding of the same space, or encode by the peaks alone with --ignore-rna",
        )
    log.info("%d cells are encoded with their RNA, %d by their peaks alone", has_n.sum(), (~has_n).sum())
    return rows


def _known_again(bundle: Bundle, cells: np.ndarray, unit_nr: np.ndarray) -> tuple[int, int]:
    """How many cells of the training have the row that they had then, and how many another one."""
    if not (bundle.path / KEPT).is_file():
        return 0, 0
    check_file(bundle.config, bundle.path / KEPT)
    _, kept = read_npz(bundle.path / KEPT, "reference")
    place = pd.Index(kept["cells"]).get_indexer(pd.Index(cells))
    shared = place >= 0
    same = int(same_rows(kept["sketch"][place[shared]], sketch(unit_nr[shared])).sum())
    return same, int(shared.sum()) - same
