"""What happens to a video: the model looks at it once (`analyse`), and what it saw is drawn as often as wanted
(`render`).

Both are generators that say how far they are, so that a page shows it and that closing them ends the work; nothing
half-written stays.
"""

import contextlib
import io
import itertools
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from demo.jobs import Job
from demo.kept import read_maps
from demo.limits import Limits
from demo.moments import most_attended
from tinyhd.errors import InputError
from tinyhd.render.colors import DEFAULT_COLORMAP, DEFAULT_OPACITY
from tinyhd.render.normalize import SmoothedRange, normalize_map
from tinyhd.render.overlay import Overlay
from tinyhd.saliency.stats import StatsComputer
from tinyhd.saliency.table import StatsWriter
from tinyhd.saliency.writers import open_maps_writer
from tinyhd.video.frame import VideoInfo
from tinyhd.video.playback import browser_plays
from tinyhd.video.png import encode_png
from tinyhd.video.reader import open_video
from tinyhd.video.writer import VideoWriter, open_writer

DEFAULT_MODEL = "tinyhd-m"
MAP_SHAPE = (192, 256)

REPORT_SECONDS = 0.2
PICTURE_SECONDS = 0.5
COPY_PIXELS = 1280
"""Longest side of the copy that is made of an original that not every browser plays."""
_THUMBNAIL_SIDE, _PREVIEW_SIDE = 320, 640


@dataclass(frozen=True)
class Look:
    """How maps are drawn; see `tinyhd.overlay`."""

    style: str = "overlay"
    colormap: str = DEFAULT_COLORMAP
    opacity: float = DEFAULT_OPACITY["overlay"]
    normalize: str = "frame"

    @classmethod
    def of(cls, style: str, colormap: str, opacity: float, normalize: str) -> "Look":
        """A look without what its style does not use, so that what looks the same is the same."""
        if style == "heatmap":
            opacity = 1
        if style == "spotlight":
            colormap = DEFAULT_COLORMAP
        return cls(style, colormap, round(float(opacity), 3), normalize)


@dataclass(frozen=True)
class Step:
    """How far the work is."""

    phase: str
    """looking or drawing."""
    done: int
    total: int | None
    frames_per_second: float | None = None
    picture: bytes | None = None
    """What is being seen, JPEG."""


@dataclass
class Rendered:
    """A finished video or picture."""

    path: Path
    look: Look
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    """JPEG pictures of the most attended moments, by number of the frame."""


Steps = Generator[Step, None, None]


class Models:
    """Networks that are on this computer, each loaded when it is first used."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Any:
        """The network. Raises `WeightsError` where it cannot be loaded."""
        import tinyhd  # PyTorch takes longer to load than the page

        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = tinyhd.load_model(name, "auto")
            return self._loaded[name]

    def warm_up(self) -> list[str]:
        """Load the default model and let it look once, so that the first visitor need not wait; the names of all
        models that are here without being fetched."""
        import torch

        from tinyhd.inference.backends import open_backend
        from tinyhd.network.registry import MODELS, cache_folder

        open_backend(self.get(DEFAULT_MODEL))(torch.zeros(1, 3, 16, *MAP_SHAPE))
        return [name for name, info in MODELS.items() if info.url is None or (cache_folder() / info.file).is_file()]


# ---- looking


def analyse(job: Job, network: Any, limits: Limits, look: Look) -> Steps:
    """Let the model look at a job's file; fills in the job. `look` is for the pictures shown meanwhile.

    Raises:
        InputError: it cannot be read, or is more than the limits allow.
    """
    from tinyhd.inference.predict import predict_video
    from tinyhd.network.config import TinyHDConfig
    from tinyhd.network.model import TinyHD

    limits.check_size(job.source)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_video(job.source))
        info = reader.info
        limits.check_video(info)
        report = _Reporter("looking", info, info.frame_count)
        with open_video(job.source) as first:
            yield report.step(0, _jpeg(next(first).image, info, _PREVIEW_SIDE))

        maps = stack.enter_context(
            open_maps_writer(job.folder / f"{job.stem}.maps.npz", info, MAP_SHAPE, overwrite=True)
        )
        table = stack.enter_context(StatsWriter(job.folder / f"{job.stem}.stats.csv", overwrite=True))
        copy = _copy_of_original(job, info, stack)
        compute = StatsComputer(info.width, info.height, float(info.sample_aspect_ratio))
        draw, shown_range = (
            Overlay(info, style=look.style, colormap=look.colormap, opacity=look.opacity),
            SmoothedRange(),
        )
        stats, cuts, low, high = [], set(), np.inf, -np.inf
        for frame, saliency, is_cut in predict_video(reader, network):
            limits.check_frames(frame.index + 1)
            maps.write(frame, saliency)
            numbers = compute(saliency, frame.index, frame.time_seconds)
            table.write(numbers)
            stats.append(numbers)
            if is_cut:
                cuts.add(frame.index)
            low, high = min(low, float(saliency.min())), max(high, float(saliency.max()))
            if copy:
                copy.write(frame.image.reformat(*_copy_size(info)), frame.time)
            elif info.is_still:
                _write_png(job.folder / "original.png", frame.image)
            value_range = shown_range(saliency, frame.time_seconds, is_cut)
            if report.is_due():
                picture = None
                if report.wants_picture():
                    picture = _jpeg(draw(frame.image, normalize_map(saliency, value_range)), info, _PREVIEW_SIDE)
                yield report.step(frame.index + 1, picture)
        job.warnings = list(reader.warnings)
    config = network.config if isinstance(network, TinyHD) else TinyHDConfig()
    job.info, job.stats, job.cuts = info, stats, cuts
    job.maps, job.table = maps.path, table.path
    job.value_range, job.display_scale = (low, high), config.display_scale
    job.is_copy = copy is not None
    job.original = copy.path if copy else job.folder / "original.png" if info.is_still else job.source
    yield report.step(len(stats))


def _copy_of_original(job: Job, info: VideoInfo, stack: contextlib.ExitStack) -> VideoWriter | None:
    if info.is_still or browser_plays(info, same_times=True):
        return None
    writer = open_writer(job.folder / "original.mp4", info, size=_copy_size(info), overwrite=True)
    return stack.enter_context(writer)


def _copy_size(info: VideoInfo) -> tuple[int, int]:
    """(width, height), even, no larger than `COPY_PIXELS`."""
    scale = min(1.0, COPY_PIXELS / max(info.width, info.height))
    return max(2, round(info.width * scale / 2) * 2), max(2, round(info.height * scale / 2) * 2)


# ---- drawing


def render(job: Job, look: Look) -> Generator[Step, None, Rendered]:
    """Draw a job's kept maps; no model is needed. The last looks are kept and cost nothing to come back to.

    Raises:
        OptionError: a value that is not allowed.
        InputError: the job is not ready.
    """
    done = job.rendered.get(look)
    if done is not None and done.path.exists():
        return done
    info = job.facts()
    if not job.ready():
        raise InputError("This video has not been looked at completely: give it again.")
    wanted = {moment.frame for moment in most_attended(job.stats)}
    draw = Overlay(info, style=look.style, colormap=look.colormap, opacity=look.opacity, for_video=not info.is_still)
    kind = "heatmap" if look.style == "heatmap" else "saliency"
    folder = job.folder / f"look-{next(_NUMBERS)}"
    folder.mkdir()
    result = Rendered(folder / f"{job.stem}.{kind}.{'png' if info.is_still else 'mp4'}", look)
    report = _Reporter("drawing", info, len(job.stats))
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_video(job.source))
        writer = None
        if not info.is_still:
            writer = stack.enter_context(open_writer(result.path, info, size=draw.size))
        for frame, shown in _shown_maps(job, look, reader):
            picture = draw(frame.image, shown)
            if writer:
                writer.write(picture, frame.time)
            else:
                _write_png(result.path, picture)
            if frame.index in wanted:
                result.thumbnails[frame.index] = _jpeg(picture, info, _THUMBNAIL_SIDE)
            if report.is_due():
                yield report.step(frame.index + 1)
    with job.lock:
        job.rendered[look] = result
        _forget_old(job)
    return result


def finish(steps: Generator[Step, None, Rendered]) -> Rendered:
    """Do all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Rendered = end.value
            return result


_NUMBERS = itertools.count()
_LOOKS_KEPT = 6


def _forget_old(job: Job) -> None:
    """Remove all but the last looks; browsers may still be playing these."""
    while len(job.rendered) > _LOOKS_KEPT:
        old = job.rendered.pop(next(iter(job.rendered)))
        old.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            old.path.parent.rmdir()


def _shown_maps(job: Job, look: Look, reader: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Frames, and their maps in [0, 1]."""
    smoothed = SmoothedRange()
    for frame, saliency in itertools.zip_longest(reader, read_maps(job.maps)):
        if frame is None or saliency is None:
            raise InputError("The kept maps do not belong to this video: give it again.")
        if look.normalize == "video":
            value_range = job.value_range
        elif look.normalize == "none":
            value_range = (0.0, job.display_scale)
        else:
            value_range = smoothed(saliency, frame.time_seconds, frame.index in job.cuts)
        yield frame, normalize_map(saliency, value_range)


# ---- pictures and progress


def _write_png(path: Path, image: av.VideoFrame) -> None:
    path.write_bytes(encode_png(image.to_ndarray(format="rgb24")))


def _jpeg(image: av.VideoFrame, info: VideoInfo, side: int) -> bytes:
    """A small picture, as it looks (pixels made square), as JPEG."""
    width, height = image.width * float(info.sample_aspect_ratio), float(image.height)
    scale = min(1.0, side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = image.reformat(*size, format="rgb24").to_image()
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return data.getvalue()


class _Reporter:
    """Says how far the work is, not too often."""

    def __init__(self, phase: str, info: VideoInfo, total: int | None) -> None:
        self._phase, self._total = phase, total
        self._began = self._reported = time.monotonic()
        self._pictured = 0.0

    def is_due(self) -> bool:
        return time.monotonic() - self._reported >= REPORT_SECONDS

    def wants_picture(self) -> bool:
        return time.monotonic() - self._pictured >= PICTURE_SECONDS

    def step(self, done: int, picture: bytes | None = None) -> Step:
        now = self._reported = time.monotonic()
        if picture is not None:
            self._pictured = now
        if done == 0:
            self._began = now
        rate = done / (now - self._began) if done and now > self._began else None
        return Step(self._phase, done, self._total, rate, picture)
