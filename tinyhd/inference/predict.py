"""From frames to maps, as a stream: samples, batches of windows, and one map for each frame, in order."""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from tinyhd.errors import OptionError
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.blend import Blend
from tinyhd.inference.prefetch import prefetch
from tinyhd.inference.preprocess import Preprocessor
from tinyhd.inference.shots import mark_cuts
from tinyhd.inference.windows import DEFAULT_OVERLAP, Window, Windowing
from tinyhd.network.config import CLIP_LENGTH
from tinyhd.options import InferenceOptions
from tinyhd.saliency.resize import enlarge
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import VideoReader, open_video

if TYPE_CHECKING:
    from tinyhd.network.model import TinyHD

_READ_AHEAD = 12
"""Frames that a video's reader may be ahead of the network."""


class Prediction(NamedTuple):
    """A frame and where people look in it."""

    frame: Frame
    map: np.ndarray
    """float32 (192, 256), what the network gives: larger means more attention, meaningful up to scale."""
    is_cut: bool
    """Whether a new shot starts here (never at the first frame, nor where cuts are not looked for)."""


class Sample(NamedTuple):
    """A frame that the network has seen."""

    time: Fraction
    """`Frame.time`: seconds after the container's start."""
    map: np.ndarray
    """float32 (h, w), at the network's own resolution."""
    is_cut: bool
    """Whether it is the first of a shot that starts with a cut."""


OnSample = Callable[[Sample], None]


def sampling_stride(rate: float, info: VideoInfo) -> int:
    """N, where every Nth frame is a sample: such that frame rate / N is nearest to `rate`, samples a second, and as
    small as possible. 1 where `rate` is 0 (every frame), for stills, and where the frame rate is not known."""
    if not rate or info.is_still or not info.frame_rate:
        return 1
    below = max(1, int(info.frame_rate / Fraction(rate)))
    return min((below, below + 1), key=lambda n: (abs(info.frame_rate / n - Fraction(rate)), n))  # type: ignore[operator]


def frames_per_sample(backend: Backend, options: InferenceOptions, info: VideoInfo) -> int:
    """Every how many-th frame of a video is a sample."""
    return sampling_stride(backend.sampling_rate if options.sampling_rate is None else options.sampling_rate, info)


def predict_video(
    source: str | PathLike[str] | VideoReader,
    model: "str | PathLike[str] | Backend | TinyHD | None" = None,
    options: InferenceOptions | None = None,
    *,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    on_sample: OnSample | None = None,
) -> Iterator[Prediction]:
    """One prediction for each decoded frame of a video or still, in order, while it is being read by a thread.

    Args:
        source: a path, or an open reader, which is read to its end.
        model: a backend, a network in memory, or a name or path in the place of `options.model`.
        options: how; None: the defaults. `sampling_rate` decides which frames the network sees.
        start, end: part of the video in seconds, for a path.
        on_sample: see `predict_frames`.

    Raises:
        InputError: the file cannot be read.
        OptionError, WeightsError: see `open_backend` and `predict_frames`.
    """
    options = options or InferenceOptions()
    if model is None or isinstance(model, str | PathLike):
        backend = open_backend(options if model is None else replace(options, model=str(model)))
    else:
        backend = _as_backend(model, options)
    windowing = windowing_of(backend, options)

    def predicted(reader: VideoReader) -> Iterator[Prediction]:
        every = frames_per_sample(backend, options, reader.info)
        cuts = options.cuts and not reader.info.is_still
        return _predict(reader, backend, windowing, every, cuts, _batch_size(backend, options), on_sample, _READ_AHEAD)

    if isinstance(source, VideoReader):
        if start is not None or end is not None:
            raise OptionError("start and end are for a path; open the reader with them instead.")
        return predicted(source)

    def opened() -> Iterator[Prediction]:
        with open_video(source, start=start, end=end) as reader:
            yield from predicted(reader)

    return opened()


def predict_frames(
    frames: Iterable[Frame],
    backend: "Backend | TinyHD",
    options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
    *,
    every: int = 1,
    shot_starts: Collection[Fraction] | None = None,
    on_sample: OnSample | None = None,
) -> Iterator[Prediction]:
    """One prediction for each frame, in order, lazily.

    Every Nth frame of a shot, from its first on, is a sample, which the network sees; all are looked at for cuts. The
    map of a frame between two samples is mixed from theirs, linearly in time, never across a cut; after a shot's last
    sample its map is held. Frames are kept only until their map is there: with the default windowing and batch size
    those of 16 to 20 samples, and on GPUs those of one more batch, which is computed while the next one is read.

    Args:
        frames: consecutive frames of one video.
        backend: what computes, or a network in memory.
        options: `windowing`, `overlap`, `batch_size` and `cuts` are used; for a network in memory `precision` too.
        every: N.
        shot_starts: times of the frames with which shots start, where they are known: none are looked for.
        on_sample: called with each sample once its map is final, in order, before the predictions that use it.

    Raises:
        OptionError: a value that is not allowed, or the device is out of memory.
    """
    if every < 1:
        raise OptionError(f"every is {every}; it must be 1 or more.")
    backend = _as_backend(backend, options)
    batch_size = _batch_size(backend, options)
    cuts = options.cuts if shot_starts is None else shot_starts
    return _predict(frames, backend, windowing_of(backend, options), every, cuts, batch_size, on_sample, 0)


def _as_backend(model: "Backend | TinyHD", options: InferenceOptions) -> Backend:
    if hasattr(model, "maps_per_clip"):
        return cast(Backend, model)
    from tinyhd.inference.torch_backend import TorchBackend

    precision = "float32" if options.precision == "auto" else options.precision
    return TorchBackend(cast("TinyHD", model), precision)


def windowing_of(backend: Backend, options: InferenceOptions) -> Windowing:
    """How windows follow each other. Raises `OptionError` where the options do not fit the model."""
    if options.overlap is not None and backend.maps_per_clip == 1:
        raise OptionError("overlap is for models with 16 maps per clip; leave it out.")
    return Windowing(
        backend.maps_per_clip, options.windowing, DEFAULT_OVERLAP if options.overlap is None else options.overlap
    )


def _batch_size(backend: Backend, options: InferenceOptions) -> int:
    default: int = getattr(backend, "batch_size", 1)
    return options.batch_size or default


def _predict(
    frames: Iterable[Frame],
    backend: Backend,
    windowing: Windowing,
    every: int,
    cuts: bool | Collection[Fraction],
    batch_size: int,
    on_sample: OnSample | None,
    read_ahead: int,
) -> Iterator[Prediction]:
    equalize = windowing.kind == "crossfade" and getattr(backend, "equalize", False)
    prepared = _prepared(frames, every, cuts)
    if read_ahead:
        prepared = prefetch(prepared, read_ahead)
    with closing(prepared), closing(_Batches(backend)) as done:
        queue: deque[_Job] = deque()
        shot = _Shot(windowing, on_sample, equalize)
        for frame, image, is_cut in prepared:
            if is_cut:
                queue.extend(shot.jobs(complete=True))
                shot = _Shot(windowing, on_sample, equalize)
            shot.append(frame, image, is_cut)
            queue.extend(shot.jobs(complete=False))
            while len(queue) >= batch_size:
                yield from done.after([queue.popleft() for _ in range(batch_size)])
        queue.extend(shot.jobs(complete=True))
        while queue:
            yield from done.after([queue.popleft() for _ in range(min(batch_size, len(queue)))])
        yield from done.rest()


def _prepared(
    frames: Iterable[Frame], every: int, cuts: bool | Collection[Fraction]
) -> Generator[tuple[Frame, np.ndarray | None, bool], None, None]:
    """Each frame, what the network sees of it where it is a sample, and whether a new shot starts there: looked for, or
    known by the frames' times."""
    preprocess = Preprocessor()
    known: Collection[Fraction] = () if isinstance(cuts, bool) else cuts
    position = 0
    marked = mark_cuts(frames, preprocess.thumbnail) if cuts is True else ((f, f.time in known) for f in frames)
    for frame, is_cut in marked:
        position = 0 if is_cut else position
        yield frame, None if position % every else preprocess.image(frame), is_cut
        position += 1


class _Job(NamedTuple):
    """A window that is ready to be computed."""

    shot: "_Shot"
    window: Window
    clip: np.ndarray
    """float32 (3, 16, 192, 256)."""


class _Batches:
    """Has batches computed. Where the backend has `start`, one is in flight while the next is prepared."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._start: Callable[[np.ndarray], Callable[[], np.ndarray]] | None = getattr(backend, "start", None)
        self._in_flight: tuple[list[tuple[_Shot, Window]], Callable[[], np.ndarray]] | None = None

    def after(self, jobs: list[_Job]) -> Iterator[Prediction]:
        """Take a batch; the predictions that are final now: of this one, or of the one before where it is in flight."""
        clips = np.stack([job.clip for job in jobs]) if len(jobs) > 1 else jobs[0].clip[None]
        windows = [(job.shot, job.window) for job in jobs]
        if self._start is None:
            yield from assign(windows, self._backend(clips))
            return
        started = self._start(clips)
        before, self._in_flight = self._in_flight, (windows, started)
        if before is not None:
            yield from assign(before[0], before[1]())

    def rest(self) -> Iterator[Prediction]:
        """The predictions of the batch in flight."""
        if self._in_flight is not None:
            (windows, result), self._in_flight = self._in_flight, None
            yield from assign(windows, result())

    def close(self) -> None:
        """Wait for the batch in flight: the backend is idle then."""
        if self._in_flight is not None:
            (_, result), self._in_flight = self._in_flight, None
            with suppress(Exception):  # what went wrong before is what the caller hears of
                result()


def assign(windows: "list[tuple[_Shot, Window]]", results: np.ndarray) -> Iterator[Prediction]:
    """The predictions that are final with the maps of some windows, (N, K, h, w)."""
    for (shot, window), maps in zip(windows, results, strict=True):
        yield from shot.add(window, maps)


class _Shot:
    """The frames of one shot that wait for their maps, and what is known of these."""

    def __init__(self, windowing: Windowing, on_sample: OnSample | None, equalize: bool) -> None:
        self.windowing = windowing
        self.on_sample = on_sample
        self.length = 0
        """In samples, so far."""
        self.windows = 0
        self.is_complete = False
        # inputs of the samples that windows to come may need, and the number of the first of them
        self.images: deque[np.ndarray] = deque()
        self.first_image = 0
        # frames that have no map yet, with whether they are cuts and samples
        self.waiting: deque[tuple[Frame, bool, bool]] = deque()
        self.blend = Blend(equalize)
        self.last: Sample | None = None
        """The latest whose map is final."""

    def append(self, frame: Frame, image: np.ndarray | None, is_cut: bool) -> None:
        self.waiting.append((frame, is_cut, image is not None))
        if image is not None:
            self.images.append(image)
            self.length += 1

    def jobs(self, complete: bool) -> Iterator[_Job]:
        """The windows that have become ready; `complete`: the shot ends here."""
        self.is_complete = complete
        while (window := self.windowing.window(self.windows, self.length, complete)) is not None:
            self.windows += 1
            yield _Job(self, window, np.stack([self.images[f - self.first_image] for f in window.frames], 1))
        # a window to come starts in step, or ends with the shot
        needed = min(self.windows * self.windowing.stride, self.length - CLIP_LENGTH)
        while self.first_image < needed:
            self.images.popleft()
            self.first_image += 1

    def add(self, window: Window, maps: np.ndarray) -> Iterator[Prediction]:
        """Take a window's maps, (K, h, w); the predictions that are final with it."""
        for values in self.blend.add(window, maps):
            yield from self._up_to(values)
        if self.is_complete and self.blend.finalized == self.length:
            yield from self._held()

    def _up_to(self, values: np.ndarray) -> Iterator[Prediction]:
        """The frames between the latest sample and the next, whose map this is, and the latter."""
        between = []
        while not self.waiting[0][2]:
            between.append(self.waiting.popleft())
        frame, is_cut, _ = self.waiting.popleft()
        before, self.last = self.last, Sample(frame.time, values, is_cut)
        if self.on_sample is not None:
            self.on_sample(self.last)
        for other, _, _ in between:
            assert before is not None  # a shot starts with a sample
            share = np.float32((other.time - before.time) / (frame.time - before.time))
            yield Prediction(other, enlarge((before.map + share * (values - before.map))[None])[0], False)
        yield Prediction(frame, enlarge(values[None])[0], is_cut)

    def _held(self) -> Iterator[Prediction]:
        """The frames after the shot's last sample."""
        if self.waiting:
            assert self.last is not None
            held = enlarge(self.last.map[None])[0]
            while self.waiting:
                yield Prediction(self.waiting.popleft()[0], held, False)
