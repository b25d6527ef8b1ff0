"""Linear baselines against dense float64 references."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import sparse

from scmap_cli.data import decomposition
from scmap_cli.data.decomposition import TFIDF, gene_svd, harmony, lsi, pca, scaled_pca, tfidf
from scmap_cli.errors import InputError, UsageError


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    rate = 0.3 * rng.gamma(1, 1, (3, 80))
    table = rng.poisson(rate[np.arange(120) % 3] * rng.lognormal(0, 0.7, (120, 1)))
    table[5] = 0
    table[:, 7] = 0
    return sparse.csr_matrix(table.astype(np.float32))


def dense_tfidf(counts, form, binary):
    table = counts.toarray().astype(np.float64)
    table = (table > 0).astype(float) if binary else table
    with np.errstate(invalid="ignore", divide="ignore"):
        tf = np.nan_to_num(table / table.sum(1, keepdims=True))
        idf = len(table) / table.sum(0)
    idf[~np.isfinite(idf)] = 0
    return np.log1p(1e4 * tf * idf) if form == "log-tfidf" else np.log1p(1e4 * tf) * np.log1p(idf)


def up_to_sign(found, wanted, tolerance=1e-6):
    signs = np.sign((found * wanted).sum(0))
    np.testing.assert_allclose(found * signs, wanted, atol=tolerance)


@pytest.mark.parametrize("form", TFIDF)
@pytest.mark.parametrize("binary", [False, True])
def test_lsi_is_the_decomposition_of_tfidf(counts, form, binary):
    dense = dense_tfidf(counts, form, binary)
    np.testing.assert_allclose(tfidf(counts, form, binary).toarray(), dense, rtol=1e-12)
    u, s, _ = np.linalg.svd(dense, full_matrices=False)
    up_to_sign(lsi(counts, 4, form=form, binary=binary, drop_first=False), u[:, :4] * s[:4])
    up_to_sign(lsi(counts, 4, form=form, binary=binary), u[:, 1:5] * s[1:5])


def test_pca_is_that_of_centred_log_counts(counts):
    table = counts.toarray().astype(np.float64)
    log = np.log1p(1e4 * table / np.maximum(table.sum(1, keepdims=True), 1))
    u, s, _ = np.linalg.svd(log - log.mean(0), full_matrices=False)
    up_to_sign(pca(counts, 5), u[:, :5] * s[:5], 1e-3)


def test_same_seed_same_bytes(counts):
    assert lsi(counts, 6, seed=3).tobytes() == lsi(counts, 6, seed=3).tobytes()
    assert pca(counts, 6, seed=3).tobytes() == pca(counts, 6, seed=3).tobytes()
    up_to_sign(lsi(counts, 3, seed=3), lsi(counts, 3, seed=4))


@pytest.mark.parametrize("rows", [4096, 50])
def test_scaled_pca_equals_dense(counts, rows, monkeypatch):
    from sklearn.decomposition import PCA

    monkeypatch.setattr(decomposition, "_ROWS", rows)
    table = counts.toarray().astype(np.float64)
    totals = table.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log1p(np.nan_to_num(table / totals[:, None] * np.median(totals[totals > 0])))
        z = np.clip(np.nan_to_num((logs - logs.mean(0)) / logs.std(0)), -2, 2)
    expected = PCA(6, svd_solver="full").fit_transform(z)
    found = scaled_pca(counts, 6, largest=2.0)
    np.testing.assert_allclose(np.abs(np.sum(found * expected, 0)), np.sum(expected**2, 0), rtol=1e-4)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-3)
    assert found.tobytes() == scaled_pca(counts, 6, largest=2.0).tobytes()


def test_too_many_components_and_unknown_forms(counts):
    with pytest.raises(InputError, match="fewer than 81"):
        pca(counts, 80)
    with pytest.raises(InputError, match="fewer than 81"):
        lsi(counts, 79)
    with pytest.raises(InputError, match="fewer than 81"):
        scaled_pca(counts, 80)
    with pytest.raises(UsageError, match="unknown TF-IDF"):
        tfidf(counts, "idf")


def test_harmony_brings_batches_together():
    rng = np.random.default_rng(0)
    kind, batch = np.arange(400) % 2, (np.arange(400) // 2) % 2
    emb = rng.normal(size=(400, 5)) * 0.3
    emb[:, 0] += 4 * kind
    emb[:, 1] += 2 * batch
    found = harmony(emb, batch.astype(str), seed=1)
    gap = [np.linalg.norm(x[batch == 0].mean(0) - x[batch == 1].mean(0)) for x in (emb, found)]
    assert gap[1] < 0.5 * gap[0]
    apart = abs(found[kind == 0, 0].mean() - found[kind == 1, 0].mean())
    assert apart > 2
    assert found.tobytes() == harmony(emb, batch.astype(str), seed=1).tobytes()
    with pytest.raises(InputError, match="two batches"):
        harmony(emb, np.zeros(400))


def test_without_harmonypy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        harmony(np.zeros((10, 2)), np.arange(10) % 2)
    assert "scmap-cli[harmony]" in caught.value.hint


def test_genes_by_coexpression_are_those_of_a_dense_svd() -> None:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(
        rng.poisson(np.exp(rng.normal(size=(60, 3)) @ rng.normal(size=(3, 25)))).astype(np.float32)
    )
    dense = np.log1p(counts.toarray() / counts.sum(1).clip(1) * 1e4)
    dense = np.asarray(dense)
    spread = dense.std(0)
    scaled = np.where(spread > 1e-9, (dense - dense.mean(0)) / np.where(spread > 1e-9, spread, 1), 0)
    found = gene_svd(counts, 6, seed=1)
    _, size, right = np.linalg.svd(scaled, full_matrices=False)
    expected = (right[:6] * size[:6, None]).T / np.sqrt(60)
    # Signs are free; products between genes are not.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)
    np.testing.assert_array_equal(found, gene_svd(counts, 6, seed=1))


def test_genes_that_no_cell_expresses_lie_at_the_origin() -> None:
    counts = sparse.random(500, 100, 0.1, format="csr", random_state=0, dtype=np.float32)
    counts.data[:] = np.ceil(5 * counts.data)
    silent = np.zeros(100, dtype=bool)
    silent[::10] = True
    found = gene_svd(sparse.csr_matrix(counts @ sparse.diags((~silent).astype(np.float32))), 20)
    assert (found[silent] == 0).all()
    assert (found[~silent] != 0).all()
