"""How many CPU threads a run uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scmap_cli.errors import UsageError

_ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def available_threads() -> int:
    """``SLURM_CPUS_PER_TASK`` if set and sensible, else the CPUs this process may run on."""
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isascii() and slurm.isdigit() and int(slurm) > 0:
        return int(slurm)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int | None = None) -> int:
    """Tell BLAS, OpenMP, numba and torch (now or when they load) to use ``count`` threads; return the number.

    The environment variables only reach libraries that are imported later, so the terminal calls this before any stage.
    """
    if count is not None and count < 1:
        raise UsageError(f"--threads must be at least 1, not {count}")
    threads = count or available_threads()
    for name in _ENVIRONMENT:
        # A loaded numba reads its variable again at each compilation, and refuses another number than its threads have.
        if not (name == "NUMBA_NUM_THREADS" and "numba" in sys.modules):
            os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    return threads


def current_threads() -> int:
    """How many threads this run is to use: the first number of ``OMP_NUM_THREADS``, else :func:`available_threads`.

    OpenMP also takes one number a nesting level ("4,2"); anything else that a user may have set is passed over.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return (int(first) if first.isascii() and first.isdigit() else 0) or available_threads()


@contextmanager
def threads_of_children(count: int) -> Iterator[None]:
    """Let processes that are started inside use ``count`` threads each; this one's libraries are not told.

    Some of them, such as numba, cannot change their number once they have started.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(dict.fromkeys(_ENVIRONMENT, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
