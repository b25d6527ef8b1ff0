"""Stop requests: a signal sets a flag, the training loop looks at it after each step, saves and leaves with 75."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from scmap_cli.errors import EXIT_INTERRUPTED

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopFlag:
    """Context manager that turns SIGTERM, SIGUSR1 and the first Ctrl-C into :attr:`stopped`.

    A second Ctrl-C ends the process at once with exit code 130. Earlier handlers are put back at the end. Outside the
    main thread, where Python allows no handlers, the flag simply stays unset.

    Parameters
    ----------
    saves
        Whether there is anything to save. Where there is not, signals keep the meaning that they have.
    """

    def __init__(self, saves: bool = True) -> None:
        self.saves = saves
        self.signal_name: str | None = None
        self._interrupts = 0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self.signal_name is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(EXIT_INTERRUPTED)
        # The first one is the reason; schedulers repeat theirs or send another before they kill.
        self.signal_name = self.signal_name or signal.Signals(number).name

    def __enter__(self) -> StopFlag:
        if not self.saves:
            return self
        try:
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python and cannot be put back from there.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
