"""``embed``: posterior means by name not position, the slots it writes, and what it refuses."""

import csv
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.runtime.provenance import read_history
from scmap_cli.stages.embed import embed
from scmap_cli.stages.inputs import condition_labels, load_rna
from scmap_cli.stages.views import Embedding, plot_columns


@pytest.fixture
def embedded(trained, tmp_path: Path) -> anndata.AnnData:
    embed(trained.model, trained.data, tmp_path / "e.h5ad", variance=True)
    return anndata.read_h5ad(tmp_path / "e.h5ad")


def test_slots_and_history(trained, embedded) -> None:
    mean, var = embedded.obsm["X_expimap"], embedded.obsm["X_expimap_var"]
    assert mean.dtype == var.dtype == np.float32
    assert mean.shape == var.shape == (300, 12)
    assert (var > 0).all()
    assert list(embedded.uns["expimap_names"]) == list(embedded.uns["scmap_program_names"])
    assert [r["verb"] for r in read_history(embedded.uns)] == ["simulate rna", "embed"]
    source = anndata.read_h5ad(trained.data)
    assert (embedded.X != source.X).nnz == 0


def test_planted_programs_are_found(trained, embedded) -> None:
    truth, mean = embedded.obsm["true_activity"], embedded.obsm["X_expimap"]
    used = truth.std(0) > 0.1
    r = [abs(np.corrcoef(truth[:, k], mean[:, k])[0, 1]) for k in np.flatnonzero(used)]
    assert np.median(r) > 0.5


def test_shuffled_genes_extra_genes_and_npz_give_the_same_numbers(trained, embedded, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    extra = anndata.AnnData(sparse.csr_matrix(np.ones((300, 2), np.float32)), obs=data.obs[[]])
    extra.var_names = ["EXTRA1", "EXTRA2"]
    wide = anndata.concat([extra, data[:, ::-1].copy()], axis=1)
    wide.obs = data.obs
    write_h5ad(wide, tmp_path / "wide.h5ad")
    report = embed(trained.model, tmp_path / "wide.h5ad", tmp_path / "w.npz")
    header, arrays = read_npz(tmp_path / "w.npz", kind="embedding")
    np.testing.assert_array_equal(arrays["embedding"], embedded.obsm["X_expimap"])
    assert arrays["cells"].tolist() == embedded.obs_names.tolist()
    assert header["model"] == "expimap"
    assert report["genes"]["extra"] == 2


def test_missing_genes_are_counted_and_too_few_refused(trained, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    write_h5ad(data[:, :150].copy(), tmp_path / "some.h5ad")
    assert embed(trained.model, tmp_path / "some.h5ad", tmp_path / "s.npz")["genes"]["missing"] == 50
    with pytest.raises(InputError, match=r"150 of the model's 200 genes"):
        embed(trained.model, tmp_path / "some.h5ad", tmp_path / "t.npz", min_overlap=0.8)
    assert not (tmp_path / "t.npz").exists()


def test_a_batch_the_model_does_not_know(trained, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    data.obs["batch"] = "elsewhere"
    write_h5ad(data, tmp_path / "new.h5ad")
    with pytest.raises(InputError, match="elsewhere"):
        embed(trained.model, tmp_path / "new.h5ad", tmp_path / "n.npz")


def test_clusters_umap_scores_and_picture(trained, tmp_path: Path) -> None:
    def run(name: str) -> dict[str, object]:
        return embed(
            trained.model,
            trained.data,
            tmp_path / f"{name}.h5ad",
            cluster_method="leiden",
            plot=tmp_path / f"{name}.png",
            program_scores=tmp_path / f"{name}.tsv",
            groupby="clusters",
            color="clusters,cell_type,depth,GENE0001",
        )

    summary = run("a")
    run("b")
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    data = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert data.obsm["X_umap"].shape == (300, 2)
    clusters = data.obs["expimap_cluster"]
    assert clusters.nunique() == summary["clusters"]
    with (tmp_path / "a.tsv").open() as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [row["clusters"] for row in rows] == sorted(clusters.unique(), key=int)
    assert sum(int(row["cells"]) for row in rows) == 300
    first = data.obsm["X_expimap"][(clusters == "0").to_numpy(), 0].mean()
    assert abs(float(rows[0][data.uns["expimap_names"][0]])) == pytest.approx(abs(first), rel=1e-3)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("method", ["leiden", "louvain"])
@pytest.mark.parametrize("backend", ["igraph", "leidenalg"])
def test_every_cluster_method(trained, tmp_path: Path, method: str, backend: str) -> None:
    summary = embed(
        trained.model, trained.data, tmp_path / "c.npz", cluster_method=method, cluster_backend=backend, resolution=0.5
    )
    assert 2 <= summary["clusters"] <= 12


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"output": "x.csv"}, UsageError, "neither"),
        ({"cluster_method": "kmeans"}, UsageError, "kmeans"),
        ({"resolution": 0.0}, UsageError, "resolution"),
        ({"groupby": "clusters", "program_scores": "s.tsv"}, UsageError, "clusters"),
        ({"min_overlap": 2.0}, UsageError, "overlap"),
        ({"color": "nothing", "plot": "p.png"}, InputError, "nothing"),
        ({"groupby": "nothing", "program_scores": "s.tsv"}, InputError, "nothing"),
        ({"layer": "nothing"}, InputError, "nothing"),
    ],
)
def test_refusals_write_nothing(trained, tmp_path: Path, options: dict[str, object], error, match: str) -> None:
    paths = {k: tmp_path / str(v) for k, v in options.items() if k in ("output", "plot", "program_scores")}
    options = {k: v for k, v in options.items() if k not in paths} | paths
    output = options.pop("output", tmp_path / "o.npz")
    with pytest.raises(error, match=match):
        embed(trained.model, trained.data, output, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_of_many_kinds_are_amounts(trained) -> None:
    data = load_rna(trained.data)
    n = len(data.cells)
    data.adata.obs["found"], data.adata.obs["plate"] = np.arange(n) + 500, np.arange(n) % 12
    result = Embedding("expimap", [], np.zeros((n, 0), np.float32), None, np.zeros(0, bool))
    shown = plot_columns(result, data, np.full(n, "all"), "found,plate")
    assert shown["found"].dtype == np.float64
    assert sorted(set(shown["plate"]), key=int) == [str(i) for i in range(12)]


def test_a_column_of_amounts_is_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    obs = pd.DataFrame({"depth": np.arange(300), "donor": np.arange(300) % 30})
    condition_labels(obs, "donor", Path("a.h5ad"))
    assert "is it one of groups" not in caplog.text
    condition_labels(obs, "depth", Path("a.h5ad"))
    assert "'depth' has 300 values in 300 cells: is it one of groups of cells?" in caplog.text


def test_a_file_that_is_no_model(trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model directory"):
        embed(trained.data, trained.data, tmp_path / "o.npz")
    (tmp_path / "half/checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="has not finished"):
        embed(tmp_path / "half", trained.data, tmp_path / "o.npz")


def test_dry_run(trained, tmp_path: Path) -> None:
    summary = embed(trained.model, trained.data, tmp_path / "o.npz", dry_run=True)
    assert json.dumps(summary)
    with pytest.raises(InputError, match="'nothing'"):
        embed(trained.model, trained.data, tmp_path / "o.npz", plot=tmp_path / "p.png", color="nothing", dry_run=True)
    assert list(tmp_path.iterdir()) == []
