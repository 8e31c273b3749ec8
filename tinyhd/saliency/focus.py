"""How gathered attention is, as one number that needs no statistics to read, and its course over a video."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tinyhd.errors import InputError
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.frame import Seconds

FOCUS_AREA = 0.05
FOCUS_DEFINITION = (
    "Focus is the share of the attention, in percent, that falls on the most attended twentieth of the picture: "
    "5 where attention is even all over it, 100 where a twentieth has all of it."
)

_SMOOTHING_SAMPLES, _SMOOTHING_SECONDS = 6.0, 0.25
"""Standard deviation of the smoothing, the larger of the two. The network sees windows that start every 12 samples,
and its maps are a little more gathered at their beginnings: a Gaussian of half that length leaves under 1 % of it."""


def focus(saliency: np.ndarray) -> float:
    """How gathered attention is in a map, float (H, W), not negative: 5 to 100, see `FOCUS_DEFINITION`.

    A map that is zero everywhere counts as even.
    """
    values = np.asarray(saliency, np.float64).ravel()
    total = values.sum()
    if total <= 0:
        return 100 * FOCUS_AREA
    wanted = FOCUS_AREA * values.size
    count = int(wanted)
    part = np.partition(values, values.size - count - 1)[-count - 1 :]
    top = part[1:].sum() + (wanted - count) * part[0]
    return float(min(100.0, 100 * top / total))


@dataclass(frozen=True)
class FocusCurve:
    """Focus over the time of a video."""

    times: np.ndarray
    """float64 (N,), increasing: seconds after the container's start."""
    values: np.ndarray
    """float64 (N,): `focus` at these times."""
    smooth: np.ndarray
    """float64 (N,): smoothed within shots, free from the rhythm of the network's windows."""
    shots: tuple[tuple[int, int], ...]
    """(first, stop) of the samples of each shot that has any."""


def focus_curve(track: SaliencyTrack, start: Seconds | None = None, end: Seconds | None = None) -> FocusCurve:
    """Focus at the track's samples.

    Args:
        start, end: only those from `start` to before `end`, seconds after the container's start.

    Raises:
        InputError: there is none.
    """
    bounds = (float(start or 0), np.inf if end is None else float(end))
    first, stop = np.searchsorted(track.times, np.array(bounds) - 1e-6).tolist()
    if first >= stop:
        raise InputError(f"the track {track.name!r} has no sample between the times given as start and end.")
    values = [focus(track.sample(k)) for k in range(first, stop)]
    return smoothed_curve(track.times[first:stop], values, track.cuts)


def smoothed_curve(times: Iterable[float], values: Iterable[float], cuts: Iterable[float] = ()) -> FocusCurve:
    """A curve from focus at some times, and the times of the cuts."""
    from scipy.ndimage import gaussian_filter1d

    at, raw = np.asarray(list(times), np.float64), np.asarray(list(values), np.float64)
    edges = sorted({0, *np.searchsorted(at, np.asarray(list(cuts), np.float64) - 1e-6).tolist(), len(at)})
    interval = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
    sigma = max(_SMOOTHING_SAMPLES, _SMOOTHING_SECONDS / interval)
    shots = tuple(itertools.pairwise(edges))
    smooth = [gaussian_filter1d(raw[first:stop], sigma, mode="nearest") for first, stop in shots]
    return FocusCurve(at, raw, np.concatenate(smooth) if smooth else raw, shots)
