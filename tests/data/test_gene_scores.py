"""Weights of peaks for genes against a loop over all pairs, and MAGIC against its dense definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.data.gene_scores import diffuse, gene_weights
from scmap_cli.data.peaks import Peaks, peak_positions
from scmap_cli.errors import InputError
from scmap_cli.io.genes import Genes


def random_peaks(rng, n):
    start = rng.integers(0, 50_000, n)
    return Peaks(rng.choice(["chr1", "chr2"], n), start, start + rng.integers(1, 3000, n))


def random_genes(rng, n):
    start = rng.integers(0, 50_000, n)
    names = np.array([f"G{i % (n - 5)}" for i in range(n)])
    return Genes(
        names, rng.choice(["chr1", "chr2", "chr3"], n), start, start + rng.integers(1, 9000, n), rng.random(n) < 0.5
    )


def plain(peaks, genes, upstream, downstream, decay):
    names = list(dict.fromkeys(genes.names.tolist()))
    weight = np.zeros((len(peaks.chrom), len(names)))
    for g, name in enumerate(genes.names):
        before, behind = (upstream, downstream) if genes.forward[g] else (downstream, upstream)
        low, high = genes.start[g] - before, genes.end[g] + behind
        for p in range(len(peaks.chrom)):
            if peaks.chrom[p] != genes.chrom[g]:
                continue
            if peaks.start[p] < high and peaks.end[p] > low:
                found = 1.0
            elif decay is None:
                continue
            else:
                distance = max(peaks.start[p] - high, low - peaks.end[p])
                found = np.exp(-distance / decay) if distance < 5 * decay else 0.0
            weight[p, names.index(name)] = max(weight[p, names.index(name)], found)
    kept = weight.any(0)
    return weight[:, kept], [name for name, keep in zip(names, kept, strict=True) if keep], int((~kept).sum())


@pytest.mark.parametrize("decay", [None, 800.0])
@pytest.mark.parametrize("window", [(2000, 0), (500, 300), (0, 0)])
def test_weights_equal_a_loop_over_all_pairs(decay, window):
    rng = np.random.default_rng(int(decay or 0))
    peaks, genes = random_peaks(rng, 150), random_genes(rng, 40)
    found = gene_weights(peaks, genes, upstream=window[0], downstream=window[1], decay=decay)
    weight, names, missing = plain(peaks, genes, *window, decay)
    assert list(found.var.index) == names
    assert found.without_peaks == missing > 0
    np.testing.assert_allclose(found.weight_pg.toarray(), weight, atol=1e-6)
    assert found.var["n_peaks"].tolist() == (weight > 0).sum(0).tolist()


def test_promoters_lie_before_the_gene_on_its_strand():
    peaks = Peaks(np.array(["c", "c"]), np.array([900, 2100]), np.array([950, 2150]))
    genes = Genes(
        np.array(["plus", "minus"]),
        np.array(["c", "c"]),
        np.array([1000, 1000]),
        np.array([2000, 2000]),
        np.array([True, False]),
    )
    found = gene_weights(peaks, genes, upstream=200)
    assert found.weight_pg.toarray().T.tolist() == [[1, 0], [0, 1]]
    assert found.var["strand"].tolist() == ["+", "-"]


def test_other_genomes_are_refused():
    peaks = Peaks(np.array(["1"]), np.array([0]), np.array([10]))
    genes = Genes(np.array(["A"]), np.array(["chr1"]), np.array([0]), np.array([10]), np.array([True]))
    with pytest.raises(InputError, match="share no chromosome name"):
        gene_weights(peaks, genes)
    far = Genes(np.array(["A"]), np.array(["1"]), np.array([99_000]), np.array([99_010]), np.array([True]))
    with pytest.raises(InputError, match="no gene has a peak"):
        gene_weights(peaks, far)


def test_positions_from_columns_or_names():
    wanted = [("chr1", 5, 9), ("HLA:x_1", 100, 200)]
    for var in (
        pd.DataFrame(index=["chr1:5-9", "HLA:x_1:100-200"]),
        pd.DataFrame(index=["chr1_5_9", "HLA:x_1-100-200"]),
        pd.DataFrame({"chrom": ["chr1", "HLA:x_1"], "start": [5, 100], "end": [9, 200]}, index=["a", "b"]),
        pd.DataFrame({"chr": ["chr1", "HLA:x_1"], "start": [5, 100], "end": [9, 200]}, index=["a", "b"]),
    ):
        found = peak_positions(var)
        assert list(zip(found.chrom.tolist(), found.start.tolist(), found.end.tolist(), strict=True)) == wanted
    for names, match in ((["chr1:9-5"], "no valid position"), (["gene"], "no positions, such as 'gene'")):
        with pytest.raises(InputError, match=match):
            peak_positions(pd.DataFrame(index=names))
    with pytest.raises(InputError, match="no valid position"):
        peak_positions(pd.DataFrame({"chrom": ["c"], "start": ["x"], "end": [3]}, index=["a"]))


def test_smoothing_is_the_power_of_the_dense_operator():
    rng = np.random.default_rng(0)
    n, k = 30, 4
    emb = rng.normal(size=(n, 3))
    distance = np.linalg.norm(emb[:, None] - emb, axis=2)
    order = np.argsort(distance, axis=1)[:, 1 : 3 * k + 1]
    near = np.take_along_axis(distance, order, 1)
    dense = np.eye(n)
    for i in range(n):
        for j in order[i]:
            dense[i, j] = np.exp(-((distance[i, j] / near[i, k - 1]) ** 2.0))
    dense = (dense + dense.T) / 2
    dense /= dense.sum(1, keepdims=True)
    values = rng.random((n, 7)) * (rng.random((n, 7)) < 0.4)
    found = np.zeros((n, 7))
    for part, block in diffuse(sparse.csr_matrix(values), order, near, k=k, decay=2.0, steps=4, columns=3):
        found[:, part] = block
    np.testing.assert_allclose(found, np.linalg.matrix_power(dense, 4) @ values, atol=1e-6)


def test_smoothing_keeps_constants_and_cells_at_one_place():
    indices = np.array([[1, 2], [0, 2], [0, 1]])
    values = sparse.csr_matrix(np.array([[1.0, 3], [1, 0], [1, 0]]))
    ((_, found),) = diffuse(values, indices, np.zeros((3, 2)), k=1)
    np.testing.assert_allclose(found[:, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], 1, rtol=1e-6)
