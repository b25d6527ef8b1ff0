"""Raw counts of an h5ad that stays on disk, a block of rows at a time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.errors import InputError
from scmap_cli.io.columns import UNKNOWN, column_text
from scmap_cli.io.h5ad import check_csr
from scmap_cli.io.hdf5 import REMAKE, open_h5, parsing
from scmap_cli.keys import COUNTS_LAYER

_SAMPLE = 1000
_LARGEST = 1 << 24
_REMEDY = "give the layer that holds raw counts with --layer (X and raw are accepted too)"
_ON_DISK = ("/X", "/raw/X", "/layers", "/obsm", "/obsp", "/varm", "/varp", "/uns")


class CountRows:
    """An open h5ad, for a ``with`` block.

    Rows are read as they are asked for and are checked then: whole, finite, not negative, indices within the table.
    A matrix by columns (CSC) cannot be read by rows and is read whole.

    Attributes
    ----------
    path, n, source
        The file, its cells, and where its counts are.
    genes
        (q,) names of the columns, unique.
    genome
        What ``var["genome"]`` says, as 10x Genomics writes it; empty where it says nothing or several things.
    """

    def __init__(self, path: Path, layer: str | None = None, gene_column: str | None = None) -> None:
        self.path = path
        with ExitStack() as stack:
            self._file: h5py.File = stack.enter_context(open_h5(path, on_disk=_ON_DISK))
            with parsing(path):
                self._open(layer, gene_column)
            self._stack = stack.pop_all()

    def __enter__(self) -> CountRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, layer: str | None, gene_column: str | None) -> None:
        obs = self._file.get("obs")
        if not isinstance(obs, h5py.Group) or "_index" not in obs.attrs or "var" not in self._file:
            raise InputError(
                f"{self.path} is no present AnnData file", "bring it up to date with `scmap preprocess rna`"
            )
        self._index = obs[str(obs.attrs["_index"])]
        self.n = int(self._index.shape[0])
        looked: list[str] = []
        for name, where, var in self._places(layer):
            self._set(where)
            fault = self._fault(self._file[var])
            if fault is None:
                self.source = name
                self._name(anndata.io.read_elem(self._file[var]), gene_column)
                return
            looked.append(f"{name} holds {fault}")
        raise InputError(
            f"{self.path} has no raw counts: {'; '.join(looked) or 'neither X nor raw nor layers'}", _REMEDY
        )

    def _places(self, layer: str | None) -> list[tuple[str, str, str]]:
        """Name, matrix and gene table of the places that may hold counts, in the order they are tried."""
        wanted = layer or (COUNTS_LAYER if f"layers/{COUNTS_LAYER}" in self._file else None)
        if wanted is not None and f"layers/{wanted}" in self._file:
            return [(f"layer {wanted!r}", f"layers/{wanted}", "var")]
        places = [("raw", "raw/X", "raw/var"), ("X", "X", "var")]
        if wanted is not None:
            places = [place for place in places if place[0] == wanted]
        found = [place for place in places if place[1] in self._file]
        if wanted is not None and not found:
            raise InputError(f"{self.path} has no layer {wanted!r}", _REMEDY)
        return found

    def _set(self, where: str) -> None:
        """Take a matrix of the file, once its structure is known to be sound."""
        item = self._file[where]
        self._dense: h5py.Dataset | None = None
        if isinstance(item, h5py.Dataset):
            if item.ndim != 2 or item.shape[0] != self.n:
                raise InputError(f"{self.path}: {where} is of shape {item.shape} for {self.n} cells", REMAKE)
            self._dense, self._width = item, int(item.shape[1])
            return
        shape = item.attrs.get("shape", (0, 0))
        self._width = int(shape[1])
        form = str(item.attrs.get("encoding-type", ""))
        if int(shape[0]) != self.n or not form.startswith(("csr", "csc")):
            raise InputError(f"{self.path}: {where} is no table of {self.n} cells", REMAKE)
        if form.startswith("csc"):
            whole = anndata.io.read_elem(item)
            check_csr(whole, f"{self.path}: {where}")
            rows = sparse.csr_matrix(whole)
            self._data, self._indices, self._indptr = rows.data, rows.indices, rows.indptr.astype(np.int64)
            return
        self._data, self._indices = item["data"], item["indices"]
        self._indptr = np.asarray(item["indptr"][...]).astype(np.int64)
        # The indices themselves are looked at as they are read.
        steps = np.diff(self._indptr)
        whole_length = int(self._indices.shape[0])
        if (
            len(self._indptr) != self.n + 1
            or self._indptr[0] != 0
            or self._indptr[-1] != whole_length
            or int(self._data.shape[0]) != whole_length
            or bool((steps < 0).any())
        ):
            raise InputError(f"{self.path}: {where}: indptr does not rise from 0 to {whole_length}", REMAKE)

    def _fault(self, var: Any) -> str | None:
        """Why the first rows hold no counts."""
        length = int(var[str(var.attrs["_index"])].shape[0]) if isinstance(var, h5py.Group) else -1
        if length != self._width:
            raise InputError(f"{self.path}: {self._width} columns but {length} genes", REMAKE)
        _, values, _ = self._stretch(0, min(_SAMPLE, self.n))
        return value_fault(values)

    def _name(self, var: pd.DataFrame, gene_column: str | None) -> None:
        if gene_column is not None and gene_column not in var:
            raise InputError(
                f"{self.path}: the genes have no column {gene_column!r}",
                f"columns: {', '.join(map(str, var.columns)) or 'none'}",
            )
        names = var.index if gene_column is None else pd.Index(var[gene_column].astype(str))
        self.genes = names.astype(str).to_numpy(dtype=object).astype(str)
        genomes = sorted(set(var["genome"].astype(str)) - {""}) if "genome" in var else []
        self.genome = genomes[0] if len(genomes) == 1 else ""

    def _stretch(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns, values and lengths of rows, as stored."""
        if self._dense is not None:
            rows = sparse.csr_matrix(np.asarray(self._dense[start:stop]))
            return rows.indices, rows.data, np.diff(rows.indptr)
        low, high = int(self._indptr[start]), int(self._indptr[stop])
        return self._indices[low:high], self._data[low:high], np.diff(self._indptr[start : stop + 1])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns (m,), counts above 0 (m,) and the number of them in each of the rows.

        Raises
        ------
        InputError
            Values are no counts or indices lie outside the table; the message names the rows.
        """
        with parsing(self.path):
            column, value, length = self._stretch(start, stop)
        where = f"{self.path}, cells {start + 1} to {stop}"
        fault = value_fault(value)
        if fault is not None:
            raise InputError(f"{where}: {self.source} holds {fault}", _REMEDY)
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < self._width:
            raise InputError(f"{where}: a column index lies outside the {self._width} genes", REMAKE)
        if len(value) and not value.all():
            kept = value > 0
            edges = np.concatenate([[0], np.cumsum(length)])
            length = np.diff(np.concatenate([[0], np.cumsum(kept)])[edges])
            column, value = column[kept], value[kept]
        return column, value, length

    def cells(self, start: int, stop: int) -> list[str]:
        """Names of cells."""
        with parsing(self.path):
            names = self._index[start:stop]
        return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]

    def labels(self, key: str) -> Any:
        """A column of ``obs`` as categories, ``unknown`` where it has no value.

        Raises
        ------
        InputError
            There is no such column.
        """
        obs = self._file["obs"]
        if key not in obs:
            columns = ", ".join(str(name) for name in obs.attrs.get("column-order", [])) or "none"
            raise InputError(f"{self.path} has no obs column {key!r}", f"columns: {columns}")
        with parsing(self.path):
            column = pd.Series(anndata.io.read_elem(obs[key]))
        found: Any = pd.Categorical(column_text(column, UNKNOWN).astype(object))
        return found


def value_fault(values: np.ndarray) -> str | None:
    """Why values are no counts, or None when they are."""
    if values.dtype.kind not in "buif":
        return f"values of type {values.dtype}"
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        return "NaN or infinite values"
    if low < 0:
        return f"negative values (such as {low:.4g})"
    if high > _LARGEST:
        return f"values up to {high:.0f}, beyond the largest exact count of {_LARGEST}"
    if values.dtype.kind == "f":
        uneven = values != np.rint(values)
        if uneven.any():
            return f"non-integer values (such as {float(values[np.argmax(uneven)]):.4g})"
    return None
