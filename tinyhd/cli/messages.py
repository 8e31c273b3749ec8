"""What is said on stderr: lines, or one JSON object a line, and progress."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

log = logging.getLogger("tinyhd.cli")

_PROGRESS_SECONDS = 10.0  # between lines where there is no terminal


def data(event: str, **values: Any) -> dict[str, Any]:
    """`extra` of a log record: what --json-log adds to its message."""
    return {"data": {"event": event, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}}}


def open_missing_streams() -> None:
    """Open what the caller has closed of stdin, stdout and stderr: the next file to be opened would take its place, and
    get what libraries print there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@contextlib.contextmanager
def logging_to_stderr(as_json: bool, quiet: bool) -> Iterator[None]:
    """The package's log on stderr for the time of the body."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter("%(message)s"))
    logger = logging.getLogger("tinyhd")
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        mark = {logging.ERROR: "error: ", logging.WARNING: "warning: "}.get(record.levelno, "")
        return mark + super().format(record)


class Progress:
    """A bar on a terminal, with log lines above it; elsewhere a line now and then. A context manager."""

    def __init__(self, name: str, *, quiet: bool, as_json: bool) -> None:
        self._name, self._shows = name, not quiet
        self._wants_bar = self._shows and not as_json and sys.stderr.isatty()
        self._bar: Any = None
        self._stack = contextlib.ExitStack()
        # the clock starts with the first frame: what comes before says nothing of those to come
        self._began: float | None = None
        self._last = 0.0
        self._before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int | None) -> None:
        if self._wants_bar:
            self._draw(done, total)
            return
        now = time.monotonic()
        if self._began is None:
            self._began = self._last = now
            self._before = done
        elif self._shows and now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            rate = (done - self._before) / max(now - self._began, 1e-9)
            parts = [f"{self._name}: {done}{f'/{total}' if total else ''} frames, {rate:.1f} frames/s"]
            left = (total - done) / rate if total and total > done else None
            if left is not None:
                parts.append(f"{left:.0f} s left")
            numbers = {"done": done, "total": total, "frames_per_second": round(rate, 2), "seconds_left": left}
            log.info("%s", ", ".join(parts), extra=data("progress", input=self._name, **numbers))

    def _draw(self, done: int, total: int | None) -> None:
        if self._bar is None:
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            bar = tqdm(desc=self._name, total=total, unit=" frames", file=sys.stderr, leave=False)
            self._bar = self._stack.enter_context(contextlib.closing(bar))
            self._stack.enter_context(logging_redirect_tqdm([logging.getLogger("tinyhd")]))
        self._bar.total = max(total, done) if total else total  # the header's count may be too low
        self._bar.update(done - self._bar.n)


class JobProgress:
    """Progress of one job after the other, or of many at once; a context manager."""

    def __init__(self, is_parallel: bool, *, quiet: bool, as_json: bool) -> None:
        self._is_parallel, self._facts = is_parallel, {"quiet": quiet, "as_json": as_json}
        self._shown: Progress | None = None
        self._name = ""
        self._frames: dict[str, int] = {}
        self._frames_before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` frames of a job are done."""
        if self._is_parallel:
            self._frames[name] = done
            name, done, total = "all", self._frames_before + sum(self._frames.values()), None
        if self._shown is None or name != self._name:
            self._close()
            self._name, self._shown = name, Progress(name, **self._facts)
        self._shown(done, total)

    def finish(self, name: str) -> None:
        """A job has ended."""
        self._frames_before += self._frames.pop(name, 0)
        if not self._is_parallel:
            self._close()

    def _close(self) -> None:
        if self._shown is not None:
            self._shown.__exit__()
            self._shown = None
