"""What the focus of all frames is condensed to: the moments of most attention, and the line of the plot."""

import numpy as np

from tinyhd.applications.moments import Peak, find_peaks, most_promising
from tinyhd.saliency.focus import FocusCurve

COUNT = 5
POINTS = 400
"""A plot has about so many points: as many as it has pixels, about."""


def most_attended(curve: FocusCurve) -> list[Peak]:
    """The peaks of the focus, at most `COUNT`, in order of time."""
    return most_promising(find_peaks(curve), COUNT)


def plot_line(curve: FocusCurve, points: int = POINTS) -> dict[str, list[float]]:
    """The line of the plot: `time` and smoothed `focus`, each value the mean of equally many frames, at most about
    `points`."""
    step = max(1, len(curve.times) // points)
    starts = np.arange(0, len(curve.times), step)
    sizes = np.diff([*starts, len(curve.times)])
    return {
        "time": np.round(curve.times[starts], 3).tolist(),
        "focus": np.round(np.add.reduceat(curve.smooth, starts) / sizes, 1).tolist(),
    }
