"""Messages go to stderr through the ``scmap`` logger; stdout is for data alone.

As a library nothing is configured: the caller's logging decides. The terminal calls :func:`setup` once.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("scmap")
log.addHandler(logging.NullHandler())


def setup(verbosity: int = 0) -> None:
    """Send messages to stderr: -1 warnings only, 0 information, 1 debug with source names."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if verbosity > 0 else "%(message)s"))
    for old in list(log.handlers):
        log.removeHandler(old)
    log.addHandler(handler)
    log.propagate = False
    log.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))
    logging.captureWarnings(True)
    python_warnings = logging.getLogger("py.warnings")
    python_warnings.handlers[:] = [handler]
    python_warnings.setLevel(logging.WARNING if verbosity > 0 else logging.ERROR)
    if verbosity <= 0:
        warnings.simplefilter("ignore")


class Progress:
    """Progress of a long loop: a bar on a terminal, else at most one plain line every ``interval`` seconds."""

    def __init__(self, label: str, total: int, interval: float = 10.0) -> None:
        self.label, self.total, self.interval = label, total, interval
        self.done = 0
        self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Count ``steps`` done; ``text`` is shown beside the label."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, description=f"{self.label} {text}".rstrip())
        elif time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            log.info("%s %d/%d %s", self.label, self.done, self.total, text)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(label: str, total: int, interval: float = 10.0) -> Iterator[Progress]:
    """A :class:`Progress` that is closed at the end of the block."""
    bar = Progress(label, total, interval)
    try:
        yield bar
    finally:
        bar.close()
