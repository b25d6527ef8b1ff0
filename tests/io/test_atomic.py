"""Writes are whole or absent: every step of a write fails, or ends the process, once; the old output stays."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scmap_cli.errors import OutputExistsError, UsageError, WriteError
from scmap_cli.io import atomic
from scmap_cli.io.atomic import (
    FIGURES,
    atomic_dir,
    atomic_file,
    check_output,
    check_outputs,
    text_file,
    write_json,
    write_text,
)

OLD, NEW = b"old content\n", b"new content, longer than the old one\n"
STEPS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
CRASHED = 77
# More than any write below takes; the last number of a sweep must not be reached.
MOST = 60


def put(path: Path, content: bytes) -> None:
    """Write by the system's own calls, so that a fault can hit each."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for start in range(0, len(content), 16):
            os.write(handle, content[start : start + 16])
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes = NEW) -> None:
    with atomic_file(path, force=True) as tmp:
        put(tmp, content)


def write_dir(path: Path, content: bytes = NEW) -> None:
    with atomic_dir(path, force=True) as tmp:
        put(tmp / "a", content)
        (tmp / "deep").mkdir()
        put(tmp / "deep" / "b", content)


def contents(path: Path) -> dict[str, bytes] | bytes | None:
    if not os.path.lexists(path):
        return None
    if path.is_dir():
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return path.read_bytes()


def hidden(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


@contextmanager
def faults(number: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Call ``act`` instead of the ``number``-th step of a write; yields the names of the steps taken."""
    taken: list[str] = []
    real = {name: getattr(os, name) for name in STEPS}

    def fault(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            taken.append(name)
            if len(taken) == number:
                act()
            return real[name](*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, fault(name))
    try:
        yield taken
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def raising(number: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


@pytest.fixture(params=["file", "directory"])
def write(request: pytest.FixtureRequest) -> Callable[..., None]:
    return {"file": write_file, "directory": write_dir}[request.param]


@pytest.fixture(params=["no old output", "an old output"])
def target(request: pytest.FixtureRequest, write: Callable[..., None], tmp_path: Path) -> Path:
    path = tmp_path / "out"
    if request.param == "an old output":
        write(path, OLD)
    return path


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a forked child that does ``work``."""
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            work()
        except BaseException:  # noqa: BLE001 - a child of a test must never return into it
            status = 1
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES", "EIO", "ESTALE", "EDQUOT"])
def test_every_failing_step_leaves_old_or_new_whole(
    write: Callable[..., None], target: Path, tmp_path: Path, code: str
) -> None:
    write(tmp_path / "wanted")
    wanted, before = contents(tmp_path / "wanted"), contents(target)
    failed = published = 0
    for number in range(1, MOST):
        error = None
        with faults(number, raising(getattr(errno, code))) as taken:
            try:
                write(target)
            except WriteError as caught:
                error = caught
        if len(taken) < number:
            break
        after = contents(target)
        if error is None:
            # Only the cleaning up after the new output is in place may fail without a word.
            assert taken[number - 1] in ("unlink", "rmdir", "open", "rename")
            assert after == wanted
        else:
            failed += 1
            assert error.exit_code == 6
            assert str(target) in str(error)
            assert after in (before, wanted), (number, taken)
            published += after == wanted
        write(target)
        assert contents(target) == wanted
        assert hidden(tmp_path) == [], (number, taken)
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        if before is not None:
            write(target, OLD)
    else:
        pytest.fail("the sweep did not reach the end of the write")
    assert failed >= 6
    assert published <= 2, "only the flush of the folder can fail once the new output is in place"


def test_a_crash_at_every_step_leaves_old_new_or_what_the_next_write_restores(
    write: Callable[..., None], target: Path, tmp_path: Path
) -> None:
    write(tmp_path / "wanted")
    wanted, before = contents(tmp_path / "wanted"), contents(target)
    absent = crashes = 0
    for number in range(1, MOST):

        def work(number: int = number) -> None:
            with faults(number, lambda: os._exit(CRASHED)):
                write(target)

        status = in_child(work)
        if status == 0:
            break
        assert status == CRASHED
        crashes += 1
        after = contents(target)
        if before is not None and after is None:
            absent += 1
            # A write that does not end well and has no --force: the old directory is back.
            with pytest.raises(OutputExistsError), atomic_dir(target):
                pytest.fail("the block must not be entered")
            assert contents(target) == before
        else:
            assert after in (before, wanted)
        write(target)
        assert contents(target) == wanted
        assert hidden(tmp_path) == []
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        if before is not None:
            write(target, OLD)
    else:
        pytest.fail("the sweep did not reach the end of the write")
    assert crashes >= 6
    assert absent == (1 if write is write_dir and before is not None else 0), "one step alone lies between two renames"


def test_a_kill_in_the_block_is_cleaned_up_by_the_next_write(
    write: Callable[..., None], target: Path, tmp_path: Path
) -> None:
    before = contents(target)

    def work() -> None:
        manager = atomic_file if write is write_file else atomic_dir
        with manager(target, force=True) as tmp:
            put(tmp / "part" if tmp.is_dir() else tmp, NEW)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert contents(target) == before
    assert len(hidden(tmp_path)) == 1
    write(target)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_passes_and_leaves_nothing(
    write: Callable[..., None], target: Path, tmp_path: Path, kind: type[BaseException]
) -> None:
    before = contents(target)
    manager = atomic_file if write is write_file else atomic_dir

    def work() -> None:
        with manager(target, force=True) as tmp:
            put(tmp / "part" if tmp.is_dir() else tmp, NEW)
            raise kind

    with pytest.raises(kind):
        work()
    assert contents(target) == before
    assert hidden(tmp_path) == []


def test_a_file_size_limit_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    results = tmp_path / "results"
    results.mkdir()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(tmp_path / "a", "x" * 5000, force=True)
        except WriteError as error:
            (results / "message").write_text(str(error))

    assert in_child(work) == 0
    assert "could not write" in (results / "message").read_text()
    assert (tmp_path / "a").read_bytes() == OLD
    assert hidden(tmp_path) == []


def test_errors_of_other_files_in_the_block_are_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(BrokenPipeError), atomic_file(tmp_path / "a"):
        raise BrokenPipeError(errno.EPIPE, "the reader of stdout went away")


def test_a_folder_that_vanishes_is_a_write_error(write: Callable[..., None], tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()

    def work() -> None:
        manager = atomic_file if write is write_file else atomic_dir
        with manager(folder / "a") as tmp:
            shutil.rmtree(folder)
            put(tmp / "part" if write is write_dir else tmp, NEW)

    with pytest.raises(WriteError, match="could not write"):
        work()


def test_an_existing_output_needs_force(write: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path / "a", OLD)
    before = contents(tmp_path / "a")
    for manager in (atomic_file, atomic_dir):
        with pytest.raises(OutputExistsError) as caught, manager(tmp_path / "a"):
            pytest.fail("the block must not be entered")
        assert caught.value.exit_code == 2
        assert "--force" in str(caught.value.hint)
    assert contents(tmp_path / "a") == before
    write(tmp_path / "a", NEW)
    assert contents(tmp_path / "a") != before


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    write_dir(tmp_path / "a", OLD)
    with pytest.raises(WriteError, match="is a folder"):
        write_file(tmp_path / "a")
    assert contents(tmp_path / "a") == {"a": OLD, "deep/b": OLD}


@pytest.mark.parametrize("path", [".", ".."])
def test_the_folder_itself_is_no_output(
    path: str, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "f"
    inside.mkdir()
    (inside / "mine").write_bytes(OLD)
    monkeypatch.chdir(inside)
    with pytest.raises(WriteError):
        write(Path(path))
    assert contents(tmp_path) == {"f/mine": OLD}


def test_targets_are_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="does not exist"):
        check_output(tmp_path / "no" / "a")
    with pytest.raises(WriteError, match="does not exist"):
        check_output(tmp_path / "no" / "a", force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        check_output(tmp_path / "file" / "a")
    with pytest.raises(WriteError, match="too long"):
        check_output(tmp_path / ("x" * 250))
    check_output(tmp_path / ("x" * 150))


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mode bits do not bind the superuser, who may be the one that runs the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(WriteError, match="no permission") as caught:
        check_output(tmp_path / "a")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_replaced_and_its_goal_left_alone(write: Callable[..., None], tmp_path: Path, dangling: bool) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    inside.mkdir()
    if not dangling:
        write(outside, OLD)
    (inside / "link").symlink_to(outside)
    before = contents(outside)
    with pytest.raises(OutputExistsError):
        check_output(inside / "link")
    if write is write_file and outside.is_dir():
        with pytest.raises(WriteError, match="is a folder"):
            write(inside / "link")
    else:
        write(inside / "link")
        assert not (inside / "link").is_symlink()
    assert contents(outside) == before
    assert hidden(inside) == []


def test_a_link_planted_under_the_temporary_name_is_not_followed(write: Callable[..., None], tmp_path: Path) -> None:
    inside, victim = tmp_path / "in", tmp_path / "victim"
    inside.mkdir()
    write(victim, OLD)
    before = contents(victim)
    (inside / f".out.tmp-{socket.gethostname()}-{os.getpid()}").symlink_to(victim)
    write(inside / "out")
    assert contents(victim) == before
    assert not (inside / "out").is_symlink()


@pytest.mark.parametrize("name", ["a*", "a?", "[ab]", "**", "-f", "a b", "é", "a\nb", ".hidden", "a.tmp-1", "x" * 150])
def test_strange_names_are_names(write: Callable[..., None], tmp_path: Path, name: str) -> None:
    bystanders = ["ab", "a1", "b", ".ab.tmp-x", f".ab.tmp-{socket.gethostname()}-999999999"]
    for bystander in bystanders:
        (tmp_path / bystander).write_bytes(OLD)
    stale = tmp_path / f".{name}.tmp-{socket.gethostname()}-999999999"
    stale.write_bytes(OLD)
    write(tmp_path / name)
    assert not stale.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([*bystanders, name])


def test_leftovers_of_living_processes_and_other_hosts_stay_until_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = tmp_path / f".out.tmp-{socket.gethostname()}-{os.getppid()}"
    fresh, rested = tmp_path / ".out.tmp-other-host-12", tmp_path / ".out.tmp-other-host-13"
    for folder in (living, fresh, rested):
        folder.mkdir()
        (folder / "part").write_bytes(OLD)
    for one in (rested / "part", rested):
        os.utime(one, (1, 1))
    write_dir(tmp_path / "out")
    assert living.exists()
    assert fresh.exists()
    assert not rested.exists()


def test_an_old_directory_that_another_host_left_between_two_renames_is_restored(tmp_path: Path) -> None:
    write_dir(tmp_path / "out", OLD)
    before = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.tmp-other-host-12.old")
    with pytest.raises(OutputExistsError), atomic_dir(tmp_path / "out"):
        pytest.fail("the block must not be entered")
    assert contents(tmp_path / "out") == before


def test_a_half_deleted_old_directory_is_never_restored(tmp_path: Path) -> None:
    """A kill while the replaced directory is deleted; then the user moves the new one away and writes again."""
    for number in range(1, MOST):
        write_dir(tmp_path / "out", OLD)

        def work(number: int = number) -> None:
            with faults(number, lambda: os._exit(CRASHED)):
                write_dir(tmp_path / "out")

        if in_child(work) == 0:
            break
        if contents(tmp_path / "out") == {"a": NEW, "deep/b": NEW}:
            shutil.rmtree(tmp_path / "out")
        with pytest.raises(KeyboardInterrupt), atomic_dir(tmp_path / "out", force=True):
            raise KeyboardInterrupt
        assert contents(tmp_path / "out") in (None, {"a": OLD, "deep/b": OLD})
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
        assert hidden(tmp_path) == []
    else:
        pytest.fail("the sweep did not reach the end of the write")


def test_json_is_stable_and_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    assert (tmp_path / "a").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "n", {"a": float("nan")})
    assert not (tmp_path / "n").exists()


def test_folders_are_flushed_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(atomic, "_sync", flushed.append)
    with atomic_dir(tmp_path / "out") as tmp:
        (tmp / "deep").mkdir()
        (tmp / "deep" / "b").write_bytes(NEW)
    assert flushed == [tmp / "deep", tmp / "deep" / "b", tmp, tmp_path]
    refused = OSError(errno.EINVAL, "no such thing on this file system")

    def refuse(path: Path) -> None:
        if path.is_dir():
            raise refused

    monkeypatch.setattr(atomic, "_sync", refuse)
    write_file(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == NEW


def test_outputs_of_a_run_are_checked_together(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    check_outputs(None, tmp_path / "a", str(tmp_path / "b"))
    check_outputs(tmp_path / "there", None, force=True)
    with pytest.raises(OutputExistsError, match="there already exists"):
        check_outputs(tmp_path / "a", tmp_path / "there")
    with pytest.raises(UsageError, match="two outputs have the same name"):
        check_outputs(tmp_path / "a", None, str(tmp_path / "a"), force=True)
    with pytest.raises(UsageError, match="same name"):
        check_outputs(tmp_path / "a", figures=[None, tmp_path / "a"])
    assert text_file("-") is None
    assert text_file("a.json") == Path("a.json")


def test_figures_have_endings_that_can_be_drawn(tmp_path: Path) -> None:
    check_outputs(None, figures=[None, *(tmp_path / f"a{ending}" for ending in FIGURES), tmp_path / "a.PNG"])
    with pytest.raises(UsageError, match=r"a\.xyz cannot be drawn") as caught:
        check_outputs(figures=[tmp_path / "a.png", tmp_path / "a.xyz"])
    assert caught.value.hint == "end its name in .png, .svg, .pdf"
