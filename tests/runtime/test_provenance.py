"""The record of a run depends on the run alone; machine facts go beside the output, and only when it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scmap_cli import __version__
from scmap_cli.errors import InputError
from scmap_cli.keys import HISTORY
from scmap_cli.runtime import provenance
from scmap_cli.runtime.provenance import file_digest, read_history, run, run_json_path

ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "data.h5ad"
    path.write_bytes(b"abc")
    return path


def record_of(source: Path, output: Path | None, **changes: object) -> dict[str, object]:
    options = {"parameters": {"epochs": 3}, "seed": 1} | changes
    with run("train x", inputs=[source], output=output, **options) as current:  # type: ignore[arg-type]
        return current.record


def test_the_record_says_what_was_run(source: Path) -> None:
    assert record_of(source, None) == {
        "verb": "train x",
        "version": __version__,
        "parameters": {"epochs": 3},
        "inputs": [{"name": "data.h5ad", "digest": ABC}],
        "seed": 1,
    }


def test_the_same_run_elsewhere_and_later_has_the_same_record(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = record_of(source, tmp_path / "a")
    other = tmp_path / "other"
    other.mkdir()
    copy = other / "data.h5ad"
    copy.write_bytes(source.read_bytes())
    monkeypatch.chdir(other)
    monkeypatch.setattr(provenance.time, "time", lambda: 0.0)
    assert record_of(Path("data.h5ad"), other / "b") == first
    assert record_of(source, None, seed=2) != first
    copy.write_bytes(b"abd")
    assert record_of(copy, None) != first


def test_records_are_appended_to_the_history(source: Path) -> None:
    uns: dict[str, object] = {}
    for verb in ("one", "two"):
        with run(verb, inputs=[source], output=None, parameters={"name": "é"}) as current:
            current.stamp(uns)
    assert isinstance(uns[HISTORY], str)
    assert [one["verb"] for one in json.loads(uns[HISTORY])] == ["one", "two"]
    assert read_history(uns) == json.loads(uns[HISTORY])
    again: dict[str, object] = {}
    for verb in ("one", "two"):
        with run(verb, inputs=[source], output=None, parameters={"name": "é"}) as current:
            current.stamp(again)
    assert again == uns


@pytest.mark.parametrize("foreign", ["", "not json", "{}", "3", None, b"[]", "[" * 100_000])
def test_a_foreign_history_counts_as_none(source: Path, foreign: object) -> None:
    uns = {HISTORY: foreign}
    assert read_history(uns) == []
    with run("x", inputs=[source], output=None, parameters={}) as current:
        current.stamp(uns)
    assert len(read_history(uns)) == 1


def test_machine_facts_are_written_beside_the_output(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5ad"
    with run("x", inputs=[source], output=output, parameters={}, seed=0) as current:
        current.note(device="cpu")
        assert not run_json_path(output).exists()
    written = json.loads(run_json_path(output).read_text())
    assert run_json_path(output).name == "out.h5ad.run.json"
    assert written["record"] == current.record
    assert written["machine"].keys() >= {"started", "seconds", "host", "threads", "peak_memory_bytes", "device"}
    assert written["machine"]["peak_memory_bytes"] > 1 << 20


@pytest.mark.parametrize("kind", [ValueError, InputError, KeyboardInterrupt, SystemExit])
def test_a_failed_run_leaves_the_facts_of_the_last_good_one(
    source: Path, tmp_path: Path, kind: type[BaseException]
) -> None:
    output = tmp_path / "out"

    def fail() -> None:
        with run("x", inputs=[source], output=output, parameters={}):
            raise kind("no")

    with pytest.raises(kind):
        fail()
    assert not run_json_path(output).exists()
    record_of(source, output)
    before = run_json_path(output).read_bytes()
    with pytest.raises(kind):
        fail()
    assert run_json_path(output).read_bytes() == before
    record_of(source, output, seed=9)
    assert json.loads(run_json_path(output).read_text())["record"]["seed"] == 9


def test_output_on_stdout_leaves_no_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record_of(source, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("setting", "threads"),
    [("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("many", None), ("-1", None), ("²", None)],
)
def test_any_thread_setting_can_be_recorded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    record_of(source, tmp_path / "out")
    assert json.loads(run_json_path(tmp_path / "out").read_text())["machine"]["threads"] == threads


def test_the_digest_of_a_folder_is_that_of_its_lasting_files(tmp_path: Path) -> None:
    def fill(folder: Path) -> Path:
        (folder / "deep").mkdir(parents=True)
        (folder / "b").write_bytes(b"1")
        (folder / "deep" / "a").write_bytes(b"2")
        return folder

    one, two = fill(tmp_path / "one"), fill(tmp_path / "two")
    digest = file_digest(one)
    (two / "checkpoints").mkdir()
    (two / "checkpoints" / "last.safetensors").write_bytes(b"3")
    (two / ".hidden").write_bytes(b"4")
    (two / "x.run.json").write_bytes(b"5")
    assert file_digest(two) == digest
    (two / "b").write_bytes(b"x")
    assert file_digest(two) != digest
    (two / "b").write_bytes(b"1")
    (two / "deep" / "a").rename(two / "deep" / "c")
    assert file_digest(two) != digest


def test_an_input_that_cannot_be_read_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(InputError, match=r"nope\.h5ad does not exist") as caught,
        run("x", inputs=[tmp_path / "nope.h5ad"], output=None, parameters={}),
    ):
        pytest.fail("the run must not begin")
    assert caught.value.exit_code == 3

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(provenance, "_digest", refuse)
    with pytest.raises(InputError, match=r"cannot read .*: Permission denied"):
        file_digest(tmp_path / "a")
