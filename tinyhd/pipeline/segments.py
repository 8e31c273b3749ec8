"""A long video in segments, whose tracks join to the one that an unsplit run gives.

1. `Scan`: stretches of the video are decoded side by side, for the times of all frames and the cuts between them.
2. `Segment`: the video is split at cuts, or within a long shot where a window of the network starts. Each segment's
   track is computed by itself; within a shot it starts some windows early and ends one late, so that every map that is
   kept was blended from the same windows as in an unsplit run.
3. `Join`: the tracks are put together, and used.

What a task gives is a file in a folder beside the output, named after all that it depends on: a run that was
interrupted goes on with those that are there.
"""

import contextlib
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from tinyhd.errors import InputError, TinyHDError
from tinyhd.files import TEMPORARY_PREFIX, AtomicOutput, check_target, make_folder
from tinyhd.inference.backends import Backend
from tinyhd.inference.predict import Sample, frames_per_sample, predict_frames, windowing_of
from tinyhd.inference.prefetch import prefetch
from tinyhd.inference.preprocess import Preprocessor
from tinyhd.inference.shots import FRAMES_BEFORE, mark_cuts
from tinyhd.network.config import CLIP_LENGTH
from tinyhd.network.registry import find_model
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.pipeline.manifest import output_names, settings_hash
from tinyhd.pipeline.outputs import Result
from tinyhd.saliency.track import SaliencyTrack, TrackInfo, identify
from tinyhd.saliency.track_writer import TrackWriter
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import VideoReader, open_video, probe

_LEAD_SECONDS = 4
"""Read before a stretch for its cuts, at first; more where this holds too few frames."""

_LEAD_FRAMES = FRAMES_BEFORE + 2
_SETTLE_SECONDS = 1
"""Read before a segment, for the deinterlacer."""

_LEAST_REST = 2 * CLIP_LENGTH
"""Samples that a shot must have after a border within it: its last window ends with it, not in step."""

_READ_AHEAD = 12


class Part(Protocol):
    """One step on the way to a video's output."""

    @property
    def job(self) -> Job:
        """What it is a part of."""

    def run(self, backend: Backend | None) -> Result | None:
        """Do it; the last one has a result."""


@dataclass(frozen=True)
class Scan:
    """Find the times of frames and the cuts in a stretch of a video: `start` to `end`, None: as far as the job's."""

    job: Job
    start: Fraction | None
    end: Fraction | None
    target: Path

    def run(self, backend: Backend | None) -> None:
        assert backend is not None
        inference, lead = self.job.inference, Fraction(_LEAD_SECONDS)
        origin = Fraction(self.job.start or 0)
        while True:
            begin = origin if self.start is None else max(origin, self.start - lead)
            last = self.job.end if self.end is None else None
            with open_video(self.job.input, begin, last) as reader:
                before, stamps, cuts = self._read(reader, inference.cuts)
                is_clean = not (reader.damaged or reader.warnings)
                every = frames_per_sample(backend, inference, reader.info)
            if begin == origin or before >= _LEAD_FRAMES:
                break
            lead *= 4
        stride = windowing_of(backend, inference).stride
        with AtomicOutput(self.target, overwrite=True) as output, output.temporary.open("wb") as file:
            np.savez(file, stamps=np.array(stamps, np.int64), cuts=np.array(cuts, bool),
                     facts=np.array([is_clean, every, stride], np.int64))  # fmt: skip

    def _read(self, reader: VideoReader, wants_cuts: bool) -> tuple[int, list[int], list[bool]]:
        """How many frames come before the stretch; the timestamps of those in it, and which start a shot."""
        before, stamps, cuts = 0, [], []
        thumbnail = Preprocessor().thumbnail
        for frame, is_cut in mark_cuts(reader, thumbnail) if wants_cuts else ((frame, False) for frame in reader):
            if self.start is not None and frame.time < self.start:
                before += 1
            elif self.end is not None and frame.time >= self.end:
                break
            else:
                stamps.append(frame.pts)
                cuts.append(is_cut)
        return before, stamps, cuts


class Span(NamedTuple):
    """A segment, by numbers of frames, in the job's part of the video."""

    read_from: int
    read_to: int
    """One more than the last."""
    keep_from: int
    keep_to: int


@dataclass(frozen=True)
class Segment:
    """Compute the track of a segment."""

    job: Job
    read_from: Fraction
    read_to: Fraction | None
    keep_from: Fraction
    keep_to: Fraction | None
    cuts: tuple[Fraction, ...]
    """Of the frames that are read, those with which a shot starts, but for the first."""
    starts_with_cut: bool
    frames: int
    """That are read."""
    kept: int
    every: int
    target: Path

    def run(self, backend: Backend | None) -> None:
        assert backend is not None
        job, seen = self.job, 0

        def keep(sample: Sample) -> None:
            if sample.time >= self.keep_from and (self.keep_to is None or sample.time < self.keep_to):
                writer.add(float(sample.time), sample.map)

        with (
            open_video(job.input, max(Fraction(0), self.read_from - _SETTLE_SECONDS), job.end) as reader,
            TrackWriter(self.target, overwrite=True) as writer,
            contextlib.closing(prefetch(self._frames(reader), _READ_AHEAD)) as frames,
        ):
            for _ in predict_frames(
                frames, backend, job.inference, every=self.every, shot_starts=frozenset(self.cuts), on_sample=keep
            ):
                seen += 1
            if seen != self.frames:
                raise InputError(
                    f"{os.fspath(job.input)!r} does not decode to the same frames twice: leave out --segment-minutes."
                )
            for cut in (self.keep_from,) * self.starts_with_cut + self.cuts:
                if cut >= self.keep_from and (self.keep_to is None or cut < self.keep_to):
                    writer.add_cut(float(cut))
            source = identify(job.input, reader.info.width, reader.info.height)
            start, end = (None if t is None else float(t) for t in (job.start, job.end))
            writer.finish(
                TrackInfo(
                    source=replace(source, frames=self.kept, start_seconds=start, end_seconds=end),
                    model=backend.model_name,
                    model_hash=backend.model_hash,
                    inference=job.inference.to_dict(),
                    display_scale=backend.display_scale,
                )
            )

    def _frames(self, reader: VideoReader) -> Iterator[Frame]:
        for frame in reader:
            if self.read_to is not None and frame.time >= self.read_to:
                return
            if frame.time >= self.read_from:
                yield frame


@dataclass(frozen=True)
class Join:
    """Put the tracks of all segments together, and do with the video what is to be done."""

    job: Job
    parts: tuple[Path, ...]
    target: Path

    def run(self, _backend: Backend | None) -> Result:
        began, job = time.perf_counter(), self.job
        is_output = job.action == "analyze" and job.output is not None
        target = job.output if is_output and job.output is not None else self.target
        info = join(self.parts, target, overwrite=job.overwrite or not is_output)
        if not is_output:
            return run_job(replace(job, track=target))
        seconds = time.perf_counter() - began
        return Result(job.input, target, info.source.frames, seconds, info.damaged, info.warnings)


def join(parts: tuple[Path, ...], target: Path, *, overwrite: bool = False) -> TrackInfo:
    """Write the track that follows from those of a video's segments, in order; what is known of it."""
    frames = 0
    with TrackWriter(target, overwrite=overwrite) as writer:
        for part in parts:
            with SaliencyTrack(part) as track:
                writer.extend(track)
                info = track.info
                frames += info.source.frames
        return writer.finish(replace(info, source=replace(info.source, frames=frames)))


# ---- what follows what


class Film:
    """The steps for one job, stage by stage: the tasks of a stage may run side by side."""

    def __init__(self, job: Job, minutes: float | None) -> None:
        """
        Args:
            minutes: length of the segments; None, or where the video is not much longer: it is done in one.
        """
        self._job, self._minutes = job, minutes
        self._folder: Path | None = None

    def stages(self) -> Iterator[list[Job | Part]]:
        """Lists of tasks; the next list is to be asked for when all of this one are done. The last is a single task."""
        job = self._job
        try:
            split = self._split()
            if split is not None:
                self._folder, key, info, edges = split
                scans = [
                    Scan(job, start, end, self._folder / f"{key}-scan-{k:04d}.npz")
                    for k, (start, end) in enumerate(itertools.pairwise(edges))
                ]
                yield from _missing(scans)
                segments = self._segments(scans, info, key)
                if segments:
                    yield from _missing(segments)
                    joined = self._folder / f"{key}.track.npz"
                    yield [Join(job, tuple(segment.target for segment in segments), joined)]
                    return
        except (TinyHDError, OSError):
            pass  # in one piece the same comes up, and is said
        yield [job]

    def clear(self) -> None:
        """Remove what the steps have left to each other."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _split(self) -> tuple[Path, str, VideoInfo, list[Fraction | None]] | None:
        """The folder, the start of all names in it, and the borders of the stretches; None: in one piece."""
        job = self._job
        if self._minutes is None or not job.needs_network:
            return None
        info = probe(job.input)
        length, start = Fraction(self._minutes) * 60, Fraction(job.start or 0)
        end = min(Fraction(info.duration_seconds or 0), Fraction(job.end) if job.end is not None else Fraction(10**9))
        count = round((end - start) / length)
        if count < 2:
            return None
        output = Path(output_names(job)[0])
        check_target(output, [job.input], job.overwrite)  # before anything is done
        mark = hashlib.sha256(os.fsencode(output)).hexdigest()[:8]
        status = os.stat(job.input)
        facts = (
            settings_hash(job),
            find_model(job.inference.model).hash,
            self._minutes,
            status.st_size,
            status.st_mtime_ns,
        )
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
        folder = make_folder(output.parent / f"{TEMPORARY_PREFIX}parts-{mark}")
        inner = [start + (end - start) * k / count for k in range(1, count)]
        return folder, key, info, [None, *inner, None]

    def _segments(self, scans: list[Scan], info: VideoInfo, key: str) -> list[Segment]:
        """The segments, as the scans say; none where the video cannot be read from anywhere in it as from its start."""
        assert self._folder is not None
        assert self._minutes is not None
        files = []
        for scan in scans:
            with np.load(scan.target, allow_pickle=False) as file:
                files.append({name: file[name] for name in ("stamps", "cuts", "facts")})
        stamps = np.concatenate([file["stamps"] for file in files])
        cuts = np.concatenate([file["cuts"] for file in files])
        if not all(file["facts"][0] for file in files) or not (np.diff(stamps) > 0).all():
            return []
        _, every, stride = (int(value) for value in files[0]["facts"])
        times = [int(stamp) * info.time_base - info.start_time for stamp in stamps]
        seconds = (stamps - stamps[0]) * float(info.time_base)
        spans = plan_spans(seconds, np.flatnonzero(cuts), every, stride, self._minutes * 60)

        def time_of(index: int) -> Fraction | None:
            return times[index] if index < len(times) else None

        return [
            Segment(
                self._job,
                times[span.read_from],
                time_of(span.read_to),
                times[span.keep_from],
                time_of(span.keep_to),
                tuple(times[k] for k in np.flatnonzero(cuts) if span.read_from < k < span.read_to),
                bool(cuts[span.read_from]) and span.read_from == span.keep_from,
                span.read_to - span.read_from,
                span.keep_to - span.keep_from,
                every,
                self._folder / f"{key}-part-{number:04d}.track.npz",
            )
            for number, span in enumerate(spans)
        ]


def _missing(tasks: "list[Scan] | list[Segment]") -> Iterator[list[Job | Part]]:
    """A stage of those whose files are not there, where there are such."""
    missing: list[Job | Part] = [task for task in tasks if not task.target.exists()]
    if missing:
        yield missing


def plan_spans(seconds: np.ndarray, cuts: np.ndarray, every: int, stride: int, length: float) -> list[Span]:
    """Where to split a video.

    Args:
        seconds: float (N,), times of its frames.
        cuts: numbers of the frames with which shots start, but for the first, increasing.
        every: every how many-th frame of a shot is a sample.
        stride: samples from one window to the next.
        length: of a segment, seconds, about.

    Returns:
        at least one span; their kept frames are all frames, each once, in order. Borders are cuts, or, where none comes
        within half a segment, the first frame of a window.
    """
    count = len(seconds)
    early = -(-(CLIP_LENGTH - stride) // stride)
    """Windows that the first kept sample shares with those before."""
    spans: list[Span] = []
    read_from = keep_from = 0
    while True:
        aim = int(np.searchsorted(seconds, seconds[keep_from] + length))
        next_cut = int(np.searchsorted(cuts, aim))
        cut = int(cuts[next_cut]) if next_cut < len(cuts) else count
        shot = int(cuts[next_cut - 1]) if next_cut else 0
        near = aim >= count or seconds[min(cut, count - 1)] <= seconds[keep_from] + 1.5 * length
        # the first window that starts after the aim, in the shot that the aim lies in
        window = max(early, -(-(aim - shot) // (stride * every)))
        rest = -(-(cut - shot) // every) - window * stride
        if near or rest < _LEAST_REST:
            border = read_to = next_read = cut
        else:
            border = shot + window * stride * every
            read_to = shot + ((window - 1) * stride + CLIP_LENGTH - 1) * every + 1
            next_read = shot + (window - early) * stride * every
        spans.append(Span(read_from, read_to, keep_from, border))
        if border >= count:
            return spans
        read_from, keep_from = next_read, border
