"""Trials of a weight that are stopped: what was found is kept, and the next start goes on with the next trial."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from multiome_files import multiome

from scmap_cli.errors import StoppedError, UsageError
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.stages import weight_search
from scmap_cli.stages.preprocess_multiome import preprocess_multiome
from scmap_cli.stages.train_sailerx import train_sailerx
from scmap_cli.training.loop import Trainer

SMALL = {"hidden": [8, 6], "latent": 4, "reference_width": 8, "positive_weight": "none", "alignment_weight": "auto"}
TRAIN = {"epochs": 2, "batch_size": 60}
WHOLE = Trainer.fit
SAME = ("model.safetensors", "history.csv", "alignment.tsv", "config.json", "metrics.json")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weight_search, "EPOCHS", 2)
    monkeypatch.setattr(weight_search, "CELLS", 120)
    monkeypatch.setattr(weight_search, "ALIGNMENTS", (0.0, 100.0, 1000.0))
    for name, adata in zip(("rna", "atac"), multiome(), strict=True):
        write_h5ad(adata, tmp_path / f"{name}.h5ad")
    files = {name: tmp_path / f"{name}.h5ad" for name in ("rna", "atac")}
    preprocess_multiome(tmp_path / "m.h5ad", components=5, **files)
    return tmp_path / "m.h5ad"


def train(data: Path, output: Path, **options: Any) -> None:
    train_sailerx(data, output, model_options=SMALL, **({"train_options": TRAIN} | options))


class Fits:
    """Counts the fits of a trainer that came to their end, and terminates the process after one of them."""

    def __init__(self) -> None:
        self.count, self.last = 0, -1

    def __call__(self, trainer: Trainer, resume: bool = False) -> Any:
        found = WHOLE(trainer, resume)
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGTERM)
        return found


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    made = Fits()
    monkeypatch.setattr(Trainer, "fit", lambda trainer, resume=False: made(trainer, resume))
    return made


def assert_same(model: Path, straight: Path) -> None:
    for name in SAME:
        assert (model / name).read_bytes() == (straight / name).read_bytes(), name
    assert not (model / "checkpoints").exists()


def test_a_stop_between_trials(data: Path, tmp_path: Path, fits: Fits, caplog: pytest.LogCaptureFixture) -> None:
    train(data, tmp_path / "straight")
    assert fits.count == 4
    fits.count, fits.last = 0, 2
    with pytest.raises(StoppedError, match="SIGTERM after 2 of 3 trials of the alignment weight, all saved"):
        train(data, tmp_path / "model")
    assert os.listdir(tmp_path / "model") == ["checkpoints"]
    fits.count, fits.last = 0, -1
    with caplog.at_level(logging.INFO):
        train(data, tmp_path / "model")
    assert fits.count == 2
    assert "2 of 3 trials of the alignment weight were made before" in caplog.text
    assert_same(tmp_path / "model", tmp_path / "straight")


def test_a_stop_within_a_trial_or_the_training(
    data: Path, tmp_path: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, tmp_path / "straight")
    fits.count = steps = 0
    step = Trainer._step

    def counted(trainer: Trainer, rows: Any) -> Any:
        nonlocal steps
        steps += 1
        # A trial takes 4 steps, the training 8.
        if steps in (2, 7, 15):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, rows)

    monkeypatch.setattr(Trainer, "_step", counted)
    for _ in range(3):
        with pytest.raises(StoppedError, match="checkpoint saved"):
            train(data, tmp_path / "model")
    assert fits.count == 3
    train(data, tmp_path / "model")
    assert (fits.count, steps) == (4, 20)
    assert_same(tmp_path / "model", tmp_path / "straight")


def test_trials_of_another_run_do_not_count(data: Path, tmp_path: Path, fits: Fits) -> None:
    fits.last = 1
    with pytest.raises(StoppedError):
        train(data, tmp_path / "model")
    other = {"train_options": TRAIN | {"lr": 0.01}}
    with pytest.raises(UsageError, match=r"train_config\.lr was 0\.002 and is 0\.01"):
        train(data, tmp_path / "model", **other)
    fits.count, fits.last = 0, -1
    train(data, tmp_path / "model", force=True, **other)
    assert fits.count == 4


def test_the_weight_of_the_trials_is_the_one_of_the_checkpoint(
    data: Path, tmp_path: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(trainer: Trainer, rows: Any) -> Any:
        if fits.count == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, rows)

    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", stopped)
    with pytest.raises(StoppedError, match="in epoch 1, checkpoint saved"):
        train(data, tmp_path / "model")
    monkeypatch.setattr(weight_search, "elbow", lambda weights, values: 77.0)
    with pytest.raises(UsageError, match=r"weights_found\.gamma was .* and is 77"):
        train(data, tmp_path / "model")
