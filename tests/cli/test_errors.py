"""Every way to fail ends with its exit code, one or two lines on stderr and nothing on stdout."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

SIMULATE = ("simulate", "rna", "-o", "out.h5ad", "--preset", "tiny")


@pytest.mark.parametrize("option", ["INPUT", "--barcodes"])
def test_a_pipe_is_refused_before_it_is_half_read(scmap, option):
    """Files are looked at more than once, and a pipe would give its beginning to the first look alone."""
    os.mkfifo(scmap.folder / "pipe")
    (scmap.folder / "f.tsv").write_text("chr1\t5\t9\tA\n")
    words = ["pipe"] if option == "INPUT" else ["f.tsv", option, "pipe"]
    said = scmap("preprocess", "atac", *words, "--bins", 5000, "--chrom-sizes", "f.tsv", "-o", "o.h5ad", status=2)
    assert "pipe is a pipe" in short(said)


def test_options_may_come_through_a_pipe(scmap):
    os.mkfifo(scmap.folder / "pipe")
    with ThreadPoolExecutor(1) as pool:
        pool.submit((scmap.folder / "pipe").write_text, "[simulate-rna]\nn-cells = 77\n")
        said = scmap("simulate", "rna", "-o", "o.h5ad", "--preset", "tiny", "--config", "pipe", "--dry-run")
    assert "would simulate 77 cells" in said.err


@pytest.fixture
def stage(monkeypatch):
    """Make ``simulate rna`` raise something."""

    def fail_with(error: BaseException) -> None:
        def broken(*args, **kwargs):
            raise error

        monkeypatch.setattr("scmap_cli.stages.simulate.simulate_rna", broken)

    return fail_with


def short(result):
    """The lines of an error: a message and at most one hint."""
    lines = result.err.splitlines()
    assert result.out == ""
    assert 1 <= len(lines) <= 2, result.err
    assert lines[0].startswith("error: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
    return result.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "trian"),
        (["train", "expimpa"], "expimpa"),
        (["simulate", "rna", "--epcohs", "3"], "--epcohs"),
        (["simulate", "rna"], "-o / --output"),
        (["simulate", "rna", "-o"], "-o"),
        (["simulate", "rna", "-o", "x.h5ad", "--preset", "huge"], "huge"),
        (["simulate", "rna", "-o", "x.h5ad", "--n-cells", "many"], "--n-cells"),
        (["simulate", "rna", "-o", "x.h5ad", "--threads", "0"], "--threads"),
        (["simulate", "rna", "-o", "x.h5ad", "--seed", "-1"], "--seed"),
        (["simulate", "rna", "-o", "x.h5ad", "-q", "-v"], "-q"),
        (["simulate", "rna", "-o", "-"], "-o -"),
        (["preprocess", "rna", "-o", "x.h5ad"], "INPUT"),
        (["preprocess", "programs", "sets.gmt", "-o", "x.npz"], "--genes"),
        (["train", "expimap", "x.h5ad", "-o", "m", "--hidden", "8,x"], "--hidden"),
        (["train", "expimap", "x.h5ad", "-o", "m", "--lr", "0"], "lr"),
        (["train", "expimap", "x.h5ad", "-o", "m", "--device", "tpu"], "tpu"),
        (["evaluate", "clustering", "x.h5ad", "--label-key", "t", "-k", "15;30"], "-k"),
        (["info"], "--system"),
        (["info", "x.h5ad", "--system"], "--system"),
        (["info", "x.h5ad", "--require", "X_expimap"], "KIND:KEY"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_2(scmap, words, text):
    assert text in short(scmap(*words, status=2))
    assert scmap.files() == {}


def test_a_misspelt_flag_is_answered_with_the_right_one(scmap):
    assert "--n-cells" in scmap("simulate", "rna", "--n-cell", "3", status=2).err
    assert "train" in scmap("trian", status=2).err


def test_an_existing_output_is_2(scmap):
    (scmap.folder / "out.h5ad").write_text("precious")
    assert "--force" in short(scmap(*SIMULATE, status=2))
    assert (scmap.folder / "out.h5ad").read_text() == "precious"


@pytest.mark.parametrize(
    "words",
    [
        ["preprocess", "rna", "none.h5ad", "-o", "x.h5ad"],
        ["preprocess", "programs", "none.gmt", "-o", "x.npz", "--genes", "none.h5ad"],
        ["train", "expimap", "none.h5ad", "-o", "m"],
        ["embed", "none", "none.h5ad", "-o", "x.h5ad"],
        ["evaluate", "clustering", "none.h5ad", "--label-key", "t"],
        ["info", "none.h5ad"],
        ["simulate", "rna", "-o", "x.h5ad", "--config", "none.toml"],
    ],
    ids=" ".join,
)
def test_an_absent_input_is_3_and_named(scmap, words):
    assert "none" in short(scmap(*words, status=3))
    assert scmap.files() == {}


def test_an_absent_gpu_is_5(scmap, shelf):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words = ("embed", shelf / "model", shelf / "data.h5ad", "-o", "x.h5ad", "--device", "cuda")
    assert "cuda" in short(scmap(*words, status=5))
    assert scmap.files() == {}


def test_running_out_of_memory_is_5(scmap, stage):
    import torch

    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ):
        stage(error)
        assert "--batch-size" in short(scmap(*SIMULATE, status=5))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_write_that_fails_is_6(scmap, stage, number):
    stage(OSError(number, os.strerror(number), "out.h5ad"))
    assert "out.h5ad" in short(scmap(*SIMULATE, status=6))


def test_a_missing_folder_is_6(scmap):
    assert "nowhere" in short(scmap("simulate", "rna", "-o", "nowhere/out.h5ad", status=6))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_stdout_is_6(scmap, shelf):
    for words in (["info", shelf / "data.h5ad"], ["-h"], ["embed", "-h"]):
        with open("/dev/full", "w") as full:
            assert "no space" in scmap.process(*words, status=6, stdout=full).err


def test_a_bug_is_1_with_a_traceback_and_the_bug_last(scmap, stage):
    stage(ZeroDivisionError("division by zero"))
    result = scmap(*SIMULATE, status=1)
    assert result.out == ""
    assert result.err.startswith("Traceback")
    assert "bug in scmap: ZeroDivisionError: division by zero" in result.err.splitlines()[-2]


def test_an_unknown_system_error_is_a_bug(scmap, stage):
    stage(FileNotFoundError(errno.ENOENT, "No such file", "inner.tmp"))
    assert "bug in scmap" in scmap(*SIMULATE, status=1).err


def test_a_traceback_of_a_user_error_comes_with_v_only(scmap):
    assert "Traceback" not in scmap("info", "none", status=3).err
    result = scmap("info", "none", "-v", status=3)
    assert "Traceback" in result.err
    assert "does not exist" in result.err.splitlines()[-1]


def test_an_interrupt_is_130(scmap, stage):
    stage(KeyboardInterrupt())
    assert "interrupted" in short(scmap(*SIMULATE, status=130))


def test_ctrl_c_is_130(scmap):
    program = (
        "import sys, time, types\n"
        "def wait(**options): sys.stderr.write('ready\\n'); sys.stderr.flush(); time.sleep(60)\n"
        "sys.modules['scmap_cli.stages.simulate'] = types.SimpleNamespace(simulate_rna=wait)\n"
        "from scmap_cli.cli.app import main\n"
        "main(['simulate', 'rna', '-o', 'out.h5ad'])\n"
    )
    command = [sys.executable, "-c", program]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell's background job ignores Ctrl-C, and so would all that it starts.
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    options = {"cwd": scmap.folder, "env": scmap.environment(), "text": True, "preexec_fn": heard}
    with subprocess.Popen(command, **options, **streams) as process:
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("words", [["info", "{shelf}/data.h5ad"], ["-h"], ["train", "expimap", "-h"]])
def test_a_reader_that_leaves_is_quiet(scmap, shelf, words):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = scmap.process(*(word.format(shelf=shelf) for word in words), status=141, stdout=writing)
    finally:
        os.close(writing)
    assert result.err == ""


@pytest.mark.parametrize("words", [["info", "none"], ["trian"], ["-h"]])
def test_no_boxes_and_no_colour(scmap, words):
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    for env in ({"NO_COLOR": "1"}, forced):
        result = scmap.process(*words, status=None, env=env)
        text = result.out + result.err
        assert "\x1b" not in text
        assert not any("\u2500" <= character <= "\u257f" for character in text)
