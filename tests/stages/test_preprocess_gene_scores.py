"""``preprocess gene-scores``: counts are kept, names decide, smoothing joins alike cells, misfits are refused."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.runtime.provenance import read_history
from scmap_cli.stages.preprocess_gene_scores import preprocess_gene_scores
from scmap_cli.stages.simulate_atac import simulate_atac


@pytest.fixture(scope="module")
def atac(tmp_path_factory):
    path = tmp_path_factory.mktemp("atac") / "atac.h5ad"
    simulate_atac(path, preset="tiny", n_cells=120, n_peaks=600)
    return path


@pytest.fixture(scope="module")
def genes(tmp_path_factory, atac):
    """A gene for each chromosome half, one far away, and one on another chromosome."""
    adata = anndata.read_h5ad(atac)
    rows = []
    for chrom, table in adata.var.groupby("chrom", observed=True):
        middle = int(table["end"].median())
        rows.append(f"{chrom}\t0\t{middle}\t{chrom}_left\t0\t+")
        rows.append(f"{chrom}\t{middle}\t{table['end'].max()}\t{chrom}_right\t0\t+")
    rows += ["chr1\t90000000\t90000100\tfar\t0\t+", "chrX\t0\t100\telsewhere\t0\t-"]
    path = tmp_path_factory.mktemp("genes") / "genes.bed"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_every_count_is_at_one_gene(atac, genes, tmp_path):
    summary = preprocess_gene_scores(atac, tmp_path / "s.h5ad", genes=genes, upstream=0)
    adata, scores = anndata.read_h5ad(atac), anndata.read_h5ad(tmp_path / "s.h5ad")
    assert scores.X.dtype == np.float32
    assert (summary["genes"], summary["genes_without_peaks"]) == (scores.n_vars, 2)
    assert summary["share_of_counts_at_genes"] == 1
    straddling = scores.var["n_peaks"].sum() - adata.n_vars
    assert 0 <= straddling <= 22
    np.testing.assert_array_equal(scores["cell1"].X.toarray() % 1, 0)
    left = adata.var.index[(adata.var["chrom"] == "chr2")]
    both = scores[:, ["chr2_left", "chr2_right"]].X.sum()
    assert both >= adata[:, left].X.sum()
    assert scores.obs.equals(adata.obs)
    assert [record["verb"] for record in read_history(scores.uns)] == ["simulate atac", "preprocess gene-scores"]
    preprocess_gene_scores(atac, tmp_path / "t.h5ad", genes=genes, upstream=0)
    assert (tmp_path / "s.h5ad").read_bytes() == (tmp_path / "t.h5ad").read_bytes()


def test_scanpy_tells_groups_by_their_scores(atac, genes, tmp_path):
    """As the guide has it: a gene whose peaks are open in one group is first in the table."""
    adata = anndata.read_h5ad(atac)
    adata.obs["group"] = np.where(np.arange(adata.n_obs) % 3 == 0, "a", "b")
    counts = adata.X.tolil()
    left = adata.var["chrom"].to_numpy() == "chr2"
    left &= adata.var["end"].to_numpy() < np.median(adata.var["end"][left])
    counts[np.ix_((adata.obs["group"] == "a").to_numpy().nonzero()[0], left.nonzero()[0])] = 3
    adata.X = counts.tocsr()
    adata.write_h5ad(tmp_path / "planted.h5ad")
    preprocess_gene_scores(tmp_path / "planted.h5ad", tmp_path / "s.h5ad", genes=genes)
    scores = anndata.read_h5ad(tmp_path / "s.h5ad")
    scanpy.pp.normalize_total(scores, target_sum=1e4)
    scanpy.pp.log1p(scores)
    scanpy.tl.rank_genes_groups(scores, "group", groups=["a"], reference="b", method="wilcoxon")
    table = scanpy.get.rank_genes_groups_df(scores, "a")
    assert table["names"][0] == "chr2_left"
    assert table["pvals_adj"][0] < 1e-6
    assert table["logfoldchanges"][0] > 1


def test_farther_peaks_add_with_decay(atac, genes, tmp_path):
    preprocess_gene_scores(atac, tmp_path / "a.h5ad", genes=genes)
    preprocess_gene_scores(atac, tmp_path / "b.h5ad", genes=genes, decay=10_000.0)
    one, two = (anndata.read_h5ad(tmp_path / f"{name}.h5ad").X.toarray() for name in "ab")
    assert (two >= one).all()
    assert two.sum() > one.sum()


def test_some_genes_smoothed(atac, genes, tmp_path):
    only = ["chr3_right", "chr1_left"]
    preprocess_gene_scores(atac, tmp_path / "a.h5ad", genes=genes, smooth=True)
    preprocess_gene_scores(atac, tmp_path / "b.h5ad", genes=genes, smooth=True, only=only)
    whole, some = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    assert list(some.var_names) == only
    np.testing.assert_array_equal(some.layers["magic"], whole[:, only].layers["magic"])
    assert some.layers["magic"].dtype == np.float32
    assert (some.layers["magic"].std(0) < np.sqrt(some.X.toarray()).std(0)).all()


def test_all_genes_without_a_score_are_named(atac, genes, tmp_path):
    with pytest.raises(InputError, match=r"2 genes of --only have no score \(AANAT, NOPE\)"):
        preprocess_gene_scores(atac, tmp_path / "a.h5ad", genes=genes, only=["chr1_left", "AANAT", "NOPE"])
    assert not (tmp_path / "a.h5ad").exists()


def test_smoothing_on_an_embedding_of_types_gives_their_means(atac, genes, tmp_path):
    adata = anndata.read_h5ad(atac)
    adata.obsm["X_mine"] = 100.0 * np.eye(3)[adata.obs["cell_type"].cat.codes]
    adata.obsm["X_mine"] += np.random.default_rng(0).normal(size=(120, 3)) * 1e-3
    adata.write_h5ad(tmp_path / "in.h5ad")
    preprocess_gene_scores(tmp_path / "in.h5ad", tmp_path / "s.h5ad", genes=genes, smooth=True, smooth_on="X_mine")
    scores = anndata.read_h5ad(tmp_path / "s.h5ad")
    root = np.sqrt(1e4 * scores.X.toarray() / scores.X.sum(1))
    for name in adata.obs["cell_type"].cat.categories:
        here = (adata.obs["cell_type"] == name).to_numpy()
        magic = np.asarray(scores.layers["magic"])[here]
        assert magic.min() >= np.asarray(root)[here].min() - 1e-3
        assert magic.max() <= np.asarray(root)[here].max() + 1e-3


def test_bad_input_and_options_write_nothing(atac, genes, tmp_path, monkeypatch):
    out = tmp_path / "s.h5ad"
    for options in ({"upstream": -1}, {"downstream": -1}, {"decay": 0.0}, {"only": [""]}, {"smooth_on": "X_mine"}):
        with pytest.raises(UsageError):
            preprocess_gene_scores(atac, out, genes=genes, **options)
    for options, match in (
        ({"only": ["far"]}, "1 genes of --only have no score"),
        ({"smooth": True, "smooth_on": "X_no"}, "no embedding 'X_no'"),
        ({"genes": tmp_path / "none.bed"}, "does not exist"),
        ({"layer": "none"}, "no layer"),
    ):
        with pytest.raises(InputError, match=match):
            preprocess_gene_scores(atac, out, **{"genes": genes} | options)
    monkeypatch.setattr("scmap_cli.stages.preprocess_gene_scores.available_memory", lambda: 1000)
    with pytest.raises(InputError, match="of memory are available"):
        preprocess_gene_scores(atac, out, genes=genes, smooth=True)
    monkeypatch.undo()
    assert preprocess_gene_scores(atac, out, genes=genes, dry_run=True)["cells"] == 120
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(OutputExistsError):
        preprocess_gene_scores(atac, out, genes=genes)
