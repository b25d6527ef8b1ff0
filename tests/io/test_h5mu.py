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
from scmap_cli.io.h5mu import read_h5mu, write_h5mu


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


def two() -> dict[str, anndata.AnnData]:
    """RNA of two of three cells in another order, and a gene that is called like a peak."""
    rna = anndata.AnnData(sparse.csr_matrix(np.eye(2, 4)), obs=pd.DataFrame({"n": [1, 2]}, index=["c", "a"]))
    rna.var_names = ["G1", "G2", "G3", "chr1:1-2"]
    atac = anndata.AnnData(sparse.csr_matrix(np.arange(6.0).reshape(3, 2)), obs=pd.DataFrame(index=list("abc")))
    atac.var_names = ["chr1:1-2", "chr1:5-9"]
    atac.obsm["X_any"] = np.ones((3, 2))
    return {"rna": rna, "atac": atac}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    parts = two()
    for name in ("one", "two"):
        write_h5mu(parts, tmp_path / f"{name}.h5mu")
    assert (tmp_path / "one.h5mu").read_bytes() == (tmp_path / "two.h5mu").read_bytes()
    found = read_h5mu(tmp_path / "one.h5mu")
    for name, adata in parts.items():
        assert found[name].obs_names.tolist() == adata.obs_names.tolist()
        assert found[name].var_names.tolist() == adata.var_names.tolist()
        np.testing.assert_array_equal(found[name].X.toarray(), adata.X.toarray())
    assert found["rna"].obs["n"].tolist() == [1, 2]
    assert "X_any" in found["atac"].obsm


def test_the_layout_is_that_of_mudata(tmp_path: Path) -> None:
    write_h5mu(two(), tmp_path / "m.h5mu")
    assert (tmp_path / "m.h5mu").read_bytes().startswith(b"MuData (format-version=0.1.0;")
    with h5py.File(tmp_path / "m.h5mu") as handle:
        assert dict(handle.attrs) | {"encoder-version": ""} == {
            **{"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0},
            **{"encoder": "scmap", "encoder-version": ""},
        }
        assert list(handle["mod"].attrs["mod-order"]) == ["rna", "atac"]
        assert anndata.io.read_elem(handle["obs"]).index.tolist() == ["c", "a", "b"]
        assert len(anndata.io.read_elem(handle["var"])) == 6
        for key, expected in (
            ("obsmap/rna", [1, 2, 0]),
            ("obsmap/atac", [3, 1, 2]),
            ("varmap/rna", [1, 2, 3, 4, 0, 0]),
            ("varmap/atac", [0, 0, 0, 0, 1, 2]),
        ):
            assert handle[key][:].tolist() == expected
            mask = handle[key.replace("map", "m")][:]
            assert mask.dtype == bool
            assert mask.tolist() == [place > 0 for place in expected]


# Names that occur in both modalities are allowed, and warned of.
@pytest.mark.filterwarnings("ignore::UserWarning:mudata", "ignore::FutureWarning:mudata")
def test_mudata_itself_reads_it_and_writes_what_is_read(tmp_path: Path) -> None:
    mudata = pytest.importorskip("mudata")
    write_h5mu(two(), tmp_path / "m.h5mu")
    found = mudata.read_h5mu(tmp_path / "m.h5mu")
    assert (found.n_obs, found.n_vars, list(found.mod)) == (3, 6, ["rna", "atac"])
    np.testing.assert_array_equal(found["atac"].X.toarray(), two()["atac"].X.toarray())
    found.write_h5mu(tmp_path / "again.h5mu")
    assert {name: part.shape for name, part in read_h5mu(tmp_path / "again.h5mu").items()} == {
        "rna": (2, 4),
        "atac": (3, 2),
    }
