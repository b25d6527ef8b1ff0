"""Outputs are whole or absent: write beside the target, flush to disk, rename, flush the folder.

A reader never sees half a file, a killed run leaves the old output (or none), and an existing output is only replaced
when ``force`` says so. What a killed run leaves behind is a hidden ``.NAME.tmp-*`` sibling, which the next write of the
same output removes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scmap_cli.errors import OutputExistsError, WriteError

_MARK = ".tmp-"


def check_output(path: Path | str, force: bool = False) -> None:
    """Fail before any work is done: the target exists without ``force``, or its folder cannot be written to.

    Raises
    ------
    OutputExistsError
        The target exists and ``force`` is false (exit code 2).
    WriteError
        The folder is missing or not writable (exit code 6).
    """
    path = Path(path)
    if not force and os.path.lexists(path):
        raise OutputExistsError(f"{path} already exists", "give --force to replace it, or choose another name")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise WriteError(f"the folder {parent} does not exist", "make it first, or choose another output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise WriteError(f"no permission to write in {parent}")


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
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name of this process beside ``path``; leftovers of dead processes of this host are removed."""
    host = socket.gethostname().replace("/", "_")
    for stale in path.parent.glob(f".{_escape(path.name)}{_MARK}{_escape(host)}-*"):
        pid, _, kind = stale.name.rsplit("-", 1)[1].partition(".")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if kind == "old" and not os.path.lexists(path):
            os.rename(stale, path)
        else:
            _remove(stale)
    return path.parent / f".{path.name}{_MARK}{host}-{os.getpid()}"


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


@contextmanager
def _as_write_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WriteError(f"no space left while writing {path}", "free some space, or write elsewhere") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WriteError(f"no permission to write {path}") from error
        if error.errno in (errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
            raise WriteError(f"could not write {path}: {os.strerror(error.errno)}") from error
        raise


@contextmanager
def atomic_file(path: Path | str, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; publish it under the target's name when the block ends well.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`check_output`, and :class:`WriteError` when the disk is full or the write is refused.
    """
    path = Path(path)
    check_output(path, force)
    if path.is_dir():
        raise WriteError(f"{path} is a folder, not a file", "choose another output name")
    with _as_write_error(path):
        tmp = _temporary(path)
        try:
            yield tmp
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
    with _as_write_error(path):
        tmp = _temporary(path)
        check_output(path, force)
        old = tmp.with_name(tmp.name + ".old")
        _remove(tmp)
        tmp.mkdir()
        try:
            yield tmp
            for file in sorted(tmp.rglob("*")):
                if file.is_file():
                    _sync(file)
            _sync_folder(tmp)
            if path.exists():
                os.rename(path, old)
            os.rename(tmp, path)
            _sync_folder(path.absolute().parent)
        except BaseException:
            if old.exists() and not path.exists():
                os.rename(old, path)
            raise
        finally:
            _remove(tmp)
            if path.exists():
                _remove(old)


def write_text(path: Path | str, text: str, force: bool = False) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path, force) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, force: bool = False) -> None:
    """Write JSON atomically: two-space indent, keys in the order given, no NaN."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", force)
