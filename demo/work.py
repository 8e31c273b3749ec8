"""What happens to a video: the model looks at it once.

`analyze` is a generator that says how far it is, so that a page shows it and that closing it ends the work; nothing
half-written stays.
"""

import contextlib
import io
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np

import tinyhd
from demo.jobs import Job
from demo.limits import Limits
from demo.moments import most_attended
from tinyhd.applications.crop import CropPath
from tinyhd.applications.reframing import plan_crop
from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions, InferenceOptions, ReframeOptions, RenderOptions
from tinyhd.pipeline.analyze import analysis
from tinyhd.render.normalize import Normalizer, SmoothedRange
from tinyhd.render.overlay import Overlay
from tinyhd.saliency.focus import smoothed_curve
from tinyhd.saliency.resize import MAP_HEIGHT, MAP_WIDTH
from tinyhd.saliency.stats import StatsComputer
from tinyhd.saliency.table import StatsWriter
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.frame import VideoInfo
from tinyhd.video.playback import browser_plays
from tinyhd.video.png import encode_png
from tinyhd.video.reader import open_video, probe
from tinyhd.video.writer import open_writer

REPORT_SECONDS = 0.2
PICTURE_SECONDS = 0.5
COPY_PIXELS = 1280
"""Longest side of the copy that is made of an original that not every browser plays."""
ASPECTS = ("9:16", "4:5", "1:1", "16:9")
"""That a video can be cut to."""

_THUMBNAIL_SIDE, _PREVIEW_SIDE = 320, 640
_BROWSER_WIDTH = 64
"""Maps are sent to browsers no wider: that of the embedded model's."""


@dataclass(frozen=True)
class Step:
    """How far the work is."""

    phase: str
    """looking, encoding or comparing."""
    done: int
    total: int | None
    frames_per_second: float | None = None
    picture: bytes | None = None
    """The frame at work, JPEG."""
    part: tuple[int, int] = (1, 1)
    """Which of how many parts of the work this is, each of `total` frames."""


Steps = Generator[Step, None, None]


class Models:
    """The models of one server, each loaded when it is first used."""

    def __init__(self, options: InferenceOptions | None = None) -> None:
        """`options`: how all of them compute; the visitors choose among the models."""
        self.options = options or InferenceOptions()
        self.default = self.options.model or tinyhd.list_models()[0]
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Any:
        """The backend. Raises `TinyHDError` where it cannot be loaded."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = tinyhd.open_backend(replace(self.options, model=name))
            return self._loaded[name]

    def warm_up(self) -> list[str]:
        """Load the default model and let it look once, so that the first visitor need not wait; the names of all
        models that are here without being fetched."""
        self.get(self.default)(np.zeros((1, 3, 16, MAP_HEIGHT, MAP_WIDTH), np.float32))
        return list(dict.fromkeys([self.default, *tinyhd.list_models(installed=True)]))


# ---- looking


def analyze(job: Job, backend: Any, limits: Limits, render: RenderOptions, options: InferenceOptions) -> Steps:
    """Let the model look at a job's file; fills in the job. `render` is for the pictures shown meanwhile.

    Raises:
        InputError: it cannot be read, or is more than the limits allow.
    """
    limits.check_size(job.source)
    info = probe(job.source)
    limits.check_video(info, job.end)
    with contextlib.ExitStack() as stack:
        with open_video(job.source) as first:
            preview = _jpeg(next(first).image, info, _PREVIEW_SIDE)
        run = stack.enter_context(
            analysis(job.source, inference=options, backend=backend, end=job.end, keep=job.track_file, overwrite=True)
        )
        report = Reporter("looking", run.expected_frames)
        yield report.step(0, preview)
        table = stack.enter_context(StatsWriter(job.table, overwrite=True))
        copy = None
        if not info.is_still and not browser_plays(info, same_times=True):
            target, encoder = job.folder / "original.mp4", EncoderOptions()
            writer = open_writer(target, info, size=_copy_size(info), options=encoder, overwrite=True)
            copy = stack.enter_context(writer)
        compute = StatsComputer(info.width, info.height, float(info.sample_aspect_ratio))
        draw, normalize = Overlay(info, render), Normalizer(render.normalize, run.display_scale)
        smoothed = SmoothedRange()
        stats, ranges = [], []
        for frame, saliency, is_cut in run:
            limits.check_frames(run.frames, info)
            numbers = compute(saliency, frame.index, frame.time_seconds)
            table.write(numbers)
            stats.append(numbers)
            ranges.append(smoothed(saliency, frame.time_seconds, is_cut))
            if copy:
                copy.write(frame.image.reformat(*_copy_size(info)), frame.time)
            elif info.is_still:
                (job.folder / "original.png").write_bytes(encode_png(frame.image.to_ndarray(format="rgb24")))
            shown = normalize(saliency, frame.time_seconds, is_cut)
            if report.is_due():
                picture = _jpeg(draw(frame.image, shown), info, _PREVIEW_SIDE) if report.wants_picture() else None
                yield report.step(run.frames, picture)
    job.info, job.stats = info, stats
    job.is_copy = copy is not None
    job.original = copy.path if copy else job.folder / "original.png" if info.is_still else job.source
    write_browser_maps(job, ranges)
    with SaliencyTrack(job.track_file) as track:
        job.track = track.info
        job.curve = smoothed_curve([s.time_seconds for s in stats], [s.focus for s in stats], track.cuts)
    if not info.is_still:
        job.moments = [(peak, _thumbnail(job, peak.time_seconds)) for peak in most_attended(job.curve)]
    job.crops = _plan_crops(job)
    job.warnings = list(job.track.warnings)
    yield report.step(len(stats))


def _plan_crops(job: Job) -> dict[str, CropPath]:
    """Of each of `ASPECTS` that is another than the video's own and fits into it."""
    info, crops = job.facts(), {}
    with SaliencyTrack(job.track_file) as track:
        for aspect in ASPECTS:
            with contextlib.suppress(OptionError):
                options = ReframeOptions(aspect=aspect)
                crop = plan_crop(track, options, pixel_aspect=float(info.sample_aspect_ratio))
                if crop.at(0)[2:] != (info.width, info.height):
                    crops[aspect] = crop
    return crops


def write_browser_maps(job: Job, ranges: Sequence[tuple[float, float]]) -> None:
    """Keep the maps of all frames for the page, which draws them over the original itself.

    The file holds, for each of N frames, four float32: time in seconds, largest value of its map, and the smoothed
    range (`ranges`) that is drawn from none to full attention; then uint8 (N, h, w), 255 for a map's largest value.
    """
    heads, levels = np.empty((len(job.stats), 4), np.float32), []
    with SaliencyTrack(job.track_file) as track:
        times = [numbers.time_seconds for numbers in job.stats]
        for k, saliency in enumerate(track.own_maps_at(times)):
            saliency = _narrowed(saliency)
            peak = float(saliency.max())
            heads[k] = (times[k], peak, *ranges[k])
            levels.append(np.rint(saliency * (255 / peak if peak > 0 else 0)).astype(np.uint8))
    job.map_shape = levels[0].shape
    with job.browser_maps.open("wb") as file:
        file.write(heads.tobytes())
        for level in levels:
            file.write(level.tobytes())


def _narrowed(saliency: np.ndarray) -> np.ndarray:
    """A map of at most `_BROWSER_WIDTH` columns: means of squares of pixels."""
    height, width = saliency.shape
    factor = -(-width // _BROWSER_WIDTH)
    rows, columns = height // factor, width // factor
    squares = saliency[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    result: np.ndarray = squares.mean((1, 3))
    return result


def _copy_size(info: VideoInfo) -> tuple[int, int]:
    """(width, height), even, no larger than `COPY_PIXELS`."""
    scale = min(1.0, COPY_PIXELS / max(info.width, info.height))
    return max(2, round(info.width * scale / 2) * 2), max(2, round(info.height * scale / 2) * 2)


# ---- pictures and progress


def _thumbnail(job: Job, seconds: float) -> bytes:
    with open_video(job.source, max(0.0, seconds - 1e-4)) as reader:
        return _jpeg(next(reader).image, reader.info, _THUMBNAIL_SIDE)


def _jpeg(image: av.VideoFrame, info: VideoInfo, side: int) -> bytes:
    """A small image, as it looks (pixels made square), as JPEG."""
    width, height = image.width * float(info.sample_aspect_ratio), float(image.height)
    scale = min(1.0, side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = image.reformat(*size, format="rgb24").to_image()
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return data.getvalue()


class Reporter:
    """Says how far the work is, not too often."""

    def __init__(self, phase: str, total: int | None, part: tuple[int, int] = (1, 1)) -> None:
        self._phase, self._total, self._part = phase, total, part
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
        total = self._total if self._total is None or self._total >= done else None  # the header was wrong
        return Step(self._phase, done, total, rate, picture, self._part)
