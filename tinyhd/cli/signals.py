"""Signals that end the command: the first unwinds the work, so that nothing unfinished is left."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

_PATIENCE_SECONDS = 5.0
"""After this long another signal ends the process at once."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # not all systems have all


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come."""

    def __init__(self, number: int) -> None:
        self.exit_status = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the first SIGINT, `Terminated` at the first SIGTERM or SIGHUP; the ones that follow
    while the work unwinds and the process ends change nothing, but after some seconds end it at once."""
    first: float | None = None

    def stop(number: int, _frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        if now - first > _PATIENCE_SECONDS:
            os._exit(128 + number)

    previous = {}
    try:
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
                previous[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        if first is None:  # otherwise the process ends, and another signal would give it another status
            for number, handler in previous.items():
                signal.signal(number, handler)
