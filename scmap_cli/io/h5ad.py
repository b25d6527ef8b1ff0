"""AnnData files, read with suspicion and written so that the same content gives the same bytes.

A sparse matrix whose indices lie outside it makes scipy crash the whole process, so its structure is checked before
its values are used; what the file itself may hide is looked for by :mod:`scmap_cli.io.hdf5`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.errors import InputError
from scmap_cli.io.atomic import atomic_file
from scmap_cli.io.hdf5 import REMAKE, new_h5, open_h5, parsing, walk

__all__ = [
    "check_csr",
    "check_matrices",
    "check_names",
    "check_parts",
    "check_sparse_groups",
    "is_sparse",
    "new_adata",
    "open_h5",
    "read_h5ad",
    "write_h5ad",
]

_BLOCK = 1 << 22


def check_parts(indices: Any, indptr: Any, n_data: int, n_major: int, n_minor: int, name: str, axis: str) -> None:
    """Compare the index arrays of a compressed matrix with what they claim to describe, a block at a time.

    Parameters
    ----------
    indices, indptr
        One-dimensional integer arrays, numpy or HDF5.
    n_data
        Number of stored values.
    n_major, n_minor
        Rows and columns for CSR, columns and rows for CSC.
    name, axis
        What to call the matrix, and its minor axis ("row" or "column"), in the message.

    Raises
    ------
    InputError
        As :func:`check_csr`.
    """
    for part, label in ((indices, "indices"), (indptr, "indptr")):
        if len(part.shape) != 1 or part.dtype.kind not in "iu":
            raise InputError(f"{name}: {label} are not a list of whole numbers", REMAKE)
    if indptr.shape[0] != n_major + 1:
        raise InputError(f"{name}: indptr has {indptr.shape[0]} entries, {n_major + 1} expected", REMAKE)
    nnz = indices.shape[0]
    if n_data != nnz:
        raise InputError(f"{name}: {n_data} values but {nnz} indices", REMAKE)
    pointers = np.asarray(indptr[...])
    if pointers[0] != 0 or pointers[-1] != nnz or bool((pointers[1:] < pointers[:-1]).any()):
        raise InputError(f"{name}: indptr does not rise from 0 to {nnz}", REMAKE)
    for start in range(0, nnz, _BLOCK):
        block = np.asarray(indices[start : start + _BLOCK])
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= n_minor:
            bad = low if low < 0 else high
            raise InputError(f"{name}: {axis} index {bad} lies outside its {n_minor} {axis}s", REMAKE)


def is_sparse(matrix: Any) -> bool:
    """Whether ``matrix`` is a scipy sparse matrix or array."""
    return bool(sp.issparse(matrix))


def check_csr(matrix: Any, name: str) -> None:
    """Check the structure of a sparse matrix before any use; scipy itself crashes on indices out of range.

    Parameters
    ----------
    matrix
        CSR or CSC, matrix or array, in memory. Anything else passes unchecked.
    name
        What to call it in the message.

    Raises
    ------
    InputError
        ``indptr`` does not rise from 0 to the number of stored values, lengths differ, or an index is out of range.
    """
    if not is_sparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    rows, columns = matrix.shape
    by_row = matrix.format == "csr"
    major, minor = (rows, columns) if by_row else (columns, rows)
    axis = "column" if by_row else "row"
    check_parts(matrix.indices, matrix.indptr, len(matrix.data), major, minor, name, axis)


def _check_sparse_group(where: str, group: h5py.Group, path: Path, whole: bool) -> None:
    """Check a sparse group in the file: its lengths, so that no false shape is ever allocated, or all of it."""
    encoding = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    if isinstance(encoding, bytes):
        encoding = encoding.decode("utf-8", "replace")
    if str(encoding) not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        return
    name = f"{path}: {where}"
    shape = np.asarray(group.attrs.get("shape", group.attrs.get("h5sparse_shape", ())))
    parts = [group.get(key) for key in ("data", "indices", "indptr")]
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or int(shape.min()) < 0:
        raise InputError(f"{name} has no valid shape", REMAKE)
    if not all(isinstance(part, h5py.Dataset) and len(part.shape or ()) == 1 for part in parts):
        raise InputError(f"{name} lacks data, indices or indptr", REMAKE)
    data, indices, indptr = parts
    rows, columns = int(shape[0]), int(shape[1])
    by_row = str(encoding).startswith("csr")
    major, minor = (rows, columns) if by_row else (columns, rows)
    if whole:
        axis = "column" if by_row else "row"
        check_parts(indices, indptr, data.shape[0], major, minor, name, axis)
    elif indptr.shape[0] != major + 1:
        raise InputError(f"{name}: indptr has {indptr.shape[0]} entries, {major + 1} expected", REMAKE)


def _sparse_parts(adata: anndata.AnnData) -> Iterator[tuple[str, Any]]:
    yield "X", adata.X
    if adata.raw is not None:
        yield "raw.X", adata.raw.X
    for slot in ("layers", "obsm", "varm", "obsp", "varp"):
        for key, value in getattr(adata, slot).items():
            yield f"{slot}[{key!r}]", value
    nested: list[tuple[str, Mapping[Any, Any]]] = [("uns", adata.uns)]
    while nested:
        prefix, mapping = nested.pop()
        for key, value in mapping.items():
            if isinstance(value, Mapping):
                nested.append((f"{prefix}[{key!r}]", value))
            else:
                yield f"{prefix}[{key!r}]", value


def check_sparse_groups(handle: h5py.File, path: Path, *, whole: bool = False) -> None:
    """Check every sparse matrix of an open file before it is read: its lengths, or with ``whole`` all of it.

    Raises
    ------
    InputError
        As :func:`check_csr`.
    """
    for where, item in walk(handle, path):
        if isinstance(item, h5py.Group):
            _check_sparse_group(where, item, path, whole)


def check_matrices(adata: anndata.AnnData, path: Path | str) -> None:
    """Check every sparse matrix of an AnnData in memory as :func:`check_csr` does."""
    for name, value in _sparse_parts(adata):
        check_csr(value, f"{path}: {name}")


def check_names(names: pd.Index, kind: str, path: Path | str) -> None:
    """Refuse repeated ``kind`` ("gene" or "cell") names, telling how many and the first three.

    Raises
    ------
    InputError
        A name occurs more than once.
    """
    repeated = names[names.duplicated()].unique()
    if len(repeated) == 0:
        return
    shown = ", ".join(repr(str(name)) for name in repeated[:3]) + (", ..." if len(repeated) > 3 else "")
    other = "--gene-column to name genes by another column, or " if kind == "gene" else ""
    count = f"{len(repeated)} {kind} name{'s occur' if len(repeated) > 1 else ' occurs'} more than once"
    raise InputError(f"{path}: {count} ({shown})", f"run `scmap preprocess rna` with {other}--make-unique")


def new_adata(matrix: Any, obs: pd.DataFrame, var: pd.DataFrame) -> anndata.AnnData:
    """Put a matrix and its tables together; names may still be repeated, of which anndata alone would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return anndata.AnnData(X=matrix, obs=obs, var=var)


def read_h5ad(path: Path | str, *, backed: bool = False, unique: bool = True) -> anndata.AnnData:
    """Read an AnnData file after checking its structure, its sparse matrices and its names.

    Parameters
    ----------
    path
        The file.
    backed
        Leave ``X`` and ``raw`` on disk; the caller then closes it with ``adata.file.close()``.
    unique
        Refuse repeated gene or cell names; false leaves them to the caller.

    Returns
    -------
    AnnData
        As stored, with the names of cells and genes as strings.

    Raises
    ------
    InputError
        The file is unfit or hostile in any of the ways told by :func:`open_h5`, :func:`check_csr`, :func:`check_names`.
    DeviceError
        Memory ran out.
    """
    path = Path(path)
    with open_h5(path, on_disk=("/X", "/raw/X") if backed else ()) as handle, parsing(path):
        if "obs" not in handle or "var" not in handle:
            raise InputError(f"{path} is not an AnnData file: it has no obs and var", "give an .h5ad file")
        check_sparse_groups(handle, path, whole=backed)
        current = "encoding-type" in handle.attrs
        adata = _parse(handle if current and not backed else path, backed)
    if not isinstance(adata, anndata.AnnData):
        raise InputError(f"{path} holds no AnnData object", "give an .h5ad file")
    try:
        if not backed:
            check_matrices(adata, path)
        adata.obs_names = adata.obs_names.astype(str)
        adata.var_names = adata.var_names.astype(str)
        if unique:
            check_names(adata.obs_names, "cell", path)
            check_names(adata.var_names, "gene", path)
    except BaseException:
        if backed:
            adata.file.close()
        raise
    return adata


def _parse(source: h5py.File | Path, backed: bool) -> Any:
    """Let anndata read; an open handle serves the present format, a path the older ones and backed mode."""
    # anndata warns of old formats and repeated names; the first is harmless here, the second is checked.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(source, h5py.File):
            return anndata.io.read_elem(source)
        return anndata.read_h5ad(source, backed="r" if backed else None)


def _plain_column(column: pd.Series) -> pd.Series:
    """A column that every anndata version reads: strings as objects, gaps in them as categories."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = column.cat.categories
        if isinstance(categories.dtype, pd.StringDtype):
            return column.cat.rename_categories(list(categories))
        return column
    if column.dtype != object and not isinstance(column.dtype, pd.StringDtype):
        return column
    missing = column.isna()
    text = column.astype(object).where(missing, column.astype(str))
    return text.astype("category") if bool(missing.any()) else text


def _plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    columns = {str(name): _plain_column(frame[name]) for name in frame.columns}
    index = pd.Index(frame.index.astype(str).to_numpy(dtype=object), name=frame.index.name)
    return pd.DataFrame({name: column.array for name, column in columns.items()}, index=index, columns=list(columns))


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_value(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, pd.DataFrame):
        return _plain_frame(value)
    if isinstance(getattr(value, "dtype", None), pd.StringDtype):
        return np.asarray(value, dtype=object)
    return value


def plain_adata(adata: anndata.AnnData) -> anndata.AnnData:
    """What is written of an AnnData: strings plain, string columns with gaps as categories, no None in ``uns``."""
    source = adata.to_memory() if adata.isbacked else adata
    plain = anndata.AnnData(
        X=source.X,
        obs=_plain_frame(source.obs),
        var=_plain_frame(source.var),
        uns=_plain_value(source.uns),
        obsm={key: _plain_value(value) for key, value in source.obsm.items()},
        varm={key: _plain_value(value) for key, value in source.varm.items()},
        layers=dict(source.layers),
        obsp=dict(source.obsp),
        varp=dict(source.varp),
    )
    if source.raw is not None:
        plain.raw = source.raw.to_adata()
    return plain


def write_h5ad(adata: anndata.AnnData, path: Path | str, *, force: bool = False) -> None:
    """Write an AnnData file atomically; equal content gives equal bytes, and the object passed in is not changed.

    It is written as :func:`plain_adata` makes it.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`scmap_cli.io.atomic.atomic_file`.
    """
    plain = plain_adata(adata)
    with atomic_file(path, force) as tmp, new_h5(tmp) as handle:
        anndata.io.write_elem(handle, "/", plain, dataset_kwargs={"compression": "gzip", "compression_opts": 1})


def write_h5ad_rows(
    adata: anndata.AnnData, blocks: Iterable[Any], shape: tuple[int, int], path: Path | str, *, force: bool = False
) -> None:
    """Write an AnnData file whose ``X`` comes a block of rows at a time, so that it is never whole in memory.

    Parameters
    ----------
    adata
        All but ``X``.
    blocks
        Dense float arrays or CSR matrices, all of one kind, that follow one another from the first row on.
    shape
        Rows and columns of ``X``.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`scmap_cli.io.atomic.atomic_file`.
    """
    plain = anndata.AnnData(obs=_plain_frame(adata.obs), var=_plain_frame(adata.var), uns=_plain_value(adata.uns))
    with atomic_file(path, force) as tmp, new_h5(tmp) as handle:
        anndata.io.write_elem(handle, "/", plain, dataset_kwargs={"compression": "gzip", "compression_opts": 1})
        handle.pop("X", None)
        place: Any = None
        row = 0
        for block in blocks:
            if sp.issparse(block):
                place = _append_csr(handle, place, block, shape)
            else:
                if place is None:
                    chunk = (min(len(block), shape[0]), max(1, min(shape[1], (1 << 18) // max(1, len(block)))))
                    place = handle.create_dataset("X", shape, block.dtype, chunks=chunk, compression="lzf")
                    place.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                place[row : row + len(block)] = block
                row += len(block)


def _append_csr(handle: h5py.File, group: Any, block: Any, shape: tuple[int, int]) -> Any:
    """Add a block of rows to the CSR group ``X``, made on the first call."""
    if group is None:
        group = handle.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array(shape, dtype=np.int64)
        for name, dtype in (("data", block.data.dtype), ("indices", np.int32), ("indptr", np.int64)):
            group.create_dataset(
                name, (0,), dtype, maxshape=(None,), chunks=(1 << 16,), compression="gzip", compression_opts=1
            )
        group["indptr"].resize((1,))
        group["indptr"][0] = 0
    stored = len(group["data"])
    for name, values in (
        ("data", block.data),
        ("indices", block.indices),
        ("indptr", block.indptr[1:].astype(np.int64) + stored),
    ):
        held = len(group[name])
        group[name].resize((held + len(values),))
        group[name][held:] = values
    return group
