"""Work that goes on by itself: started from the App without holding it up, watched and stopped from any process.

Where it is stands in the dataset's execution store.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import fiftyone as fo
from fiftyone.operators.store import ExecutionStore

from tinyhd.errors import TinyHDError

from .progress import Progress, RunSummary, describe_error, finish, log
from .runs import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS

_STORE = "tinyhd_work"
_KEPT = 5
"""Entries of work that has ended."""

_threads: list[threading.Thread] = []


class Watched:
    """Work that can be watched and stopped.

    Args:
        dataset: that it is about.
        title: for people.
        fields: to show in the App when it has ended.
        opens: the panel to open then, if any.
    """

    def __init__(self, dataset: fo.Dataset, title: str, fields: list[str], opens: str = "") -> None:
        self._store = _store(dataset)
        self._entry: dict[str, Any] = {"title": title, "fields": fields, "opens": opens}
        self._entry |= {"state": "running", "started": time.time()}
        self._key = secrets.token_hex(4)
        self._asked = time.monotonic()
        self.say("Starting", 0.0)

    def say(self, label: str, fraction: float, **more: Any) -> None:
        """Put down where it is."""
        self._entry |= {"label": label, "fraction": fraction, "time": time.time(), **more}
        self._store.set(f"work:{self._key}", self._entry)

    def is_stopped(self) -> bool:
        """Whether somebody asked for it to stop."""
        now = time.monotonic()
        if now - self._asked < HEARTBEAT_SECONDS / 2:
            return False
        self._asked = now
        return bool(self._store.get(f"stop:{self._key}"))

    def run(
        self,
        work: Callable[[Callable[[], bool]], Generator[Progress, None, RunSummary]],
        report: Callable[[Progress], None] = lambda _: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> RunSummary:
        """Do the work, which gets a function that says whether to stop."""

        def told(progress: Progress) -> None:
            self.say(progress.label, progress.fraction)
            report(progress)

        try:
            outcome = finish(work(lambda: is_stopped() or self.is_stopped()), told)
        except BaseException as error:
            self.say(describe_error(error), 1.0, state="failed")
            raise
        finally:
            self._store.delete(f"stop:{self._key}")
        state = "failed" if outcome.failed and not outcome.completed else "ended"
        self.say("\n\n".join([outcome.summary, *outcome.errors]), 1.0, state=state)
        return outcome

    def run_aside(self, work: Callable[[Callable[[], bool]], Generator[Progress, None, RunSummary]]) -> None:
        """Do the work in a thread of this process, which ends with it; what goes wrong is put down."""

        def body() -> None:
            try:
                self.run(work)
            except Exception as error:
                if not isinstance(error, TinyHDError):
                    log.error("%s failed", self._entry["title"], exc_info=error)

        thread = threading.Thread(target=body, name="tinyhd", daemon=True)
        thread.start()
        _threads.append(thread)


def join() -> None:
    """Wait for all work that `run_aside` has begun."""
    while _threads:
        _threads.pop().join()


def list_work(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """What is at work or has ended lately, newest first: key, title, state, label, fraction, fields."""
    store = _store(dataset)
    entries = []
    for name in store.list_keys():
        entry = store.get(name) if name.startswith("work:") else None
        if entry:
            is_dead = entry["state"] == "running" and time.time() - entry["time"] > DEAD_AFTER_SECONDS
            entries.append(entry | {"key": name.removeprefix("work:")} | ({"state": "interrupted"} if is_dead else {}))
    entries.sort(key=lambda entry: entry["started"], reverse=True)
    for old in [entry for entry in entries if entry["state"] != "running"][_KEPT:]:
        store.delete(f"work:{old['key']}")
        entries.remove(old)
    return entries


def stop(dataset: fo.Dataset, key: str) -> None:
    """Ask for work to stop, which it does within seconds; what is complete stays."""
    _store(dataset).set(f"stop:{key}", True)


def forget_ended(dataset: fo.Dataset) -> None:
    """Remove the entries of work that has ended."""
    for entry in list_work(dataset):
        if entry["state"] != "running":
            with contextlib.suppress(Exception):
                _store(dataset).delete(f"work:{entry['key']}")


def _store(dataset: fo.Dataset) -> ExecutionStore:
    return ExecutionStore.create(_STORE, dataset._doc.id)
