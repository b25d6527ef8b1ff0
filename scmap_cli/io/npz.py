"""npz files: plain arrays, unicode names, one JSON header; equal content gives equal bytes.

An npz is a zip of ``.npy`` members. The reader trusts nothing in it: the sizes in the zip directory and in each array's
own header are compared with each other and with the memory at hand before anything is unpacked, and no member is ever
unpickled.
"""

from __future__ import annotations

import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.io.atomic import atomic_file
from scmap_cli.runtime.memory import available_memory

SCHEMA_VERSION = 1
"""Version of the npz layout; raised when an old reader could misread a new file."""

_HEADER = "header"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_KINDS = "biufcU"
_MAX_MEMBERS = 4096
_MAX_HEADER_TEXT = 16 << 20
# Deflate cannot exceed about 1032:1, so small files are harmless whatever they unpack to; large ones must not be bombs.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 64 << 20
_CHUNK = 1 << 24

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
)


def _plain(name: str, array: Any) -> np.ndarray:
    """The array in C order, little endian, without objects; lists and object arrays of strings become unicode."""
    array = np.asarray(array)
    if array.dtype.kind == "T" or (array.dtype == object and all(isinstance(item, str) for item in array.flat)):
        array = array.astype(str)
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"array {name!r} has dtype {array.dtype}, which an npz of ours cannot hold")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def write_npz(path: Path | str, arrays: Mapping[str, Any], header: Mapping[str, Any], force: bool = False) -> None:
    """Write arrays and a header atomically.

    Parameters
    ----------
    path
        Output file.
    arrays
        Numeric, boolean or unicode arrays by name; the name ``header`` is taken.
    header
        JSON values. It must say its ``kind`` (``programs``, ``embedding``, ...); ``schema_version`` is added.
    force
        Replace an existing file.

    Raises
    ------
    TypeError, ValueError
        An array of objects, a bad name, or a header without ``kind``: mistakes of the calling code.
    OutputExistsError, WriteError
        As :func:`scmap_cli.io.atomic.atomic_file`.
    """
    with atomic_file(path, force) as tmp:
        _write_archive(tmp, arrays, header)


def _write_archive(path: Path, arrays: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    if "kind" not in header:
        raise ValueError("the header of an npz must say its kind")
    if _HEADER in arrays or not all(name.isidentifier() for name in arrays):
        raise ValueError("array names must be identifiers other than 'header'")
    text = json.dumps({"schema_version": SCHEMA_VERSION, **header}, sort_keys=True, allow_nan=False)
    members = {_HEADER: np.array(text)} | {name: _plain(name, arrays[name]) for name in sorted(arrays)}
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in members.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            # Floating-point values hardly shrink and cost minutes at a million cells; names and indices shrink well.
            info.compress_type = zipfile.ZIP_STORED if array.dtype.kind in "fc" else zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=array.nbytes >= 1 << 30) as handle:
                np.lib.format.write_array(handle, array, allow_pickle=False)


def write_npz_rows(
    path: Path | str,
    blocks: Iterable[Any],
    shape: tuple[int, int],
    arrays: Mapping[str, Any],
    header: Mapping[str, Any],
    force: bool = False,
) -> None:
    """As :func:`write_npz`, with a matrix that comes a block of rows at a time.

    Dense float32 blocks become the array ``imputed``, kept in a file beside the temporary one until it is whole. CSR
    blocks become ``data``, ``indices`` and ``indptr``, kept in memory.
    """
    parts: list[Any] = []
    with atomic_file(path, force) as tmp:
        # Called after the temporary file, so that the next write of the output also removes what a killed run left.
        whole = tmp.with_name(f"{tmp.name}.rows")
        try:
            with whole.open("wb") as handle:
                for block in blocks:
                    if isinstance(block, np.ndarray):
                        block.astype("<f4").tofile(handle)
                    else:
                        parts.append(block)
            made = _stacked(parts, shape) if parts else {"imputed": np.memmap(whole, "<f4", "r", shape=shape)}
            _write_archive(tmp, {**arrays, **made}, header)
        finally:
            whole.unlink(missing_ok=True)


def _stacked(parts: Sequence[Any], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Arrays of the CSR matrix that consecutive blocks of rows make."""
    starts = np.cumsum([0, *(part.nnz for part in parts)])
    pointers = [part.indptr[1:].astype(np.int64) + start for part, start in zip(parts, starts[:-1], strict=True)]
    return {
        "data": np.concatenate([part.data for part in parts]),
        "indices": np.concatenate([part.indices for part in parts]),
        "indptr": np.concatenate([np.zeros(1, np.int64), *pointers]),
        "shape": np.array(shape),
    }


def read_npz(
    path: Path | str,
    kind: str | None = None,
    max_bytes: int | None = None,
    *,
    foreign: bool = False,
    leave: str | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read an npz: its header and its arrays by name.

    Parameters
    ----------
    path
        Input file.
    kind
        The kind the header must say; None accepts any.
    max_bytes
        Most bytes the arrays may take; by default the memory available now.
    foreign
        Accept a plain npz that no scmap wrote; its header is then empty.
    leave
        An array that is not read, see :func:`stream_rows`.

    Raises
    ------
    InputError
        The file is missing, cut short, damaged, hostile (objects, declared sizes that do not fit), of another kind, or
        written by a newer scmap.
    """
    path = Path(path)
    with _members(path, max_bytes, leave) as (archive, infos):
        arrays = {name: _read_member(path, archive, info) for name, info in infos.items() if name != leave}
    text = arrays.pop(_HEADER, None)
    if text is None and foreign:
        return {}, arrays
    return _checked_header(path, text, kind), arrays


def array_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays by name, without reading them; raises as :func:`read_npz`."""
    path = Path(path)
    shapes = {}
    with _members(path, None, None, any_size=True) as (archive, infos):
        for name, info in infos.items():
            with archive.open(info) as handle:
                shapes[name] = _read_head(path, name, info, handle)[0]
    return shapes


def stream_rows(path: Path | str, name: str, rows: int) -> Iterator[np.ndarray]:
    """Consecutive blocks of so many rows of a two-dimensional array that need not fit into memory.

    Raises
    ------
    InputError
        As :func:`read_npz`; or the array is not there, not two-dimensional, or stored by columns.
    """
    path = Path(path)
    with _members(path, None, name) as (archive, infos):
        if name not in infos:
            raise InputError(f"{path} has no array {name!r}", f"arrays in it: {', '.join(infos)}")
        with archive.open(infos[name]) as handle:
            shape, fortran, dtype = _read_head(path, name, infos[name], handle)
            if len(shape) != 2 or fortran:
                raise InputError(f"{path}: array {name!r} is not a table stored by rows", "save it in C order")
            for first in range(0, shape[0], rows):
                count = min(rows, shape[0] - first)
                raw = _read_exactly(handle, count * shape[1] * dtype.itemsize, name)
                yield raw.view(dtype).reshape(count, shape[1])
            handle.read(1)


@contextmanager
def _members(
    path: Path, max_bytes: int | None, leave: str | None, any_size: bool = False
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The checked directory of an npz; what is broken in the file, also inside the block, is an InputError."""
    try:
        with path.open("rb") as handle, zipfile.ZipFile(handle) as archive:
            yield archive, _checked_directory(path, archive, handle, max_bytes, leave, any_size)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except _BROKEN as error:
        raise InputError(f"{path} is not a readable npz file ({_reason(error)})", "make the file again") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _checked_directory(
    path: Path,
    archive: zipfile.ZipFile,
    handle: IO[bytes],
    max_bytes: int | None,
    leave: str | None,
    any_size: bool,
) -> dict[str, zipfile.ZipInfo]:
    """Members by array name, after the checks that need nothing unpacked; ``leave`` may be of any size."""
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise InputError(f"{path} holds {len(infos)} arrays, more than the {_MAX_MEMBERS} allowed")
    names: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name == info.filename or "/" in name or name in names:
            raise InputError(f"{path} holds {info.filename!r}, which is not a single plain array")
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{path}: array {name!r} is encrypted or packed in an unknown way")
        names[name] = info
    file_bytes = os.fstat(handle.fileno()).st_size
    if any_size:
        return names
    declared = sum(info.file_size for name, info in names.items() if name != leave)
    limit = available_memory() if max_bytes is None else max_bytes
    if declared > limit:
        raise InputError(
            f"{path} declares {declared:,} bytes of arrays, more than the {limit:,} bytes allowed here",
            "use a machine with more memory, or check where the file comes from",
        )
    if declared > _RATIO_FREE_BYTES and declared > _MAX_RATIO * file_bytes:
        raise InputError(
            f"{path} unpacks to {declared:,} bytes from {file_bytes:,}, which looks like a decompression bomb",
            "check where the file comes from",
        )
    return names


def _read_head(
    path: Path, name: str, info: zipfile.ZipInfo, handle: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an array, once they agree with the size of its member."""
    version = np.lib.format.read_magic(handle)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise InputError(f"{path}: array {name!r} has npy version {version[0]}.{version[1]}, not 1.0 or 2.0")
    shape, fortran, dtype = reader(handle)
    if dtype.hasobject or dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise InputError(
            f"{path}: array {name!r} holds {dtype} values; only numbers and plain text are read",
            "save it again as numbers or unicode text, without pickled objects",
        )
    count = 1
    for length in shape:
        if length < 0:
            raise InputError(f"{path}: array {name!r} declares a negative shape {shape}")
        count *= length
    if count * dtype.itemsize != info.file_size - handle.tell():
        raise InputError(
            f"{path}: array {name!r} declares {count * dtype.itemsize:,} bytes but holds "
            f"{info.file_size - handle.tell():,}",
            "make the file again",
        )
    return shape, fortran, dtype


def _read_exactly(handle: IO[bytes], wanted: int, name: str) -> np.ndarray:
    """So many bytes, (wanted,) uint8."""
    raw = np.empty(wanted, dtype=np.uint8)
    done = 0
    while done < wanted:
        part = handle.read(min(_CHUNK, wanted - done))
        if not part:
            raise EOFError(f"array {name!r} ends after {done:,} of {wanted:,} bytes")
        raw[done : done + len(part)] = np.frombuffer(part, dtype=np.uint8)
        done += len(part)
    return raw


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as handle:
        shape, fortran, dtype = _read_head(path, name, info, handle)
        raw = _read_exactly(handle, info.file_size - handle.tell(), name)
        # One more read reaches the end of the member, where zipfile compares the checksum.
        handle.read(1)
    return raw.view(dtype).reshape(shape, order="F" if fortran else "C")


def _checked_header(path: Path, text: np.ndarray | None, kind: str | None) -> dict[str, Any]:
    foreign = InputError(f"{path} has no scmap header", "give a file written by scmap")
    if text is None or text.dtype.kind != "U" or text.size != 1 or text.nbytes > _MAX_HEADER_TEXT:
        raise foreign
    try:
        header = json.loads(str(text.reshape(())))
    except (ValueError, RecursionError):
        raise foreign from None
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise foreign
    version = header.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{path}: schema_version is {version!r}, not a positive number", "make the file again")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version {version}; this scmap reads up to {SCHEMA_VERSION}",
            "update scmap, or make the file again with this version",
        )
    if kind is not None and header["kind"] != kind:
        raise InputError(f"{path} holds {header['kind']!r}, where {kind!r} is needed")
    return header
