"""``programs.npz``: which gene belongs to which program, in the gene order of the data it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from scmap_cli.errors import InputError
from scmap_cli.io.npz import read_npz, write_npz

KIND = "programs"
"""``kind`` in the header of a ``programs.npz``."""

_ARRAYS = ("mask_indptr", "mask_indices", "genes", "programs", "size_before", "size_after")


@dataclass(frozen=True)
class Programs:
    """Membership of g genes in k programs.

    Attributes
    ----------
    mask
        (g, k) uint8 CSC, sorted indices, every stored value 1.
    genes
        (g,) unicode: all genes of the data in its order, also those in no program.
    programs
        (k,) unicode, unique.
    size_before, size_after
        (k,) int64: genes of each program in its source, and genes of the data in it.
    """

    mask: csc_matrix
    genes: np.ndarray
    programs: np.ndarray
    size_before: np.ndarray
    size_after: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """(g,) bool: whether a gene is in at least one program."""
        return np.bincount(self.mask.indices, minlength=len(self.genes)) > 0


def save_programs(
    path: Path | str, programs: Programs, header_extra: Mapping[str, Any] | None = None, force: bool = False
) -> None:
    """Write a ``programs.npz``.

    Parameters
    ----------
    path
        Output file.
    programs
        What to write.
    header_extra
        JSON values to keep in the header, such as the history.
    force
        Replace an existing file.
    """
    mask = programs.mask.tocsc()
    mask.sort_indices()
    arrays = {
        "mask_indptr": mask.indptr.astype(np.int64),
        "mask_indices": mask.indices.astype(np.int64),
        "genes": programs.genes,
        "programs": programs.programs,
        "size_before": np.asarray(programs.size_before, dtype=np.int64),
        "size_after": np.asarray(programs.size_after, dtype=np.int64),
    }
    write_npz(path, arrays, {**(header_extra or {}), "kind": KIND}, force)


def load_programs(path: Path | str) -> Programs:
    """Read and check a ``programs.npz``.

    Raises
    ------
    InputError
        The file is unreadable, of another kind, or its parts do not fit together.
    """
    _, arrays = read_npz(path, kind=KIND)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}", "make it again with scmap preprocess programs")
    genes, names = arrays["genes"], arrays["programs"]
    indptr, indices = arrays["mask_indptr"], arrays["mask_indices"]
    fits = (
        all(arrays[name].ndim == 1 for name in _ARRAYS)
        and genes.dtype.kind == names.dtype.kind == "U"
        and all(arrays[name].dtype.kind in "iu" for name in _ARRAYS if name not in ("genes", "programs"))
        and len(indptr) == len(names) + 1
        and len(arrays["size_before"]) == len(arrays["size_after"]) == len(names)
        and len(np.unique(genes)) == len(genes)
        and len(np.unique(names)) == len(names)
    )
    if not fits or not _valid_csc(indptr.astype(np.int64), indices.astype(np.int64), len(genes)):
        raise InputError(f"{path}: names and mask do not fit together", "make it again with scmap preprocess programs")
    data = np.ones(len(indices), dtype=np.uint8)
    mask = csc_matrix((data, indices.astype(np.int32), indptr.astype(np.int32)), shape=(len(genes), len(names)))
    return Programs(mask, genes, names, arrays["size_before"].astype(np.int64), arrays["size_after"].astype(np.int64))


def _valid_csc(indptr: np.ndarray, indices: np.ndarray, rows: int) -> bool:
    """Whether pointers are monotone from 0 to the end, and indices in range and rising within each column."""
    if indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        return False
    if len(indices) == 0:
        return True
    if indices.min() < 0 or indices.max() >= rows or len(indices) > np.iinfo(np.int32).max:
        return False
    falls = np.flatnonzero(np.diff(indices) <= 0) + 1
    return bool(np.isin(falls, indptr).all())
