"""Two processes: the same training as one process with twice the batch, one writer, and stops that hold for all."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from multiome_files import multiome
from safetensors.numpy import load_file

from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.stages.preprocess_multiome import preprocess_multiome
from scmap_cli.training.distributed import Ranks, ranks_from_environment

LASTING = ("model.safetensors", "history.csv", "features.tsv", "metrics.json", "split.tsv", "programs.tsv")
BATCH = 16


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def words(sample: Any, output: str, batch: int, *more: object, epochs: int = 3) -> list[str]:
    made: list[str] = sample.train(output, "--batch-size", batch, *more, epochs=epochs)
    return made


def start_two(scmap: Any, command: list[str]) -> list[Any]:
    """Start a command as two ranks, with the variables that torchrun sets."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [scmap.start(*command, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]


def run_two(scmap: Any, command: list[str], status: int = 0) -> list[str]:
    started = start_two(scmap, command)
    codes = [one.wait() for one in started]
    assert codes == [status, status], "\n".join(one.said() for one in started)
    return [one.said() for one in started]


def history(model: Path) -> list[dict[str, str]]:
    with (model / "history.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def checkpoint(model: Path) -> Path:
    return model / "checkpoints" / "last.safetensors"


@pytest.mark.parametrize(
    "options", [(), ("--sampling", "shuffle", "--membership", "soft", "--unconstrained", 1, "--hsic", 0)], ids=str
)
def test_two_ranks_equal_one_with_twice_the_batch(scmap: Any, sample: Any, options: tuple[object, ...]) -> None:
    """HSIC is left out: it is no mean over cells, so a rank's batch has its own."""
    scmap.run(*words(sample, "one", 2 * BATCH, *options))
    run_two(scmap, words(sample, "two", BATCH, *options))
    one, two = scmap.folder / "one", scmap.folder / "two"
    left, right = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert left.keys() == right.keys()
    for name, expected in left.items():
        np.testing.assert_allclose(right[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    rows, others = history(one), history(two)
    assert len(rows) == len(others) == 3
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            assert float(other[key]) == pytest.approx(float(value), rel=1e-5), key
    assert (one / "split.tsv").read_bytes() == (two / "split.tsv").read_bytes()


def test_two_ranks_equal_one_with_tokens_too(scmap: Any, sample: Any) -> None:
    """Cells of other lengths and masks of their own: the gradient is that of the whole step."""
    scmap.run("preprocess", "corpus", sample.data, "-o", "c.zarr", "--study-key", "batch", "--part-cells", 64)
    small = ["--preset", "tiny", "--width", 16, "--layers", 1, "--max-genes", 40, "--epochs", 2, "--adam-eps", 1e-3]
    common = ["train", "expresser", "c.zarr", "--device", "cpu", "-t", 1, *small]
    scmap.run(*common, "-o", "one", "--batch-size", 16, "--accumulate", 2)
    run_two(scmap, [str(word) for word in (*common, "-o", "two", "--batch-size", 16)])
    left, right = (load_file(scmap.folder / name / "model.safetensors") for name in ("one", "two"))
    for name, expected in left.items():
        np.testing.assert_allclose(right[name], expected, rtol=1e-3, atol=2e-5, err_msg=name)
    for row, other in zip(history(scmap.folder / "one"), history(scmap.folder / "two"), strict=True):
        for key, value in row.items():
            assert float(other[key]) == pytest.approx(float(value), rel=1e-4), key


@pytest.mark.slow
def test_a_run_stopped_on_two_ranks_goes_on_on_one(scmap: Any, sample: Any) -> None:
    """The cells of a step are the same, and a batch of one rank is the batch of each of two."""
    scmap.run("preprocess", "corpus", sample.data, "-o", "c.zarr", "--study-key", "batch", "--part-cells", 64)
    small = ["--preset", "tiny", "--width", 16, "--layers", 1, "--max-genes", 40, "--epochs", 3, "--adam-eps", 1e-3]
    common = ["train", "expresser", "c.zarr", "--device", "cpu", "-t", 1, *small, "--batch-size", 8]
    common += ["--checkpoint-minutes", 0]
    scmap.run(*common, "-o", "straight", "--accumulate", 2)
    started = start_two(scmap, [str(word) for word in (*common, "-o", "model")])
    started[0].wait_for(checkpoint(scmap.folder / "model"))
    started[0].send(signal.SIGTERM)
    assert [one.wait() for one in started] == [75, 75], started[0].said() + started[1].said()
    same_flags = scmap.run(*common, "-o", "model", status=2)
    assert "cells a step" in same_flags
    assert "resumed in epoch" in scmap.run(*common, "-o", "model", "--accumulate", 2)
    left, right = (load_file(scmap.folder / name / "model.safetensors") for name in ("straight", "model"))
    for name, expected in left.items():
        np.testing.assert_allclose(right[name], expected, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_mean_of_an_epoch_does_not_change_with_the_number_of_processes(world: int) -> None:
    """Five of ten steps with a loss of 1 on each of two ranks, then five more on others."""
    summed = sum(Ranks(rank, world).share([5.0, 5.0]) + 5.0 for rank in range(world))
    assert summed / (10 * world) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("told", "here"),
    [
        ({"RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 4),
        ({"RANK": "1", "WORLD_SIZE": "8"}, 8),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "11", "SLURM_STEP_TASKS_PER_NODE": "3,4(x2)"}, 4),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, 2),
        ({}, 1),
    ],
    ids=str,
)
def test_processes_of_a_machine_are_known(monkeypatch: pytest.MonkeyPatch, told: dict[str, str], here: int) -> None:
    monkeypatch.setattr(os, "environ", told)
    assert ranks_from_environment().local_world == here


def test_the_first_rank_alone_writes(scmap: Any, sample: Any) -> None:
    said = run_two(scmap, words(sample, "model", BATCH))
    assert sorted(os.listdir(scmap.folder)) == ["model", "model.run.json"]
    assert not (scmap.folder / "model" / "checkpoints").exists()
    assert "wrote model" in said[0]
    assert said[1] == ""


def test_a_stop_of_any_rank_stops_all_and_the_run_goes_on(scmap: Any, sample: Any) -> None:
    """Resumed on two ranks, the bytes are those of two ranks that nobody stopped."""
    run_two(scmap, words(sample, "straight", BATCH, epochs=8))
    command = words(sample, "model", BATCH, "--checkpoint-minutes", 0, epochs=8)
    model = scmap.folder / "model"
    started = start_two(scmap, command)
    started[0].wait_for(checkpoint(model))
    started[1].send(signal.SIGTERM)
    assert [one.wait() for one in started] == [75, 75], started[0].said() + started[1].said()
    assert "stopped by another rank" in started[0].said()
    assert "stopped by SIGTERM" in started[1].said()
    assert os.listdir(model) == ["checkpoints"]
    assert os.listdir(model / "checkpoints") == ["last.safetensors"]
    assert "resumed in epoch" in run_two(scmap, command)[0]
    for name in LASTING:
        assert (model / name).read_bytes() == (scmap.folder / "straight" / name).read_bytes(), name


@pytest.mark.slow
def test_trials_of_a_weight_are_those_of_all_ranks_and_stop_together(scmap: Any, tmp_path: Path) -> None:
    for name, adata in zip(("rna", "atac"), multiome(), strict=True):
        write_h5ad(adata, tmp_path / f"{name}.h5ad")
    files = {name: tmp_path / f"{name}.h5ad" for name in ("rna", "atac")}
    preprocess_multiome(tmp_path / "m.h5ad", components=5, **files)

    def command(output: str) -> list[str]:
        sizes = ["--hidden", "8,6", "--latent", 4, "--reference-width", 8, "--batch-size", 60, "--epochs", 2]
        wanted = ["train", "sailerx", tmp_path / "m.h5ad", "-o", output, "--alignment-weight", "auto", *sizes]
        return [str(word) for word in (*wanted, "--device", "cpu", "-t", 1)]

    run_two(scmap, command("straight"))
    model = scmap.folder / "model"
    started = start_two(scmap, command("model"))
    started[0].wait_for(model / "checkpoints" / "trials" / "last.safetensors")
    started[1].send(signal.SIGTERM)
    assert [one.wait() for one in started] == [75, 75], started[0].said() + started[1].said()
    assert "stopped by another rank" in started[0].said()
    run_two(scmap, command("model"))
    for name in ("model.safetensors", "history.csv", "alignment.tsv"):
        assert (model / name).read_bytes() == (scmap.folder / "straight" / name).read_bytes(), name


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_leaves_the_checkpoint(scmap: Any, sample: Any) -> None:
    command = words(sample, "model", BATCH, "--checkpoint-minutes", 0, epochs=8)
    started = start_two(scmap, words(sample, "model", BATCH, "--checkpoint-minutes", 0, epochs=8))
    started[0].wait_for(checkpoint(scmap.folder / "model"))
    started[1].send(signal.SIGKILL)
    assert started[1].wait() == -signal.SIGKILL
    assert started[0].wait() != 0
    assert not (scmap.folder / "model" / "config.json").exists()
    assert "resumed in epoch" in run_two(scmap, command)[0]


def test_a_divergence_ends_all_ranks(scmap: Any, sample: Any) -> None:
    command = words(sample, "model", BATCH, "--lr", 1e30, "--adam-eps", 1e-30)
    said = run_two(scmap, command, status=4)
    assert "training diverged" in said[0]
    assert os.listdir(scmap.folder / "model") == ["checkpoints"]


@pytest.mark.slow
def test_torchrun_passes_a_stop_on_and_goes_on_later(scmap: Any, sample: Any, tmp_path: Path) -> None:
    run_two(scmap, words(sample, "straight", BATCH, epochs=8))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "scmap_cli"]
    command += words(sample, "model", BATCH, "--checkpoint-minutes", 0, epochs=8)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    model = scmap.folder / "model"
    process = subprocess.Popen(command, cwd=scmap.folder, env=env, stderr=subprocess.PIPE, text=True)
    while not checkpoint(model).exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode != 0
    assert "checkpoint saved" in said
    assert os.listdir(model) == ["checkpoints"], said
    done = subprocess.run(command, cwd=scmap.folder, env=env, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resumed in epoch" in done.stderr
    for name in LASTING:
        assert (model / name).read_bytes() == (scmap.folder / "straight" / name).read_bytes(), name
