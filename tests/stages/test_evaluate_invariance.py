"""``evaluate invariance``: what is found, where depth is from, what is refused, and the separate scorer's numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.stages.evaluate_invariance import evaluate_invariance
from scmap_cli.stages.scores import render


def make(path, n=300, key="X_expimap", **columns):
    rng = np.random.default_rng(0)
    depth = rng.lognormal(7, 0.5, n)
    batch = np.array(["a", "b"])[np.arange(n) % 2]
    emb = np.column_stack([np.log(depth), rng.normal(size=n), (batch == "b") + 0.1 * rng.normal(size=n)])
    obs = pd.DataFrame({"batch": batch} | columns, index=[f"c{i}" for i in range(n)])
    counts = np.rint(depth)[:, None] * [[1.0, 0.0]]
    anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, obsm={key: emb}).write_h5ad(path)
    return path, depth


def test_the_file_holds_scores_and_settings(tmp_path):
    data, _ = make(tmp_path / "e.h5ad")
    result = evaluate_invariance([data], tmp_path / "s.json", batch_key="batch")
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(render(result))
    entry = result["results"][0]
    information = entry["depth_mi"]["by_dimension"]
    assert information[0] == entry["depth_mi"]["max"] > 1.5
    assert max(information[1:]) < 0.2
    assert entry["batch_mi"]["by_dimension"][2] == pytest.approx(np.log(2), abs=0.05)
    assert entry["batch_shares"]["own"] > 0.55
    assert 0 < entry["mixing"] < 1
    assert entry["depth"] == "sums of X"
    assert {"n_neighbors", "unit", "batch_estimator", "seed", "mi_cells"} <= set(result["settings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.h5ad", "s.json", "s.json.run.json"]
    assert render(evaluate_invariance([data], batch_key="batch")) == render(result)


def test_depth_is_taken_from_the_first_known_column_or_the_one_named(tmp_path):
    n = 300
    other = np.random.default_rng(5).lognormal(size=n)
    _, true = make(tmp_path / "e.h5ad")
    data, _ = make(tmp_path / "e.h5ad", total_counts=other, depth=true, mine=other)
    found = {key: evaluate_invariance([data], depth_key=key)["results"][0] for key in (None, "total_counts", "mine")}
    assert [entry["depth"] for entry in found.values()] == ["depth", "total_counts", "mine"]
    assert found["mine"]["depth_mi"] == found["total_counts"]["depth_mi"] != found[None]["depth_mi"]


def test_the_estimator_of_the_thesis_by_flag(tmp_path):
    data, _ = make(tmp_path / "e.h5ad")
    sorts = [
        evaluate_invariance([data], batch_key="batch", batch_estimator=name)["results"][0]["batch_mi"]["mean"]
        for name in ("classification", "regression")
    ]
    assert sorts[0] != sorts[1] > 0


def test_what_labels_alone_tell(tmp_path):
    """Labels that are the batches tell all of the batch and nothing of the depth, which is not theirs."""
    data, _ = make(tmp_path / "e.h5ad", kind=np.array(["k", "l"])[np.arange(300) % 2])
    plain = evaluate_invariance([data], batch_key="batch")["results"][0]
    found = evaluate_invariance([data], batch_key="batch", label_key="kind")["results"][0]
    assert {name: value for name, value in found.items() if not name.endswith("by_labels")} == plain
    assert found["batch_mi_by_labels"] == found["batch_mi"]
    assert found["depth_mi_by_labels"]["max"] < 0.3 < 1.5 < found["depth_mi"]["max"]
    with pytest.raises(InputError, match="no label column 'none'"):
        evaluate_invariance([data], label_key="none")


def test_npz_and_baselines(tmp_path):
    data, depth = make(tmp_path / "e.h5ad", key="X_lsi")
    adata = anndata.read_h5ad(data)
    np.savez(tmp_path / "e.npz", emb=adata.obsm["X_lsi"], depth=np.rint(depth), batch=adata.obs["batch"].to_numpy(str))
    one, two = evaluate_invariance([data, tmp_path / "e.npz"], batch_key="batch")["results"]
    assert one["embedding"] == "X_lsi"
    for score in ("batch_mi", "batch_shares", "mixing", "depth_mi"):
        assert one[score] == two[score]


def test_cells_without_embedding_are_left_out(tmp_path):
    data, _ = make(tmp_path / "e.h5ad")
    adata = anndata.read_h5ad(data)
    adata.obsm["X_expimap"][:7] = np.nan
    adata.write_h5ad(data)
    entry = evaluate_invariance([data], mi_cells=100)["results"][0]
    assert (entry["cells"], entry["cells_left_out"], entry["depth_mi"]["cells"]) == (293, 7, 100)


def test_cells_without_a_batch_form_none(tmp_path, caplog):
    batch = np.array(["a", "None"], dtype=object)[np.arange(300) % 2]
    batch[:5], batch[5:7] = np.nan, "nan"
    data, _ = make(tmp_path / "e.h5ad", batch=batch)
    entry = evaluate_invariance([data], batch_key="batch")["results"][0]
    assert (entry["cells"], entry["cells_left_out"]) == (293, 7)
    assert set(entry["batch_shares"]["mean"]) == {"a", "None"}
    assert "7 cells have no batch" in caplog.text
    data, _ = make(tmp_path / "f.h5ad", batch=np.where(np.arange(300) < 9, None, "a"))
    with pytest.raises(InputError, match="one batch"):
        evaluate_invariance([data], batch_key="batch")


def test_bad_input_and_options_write_nothing(tmp_path):
    data, _ = make(tmp_path / "e.h5ad", text=["x"] * 300, one="same", gap=[np.nan] * 300)
    np.savez(tmp_path / "e.npz", emb=np.zeros((5, 2)))
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "s.json"
    for options, match in (
        ({"depth_key": "none"}, "no depth column 'none'"),
        ({"depth_key": "text"}, "holds no numbers"),
        ({"depth_key": "gap"}, "300 values of 'gap'"),
        ({"batch_key": "none"}, "no batch column 'none'"),
        ({"batch_key": "one"}, "one batch"),
        ({"embedding": "X_no"}, "no embedding 'X_no'"),
    ):
        with pytest.raises(InputError, match=match):
            evaluate_invariance([data], out, **options)
    with pytest.raises(InputError, match="none of the arrays n_fragments"):
        evaluate_invariance([tmp_path / "e.npz"], out)
    for options in ({"batch_estimator": "x"}, {"mi_cells": 3}):
        with pytest.raises(UsageError):
            evaluate_invariance([data], out, **options)
    with pytest.raises(UsageError):
        evaluate_invariance([])
    with pytest.raises(OutputExistsError):
        evaluate_invariance([data], data)
    assert evaluate_invariance([data], out, dry_run=True)["results"] == []
    assert sorted(tmp_path.iterdir()) == before


DATA = Path(os.environ.get("SCMAP_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SCORER = DATA.parent / "tools" / "score_embedding.py"


@pytest.mark.skipif(not SCORER.is_file(), reason="needs the separate scorer")
def test_scores_equal_those_of_the_separate_scorer(tmp_path):
    data, _ = make(tmp_path / "e.h5ad", mine=np.random.default_rng(3).lognormal(size=300))
    options = ["--emb", "X_expimap", "--batch", "batch", "--depth", "mine", "--seed", "4"]
    done = subprocess.run([sys.executable, SCORER, data, *options], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    ours = evaluate_invariance([data], depth_key="mine", batch_key="batch", mi_cells=5000, seed=4)["results"][0]
    for score in ("depth_mi", "batch_mi"):
        assert {name: ours[score][name] for name in ("mean", "max")} == pytest.approx(
            {name: theirs[score][name] for name in ("mean", "max")}, abs=1e-12
        )
    assert ours["mixing"] == pytest.approx(theirs["mixing"], abs=1e-12)
