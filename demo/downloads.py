"""Files made for downloading, from what the model saw.

`make` and `encode` are generators that say how far they are, so that a page shows it and that closing them ends the
work; nothing half-written stays.
"""

import functools
import itertools
import shutil
import threading
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from demo.jobs import Job
from demo.work import REPORT_SECONDS, Reporter, Step, Steps
from tinyhd.errors import OptionError
from tinyhd.files import ENCODED_TAG, OUTPUT_TAG
from tinyhd.options import EncoderOptions, ReframeOptions, RenderOptions, RoiOptions
from tinyhd.pipeline.analyze import Progress, analysis
from tinyhd.pipeline.batch import Job as PipelineJob
from tinyhd.pipeline.batch import run_job
from tinyhd.pipeline.moments import MOMENTS_SUFFIX
from tinyhd.pipeline.report import report
from tinyhd.render.grayscale import open_maps_writer
from tinyhd.saliency.resize import MAP_HEIGHT, MAP_WIDTH
from tinyhd.saliency.track import SaliencyTrack

KINDS = ("result", "reframed", "heatmap", "moments", "report", "maps", "stats")
"""Of files for downloading."""
CODECS = ("h264", "hevc")
"""That a video can be encoded in by regions and gains by it; see `tinyhd.video.roi`."""

T = TypeVar("T")


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
    picture = ".png" if info.is_still else ".mp4"
    tag, work = {
        "result": (f"{OUTPUT_TAG}{picture}", _draw),
        "reframed": (f".{aspect.replace(':', 'x')}{picture}", functools.partial(_reframe, aspect)),
        "heatmap": (f".heatmap{picture}", _draw),
        "maps": (".maps.npz", _write_maps),
        "moments": (".moments.zip", _write_moments),
        "report": (".report.html", _write_report),
    }[kind]
    options = aspect if kind == "reframed" else canonical(render) if kind in ("result", "heatmap") else None
    return (yield from _kept(job, (kind, options), tag, lambda file, progress: work(job, file, render, progress)))


def _kept(
    job: Job, key: Hashable, tag: str, work: Callable[[Path, Progress], None], reporter: Reporter | None = None
) -> Generator[Step, None, Path]:
    """The file that was kept under a key, or a new one, whose name ends in `tag`."""
    if key in job.files:
        return job.files[key]
    folder = job.folder / f"made-{next(_NUMBERS)}"
    folder.mkdir()
    target = folder / f"{job.stem}{tag}"
    try:
        yield from _in_steps(reporter or Reporter("encoding", len(job.stats)), lambda progress: work(target, progress))
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


@dataclass(frozen=True)
class Encoded:
    """A video that was encoded with more bits where people look."""

    path: Path
    numbers: dict[str, int]
    """Bytes and bits a second of the file, the same of one that is encoded alike all over where the quality was given
    (its names begin with plain_), and the bytes of the file that came, where all of that was encoded."""


def encode(job: Job, roi: RoiOptions, encoder: EncoderOptions) -> Generator[Step, None, Encoded]:
    """Encode a job's video by regions and, if it is not the bit rate that is given, alike all over, to compare.

    Raises:
        OptionError: an encoder or a rate that cannot be had.
        InputError: the job is not ready, or is a still image.
    """
    seconds = job.seconds or 1.0  # a single frame

    def work(strength: RoiOptions) -> Callable[[Path, Progress], None]:
        return lambda file, progress: _run(job, file, progress, action="encode", roi=strength, encoder=encoder)

    strengths = [roi] if encoder.bitrate else [RoiOptions(strength=0), roi]
    numbers: dict[str, int] = {}
    for part, strength in enumerate(strengths, 1):
        last = part == len(strengths)
        reporter = Reporter("encoding" if last else "comparing", len(job.stats), (part, len(strengths)))
        path = yield from _kept(job, (strength, encoder), f"{ENCODED_TAG}.mp4", work(strength), reporter)
        prefix = "" if last else "plain_"
        numbers[f"{prefix}bytes"] = path.stat().st_size
        numbers[f"{prefix}bits_per_second"] = round(8 * path.stat().st_size / seconds)
    if job.end is None:
        numbers["source_bytes"] = job.source.stat().st_size
    return Encoded(path, numbers)


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


def _in_steps(report: Reporter, work: Callable[[Progress], None]) -> Steps:
    """Do work that calls a function in a thread, and say how far it is; closing the generator ends it."""
    closed, done = threading.Event(), 0

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
