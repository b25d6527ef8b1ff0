"""`train markermap` end to end: its directory, what is made from it, and the same genes by `select-markers`."""

from __future__ import annotations

import csv
import gc
import json
import os
import signal
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import read_h5ad

from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.data.simulation import simulate_rna_data
from scmap_cli.errors import DeviceError, InputError, OutputExistsError, StoppedError, UsageError
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.markers.base import run_selector
from scmap_cli.models.markermap import MarkerMapConfig
from scmap_cli.registry import get_selector
from scmap_cli.stages import marker_model
from scmap_cli.stages.embed import embed
from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction
from scmap_cli.stages.impute import impute
from scmap_cli.stages.panel import load_panel
from scmap_cli.stages.select_markers import select_markers
from scmap_cli.stages.train_markermap import train_markermap
from scmap_cli.training.loop import Trainer

QUICK = {"epochs": 12, "batch_size": 64}
SMALL = {"k": 10, "width": 16, "anneal_epochs": 6.0}


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rna.h5ad"
    data = simulate_rna_data(
        n_cells=400, n_genes=120, n_programs=6, n_types=3, n_batches=1, genes_per_program=10, noise_genes=40,
        active_per_type=2, seed=1,
    )  # fmt: skip
    write_h5ad(data, path)
    return path


def train(counts: Path, folder: Path, mode: str = "joint", **more) -> dict:
    options = {**SMALL, "mode": mode, **more.pop("model_options", {})}
    return train_markermap(
        counts,
        folder,
        label_key="cell_type",
        model_options=options,
        train_options={**QUICK, **more.pop("train_options", {})},
        device="cpu",
        **more,
    )


@pytest.fixture(scope="module")
def joint(counts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "joint"
    train(counts, folder, train_options={"epochs": 60})
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_the_directory_names_its_markers(joint, counts):
    markers = [row["gene"] for row in rows(joint / "markers.tsv")]
    assert len(set(markers)) == 10
    config = json.loads((joint / "config.json").read_text())
    assert config["markers"] == markers
    assert set(markers) <= set(read_h5ad(counts).var_names)
    history = rows_csv(joint / "history.csv")
    best = json.loads((joint / "metrics.json").read_text())["best_epoch"]
    assert best > 6, "an epoch of a soft mask cannot be the best"
    assert float(history[best - 1]["valid_loss"]) == min(float(row["valid_loss"]) for row in history[6:])


def rows_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_labels_are_predicted_with_the_embedding(joint, counts, tmp_path):
    embed(joint, counts, tmp_path / "out.h5ad", device="cpu")
    found = read_h5ad(tmp_path / "out.h5ad")
    assert found.obsm["X_markermap"].shape == (400, 16)
    assert (found.obs["scmap_label"].astype(str) == found.obs["cell_type"].astype(str)).mean() > 0.9
    assert found.obs["scmap_label_confidence"].between(1 / 3, 1).all()


def test_the_markers_alone_give_all_genes_back(joint, counts, tmp_path):
    data = read_h5ad(counts)
    markers = [row["gene"] for row in rows(joint / "markers.tsv")]
    write_h5ad(data[:, markers].copy(), tmp_path / "few.h5ad")
    impute(joint, counts, tmp_path / "all.npz", device="cpu")
    impute(joint, tmp_path / "few.h5ad", tmp_path / "few.npz", device="cpu", plot=tmp_path / "few.svg")
    whole, few = (read_npz(tmp_path / name, "imputed")[1]["imputed"] for name in ("all.npz", "few.npz"))
    assert (tmp_path / "few.svg").read_text().startswith("<?xml")
    truth = log1p_cp10k(data.X.tocsr()).toarray()
    flat = ((truth - truth.mean(0)) ** 2).mean()
    assert whole.shape == few.shape == truth.shape
    assert ((whole - truth) ** 2).mean() < 0.99 * flat
    # Library sizes are estimated from the markers, so the two differ, but not much.
    assert np.corrcoef(whole.ravel(), few.ravel())[0, 1] > 0.95


def test_a_models_reconstruction_is_scored(joint, counts, tmp_path):
    impute(joint, counts, tmp_path / "rebuilt.h5ad", device="cpu")
    for scale in ("scaled", "global"):
        found = evaluate_reconstruction(
            counts, "-", reconstruction=[tmp_path / "rebuilt.h5ad"], reconstruction_values="log1p", scale=scale
        )
        # A gene's mean alone scores 1 where each is scaled.
        assert found["results"][0]["overall"]["mse"] < 1


def test_too_few_of_the_markers_is_said(joint, counts, tmp_path):
    data = read_h5ad(counts)
    markers = [row["gene"] for row in rows(joint / "markers.tsv")]
    write_h5ad(data[:, [g for g in data.var_names if g not in markers[2:]]].copy(), tmp_path / "others.h5ad")
    with pytest.raises(InputError, match=r"2 of the model's 10 markers"):
        embed(joint, tmp_path / "others.h5ad", tmp_path / "out.npz", device="cpu")


def test_a_supervised_model_has_no_decoder(counts, tmp_path):
    train(counts, tmp_path / "model", "supervised")
    with pytest.raises(UsageError, match="no decoder"):
        impute(tmp_path / "model", counts, tmp_path / "out.npz", device="cpu")


def test_select_markers_trains_the_same_model(counts, tmp_path):
    first = train(counts, tmp_path / "one", "supervised")["genes_chosen"]
    settings = tmp_path / "run.toml"
    settings.write_text(
        "[model]\nwidth = 16\nanneal-epochs = 6.0\n[train]\n"
        + "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in QUICK.items())
    )
    more = {"label_key": "cell_type", "model_config": settings, "model_out": tmp_path / "two"}
    select_markers(counts, tmp_path / "new.tsv", k=10, **more)
    select_markers(counts, tmp_path / "taken.tsv", model=tmp_path / "one", label_key="cell_type")
    table = tmp_path / "one" / "markers.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(InputError, match=r"markers.tsv is damaged or was changed"):
        select_markers(counts, tmp_path / "cut.tsv", model=tmp_path / "one", label_key="cell_type")
    for table in ("new.tsv", "taken.tsv"):
        assert [row["gene"] for row in rows(tmp_path / table)] == first
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == (
        tmp_path / "one" / "model.safetensors"
    ).read_bytes()


def test_few_cells_take_small_steps(counts, tmp_path):
    """An epoch has at least eight steps, of 32 cells or more; what is asked for is taken as it is."""
    assert [marker_model.usual_batch(n) for n in (100, 400, 1600, 2048, 10**6)] == [32, 50, 200, 256, 256]
    for name, batch in (("usual", None), ("asked", 256)):
        more = {"epochs": 2} | ({} if batch is None else {"batch_size": batch})
        train_markermap(
            counts, tmp_path / name, label_key="cell_type", model_options=SMALL | {"mode": "supervised"},
            train_options=more, device="cpu",
        )  # fmt: skip
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["train_config"]["batch_size"] == (marker_model.usual_batch(360) if batch is None else batch)


def test_settings_of_a_file_are_obeyed_as_by_train(counts, tmp_path):
    settings = tmp_path / "run.toml"
    settings.write_text(
        "[model]\nk = 7\nmode = 'joint'\nwidth = 16\nanneal-epochs = 2.0\n[train]\nepochs = 3\n[embed]\nseed = 5\n"
    )
    more = {"label_key": "cell_type", "model_config": settings, "device": "cpu"}
    options, usual = {"k": 7, "mode": "joint", "width": 16, "anneal_epochs": 2.0}, marker_model.usual_batch(360)
    trained = train(counts, tmp_path / "model", model_options=options, train_options={"epochs": 3, "batch_size": usual})
    assert select_markers(counts, "-", **more)["genes"][0] == trained["genes_chosen"]
    assert len(trained["genes_chosen"]) == 7
    assert len(select_markers(counts, "-", k=5, mode="supervised", **more)["genes"][0]) == 5
    with pytest.raises(UsageError, match=r"mode is 'joint' in .*run.toml, which is not that of .* markermap-unsup"):
        select_markers(counts, "-", method="markermap-unsupervised", **more)
    with pytest.raises(UsageError, match="--model-config says nothing with --as-published"):
        select_markers(counts, "-", as_published=True, **more)
    settings.write_text("[data]\nlabel_key = 'cell_type'\n")
    with pytest.raises(UsageError, match=r"\[data\] of .* says nothing with --model-config"):
        select_markers(counts, "-", **more)
    settings.write_text("[train]\nepoch = 3\n")
    with pytest.raises(UsageError, match="unknown key 'epoch' in"):
        select_markers(counts, "-", **more)


@pytest.fixture
def stopped(monkeypatch):
    """A training gets SIGTERM in its third epoch."""
    real = Trainer._step

    def step(self, rows):
        if self.state.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, rows)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.fixture
def quick(tmp_path) -> dict:
    (tmp_path / "run.toml").write_text("[model]\nk = 5\nwidth = 8\nanneal-epochs = 2.0\n[train]\nepochs = 4\n")
    return {"label_key": "cell_type", "model_config": tmp_path / "run.toml", "device": "cpu"}


def test_a_stopped_selection_goes_on(counts, tmp_path, quick, stopped, monkeypatch, caplog):
    out, kept = tmp_path / "m.tsv", tmp_path / ".m.tsv.partial"
    with pytest.raises(StoppedError, match="SIGTERM in epoch 3, checkpoint saved"):
        select_markers(counts, out, **quick)
    assert (kept / "model" / "checkpoints").is_dir()
    assert not out.exists()
    monkeypatch.undo()
    with caplog.at_level("INFO", "scmap"):
        found = select_markers(counts, out, **quick)
    assert "resumed in epoch 3" in caplog.text
    assert found["table"] == select_markers(counts, "-", **quick)["table"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tsv", "m.tsv.run.json", "run.toml"]


def test_what_another_run_left_is_not_gone_on_with(counts, tmp_path, quick, stopped, monkeypatch):
    with pytest.raises(StoppedError):
        select_markers(counts, tmp_path / "m.tsv", **quick)
    monkeypatch.undo()
    found = select_markers(counts, tmp_path / "m.tsv", seed=1, **quick)
    assert found["table"] == select_markers(counts, "-", seed=1, **quick)["table"]


def test_a_stop_that_can_save_nothing_says_so(counts, quick, stopped):
    with pytest.raises(KeyboardInterrupt):
        select_markers(counts, "-", **quick)


def test_a_training_without_checkpoints_leaves_signals_alone(counts, monkeypatch):
    seen = []
    real = Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda self, rows: seen.append(signal.getsignal(signal.SIGTERM)) or real(self, rows)
    )
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": 2})
    before = signal.getsignal(signal.SIGTERM)
    select_markers(counts, "-", k=5, splits=1, label_key="cell_type", device="cpu")
    assert set(seen) == {before}


@pytest.mark.parametrize("options", [{}, {"splits": 2}])
def test_dry_runs_refuse_what_runs_refuse(counts, options):
    for unfit in ({"label_key": None}, {"k": 500, "label_key": "cell_type"}):
        for method in ("markermap", "t-test"):
            with pytest.raises((InputError, UsageError), match=r"needs labels|500 genes are wanted of 120"):
                select_markers(counts, "-", method=method, device="cpu", dry_run=True, **unfit, **options)


def test_a_device_that_is_not_there(counts, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for options in ({}, {"splits": 1}, {"mode": "joint"}):
        with pytest.raises(DeviceError, match="device cuda was asked for"):
            select_markers(counts, "-", k=5, label_key="cell_type", device="cuda", **options)
    with caplog.at_level("INFO", "scmap"):
        select_markers(counts, "-", k=5, method="hvg", device="cuda")
    assert "hvg runs on the CPU" in caplog.text


def test_the_selector_gives_the_same_bytes_with_any_threads(counts, monkeypatch):
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": 2})
    data = load_panel(counts, label_key="cell_type").data(np.ones(400, dtype=bool))
    threads, seen, real = torch.get_num_threads(), [], Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, rows: seen.append(torch.get_num_threads()) or real(self, rows))
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(run_selector(get_selector("markermap-joint"), data, 10, seed=0))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1}
    assert found[0].genes.tolist() == found[1].genes.tolist()
    assert found[0].scores.tolist() == found[1].scores.tolist()


def test_the_selector_gives_the_genes_of_the_whole_training(counts, tmp_path, monkeypatch):
    whole = train_markermap(
        counts, tmp_path / "model", label_key="cell_type", model_options={"k": 10}, device="cpu",
        train_options={**QUICK, "validation_share": 0.0},
    )  # fmt: skip
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": QUICK["epochs"]})
    monkeypatch.setattr(marker_model, "usual_batch", lambda cells: QUICK["batch_size"])
    panel = load_panel(counts, label_key="cell_type")
    found = run_selector(get_selector("markermap"), panel.data(np.ones(400, dtype=bool)), 10, seed=0)
    assert panel.genes[found.genes].tolist() == whole["genes_chosen"]


def test_forced_genes(counts, tmp_path):
    free = train(counts, tmp_path / "free", "supervised")["genes_chosen"]
    noise = [name for name in read_h5ad(counts).var_names if name not in free][:2][::-1]
    (tmp_path / "in.txt").write_text("\n".join(noise))
    (tmp_path / "out.txt").write_text("\n".join(free[:4]))
    found = train(
        counts, tmp_path / "forced", "supervised", force_in=tmp_path / "in.txt", force_out=tmp_path / "out.txt"
    )["genes_chosen"]
    assert found[:2] == noise
    assert not set(found) & set(free[:4])
    assert len(set(found)) == 10


def test_costs_and_a_prior_move_the_choice(counts, tmp_path):
    free = train(counts, tmp_path / "free", "supervised")["genes_chosen"]
    genes = list(read_h5ad(counts).var_names)
    (tmp_path / "costs.tsv").write_text("gene\tcost\n" + "".join(f"{gene}\t50\n" for gene in free))
    dear = train(counts, tmp_path / "dear", "supervised", costs=tmp_path / "costs.tsv")["genes_chosen"]
    assert len(set(dear) & set(free)) < 5
    liked = [gene for gene in genes if gene not in free][:10]
    (tmp_path / "prior.tsv").write_text("".join(f"{gene}\t{float(gene in liked)}\n" for gene in genes))
    found = train(
        counts, tmp_path / "liked", "supervised", prior=tmp_path / "prior.tsv", model_options={"prior_weight": 20.0}
    )["genes_chosen"]
    assert set(found) == set(liked)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model_options": {"k": 500}}, InputError, "500 genes are wanted of 120"),
        ({"model_options": {"mode": "sup"}}, UsageError, "mode is 'sup'"),
        ({"label_key": "nothing"}, InputError, "no obs column 'nothing'"),
        ({"label_key": None}, UsageError, "needs labels"),
        ({"model_options": {"final_temperature": 5.0}}, UsageError, "must fall"),
    ],
)
def test_bad_input_is_said(counts, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        train_markermap(counts, tmp_path / "model", **({"label_key": "cell_type", "device": "cpu"} | options))
    assert not (tmp_path / "model").exists()


def test_a_class_of_one_cell_is_said(counts, tmp_path):
    data = read_h5ad(counts)
    data.obs["cell_type"] = ["alone", *data.obs["cell_type"].astype(str)[1:]]
    write_h5ad(data, tmp_path / "rna.h5ad")
    with pytest.raises(InputError, match="the class 'alone' has 1 cell"):
        train(tmp_path / "rna.h5ad", tmp_path / "model")


def test_genes_that_never_vary_are_no_markers(counts, tmp_path):
    data = read_h5ad(counts)
    dense = data.X.toarray()
    dense[:, :30] = 0
    data.X = dense
    write_h5ad(data, tmp_path / "rna.h5ad")
    found = train(tmp_path / "rna.h5ad", tmp_path / "model", "unsupervised")["genes_chosen"]
    assert not set(found) & set(data.var_names[:30])
    panel = load_panel(tmp_path / "rna.h5ad")
    cells = panel.data(np.ones(400, dtype=bool))
    constant = cells.log1p.tolil()
    constant[:, 40] = 1.5
    cells = replace(cells, log1p=constant.tocsr())
    config = MarkerMapConfig(k=10, mode="unsupervised")
    network = marker_model.make_network(cells, np.zeros(400, dtype=bool), config, 0)
    assert np.flatnonzero(network.choice.fixed_g.numpy() < 0).tolist() == [*range(30), 40]


def test_an_existing_model_is_not_replaced_unasked(joint, counts):
    with pytest.raises(OutputExistsError):
        train(counts, joint)


def test_all_cells_are_not_copied_and_the_file_is_let_go_of_before_the_training(counts, tmp_path, monkeypatch):
    panel = load_panel(counts, label_key="cell_type")
    data = panel.data(np.ones(len(panel.codes), dtype=bool))
    assert data.counts is panel.counts
    assert data.log1p is panel.log1p
    files = []

    def watched(*where, **how):
        read = load_panel(*where, **how)
        files.append(weakref.ref(read.source.adata))
        return read

    def looked(trainer, resume=False):
        gc.collect()
        assert not [file for file in files if file() is not None]
        return whole(trainer, resume)

    whole = Trainer.fit
    monkeypatch.setattr("scmap_cli.stages.train_markermap.load_panel", watched)
    monkeypatch.setattr(Trainer, "fit", looked)
    train(counts, tmp_path / "m", train_options={"epochs": 1})
    (tmp_path / "cells.txt").write_text("\n".join(panel.source.cells[:200]) + "\n")
    train(counts, tmp_path / "some", train_options={"epochs": 1}, train_cells=tmp_path / "cells.txt")
