"""Regions of interest, and the share of attention that falls into them."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinyhd.errors import InputError, OptionError

T = TypeVar("T")

_SUBSAMPLES = 8  # for polygons: points tested per map pixel, along each axis


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
    return read_named(
        path, "boxes or polygons", lambda name, value, pixels: Region(name, corners_of(name, value), pixels)
    )


def read_named(path: str | os.PathLike[str], what: str, parse: Callable[[str, Any, bool], T]) -> list[T]:
    """What `parse(name, value, whether in pixels)` makes of each of the named `what` of a regions file.

    Raises:
        InputError: the file cannot be read or is not like that; a `ValueError` of `parse` becomes one.
    """
    name = repr(os.fspath(path))
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the regions file {name} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    try:
        content = json.loads(text, object_pairs_hook=unique_names)
        units = content.get("units", "fractions")
        if units not in ("fractions", "pixels"):
            raise ValueError(f'"units" is {units!r}, not "fractions" or "pixels"')
        regions = content.get("regions")
        if not isinstance(regions, dict) or not regions:
            raise ValueError(f'there is no "regions" with names and {what}')
        return [parse(key, value, units == "pixels") for key, value in regions.items()]
    except (ValueError, AttributeError) as error:
        why = "it is not an object" if isinstance(error, AttributeError) else str(error)
        raise InputError(f"the regions file {name} is not as it should be: {why}.") from error


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` of `json.loads` that raises `ValueError` where a name is used twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name is used twice")
    return result


def corners_of(name: str, value: Any) -> tuple[tuple[float, float], ...]:
    """The corners of a box or polygon from JSON. Raises `ValueError` where it is neither."""

    def is_numbers(items: Any, count: int) -> bool:
        return isinstance(items, list) and len(items) == count and all(map(is_number, items))

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


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
