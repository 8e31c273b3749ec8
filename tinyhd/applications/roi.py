"""From what the model saw in a video to how coarsely each part of its frames is encoded: region-of-interest encoding.

Where errors count w times, the least weighted error at a given rate is reached with the encoder's Lagrange multiplier
divided by w. The multiplier doubles every three steps of the quantizer (the QP of H.264 and HEVC), so the quantizer
should be 3 log2 w steps finer there. With w the density of people's gazes, which a track predicts, this is the
attention-guided bit allocation of Li, Qin and Itti (Image and Vision Computing 29, 2011).

It is done mildly, because visible faults outside of the regions draw attention to themselves (Hadizadeh and Bajic, IEEE
Transactions on Image Processing 23, 2014): offsets are limited to a few steps, smoothed over time within a shot, and
never below 0, so that nothing is spent on what would be good enough without them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyhd.files import AtomicOutput, StrPath, check_suffix
from tinyhd.options import RoiOptions
from tinyhd.saliency.track import SaliencyTrack, shot_bounds

STEP_SECONDS = 0.25
"""How long offsets last at least, except before a cut."""
SMOOTHING_SECONDS = 0.5
"""Standard deviation of the Gaussian that offsets are smoothed with over time."""
CELLS = 32
"""Along the longer side of a frame."""
ATTENDED = 2.0
"""Attention, in terms of the frame's mean, where offsets have half their strength."""
MAP_SUFFIX = ".txt"
"""Of a file for SvtAv1EncApp."""

_STEPS_PER_DOUBLING = 3.0
_SLACK_SECONDS = 1e-6
_NO_ATTENTION = 1e-6
_QP_RANGE, _QINDEX_RANGE = 51, 255  # of H.264 and HEVC, of AV1
_SVT_BLOCK = 64  # pixels
_SVT_LEVELS = 8  # segments of an AV1 frame

Region = tuple[int, int, int, int, int]
"""x, y, width and height in pixels, and quantizer steps."""


@dataclass(frozen=True)
class OffsetPlan:
    """By how many steps the quantizer is coarser in each cell of a video's frames."""

    size: tuple[int, int]
    """(width, height) of the upright source, pixels."""
    times: np.ndarray
    """float64 (N,): seconds after the container's start from which on each grid holds; the first one before, too."""
    offsets: np.ndarray
    """int8 (N, rows, columns): quantizer steps, 0 where the most attention rests, otherwise more."""

    def index(self, time: float) -> int:
        """Which of the N grids holds at a time."""
        return max(int(np.searchsorted(self.times, time + _SLACK_SECONDS, side="right")) - 1, 0)

    def regions(self, index: int) -> list[Region]:
        """The grid as rectangles that do not overlap; those without an offset are left out."""
        return list(_rectangles(self.offsets[index], self.size))


def plan_offsets(track: SaliencyTrack, options: RoiOptions) -> OffsetPlan:
    """Plan how coarsely the parts of a video are encoded, from its track.

    Offsets change at most every `STEP_SECONDS` and at cuts, where they start anew.
    """
    from scipy.ndimage import gaussian_filter1d  # takes 0.15 s, which what does not encode need not wait for

    source = track.info.source
    size = (source.width, source.height)
    longer = max(size)
    rows, columns = (max(1, round(CELLS * side / longer)) for side in reversed(size))
    map_rows, map_columns = track.info.shape
    down, across = _area_means(map_rows, rows), _area_means(map_columns, columns).T
    times: list[float] = []
    grids: list[np.ndarray] = []
    for start, end in shot_bounds(track.cuts.tolist(), float(track.times[0]), float(track.times[-1]) + STEP_SECONDS):
        shot = np.arange(start, end, STEP_SECONDS)
        cells = (down @ saliency @ across for saliency in track.own_maps_at(shot))
        wanted = np.stack([_offsets(attention, options.strength) for attention in cells])
        smooth = gaussian_filter1d(wanted, SMOOTHING_SECONDS / STEP_SECONDS, axis=0, mode="nearest")
        steps = np.rint(smooth).astype(np.int8)
        for time, grid in zip(shot.tolist(), steps, strict=True):
            if not grids or (grid != grids[-1]).any():
                times.append(time)
                grids.append(grid)
    return OffsetPlan(size, np.array(times), np.stack(grids))


def _offsets(attention: np.ndarray, strength: float) -> np.ndarray:
    """Quantizer steps of each cell, from 0 to `strength` at most, not smoothed and not rounded."""
    mean = float(attention.mean())
    weights = attention / mean if mean > 0 else np.ones(attention.shape)
    finer = _STEPS_PER_DOUBLING * np.log2(np.maximum(weights, _NO_ATTENTION) / ATTENDED)
    steps: np.ndarray = np.clip(strength / 2 - finer, 0, strength)
    return steps - steps.min()


def _area_means(count: int, wanted: int) -> np.ndarray:
    """The (wanted, count) matrix that takes `count` values along a side to means over `wanted` equal parts of it."""
    old, new = np.arange(count + 1) / count, np.arange(wanted + 1) / wanted
    shared = np.minimum(new[1:, None], old[1:]) - np.maximum(new[:-1, None], old[:-1])
    return np.maximum(shared, 0) * wanted


def _rectangles(grid: np.ndarray, size: tuple[int, int]) -> Iterator[Region]:
    """Runs of equal offsets along rows, joined with equal ones below."""
    sides = zip(size, reversed(grid.shape), strict=True)
    xs, ys = ([round(k * side / count) for k in range(count + 1)] for side, count in sides)
    growing: dict[tuple[int, int, int], int] = {}  # first and last edge and offset -> row where it began
    for row in range(len(grid) + 1):
        runs = _runs(grid[row]) if row < len(grid) else set()
        for run in [run for run in growing if run not in runs]:
            left, right, offset = run
            top = ys[growing.pop(run)]
            if offset:
                yield xs[left], top, xs[right] - xs[left], ys[row] - top, offset
        for run in runs:
            growing.setdefault(run, row)


def _runs(row: np.ndarray) -> set[tuple[int, int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
    return {(left, right, int(row[left])) for left, right in itertools.pairwise(edges)}


class RoiMapWriter(AtomicOutput):
    """Writes offsets as a file for `SvtAv1EncApp --roi-map-file`; a context manager. The file appears at the normal end
    of the body.

    A line for each frame from which on something changes: its number, from 0, and for each block of 64x64 pixels, row
    by row, an offset of AV1's quantizer index; eight different ones at most, as an AV1 frame has no more segments.
    """

    def __init__(self, path: StrPath, plan: OffsetPlan, *, overwrite: bool = False) -> None:
        """
        Raises:
            OptionError: the name does not end in .txt.
            OutputError: the file cannot be written.
        """
        check_suffix(Path(path), (MAP_SUFFIX,), "a map of regions")
        super().__init__(Path(path), overwrite=overwrite)
        self._plan, self._frames, self._index = plan, 0, -1
        self._lines: list[str] = []

    def write(self, time: float) -> None:
        """Count a frame, shown `time` seconds after the container's start."""
        index = self._plan.index(time)
        if index != self._index:
            numbers = svt_offsets(self._plan.offsets[index], self._plan.size)
            self._lines.append(" ".join(map(str, [self._frames, *numbers.ravel().tolist()])) + "\n")
            self._index = index
        self._frames += 1

    def _complete(self) -> None:
        self.temporary.write_text("".join(self._lines), encoding="ascii", newline="")


def svt_offsets(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grid of quantizer steps as offsets of AV1's quantizer index, int (rows, columns) of blocks of 64x64 pixels."""
    means = grid.astype(float)
    for axis, side in enumerate(reversed(size)):
        # places within blocks, eight to a side
        places = (np.arange(8 * -(-side // _SVT_BLOCK)) + 0.5) * (_SVT_BLOCK / 8)
        cells = np.minimum(places / side * grid.shape[axis], grid.shape[axis] - 1).astype(int)
        taken = np.take(means, cells, axis=axis)
        means = taken.reshape(*taken.shape[:axis], -1, 8, *taken.shape[axis + 1 :]).mean(axis + 1)
    width = max(1.0, float(grid.max()) / (_SVT_LEVELS - 1))
    result: np.ndarray = np.rint(np.rint(means / width) * width * _QINDEX_RANGE / _QP_RANGE).astype(int)
    return result
