"""The line in which visitors wait, and their places in it."""

import contextlib
import threading
from collections.abc import Iterator

from tinyhd.errors import InputError

WAIT_SECONDS = 0.5


class WaitingLine:
    """First come, first served, one at a time."""

    def __init__(self, size: int) -> None:
        """`size`: how many may wait, beside the one being served."""
        self._size = size
        self._tickets: list[Ticket] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def ticket(self) -> Iterator["Ticket"]:
        """A place at the end, given up at the end of the body. Raises `InputError` where the line is full."""
        ticket = Ticket(self._tickets, self._changed)
        with self._changed:
            if len(self._tickets) > self._size:
                raise InputError(f"The queue is full, {self._size} are waiting already: try again in a minute.")
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()


class Ticket:
    """A place in the line."""

    def __init__(self, tickets: "list[Ticket]", changed: threading.Condition) -> None:
        self._tickets, self._changed = tickets, changed

    def wait(self) -> int:
        """How many are before this one, once that changes or `WAIT_SECONDS` are over; 0: it is its turn."""
        with self._changed:
            before = self._tickets.index(self)
            if before:
                self._changed.wait_for(lambda: self._tickets.index(self) < before, WAIT_SECONDS)
            return self._tickets.index(self)
