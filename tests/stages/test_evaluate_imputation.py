"""``evaluate imputation``: files of every form give the same scores, names decide, misfits are refused."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.npz import write_npz
from scmap_cli.keys import BULK, BULK_OPEN
from scmap_cli.stages.evaluate_imputation import evaluate_imputation
from scmap_cli.stages.scores import render
from scmap_cli.stages.simulate_atac import simulate_atac


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "raw.h5ad"
    simulate_atac(path, preset="tiny", n_cells=90, n_peaks=400, mu=(300.0,), n_batches=1, rho=(0.4,), seed=1)
    return path


@pytest.fixture(scope="module")
def values(raw):
    """A decent imputation: the truth, blurred."""
    adata = anndata.read_h5ad(raw)
    profile = adata.varm[BULK_OPEN][adata.obs["cell_type"]].to_numpy().T
    noise = np.random.default_rng(0).random(profile.shape)
    return (0.15 * profile + 0.3 * noise * (1 + profile)).astype(np.float32)


def as_h5ad(path, raw, values, kind=np.asarray):
    adata = anndata.read_h5ad(raw)
    anndata.AnnData(kind(values), obs=adata.obs[[]], var=adata.var[[]]).write_h5ad(path)
    return path


def score(path, raw, **options):
    return evaluate_imputation([path], raw=raw, label_key="cell_type", **options)["results"][0]


def test_the_file_holds_scores_and_settings(tmp_path, raw, values):
    data = as_h5ad(tmp_path / "i.h5ad", raw, values)
    result = evaluate_imputation(
        [data], tmp_path / "s.json", raw=raw, label_key="cell_type", thresholds=(0.2, 0.3), seed=3
    )
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(render(result))
    entry = result["results"][0]
    assert (entry["cells"], entry["peaks"], entry["cells_left_out"]) == (90, 400, 0)
    assert list(entry["dice"]) == ["raw", "soft", "> 0.2", "> 0.3", "cell", "scale", "best"]
    best = entry["dice"]["best"]
    assert best["mean"] > entry["dice"]["raw"]["mean"] + 0.2
    assert set(best["by_type"]) == {"type1", "type2", "type3"}
    assert best["mean_of_types"] == pytest.approx(np.mean(list(best["by_type"].values())))
    assert best["mean"] >= entry["dice"]["> 0.3"]["mean"] - 0.02
    assert {"thresholds", "score", "scale", "best", "profiles", "seed"} <= set(result["settings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.h5ad", "s.json", "s.json.run.json"]


def test_scores_are_those_of_the_dense_definition(tmp_path, raw, values):
    adata = anndata.read_h5ad(raw)
    profile = adata.varm[BULK_OPEN][adata.obs["cell_type"]].to_numpy().T > 0
    seen = adata.X.toarray() > 0
    rules = {
        "raw": seen,
        "> 0.5": values > 0.5,
        "cell": values > values.mean(1, keepdims=True),
        "scale": (values > seen.mean(0)) & (values > seen.mean(1)[:, None]),
    }
    found = score(as_h5ad(tmp_path / "i.h5ad", raw, values), raw)["dice"]
    for rule, opened in rules.items():
        each = 2 * (opened & profile).sum(1) / (opened.sum(1) + profile.sum(1))
        assert found[rule]["mean"] == pytest.approx(each.mean())
        first = (adata.obs["cell_type"] == "type1").to_numpy()
        assert found[rule]["by_type"]["type1"] == pytest.approx(each[first].mean())


def test_every_form_of_file_and_every_order_gives_the_same(tmp_path, raw, values, monkeypatch):
    monkeypatch.setattr("scmap_cli.stages.evaluate_imputation._BLOCK", 400 * 13)
    adata = anndata.read_h5ad(raw)
    names = {"cells": adata.obs_names.to_numpy(str), "features": adata.var_names.to_numpy(str)}
    whole = score(as_h5ad(tmp_path / "i.h5ad", raw, values), raw)
    write_npz(tmp_path / "i.npz", {"imputed": values, **names}, {"kind": "imputed"})
    np.savez_compressed(tmp_path / "plain.npz", values=values)
    rows, columns = np.random.default_rng(1).permutation(90), np.random.default_rng(2).permutation(400)
    shuffled = {"cells": names["cells"][rows], "features": names["features"][columns]}
    write_npz(tmp_path / "s.npz", {"imputed": values[rows][:, columns], **shuffled}, {"kind": "imputed"})
    as_h5ad(tmp_path / "sparse.h5ad", raw, values, sparse.csr_matrix)
    for name in ("i.npz", "plain.npz", "s.npz", "sparse.h5ad"):
        entry = score(tmp_path / name, raw)
        assert entry["dice"]["soft"]["mean"] == pytest.approx(whole["dice"]["soft"]["mean"], abs=1e-6)
        for rule in ("raw", "> 0.5", "cell", "scale", "best"):
            assert entry["dice"][rule]["mean"] == pytest.approx(whole["dice"][rule]["mean"], abs=1e-12), name
        assert entry["best_threshold"] == whole["best_threshold"]


def test_some_cells_and_some_peaks(tmp_path, raw, values):
    adata = anndata.read_h5ad(raw)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type3": "unheard"})
    adata.write_h5ad(tmp_path / "raw.h5ad")
    names = {"cells": adata.obs_names.to_numpy(str)[:60], "features": adata.var_names.to_numpy(str)[100:]}
    write_npz(tmp_path / "i.npz", {"imputed": values[:60, 100:], **names}, {"kind": "imputed"})
    entry = score(tmp_path / "i.npz", tmp_path / "raw.h5ad")
    known = (adata.obs["cell_type"] != "unheard").to_numpy()
    assert (entry["cells"], entry["peaks"]) == (known[:60].sum(), 300)
    assert entry["cells_left_out"] == 90 - known[:60].sum()
    assert set(entry["dice"]["raw"]["by_type"]) == {"type1", "type2"}
    profile = adata.varm[BULK_OPEN].to_numpy()[100:, [0, 1]] > 0
    types = adata.obs["cell_type"].cat.codes.to_numpy()[:60][known[:60]]
    seen = adata.X.toarray()[:60, 100:][known[:60]] > 0
    each = [2 * (x & profile[:, t]).sum() / (x.sum() + profile[:, t].sum()) for x, t in zip(seen, types, strict=True)]
    assert entry["dice"]["raw"]["mean"] == pytest.approx(np.mean(each))


def test_profiles_from_a_table(tmp_path, raw, values):
    adata = anndata.read_h5ad(raw)
    table = (1000 * adata.varm[BULK]).iloc[::-1]
    table.to_csv(tmp_path / "bulk.tsv", sep="\t")
    data = as_h5ad(tmp_path / "i.h5ad", raw, values)
    own, given = score(data, raw), score(data, raw, truth=tmp_path / "bulk.tsv")
    assert own["dice"] == given["dice"]
    assert score(data, raw, truth=tmp_path / "bulk.tsv", open_above=5.0)["dice"]["raw"] != own["dice"]["raw"]


def test_bad_input_writes_nothing(tmp_path, raw, values):
    adata = anndata.read_h5ad(raw)
    data = as_h5ad(tmp_path / "i.h5ad", raw, values)
    as_h5ad(tmp_path / "nan.h5ad", raw, np.where(values > 0.4, np.nan, values))
    np.savez(tmp_path / "two.npz", a=values, b=values)
    np.savez(tmp_path / "small.npz", imputed=values[:5])
    np.savez(tmp_path / "columns.npz", imputed=np.asfortranarray(values))
    names = {"cells": np.array(["x"] * 90), "features": adata.var_names.to_numpy(str)}
    np.savez(tmp_path / "strange.npz", imputed=values, **names)
    del adata.varm[BULK_OPEN]
    adata.write_h5ad(tmp_path / "bare.h5ad")
    pd.DataFrame({"type1": [1.0]}, index=["chr1:0-5"]).to_csv(tmp_path / "t.tsv", sep="\t")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "s.json"
    for path, options, match in (
        (tmp_path / "nan.h5ad", {}, "not finite"),
        (tmp_path / "two.npz", {}, "no array 'imputed'"),
        (tmp_path / "small.npz", {}, r"is \(5, 400\), but there are 90 x 400"),
        (tmp_path / "columns.npz", {}, "stored by rows"),
        (tmp_path / "strange.npz", {}, "90 cells that the raw data lacks, such as 'x'"),
        (data, {"raw": tmp_path / "bare.h5ad"}, "no profiles"),
        (data, {"truth": tmp_path / "t.tsv"}, "lacks 400 of 400 peaks"),
        (data, {"label_key": "batch"}, "no label in 'batch' names a profile"),
        (data, {"label_key": "none"}, "no obs column 'none'"),
        (tmp_path / "absent.npz", {}, "does not exist"),
    ):
        with pytest.raises(InputError, match=match):
            evaluate_imputation([path], out, **{"raw": raw, "label_key": "cell_type"} | options)
    with pytest.raises(UsageError):
        evaluate_imputation([], out, raw=raw, label_key="cell_type")
    with pytest.raises(UsageError):
        score(data, raw, thresholds=(float("nan"),))
    with pytest.raises(OutputExistsError):
        evaluate_imputation([data], data, raw=raw, label_key="cell_type")
    assert evaluate_imputation([data], out, raw=raw, label_key="cell_type", dry_run=True)["results"] == []
    assert sorted(tmp_path.iterdir()) == before
