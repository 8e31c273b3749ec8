"""How far work on many videos is, and what has come of it; both for people to read."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from tinyhd.errors import TinyHDError

log = logging.getLogger("tinyhd.plugin")

REPORT_SECONDS = 0.5
_SPEED_SECONDS = 10.0  # what "frames per second" looks back on


class Cancelled(Exception):  # noqa: N818 - no error
    """The run is to stop."""


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    sample: int
    """The video at work, from 1 on."""
    samples: int
    name: str
    frame: int
    frames: int | None
    """Of this video, where the file says it."""
    frames_per_second: float
    seconds_left: float | None

    @property
    def fraction(self) -> float:
        """Done, 0 to 1."""
        inside = min(1.0, self.frame / self.frames) if self.frames else 0.0
        return (self.sample - 1 + inside) / self.samples

    @property
    def label(self) -> str:
        """For people."""
        of_frames = f" of {self.frames}" if self.frames else ""
        left = f", {_duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return (
            f"Video {self.sample} of {self.samples} ({self.name}): frame {self.frame}{of_frames}, "
            f"{self.frames_per_second:.1f} frames/s{left}"
        )


@dataclass
class RunSummary:
    """What work has done; `to_dict` is what operators return."""

    error_field: str
    """Where errors of single videos are kept."""
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    frames: int = 0
    seconds: float = 0.0
    cancelled: bool = False
    errors: list[str] = field(default_factory=list)
    """The first few, as `name: message`."""

    def note_failure(self, path: str, error: Exception) -> str:
        """Count an error of one video; the sentence to keep with it."""
        message = describe_error(error)
        if not isinstance(error, TinyHDError):
            log.error("%s failed", path, exc_info=error)
        self.failed += 1
        if len(self.errors) < 10:
            self.errors.append(f"{Path(path).name}: {message}")
        return message

    def notes(self) -> list[str]:
        """Further sentences for the summary."""
        return []

    @property
    def summary(self) -> str:
        """What was done, in a few sentences."""
        parts = [f"{count(self.completed, 'video')} done"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        if self.failed:
            parts.append(f"{self.failed} failed (see {self.error_field})")
        first = ("Cancelled: " if self.cancelled else "") + ", ".join(parts) + "."
        return " ".join([first, *self.notes()])

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"seconds": round(self.seconds, 1), "summary": self.summary}


Work = TypeVar("Work", bound=RunSummary)


def finish(work: Generator[Progress, None, Work], report: Callable[[Progress], None]) -> Work:
    """Do all of the work, telling `report` about progress."""
    while True:
        try:
            report(next(work))
        except StopIteration as end:
            outcome: Work = end.value
            return outcome


class ProgressTracker:
    """Counts frames over all videos."""

    def __init__(self, samples: int) -> None:
        self._samples, self._sample = samples, 0
        self._name = ""
        self._frame = 0
        self.frames: int | None = None
        self._before = 0  # frames of the videos done
        self._total = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._reported = 0.0

    def begin(self, name: str) -> None:
        """The next video starts."""
        self._before += self._frame
        self._sample += 1
        self._name, self._frame, self.frames = name, 0, None

    def frame(self) -> None:
        """A frame is done."""
        self.at(self._frame + 1)

    def at(self, frame: int) -> None:
        """So many frames of this video are done."""
        self._total += frame - self._frame
        self._frame = frame

    def is_due(self) -> bool:
        """Whether to report."""
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS:
            return False
        self._reported = now
        self._recent.append((now, self._total))
        while now - self._recent[0][0] > _SPEED_SECONDS and len(self._recent) > 2:
            self._recent.popleft()
        return True

    def progress(self) -> Progress:
        (first_time, first), (last_time, last) = self._recent[0], self._recent[-1]
        speed = (last - first) / (last_time - first_time) if last_time > first_time else 0.0
        left = None
        if speed > 0 and self.frames:
            # videos to come are taken to be as long as those met so far
            mean = (self._before + self.frames) / self._sample
            frames_left = max(0, self.frames - self._frame) + mean * (self._samples - self._sample)
            left = frames_left / speed
        return Progress(self._sample, self._samples, self._name, self._frame, self.frames, speed, left)


def describe_error(error: BaseException) -> str:
    """An error in a sentence for people, who see no command line."""
    return str(error).replace(" --", " ") if isinstance(error, TinyHDError) else f"{type(error).__name__}: {error}"


def count(number: int, noun: str) -> str:
    """3, "video" -> "3 videos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
