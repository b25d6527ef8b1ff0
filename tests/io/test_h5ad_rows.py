"""Rows of an h5ad on disk: the same numbers as in memory, and hostile files refused before or as they are read."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError
from scmap_cli.io.h5ad_rows import CountRows, value_fault


@pytest.fixture
def path(tmp_path):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.7, (30, 12)).astype(np.float32))
    obs = pd.DataFrame({"kind": pd.Categorical(["a", None, "b"] * 10), "depth": np.arange(30)})
    obs.index = [f"c{i}" for i in range(30)]
    var = pd.DataFrame({"symbol": [f"S{i}" for i in range(12)]}, index=[f"g{i}" for i in range(12)])
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def change(path, name, edit):
    with h5py.File(path, "r+") as handle:
        values = handle[name][...]
        del handle[name]
        handle[name] = edit(values)


def whole(path, **options):
    with CountRows(path, **options) as rows:
        return [rows.read(start, min(start + 7, rows.n)) for start in range(0, rows.n, 7)]


def test_blocks_are_the_matrix(path):
    matrix = anndata.read_h5ad(path).X.toarray()
    with CountRows(path) as rows:
        assert (rows.n, rows.source, rows.genes[:2].tolist()) == (30, "X", ["g0", "g1"])
        column, value, length = rows.read(5, 19)
        dense = np.zeros((14, 12))
        dense[np.repeat(np.arange(14), length), column] = value
        np.testing.assert_array_equal(dense, matrix[5:19])
        assert rows.cells(3, 5) == ["c3", "c4"]
        labels = rows.labels("kind")
        assert np.asarray(labels)[:3].tolist() == ["a", "unknown", "b"]
        assert np.asarray(rows.labels("depth"))[:2].tolist() == ["0", "1"]


def test_genes_by_another_column(path):
    with CountRows(path, gene_column="symbol") as rows:
        assert rows.genes[3] == "S3"
    with pytest.raises(InputError, match="no column 'x'"):
        CountRows(path, gene_column="x")


def test_stored_zeros_are_left_out(path):
    change(path, "X/data", lambda v: np.where(np.arange(len(v)) % 3 == 0, 0, v))
    for _, value, length in whole(path):
        assert (value > 0).all()
        assert length.sum() == len(value)


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        ("X/indices", lambda v: np.where(np.arange(len(v)) == len(v) - 1, 10**8, v), "column index"),
        ("X/indices", lambda v: np.where(np.arange(len(v)) == 0, -1, v), "column index"),
        ("X/indptr", lambda v: np.where(np.arange(len(v)) == 9, 10**6, v), "indptr"),
        ("X/indptr", lambda v: v[:-1], "indptr"),
        ("X/data", lambda v: v[:-3], "indptr"),
        ("X/data", lambda v: np.where(np.arange(len(v)) == len(v) - 1, np.nan, v), "NaN"),
        ("X/data", lambda v: np.where(np.arange(len(v)) == len(v) - 1, -1, v), "negative"),
        ("X/data", lambda v: v + 0.25, "non-integer"),
        ("X/data", lambda v: v * 10**8, "largest exact count"),
    ],
)
def test_broken_matrices_are_refused(path, name, edit, told):
    change(path, name, edit)
    with pytest.raises(InputError, match=told):
        whole(path)


def test_links_to_other_files_are_refused(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["data"] = np.ones(3)
    with h5py.File(path, "r+") as handle:
        del handle["X/data"]
        handle["X/data"] = h5py.ExternalLink("other.h5", "data")
    with pytest.raises(InputError, match="link"):
        CountRows(path)


@pytest.mark.parametrize("keep", [0, 100, 0.6])
def test_a_file_cut_short(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(InputError):
        whole(path)


def test_a_layer_that_is_not_there(path):
    with pytest.raises(InputError, match="no layer 'spliced'"):
        CountRows(path, layer="spliced")


def test_values_that_are_counts():
    assert value_fault(np.array([1, 2, 3])) is None
    assert value_fault(np.array([], dtype=np.float32)) is None
    assert "type" in (value_fault(np.array(["a"])) or "")
