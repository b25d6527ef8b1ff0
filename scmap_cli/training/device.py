"""Which device a run uses, and what running out of its memory means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scmap_cli.errors import DeviceError, UsageError
from scmap_cli.runtime.logs import log


def resolve_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """``auto`` takes a GPU if there is one and says so; an explicit ``cuda`` without a GPU is an error, never the CPU.

    Raises
    ------
    UsageError
        The name is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    DeviceError
        The GPU asked for is not there.
    """
    if name == "auto":
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        log.debug("device: %s", device)
        return device
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise UsageError(f"unknown device {name!r}", "choose auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if number else local_rank
    if index >= found:
        raise DeviceError(f"device {name} was asked for, but {found} GPUs are visible", "use --device cpu or auto")
    return torch.device("cuda", index)


@contextmanager
def memory_errors(flag: str) -> Iterator[None]:
    """Turn running out of memory into a :class:`DeviceError` that names the flag to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"the GPU ran out of memory: {str(error).splitlines()[0]}", f"lower {flag}") from error
    except MemoryError as error:
        raise DeviceError("this machine ran out of memory", f"lower {flag}, or give the job more memory") from error
