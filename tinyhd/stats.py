"""Numbers about attention, frame by frame: where its peak and its centre are, how spread it is, and how much of it
falls into regions of interest."""

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from tinyhd.errors import InputError, OptionError
from tinyhd.files import PendingOutput, cannot_write, check_suffix

STATS_SUFFIXES = (".csv", ".jsonl")

CENTER_BOX = (0.25, 0.25, 0.75, 0.75)
"""The middle of the picture, a quarter of its area: left, top, right, bottom as fractions."""

_SUBSAMPLES = 8  # for polygons: points tested per map pixel, along each axis


@dataclass(frozen=True)
class FrameStats:
    """Attention in one frame. Places are fractions of the picture: x from 0 at the left edge to 1 at the right one, y
    from the top down."""

    frame: int
    """Number of the frame, from 0."""
    time_seconds: float
    """After the container's start."""
    peak: float
    """Largest value of the map as the model gives it."""
    peak_x: float
    peak_y: float
    """Where that is (the middle of the map's pixel)."""
    center_x: float
    center_y: float
    """Centre of mass."""
    spread: float
    """Root mean square distance from the centre of mass, as a fraction of the picture's diagonal."""
    entropy_bits: float
    """Of the map as a probability distribution: 0 for one pixel, 15.6 for all 192x256 alike."""
    regions: dict[str, float] = field(default_factory=dict)
    """For each region the share of the attention that falls into it, 0 to 1."""

    def to_dict(self) -> dict[str, float]:
        """All numbers by column name, those of regions as `region:NAME`."""
        values = {name: value for name, value in self.__dict__.items() if name != "regions"}
        return values | {f"region:{name}": share for name, share in self.regions.items()}


class StatsComputer:
    """Computes `FrameStats` for the maps of one video."""

    def __init__(
        self, width: int, height: int, sample_aspect_ratio: float = 1, regions: "Sequence[Region] | None" = None
    ) -> None:
        """
        Args:
            width, height: of the upright picture in pixels.
            sample_aspect_ratio: width / height of a pixel as shown.
            regions: places of interest, from `read_regions`.

        Raises:
            OptionError: a region lies outside the picture.
        """
        self._size = (width, height)
        shown_width = width * float(sample_aspect_ratio)
        self._stretch = np.array([shown_width, height]) / math.hypot(shown_width, height)
        self._regions = list(regions or ())
        self._masks: np.ndarray | None = None
        for region in self._regions:
            region.check_inside(width, height)

    def __call__(self, saliency: np.ndarray, frame: int, time_seconds: float) -> FrameStats:
        """Numbers about a map, float (H, W), not negative; all maps must have the same size."""
        height, width = saliency.shape
        share = saliency.astype(np.float64)
        total = share.sum()
        share = share / total if total > 0 else np.full(share.shape, 1 / share.size)
        peak_row, peak_column = divmod(int(np.argmax(saliency)), width)
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        columns, rows = share.sum(0), share.sum(1)
        center_x, center_y = float(columns @ x), float(rows @ y)
        variance = np.array([columns @ (x - center_x) ** 2, rows @ (y - center_y) ** 2])
        positive = share[share > 0]
        return FrameStats(
            frame=frame,
            time_seconds=time_seconds,
            peak=float(saliency[peak_row, peak_column]),
            peak_x=float(x[peak_column]),
            peak_y=float(y[peak_row]),
            center_x=center_x,
            center_y=center_y,
            spread=float(np.sqrt(self._stretch**2 @ variance)),
            entropy_bits=max(0.0, float(-(positive * np.log2(positive)).sum())),
            regions=self._region_shares(share),
        )

    def _region_shares(self, share: np.ndarray) -> dict[str, float]:
        if not self._regions:
            return {}
        if self._masks is None:
            self._masks = np.stack([region.coverage(share.shape, *self._size).ravel() for region in self._regions])
        shares = self._masks @ share.ravel()
        return {region.name: float(value) for region, value in zip(self._regions, shares, strict=True)}


def share_in_boxes(saliency: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The share of the attention that falls into each of some boxes, exact to parts of a map pixel.

    Args:
        saliency: a map, float (H, W), not negative.
        boxes: (N, 4): left, top, right, bottom as fractions of the picture; what lies outside it counts nothing.

    Returns:
        float (N,), 0 to 1; 0 for a box without area. A map that is zero everywhere counts as even.
    """
    height, width = saliency.shape
    summed = np.zeros((height + 1, width + 1))
    summed[1:, 1:] = saliency.cumsum(0, dtype=np.float64).cumsum(1)
    if summed[-1, -1] <= 0:
        summed = np.outer(np.arange(height + 1), np.arange(width + 1)).astype(np.float64)
    left, top, right, bottom = np.clip(np.asarray(boxes, float).reshape(-1, 4), 0, 1).T

    def up_to(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # attention left of x and above y: between the pixels' corners the sums are bilinear
        columns, rows = x * width, y * height
        c, r = np.minimum(columns.astype(int), width - 1), np.minimum(rows.astype(int), height - 1)
        u, v = columns - c, rows - r
        upper = summed[r, c] * (1 - u) + summed[r, c + 1] * u
        lower = summed[r + 1, c] * (1 - u) + summed[r + 1, c + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    inside = up_to(right, bottom) - up_to(left, bottom) - up_to(right, top) + up_to(left, top)
    return np.where((right > left) & (bottom > top), np.clip(inside / summed[-1, -1], 0, 1), 0.0)


# ---- whole videos


class Focus(NamedTuple):
    """What `VideoStats` adds to the numbers of a frame."""

    center_share: float
    """Share of the attention inside `CENTER_BOX`, 0 to 1."""
    peak_speed: float
    """How fast the peak has moved since the frame before, in picture diagonals per second; 0 where a shot starts."""


@dataclass(frozen=True)
class VideoSummary:
    """Attention in a whole video: means over its frames."""

    frame_count: int
    peak_x: float
    peak_y: float
    """Where the mean of all maps, each with sum 1, is largest; fractions of the picture."""
    spread: float
    entropy_bits: float
    center_share: float
    peak_speed: float
    """The rest are means of the numbers that `FrameStats` and `Focus` explain."""


class VideoStats:
    """Sums up the maps of one video."""

    def __init__(self, width: int, height: int, sample_aspect_ratio: float = 1) -> None:
        """The arguments are those of `StatsComputer`."""
        shown_width = width * float(sample_aspect_ratio)
        diagonal = math.hypot(shown_width, height)
        self._stretch = (shown_width / diagonal, height / diagonal)
        self._frames = 0
        self._sums = np.zeros(4)
        self._mean_map: np.ndarray | None = None
        self._last: FrameStats | None = None

    def add(self, saliency: np.ndarray, stats: FrameStats, is_cut: bool = False) -> Focus:
        """Take the next frame's map, float (H, W), and what `StatsComputer` made of it."""
        center_share = float(share_in_boxes(saliency, np.array([CENTER_BOX]))[0])
        speed = 0.0
        if self._last is not None and not is_cut and stats.time_seconds > self._last.time_seconds:
            dx = (stats.peak_x - self._last.peak_x) * self._stretch[0]
            dy = (stats.peak_y - self._last.peak_y) * self._stretch[1]
            speed = math.hypot(dx, dy) / (stats.time_seconds - self._last.time_seconds)
        self._frames += 1
        self._last = stats
        self._sums += (stats.spread, stats.entropy_bits, center_share, speed)
        total = float(saliency.sum())
        if self._mean_map is None:
            self._mean_map = np.zeros(saliency.shape)
        if total > 0:
            self._mean_map += saliency / total
        return Focus(center_share, speed)

    def summary(self) -> VideoSummary:
        """The numbers of all frames so far.

        Raises:
            ValueError: there was none.
        """
        if self._mean_map is None:
            raise ValueError("there is no summary of no frames")
        height, width = self._mean_map.shape
        row, column = divmod(int(np.argmax(self._mean_map)), width)
        spread, entropy, center, speed = (float(value) for value in self._sums / self._frames)
        return VideoSummary(
            frame_count=self._frames,
            peak_x=(column + 0.5) / width,
            peak_y=(row + 0.5) / height,
            spread=spread,
            entropy_bits=entropy,
            center_share=center,
            peak_speed=speed,
        )


# ---- regions


@dataclass(frozen=True)
class Region:
    """A named polygon."""

    name: str
    points: tuple[tuple[float, float], ...]
    """Corners (x, y), in pixels of the upright picture or as fractions of its size."""
    in_pixels: bool = False

    def check_inside(self, width: int, height: int) -> None:
        """Raises `OptionError` where the whole region lies outside a picture of this size."""
        corners = self._fractions(width, height)
        if (corners.max(0) <= 0).any() or (corners.min(0) >= 1).any():
            hint = "" if self.in_pixels else '; for pixels the file must say "units": "pixels"'
            raise OptionError(f"the region {self.name!r} lies outside the picture, which is {width}x{height}{hint}.")

    def coverage(self, shape: tuple[int, ...], width: int, height: int) -> np.ndarray:
        """How much of each map pixel lies inside, 0 to 1: float (H, W) for a map of this shape.

        A point is inside where a line from it crosses the outline an odd number of times.
        """
        rows, columns = shape[0] * _SUBSAMPLES, shape[1] * _SUBSAMPLES
        x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
        inside = np.zeros((rows, columns), bool)
        corners = self._fractions(width, height)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            crossed = np.flatnonzero((y0 <= y) != (y1 <= y))
            crossing = x0 + (y[crossed] - y0) * ((x1 - x0) / (y1 - y0)) if len(crossed) else crossed
            inside[crossed] ^= x < np.asarray(crossing)[:, None]
        blocks = inside.reshape(shape[0], _SUBSAMPLES, shape[1], _SUBSAMPLES)
        return blocks.mean((1, 3))

    def _fractions(self, width: int, height: int) -> np.ndarray:
        corners = np.array(self.points, float)
        return corners / (width, height) if self.in_pixels else corners


def read_regions(path: str | os.PathLike[str]) -> list[Region]:
    """Regions from a JSON file:

        {"units": "fractions", "regions": {"logo": [0.8, 0.0, 1.0, 0.2], "road": [[0.1, 1.0], [0.5, 0.4], [0.9, 1.0]]}}

    A box is [left, top, right, bottom], a polygon a list of three or more corners [x, y]; y points down. `units` is
    "fractions" of the picture's size (as if it is left out) or "pixels" of the upright picture.

    Raises:
        InputError: the file cannot be read or is not like that.
    """
    name = repr(os.fspath(path))
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the regions file {name} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        units = content.get("units", "fractions")
        if units not in ("fractions", "pixels"):
            raise ValueError(f'"units" is {units!r}, not "fractions" or "pixels"')
        regions = content.get("regions")
        if not isinstance(regions, dict) or not regions:
            raise ValueError('there is no "regions" with names and boxes or polygons')
        return [Region(key, _corners(key, value), units == "pixels") for key, value in regions.items()]
    except (ValueError, AttributeError) as error:
        what = "it is not an object" if isinstance(error, AttributeError) else str(error)
        raise InputError(f"the regions file {name} is not as it should be: {what}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name is used twice")
    return result


def _corners(name: str, value: Any) -> tuple[tuple[float, float], ...]:
    def is_numbers(items: Any, count: int) -> bool:
        return isinstance(items, list) and len(items) == count and all(map(_is_number, items))

    if is_numbers(value, 4):
        left, top, right, bottom = value
        if left < right and top < bottom:
            return ((left, top), (right, top), (right, bottom), (left, bottom))
    elif isinstance(value, list) and len(value) >= 3 and all(is_numbers(corner, 2) for corner in value):
        return tuple((x, y) for x, y in value)
    raise ValueError(
        f"the region {name!r} is neither a box [left, top, right, bottom] with left < right and top < bottom nor a "
        "list of three or more corners [x, y]"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---- files


class StatsWriter:
    """Writes `FrameStats` to a file, as CSV with a header line or as one JSON object a line; a context manager.

    The file appears at the normal end of the body.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """
        Raises:
            OptionError: the name ends in neither .csv nor .jsonl.
            OutputError: the file cannot be written.
        """
        check_suffix(path, STATS_SUFFIXES, "statistics")
        self.path = path
        self._as_csv = path.suffix.lower() == ".csv"
        self._csv: csv.DictWriter[str] | None = None
        self._pending = PendingOutput(path, overwrite=overwrite)
        self._file = self._pending.temporary.open("w", encoding="utf-8", newline="")

    def __enter__(self) -> Self:
        return self

    def write(self, stats: FrameStats) -> None:
        """Append a line."""
        values = stats.to_dict()
        try:
            if not self._as_csv:
                self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
                return
            if self._csv is None:
                self._csv = csv.DictWriter(self._file, list(values), lineterminator="\n")
                self._csv.writeheader()
            self._csv.writerow(values)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as failure:
            self._pending.discard()
            raise cannot_write(self.path, failure) from failure
        self._pending.__exit__(kind, error, traceback)
