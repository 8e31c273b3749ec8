"""The files that are kept for each video: where they lie, who finds them, and when they go.

A job is a folder with an unguessable name below Gradio's cache, so that Gradio serves what lies in it and nothing else.
Gradio removes only what it made itself; all of this is removed here: when a job has not been used for a while, when
there are too many, and all at the end.
"""

import contextlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tinyhd.applications.crop import CropPath
from tinyhd.applications.moments import Peak
from tinyhd.errors import InputError
from tinyhd.saliency.focus import FocusCurve
from tinyhd.saliency.stats import FrameStats
from tinyhd.saliency.track import TrackInfo
from tinyhd.video.frame import VideoInfo


@dataclass
class Job:
    """One video that was looked at."""

    name: str
    """What its address is made of; whoever knows it may use the job."""
    folder: Path
    source: Path
    """The video or picture."""
    stem: str
    """What names of downloads start with."""
    end: float | None = None
    """Only so many seconds of it are looked at; None: all."""
    trim: float = 0.0
    """As much of it, in seconds, as is taken where it is too long; 0: it was not."""
    info: VideoInfo | None = None
    model: str = ""
    original: Path | None = None
    """What a browser plays as the original: the source, or a copy where not every browser plays it."""
    is_copy: bool = False
    stats: list[FrameStats] = field(default_factory=list)
    track: TrackInfo | None = None
    map_shape: tuple[int, ...] = (0, 0)
    """(h, w) of the maps that the page gets."""
    warnings: list[str] = field(default_factory=list)
    curve: FocusCurve | None = None
    """Focus over time."""
    moments: list[tuple[Peak, bytes]] = field(default_factory=list)
    """The most attended ones, with an image of each, JPEG."""
    crops: dict[str, CropPath] = field(default_factory=dict)
    """By aspect, such as 9:16: the crop that follows attention; those that the video allows."""
    files: dict[object, Path] = field(default_factory=dict)
    """Files made for downloading, by kind and options."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while `files` changes."""

    @property
    def track_file(self) -> Path:
        """Where what the model saw is kept."""
        return self.folder / f"{self.stem}.track.npz"

    @property
    def table(self) -> Path:
        """Where the statistics of each frame are kept."""
        return self.folder / f"{self.stem}.stats.csv"

    @property
    def browser_maps(self) -> Path:
        """Where the maps lie as the page takes them; see `work.write_browser_maps`."""
        return self.folder / "maps.bin"

    def facts(self) -> VideoInfo:
        """`info` once the job was looked at."""
        if self.info is None:
            raise InputError("The model has not looked at all of this video: give it again.")
        return self.info

    @property
    def seconds(self) -> float:
        """How long what was looked at is."""
        rate = self.facts().frame_rate
        last = self.stats[-1].time_seconds + (float(1 / rate) if rate else 0)
        return last if self.end is None else min(last, self.end)

    def ready(self) -> bool:
        """Whether the model has looked at all of it."""
        return self.track is not None


class JobStore:
    """All jobs of one server."""

    def __init__(
        self,
        root: Path,
        *,
        max_jobs: int = 24,
        max_age_seconds: float = 1800,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            root: an empty or missing folder, which becomes the store's own.
            max_jobs: how many are kept at most, beside those at work.
            max_age_seconds: how long one is kept that nobody uses.
        """
        self.root, self._max_jobs, self._max_age, self._clock = root, max_jobs, max_age_seconds, clock
        root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._used: dict[str, float] = {}
        self._busy: dict[str, int] = {}
        self._stop = threading.Event()

    def __len__(self) -> int:
        return len(self._jobs)

    def create(self, source: Path, *, stem: str | None = None) -> Job:
        """A new job for a file. A link to it (or a copy) is made in the job's folder, so that it stays while the job
        does, whoever removes the original."""
        self.prune()
        name = secrets.token_urlsafe(18)
        folder = self.root / name
        folder.mkdir()
        stem = re.sub(r"[^\w-]+", "-", stem or source.stem).strip("-")[:60] or "video"
        # the extension decides how a browser is told to take the file: only known ones survive
        suffix = source.suffix.lower() if re.fullmatch(r"\.\w{1,5}", source.suffix) else ""
        kept = folder / f"{stem}{suffix}"
        try:
            kept.hardlink_to(source)
        except OSError:  # another file system
            shutil.copyfile(source, kept)
        job = Job(name, folder, kept, stem)
        with self._lock:
            self._jobs[name] = job
            self._used[name] = self._clock()
        return job

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Job]:
        """The job of this name, which stays while it is used.

        Raises:
            InputError: there is none, or no longer.
        """
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                raise InputError("The files of this video are no longer kept: give the video again.")
            self._busy[name] = self._busy.get(name, 0) + 1
        try:
            yield job
        finally:
            with self._lock:
                self._busy[name] -= 1
                self._used[name] = self._clock()

    def discard(self, name: str) -> None:
        """Remove a job and its files, unless it is at work."""
        with self._lock:
            if self._busy.get(name):
                return
            job = self._jobs.pop(name, None)
            self._used.pop(name, None)
            self._busy.pop(name, None)
        if job:
            shutil.rmtree(job.folder, ignore_errors=True)

    def prune(self) -> None:
        """Remove what is old or too much."""
        now = self._clock()
        with self._lock:
            idle = sorted((used, name) for name, used in self._used.items() if not self._busy.get(name))
        surplus = len(idle) - self._max_jobs + 1  # room for one more
        for position, (used, name) in enumerate(idle):
            if position < surplus or now - used > self._max_age:
                self.discard(name)

    def prune_every(self, seconds: float) -> None:
        """Do so from time to time, in the background, until `close`."""

        def work() -> None:
            while not self._stop.wait(seconds):
                self.prune()

        threading.Thread(target=work, name="prune jobs", daemon=True).start()

    def close(self) -> None:
        """Remove everything."""
        self._stop.set()
        shutil.rmtree(self.root, ignore_errors=True)
