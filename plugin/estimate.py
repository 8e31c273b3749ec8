"""How long a run will take and how much disk it will fill, in plain words."""

import math
import os
from functools import lru_cache

import numpy as np
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import TinyHDError
from tinyhd.render.grayscale import DISPLAY_SIDE

from .progress import count

_PROBED = 8
"""Files that are looked into where the dataset does not say how long its videos are."""

_BYTES_PER_PIXEL = 0.05
"""Of a map's PNG: 0.02 to 0.11 on five varied videos."""

_BYTES_PER_FRAME = 490
"""Of the database, measured with tests/plugin/plugin_scale.py."""


def estimate(samples: SampleCollection, stride: int, frames_per_second: float | None, skipped: int = 0) -> str:
    """A sentence about a run.

    Args:
        samples: the videos that will be computed.
        stride: a map is stored for every so many-th frame.
        frames_per_second: of an earlier run; None: nothing is known, and no time is told.
        skipped: how many further videos are done already.
    """
    chosen = samples.count()
    if not chosen:
        return f"Nothing to do: {count(skipped, 'video')} done already." if skipped else "No video is chosen."
    videos = count(chosen, "video") + (f" ({skipped} more done already)" if skipped else "")
    frames, pixels = _size(samples)
    if not frames:
        return f"{videos}; none of those looked into can be read."
    disk = frames / stride * pixels * _BYTES_PER_PIXEL + frames * _BYTES_PER_FRAME
    time = f"about {_time(frames / frames_per_second)} by the last run, " if frames_per_second else ""
    return f"{videos}, about {_rounded(frames):,} frames: {time}{_bytes(disk)} of disk for the maps."


def _size(samples: SampleCollection) -> tuple[float, float]:
    """(about how many frames, pixels of a map)."""
    number, total = samples.count(), samples.sum("metadata.total_frame_count") or 0
    known = samples.count("metadata.total_frame_count")
    lengths, pixels = [], []
    for path in samples.limit(_PROBED).values("filepath"):
        found = _probe(path, os.path.getmtime(path)) if os.path.isfile(path) else None
        if found:
            lengths.append(found[0])
            pixels.append(found[1])
    if not lengths:
        return float(total), DISPLAY_SIDE**2 * 9 / 16
    mean = total / known if known else float(np.mean(lengths))
    return total + (number - known) * mean, float(np.mean(pixels))


@lru_cache(maxsize=1000)
def _probe(path: str, changed: float) -> tuple[int, float] | None:
    """(frames, pixels of a map) of a file, which is looked into anew once it has `changed`."""
    try:
        info = tinyhd.probe(path)
    except TinyHDError:
        return None
    scale = min(1.0, DISPLAY_SIDE / max(info.width, info.height))
    return info.frame_count or 1, info.width * info.height * scale**2


def _rounded(number: float) -> int:
    """To two digits."""
    digits = max(0, math.floor(math.log10(max(number, 1))) - 1)
    return round(number / 10**digits) * 10**digits


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, _rounded(seconds))} seconds"
    if seconds < 90 * 60:
        return f"{_rounded(seconds / 60)} minutes"
    return f"{_rounded(seconds / 3600)} hours"


def _bytes(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{_rounded(number / size)} {unit}"
    return f"{max(1, _rounded(number / 1e3))} kB"
