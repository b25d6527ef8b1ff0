"""Memory that this process may still take, and memory that it frees and takes again all the time."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
# Kernels without a limit report a page-rounded 2**63 here.
_NO_LIMIT = 1 << 60


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


def _cgroup_free() -> list[int]:
    """Bytes left under each memory limit of this process's control groups (versions 1 and 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    free: list[int] = []
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers == "memory":
            base, limit_name, used_name = _CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif controllers == "":
            base, limit_name, used_name = _CGROUP, "memory.max", "memory.current"
        else:
            continue
        # Inside a container the path of the host does not exist and the root of the mount is the own group.
        for folder in (base / inner.lstrip("/"), base):
            limit = _number(folder / limit_name)
            if limit is not None and limit < _NO_LIMIT:
                free.append(max(limit - (_number(folder / used_name) or 0) + _page_cache(folder), 0))
    return free


def _page_cache(folder: Path) -> int:
    """File pages counted as used that the kernel gives back on demand."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    stats = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(stats.get("total_inactive_file", stats.get("inactive_file", "0")))


def available_memory() -> int:
    """Bytes this process may still take: the machine's available memory, or less under a control group's limit."""
    candidates = _cgroup_free()
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                candidates.append(int(line.split()[1]) * 1024)
    except OSError:
        candidates.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(candidates) if candidates else _NO_LIMIT


def readable_size(size: int) -> str:
    """A byte count for people, such as ``1.5 GiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next request; returns whether it could be told (elsewhere it cannot).

    By default it hands every block of more than 128 KiB, and always one of more than 32 MiB, back to the system and
    asks for it again in the next training step, which then waits for thousands of page faults. So nothing is mapped
    block by block any more, and the heap is not cut.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, (1 << 31) - 1))
