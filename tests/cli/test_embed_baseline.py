"""``scmap embed`` with and without ``--baseline``: one of a model and a baseline, and the options of each."""

from __future__ import annotations

import anndata
import pytest

from scmap_cli.io.npz import read_npz


def test_a_baseline_takes_the_place_of_the_model(scmap, shelf):
    scmap("embed", "--baseline", "lsi", shelf / "atac.h5ad", "-o", "out.h5ad", "--components", 5, "--keep-first")
    assert anndata.read_h5ad(scmap.folder / "out.h5ad").obsm["X_lsi"].shape == (300, 5)
    scmap("evaluate", "invariance", "out.h5ad", "-o", "out.json", "--batch-key", "batch")


def test_a_model_makes_tsne(scmap, shelf):
    scmap("embed", shelf / "model", shelf / "data.h5ad", "-o", "out.h5ad", "--tsne", "--device", "cpu")
    assert anndata.read_h5ad(scmap.folder / "out.h5ad").obsm["X_tsne"].shape == (300, 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--baseline", "lsi", "model", "data.h5ad"], "takes no MODEL_DIR"),
        (["--baseline", "lsi"], "missing argument INPUT"),
        (["data.h5ad"], "INPUT alone with --baseline"),
        (["--baseline", "lsi", "data.h5ad", "--variance"], "--variance is for models"),
        (["--baseline", "pca", "data.h5ad", "--min-overlap", "0.1"], "--min-overlap is for models"),
        (["model", "data.h5ad", "--components", "3"], "--components needs --baseline"),
        (["model", "data.h5ad", "--keep-first"], "--drop-first needs --baseline"),
    ],
)
def test_options_of_the_other_are_refused(scmap, words, told):
    assert told in scmap("embed", *words, "-o", "out.h5ad", status=2).err
    assert scmap.files() == {}


def test_a_file_of_options_serves_both(scmap, shelf):
    (scmap.folder / "run.toml").write_text("[embed]\nmin_overlap = 0.9\ncomponents = 4\n")
    scmap("embed", "--baseline", "pca", shelf / "data.h5ad", "-o", "out.npz", "--config", "run.toml")
    assert read_npz(scmap.folder / "out.npz")[1]["embedding"].shape[1] == 4


@pytest.mark.parametrize(
    "name", ["lsi", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pca", "lsi-harmony"))]
)
def test_threads_change_no_byte(scmap, shelf, name):
    more = ["--components", 5, *{"lsi": ["--tsne"], "lsi-harmony": ["--batch-key", "batch"]}.get(name, [])]
    for threads in (1, 2):
        scmap.process("embed", "--baseline", name, shelf / "atac.h5ad", "-o", f"{threads}.h5ad", "-t", threads, *more)
    files = scmap.files()
    assert files["1.h5ad"] == files["2.h5ad"]
