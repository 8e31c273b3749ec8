"""From frames to maps: preprocessing, batches of windows, and one map for each frame, in order, as a stream."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from functools import lru_cache
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tinyhd.errors import OptionError
from tinyhd.inference.backends import PRECISIONS as PRECISIONS
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.backends import TorchBackend as TorchBackend
from tinyhd.inference.prefetch import ahead
from tinyhd.inference.shots import THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH, mark_cuts
from tinyhd.inference.windows import DEFAULT_OVERLAP, Window, Windowing
from tinyhd.network.config import CLIP_LENGTH, IMAGENET_MEAN, IMAGENET_STD, MAP_HEIGHT, MAP_WIDTH
from tinyhd.network.model import TinyHD
from tinyhd.video.frame import Frame
from tinyhd.video.reader import VideoReader, open_video

_READ_AHEAD = 12
"""Frames that a video's reader may be ahead of the model."""

# for a line of RGB samples: 8-bit levels * _SCALE - _OFFSET are normalised
_SCALE: np.ndarray = np.tile(1 / (255 * np.array(IMAGENET_STD, np.float32)), MAP_WIDTH)
_OFFSET: np.ndarray = np.tile(np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32), MAP_WIDTH)
_LUMA_OF_NORMALISED = (np.array((0.299, 0.587, 0.114)) * IMAGENET_STD * 255).astype(np.float32)


class Prediction(NamedTuple):
    """A frame and where people look in it."""

    frame: Frame
    map: np.ndarray
    """float32 (192, 256), what the model gives: larger means more attention, meaningful up to scale."""
    is_cut: bool
    """Whether a new shot starts here (never at the first frame, nor where cuts are not looked for)."""


def preprocess(rgb: np.ndarray) -> Tensor:
    """A frame as the network takes it: resized to 192x256 whatever its aspect ratio, and normalised.

    Plain bilinear interpolation with half-pixel centres and no antialiasing, not rounded: the same as
    `F.interpolate(mode="bilinear", align_corners=False)` of the whole frame, but it touches only the pixels that count.

    Args:
        rgb: uint8 (H, W, 3), decoded to RGB at native size.

    Returns:
        float32 (3, 192, 256).
    """
    height, width, _ = rgb.shape
    rows, row_weight = _taps(height, MAP_HEIGHT)
    columns, column_weight = _taps(width, MAP_WIDTH)
    samples = (columns.reshape(-1, 1) * 3 + np.arange(3)).ravel()
    picked = np.take(np.take(rgb.reshape(height, -1), rows.ravel(), axis=0), samples, axis=1).astype(np.float32)
    # in place, and along whole lines of samples: this may run for every frame
    image, lower = picked.reshape(2, MAP_HEIGHT, -1)
    lower -= image
    lower *= row_weight[:, None]
    image += lower
    image, right = image[:, : 3 * MAP_WIDTH], image[:, 3 * MAP_WIDTH :]
    right -= image
    right *= column_weight.repeat(3)
    image = image + right
    image *= _SCALE
    image -= _OFFSET
    return torch.from_numpy(image.reshape(MAP_HEIGHT, MAP_WIDTH, 3)).permute(2, 0, 1).contiguous()


def preprocess_frame(frame: Frame) -> Tensor:
    """`preprocess` of a decoded frame: float32 (3, 192, 256)."""
    return preprocess(frame.to_rgb())


@lru_cache(maxsize=16)
def _taps(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The two source places of each of `out_size` samples, int64 (2, out_size), and the second one's weight."""
    place = np.maximum((np.arange(out_size) + 0.5) * (size / out_size) - 0.5, 0)
    first = np.minimum(place.astype(np.int64), size - 1)
    return np.stack([first, np.minimum(first + 1, size - 1)]), (place - first).astype(np.float32)


def thumbnail(image: Tensor) -> np.ndarray:
    """What `mark_cuts` looks at: the luma of a preprocessed frame up to a constant, float (24, 32) in 8-bit levels."""
    luma = np.tensordot(_LUMA_OF_NORMALISED, image.numpy(), 1)
    height, width = MAP_HEIGHT // THUMBNAIL_HEIGHT, MAP_WIDTH // THUMBNAIL_WIDTH
    lines = luma.reshape(THUMBNAIL_HEIGHT, height, MAP_WIDTH).sum(1)
    small: np.ndarray = lines.reshape(THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH, width).sum(2)
    return small / (height * width)


def predict_video(
    source: str | PathLike[str] | VideoReader,
    model: TinyHD | Backend,
    *,
    windowing: str = "crossfade",
    overlap: int | None = None,
    cuts: bool = True,
    batch_size: int | None = None,
    precision: str = "float32",
    backend: str = "auto",
    start: float | None = None,
    end: float | None = None,
) -> Iterator[Prediction]:
    """One prediction for each decoded frame of a video or picture, in order, while it is being read by a thread.

    Args:
        source: a path, or an open reader, which is read to its end.
        start, end: part of the video in seconds, for a path.

    The rest, and what else is raised, is as for `predict_frames`.

    Raises:
        InputError: the file cannot be read.
    """
    maps = _maps_function(model, precision, backend)
    options = (maps, _windowing(maps, windowing, overlap), cuts, _batch_size(maps, batch_size), _READ_AHEAD)
    if isinstance(source, VideoReader):
        if start is not None or end is not None:
            raise OptionError("start and end are for a path; open the reader with them instead.")
        return _predict(source, *options)

    def opened() -> Iterator[Prediction]:
        with open_video(source, start=start, end=end) as reader:
            yield from _predict(reader, *options)

    return opened()


def predict_frames(
    frames: Iterable[Frame],
    model: TinyHD | Backend,
    *,
    windowing: str = "crossfade",
    overlap: int | None = None,
    cuts: bool = True,
    batch_size: int | None = None,
    precision: str = "float32",
    backend: str = "auto",
) -> Iterator[Prediction]:
    """One prediction for each frame, in order, lazily: frames are held only until their map is there, 16 to 20 of them
    with the default windowing and batch size, and those of one more batch on NVIDIA GPUs (12 by default for M, 4 for
    S), which compute while the next batch is read.

    Where cross-faded windows share a frame, its maps are divided by their sums, averaged, and multiplied by the mean of
    the sums, with the same weights: no window outweighs another, and the result is still what the model gives.

    Args:
        frames: consecutive frames.
        model: on the device that computes, or another runtime's function.
        windowing: crossfade, or published for the authors' (M then jumps at every 16th frame).
        overlap: frames that neighbouring windows share, for M with crossfade; None: `clips.DEFAULT_OVERLAP`.
        cuts: look for shot cuts, and start over at each.
        batch_size: windows that are computed at once; None: 1 for M, 4 for S. More holds more frames in memory.
        precision, backend: of the arithmetic, and what computes; see `backends.open_backend`.

    Raises:
        OptionError: a value that is not allowed, or memory has run out.
    """
    maps = _maps_function(model, precision, backend)
    return _predict(frames, maps, _windowing(maps, windowing, overlap), cuts, _batch_size(maps, batch_size), 0)


def _maps_function(model: TinyHD | Backend, precision: str, backend: str) -> Backend:
    if isinstance(model, TinyHD):
        return open_backend(model, backend, precision)
    if precision != "float32" or backend != "auto":
        raise OptionError("precision and backend are for PyTorch models; this one has its own.")
    return model


def _windowing(maps: Backend, kind: str, overlap: int | None) -> Windowing:
    if overlap is not None and (kind == "published" or maps.maps_per_clip == 1):
        raise OptionError("overlap is for models with 16 maps per clip, cross-faded; leave it out.")
    return Windowing(maps.maps_per_clip, kind, DEFAULT_OVERLAP if overlap is None else overlap)


def _batch_size(maps: Backend, batch_size: int | None) -> int:
    if batch_size is None:
        return 1 if maps.maps_per_clip > 1 else 4
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; it must be 1 or more.")
    return batch_size


def _predict(
    frames: Iterable[Frame], maps: Backend, windowing: Windowing, cuts: bool, batch_size: int, read_ahead: int
) -> Iterator[Prediction]:
    prepared = ((frame, preprocess_frame(frame)) for frame in frames)
    with closing(ahead(prepared, read_ahead) if read_ahead else prepared) as prepared, closing(_Batches(maps)) as done:
        marked = mark_cuts(prepared, lambda item: thumbnail(item[1])) if cuts else ((item, False) for item in prepared)
        queue: deque[_Job] = deque()
        shot = _Shot(windowing)
        for (frame, image), is_cut in marked:
            if is_cut:
                queue.extend(shot.jobs(complete=True))
                shot = _Shot(windowing)
            shot.append(frame, image, is_cut)
            queue.extend(shot.jobs(complete=False))
            while len(queue) >= batch_size:
                yield from done.after([queue.popleft() for _ in range(batch_size)])
        queue.extend(shot.jobs(complete=True))
        while queue:
            yield from done.after([queue.popleft() for _ in range(min(batch_size, len(queue)))])
        yield from done.rest()


class _Job(NamedTuple):
    """A window that is ready to be computed."""

    shot: "_Shot"
    window: Window
    clip: Tensor
    """(3, 16, 192, 256)."""


class _Batches:
    """Has batches computed. Where the function has `start`, one is in flight while the next is made ready."""

    def __init__(self, maps: Backend) -> None:
        self._maps = maps
        self._start: Callable[[Tensor], Callable[[], Tensor]] | None = getattr(maps, "start", None)
        self._in_flight: tuple[list[tuple[_Shot, Window]], Callable[[], Tensor]] | None = None

    def after(self, jobs: list[_Job]) -> Iterator[Prediction]:
        """Take a batch; the predictions that are final now: of this one, or of the one before where it is in flight."""
        clips = torch.stack([job.clip for job in jobs]) if len(jobs) > 1 else jobs[0].clip[None]
        places = [(job.shot, job.window) for job in jobs]
        if self._start is None:
            yield from assign(places, self._maps(clips))
            return
        started = self._start(clips)
        del jobs, clips  # the function has its copy
        before, self._in_flight = self._in_flight, (places, started)
        if before is not None:
            yield from assign(before[0], before[1]())

    def rest(self) -> Iterator[Prediction]:
        """The predictions of the batch in flight."""
        if self._in_flight is not None:
            (places, result), self._in_flight = self._in_flight, None
            yield from assign(places, result())

    def close(self) -> None:
        """Wait for what nobody wants any more: the function is idle then."""
        if self._in_flight is not None:
            (_, result), self._in_flight = self._in_flight, None
            with suppress(Exception):  # what went wrong before is what the caller hears of
                result()


def assign(places: list[tuple["_Shot", Window]], results: Tensor) -> Iterator[Prediction]:
    for (shot, window), maps in zip(places, results, strict=True):
        yield from shot.add(window, maps)


class _Shot:
    """The frames of one shot that wait for their maps, and what is known of these."""

    def __init__(self, windowing: Windowing) -> None:
        self.windowing = windowing
        self.length = 0
        self.windows = 0
        # inputs of the frames that windows to come may need, and the number of the first of them
        self.images: deque[Tensor] = deque()
        self.first_image = 0
        # frames that have no final map yet, and the number of the first of them
        self.waiting: deque[tuple[Frame, bool]] = deque()
        self.first_waiting = 0
        # for the first few of these: weighted sums over their maps, of the maps divided by their sums, the sums, and 1
        self.shapes: Tensor | None = None
        self.masses = torch.empty(0)
        self.weights = torch.empty(0)

    def append(self, frame: Frame, image: Tensor, is_cut: bool) -> None:
        self.waiting.append((frame, is_cut))
        self.images.append(image)
        self.length += 1

    def jobs(self, complete: bool) -> Iterator[_Job]:
        """The windows that have become ready; `complete`: the shot ends here."""
        while (window := self.windowing.window(self.windows, self.length, complete)) is not None:
            self.windows += 1
            yield _Job(self, window, torch.stack([self.images[f - self.first_image] for f in window.frames], 1))
        # a window to come starts in step, or ends with the shot
        needed = min(self.windows * self.windowing.stride, self.length - CLIP_LENGTH)
        while self.first_image < needed:
            self.images.popleft()
            self.first_image += 1

    @torch.inference_mode()
    def add(self, window: Window, maps: Tensor) -> list[Prediction]:
        """Take a window's maps (K, H, W); the predictions that are final with it."""
        used = [k for k, weight in enumerate(window.weights) if weight]
        first, stop = window.map_frames[used[0]], window.map_frames[used[-1]] + 1
        maps = maps[used[0] : used[-1] + 1].float()
        weights = maps.new_tensor(window.weights[used[0] : used[-1] + 1])
        masses = maps.sum((1, 2))
        shapes = maps * (weights / masses.clamp_min(1e-20))[:, None, None]
        if self.shapes is None:
            self.shapes, self.masses, self.weights = maps[:0], masses[:0], weights[:0]
        before, after = first - self.first_waiting, max(0, self.first_waiting + len(self.shapes) - stop)
        self.shapes = _added(self.shapes, shapes, before, after)
        self.masses = _added(self.masses, masses * weights, before, after)
        self.weights = _added(self.weights, weights, before, after)

        count = window.finalized - self.first_waiting
        scale = self.masses[:count] / self.weights[:count] ** 2
        result = self.shapes[:count] * scale[:, None, None]
        self.shapes, self.masses, self.weights = self.shapes[count:], self.masses[count:], self.weights[count:]
        self.first_waiting = window.finalized
        if result.shape[1:] != (MAP_HEIGHT, MAP_WIDTH):
            result = _enlarged(result)
        return [Prediction(*_popped(self.waiting, m)) for m in result.cpu().numpy()]


def _enlarged(maps: Tensor) -> Tensor:
    """Maps (N, H, W) at full size: bicubic, which keeps the peaks that bilinear flattens."""
    rows, columns = _bicubic(maps.shape[1], MAP_HEIGHT), _bicubic(maps.shape[2], MAP_WIDTH)
    # as matrix products, which are much faster than `F.interpolate` on CPUs; it may swing a little below zero
    return (rows.to(maps) @ maps @ columns.to(maps).T).clamp_min_(0)


@lru_cache(maxsize=16)
def _bicubic(size: int, out_size: int) -> Tensor:
    """Bicubic interpolation along a line as a matrix, (out_size, size)."""
    each = torch.eye(size)[:, None, :, None]
    return F.interpolate(each, (out_size, 1), mode="bicubic", align_corners=False)[:, 0, :, 0].T


def _popped(waiting: deque[tuple[Frame, bool]], saliency: np.ndarray) -> tuple[Frame, np.ndarray, bool]:
    frame, is_cut = waiting.popleft()
    return frame, saliency, is_cut


def _added(total: Tensor, part: Tensor, before: int, after: int) -> Tensor:
    """`total` plus `part` along the first axis, `part` starting at `before` and ending `after` from the end."""
    length = before + len(part) + after
    padding = [0] * (2 * (total.ndim - 1))
    total = F.pad(total, [*padding, 0, length - len(total)])
    total[before : before + len(part)] += part
    return total
