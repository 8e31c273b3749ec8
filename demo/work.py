"""What happens to a video: the model looks at it once (`analyze`), and files are made of what it saw (`make`).

Both are generators that say how far they are, so that a page shows it and that closing them ends the work; nothing
half-written stays.
"""

import contextlib
import functools
import io
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

import tinyhd
from demo.jobs import Job
from demo.limits import Limits
from demo.moments import most_attended
from tinyhd.applications.crop import CropPath
from tinyhd.applications.reframing import plan_crop
from tinyhd.errors import OptionError
from tinyhd.files import OUTPUT_TAG
from tinyhd.options import EncoderOptions, InferenceOptions, ReframeOptions, RenderOptions
from tinyhd.pipeline.analyze import Progress, analysis
from tinyhd.pipeline.batch import Job as PipelineJob
from tinyhd.pipeline.batch import run_job
from tinyhd.pipeline.moments import MOMENTS_SUFFIX
from tinyhd.pipeline.report import report
from tinyhd.render.grayscale import open_maps_writer
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
KINDS = ("result", "reframed", "heatmap", "moments", "report", "maps", "stats")
"""Of files for downloading."""
ASPECTS = ("9:16", "4:5", "1:1", "16:9")
"""That a video can be cut to."""

_THUMBNAIL_SIDE, _PREVIEW_SIDE = 320, 640
_BROWSER_WIDTH = 64
"""Maps are sent to browsers no wider: that of the embedded model's."""


@dataclass(frozen=True)
class Step:
    """How far the work is."""

    phase: str
    """looking or encoding."""
    done: int
    total: int | None
    frames_per_second: float | None = None
    picture: bytes | None = None
    """The frame at work, JPEG."""


Steps = Generator[Step, None, None]
T = TypeVar("T")


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
        report = _Reporter("looking", run.expected_frames)
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


# ---- files for downloading


def make(job: Job, kind: str, render: RenderOptions, aspect: str = "") -> Generator[Step, None, Path]:
    """A file of one of `KINDS`, made from the track; no model is needed. The last ones are kept.

    Args:
        aspect: of `job.crops`, for a reframed one.

    Raises:
        OptionError: a value that is not allowed.
        InputError: the job is not ready.
    """
    info = job.facts()
    if kind == "stats":
        return job.table
    if kind not in KINDS:
        raise OptionError(f"there is no file {kind!r}; it must be one of {', '.join(KINDS)}.")
    if kind == "heatmap":
        render = replace(render, style="heatmap", opacity=None)
    if kind == "reframed" and aspect not in job.crops:
        raise OptionError(f"This video cannot be cut to {aspect or 'no aspect'!r}: {', '.join(job.crops) or 'none'}.")
    key = (kind, aspect if kind == "reframed" else canonical(render) if kind in ("result", "heatmap") else None)
    if key in job.files:
        return job.files[key]
    folder = job.folder / f"made-{next(_NUMBERS)}"
    folder.mkdir()
    picture = ".png" if info.is_still else ".mp4"
    tag, work = {
        "result": (f"{OUTPUT_TAG}{picture}", _draw),
        "reframed": (f".{aspect.replace(':', 'x')}{picture}", functools.partial(_reframe, aspect)),
        "heatmap": (f".heatmap{picture}", _draw),
        "maps": (".maps.npz", _write_maps),
        "moments": (".moments.zip", _write_moments),
        "report": (".report.html", _write_report),
    }[kind]
    target = folder / f"{job.stem}{tag}"
    try:
        yield from _in_steps(len(job.stats), lambda progress: work(job, target, render, progress))
    except BaseException:
        shutil.rmtree(folder)
        raise
    with job.lock:
        job.files[key] = target
        while len(job.files) > _FILES_KEPT:
            old = job.files.pop(next(iter(job.files)))
            shutil.rmtree(old.parent, ignore_errors=True)
    return target


_NUMBERS = itertools.count()
_FILES_KEPT = 8


def canonical(render: RenderOptions) -> RenderOptions:
    """The options without what their style does not use, so that what looks the same is the same."""
    opacity = None if render.style == "heatmap" else round(render.effective_opacity, 3)
    colormap = RenderOptions().colormap if render.style == "spotlight" else render.colormap
    return replace(render, opacity=opacity, colormap=colormap)


def _draw(job: Job, target: Path, render: RenderOptions, progress: Progress) -> None:
    _run(job, target, progress, render=render)


def _reframe(aspect: str, job: Job, target: Path, _: RenderOptions, progress: Progress) -> None:
    _run(job, target, progress, action="reframe", crop=ReframeOptions(aspect=aspect), path=job.crops[aspect])


def _write_maps(job: Job, target: Path, _: RenderOptions, progress: Progress) -> None:
    with (
        SaliencyTrack(job.track_file) as track,
        analysis(job.source, track=track, end=job.end) as run,
        open_maps_writer(target, run.info, (MAP_HEIGHT, MAP_WIDTH)) as maps,
    ):
        for frame, saliency, _ in run:
            maps.write(frame, saliency)
            progress(run.frames, run.expected_frames)


def _write_moments(job: Job, target: Path, _: RenderOptions, progress: Progress) -> None:
    folder = target.with_suffix("")
    _run(job, folder / f"{job.stem}{MOMENTS_SUFFIX}", progress, action="moments")
    shutil.make_archive(str(folder), "zip", folder)


def _run(job: Job, target: Path, progress: Progress, **what: Any) -> None:
    run_job(PipelineJob(job.source, target, track=job.track_file, end=job.end, **what), progress=progress)


def _write_report(job: Job, target: Path, _: RenderOptions, progress: Progress) -> None:
    report(job.source, target, tracks=[job.track_file], progress=progress)


def finish(steps: Generator[Step, None, T]) -> T:
    """Do all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class _ClosedError(Exception):
    """Nobody waits for the work any more."""


def _in_steps(total: int, work: Callable[[Progress], None]) -> Steps:
    """Do work that calls a function in a thread, and say how far it is; closing the generator ends it."""
    closed, report, done = threading.Event(), _Reporter("encoding", total), 0

    def progress(now: int, _: int | None) -> None:
        nonlocal done
        done = now
        if closed.is_set():
            raise _ClosedError

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(work, progress)
        try:
            while not wait([task], REPORT_SECONDS).done:
                yield report.step(done)
        finally:
            closed.set()
        task.result()


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


class _Reporter:
    """Says how far the work is, not too often."""

    def __init__(self, phase: str, total: int | None) -> None:
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
        total = self._total if self._total is None or self._total >= done else None  # the header was wrong
        return Step(self._phase, done, total, rate, picture)
