"""RNA input in any of its forms, told apart by what the path holds rather than by its name alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import anndata
import pandas as pd
from anndata.utils import make_index_unique

from scmap_cli.errors import InputError
from scmap_cli.io.gene_table import ENSEMBL
from scmap_cli.io.h5ad import check_names, read_h5ad
from scmap_cli.io.hdf5 import open_h5, parsing
from scmap_cli.io.tenx import is_10x, read_10x_h5, read_10x_mtx
from scmap_cli.io.text import read_text_matrix

Form = Literal["h5ad", "10x h5", "10x mtx", "text"]

_FORMS = "an .h5ad, a 10x .h5, a 10x matrix folder, or a TSV or CSV table"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES = (".h5ad", ".h5", ".hdf5", ".loom")
_TEXT_SUFFIXES = (".tsv", ".csv", ".txt", ".tab")

# Names that hardly any table of counts lacks.
_COMMON_GENES = {"ACTB", "B2M", "EEF1A1", "GAPDH", "MALAT1", "RPLP0", "TMSB4X"}


def rna_form(path: Path | str) -> Form:
    """Tell which form of RNA data a path holds, reading no more than the head of it.

    Raises
    ------
    InputError
        It does not exist or is of no known form.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        if path.suffix == ".zarr" or (path / ".zgroup").exists() or (path / "zarr.json").exists():
            raise InputError(f"{path} is a zarr store", f"give {_FORMS}")
        return "10x mtx"
    try:
        with path.open("rb") as handle:
            head = handle.read(len(_HDF5_MAGIC))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if head == _HDF5_MAGIC or (suffixes and suffixes[-1] in _HDF5_SUFFIXES):
        with open_h5(path) as handle, parsing(path):
            if is_10x(handle):
                return "10x h5"
            if "obs" in handle and "var" in handle:
                return "h5ad"
        raise InputError(f"{path} is neither an AnnData nor a 10x file", f"give {_FORMS}")
    if ".mtx" in suffixes:
        return "10x mtx"
    if any(suffix in _TEXT_SUFFIXES for suffix in suffixes):
        return "text"
    raise InputError(f"{path} is of no known form", f"give {_FORMS}")


def name_genes(var: pd.DataFrame, path: Path | str, *, column: str | None = None, unique: bool = False) -> pd.DataFrame:
    """Return the genes' table with checked names.

    Parameters
    ----------
    var
        (g, ...) table of the genes; not changed.
    path
        Where it came from, for the message.
    column
        Column to take the names from. The names until then are kept in ``gene_ids``, or in ``var_names`` when that
        column is taken.
    unique
        Tell repeated names apart by ``-1``, ``-2``, ... as AnnData does, instead of refusing them.

    Raises
    ------
    InputError
        There is no such column, it has gaps, or names are repeated and ``unique`` is false.
    """
    var = var.copy(deep=False)
    if column is not None:
        if column not in var:
            columns = ", ".join(map(str, var.columns)) or "none"
            raise InputError(f"{path}: the genes have no column {column!r} (columns: {columns})", "see --gene-column")
        missing = int(var[column].isna().sum()) + int((var[column].astype(str) == "").sum())
        if missing:
            raise InputError(f"{path}: the gene column {column!r} is empty for {missing} genes", "take another column")
        before = var.index.to_numpy(dtype=object)
        var.index = pd.Index(var[column].astype(str).to_numpy(dtype=object))
        if not any((var[name].astype(str) == before).all() for name in var.columns):
            var["gene_ids" if "gene_ids" not in var else "var_names"] = before
    var.index = unique_names(var.index, "gene", path, unique)
    return var


def unique_names(names: pd.Index, kind: str, path: Path | str, unique: bool) -> pd.Index:
    """Names as strings; repeated ones are told apart when ``unique`` is true, else refused.

    Raises
    ------
    InputError
        A name is repeated and ``unique`` is false.
    """
    names = names.astype(str).astype(object).rename(None)
    if unique:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told_apart: pd.Index = make_index_unique(names)
        return told_apart
    check_names(names, kind, path)
    return names


def read_rna(
    path: Path | str,
    *,
    gene_column: str | None = None,
    transpose: bool = False,
    check: bool = True,
) -> anndata.AnnData:
    """Read cells x genes from an h5ad, a 10x ``.h5``, a 10x matrix folder or ``.mtx``, or a text table.

    Parameters
    ----------
    path
        The file or folder.
    gene_column
        Column of ``var`` to name the genes by.
    transpose
        For a text table: rows are genes and columns are cells.
    check
        False leaves the names of genes and cells as they are; the caller then sees to them.

    Raises
    ------
    InputError
        The input is of no known form, unfit or hostile; names are repeated; there is no such gene column; the cells of
        a text table have names of genes.
    """
    form = rna_form(path)
    if form == "h5ad":
        adata = read_h5ad(path, unique=False)
    elif form == "10x h5":
        adata = read_10x_h5(path)
    elif form == "10x mtx":
        adata = read_10x_mtx(path)
    else:
        adata = read_text_matrix(path, transpose=transpose)
        _check_sides(adata, path, transpose)
    if check:
        adata.obs_names = unique_names(adata.obs_names, "cell", path, unique=False)
        adata.var = name_genes(adata.var, path, column=gene_column)
    return adata


def _check_sides(adata: anndata.AnnData, path: Path | str, transpose: bool) -> None:
    """Refuse cells that are named as genes are, where the genes are not."""

    def gene(names: pd.Index) -> str | None:
        return next((name for name in names.astype(str) if name.upper() in _COMMON_GENES or ENSEMBL.match(name)), None)

    found = gene(adata.obs_names)
    if found is not None and gene(adata.var_names) is None:
        side = "columns" if transpose else "rows"
        remedy = "leave --transpose out" if transpose else "scmap preprocess rna --transpose takes genes in rows"
        raise InputError(f"{path}: {side} are taken as cells and named as genes are, such as {found}", remedy)
