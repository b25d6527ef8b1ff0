"""What holds for every verb: streams, --dry-run, --force, threads, caches, and that a run of it works."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys

import pytest


def test_a_run_writes_its_output_and_nothing_on_stdout(scmap, command):
    result = scmap(*command)
    assert result.out == ""
    assert any(name.startswith("out") for name in scmap.files())
    assert re.search(r"wrote out", result.err)


def test_a_dry_run_writes_nothing(scmap, command, shelf):
    before = {path: path.stat().st_mtime_ns for path in shelf.rglob("*")}
    result = scmap(*command, "--dry-run")
    assert result.out == ""
    assert result.err.splitlines()[-1] == "dry run: nothing was written"
    assert list(scmap.folder.iterdir()) == []
    assert before == {path: path.stat().st_mtime_ns for path in shelf.rglob("*")}


def test_an_output_is_replaced_with_force_only(scmap, command):
    scmap(*command)
    before = scmap.files()
    result = scmap(*command, status=2)
    assert "--force" in result.err
    assert scmap.files() == before
    scmap(*command, "--force")
    after = scmap.files()
    assert set(after) == set(before)
    same = {name for name in after if not name.endswith(".run.json")}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_quiet_says_nothing_of_a_run_that_went_well(scmap, command):
    assert scmap(*command, "-q").err.replace("\n", "") == ""


def test_zero_threads_are_2(scmap, command):
    assert "--threads" in scmap(*command, "--threads", "0", status=2).err


@pytest.mark.parametrize(
    "verb",
    [
        "preprocess atac",
        "preprocess peaks",
        "preprocess rna",
        "preprocess programs",
        "simulate rna",
        "train expimap",
        "embed",
    ],
)
def test_a_file_that_is_no_text_does_not_go_to_stdout(scmap, verb, shelf):
    words = {"simulate rna": [], "embed": ["m", "x"], "preprocess programs": ["x", "--genes", "y"]}.get(verb, ["x"])
    assert "-o -" in scmap(*verb.split(), *words, "-o", "-", status=2).err


def test_scores_go_to_stdout_as_json_alone(scmap, shelf):
    words = [
        "evaluate",
        "clustering",
        shelf / "embedded.h5ad",
        "--label-key",
        "cell_type",
        "-k",
        10,
        "--resolutions",
        "1",
    ]
    result = scmap.process(*words)
    assert result.data["results"][0]["embedding"] == "X_expimap"
    assert result.data["settings"]["k"] == [10]
    assert "ARI" in result.err
    scmap(*words, "-o", "scores.json")
    assert json.loads((scmap.folder / "scores.json").read_text()) == result.data


def test_verbose_tells_more(scmap):
    words = ("simulate", "rna", "--preset", "tiny", "--force", "-o", "out.h5ad")
    assert "scmap:" in scmap(*words, "-v").err
    assert "scmap:" not in scmap(*words).err


PROBE = """
import json, os, sys, types
stage = types.SimpleNamespace(simulate_rna=lambda **options: sys.stderr.write(json.dumps(dict(os.environ))))
sys.modules["scmap_cli.stages.simulate"] = stage
from scmap_cli.cli.app import main
main(["simulate", "rna", "-o", "out.h5ad", "--dry-run", "-q", *sys.argv[1:]])
"""


def environment(scmap, *words, **env):
    full = {key: value for key, value in scmap.environment().items() if key not in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR")}
    command = [sys.executable, "-c", PROBE, *words]
    done = subprocess.run(
        command, cwd=scmap.folder, env=full | env, text=True, capture_output=True, check=True, timeout=60
    )
    return json.loads(done.stderr)


def test_caches_go_to_tmpdir_and_what_the_user_chose_stays(scmap, tmp_path):
    (tmp_path / "t").mkdir()
    found = environment(scmap, "-t", "3", TMPDIR=str(tmp_path / "t"), NUMBA_CACHE_DIR="mine", SLURM_CPUS_PER_TASK="5")
    private = tmp_path / "t" / f"scmap-{os.getuid()}"
    assert found["MPLCONFIGDIR"] == str(private / "matplotlib")
    assert found["NUMBA_CACHE_DIR"] == "mine"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["HDF5_USE_FILE_LOCKING"] == "BEST_EFFORT"
    assert found["MPLBACKEND"] == "Agg"


def test_a_cache_folder_that_others_may_write_to_is_not_used(scmap, tmp_path):
    shared = tmp_path / f"scmap-{os.getuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    assert "NUMBA_CACHE_DIR" not in environment(scmap, TMPDIR=str(tmp_path))
    shared.rmdir()
    shared.symlink_to(tmp_path)
    assert "NUMBA_CACHE_DIR" not in environment(scmap, TMPDIR=str(tmp_path))


def test_threads_default_to_what_slurm_gives(scmap):
    assert environment(scmap, SLURM_CPUS_PER_TASK="7")["OMP_NUM_THREADS"] == "7"
    assert environment(scmap, HDF5_USE_FILE_LOCKING="TRUE")["HDF5_USE_FILE_LOCKING"] == "TRUE"
