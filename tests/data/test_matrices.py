"""Counts are found where they are, refused where they are none, and normalised as scanpy does."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmap_cli.data import matrices
from scmap_cli.data.matrices import (
    column_means,
    count_faults,
    find_counts,
    find_values,
    log1p_cp10k,
    row_chunks,
    to_counts,
)
from scmap_cli.data.qc import cell_metrics, gene_metrics
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.errors import InputError
from scmap_cli.io.h5ad import read_h5ad

FORMS = [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array, np.asarray]


def dense(n: int = 40, g: int = 15, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.8, (n, g)).astype(np.float32)


def log_normalised(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "i8", "u2"])
def test_any_form_and_type_becomes_sorted_float32_csr(form, kind: str) -> None:
    counts = to_counts(form(dense().astype(kind)))
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(counts.toarray(), dense())


def test_a_tidy_matrix_is_shared_and_an_untidy_one_left_alone() -> None:
    tidy = sp.csr_matrix(dense())
    assert np.shares_memory(to_counts(tidy).data, tidy.data)
    untidy = tidy.copy()
    untidy.data[::3] = 0
    for row in range(40):
        a, b = untidy.indptr[row : row + 2]
        untidy.indices[a:b], untidy.data[a:b] = untidy.indices[a:b][::-1].copy(), untidy.data[a:b][::-1].copy()
    untidy.has_sorted_indices = False
    before = (untidy.data.copy(), untidy.indices.copy(), untidy.indptr.copy())
    found = to_counts(untidy)
    for old, new in zip(before, (untidy.data, untidy.indices, untidy.indptr), strict=True):
        np.testing.assert_array_equal(old, new)
    assert found.data.all()
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), untidy.toarray())


def test_the_places_are_searched_in_order() -> None:
    logged = sp.csr_matrix(log_normalised(dense()))
    counts = sp.csr_matrix(dense())
    adata = anndata.AnnData(counts.copy())
    assert find_counts(adata).source == "X"
    adata.raw = adata.copy()
    adata.X = logged
    assert find_counts(adata).source == "raw"
    adata.layers["counts"] = counts
    assert find_counts(adata).source == "layer 'counts'"
    adata.layers["mine"] = counts * 2
    found = find_counts(adata, "mine")
    assert found.source == "layer 'mine'"
    np.testing.assert_array_equal(found.matrix.toarray(), 2 * dense())
    assert find_counts(adata, "raw").source == "raw"


def test_log_normalised_raw_is_passed_over_for_counts_in_x() -> None:
    adata = anndata.AnnData(sp.csr_matrix(log_normalised(dense())))
    adata.raw = adata.copy()
    adata.X = sp.csr_matrix(dense())
    assert find_counts(adata).source == "X"


def test_raw_brings_its_own_genes() -> None:
    adata = anndata.AnnData(sp.csr_matrix(dense()), var=pd.DataFrame(index=[f"g{i}" for i in range(15)]))
    adata.raw = adata.copy()
    adata = adata[:, :4].copy()
    adata.X = log_normalised(dense())[:, :4]
    found = find_counts(adata)
    assert found.matrix.shape == (40, 15)
    assert found.var_names.tolist() == [f"g{i}" for i in range(15)]


def test_without_counts_the_error_says_what_was_looked_at() -> None:
    adata = anndata.AnnData(sp.csr_matrix(log_normalised(dense())))
    adata.raw = adata.copy()
    with pytest.raises(InputError, match=r"raw holds \d+ non-integer.*X holds \d+ non-integer") as caught:
        find_counts(adata)
    assert "--layer" in str(caught.value.hint)
    with pytest.raises(InputError, match="layers: none"):
        find_counts(adata, "absent")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "2 NaN or infinite"),
        (np.inf, "2 NaN or infinite"),
        (-1, "2 negative"),
        (0.5, "2 non-integer"),
        (1e9, "beyond the largest"),
    ],
)
def test_faults_are_counted_in_every_form(form, value: float, message: str, monkeypatch) -> None:
    monkeypatch.setattr(matrices, "_BLOCK", 7)
    values = dense()
    values[3, 2] = values[30, 11] = value
    assert message in str(count_faults(form(values)))
    assert count_faults(form(dense())) is None
    with pytest.raises(InputError, match=message):
        find_counts(anndata.AnnData(form(values)))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5, 5)])
def test_nothing_is_no_count(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        find_counts(anndata.AnnData(sp.csr_matrix(shape, dtype=np.float32)))


def test_values_of_any_scale_are_taken_from_the_place_named() -> None:
    logged = sp.csr_matrix(log_normalised(dense()) - 0.5)
    untidy = sp.csr_matrix((np.array([1.0, 2.0, -4.5]), np.array([3, 3, 0]), np.array([0, 2, 3, *[3] * 38])), (40, 15))
    adata = anndata.AnnData(untidy, layers={"logged": logged})
    adata.raw = anndata.AnnData(np.full((40, 2), 0.25), var=pd.DataFrame(index=["a", "b"]))
    found = find_values(adata)
    assert (found.source, found.empty_cells) == ("X", 38)
    assert found.matrix.has_canonical_format
    np.testing.assert_array_equal(found.matrix.toarray(), untidy.toarray())
    np.testing.assert_array_equal(find_values(adata, "X").matrix.toarray(), untidy.toarray())
    np.testing.assert_array_equal(find_values(adata, "logged").matrix.toarray(), logged.toarray())
    assert find_values(adata, "raw").var_names.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "layer", "message"),
    [
        (None, None, r"there is no X \(layers: 'other'\)"),
        (np.ones((3, 2)), "none", "there is no layer 'none'"),
        (np.array([[0, np.nan], [np.inf, 1]]), None, "X holds 2 values that are not finite"),
        (np.zeros((3, 2)), None, "X holds no value but zero"),
        (np.ones((0, 2)), None, "X is empty: 0 cells"),
        (np.ones((3, 2), dtype=complex), None, "no numbers"),
    ],
)
def test_unfit_values_are_refused(values, layer, message) -> None:
    shape = (3, 2) if values is None else values.shape
    adata = anndata.AnnData(values, layers={"other": np.ones(shape)})
    with pytest.raises(InputError, match=message):
        find_values(adata, layer)


def test_empty_cells_are_counted() -> None:
    values = dense()
    values[[2, 5]] = 0
    assert find_counts(anndata.AnnData(sp.csr_matrix(values))).empty_cells == 2


@pytest.mark.parametrize("form", FORMS)
def test_backed_files_give_the_same(form, tmp_path) -> None:
    anndata.AnnData(form(dense())).write_h5ad(tmp_path / "a.h5ad")
    adata = read_h5ad(tmp_path / "a.h5ad", backed=True)
    try:
        np.testing.assert_array_equal(find_counts(adata).matrix.toarray(), dense())
    finally:
        adata.file.close()


@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_row_chunks_cover_the_matrix_and_share_its_memory(size: int) -> None:
    matrix = sp.csr_matrix(dense())
    seen = np.zeros((40, 15))
    for rows, block in row_chunks(matrix, size):
        seen[rows] += block.toarray()
        assert block.nnz == 0 or np.shares_memory(block.data, matrix.data)
    np.testing.assert_array_equal(seen, dense())


def test_log1p_cp10k_equals_the_closed_form_in_any_block_size(monkeypatch) -> None:
    values = dense()
    values[4] = 0
    truth = np.log1p(values / np.maximum(values.sum(1, keepdims=True), 1) * 1e4)
    matrix = sp.csr_matrix(values)
    for block in (3, 1 << 22):
        monkeypatch.setattr(matrices, "_BLOCK", block)
        np.testing.assert_allclose(log1p_cp10k(matrix).toarray(), truth, rtol=1e-6)
    part = log1p_cp10k(matrix[:, :5], totals=values.sum(1))
    np.testing.assert_allclose(part.toarray(), truth[:, :5], rtol=1e-6)
    np.testing.assert_array_equal(matrix.toarray(), values)


def test_log1p_and_qc_equal_scanpy(monkeypatch) -> None:
    import scanpy

    monkeypatch.setattr(matrices, "_BLOCK", 50)
    values = dense()
    values[4], values[:, 6] = 0, 0
    adata = anndata.AnnData(sp.csr_matrix(values))
    adata.var["mt"] = np.arange(15) < 3
    scanpy.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    mito = adata.var["mt"].to_numpy()
    ours_obs, ours_var = cell_metrics(adata.X, mito), gene_metrics(adata.X, mito)
    assert set(ours_obs.columns) == set(adata.obs.columns)
    assert set(ours_var.columns) == set(adata.var.columns)
    for name in ours_obs:
        theirs = adata.obs[name].fillna(0)
        np.testing.assert_allclose(ours_obs[name], theirs, rtol=1e-5, atol=1e-6, err_msg=name)
    for name in ours_var:
        np.testing.assert_allclose(ours_var[name], adata.var[name], rtol=1e-5, atol=1e-6, err_msg=name)
    normal = anndata.AnnData(sp.csr_matrix(values))
    with pytest.warns(UserWarning, match="zero counts"):
        scanpy.pp.normalize_total(normal, target_sum=1e4)
    scanpy.pp.log1p(normal)
    np.testing.assert_allclose(log1p_cp10k(sp.csr_matrix(values)).toarray(), normal.X.toarray(), rtol=1e-5)


def test_column_means_are_those_of_the_dense_table_in_any_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, (57, 9)) * (rng.random((57, 9)) < 0.8)
    dense[:, 4] = 0
    rows = rng.random(57) < 0.6
    for block in (1 << 22, 40):
        monkeypatch.setattr(matrices, "_BLOCK", block)
        for kind in (np.int16, np.float32):
            csr = sp.csr_matrix(dense.astype(kind))
            np.testing.assert_allclose(column_means(csr), dense.mean(0), rtol=1e-15)
            np.testing.assert_allclose(column_means(csr, rows), dense[rows].mean(0), rtol=1e-15)
    np.testing.assert_array_equal(column_means(csr, np.zeros(57, dtype=bool)), np.zeros(9))


def test_scaling_is_that_of_the_dense_table_in_any_blocks(monkeypatch):
    matrix = sp.random(50, 7, 0.4, "csr", dtype=np.float32, random_state=0)
    whole = fit_scaling(matrix)
    monkeypatch.setattr(matrices, "_BLOCK", 20)
    blocked = fit_scaling(matrix)
    dense = matrix.toarray().astype(np.float64)
    for found in (whole, blocked):
        np.testing.assert_allclose(found.mean, dense.mean(0), rtol=1e-13)
        np.testing.assert_allclose(found.deviation, dense.std(0, ddof=1), rtol=1e-13)
