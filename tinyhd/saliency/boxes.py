"""Boxes that may move: a logo, a face that was detected, a player."""

import contextlib
import itertools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyhd.errors import OptionError
from tinyhd.saliency.regions import corners_of, is_number, read_named


@dataclass(frozen=True)
class MovingBox:
    """A named box at some times."""

    name: str
    times: tuple[float, ...]
    """Seconds after the container's start, increasing; one: the box is there all the time."""
    boxes: tuple[tuple[float, float, float, float] | None, ...]
    """Left, top, right, bottom as fractions of the upright picture; None: from this time on there is no box."""
    outline: tuple[tuple[float, float], ...] = ()
    """Corners (x, y) of the polygon that this is the box of, as fractions; () where it is a box itself."""

    def at(self, times: np.ndarray) -> np.ndarray:
        """The box at some times: float (N, 4), NaN where there is none.

        Between two boxes it moves in proportion; before the first and after the last of several there is none.
        """
        if len(self.times) == 1:
            return np.tile(np.array(self.boxes[0], float), (len(times), 1))
        table = np.array([box or (np.nan,) * 4 for box in self.boxes], float)
        known = np.array(self.times)
        before = np.clip(np.searchsorted(known, times, side="right") - 1, 0, len(known) - 2)
        weight = ((times - known[before]) / (known[before + 1] - known[before]))[:, None]
        first, second = table[before], table[before + 1]
        second = np.where(np.isnan(second), first, second)  # held until it ends
        found = first + (second - first) * weight
        found[(times < known[0]) | (times > known[-1])] = np.nan
        return found


def read_boxes(path: str | os.PathLike[str], size: tuple[int, int]) -> list[MovingBox]:
    """Boxes from a JSON file, resting or moving:

        {"units": "fractions", "regions": {
            "logo": [0.8, 0.0, 1.0, 0.2],
            "face": [{"time_seconds": 0, "box": [0.1, 0.1, 0.2, 0.3]},
                     {"time_seconds": 2.5, "box": [0.4, 0.1, 0.5, 0.3]},
                     {"time_seconds": 4, "box": null}]}}

    A box is [left, top, right, bottom], y points down; of polygons, as `read_regions` takes them, the bounding box
    counts. `units` is "fractions" of the picture's size (as if it is left out) or "pixels" of the upright picture. See
    `MovingBox` for what is between the times.

    Args:
        size: (width, height) of the upright picture.

    Raises:
        InputError: the file cannot be read or is not like that.
        OptionError: a box reaches outside the picture.
    """
    in_pixels = False

    def parse(name: str, value: Any, pixels: bool) -> MovingBox:
        nonlocal in_pixels
        in_pixels = pixels
        return _moving(name, value, np.array(size * 2, float) if pixels else np.ones(4))

    found = read_named(path, "boxes", parse)
    for region in found:
        boxes = np.array([box for box in region.boxes if box is not None])
        if len(boxes) and (boxes.min() < -1e-6 or boxes.max() > 1 + 1e-6):
            hint = "" if in_pixels else '; for pixels the file must say "units": "pixels"'
            raise OptionError(
                f"the region {region.name!r} reaches outside the picture, which is {size[0]}x{size[1]}{hint}."
            )
    return found


def _moving(name: str, value: Any, scale: np.ndarray) -> MovingBox:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        times = [item.get("time_seconds") for item in value]
        if not all(map(is_number, times)) or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError(f'the "time_seconds" of the region {name!r} are not increasing numbers')
        boxes = [None if item.get("box", ()) is None else _box(name, item.get("box"), scale) for item in value]
        if boxes[0] is None:
            raise ValueError(f"the region {name!r} starts without a box")
        return MovingBox(name, tuple(map(float, times)), tuple(boxes))
    box = _box(name, value, scale)
    outline = () if is_number(value[0]) else corners_of(name, value)
    return MovingBox(name, (0.0,), (box,), tuple((x / scale[0], y / scale[1]) for x, y in outline))


def _box(name: str, value: Any, scale: np.ndarray) -> tuple[float, float, float, float]:
    with contextlib.suppress(ValueError):
        corners = np.array(corners_of(name, value))
        left, top, right, bottom = (float(n) for n in np.concatenate([corners.min(0), corners.max(0)]) / scale)
        return left, top, right, bottom
    raise ValueError(
        f"the region {name!r} is neither a box [left, top, right, bottom] with left < right and top < bottom, nor a "
        'polygon, nor a list of {"time_seconds": ..., "box": ...}'
    )
