"""``evaluate integration`` and ``--compare``: what is scored, what is beside it, what is refused."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.npz import write_npz
from scmap_cli.metrics.integration import SCORES
from scmap_cli.stages.compare import compare, render_table
from scmap_cli.stages.evaluate_integration import evaluate_integration
from scmap_cli.stages.scores import render

KEYS = {"label_key": "cell_type", "batch_key": "batch"}


def make(path, n=240, counts=True, **columns):
    rng = np.random.default_rng(0)
    types, batch = np.arange(n) % 2, rng.integers(0, 2, n)
    rate = 1 + 6 * np.eye(2)[types] @ rng.random((2, 40)) + 4 * np.outer(batch, rng.random(40))
    matrix = rng.poisson(rate).astype(np.float32) if counts else rng.normal(size=(n, 40)).astype(np.float32)
    emb = rng.normal(size=(n, 3)) + 8 * types[:, None]
    obs = pd.DataFrame({"cell_type": np.array(["B", "T"])[types], "batch": batch.astype(str)} | columns)
    obs.index = [f"c{i}" for i in range(n)]
    made = anndata.AnnData(
        sparse.csr_matrix(matrix), obs=obs, obsm={"X_expimap": emb, "mine": emb + 20 * batch[:, None]}
    )
    made.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "e.h5ad")


@pytest.fixture(scope="module")
def scored(data):
    names = ["X_expimap", "mine"]
    beside = ["raw", "pca", "lsi"]
    return evaluate_integration([data], embedding=names, baseline=beside, components=5, subsamples=2, **KEYS)


def test_several_embeddings_and_baselines_in_one_call(scored):
    assert [entry["embedding"] for entry in scored["results"]] == ["X_expimap", "mine", "raw", "pca", "lsi"]
    best, apart = (entry["scores"] for entry in scored["results"][:2])
    assert best["overall"] > apart["overall"]
    assert best["ilisi"] > 0.8 > 0.1 > apart["ilisi"]
    pca = scored["results"][3]
    assert pca["scores"]["pcr"] == pytest.approx(0, abs=1e-9)
    assert pca["before"] == "pca"
    for entry in scored["results"]:
        assert set(SCORES) <= set(entry["scores"])
        assert entry["subsamples"]["cells"] == 216
        assert set(entry["subsamples"]["sd"]) == set(entry["scores"])
        assert entry["cells"] == 240


def test_the_file_holds_the_same_bytes_twice(tmp_path, data):
    for name in ("a.json", "b.json"):
        evaluate_integration([data], tmp_path / name, plot=tmp_path / f"{name}.png", components=5, **KEYS)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json.png").read_bytes() == (tmp_path / "b.json.png").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["settings"]["seed"] == 0
    with pytest.raises(OutputExistsError):
        evaluate_integration([data], tmp_path / "a.json", **KEYS)


def test_by_default_all_that_scmap_wrote_is_scored(data):
    found = evaluate_integration([data], components=5, **KEYS)
    assert [entry["embedding"] for entry in found["results"]] == ["X_expimap"]
    bare, adata = data.with_name("bare.h5ad"), anndata.read_h5ad(data)
    del adata.obsm["X_expimap"]
    adata.write_h5ad(bare)
    with pytest.raises(InputError, match="holds no embedding"):
        evaluate_integration([bare], **KEYS)
    found = evaluate_integration([bare], baseline=["pca"], components=5, **KEYS)
    assert [entry["embedding"] for entry in found["results"]] == ["pca"]


def test_cells_are_left_out_by_label_and_by_any_column(tmp_path):
    extra = np.where(np.arange(240) < 40, "STIM", "CTRL")
    data = make(tmp_path / "e.h5ad", condition=extra, other=np.where(np.arange(240) < 50, None, "x"))
    found = evaluate_integration([data], exclude_cells=["condition=STIM"], components=5, **KEYS)
    assert found["results"][0]["cells_left_out"] == 40
    found = evaluate_integration([data], label_key="cell_type", batch_key="batch", max_cells=150, components=5)
    assert found["results"][0]["cells"] == 150
    with pytest.raises(InputError, match="one label"):
        evaluate_integration([data], exclude_labels=["T"], **KEYS)


def test_without_counts_pc_regression_is_left_open_with_a_warning(tmp_path, caplog):
    data = make(tmp_path / "e.h5ad", counts=False)
    found = evaluate_integration([data], **KEYS)["results"][0]
    assert found["scores"]["pcr"] is None
    assert found["scores"]["overall"] is None
    assert "no PC regression" in caplog.text
    named = evaluate_integration([data], before="mine", **KEYS)["results"][0]
    assert named["scores"]["pcr"] > 0.9
    with pytest.raises(InputError, match="count"):
        evaluate_integration([data], baseline=["pca"], **KEYS)


def test_names_like_missing_values_are_names_and_missing_values_are_none(tmp_path):
    treat = np.where(np.arange(240) % 3 == 0, "IFN", "None").astype(object)
    treat[:9] = np.nan
    data = make(tmp_path / "e.h5ad", counts=False, treat=treat, number=np.where(np.arange(240) < 5, np.nan, 1))
    found = evaluate_integration([data], label_key="cell_type", batch_key="treat")["results"][0]
    assert (found["cells"], found["cells_left_out"], found["batches"]) == (231, 9, 2)
    with pytest.raises(InputError, match=r"all 235 cells left to score are of one batch, '1'$"):
        evaluate_integration([data], label_key="cell_type", batch_key="number")


def test_cells_without_the_embedding_before_are_left_out(tmp_path, caplog):
    """As those without RNA in a file of both kinds: compared with NaN nothing would have been removed."""
    adata = anndata.read_h5ad(make(tmp_path / "e.h5ad", counts=False))
    adata.obsm["mine"][:7] = np.nan
    adata.write_h5ad(tmp_path / "gaps.h5ad")
    adata[7:].copy().write_h5ad(tmp_path / "rest.h5ad")
    gaps, rest = evaluate_integration(
        [tmp_path / "gaps.h5ad", tmp_path / "rest.h5ad"], embedding="X_expimap", before="mine", **KEYS
    )["results"]
    assert (gaps["cells"], gaps["cells_left_out"]) == (233, 7)
    assert gaps["scores"] == rest["scores"]
    assert gaps["scores"]["pcr"] > 0.9
    assert "7 cells have no finite mine" in caplog.text


def test_an_npz_is_scored_too(tmp_path, data):
    adata = anndata.read_h5ad(data)
    arrays = {"emb": adata.obsm["X_expimap"], "before": adata.obsm["mine"]}
    columns = {name: adata.obs[name].to_numpy().astype(str) for name in ("cell_type", "batch")}
    write_npz(tmp_path / "e.npz", arrays | columns, {"kind": "embedding"})
    found = evaluate_integration([tmp_path / "e.npz"], embedding="emb", before="before", **KEYS)
    assert found["results"][0]["scores"]["overall"] > 0.6


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"baseline": ["umap"]}, UsageError, "unknown baseline 'umap'"),
        ({"subsamples": 1}, UsageError, "--subsamples"),
        ({"exclude_cells": ["x"]}, UsageError, "COLUMN=VALUE"),
        ({"components": 0}, UsageError, "--components"),
        ({"resolutions": [0.0]}, UsageError, "above 0"),
        ({"max_cells": 20}, UsageError, "--max-cells"),
        ({"batch_key": "nope"}, InputError, "no batch column 'nope'"),
        ({"batch_key": "cell_type", "exclude_labels": ["B"]}, InputError, "one label"),
        ({"embedding": "nope"}, InputError, "no embedding 'nope'"),
    ],
)
def test_unfit_options_are_refused(data, options, error, words):
    with pytest.raises(error, match=words):
        evaluate_integration([data], **(KEYS | options))


def test_a_dry_run_scores_nothing(tmp_path, data):
    found = evaluate_integration([data], tmp_path / "s.json", dry_run=True, **KEYS)
    assert found["results"] == []
    assert list(tmp_path.iterdir()) == []


def test_compare_makes_one_table_of_several_runs(tmp_path, scored, caplog):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(render(scored))
    made = compare([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "t.tsv", what="integration")
    assert (tmp_path / "t.tsv").read_text() == render_table(made)
    lines = (tmp_path / "t.tsv").read_text().splitlines()
    header = lines[0].split("\t")
    assert header[:3] == ["run", "file", "embedding"]
    assert len(lines) == 1 + 2 * 5
    first = dict(zip(header, lines[1].split("\t"), strict=True))
    assert float(first["overall"]) == scored["results"][0]["scores"]["overall"]
    assert made.spread[0]["overall"] == scored["results"][0]["subsamples"]["sd"]["overall"]
    assert "settings" not in caplog.text
    changed = scored | {"settings": scored["settings"] | {"max_cells": 7}}
    (tmp_path / "b.json").write_text(render(changed))
    compare(
        [tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "t.json", what="integration", plot=tmp_path / "t.svg"
    )
    assert "differ in max_cells" in caplog.text
    assert len(json.loads((tmp_path / "t.json").read_text())["rows"]) == 10
    assert (tmp_path / "t.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("text", ["{", "[]", '{"what": "integration"}', '{"what": "x", "results": [1]}', "NaN"])
def test_compare_refuses_what_is_no_result(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        compare([tmp_path / "a.json"], what="integration")


def test_compare_refuses_scores_of_another_kind(tmp_path, scored):
    (tmp_path / "a.json").write_text(render(scored))
    with pytest.raises(InputError, match="scores of integration"):
        compare([tmp_path / "a.json"], what="clustering")
