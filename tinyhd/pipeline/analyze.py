"""From a video to its track: the one loop in which the network sees a video."""

import contextlib
import io
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from tinyhd.errors import InputError
from tinyhd.files import StrPath, check_target
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.predict import Prediction, Sample, predict_video
from tinyhd.inference.prefetch import prefetch
from tinyhd.options import InferenceOptions
from tinyhd.saliency.track import SaliencyTrack, TrackInfo, identify
from tinyhd.saliency.track_writer import TrackWriter
from tinyhd.video.frame import Frame, Seconds, VideoInfo
from tinyhd.video.reader import VideoReader, open_video, probe

Progress = Callable[[int, int | None], None]
"""Called with (frames done, frames in all or None where that is not known)."""

_PREDICTED_AHEAD = 12
"""Frames with maps that may wait to be used: those of about one window."""


def analyze(
    input: StrPath,
    output: StrPath | None = None,
    *,
    inference: InferenceOptions | None = None,
    backend: Backend | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SaliencyTrack:
    """Let the model look at a video or still image once; everything else can be made from the track.

    Args:
        input: a video, animation or still image.
        output: where to keep the track, ending in .npz; None: in memory, some 2 kB a sample.
        inference: which model, where, on which frames.
        backend: what `open_backend` gave, to be used again; `inference` then only says how windows follow each other.
        start, end: only this part, seconds after the container's start.
        overwrite: replace a file at `output`.
        progress: called after every frame; what it raises ends the work.

    Returns:
        the track, open.

    Raises:
        InputError: the input cannot be read.
        OutputError: the track cannot be written.
        OptionError: a value that is not allowed, or that this machine cannot do.
        WeightsError: there is no such model.
    """
    if output is not None:
        check_target(Path(output), [input], overwrite)
    memory = None if output is not None else io.BytesIO()
    with analysis(
        input, inference=inference, backend=backend, start=start, end=end, keep=memory or output, overwrite=overwrite
    ) as run:
        for done, _ in enumerate(run, start=1):
            if progress:
                progress(done, run.expected_frames)
    return SaliencyTrack(memory if memory is not None else Path(str(output)))


@contextlib.contextmanager
def track_of(
    input: StrPath,
    track: StrPath | SaliencyTrack | None = None,
    *,
    inference: InferenceOptions | None = None,
    backend: Backend | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    progress: Progress | None = None,
) -> Iterator[SaliencyTrack]:
    """The track of a video for the time of the body: the one given, once it was found to belong to the video, or else a
    new one, kept in memory.

    Args:
        track: what `analyze` made of this video, or a file with it: the network is not run.

    The rest, and what is raised, is as for `analyze`.
    """
    if track is None:
        track = analyze(input, inference=inference, backend=backend, start=start, end=end, progress=progress)
    with contextlib.ExitStack() as stack:
        if not isinstance(track, SaliencyTrack):
            track = stack.enter_context(SaliencyTrack(track))
        info = probe(input)
        track.check_source(input, info.width, info.height)
        track.check_range(start, end)
        yield track


def second_pass(
    input: StrPath,
    info: VideoInfo,
    use: Callable[[Frame], None],
    *,
    start: Seconds | None,
    end: Seconds | None,
    passes: int,
    progress: Progress | None,
) -> tuple[VideoReader, int]:
    """Read a video whose track is known, and use each frame; what was found while reading, and how many there were.

    Args:
        use: takes a frame.
        passes: 2: `progress` has counted each frame once already.

    The rest is as for `analyze`. Raises `InputError` where there is no frame.
    """
    total = info.frame_count if start is None and end is None else None
    frames = 0
    with open_video(input, start, end) as reader:
        for frame in reader:
            use(frame)
            frames += 1
            if progress:
                progress(frames if passes == 1 else frames + (total or frames), total and total * passes)
    if not frames:
        raise InputError(f"{info.path!r} has no frame between the times given as start and end.")
    return reader, frames


def of_two(progress: Progress | None) -> Progress | None:
    """`progress` of the first of two passes over a video."""
    return (lambda done, total: progress(done, total and total * 2)) if progress else None


@contextlib.contextmanager
def analysis(
    input: StrPath,
    *,
    inference: InferenceOptions | None = None,
    backend: Backend | None = None,
    track: SaliencyTrack | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    keep: StrPath | IO[bytes] | None = None,
    overwrite: bool = False,
) -> Iterator["Analysis"]:
    """Frames of a video with their maps, from the network or, where one is given, from a track; nothing is opened
    before the input was found readable.

    Args:
        keep: where to write the track of what the network sees.

    The rest is as for `analyze`.
    """
    inference = inference or InferenceOptions()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_video(input, start, end))
        info = reader.info
        if track is not None:
            track.check_source(input, info.width, info.height)
            track.check_range(start, end)
            read: Generator[Prediction] = stack.enter_context(
                contextlib.closing(prefetch(_from_track(reader, track), _PREDICTED_AHEAD))
            )
            yield Analysis(reader, track.info.display_scale, read, start, end)
            return
        writer = stack.enter_context(TrackWriter(keep, overwrite=overwrite)) if keep is not None else None
        source = identify(input, info.width, info.height) if writer else None
        backend = backend or open_backend(inference)
        recorder = _Recorder(writer) if writer else None
        predicted = predict_video(reader, backend, inference, on_sample=recorder.add if recorder else None)
        # reading and the network have a thread each; what uses the maps stays in this one
        ahead: Generator[Prediction] = stack.enter_context(contextlib.closing(prefetch(predicted, _PREDICTED_AHEAD)))
        run = Analysis(reader, backend.display_scale, recorder.through(ahead) if recorder else ahead, start, end)
        yield run
        if writer and source and recorder:
            run.track_info = writer.finish(
                TrackInfo(
                    source=replace(source, frames=run.frames, start_seconds=_number(start), end_seconds=_number(end)),
                    model=backend.model_name,
                    model_hash=backend.model_hash,
                    inference=inference.to_dict(),
                    display_scale=backend.display_scale,
                    damaged=reader.damaged,
                    warnings=tuple(reader.warnings),
                )
            )


class Analysis(Iterator[Prediction]):
    """One pass over a video's frames and maps.

    Attributes:
        reader: the open video; its `damaged` and `warnings` are complete after the last frame.
        display_scale: map value that is drawn as full attention where nothing is measured.
        frames: how many have come so far.
        track_info: of the track that was kept, once the pass is complete.
    """

    def __init__(
        self,
        reader: VideoReader,
        display_scale: float,
        predictions: Iterator[Prediction],
        start: Seconds | None,
        end: Seconds | None,
    ) -> None:
        self.reader, self.info, self.display_scale = reader, reader.info, display_scale
        self.frames = 0
        self.track_info: TrackInfo | None = None
        self._predictions, self._part = predictions, (start, end)
        self.began = time.perf_counter()

    def __next__(self) -> Prediction:
        prediction = next(self._predictions, None)
        if prediction is None:
            if self.frames == 0:
                raise InputError(f"{self.info.path!r} has no frame between the times given as start and end.")
            raise StopIteration
        self.frames += 1
        return prediction

    @property
    def expected_frames(self) -> int | None:
        """About how many frames will come."""
        start, end = self._part
        count, duration = self.info.frame_count, self.info.duration_seconds
        if count is None or (start is None and end is None):
            return count
        if not duration:
            return None
        seconds = min(float(end) if end is not None else np.inf, duration) - float(start or 0)
        return max(0, round(count * seconds / duration))


class _Recorder:
    """Puts samples and cuts into a track."""

    def __init__(self, writer: TrackWriter) -> None:
        self._writer = writer

    def add(self, sample: Sample) -> None:
        self._writer.add(float(sample.time), sample.map)

    def through(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            if prediction.is_cut:
                self._writer.add_cut(prediction.frame.time_seconds)
            yield prediction


def _from_track(frames: Iterable[Frame], track: SaliencyTrack) -> Iterator[Prediction]:
    for frame in frames:
        (saliency,) = track.maps_at([frame.time_seconds])
        yield Prediction(frame, saliency, track.is_cut(frame.time_seconds))


def _number(seconds: Seconds | None) -> float | None:
    return None if seconds is None else float(seconds)
