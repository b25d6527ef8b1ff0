import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.npz import write_npz
from scmap_cli.stages.compare import compare
from scmap_cli.stages.evaluate_clustering import evaluate_clustering
from scmap_cli.stages.scores import render

FAST = {"k": (15,), "resolutions": (0.3, 1.0)}


def make(path, n=240, key="X_expimap", seed=0, **more):
    rng = np.random.default_rng(seed)
    code = np.arange(n) % 4
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(["T", "B", "NK", "Mono"])[code]), "batch": rng.choice(["x", "y"], n)},
        index=[f"c{i}" for i in range(n)],
    )
    emb = (rng.normal(size=(n, 6)) + 4 * np.eye(4, 6)[code]).astype(np.float32)
    anndata.AnnData(obs=obs, obsm={key: emb} | more).write_h5ad(path)
    return path


@pytest.fixture
def data(tmp_path):
    return make(tmp_path / "e.h5ad")


def test_the_file_holds_scores_and_settings(tmp_path, data):
    result = evaluate_clustering([data], tmp_path / "s.json", label_key="cell_type", batch_key="batch", **FAST)
    written = json.loads((tmp_path / "s.json").read_text())
    assert written == json.loads(render(result))
    entry = written["results"][0]
    assert (entry["embedding"], entry["cells"], entry["n_labels"]) == ("X_expimap", 240, 4)
    assert entry["matched"]["ari"] > 0.8
    assert entry["mixing"] > 0.9
    assert {"k", "resolutions", "seed", "cluster_method", "label_key"} <= set(written["settings"])
    assert len(entry["partitions"]) == 2
    again = evaluate_clustering([data], "-", label_key="cell_type", batch_key="batch", **FAST)
    assert render(again) == render(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.h5ad", "s.json", "s.json.run.json"]


def test_several_inputs_and_embeddings_give_one_entry_and_one_line_each(tmp_path, caplog):
    one = make(tmp_path / "a.h5ad", X_pca=np.random.default_rng(1).normal(size=(240, 3)))
    two = make(tmp_path / "b.h5ad", X_pca=np.random.default_rng(2).normal(size=(240, 3)), seed=5)
    with caplog.at_level("INFO", "scmap"):
        result = evaluate_clustering([one, two], "-", label_key="cell_type", embedding=["X_expimap", "X_pca"], **FAST)
    assert [(entry["file"], entry["embedding"]) for entry in result["results"]] == [
        ("a.h5ad", "X_expimap"),
        ("a.h5ad", "X_pca"),
        ("b.h5ad", "X_expimap"),
        ("b.h5ad", "X_pca"),
    ]
    assert sum(" ARI " in line for line in caplog.messages) == 4
    assert result["results"][0]["best_ari"]["ari"] > 0.5 > result["results"][1]["best_ari"]["ari"]


@pytest.mark.parametrize("options", [{"cluster_method": "louvain"}, {"leiden_backend": "leidenalg"}])
def test_other_methods(data, options):
    result = evaluate_clustering([data], "-", label_key="cell_type", **FAST, **options)
    assert result["results"][0]["matched"]["ari"] > 0.8
    assert result["settings"]["cluster_method"] == options.get("cluster_method", "leiden")


def test_npz_of_ours_and_of_others(tmp_path, data):
    adata = anndata.read_h5ad(data)
    arrays = {"emb": adata.obsm["X_expimap"], "cell_type": np.asarray(adata.obs["cell_type"]).astype(str)}
    write_npz(tmp_path / "a.npz", arrays, {"kind": "embedding"})
    np.savez(tmp_path / "b.npz", **arrays)
    result = evaluate_clustering([data, tmp_path / "a.npz", tmp_path / "b.npz"], "-", label_key="cell_type", **FAST)
    first, second, third = (entry["partitions"] for entry in result["results"])
    assert first == second == third


def test_cells_without_label_or_with_excluded_label_are_left_out(tmp_path, data):
    adata = anndata.read_h5ad(data)
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[:20] = np.nan
    adata.obs["some"] = pd.Categorical(labels)
    adata.obsm["X_expimap"][30] = np.nan
    adata.write_h5ad(tmp_path / "f.h5ad")
    result = evaluate_clustering([tmp_path / "f.h5ad"], "-", label_key="some", exclude_labels=["Mono"], **FAST)
    kept = ((np.arange(240) >= 20) & (adata.obs["cell_type"] != "Mono") & (np.arange(240) != 30)).sum()
    entry = result["results"][0]
    assert (entry["cells"], entry["cells_left_out"], entry["n_labels"]) == (kept, 240 - kept, 3)
    found = evaluate_clustering([tmp_path / "f.h5ad"], "-", label_key="cell_type", batch_key="some", **FAST)
    assert found["results"][0]["cells_left_out"] == 21


def test_a_sample_is_seeded(data):
    runs = [
        evaluate_clustering([data], "-", label_key="cell_type", max_cells=100, seed=seed, **FAST) for seed in (1, 1, 2)
    ]
    assert runs[0]["results"] == runs[1]["results"] != runs[2]["results"]
    assert runs[0]["results"][0]["cells"] == 100


def test_missing_keys_name_what_is_there(tmp_path, data):
    other = make(tmp_path / "o.h5ad", key="X_scvi", X_umap=np.zeros((240, 2)))
    with pytest.raises(InputError, match=r"no embedding of an scmap model; embeddings in it: X_scvi, X_umap"):
        evaluate_clustering([other], "-", label_key="cell_type")
    with pytest.raises(InputError, match="no embedding 'X_no'") as caught:
        evaluate_clustering([data], "-", label_key="cell_type", embedding="X_no")
    assert "X_expimap" in caught.value.hint
    for option in ("label_key", "batch_key"):
        with pytest.raises(InputError, match=r"no .* column 'no'") as caught:
            evaluate_clustering([data], "-", **{"label_key": "cell_type", option: "no"})
        assert "cell_type, batch" in caught.value.hint


def test_too_little_to_score(data):
    with pytest.raises(InputError, match="1 labels"):
        evaluate_clustering([data], "-", label_key="cell_type", exclude_labels=["T", "B", "NK"])


def test_bad_options_and_existing_outputs(tmp_path, data):
    bad = ({"k": ()}, {"k": (1,)}, {"resolutions": (0,)}, {"cluster_method": "x"}, {"leiden_backend": "x"})
    for options in (*bad, {"max_cells": 1}):
        with pytest.raises(UsageError):
            evaluate_clustering([data], "-", label_key="cell_type", **options)
    with pytest.raises(UsageError):
        evaluate_clustering([], "-", label_key="cell_type")
    (tmp_path / "s.json").write_text("mine")
    with pytest.raises(OutputExistsError):
        evaluate_clustering([data], tmp_path / "s.json", label_key="cell_type")
    assert evaluate_clustering([data], tmp_path / "t.json", label_key="cell_type", dry_run=True)["results"] == []
    assert not (tmp_path / "t.json").exists()


DATA = Path(os.environ.get("SCMAP_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SCORER = DATA.parent / "tools" / "score_embedding.py"


@pytest.mark.skipif(not SCORER.is_file(), reason="needs the separate scorer")
def test_scores_equal_those_of_the_separate_scorer(tmp_path):
    data = make(tmp_path / "e.h5ad", n=500)
    options = ["--emb", "X_expimap", "--label", "cell_type", "--batch", "batch", "--exclude-label", "NK"]
    options += ["--seed", "4", "--max-cells", "300"]
    done = subprocess.run([sys.executable, SCORER, data, *options], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    ours = evaluate_clustering(
        [data], "-", label_key="cell_type", batch_key="batch", exclude_labels=["NK"], seed=4, max_cells=300
    )["results"][0]
    assert ours["cells"] == theirs["cells"]
    best = theirs["clustering"]["best"]
    assert ours["best_ari"]["ari"] == pytest.approx(best["ari"], abs=1e-12)
    assert ours["best_nmi"]["nmi"] == pytest.approx(best["nmi"], abs=1e-12)
    assert ours["matched"] == pytest.approx(theirs["clustering"]["matched"], abs=1e-12)
    for mine, other in (("silhouette", "silhouette"), ("knn_accuracy", "knn_acc"), ("mixing", "mixing")):
        assert ours[mine] == pytest.approx(theirs[other], abs=1e-12)


def test_subsamples_give_deviations_under_the_names_of_a_comparison(tmp_path, data):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        evaluate_clustering([data], path, label_key="cell_type", subsamples=3, plot=path.with_suffix(".png"), **FAST)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].with_suffix(".png").exists()
    entry = json.loads(paths[0].read_text())["results"][0]
    found = entry["subsamples"]
    assert (found["count"], found["cells"]) == (3, 216)
    for name in ("matched.ari", "matched.nmi", "best_ari.ari", "silhouette", "knn_accuracy"):
        assert found["sd"][name] >= 0
        whole = entry[name.split(".")[0]]
        assert found["mean"][name] == pytest.approx(whole[name.split(".")[1]] if "." in name else whole, abs=0.1)
    made = compare(paths, what="clustering")
    assert made.spread[0]["matched.ari"] == found["sd"]["matched.ari"]
    assert {"matched.ari", "silhouette"} <= set(made.columns)
    with pytest.raises(UsageError, match="--subsamples"):
        evaluate_clustering([data], "-", label_key="cell_type", subsamples=1)
