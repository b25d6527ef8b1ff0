"""MuData files (``.h5mu``): several AnnData of the same cells in one, without the mudata package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from scmap_cli import __version__
from scmap_cli.errors import InputError
from scmap_cli.io.atomic import atomic_file
from scmap_cli.io.h5ad import check_matrices, check_sparse_groups, plain_adata
from scmap_cli.io.hdf5 import new_h5, open_h5, parsing

_FORMAT = "0.1.0"
# A MuData file begins with a text that names it, before what HDF5 writes.
_HEAD = 512


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


def write_h5mu(parts: Mapping[str, anndata.AnnData], path: Path | str, *, force: bool = False) -> None:
    """Write modalities as a MuData file atomically; equal content gives equal bytes.

    Parameters
    ----------
    parts
        AnnData by modality. Cells are matched by name; those of all parts together are the cells of the file, in the
        order of their first part. Names are unique within a part.
    path
        The file.
    force
        Replace an existing file.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`scmap_cli.io.atomic.atomic_file`.
    """
    plain = {name: plain_adata(adata) for name, adata in parts.items()}
    cells = pd.Index(np.concatenate([adata.obs_names for adata in plain.values()]).astype(object)).unique()
    features = pd.Index(np.concatenate([adata.var_names for adata in plain.values()]).astype(object))
    # Places from 1 on in each part, 0 for what it lacks.
    cell_places = {name: adata.obs_names.get_indexer(cells) + 1 for name, adata in plain.items()}
    edges = np.cumsum([0, *(adata.n_vars for adata in plain.values())])
    feature_places = {}
    for name, first, last in zip(plain, edges, edges[1:], strict=False):
        feature_places[name] = np.zeros(len(features), dtype=np.int64)
        feature_places[name][first:last] = np.arange(1, last - first + 1)
    version = f"{_FORMAT};creator=scmap;creator-version={__version__}"
    with atomic_file(path, force) as tmp:
        with new_h5(tmp, _HEAD) as handle:
            options = {"compression": "gzip", "compression_opts": 1}
            for axis, index, places in (("obs", cells, cell_places), ("var", features, feature_places)):
                anndata.io.write_elem(handle, axis, pd.DataFrame(index=index))
                anndata.io.write_elem(handle, f"{axis}m", {name: place > 0 for name, place in places.items()})
                anndata.io.write_elem(handle, f"{axis}map", places, dataset_kwargs=options)
                anndata.io.write_elem(handle, f"{axis}p", {})
            anndata.io.write_elem(handle, "uns", {})
            handle.attrs.update({"encoding-type": "MuData", "encoding-version": _FORMAT, "axis": 0})
            handle.attrs.update({"encoder": "scmap", "encoder-version": __version__})
            group = handle.create_group("mod")
            for name, adata in plain.items():
                anndata.io.write_elem(group, name, adata, dataset_kwargs=options)
            group.attrs["mod-order"] = list(plain)
        with tmp.open("r+b") as raw:
            raw.write(f"MuData (format-version={version})".encode().ljust(_HEAD, b"\0"))
