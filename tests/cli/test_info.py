"""``scmap info`` on every kind of file, and what it refuses."""

from __future__ import annotations

import json
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.io.h5ad import write_h5ad


def small(x=None, **parts):
    x = np.arange(12, dtype=np.float32).reshape(4, 3) if x is None else x
    obs = pd.DataFrame({"type": pd.Categorical(list("abac")), "score": np.ones(4)}, index=list("wxyz"))
    return anndata.AnnData(X=x, obs=obs, var=pd.DataFrame(index=list("fgh")), **parts)


def described(scmap, adata):
    adata.write_h5ad(scmap.folder / "a.h5ad")
    return scmap("info", "a.h5ad", "--json").data


def test_an_h5ad_is_told_by_its_slots(scmap, shelf):
    found = scmap("info", shelf / "embedded.h5ad", "--json").data
    adata = anndata.read_h5ad(shelf / "embedded.h5ad")
    assert (found["cells"], found["genes"]) == adata.shape
    assert found["bytes"] == (shelf / "embedded.h5ad").stat().st_size
    assert found["obsm"]["X_expimap"] == {
        "form": "dense",
        "dtype": "float32",
        "shape": list(adata.obsm["X_expimap"].shape),
    }
    assert found["X"]["form"] == "csr"
    assert found["X"]["stored"] == adata.X.nnz
    assert found["obs"]["cell_type"] == {"type": "category", "categories": adata.obs["cell_type"].nunique()}
    assert set(found["obs"]) == set(adata.obs)
    assert set(found["var"]) == set(adata.var)
    text = scmap("info", shelf / "embedded.h5ad").out
    assert all(f"obs:{name} " in text for name in adata.obs)
    assert "simulate rna > embed" in text


def test_matrices_are_not_read(scmap, monkeypatch):
    write_h5ad(small(sparse.csr_matrix(np.eye(4, 3, dtype=np.float32))), scmap.folder / "a.h5ad")
    monkeypatch.setattr("scmap_cli.io.hdf5.available_memory", lambda: 1)
    assert scmap("info", "a.h5ad", "--json").data["X"]["stored"] == 3


def test_counts_are_sought_where_a_stage_would(scmap):
    counts, logs = np.ones((4, 3), dtype=np.float32), np.full((4, 3), 0.5, dtype=np.float32)

    def source(adata):
        return described(scmap, adata)["counts_from"]["source"]

    assert source(small(counts)) == "X"
    assert source(small(sparse.csc_matrix(counts))) == "X"
    assert source(small(logs, layers={"counts": sparse.csr_matrix(counts)})) == "layers:counts"
    with_raw = small(counts)
    with_raw.raw = with_raw.copy()
    with_raw.X = logs
    assert source(with_raw) == "raw"
    assert source(small(logs)) is None
    assert source(small(-counts)) is None
    # a layer called counts must hold counts: nothing is tried in its place
    assert source(small(counts, layers={"counts": logs})) is None
    assert "0.5" in described(scmap, small(logs))["counts_from"]["why"]


def test_a_fault_anywhere_in_a_small_matrix_is_seen(scmap):
    x = np.ones((4, 3), dtype=np.float32)
    for row in range(4):
        for column in range(3):
            spoilt = x.copy()
            spoilt[row, column] = 0.5
            assert described(scmap, small(spoilt))["counts_from"]["source"] is None


def test_a_large_matrix_is_sampled(scmap):
    rng = np.random.default_rng(0)
    matrix = sparse.random(2000, 2000, density=0.5, format="csr", dtype=np.float32, random_state=rng)
    matrix.data[:] = 1
    adata = anndata.AnnData(X=matrix)
    found = described(scmap, adata)["counts_from"]
    assert found["source"] == "X"
    assert 500_000 < found["values_looked_at"] < found["values_stored"] == 2_000_000


def test_an_npz_is_told_by_its_arrays(scmap, shelf):
    found = scmap("info", shelf / "programs.npz", "--json").data
    assert found["header"]["kind"] == "programs"
    assert found["arrays"]["genes"] == {"dtype": "string", "shape": [200]}
    assert "array:mask_indices" in scmap("info", shelf / "programs.npz").out
    np.savez(scmap.folder / "plain.npz", a=np.zeros((2, 3)))
    assert scmap("info", "plain.npz", "--json").data["arrays"] == {"a": {"dtype": "float64", "shape": [2, 3]}}


def test_a_model_is_told_by_its_training(scmap, shelf):
    found = scmap("info", shelf / "model", "--json").data
    metrics = json.loads((shelf / "model" / "metrics.json").read_text())
    assert (found["kind"], found["model"], found["features"]) == ("model", "expimap", 200)
    assert found["metrics"] == metrics
    assert found["model_config"]["hidden"] == [8]
    assert len(found["conditions"]) == 2
    text = scmap("info", shelf / "model").out
    assert re_line(text, "programs") == f"{metrics['programs']}, of them active: {metrics['active_programs']}"
    assert re_line(text, "epochs") == f"1, best {metrics['best_epoch']}"


def re_line(text, name):
    return next(line.split(None, 1)[1] for line in text.splitlines() if line.split(None, 1)[0] == name)


@pytest.mark.parametrize(
    ("path", "verbs"),
    [
        ("data.h5ad", ["simulate rna"]),
        ("embedded.h5ad", ["simulate rna", "embed"]),
        ("programs.npz", ["simulate rna"]),
        ("model", ["train expimap"]),
    ],
)
def test_history_is_a_json_list(scmap, shelf, path, verbs):
    records = scmap("info", shelf / path, "--history").data
    assert [record["verb"] for record in records] == verbs
    assert all({"version", "parameters", "inputs", "seed"} <= set(record) for record in records)


def test_history_of_a_foreign_file_is_empty(scmap):
    write_h5ad(small(), scmap.folder / "a.h5ad")
    assert scmap("info", "a.h5ad", "--history").data == []


@pytest.mark.parametrize(
    ("path", "present", "absent"),
    [
        ("embedded.h5ad", "obsm:X_expimap", "obsm:X_umap"),
        ("embedded.h5ad", "obs:batch", "obs:bach"),
        ("embedded.h5ad", "var:is_noise", "var:mt"),
        ("data.h5ad", "varm:scmap_programs", "varm:PCs"),
        ("data.h5ad", "uns:scmap_history", "uns:neighbors"),
        ("programs.npz", "array:genes", "array:cells"),
        ("programs.npz", "array:mask_indptr", "obsm:X_expimap"),
        ("model", None, "obsm:X_expimap"),
    ],
)
def test_require_is_0_or_3(scmap, shelf, path, present, absent):
    if present is not None:
        result = scmap("info", shelf / path, "--require", present)
        assert result.out == ""
        assert present in result.err
        assert absent in scmap("info", shelf / path, "--require", present, "--require", absent, status=3).err
    result = scmap("info", shelf / path, "--require", absent, status=3)
    assert result.out == ""
    assert absent in result.err


def test_output_file_holds_what_stdout_would(scmap, shelf):
    for flags in ([], ["--json"], ["--history"]):
        scmap("info", shelf / "data.h5ad", "-o", "out.txt", "--force", *flags)
        assert (scmap.folder / "out.txt").read_text() == scmap("info", shelf / "data.h5ad", *flags, "-o", "-").out


def test_the_machine(scmap):
    found = scmap("info", "--system", "--json", "-t", "2").data
    assert found["threads"] == 2
    assert set(found) >= {"scmap", "python", "torch", "cuda", "gpus", "cpus", "memory_available_bytes", "libraries"}
    assert "torch " in scmap("info", "--system").out


def test_older_layouts_are_read(scmap):
    """obs and obsm as compound tables, categories beside the columns, and sparse matrices without encoding."""
    with h5py.File(scmap.folder / "old.h5ad", "w") as handle:
        handle["obs"] = np.array([(b"a", 1), (b"b", 2)], dtype=[("index", "S1"), ("batch", "i4")])
        handle["obsm"] = np.zeros(2, dtype=[("X_pca", "f4", (5,)), ("depth", "f8")])
        var = handle.create_group("var")
        var["index"] = np.array([b"x", b"y", b"z"])
        var["kind"] = np.zeros(3, dtype=np.int8)
        var.attrs["_index"], var.attrs["column-order"] = "index", ["kind"]
        var.create_group("__categories")["kind"] = np.array([b"one", b"two"])
        x = handle.create_group("X")
        x.attrs["h5sparse_format"], x.attrs["h5sparse_shape"] = "csr", (2, 3)
        x["data"], x["indices"], x["indptr"] = np.ones(2), np.array([0, 2]), np.array([0, 1, 2])
    found = scmap("info", "old.h5ad", "--json").data
    assert (found["cells"], found["genes"], found["X"]["form"]) == (2, 3, "csr")
    assert found["obs"] == {"batch": {"type": "int32"}}
    assert found["obsm"]["X_pca"] == {"form": "dense", "dtype": "float32", "shape": [2, 5]}
    assert found["obsm"]["depth"] == {"form": "dense", "dtype": "float64", "shape": [2]}
    assert found["var"] == {"kind": {"type": "category", "categories": 2}}


def test_unfit_paths_are_3(scmap, shelf):
    (scmap.folder / "text.h5ad").write_text("no")
    (scmap.folder / "text.txt").write_text("no")
    (scmap.folder / "text.npz").write_text("no")
    (scmap.folder / "empty").mkdir()
    whole = (shelf / "data.h5ad").read_bytes()
    (scmap.folder / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with h5py.File(scmap.folder / "linked.h5ad", "w") as handle:
        handle["obs"] = h5py.ExternalLink("other.h5", "/obs")
        handle.create_group("var")
    with h5py.File(scmap.folder / "other.h5", "w") as handle:
        handle["x"] = 1
    for name in ("text.h5ad", "text.txt", "text.npz", "empty", "cut.h5ad", "linked.h5ad", "other.h5"):
        result = scmap("info", name, status=3)
        assert name in result.err
        assert len(result.err.splitlines()) <= 2


def test_a_damaged_model_is_3(scmap, shelf):
    for name in ("config.json", "features.tsv", "metrics.json", "model.safetensors"):
        shutil.copytree(shelf / "model", scmap.folder / "m", dirs_exist_ok=True)
        (scmap.folder / "m" / name).write_text("{")
        assert name in scmap("info", "m", status=3).err
