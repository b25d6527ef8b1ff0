"""HDF5 files from elsewhere: whole, self-contained and small enough for memory, or refused.

HDF5 may point a link or a dataset at any file on disk, and a few bytes may declare terabytes. Both are looked for
before any value is read.
"""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py

from scmap_cli.errors import DeviceError, InputError, ScmapError
from scmap_cli.runtime.memory import available_memory, readable_size

_LOCK_ERRORS = (errno.EAGAIN, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, 524)
REMAKE = "copy or make the file again"


def first_line(error: BaseException) -> str:
    """The first line of a library's message, without its inner details."""
    text = str(error).strip().split("\n", 1)[0]
    return text if len(text) <= 160 else text[:157] + "..."


def system_errno(error: BaseException) -> int | None:
    """The errno that HDF5 only writes into its text."""
    found = re.search(r"(?:errno = |\[Errno )(\d+)", str(error))
    return getattr(error, "errno", None) or (int(found.group(1)) if found else None)


def _open(path: Path) -> h5py.File:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an HDF5 file")
    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except PermissionError as error:
        raise InputError(f"no permission to read {path}") from error
    except OSError as error:
        if system_errno(error) in _LOCK_ERRORS:
            # Network file systems refuse locks, and a reader needs none.
            return h5py.File(path, "r", locking=False)
        text = str(error)
        if "file signature not found" in text:
            raise InputError(f"{path} is not an HDF5 file", "give an .h5ad or a 10x .h5 file") from error
        if "truncated file" in text:
            raise InputError(f"{path} is truncated", REMAKE) from error
        raise InputError(f"{path} cannot be opened: {first_line(error)}", REMAKE) from error


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def walk(root: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every group and dataset of the file by its full name; links that leave the file or bend back are refused."""
    soft: list[tuple[str, h5py.Group, str]] = []
    groups: dict[int, str] = {_address(root): "/"}
    stack: list[tuple[str, h5py.Group]] = [("", root)]
    while stack:
        prefix, group = stack.pop()
        for name in group:
            where = f"{prefix}/{name}"
            try:
                link = group.get(name, getlink=True)
            except TypeError as error:
                raise InputError(f"{path}: {where} is a link of unknown kind", "store the data itself") from error
            if isinstance(link, h5py.ExternalLink):
                raise InputError(f"{path}: {where} is a link to another file", "store the data itself in the file")
            if isinstance(link, h5py.SoftLink):
                soft.append((where, group, name))
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                first = groups.setdefault(_address(item), where)
                if first != where:
                    raise InputError(f"{path}: the group {where} is also {first}", "store each group once")
                stack.append((where, item))
            if isinstance(item, h5py.Group | h5py.Dataset):
                yield where, item
    # No external link is left by now, so a soft link can only end inside the file; one that leads to a group with
    # further soft links could make a reader walk for ever.
    for where, group, name in soft:
        item = group.get(name)
        if item is None:
            raise InputError(f"{path}: the link {where} leads nowhere", "store the data itself in the file")
        if isinstance(item, h5py.Group):
            target = groups[_address(item)].rstrip("/") + "/"
            if any(other.startswith(target) for other, _, _ in soft):
                raise InputError(f"{path}: the link {where} leads to further links", "store the data itself")
        yield where, item


def _check_storage(where: str, dataset: h5py.Dataset, path: Path) -> int:
    """Refuse a dataset whose bytes lie in other files; return its declared size in bytes."""
    if dataset.is_virtual:
        raise InputError(f"{path}: {where} is a virtual dataset over other files", "store the data itself in the file")
    if dataset.id.get_create_plist().get_external_count() > 0:
        raise InputError(f"{path}: {where} keeps its values in another file", "store the data itself in the file")
    return prod(dataset.shape or ()) * dataset.dtype.itemsize if dataset.shape is not None else 0


@contextmanager
def parsing(path: Path | str) -> Iterator[None]:
    """Turn whatever h5py or anndata raise on a corrupt file into an InputError; use it around their calls only.

    Raises
    ------
    InputError
        The block failed with anything but an error of ours.
    DeviceError
        Memory ran out.
    """
    try:
        yield
    except ScmapError:
        raise
    except MemoryError as error:
        raise DeviceError(f"out of memory while reading {path}", "use a machine with more memory") from error
    except Exception as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}", REMAKE) from error


def _declared(handle: h5py.File, path: Path, kept: tuple[str, ...]) -> tuple[int, str, int]:
    """Bytes of all datasets but those kept on disk, and the largest by name and bytes; hostile storage is refused."""
    total, largest, where_largest = 0, 0, ""
    for where, item in walk(handle, path):
        if isinstance(item, h5py.Dataset):
            size = _check_storage(where, item, path)
            if any(where == name or where.startswith(name + "/") for name in kept):
                continue
            total += size
            if size > largest:
                largest, where_largest = size, where
    return total, where_largest, largest


@contextmanager
def open_h5(path: Path | str, *, on_disk: Iterable[str] = ()) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading once it is known to be whole, self-contained and small enough for memory.

    Parameters
    ----------
    path
        The file.
    on_disk
        Names of groups or datasets (such as ``/X``) that will not be read whole; their size is not held against memory.

    Raises
    ------
    InputError
        The file is absent, truncated or not HDF5, holds external or dangling links, external or virtual storage, or
        declares more bytes than there is memory; also when reading fails inside the block.
    """
    path = Path(path)
    kept = tuple(name.rstrip("/") for name in on_disk)
    try:
        with _open(path) as handle:
            with parsing(path):
                total, name, largest = _declared(handle, path, kept)
            free = available_memory()
            if total > free:
                raise InputError(
                    f"{path} declares {readable_size(total)} ({name} alone {readable_size(largest)}), "
                    f"but {readable_size(free)} of memory are available",
                    "split the file, or use a machine with more memory",
                )
            yield handle
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}", REMAKE) from error


class _Sink(io.FileIO):
    """A file that remembers its first failed write and then takes everything, so that HDF5 can close in peace.

    HDF5 crashes the process when it is closed after a write was refused (disk full, quota, file size limit).
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self.failure is None:
            try:
                rest = memoryview(data).cast("B")
                while len(rest):
                    rest = rest[super().write(rest) :]
            except OSError as error:
                self.failure = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        if self.failure is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.failure = error
        return size or 0


@contextmanager
def new_h5(path: Path, reserved: int = 0) -> Iterator[h5py.File]:
    """Open a new HDF5 file for writing; a refused write raises its own OSError when the block ends.

    Parameters
    ----------
    path
        The file.
    reserved
        Bytes that are left free before what HDF5 writes: 0, 512, or a larger power of two.

    Raises
    ------
    OSError
        The disk is full or the file may not grow, with the system's errno.
    """
    with _Sink(path, "w+") as sink:
        try:
            with h5py.File(sink, "w", userblock_size=reserved) as handle:
                yield handle
        except Exception:
            # After a refused write h5py and anndata stumble over what they cannot read back, with errors of any class;
            # the refusal is the cause, and is what is raised below.
            if sink.failure is None:
                raise
        if sink.failure is not None:
            raise sink.failure
