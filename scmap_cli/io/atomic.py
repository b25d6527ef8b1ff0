"""Outputs are whole or absent: write beside the target, flush to disk, rename, flush the folder.

A reader never sees half a file, a killed run leaves the old output (or none), and an existing output is only replaced
when ``force`` says so. What a killed run leaves behind is a hidden ``.NAME.tmp-HOST-PID`` sibling, which the next write
of the same output removes: at once when that process is gone from this host, after a day when it ran on another one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scmap_cli.errors import OutputExistsError, UsageError, WriteError

_MARK = ".tmp-"
_OLD, _GONE = ".old", ".gone"
# A process of another host cannot be asked whether it lives; a write that rests for so many seconds is taken for dead.
_ABANDONED = 24 * 3600.0

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FAILED = (
    *(errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
    *(errno.ESTALE, errno.EBUSY, errno.ELOOP),
)

FIGURES = (".png", ".svg", ".pdf", "")
"""Endings of figures; without one it is a PNG."""


def check_output(path: Path | str, force: bool = False) -> None:
    """Fail before any work is done: the target exists without ``force``, or its folder cannot be written to.

    Raises
    ------
    OutputExistsError
        The target exists and ``force`` is false (exit code 2).
    WriteError
        The folder is missing or not writable, or the name is too long (exit code 6).
    """
    path = Path(path)
    if not force and os.path.lexists(path):
        raise OutputExistsError(f"{path} already exists", "give --force to replace it, or choose another name")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise WriteError(f"the folder {parent} does not exist", "make it first, or choose another output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise WriteError(f"no permission to write in {parent}")
    try:
        os.lstat(_name(path))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise WriteError(f"the name {path.name} is too long", "choose a shorter name for the output") from None


def check_outputs(*targets: Path | str | None, figures: Sequence[Path | str | None] = (), force: bool = False) -> None:
    """:func:`check_output` of every output of a run, figures last; None stands for one that is not wanted.

    Raises
    ------
    UsageError
        Two of them are the same file, or a figure has an ending that cannot be drawn.
    OutputExistsError, WriteError
        As :func:`check_output`.
    """
    drawn = [Path(figure) for figure in figures if figure is not None]
    wanted = [*(Path(target) for target in targets if target is not None), *drawn]
    places = [path.absolute() for path in wanted]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise UsageError(f"two outputs have the same name, {wanted[i]}", "choose different names")
    for path in drawn:
        if path.suffix.lower() not in FIGURES:
            raise UsageError(f"{path} cannot be drawn", f"end its name in {', '.join(filter(None, FIGURES))}")
    for path in wanted:
        check_output(path, force)


def text_file(output: Path | str) -> Path | None:
    """The file that a text output goes to; None for ``-``, which the caller prints to stdout."""
    return None if str(output) == "-" else Path(output)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    # Some network file systems cannot fsync a folder; the rename itself is still atomic there.
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    """Delete as far as possible; what stays is found again by the next write."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _discard(old: Path) -> None:
    """Delete a replaced output under another name, so that ``.old`` is whole whenever it is found."""
    gone = old.with_name(old.name.removesuffix(_OLD) + _GONE)
    _remove(gone)
    with suppress(OSError):
        os.rename(old, gone)
        _remove(gone)


def _host() -> str:
    return socket.gethostname().replace("/", "_")


def _name(path: Path) -> Path:
    return path.parent / f".{path.name}{_MARK}{_host()}-{os.getpid()}"


def _leftovers(path: Path) -> Iterator[tuple[Path, str]]:
    """Siblings that killed writes of ``path`` left behind, each with its ending (``.old``, ``.gone`` or none)."""
    start = f".{path.name}{_MARK}"
    for name in sorted(os.listdir(path.parent)):
        host, _, tail = name.removeprefix(start).rpartition("-")
        pid, dot, kind = tail.partition(".")
        if not name.startswith(start) or _MARK in host or not (pid.isascii() and pid.isdigit()):
            continue
        found = path.parent / name
        if host == _host():
            dead = int(pid) == os.getpid() or not _alive(int(pid))
        else:
            # A folder that waits for its successor has no writer; restoring it is right wherever that died.
            dead = (dot + kind == _OLD and not os.path.lexists(path)) or time.time() - _last_change(found) > _ABANDONED
        if dead:
            yield found, dot + kind


def _last_change(path: Path) -> float:
    """Latest modification of a file, or of a folder and all in it."""
    changes = [0.0]
    for one in (path, *path.rglob("*")):
        with suppress(OSError):
            changes.append(one.lstat().st_mtime)
    return max(changes)


def _temporary(path: Path) -> Path:
    """A free name of this process beside ``path``, after what killed runs left was restored or removed."""
    for found, kind in _leftovers(path):
        if kind != _OLD:
            _remove(found)
        elif os.path.lexists(path):
            _discard(found)
        else:
            os.rename(found, path)
    return _name(path)


@contextmanager
def write_errors(path: Path, tmp: Path | None = None) -> Iterator[None]:
    """Turn a failed write into a :class:`WriteError`.

    With ``tmp`` the block is the caller's, who may also read other files: then only errors that a write can have, or
    that name the temporary path, are taken for it.
    """
    try:
        yield
    except OSError as error:
        number, name = error.errno, error.filename
        if number in _FULL:
            raise WriteError(f"no space left while writing {path}", "free some space, or write elsewhere") from error
        if number in _REFUSED:
            raise WriteError(f"no permission to write {path}") from error
        if tmp is None or number in _FAILED or (isinstance(name, str | Path) and str(name).startswith(str(tmp))):
            reason = os.strerror(number) if number else str(error)
            raise WriteError(f"could not write {path}: {reason}") from error
        raise


@contextmanager
def atomic_file(path: Path | str, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; publish it under the target's name when the block ends well.

    A target that is a link is replaced itself; what it points at is left alone.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`check_output`, and :class:`WriteError` when the disk is full or the write is refused.
    """
    path = Path(path)
    check_output(path, force)
    with write_errors(path):
        tmp = _temporary(path)
    check_output(path, force)
    if path.is_dir():
        raise WriteError(f"{path} is a folder, not a file", "choose another output name")
    try:
        with write_errors(path, tmp):
            yield tmp
        with write_errors(path):
            _sync(tmp)
            os.replace(tmp, path)
            _sync_folder(path.absolute().parent)
    finally:
        _remove(tmp)


@contextmanager
def atomic_dir(path: Path | str, force: bool = False) -> Iterator[Path]:
    """As :func:`atomic_file` for a directory: files written into the yielded folder appear together.

    Replacing a directory takes two renames, so a kill between them leaves no output rather than half of one; the old
    directory is then found again and restored by the next write to the same name.
    """
    path = Path(path)
    check_output(path, force)
    with write_errors(path):
        tmp = _temporary(path)
    check_output(path, force)
    old = tmp.with_name(tmp.name + _OLD)
    try:
        with write_errors(path):
            tmp.mkdir()
        with write_errors(path, tmp):
            yield tmp
        with write_errors(path):
            for entry in sorted(tmp.rglob("*")):
                if entry.is_dir():
                    _sync_folder(entry)
                elif entry.is_file():
                    _sync(entry)
            _sync_folder(tmp)
            if os.path.lexists(path):
                os.rename(path, old)
            os.rename(tmp, path)
            _sync_folder(path.absolute().parent)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            # Where this fails too, the next write to the same name restores it.
            with suppress(OSError):
                os.rename(old, path)
        raise
    finally:
        _remove(tmp)
        if os.path.lexists(old) and os.path.lexists(path):
            _discard(old)


def write_text(path: Path | str, text: str, force: bool = False) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path, force) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, force: bool = False) -> None:
    """Write JSON atomically: two-space indent, keys in the order given, no NaN."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", force)
