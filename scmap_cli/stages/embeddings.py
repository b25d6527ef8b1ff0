"""What the scoring stages share: embeddings and columns of finished files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmap_cli import keys
from scmap_cli.errors import InputError
from scmap_cli.io.columns import column_text
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.registry import MODELS

BASELINES = ("lsi", "pca", "lsi-harmony")
"""Baselines by their names on the command line; where a file has no embedding of a model, theirs is sought."""


def baseline_slot(name: str) -> str:
    """What a baseline is called in slots: hyphens become underscores."""
    return name.replace("-", "_")


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings (n, z) of a file by key, and the columns of its cells by name."""

    path: Path
    embeddings: dict[str, np.ndarray]
    columns: Mapping[str, Any]
    n: int

    def column(self, key: str, kind: str) -> np.ndarray:
        """A column of the cells.

        Raises
        ------
        InputError
            It is not there, or not one value a cell; the message calls it a ``kind`` column.
        """
        if key not in self.columns:
            known = ", ".join(map(str, self.columns)) or "none"
            raise InputError(f"{self.path} has no {kind} column {key!r}", f"columns in it: {known}")
        values = np.asarray(self.columns[key])
        if len(values) != self.n:
            raise InputError(f"{self.path}: {key!r} has {len(values)} values for {self.n} cells")
        return values

    def text(self, key: str, kind: str) -> np.ndarray:
        """A column of the cells as :func:`~scmap_cli.io.columns.column_text`, empty where it has no value.

        ``nan`` and ``<NA>`` are no values: gaps become these where a column was made text before it was written.
        ``None`` is one, such as a treatment.
        """
        text = column_text(pd.Series(self.column(key, kind)))
        text[np.isin(text, ["nan", "<NA>"])] = ""
        return text


def read_embeddings(path: Path, wanted: Sequence[str] = (), *, several: bool = False) -> EmbeddingFile:
    """Read embeddings of an h5ad (``obsm`` and ``obs``) or an npz (all keys are arrays in it); ``X`` stays unread.

    Parameters
    ----------
    path
        The file.
    wanted
        Keys; by default the one embedding that a model of ours wrote, else that of a baseline, else the only one of an
        npz.
    several
        Without ``wanted``, take all that models and baselines of ours wrote (all of an npz), be they none.

    Raises
    ------
    InputError
        A key is missing or no table of numbers, or there is none or more than one to take by default.
    """
    found: dict[str, Any]
    columns: dict[str, Any]
    if path.suffix == ".npz":
        _, arrays = read_npz(path, foreign=True)
        found = {name: array for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"}
        columns = {name: array for name, array in arrays.items() if array.ndim == 1}
        ours = list(found)
        n = len(next(iter([*found.values(), *columns.values()]), ()))
    else:
        adata = read_h5ad(path, backed=True, unique=False)
        try:
            found = {name: adata.obsm[name] for name in adata.obsm}
            columns = {str(name): adata.obs[name] for name in adata.obs}
            n = adata.n_obs
        finally:
            adata.file.close()
        ours = [key for key in map(keys.embedding_key, MODELS) if key in found]
        linear = [key for key in (keys.embedding_key(baseline_slot(name)) for name in BASELINES) if key in found]
        ours = ours + linear if several else ours or linear
    if not wanted:
        if not several and len(ours) != 1:
            names = ", ".join(ours or found) or "none"
            what = "no embedding of an scmap model" if not ours else "more than one embedding"
            raise InputError(f"{path} holds {what}; embeddings in it: {names}", "name one with --embedding")
        wanted = ours
    embeddings: dict[str, np.ndarray] = {}
    for key in wanted:
        if key not in found:
            raise InputError(f"{path} has no embedding {key!r}", f"embeddings in it: {', '.join(found) or 'none'}")
        value = found[key]
        emb_nz = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
        if emb_nz.ndim != 2 or emb_nz.dtype.kind not in "fiu" or emb_nz.shape[1] == 0:
            raise InputError(f"{path}: {key!r} is not a table of numbers with one row for each cell")
        embeddings[key] = emb_nz
    sizes = {key: len(value) for key, value in embeddings.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{path}: embeddings have different numbers of cells: {sizes}")
    return EmbeddingFile(path, embeddings, columns, next(iter(sizes.values()), n))
