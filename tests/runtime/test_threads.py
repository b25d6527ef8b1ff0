"""Threads: what the scheduler gave, else what this process may use; never more because a variable is odd."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scmap_cli.errors import UsageError
from scmap_cli.runtime.threads import (
    _ENVIRONMENT,
    available_threads,
    current_threads,
    set_threads,
    threads_of_children,
)

VARIABLE = "SLURM_CPUS_PER_TASK"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in _ENVIRONMENT:
        monkeypatch.setenv(name, "1")


def test_the_scheduler_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "7")
    assert available_threads() == 7


@pytest.mark.parametrize("value", ["", "0", "-3", "2.5", "many", "8(x2)", " ", "²", "٣"])
def test_odd_values_fall_back_to_the_cpus_of_this_process(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert available_threads() == 3


def test_without_affinity_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_threads() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_a_process_bound_to_one_cpu_uses_one_thread() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}})\n"
    code += "from scmap_cli.runtime.threads import set_threads; raise SystemExit(set_threads())"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 1


def test_setting_reaches_every_library_that_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        threads = 0

        def set_num_threads(self, count: int) -> None:
            self.threads = count

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    assert set_threads(3) == 3
    assert torch.threads == 3
    assert {os.environ[name] for name in _ENVIRONMENT} == {"3"}
    monkeypatch.setenv(VARIABLE, "5")
    assert set_threads() == torch.threads == 5


def test_a_loaded_numba_keeps_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", object())
    set_threads(3)
    assert os.environ["NUMBA_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("value", "count"), [("3", 3), (" 3", 3), ("4,2", 4), ("", 5), ("x", 5), ("0", 5)])
def test_current_threads_are_those_that_were_set(monkeypatch: pytest.MonkeyPatch, value: str, count: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setenv(VARIABLE, "5")
    assert current_threads() == count


@pytest.mark.parametrize("count", [0, -1])
def test_no_threads_is_a_usage_error(count: int) -> None:
    with pytest.raises(UsageError, match=f"not {count}") as caught:
        set_threads(count)
    assert caught.value.exit_code == 2
    assert {os.environ[name] for name in _ENVIRONMENT} == {"1"}


def test_children_get_their_share_and_this_process_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    before = dict(os.environ)
    with threads_of_children(3):
        assert all(os.environ[name] == "3" for name in _ENVIRONMENT)
    assert dict(os.environ) == before
