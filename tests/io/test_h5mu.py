"""MuData files are read part by part, and hostile ones refused before they are."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError
from scmap_cli.io.h5mu import read_h5mu


def write(path: Path) -> Path:
    with h5py.File(path, "w") as handle:
        for name, width in (("rna", 4), ("atac", 6)):
            x = sparse.csr_matrix(np.arange(3 * width, dtype=np.float32).reshape(3, width))
            adata = anndata.AnnData(x, obs=pd.DataFrame(index=list("abc")))
            anndata.io.write_elem(handle.require_group("mod"), name, adata)
    return path


def test_modalities_by_name(tmp_path: Path) -> None:
    found = read_h5mu(write(tmp_path / "m.h5mu"))
    assert {name: adata.shape for name, adata in found.items()} == {"rna": (3, 4), "atac": (3, 6)}
    assert found["rna"].obs_names.tolist() == ["a", "b", "c"]
    assert found["atac"].X[2, 5] == 17


def test_misfits_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5mu")
    with h5py.File(path, "a") as handle:
        handle["mod/rna/X/indices"][0] = 99
    with pytest.raises(InputError, match="99 lies outside"):
        read_h5mu(path)
    with h5py.File(path, "a") as handle:
        del handle["mod/rna"]
        anndata.io.write_elem(handle["mod"], "rna", np.zeros(3))
    with pytest.raises(InputError, match="'rna' is no AnnData"):
        read_h5mu(path)
    with h5py.File(path, "a") as handle:
        del handle["mod"]
    with pytest.raises(InputError, match="no group mod"):
        read_h5mu(path)
