"""MuData files (``.h5mu``): several AnnData of the same cells in one, read without the mudata package."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import h5py

from scmap_cli.errors import InputError
from scmap_cli.io.h5ad import check_matrices, check_sparse_groups
from scmap_cli.io.hdf5 import open_h5, parsing


def read_h5mu(path: Path | str) -> dict[str, anndata.AnnData]:
    """The modalities of a MuData file by name.

    Raises
    ------
    InputError
        The file is unfit or hostile (see :func:`scmap_cli.io.hdf5.open_h5`), or is no MuData file.
    """
    path = Path(path)
    with open_h5(path) as handle, parsing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = handle.get("mod")
        if not isinstance(group, h5py.Group):
            raise InputError(f"{path} is not a MuData file: it has no group mod", "give an .h5mu file")
        check_sparse_groups(handle, path)
        found = {str(name): anndata.io.read_elem(group[name]) for name in group}
    for name, adata in found.items():
        if not isinstance(adata, anndata.AnnData):
            raise InputError(f"{path}: the modality {name!r} is no AnnData", "write the file anew")
        check_matrices(adata, f"{path}: {name}")
        adata.obs_names = adata.obs_names.astype(str)
        adata.var_names = adata.var_names.astype(str)
    return found
