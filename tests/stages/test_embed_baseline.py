"""``embed --baseline`` and ``--tsne``: slots, bytes, and which options go together."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from scmap_cli.data.decomposition import lsi, pca
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.npz import read_npz
from scmap_cli.runtime.provenance import read_history
from scmap_cli.stages.embed_baseline import embed_baseline
from scmap_cli.stages.simulate_atac import simulate_atac
from scmap_cli.stages.views import tsne_layout


@pytest.fixture(scope="module")
def atac(tmp_path_factory):
    path = tmp_path_factory.mktemp("atac") / "atac.h5ad"
    simulate_atac(path, preset="tiny", n_cells=150)
    return path


@pytest.mark.parametrize("name", ["lsi", "pca", "lsi-harmony"])
def test_slots(atac, tmp_path, name):
    summary = embed_baseline(atac, tmp_path / "e.h5ad", baseline=name, components=6, batch_key="batch")
    adata = anndata.read_h5ad(tmp_path / "e.h5ad")
    key = name.replace("-", "_")
    assert adata.obsm[f"X_{key}"].dtype == np.float32
    assert adata.obsm[f"X_{key}"].shape == (150, 6)
    first = "PCA1" if name == "pca" else "LSI2"
    assert adata.uns[f"{key}_names"][0] == first
    assert [record["verb"] for record in read_history(adata.uns)] == ["simulate atac", "embed"]
    assert (summary["cells"], summary["dimensions"]) == (150, 6)
    if name == "lsi":
        np.testing.assert_array_equal(adata.obsm["X_lsi"], lsi(adata.X, 6).astype(np.float32))
    if name == "pca":
        np.testing.assert_array_equal(adata.obsm["X_pca"], pca(adata.X, 6).astype(np.float32))


def test_components_of_values_as_they_are(atac, tmp_path):
    adata = anndata.read_h5ad(atac)
    values = np.random.default_rng(0).random(adata.shape).astype(np.float32)
    adata.X = values
    adata.write_h5ad(tmp_path / "imputed.h5ad")
    with pytest.raises(InputError, match="no raw counts"):
        embed_baseline(tmp_path / "imputed.h5ad", tmp_path / "e.npz", baseline="pca", components=4)
    embed_baseline(tmp_path / "imputed.h5ad", tmp_path / "e.npz", baseline="pca", components=4, input_scale="as-is")
    found = read_npz(tmp_path / "e.npz", kind="embedding")[1]["embedding"]
    left, size, _ = np.linalg.svd(values - values.mean(0, dtype=np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :4] * size[:4]), atol=2e-3)


def test_the_first_component_is_depth_and_can_be_kept(atac, tmp_path):
    kept = embed_baseline(atac, tmp_path / "k.npz", baseline="lsi", components=5, drop_first=False)
    dropped = embed_baseline(atac, tmp_path / "d.npz", baseline="lsi", components=4)
    assert abs(kept["first_with_depth"]) > 0.9 > abs(dropped["first_with_depth"])
    whole, part = (read_npz(tmp_path / name, kind="embedding")[1] for name in ("k.npz", "d.npz"))
    np.testing.assert_array_equal(whole["embedding"][:, 1:], part["embedding"])
    assert whole["names"].tolist()[1:] == part["names"].tolist() == ["LSI2", "LSI3", "LSI4", "LSI5"]


def test_layouts_clusters_and_pictures(atac, tmp_path, monkeypatch):
    for name, threads in (("a", "1"), ("b", "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        summary = embed_baseline(
            atac,
            tmp_path / f"{name}.h5ad",
            baseline="lsi",
            components=5,
            tsne=True,
            cluster_method="leiden",
            plot=tmp_path / f"{name}.png",
            color="clusters,LSI2,cell_type",
        )
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert adata.obs["lsi_cluster"].nunique() == summary["clusters"]
    assert adata.obsm["X_tsne"].shape == adata.obsm["X_umap"].shape == (150, 2)
    embed_baseline(atac, tmp_path / "c.npz", baseline="lsi", components=5, tsne=True)
    np.testing.assert_array_equal(read_npz(tmp_path / "c.npz")[1]["tsne"], adata.obsm["X_tsne"])


def test_tsne_keeps_groups_apart_and_takes_few_cells():
    rng = np.random.default_rng(0)
    kind = np.arange(90) % 3
    layout = tsne_layout((rng.normal(size=(90, 4)) + 20 * np.eye(3, 4)[kind]).astype(np.float32), seed=0)
    centres = np.stack([layout[kind == k].mean(0) for k in range(3)])
    spread = max(np.linalg.norm(layout[kind == k] - centres[k], axis=1).max() for k in range(3))
    gaps = [np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 2 * spread
    assert tsne_layout(np.arange(5, dtype=np.float32)[:, None], seed=0).shape == (5, 2)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"baseline": "nmf"}, UsageError, "unknown baseline"),
        ({"components": 0}, UsageError, "--components"),
        ({"components": 5000}, InputError, "fewer than"),
        ({"tfidf": "x"}, UsageError, "unknown TF-IDF"),
        ({"input_scale": "x"}, UsageError, "unknown scale"),
        ({"input_scale": "as-is"}, UsageError, "is for pca"),
        ({"baseline": "lsi-harmony"}, UsageError, "corrects for batches"),
        ({"baseline": "lsi-harmony", "batch_key": "rho_"}, InputError, "no obs column 'rho_'"),
        ({"neighbors": 0}, UsageError, "--neighbors"),
        ({"layer": "none"}, InputError, "no layer 'none'"),
    ],
)
def test_refusals_write_nothing(atac, tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        embed_baseline(atac, tmp_path / "o.npz", **{"baseline": "lsi", "components": 5} | options)
    with pytest.raises(UsageError, match="neither"):
        embed_baseline(atac, tmp_path / "o.csv", baseline="lsi")
    assert embed_baseline(atac, tmp_path / "o.npz", baseline="lsi", dry_run=True)["cells"] == 150
    assert list(tmp_path.iterdir()) == []
