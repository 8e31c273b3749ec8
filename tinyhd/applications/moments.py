"""Key moments and spans of focused attention, from a track's focus and what its candidate pictures look like.

curve = focus_curve(track)
peaks = find_peaks(curve)  # where attention is most gathered: time and focus, no picture needed
spans = focused_spans(curve)  # stretches of time, for labels
chosen = choose(candidates, count)  # with the quality of pictures near the peaks: what `tinyhd moments` writes
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyhd.saliency.focus import FocusCurve

FOCUSED, SCATTERED = 60.0, 40.0
"""Focus from which on attention is called focused, and below which it is called scattered."""
CUT_MARGIN_SECONDS = 0.2
"""No moment lies nearer to a cut, nor to the beginning or end of the video; in shots of less than a second: a fifth."""
PROMINENCE = 2.0
"""Points of focus that a peak must rise above the valleys around it; the highest point of a shot always counts."""

_AROUND_SECONDS, _AROUND_FOCUS = 0.5, 2.0
"""How far from a peak its picture may be taken, in time and in points of focus."""
_SPAN_SECONDS, _HYSTERESIS = 0.5, 5.0
_UNLIKE = 0.08
"""Mean difference of two thumbnails, 0 to 1, from which on they count as wholly different pictures."""
_SAME = 0.01


@dataclass(frozen=True)
class Peak:
    """A time at which attention is most gathered."""

    time_seconds: float
    """After the container's start."""
    focus: float
    """Smoothed, 5 to 100."""
    prominence: float
    """Points of focus above the higher of the valleys that part it from higher ground, or the shot's ends, on both
    sides, as `scipy.signal.find_peaks` has it."""
    start_seconds: float
    end_seconds: float
    """Any picture from here to there will do."""
    shot: int
    """Its number, from 0."""


@dataclass(frozen=True)
class Span:
    """A stretch of time within one shot."""

    start_seconds: float
    end_seconds: float
    focus: float
    """Mean, 5 to 100."""

    @property
    def score(self) -> float:
        """0 to 1: `focus` as a fraction."""
        return self.focus / 100


@dataclass(frozen=True)
class Picture:
    """What is known of the picture of a candidate frame."""

    sharpness: float
    """Of any scale: compared within a shot only."""
    exposure: float
    """0 to 1."""
    thumbnail: np.ndarray
    """float (h, w, 3) in [0, 1], of one size for all candidates."""


@dataclass(frozen=True)
class Candidate:
    """A frame that could be a key moment."""

    time_seconds: float
    peak: Peak
    focus: float
    picture: Picture


@dataclass(frozen=True)
class Moment:
    """A key moment."""

    time_seconds: float
    score: float
    """0 to 1: focus as a fraction, times sharpness, times exposure."""
    focus: float
    """5 to 100."""
    sharpness: float
    """0 to 1: against the sharpest candidate of the same shot."""
    exposure: float
    """0 to 1: 1 where the picture uses the tones from dark to light and few of its pixels are clipped."""


def find_peaks(curve: FocusCurve) -> list[Peak]:
    """Where attention is most gathered: peaks of the smoothed focus by prominence, in order of time; at least one in
    each shot. They say where to look for pictures; `choose` picks moments among these."""
    import scipy.signal

    found = []
    interval = float(np.median(np.diff(curve.times))) if len(curve.times) > 1 else 0.0
    for shot, (first, stop) in enumerate(curve.shots):
        times = curve.times[first:stop]
        margin = min(CUT_MARGIN_SECONDS, (times[-1] - times[0] + interval) / 5)
        # a sample stands for the time up to the next one, where the cut is
        inside = (times >= times[0] + margin) & (times <= times[-1] + interval - margin)
        times, values = times[inside], curve.smooth[first:stop][inside]
        if not len(times):
            continue
        # a shot may be at its most gathered where it begins or ends: beyond its ends lies its lowest value
        low = values.min() - 1e-9
        places, facts = scipy.signal.find_peaks(np.concatenate([[low], values, [low]]), prominence=0)
        places -= 1
        highest = int(np.argmax(values))
        for place, prominence in zip(places.tolist(), facts["prominences"].tolist(), strict=True):
            if prominence < PROMINENCE and values[place] < values[highest]:
                continue
            near = (np.abs(times - times[place]) <= _AROUND_SECONDS) & (values >= values[place] - _AROUND_FOCUS)
            first_near, last_near = _run_around(near, place)
            begin, end = float(times[first_near]), float(times[last_near])
            found.append(Peak(float(times[place]), float(values[place]), prominence, begin, end, shot))
    return found


def most_promising(peaks: Sequence[Peak], count: int) -> list[Peak]:
    """At most `count` of the peaks, those of most focus, in order of time: a long video has more than need be looked
    at."""
    best = sorted(peaks, key=lambda peak: (-peak.focus, peak.time_seconds))[:count]
    return sorted(best, key=lambda peak: peak.time_seconds)


def choose(candidates: Sequence[Candidate], count: int, apart_seconds: float | None = None) -> list[Moment]:
    """The key moments among some candidates, in order of time; fewer where there are not so many.

    The best picture near each peak stands for it. Then the one of the highest score is taken, again and again, where
    scores count less the more a picture is like one already taken.

    Args:
        candidates: of some peaks, several of each.
        count: how many moments at most.
        apart_seconds: the least time between two; None: a quarter of what `count` moments would be apart, evenly
            spread from the first candidate to the last.
    """
    sharpest: dict[int, float] = {}
    for candidate in candidates:
        shot = candidate.peak.shot
        sharpest[shot] = max(sharpest.get(shot, 0.0), candidate.picture.sharpness)
    best: dict[Peak, tuple[Moment, np.ndarray]] = {}
    for candidate in candidates:
        moment = _moment(candidate, sharpest[candidate.peak.shot])
        if candidate.peak not in best or moment.score > best[candidate.peak][0].score:
            best[candidate.peak] = (moment, candidate.picture.thumbnail)
    pool = list(best.values())
    if apart_seconds is None and pool:
        times = [moment.time_seconds for moment, _ in pool]
        apart_seconds = (max(times) - min(times)) / (4 * count)
    chosen: list[tuple[Moment, np.ndarray]] = []

    def worth(moment: Moment, thumbnail: np.ndarray) -> float:
        if any(abs(moment.time_seconds - other.time_seconds) < (apart_seconds or 0) for other, _ in chosen):
            return 0.0
        return moment.score * min([_difference(thumbnail, other) for _, other in chosen], default=1.0)

    while pool and len(chosen) < count:
        worths = [worth(*entry) for entry in pool]
        place = int(np.argmax(worths))
        if worths[place] <= 0:
            break
        chosen.append(pool.pop(place))
    return sorted((moment for moment, _ in chosen), key=lambda moment: moment.time_seconds)


def _moment(candidate: Candidate, sharpest: float) -> Moment:
    picture = candidate.picture
    sharpness = picture.sharpness / sharpest if sharpest > 0 else 1.0
    score = candidate.focus / 100 * sharpness * picture.exposure
    return Moment(candidate.time_seconds, score, candidate.focus, sharpness, picture.exposure)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """0 for the same picture, 1 for wholly different ones."""
    return float(np.clip((np.abs(one - other).mean() - _SAME) / (_UNLIKE - _SAME), 0, 1))


def focused_spans(curve: FocusCurve) -> list[Span]:
    """Stretches of focused attention: from where the smoothed focus rises to `FOCUSED` to where it falls 5 points below
    it, or the shot ends; those of half a second and more, in order of time."""
    return _spans(curve, curve.smooth, FOCUSED)


def scattered_spans(curve: FocusCurve) -> list[Span]:
    """Stretches where attention is lost: from where the smoothed focus falls to `SCATTERED` to where it rises 5 points
    above it, or the shot ends; those of half a second and more, in order of time."""
    return _spans(curve, -curve.smooth, -SCATTERED)


def _spans(curve: FocusCurve, values: np.ndarray, above: float) -> list[Span]:
    interval = float(np.median(np.diff(curve.times))) if len(curve.times) > 1 else 0.0
    spans = []
    for first, stop in curve.shots:
        # samples that are above, and those connected to them by ones not far below
        wide = np.concatenate([[0], (values[first:stop] >= above - _HYSTERESIS).astype(int), [0]])
        edges = np.flatnonzero(np.diff(wide)) + first
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            high = np.flatnonzero(values[begin:end] >= above)
            if not len(high):
                continue
            begin += int(high[0])
            end_seconds = float(curve.times[end] if end < stop else curve.times[end - 1] + interval)
            if end_seconds - curve.times[begin] >= _SPAN_SECONDS - 1e-6:
                mean = float(curve.smooth[begin:end].mean())
                spans.append(Span(float(curve.times[begin]), end_seconds, mean))
    return spans


def _run_around(near: np.ndarray, place: int) -> tuple[int, int]:
    """First and last index of the run of true values around a place."""
    gaps = np.flatnonzero(~near)
    before, after = gaps[gaps < place], gaps[gaps > place]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) - 1 if len(after) else len(near) - 1)
