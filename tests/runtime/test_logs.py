"""Messages go to stderr alone; a bar only on a terminal, plain lines elsewhere, none with -q."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from scmap_cli.runtime import logs
from scmap_cli.runtime.logs import log, progress, setup

CHILD = """
import logging, sys, time, warnings
from scmap_cli.runtime.logs import log, progress, setup
setup(int(sys.argv[1]))
log.debug("a detail"); log.info("a message"); log.warning("a warning")
warnings.warn("from a library")
with progress("epoch", 3, interval=0.0) as bar:
    for i in range(3):
        time.sleep(0.15)
        bar.advance(1, "loss 1")
"""


def child(verbosity: int) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", CHILD, str(verbosity)], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def on_terminal(verbosity: int, **environment: str) -> str:
    """What a terminal on stderr gets."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", CHILD, str(verbosity)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"} | environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=env)
    os.close(slave)
    parts = []
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    assert process.wait() == 0
    assert process.stdout is not None
    with process.stdout as stream:
        assert stream.read() == b""
    return b"".join(parts).decode()


@pytest.fixture(autouse=True)
def logging_comes_back() -> Iterator[None]:
    others = logging.getLogger("py.warnings")
    state = log.handlers[:], log.level, log.propagate, others.handlers[:], others.level
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    log.handlers[:], log.propagate, others.handlers[:] = state[0], state[2], state[3]
    log.setLevel(state[1])
    others.setLevel(state[4])


def test_no_bar_where_there_is_no_terminal() -> None:
    out, err = child(0)
    assert out == ""
    assert err.splitlines() == ["a message", "a warning", *(f"epoch {i}/3 loss 1" for i in (1, 2, 3))]


def test_quiet_leaves_warnings_alone() -> None:
    assert child(-1) == ("", "a warning\n")


def test_verbose_names_the_source_and_lets_libraries_warn() -> None:
    out, err = child(1)
    assert out == ""
    assert "DEBUG scmap: a detail" in err
    assert "from a library" in err


def test_a_terminal_gets_a_bar_and_loses_it_again() -> None:
    shown = on_terminal(0)
    assert "\x1b[" in shown
    assert "3/3" in shown
    assert "epoch 3/3 loss 1\r\n" not in shown, "the bar stands for the plain lines"
    assert shown.rstrip().endswith("\x1b[2K"), "nothing of the bar stays"


def test_a_quiet_terminal_gets_no_bar() -> None:
    assert on_terminal(-1) == "a warning\r\n"


def test_no_color_is_respected() -> None:
    # Colours are SGR codes, which end in m; what moves the cursor ends in other letters. 1 is bold, 0 the end of it.
    import re

    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38;[0-9;]*|9[0-7])m", on_terminal(0, NO_COLOR="1"))


def test_plain_lines_come_at_most_every_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup(0)
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with progress("cells", 100, interval=10.0) as bar:
        for _ in range(100):
            now[0] += 1.0
            bar.advance()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [f"{n}/100" for n in range(10, 101, 10)]


def test_setting_up_twice_says_things_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup(0)
    setup(0)
    log.info("once")
    assert stream.getvalue() == "once\n"


def test_a_library_configures_nothing() -> None:
    code = "import logging, scmap_cli.runtime.logs as l; l.log.warning('x'); assert not logging.getLogger().handlers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
