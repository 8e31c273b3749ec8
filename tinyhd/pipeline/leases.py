"""Who works on what, where several runs on any machines share one folder of outputs without an engine between them.

    .tinyhd-leases/
      HOST-PROCESS-NUMBER.run    touched by each run while it lives
      JOB.GENERATION             who works on a job: the name of a run

A lease is made with O_EXCL, so that one run only has it. Where its run has not been seen for two minutes, by the
clock of the storage, another makes the lease of the next generation, which again only one can.
"""

import contextlib
import hashlib
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tinyhd.files import TEMPORARY_PREFIX, make_folder, writing

STALE_SECONDS = 120.0
BEAT_SECONDS = 15.0

_FOLDER = f"{TEMPORARY_PREFIX}leases"
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]


class Leases:
    """The leases of one run; a context manager. Raises `OutputError` where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the outputs.
        """
        self._folder = make_folder(folder / _FOLDER)
        self._run = f"{HOST}-{os.getpid()}-{secrets.token_hex(3)}"
        self._held: dict[str, int] = {}
        self._ended = threading.Event()
        with writing(self._folder):
            now = self._beat()
            for beat in self._folder.glob("*.run"):
                if now - _touched(beat) > STALE_SECONDS:
                    beat.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._live, name="tinyhd-leases", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            for name in list(self._held):
                self.release(name)
            (self._folder / f"{self._run}.run").unlink(missing_ok=True)
            self._folder.rmdir()  # where nobody else uses it

    def take(self, name: str) -> bool:
        """Take the lease of a job; False where another run has it."""
        with writing(self._folder), contextlib.suppress(FileExistsError):
            generation, owner = self._newest(name)
            if owner is not None and self._is_alive(owner, generation, name):
                return owner == self._run
            with (self._folder / f"{name}.{generation + 1}").open("x") as file:
                file.write(self._run)
            self._held[name] = generation + 1
            return self.holds(name)
        return False

    def holds(self, name: str) -> bool:
        """Whether this run has the lease still: another takes it from one that seems dead."""
        return name in self._held and self._newest(name) == (self._held[name], self._run)

    def release(self, name: str) -> None:
        """Give a lease back, where this run has it still, and remove those of dead runs before it."""
        own = self._held[name] if self.holds(name) else -1
        self._held.pop(name, None)
        for generation, path in sorted(self._generations(name)):
            if generation <= own:
                path.unlink(missing_ok=True)

    def _generations(self, name: str) -> Iterator[tuple[int, Path]]:
        for path in self._folder.glob(f"{name}.*"):
            if path.suffix[1:].isdigit():
                yield int(path.suffix[1:]), path

    def _newest(self, name: str) -> tuple[int, str | None]:
        """(generation, run) of the latest lease of a job; (-1, None) where there is none."""
        generation, path = max(self._generations(name), default=(-1, None))
        if path is None:
            return -1, None
        try:
            return generation, path.read_text()
        except FileNotFoundError:  # given back just now
            return generation, None

    def _is_alive(self, owner: str, generation: int, name: str) -> bool:
        # a run that has not written its name yet is as old as its lease
        seen = self._folder / (f"{owner}.run" if owner else f"{name}.{generation}")
        return self._beat() - _touched(seen) <= STALE_SECONDS

    def _beat(self) -> float:
        """Show that this run lives; the time, by the clock of the storage."""
        own = self._folder / f"{self._run}.run"
        own.touch()
        return own.stat().st_mtime

    def _live(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._beat()


def in_use(folder: Path) -> bool:
    """Whether a run that takes leases is at work in a folder of outputs. Raises `OSError`."""
    beats = list((folder / _FOLDER).glob("*.run"))
    if not beats:
        return False
    clock = folder / _FOLDER / secrets.token_hex(8)
    clock.touch()
    now = _touched(clock)
    clock.unlink()
    return any(now - _touched(beat) <= STALE_SECONDS for beat in beats)


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
