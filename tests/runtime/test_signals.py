"""Stop requests: the first is noted, a second Ctrl-C ends the process, and handlers come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from scmap_cli.runtime.signals import STOP_SIGNALS, StopFlag

CHILD = """
import os, signal, sys
from scmap_cli.runtime.signals import StopFlag
with StopFlag() as stop:
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
    print(stop.signal_name, flush=True)
"""


def child(*names: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", CHILD, *names], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_sets_the_flag_and_handlers_come_back(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in STOP_SIGNALS}
    with StopFlag() as stop:
        assert not stop.stopped
        signal.raise_signal(number)
        assert stop.stopped
        assert stop.signal_name == number.name
    assert {one: signal.getsignal(one) for one in STOP_SIGNALS} == before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), StopFlag():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_signal_is_the_reason() -> None:
    with StopFlag() as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.signal_name == "SIGUSR1"


@pytest.mark.parametrize(
    ("names", "status", "said"),
    [
        (["SIGINT"], 0, "SIGINT"),
        (["SIGINT", "SIGINT"], 130, ""),
        (["SIGINT", "SIGTERM", "SIGINT"], 130, ""),
        (["SIGTERM", "SIGINT"], 0, "SIGTERM"),
        (["SIGTERM", "SIGTERM", "SIGUSR1", "SIGUSR1"], 0, "SIGTERM"),
    ],
    ids=str,
)
def test_only_a_second_interrupt_ends_the_process(names: Sequence[str], status: int, said: str) -> None:
    assert child(*names) == (status, said)


def test_a_handler_from_outside_python_does_not_break_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        stop = StopFlag()
        with stop:
            stop._previous[signal.SIGUSR1] = None
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_the_flag_stays_unset() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopFlag() as stop:
            found.append(stop.stopped)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGTERM) is before
