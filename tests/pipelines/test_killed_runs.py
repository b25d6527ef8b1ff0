"""Runs that are stopped or killed: the old output or none stays, and the same command then gives the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

SAME = ("model.safetensors", "history.csv", "features.tsv", "config.json", "metrics.json", "split.tsv", "programs.tsv")


def content(path: Path) -> dict[str, bytes]:
    """Files of a folder, or of one file alone."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def assert_same_model(model: Path, straight: Path) -> None:
    for name in SAME:
        assert (model / name).read_bytes() == (straight / "model" / name).read_bytes(), name
    assert not (model / "checkpoints").exists()


def hidden(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def checkpoint(folder: Path) -> Path:
    return folder / "model" / "checkpoints" / "last.safetensors"


def saving(sample: Any, *more: object, **options: int) -> list[str]:
    """Words of a training that saves after every step."""
    return sample.train("model", "--checkpoint-minutes", 0, *more, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stopped_training_goes_on_to_the_same_bytes(scmap: Any, sample: Any, straight: Path, number: int) -> None:
    command = scmap.start(*saving(sample))
    command.wait_for(checkpoint(scmap.folder))
    command.send(number)
    assert command.wait() == 75, command.said()
    name = signal.Signals(number).name
    assert f"stopped by {name} in epoch" in command.said()
    assert "run the same command again" in command.said()
    assert "Traceback" not in command.said()
    assert os.listdir(scmap.folder) == ["model"]
    assert os.listdir(scmap.folder / "model") == ["checkpoints"]
    said = scmap.run("info", "model", status=3)
    assert "has not finished" in said
    assert "resumed in epoch" in scmap.run(*saving(sample))
    # The record tells how often the run saves, so the config is that of a run with the same option.
    for file in ("model.safetensors", "history.csv", "features.tsv", "metrics.json", "split.tsv", "programs.tsv"):
        assert (scmap.folder / "model" / file).read_bytes() == (straight / "model" / file).read_bytes(), file
    assert hidden(scmap.folder) == []


def test_a_training_stopped_in_a_process_of_its_own(tmp_path: Path, sample: Any) -> None:
    """As above through ``python -m scmap_cli``, with nothing prepared."""
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scmap_cli", *saving(sample, epochs=100_000)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not checkpoint(tmp_path).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate()
    assert process.returncode == 75, said
    assert out == ""
    assert "error: stopped by SIGTERM" in said
    assert checkpoint(tmp_path).is_file()


def test_a_second_interrupt_ends_at_once(scmap: Any, sample: Any) -> None:
    # A model that takes some time to save: whenever the first interrupt comes, there is time for the next ones.
    command = scmap.start(*saving(sample, "--hidden", "1024,1024", epochs=1000))
    command.wait_for(checkpoint(scmap.folder))
    # A signal to a process that has ended and is not yet waited for goes nowhere.
    for _ in range(300):
        command.send(signal.SIGINT)
        time.sleep(0.001)
    assert command.wait() == 130, command.said()
    assert not (scmap.folder / "model" / "config.json").exists()
    scmap.run(*saving(sample, "--force"))
    assert (scmap.folder / "model" / "config.json").exists()
    assert hidden(scmap.folder / "model") == []


def test_another_option_is_named_and_the_checkpoint_kept(scmap: Any, sample: Any) -> None:
    command = scmap.start(*saving(sample, epochs=1000))
    command.wait_for(checkpoint(scmap.folder))
    command.send(signal.SIGTERM)
    assert command.wait() == 75
    before = checkpoint(scmap.folder).read_bytes()
    for more, key in ((["--lr", 0.5], "lr"), (["--seed", 4], "seed"), (["--dropout", 0.3], "dropout")):
        said = scmap.run(*saving(sample, *more, epochs=1000), status=2)
        assert f"{key} was" in said
        assert "Traceback" not in said
        assert checkpoint(scmap.folder).read_bytes() == before
    said = scmap.run(*saving(sample, "--resume", "never", epochs=1000), status=2)
    assert "--force" in said
    assert checkpoint(scmap.folder).read_bytes() == before


@pytest.mark.parametrize("old", [False, True], ids=["no old model", "old model"])
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_training_leaves_old_or_none(scmap: Any, sample: Any, straight: Path, seed: int, old: bool) -> None:
    model = scmap.folder / "model"
    if old:
        shutil.copytree(straight / "model", model)
        (model / "metrics.json").write_text("{}\n")
    before = content(model)
    words = sample.train("model", "--force")
    command = scmap.start(*words)
    time.sleep(random.Random(10 * seed + old).uniform(0.02, 0.95) * float((straight / "seconds").read_text()))
    command.send(signal.SIGKILL)
    assert command.wait() in (-signal.SIGKILL, 0)
    after = {name: data for name, data in content(model).items() if not name.startswith("checkpoints/")}
    if (model / "config.json").exists():
        assert after == before or after.keys() >= set(SAME)
    else:
        assert after == {}
    scmap.run(*words)
    assert_same_model(model, straight)
    assert hidden(scmap.folder) == []


def writes(straight: Path, sample: Any) -> dict[str, list[object]]:
    return {
        "emb.h5ad": ["embed", straight / "model", sample.data, "-o", "emb.h5ad", "--device", "cpu", "-t", 1],
        "pre.h5ad": ["preprocess", "rna", sample.data, "-o", "pre.h5ad", "-t", 1],
    }


@pytest.mark.parametrize("name", ["emb.h5ad", "pre.h5ad"])
def test_a_killed_write_leaves_old_or_none(scmap: Any, sample: Any, straight: Path, name: str) -> None:
    words = writes(straight, sample)[name]
    wanted = (straight / name).read_bytes()
    output = scmap.folder / name
    rng = random.Random(name)
    killed = 0
    for attempt in range(8):
        output.unlink(missing_ok=True)
        if attempt % 2:
            output.write_bytes(b"old")
        command = scmap.start(*words, "--force")
        if attempt % 4 < 2:
            # From when the temporary file is there, the write is on.
            wait_for_temporary(scmap.folder, command)
            time.sleep(rng.uniform(0.0, 0.01))
        else:
            time.sleep(rng.uniform(0.01, 0.3))
        command.send(signal.SIGKILL)
        killed += command.wait() == -signal.SIGKILL
        found = output.read_bytes() if output.exists() else None
        assert found in (b"old" if attempt % 2 else None, wanted)
    assert killed >= 5
    scmap.run(*words, "--force")
    assert output.read_bytes() == wanted
    assert hidden(scmap.folder) == []


def wait_for_temporary(folder: Path, command: Any) -> None:
    end = time.monotonic() + 60
    while not hidden(folder):
        assert time.monotonic() < end, command.said()
        time.sleep(0.001)


def test_force_keeps_the_old_model_until_the_new_one_is_whole(scmap: Any, sample: Any, straight: Path) -> None:
    model = scmap.folder / "model"
    shutil.copytree(straight / "model", model)
    before = content(model)
    command = scmap.start(*saving(sample, "--force", "--seed", 3, epochs=1000))
    command.wait_for(checkpoint(scmap.folder))
    assert {k: v for k, v in content(model).items() if not k.startswith("checkpoints/")} == before
    scmap.run("embed", "model", sample.data, "-o", "emb.h5ad", "--device", "cpu", "-t", 1)
    command.send(signal.SIGTERM)
    assert command.wait() == 75
    assert {k: v for k, v in content(model).items() if not k.startswith("checkpoints/")} == before
    scmap.run(*sample.train("model", "--force"))
    assert_same_model(model, straight)


def test_a_finished_model_is_not_replaced_without_force(scmap: Any, sample: Any, straight: Path) -> None:
    shutil.copytree(straight / "model", scmap.folder / "model")
    before = content(scmap.folder / "model")
    assert "--force" in scmap.run(*sample.train("model"), status=2)
    assert content(scmap.folder / "model") == before


def test_a_divergence_publishes_nothing_and_keeps_finite_weights(scmap: Any, sample: Any) -> None:
    said = scmap.run(*sample.train("model", "--lr", 1e30, "--adam-eps", 1e-30), status=4)
    assert "training diverged in epoch" in said
    assert any(f"{term} " in said or f"{term}," in said for term in ("recon", "kl", "the gradient", "train_loss")), said
    assert "lower --lr" in said
    assert "Traceback" not in said
    assert os.listdir(scmap.folder) == ["model"]
    assert os.listdir(scmap.folder / "model") == ["checkpoints"]
    (kept,) = (scmap.folder / "model" / "checkpoints").rglob("*.safetensors")
    assert str(kept.relative_to(scmap.folder)) in said
    tensors = load_file(kept)
    assert tensors
    assert all(bool((abs(array) < 1e30).all()) for array in tensors.values())


def test_a_file_size_limit_is_exit_6_and_leaves_nothing(scmap: Any, sample: Any, straight: Path) -> None:
    for words in (sample.train("model"), *writes(straight, sample).values()):
        said = scmap.run(*words, status=6, file_size=3000)
        assert "could not write" in said
        assert "Traceback" not in said
        assert os.listdir(scmap.folder) == []


def mapping(sample: Any, straight: Path, output: str, *more: object) -> list[str]:
    """Words of a mapping of the training's own cells as one new batch."""
    words = ["map-query", straight / "model", sample.data, "-o", f"{output}.h5ad", "--model-out", output]
    words += ["--one-batch", "new", "--new-programs", 1, "--epochs", 40, "--patience", 0, "--batch-size", 16]
    words += ["--checkpoint-minutes", 0]
    return [str(word) for word in [*words, "--device", "cpu", "-t", 1, *more]]


@pytest.mark.slow
def test_a_stopped_mapping_goes_on_to_the_same_bytes(scmap: Any, sample: Any, straight: Path) -> None:
    scmap.run(*mapping(sample, straight, "whole"))
    command = scmap.start(*mapping(sample, straight, "model"))
    command.wait_for(checkpoint(scmap.folder))
    command.send(signal.SIGTERM)
    assert command.wait() == 75, command.said()
    assert not (scmap.folder / "model.h5ad").exists()
    assert "resumed in epoch" in scmap.run(*mapping(sample, straight, "model"))
    for file in ("model.safetensors", "history.csv", "new_programs.tsv", "overlap.json"):
        assert (scmap.folder / "model" / file).read_bytes() == (scmap.folder / "whole" / file).read_bytes(), file
