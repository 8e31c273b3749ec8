"""Map values to what is displayed: which value is full attention."""

import math

import numpy as np

SMOOTHING_SECONDS = 1.0
"""About how long `SmoothedRange` looks back."""


class SmoothedRange:
    """The range of map values that is drawn from none to full attention, frame by frame, without flicker.

    Minimum and maximum of the map, exponentially smoothed over about `SMOOTHING_SECONDS`; a shot cut starts anew.
    """

    def __init__(self) -> None:
        self._low = self._high = 0.0
        self._time_seconds: float | None = None

    def __call__(self, saliency: np.ndarray, time_seconds: float, is_cut: bool) -> tuple[float, float]:
        """(lowest, highest) value for this frame's map (H, W); frames come in order."""
        low, high = float(saliency.min()), float(saliency.max())
        if self._time_seconds is None or is_cut:
            weight = 1.0
        else:
            # an exponential mean of time constant T looks back as far as a plain one over 2 T
            weight = 1 - math.exp(-(time_seconds - self._time_seconds) / (SMOOTHING_SECONDS / 2))
        self._low += weight * (low - self._low)
        self._high += weight * (high - self._high)
        self._time_seconds = time_seconds
        return self._low, self._high


def normalize_map(saliency: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Map values -> float32 in [0, 1], 0 at the range's lower end and 1 at its upper; a flat map has no attention."""
    low, high = value_range
    if not high > low:
        return np.zeros(saliency.shape, np.float32)
    return np.clip((saliency - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)


class Normalizer:
    """Maps as they are displayed, in [0, 1], by one of the ways that `RenderOptions.normalize` names."""

    def __init__(self, normalize: str, display_scale: float, video_range: tuple[float, float] | None = None) -> None:
        """
        Args:
            normalize: frame, video or none.
            display_scale: the map value that is drawn as full attention, for none.
            video_range: smallest and largest value of the whole video, for video; None: as for frame.
        """
        self._fixed = {"none": (0.0, display_scale), "video": video_range}.get(normalize)
        self._smoothed = SmoothedRange()

    def __call__(self, saliency: np.ndarray, time_seconds: float, is_cut: bool) -> np.ndarray:
        """A map (H, W) as float32 (H, W) in [0, 1]; frames come in order."""
        return normalize_map(saliency, self._fixed or self._smoothed(saliency, time_seconds, is_cut))
