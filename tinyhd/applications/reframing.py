"""From what the model saw in a video to a crop of another aspect that follows attention.

The crop is as large as its aspect allows, so it moves along one axis only. In every shot its path is the best one, by
dynamic programming over where it lies and how fast it moves, on a grid of `STEP_SECONDS`:

    the attention inside the crop, in seconds of all there is, with a prior for the center of the source; near the
      crop's edges it counts less, so that nothing that is looked at is cut off without need
    - `PAN_COST` a pan, and `DISTANCE_COST` for each width of the crop that it goes
    - `JUMP_COST` a jump, where a crop that rests is cut to a place at least `JUMP_DISTANCE` away and rests there
    - much for every part of a required box that is cut off

Pans have limited speed, and take a second to reach it. A new shot starts anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyhd.applications.crop import CropPath, crop_size
from tinyhd.errors import OptionError
from tinyhd.options import ReframeOptions
from tinyhd.saliency.boxes import MovingBox
from tinyhd.saliency.track import SaliencyTrack, shot_bounds

STEP_SECONDS = 0.2
PAN_COST = 0.1
DISTANCE_COST = 0.2
JUMP_COST = 0.5
JUMP_DISTANCE = 0.5
"""In widths of the crop: nearer places would look like a fault."""
REST_SECONDS = 1.6
"""Of a crop after a jump, and of a shot before one."""
PRIOR_WEIGHT, PRIOR_SIGMA = 0.1, 0.2
"""Of the center: its part of the attention, and how far it reaches, in widths of the source."""
MARGIN, MARGIN_WEIGHT = 0.1, 0.9
"""How wide the crop's edges are, in its widths, and what attention there counts."""

_SPEEDS = 5  # levels in either direction
_CUT_OFF_COST = 100.0
_WIDTHS = 6  # from the crop's own to the whole source, that are tried where padding is allowed
_KNOTS_PER_STEP = 8
_JUMP = 3  # how a state was reached: 0 to 2 from a neighboring speed, 3 by a jump


def plan_crop(
    track: SaliencyTrack,
    options: ReframeOptions,
    *,
    keep: Sequence[MovingBox] = (),
    pixel_aspect: float = 1.0,
) -> CropPath:
    """Plan how a crop follows the attention of a video.

    Args:
        track: of the video.
        options: aspect, padding, how the crop may move.
        keep: boxes that the crop has to hold.
        pixel_aspect: width / height of a pixel of the source.

    Returns:
        the path; its crops have the wanted aspect, or are wider (higher, where it moves vertically) in shots where
        padding is allowed and wanted.

    Raises:
        OptionError: the aspect does not fit, or a box of `keep` does not fit into the crop and padding is not allowed.
    """
    source = track.info.source
    size = (source.width, source.height)
    crop = crop_size(size, options.ratio, pixel_aspect)
    axis = 0 if size[0] - crop[0] >= size[1] - crop[1] else 1
    planner = _Planner(track, options, keep, axis, crop[axis] / size[axis])
    edges = shot_bounds(track.cuts.tolist(), float(track.times[0]), float(track.times[-1]) + STEP_SECONDS)
    times, starts, lengths, jumps = (
        np.concatenate(parts) for parts in zip(*(planner.shot(*edge) for edge in edges), strict=True)
    )
    boxes = np.empty((len(times), 4))
    boxes[:, :2] = (np.array(size) - crop) / 2
    boxes[:, 2:] = crop
    boxes[:, axis], boxes[:, 2 + axis] = starts * size[axis], lengths * size[axis]
    return CropPath(size, times, boxes, jumps, planner.warnings())


_Knots = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Planner:
    """Paths along one axis, as fractions of the source's extent."""

    def __init__(
        self, track: SaliencyTrack, options: ReframeOptions, keep: Sequence[MovingBox], axis: int, length: float
    ) -> None:
        self._track, self._options, self._keep, self._axis, self._length = track, options, keep, axis, length
        self._missed: dict[str, float] = {}
        bins = track.info.shape[1 - axis]
        centers = (np.arange(bins) + 0.5) / bins - 0.5
        prior = np.exp(-0.5 * (centers / PRIOR_SIGMA) ** 2)
        self._prior = prior / prior.sum()

    def warnings(self) -> tuple[str, ...]:
        return tuple(
            f"The crop cannot hold all of the region {name!r} at {time:.1f} s." for name, time in self._missed.items()
        )

    def shot(self, start: float, end: float) -> _Knots:
        """Times, starts, lengths and jumps of a shot's knots."""
        times = start + STEP_SECONDS * np.arange(int((end - start) / STEP_SECONDS) + 1)
        attention = self._attention(times, end)
        boxes = [(region, region.at(times)[:, [self._axis, 2 + self._axis]]) for region in self._keep]
        length = self._needed_length(times, boxes)
        lengths = [length]
        if self._options.pad != "none":
            lengths += [n for n in np.linspace(self._length, 1, _WIDTHS + 1)[1:] if n > length]
        for length in lengths:
            held = _held(attention, grid := _Grid(length, self._options))
            expected = (1 - PRIOR_WEIGHT) * attention + PRIOR_WEIGHT * self._prior
            wanted = MARGIN_WEIGHT * _held(expected, grid) + (1 - MARGIN_WEIGHT) * _held(expected, grid, MARGIN)
            cut_off = sum((_cut_off(spans, grid) for _, spans in boxes), np.zeros(held.shape))
            found = _best_path(STEP_SECONDS * (wanted - _CUT_OFF_COST * cut_off), grid)
            rows = np.arange(len(times))
            if held[rows, found.places].mean() >= self._options.min_share:
                break
        for (region, spans), _ in zip(boxes, self._keep, strict=True):
            missed = _cut_off(spans, grid)[rows, found.places] > 2 * grid.spacing
            if missed.any():
                self._missed.setdefault(region.name, float(times[missed.argmax()]))
        return _knots(times, found, grid, end)

    def _attention(self, times: np.ndarray, end: float) -> np.ndarray:
        """What of all attention falls on each line across the axis: (K, bins), rows sum to 1; averaged over a step."""
        last = max(end - 1e-3, times[0])
        half_steps = np.clip((times[:, None] + STEP_SECONDS * np.array([-0.5, 0, 0.5])).ravel(), times[0], last)
        profiles = np.stack([m.sum(self._axis, dtype=np.float64) for m in self._track.own_maps_at(half_steps)])
        profiles += 1e-12
        profiles /= profiles.sum(1, keepdims=True)
        return np.tensordot(profiles.reshape(len(times), 3, -1), [0.25, 0.5, 0.25], (1, 0))

    def _needed_length(self, times: np.ndarray, boxes: list[tuple[MovingBox, np.ndarray]]) -> float:
        """The crop's length, or more where boxes need it."""
        if not boxes:
            return self._length
        spans = np.stack([found for _, found in boxes])
        there = ~np.isnan(spans).all((0, 2))
        if not there.any():
            return self._length
        needed = np.nanmax(spans[:, there, 1], 0) - np.nanmin(spans[:, there, 0], 0)
        if needed.max() <= self._length + 1e-9:
            return self._length
        if self._options.pad == "none":
            when = times[there][needed.argmax()]
            names = " and ".join(repr(region.name) for region, found in boxes if not np.isnan(found[there]).all())
            raise OptionError(
                f"the crop is too small to keep {names} at {when:.1f} s: allow padding (--pad blur or color), or take "
                "an aspect nearer to the source's."
            )
        return float(min(needed.max() + 0.02, 1))  # a little more, for where boxes lie between two places


class _Grid:
    """Where a crop of some length can lie, and how it can move from one step to the next."""

    def __init__(self, length: float, options: ReframeOptions) -> None:
        free = max(1 - length, 0.0)
        finest = options.max_speed * length * STEP_SECONDS / (2 * _SPEEDS)
        # an even count of spaces: the center is a place; where pans are not wanted, jumps still need places
        count = min(2 * int(np.ceil(free / max(2 * finest, 0.005))), 400) if free > 1e-6 else 0
        self.length = length
        self.starts = np.linspace(0, free, count + 1)
        self.spacing = free / max(count, 1)
        self.speeds = min(_SPEEDS, int(finest * _SPEEDS / self.spacing + 1e-6)) if count else 0
        self.jumps = options.jumps
        self.jump_places = int(np.ceil(JUMP_DISTANCE * length / self.spacing)) if count else 1
        self.rest_steps = round(REST_SECONDS / STEP_SECONDS)

        # from (place, speed) with speeds counted in places in half a step: sources[place, speed, 0 to 2] is where one
        # has to be before, in the flat order of states; the state after the last is never possible
        places, speeds = len(self.starts), 2 * self.speeds + 1
        speed = np.arange(speeds)[:, None] - self.speeds
        before = speed + np.arange(-1, 2)
        source = np.arange(places)[:, None, None] - (speed + before)
        possible = (abs(before) <= self.speeds) & (source >= 0) & (source < places)
        self.sources = np.where(possible, source * speeds + before + self.speeds, places * speeds)
        distance = abs(speed + before) * self.spacing / length
        self.costs = DISTANCE_COST * distance + PAN_COST * ((before == 0) & (speed != 0))


def _held(attention: np.ndarray, grid: _Grid, margin: float = 0) -> np.ndarray:
    """The share of attention in the crop, less a margin in its widths, at each place: (K, bins) -> (K, places)."""
    bins = attention.shape[1]
    summed = np.concatenate([np.zeros((len(attention), 1)), attention.cumsum(1)], axis=1)

    def up_to(edges: np.ndarray) -> np.ndarray:
        bin = np.minimum((edges * bins).astype(int), bins - 1)
        part = edges * bins - bin
        return np.asarray(summed[:, bin] * (1 - part) + summed[:, bin + 1] * part)

    inset = margin * grid.length
    return up_to(np.minimum(grid.starts + grid.length - inset, 1)) - up_to(grid.starts + inset)


def _cut_off(spans: np.ndarray, grid: _Grid) -> np.ndarray:
    """How much of (start, end) spans, (K, 2), lies outside the crop at each place: (K, places); NaN counts as 0."""
    outside = np.maximum(grid.starts - spans[:, :1], 0) + np.maximum(spans[:, 1:] - grid.starts - grid.length, 0)
    return np.nan_to_num(outside)


@dataclass(frozen=True)
class _Path:
    places: np.ndarray  # int (K,): index of the grid's start
    speeds: np.ndarray  # int (K,): places in half a step
    jumps: np.ndarray  # bool (K,)


def _best_path(reward: np.ndarray, grid: _Grid) -> _Path:
    """The path with the highest sum of rewards, (K, places), less costs: exact, by dynamic programming."""
    steps, places = reward.shape
    speeds, rest, center = 2 * grid.speeds + 1, grid.rest_steps, grid.speeds
    value = np.repeat(reward[0][:, None], speeds, axis=1)
    value -= PAN_COST * (np.arange(speeds) != center)  # a shot may start in a pan, as its camera may
    resting = np.empty((steps, places))  # best value of resting at each place
    resting[0] = value[:, center]
    summed = np.concatenate([np.zeros((1, places)), reward.cumsum(0)])
    how = np.zeros((steps, places, speeds), np.int8)
    for k in range(1, steps):
        options = np.append(value, -np.inf)[grid.sources] - grid.costs
        how[k] = options.argmax(2)
        value = np.take_along_axis(options, how[k][..., None], 2)[..., 0] + reward[k][:, None]
        if grid.jumps and k + 1 >= 2 * rest:
            jumped = _best_elsewhere(resting[k - rest], grid) - JUMP_COST + summed[k + 1] - summed[k + 1 - rest]
            better = jumped > value[:, center]
            value[better, center] = jumped[better]
            how[k, better, center] = _JUMP
        resting[k] = value[:, center]

    found = _Path(np.empty(steps, int), np.zeros(steps, int), np.zeros(steps, bool))
    place, speed = divmod(int(value.argmax()), speeds)
    k = steps - 1
    while k >= 0:
        found.places[k], found.speeds[k] = place, speed - center
        if k == 0:
            break
        if how[k, place, speed] == _JUMP:
            found.places[k - rest + 1 : k + 1] = place
            found.jumps[k - rest + 1] = True
            k -= rest
            allowed = abs(np.arange(places) - place) >= grid.jump_places
            place = int(np.where(allowed, resting[k], -np.inf).argmax())
            continue
        place, speed = divmod(int(grid.sources[place, speed, how[k, place, speed]]), speeds)
        k -= 1
    return found


def _best_elsewhere(values: np.ndarray, grid: _Grid) -> np.ndarray:
    """For each place the best value of those at least the jump's distance away, -inf where there is none."""
    result = np.full(len(values), -np.inf)
    if grid.jump_places < len(values):
        result[grid.jump_places :] = np.maximum.accumulate(values)[: -grid.jump_places]
        beyond = np.maximum.accumulate(values[::-1])[::-1][grid.jump_places :]
        result[: -grid.jump_places] = np.maximum(result[: -grid.jump_places], beyond)
    return result


def _knots(times: np.ndarray, found: _Path, grid: _Grid, end: float) -> _Knots:
    """A path as knots; between two steps the speed changes evenly."""
    part = np.arange(_KNOTS_PER_STEP) / _KNOTS_PER_STEP
    speeds = found.speeds * grid.spacing * 2  # a step
    after = np.append(speeds[1:], speeds[-1])
    after[:-1][found.jumps[1:]] = 0
    moved = grid.starts[found.places][:, None] + speeds[:, None] * part + (after - speeds)[:, None] * part**2 / 2
    dense = times[:, None] + STEP_SECONDS * part
    moves = (speeds != 0) | (after != 0)
    kept = np.ones(dense.shape, bool)
    kept[~moves, 1:] = False
    jumps = np.zeros(dense.shape, bool)
    jumps[:, 0] = found.jumps
    jumps[0, 0] = True
    inside = kept & (dense < end)
    inside[0, 0] = True
    starts = np.clip(moved[inside], 0, max(1 - grid.length, 0))
    return dense[inside], starts, np.full(len(starts), grid.length), jumps[inside]
