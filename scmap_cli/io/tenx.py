"""Count matrices as Cell Ranger writes them: HDF5 (versions 2 and 3) and Matrix Market folders."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from scmap_cli.errors import DeviceError, InputError
from scmap_cli.io.h5ad import check_parts, new_adata
from scmap_cli.io.hdf5 import REMAKE, first_line, open_h5, parsing
from scmap_cli.io.text import open_text
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.memory import available_memory, readable_size

GENE_EXPRESSION = "Gene Expression"
# A coordinate list (row, column, value) and the CSR made of it.
_BYTES_PER_ENTRY = 32


def _assemble(
    matrix: sp.csr_matrix, barcodes: list[str], var: pd.DataFrame, path: Path, feature_type: str | None
) -> anndata.AnnData:
    """Cells x features with the features of one type; counts of the others are told, not kept."""
    if matrix.shape != (len(barcodes), len(var)):
        raise InputError(
            f"{path}: the matrix has {matrix.shape[1]} features and {matrix.shape[0]} barcodes, "
            f"but {len(var)} and {len(barcodes)} are named",
            REMAKE,
        )
    if feature_type is not None and "feature_types" in var:
        kept = (var["feature_types"] == feature_type).to_numpy()
        if not kept.any():
            types = ", ".join(sorted(set(var["feature_types"])))
            raise InputError(f"{path} has no features of type {feature_type!r} (types: {types})", "give the RNA matrix")
        if not kept.all():
            log.info("%s: %d features of other types than %s left out", path, int((~kept).sum()), feature_type)
            matrix, var = matrix[:, kept], var[kept]
    return new_adata(matrix, pd.DataFrame(index=pd.Index(barcodes, dtype=object)), var)


def _texts(group: h5py.Group, key: str, path: Path) -> list[str]:
    item = group.get(key)
    if not isinstance(item, h5py.Dataset) or len(item.shape or ()) != 1:
        raise InputError(f"{path}: {group.name} lacks {key}", REMAKE)
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in item[...]]


def _h5_matrix(group: h5py.Group, path: Path) -> sp.csr_matrix:
    """Read features x barcodes in CSC, which is barcodes x features in CSR, once its structure is checked."""
    parts = {key: group.get(key) for key in ("data", "indices", "indptr", "shape")}
    for key, part in parts.items():
        if not isinstance(part, h5py.Dataset) or len(part.shape or ()) != 1 or part.dtype.kind not in "iuf":
            raise InputError(f"{path}: {group.name} lacks {key}", REMAKE)
    shape = np.asarray(parts["shape"][...])
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or int(shape.min()) < 0:
        raise InputError(f"{path}: {group.name}/shape is not two numbers", REMAKE)
    features, barcodes = int(shape[0]), int(shape[1])
    data, indices, indptr = parts["data"], parts["indices"], parts["indptr"]
    check_parts(indices, indptr, data.shape[0], barcodes, features, f"{path}: {group.name}", "feature")
    return sp.csr_matrix((data[...], indices[...], indptr[...]), shape=(barcodes, features))


def _v2_groups(handle: h5py.File) -> list[str]:
    keys = {"barcodes", "genes", "gene_names", "indptr"}
    return [name for name, item in handle.items() if isinstance(item, h5py.Group) and keys <= set(item)]


def is_10x(handle: h5py.File) -> bool:
    """Whether an open HDF5 file is laid out as Cell Ranger's feature-barcode matrix, version 2 or 3."""
    return isinstance(handle.get("matrix"), h5py.Group) or bool(_v2_groups(handle))


def read_10x_h5(
    path: Path | str, *, genome: str | None = None, feature_type: str | None = GENE_EXPRESSION
) -> anndata.AnnData:
    """Read Cell Ranger's ``filtered_feature_bc_matrix.h5`` (version 3 and later) or its version 2 layout.

    Parameters
    ----------
    path
        The file.
    genome
        For a version 2 file with several genomes, the one to read.
    feature_type
        Features to keep, as told in ``var["feature_types"]``; None keeps all.

    Returns
    -------
    AnnData
        ``X`` is (n, g) CSR of counts; ``var`` is named by gene symbol and has ``gene_ids`` and, where the file tells
        them, ``feature_types`` and ``genome``.

    Raises
    ------
    InputError
        The file is unfit (see :func:`scmap_cli.io.hdf5.open_h5`), not of this layout, or its matrix is broken.
    """
    path = Path(path)
    with open_h5(path) as handle, parsing(path):
        group = handle.get("matrix")
        if isinstance(group, h5py.Group):
            features = group.get("features")
            if not isinstance(features, h5py.Group):
                raise InputError(f"{path}: /matrix lacks features", "give a feature-barcode matrix of Cell Ranger")
            columns = {"gene_ids": _texts(features, "id", path)}
            for key, name in (("feature_type", "feature_types"), ("genome", "genome")):
                if key in features:
                    columns[name] = _texts(features, key, path)
            symbols = _texts(features, "name", path)
        else:
            found = _v2_groups(handle)
            if genome is None and len(found) > 1:
                raise InputError(f"{path} holds several genomes: {', '.join(found)}", "give one file per genome")
            if not found or (genome is not None and genome not in found):
                what = f"the genome {genome!r}" if found else "a 10x matrix"
                raise InputError(f"{path} does not hold {what}", "give a feature-barcode matrix of Cell Ranger")
            group = handle[genome or found[0]]
            columns = {"gene_ids": _texts(group, "genes", path)}
            symbols = _texts(group, "gene_names", path)
        if any(len(values) != len(symbols) for values in columns.values()):
            raise InputError(f"{path}: the features' columns differ in length", REMAKE)
        var = pd.DataFrame(columns, index=pd.Index(symbols, dtype=object))
        matrix, barcodes = _h5_matrix(group, path), _texts(group, "barcodes", path)
    return _assemble(matrix, barcodes, var, path, feature_type)


def _find(folder: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        for suffix in ("", ".gz"):
            path = folder / f"{prefix}{name}{suffix}"
            if path.is_file():
                return path
    raise InputError(f"{folder} has no {prefix}{' or '.join(names)} (plain or .gz)", "give Cell Ranger's matrix folder")


def _matrix_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted([*path.glob("*matrix.mtx"), *path.glob("*matrix.mtx.gz")])
    if len(found) != 1:
        what = "several" if found else "no"
        raise InputError(f"{path} holds {what} files named *matrix.mtx or *matrix.mtx.gz", "give the one .mtx file")
    return found[0]


def _table(path: Path) -> list[list[str]]:
    with open_text(path) as handle:
        return [line.rstrip("\r\n").split("\t") for line in handle if line.strip()]


def _check_mtx_header(path: Path) -> None:
    """Refuse what cannot be a count matrix, and sizes beyond memory, before the entries are read."""
    with open_text(path) as handle:
        words = handle.readline().lower().split()
        sizes = next((line.split() for line in handle if line.strip() and not line.startswith("%")), [])
        if len(words) != 5 or words[0] != "%%matrixmarket" or words[1] != "matrix":
            raise InputError(f"{path} is not a Matrix Market file", "give Cell Ranger's matrix.mtx")
        if words[2] != "coordinate" or words[3] not in ("integer", "real") or words[4] != "general":
            raise InputError(f"{path} is of kind {' '.join(words[2:])}", "give counts, not a pattern")
        if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
            raise InputError(f"{path} has no line with rows, columns and entries", REMAKE)
        rows, columns, entries = (int(size) for size in sizes)
    needed = entries * _BYTES_PER_ENTRY + (rows + columns) * 8
    if entries > rows * columns or needed > available_memory():
        raise InputError(
            f"{path} declares {entries} entries in {rows} x {columns} ({readable_size(needed)} to read)",
            "split the matrix, or use a machine with more memory",
        )


def _read_mtx(path: Path) -> sp.csr_matrix:
    """Read features x barcodes and return barcodes x features; scipy checks the range of every entry."""
    _check_mtx_header(path)
    try:
        with open_text(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = scipy.io.mmread(path)
    except MemoryError as error:
        raise DeviceError(f"out of memory while reading {path}", "use a machine with more memory") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path} is truncated or corrupt: {first_line(error)}", REMAKE) from error
    entries = found.nnz
    matrix = sp.csr_matrix(found.T)
    if matrix.nnz != entries:
        raise InputError(f"{path} names {entries - matrix.nnz} entries more than once", REMAKE)
    return matrix


def read_10x_mtx(path: Path | str, *, feature_type: str | None = GENE_EXPRESSION) -> anndata.AnnData:
    """Read ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, each plain or ``.gz``.

    Parameters
    ----------
    path
        The folder, or the ``.mtx`` file in it; a prefix before ``matrix.mtx`` is expected on the other files too.
    feature_type
        Features to keep by the third column of ``features.tsv``; None keeps all.

    Returns
    -------
    AnnData
        As :func:`read_10x_h5`.

    Raises
    ------
    InputError
        A file is missing, truncated or malformed, or the sizes of the three do not agree.
    """
    path = Path(path)
    source = _matrix_file(path)
    folder, name = source.parent, source.name
    prefix = name[: name.index("matrix.mtx")] if "matrix.mtx" in name else ""
    barcodes = [row[0] for row in _table(_find(folder, prefix, ("barcodes.tsv",)))]
    features_path = _find(folder, prefix, ("features.tsv", "genes.tsv"))
    rows = _table(features_path)
    width = len(rows[0]) if rows else 0
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise InputError(f"{features_path}, line {number}: {len(row)} fields, {width} expected", REMAKE)
    columns = {"gene_ids": [row[0] for row in rows]}
    if width >= 3:
        columns["feature_types"] = [row[2] for row in rows]
    var = pd.DataFrame(columns, index=pd.Index([row[1 if width > 1 else 0] for row in rows], dtype=object))
    return _assemble(_read_mtx(source), barcodes, var, path, feature_type)
