"""Available memory is a plausible number, and sizes are readable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scmap_cli.runtime import memory
from scmap_cli.runtime.memory import available_memory, readable_size


def test_available_memory_is_more_than_nothing_and_less_than_a_petabyte() -> None:
    assert 1 << 20 < available_memory() <= 1 << 60


def test_a_control_group_limit_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, tmp_path / "memory"):
        folder.mkdir(exist_ok=True)
        for name, value in (("max", 5000), ("limit_in_bytes", 5000), ("current", 3000), ("usage_in_bytes", 3000)):
            (folder / f"memory.{name}").write_text(f"{value}\n")
        (folder / "memory.stat").write_text("anon 100\ninactive_file 500\ntotal_inactive_file 500\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert available_memory() == 2500


@pytest.mark.parametrize(
    ("size", "text"), [(10, "10 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (1 << 53, "8192.0 TiB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable_size(size) == text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_is_taken_again_without_page_faults() -> None:
    # A process of its own, because the setting stays.
    lines = (
        "import resource, numpy as np",
        "from scmap_cli.runtime.memory import keep_freed_memory",
        "told = keep_freed_memory()",
        "def faults():",
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt",
        "    for _ in range(10): np.ones(1 << 20), np.ones(1 << 23)",
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before",
        "faults()",
        "print(int(told), faults())",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    told, faults = map(int, done.stdout.split())
    if not told:
        pytest.skip("this C library cannot be told")
    assert faults < 2000  # of the 10 x (2,048 + 16,384) pages
