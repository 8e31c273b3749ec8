"""What the model saw in one video, once: maps at the network's own resolution and when they were seen.

A track is one `.track.npz` file, which NumPy reads too:

    track.json         the source, the model, the options, what is displayed as full attention
    maps_000000.npy    uint16 (K, h, w), `chunk` samples (the last file: fewer): 0 to `LEVELS`, a map's own maximum
    ...
    peaks.npy          float32 (N,): the maxima as the model gave them
    times.npy          float64 (N,): seconds after the container's start, increasing
    cuts.npy           float64: times of the frames where a new shot starts

It is written while the video is read, and read back chunk by chunk: neither holds more than a few hundred maps.
"""

import hashlib
import itertools
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from tinyhd.errors import InputError
from tinyhd.files import StrPath
from tinyhd.saliency.resize import enlarge
from tinyhd.version import __version__
from tinyhd.video.frame import Seconds

TRACK_SUFFIX = ".track.npz"
LEVELS = 1023
"""Steps of a stored value, from 0 to the map's maximum: half a step is less than a thousandth."""

TRACK_FORMAT, TRACK_VERSION = "tinyhd-track", 1
_HASHED_BYTES = 4 * 2**20
_SLACK_SECONDS = 1e-6
_MAX_SHAPE, _MAX_HEADER_BYTES, _MAX_ARRAY_BYTES = 1024, 2**20, 2**28
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    NotImplementedError,
)


@dataclass(frozen=True)
class TrackSource:
    """The file that a track was made of."""

    name: str
    """Without its folder."""
    bytes: int
    head_sha256: str
    """Of its first 4 MiB."""
    width: int
    height: int
    """Of the upright frames, pixels."""
    frames: int = 0
    """That were read."""
    start_seconds: float | None = None
    end_seconds: float | None = None
    """The part that was read; None: from the beginning, to the end."""


@dataclass(frozen=True)
class TrackInfo:
    """What a track holds besides maps."""

    source: TrackSource
    model: str
    model_hash: str
    inference: dict[str, Any] = field(default_factory=dict)
    """`InferenceOptions` by name."""
    display_scale: float = 0.2
    """Map value that is drawn as full attention where nothing is measured."""
    value_range: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest value of all maps."""
    samples: int = 0
    shape: tuple[int, int] = (0, 0)
    """(h, w) of the stored maps."""
    chunk: int = 1
    """Samples a file."""
    damaged: bool = False
    warnings: tuple[str, ...] = ()
    """What was met while the video was read."""
    tinyhd: str = __version__


def identify(path: StrPath, width: int, height: int) -> TrackSource:
    """What a file is told from others by. Raises `InputError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(_HASHED_BYTES)).hexdigest()
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{os.fspath(path)!r} cannot be read: {error.strerror}.") from error
    return TrackSource(Path(path).name, size, digest, width, height)


class SaliencyTrack:
    """An open track: `info`, and maps at any times. Close it, or use it in a `with` statement.

    Attributes:
        info: what is known of it.
        times: float64 (N,), seconds after the container's start, of the samples.
        cuts: float64, times of the frames where a new shot starts.
    """

    def __init__(self, source: StrPath | IO[bytes]) -> None:
        """
        Args:
            source: a file that `TrackWriter` wrote.

        Raises:
            InputError: it cannot be read, is damaged, or is not a track.
        """
        self.name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the track"
        try:
            self._zip = zipfile.ZipFile(source)
        except FileNotFoundError as error:
            raise InputError(f"the track {self.name!r} does not exist: check the path.") from error
        except _ZIP_ERRORS as error:
            raise self._damaged() from error
        try:
            self.info = self._read_info()
            self.times, self.cuts = self._array("times", np.float64), self._array("cuts", np.float64)
            self._peaks = self._array("peaks", np.float32)
            ordered = bool((np.diff(self.times) > 0).all()) and bool(np.isfinite(self._peaks).all())
            if not len(self.times) == len(self._peaks) == self.info.samples > 0 or not ordered:
                raise self._damaged()
        except BaseException:
            self._zip.close()
            raise
        self._chunks: dict[int, np.ndarray] = {}
        self._shots = np.searchsorted(self.cuts, self.times + _SLACK_SECONDS, side="right")

    def __len__(self) -> int:
        return len(self.times)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        self._zip.close()

    def sample(self, index: int) -> np.ndarray:
        """The map of a sample as the model gave it, float32 (h, w)."""
        levels = self._chunk(index // self.info.chunk)[index % self.info.chunk]
        return levels * np.float32(self._peaks[index] / LEVELS)

    def own_maps_at(self, times: Iterable[float]) -> Iterator[np.ndarray]:
        """The maps at some times, float32 (h, w), at the network's own resolution.

        Between two samples of a shot maps are mixed linearly; before its first and after its last one these are held.
        """
        for time in times:
            shot = int(np.searchsorted(self.cuts, time + _SLACK_SECONDS, side="right"))
            before = int(np.searchsorted(self.times, time + _SLACK_SECONDS, side="right")) - 1
            inside = [k for k in (before, before + 1) if 0 <= k < len(self) and self._shots[k] == shot]
            if not inside:  # a time between shots' samples: the nearest there is
                inside = [min(max(before, 0), len(self) - 1)]
            saliency = self.sample(inside[0])
            if len(inside) == 2:
                first, second = self.times[inside]
                weight = np.float32((time - first) / (second - first))
                if weight > _SLACK_SECONDS:
                    saliency = saliency * (1 - weight) + self.sample(inside[1]) * weight
            yield saliency

    def maps_at(self, times: Iterable[float]) -> Iterator[np.ndarray]:
        """The maps at some times, float32 (192, 256); see `own_maps_at`."""
        return (enlarge(saliency[None])[0] for saliency in self.own_maps_at(times))

    def is_cut(self, time: float) -> bool:
        """Whether a new shot starts with the frame at this time."""
        place = int(np.searchsorted(self.cuts, time - _SLACK_SECONDS))
        return place < len(self.cuts) and bool(abs(self.cuts[place] - time) <= _SLACK_SECONDS)

    def check_source(self, path: StrPath, width: int, height: int) -> None:
        """Refuse a track of another video.

        Args:
            path: the video.
            width, height: of its upright frames.

        Raises:
            InputError: the size of the file or of its frames, or its first megabytes are others.
        """
        found, known = identify(path, width, height), self.info.source
        why = None
        if found.bytes != known.bytes:
            why = f"its file has {known.bytes} bytes, this one {found.bytes}"
        elif (found.width, found.height) != (known.width, known.height):
            why = f"its frames are {known.width}x{known.height}, these {found.width}x{found.height}"
        elif found.head_sha256 != known.head_sha256:
            why = "its content is different"
        if why:
            raise InputError(
                f"the track {self.name!r} is of another video, {known.name!r} ({why}): analyze this one first."
            )

    def check_range(self, start: Seconds | None, end: Seconds | None) -> None:
        """Refuse a part of the video that the track does not cover. Raises `InputError`."""
        known = self.info.source
        before = known.start_seconds is not None and (start or 0) < known.start_seconds - _SLACK_SECONDS
        after = known.end_seconds is not None and (end is None or end > known.end_seconds + _SLACK_SECONDS)
        if before or after:
            first, last = known.start_seconds or 0, known.end_seconds
            part = f"from {first:g} s to {'the end' if last is None else f'{last:g} s'}"
            raise InputError(f"the track {self.name!r} covers the video {part} only: choose a part of that.")

    # ---- reading

    def _damaged(self) -> InputError:
        return InputError(f"{self.name!r} is not a track, or a damaged one: make it again with `tinyhd analyze`.")

    def _read_info(self) -> TrackInfo:
        try:
            with self._zip.open("track.json") as member:
                header = json.loads(member.read(_MAX_HEADER_BYTES))
            if header["format"] != TRACK_FORMAT:
                raise ValueError
            if header["version"] > TRACK_VERSION:
                raise InputError(f"the track {self.name!r} was made by a newer tinyhd: update, or analyze again.")
            return parse_info(header)
        except _ZIP_ERRORS as error:
            raise self._damaged() from error

    def _array(self, name: str, dtype: type) -> np.ndarray:
        try:
            with self._zip.open(f"{name}.npy") as member:
                if np.lib.format.read_magic(member) != (1, 0):
                    raise ValueError
                shape, is_fortran, found = np.lib.format.read_array_header_1_0(member)
                size = math.prod(shape) * found.itemsize
                if found != dtype or is_fortran or size > _MAX_ARRAY_BYTES:  # before memory is taken
                    raise ValueError
                return np.frombuffer(member.read(size), dtype).reshape(shape)
        except _ZIP_ERRORS as error:
            raise self._damaged() from error

    def _chunk(self, number: int) -> np.ndarray:
        if number in self._chunks:
            return self._chunks[number]
        levels = self._array(f"maps_{number:06d}", np.uint16)
        count = min(self.info.chunk, len(self) - number * self.info.chunk)
        if levels.shape != (count, *self.info.shape):
            raise self._damaged()
        while len(self._chunks) > 1:  # two, for the samples on both sides of a border
            del self._chunks[next(iter(self._chunks))]
        self._chunks[number] = levels
        return levels


def parse_info(header: dict[str, Any]) -> TrackInfo:
    """What a track's header says. Raises `ValueError`, `TypeError` or `KeyError` where it is not one."""
    values = {name: header[name] for name in TrackInfo.__dataclass_fields__}
    low, high = values["value_range"]
    height, width = values["shape"]
    if not (0 < height <= _MAX_SHAPE and 0 < width <= _MAX_SHAPE and 0 < values["chunk"] < 2**20):
        raise ValueError(f"chunks of {values['chunk']} x {height} x {width}")
    return TrackInfo(
        **values
        | {
            "source": TrackSource(**values["source"]),
            "value_range": (float(low), float(high)),
            "shape": (int(height), int(width)),
            "warnings": tuple(values["warnings"]),
        }
    )


def shot_bounds(cuts: Sequence[float], start: float, end: float) -> list[tuple[float, float]]:
    """The shots of a video from `start` to `end` seconds: (start, end) of each, by the times of its cuts."""
    edges = [start, *(float(cut) for cut in cuts if start < cut < end), end]
    return list(itertools.pairwise(edges))
