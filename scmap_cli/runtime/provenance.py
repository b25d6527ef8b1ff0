"""What was run, on which input, with which seed: one record in the output, machine facts in a file beside it.

The record (verb, version, parameters, input digests, seed) holds nothing that changes between two equal runs, so that
equal runs give equal bytes. Wall time, host and peak memory go to ``<output>.run.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scmap_cli import __version__
from scmap_cli.errors import InputError
from scmap_cli.io.atomic import write_json
from scmap_cli.keys import HISTORY, WITHHELD_RECORD


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file, or of the names and digests of a directory's files (checkpoints and hidden files left out).

    Raises
    ------
    InputError
        There is no such file, or it cannot be read.
    """
    path = Path(path)
    try:
        return _digest(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", "check the name of the input") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _digest(path: Path) -> str:
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            inner = file.relative_to(path)
            if inner.parts[0] == "checkpoints" or inner.name.startswith(".") or inner.name.endswith(".run.json"):
                continue
            total.update(f"{inner.as_posix()}\0{_digest(file)}\n".encode())
        return f"sha256:{total.hexdigest()}"
    with path.open("rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def read_history(uns: MutableMapping[str, Any]) -> list[dict[str, Any]]:
    """The records in ``uns["scmap_history"]``; an absent or foreign value is an empty list."""
    try:
        records = json.loads(str(uns.get(HISTORY, "[]")))
    except (ValueError, RecursionError):
        return []
    return records if isinstance(records, list) else []


def read_withheld(uns: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``uns["scmap_withheld"]`` says of the entries that were hidden from a file; None where it says nothing."""
    try:
        found = json.loads(str(uns.get(WITHHELD_RECORD, "null")))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Run:
    """The record of one run; see :func:`run`."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.notes: dict[str, Any] = {}

    def stamp(self, uns: MutableMapping[str, Any]) -> None:
        """Append the record to the history in ``uns``."""
        uns[HISTORY] = json.dumps([*read_history(uns), self.record], sort_keys=True, ensure_ascii=False)

    def note(self, **facts: Any) -> None:
        """Add machine facts (JSON values) to ``<output>.run.json``."""
        self.notes.update(facts)


def _peak_memory() -> int:
    """Largest resident memory of this process in bytes."""
    try:
        # On Linux the kernel's own figure; that of getrusage starts at the size of whoever launched this process.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _threads() -> int | None:
    # OpenMP also takes one number a nesting level ("4,2"), and whatever the user has set must not cost a finished run.
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return (int(first) or None) if first.isascii() and first.isdigit() else None


def run_json_path(output: Path | str) -> Path:
    """Where the machine facts of an output are written."""
    output = Path(output)
    return output.with_name(output.name + ".run.json")


@contextmanager
def run(
    verb: str,
    *,
    inputs: Sequence[Path | str],
    output: Path | str | None,
    parameters: dict[str, Any],
    seed: int | None = None,
) -> Iterator[Run]:
    """Record a run of ``verb``; on a clean end write ``<output>.run.json``.

    Parameters
    ----------
    verb
        The command's words, such as ``preprocess rna``.
    inputs
        Files or directories read; each is digested.
    output
        What the run writes, or None when it goes to stdout (then no file is written beside it).
    parameters
        JSON values of every option that shapes the result.
    seed
        The run's seed, None where nothing is random.
    """
    started = time.time()
    clock = time.perf_counter()
    record = {
        "verb": verb,
        "version": __version__,
        "parameters": parameters,
        "inputs": [{"name": Path(path).name, "digest": file_digest(path)} for path in inputs],
        "seed": seed,
    }
    current = Run(record)
    yield current
    if output is None:
        return
    machine = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.perf_counter() - clock, 3),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": _threads(),
        "peak_memory_bytes": _peak_memory(),
    }
    write_json(run_json_path(output), {"record": record, "machine": machine | current.notes}, force=True)
