"""The maps of overlapping windows blended into one for each sample, at the network's own resolution."""

import numpy as np

from tinyhd.inference.windows import Window


class Blend:
    """Takes the windows of one shot in order; gives each sample's map as soon as no later window changes it.

    Where windows share a sample, its maps are divided by their sums, averaged, and multiplied by the mean of the sums,
    with the same weights: no window outweighs another, and the result is still what the network gives.
    """

    def __init__(self) -> None:
        self.finalized = 0
        """Samples whose maps were given."""
        # for the samples from there on: weighted sums, over their maps, of the maps divided by their sums, of the sums,
        # and of 1
        self._normalized_maps: np.ndarray | None = None
        self._sums = self._weights = np.empty(0, np.float32)

    def add(self, window: Window, maps: np.ndarray) -> np.ndarray:
        """Take a window's maps, (K, h, w); those of the next n samples that are final with it, float32 (n, h, w)."""
        used = [k for k, weight in enumerate(window.weights) if weight]
        span = slice(used[0], used[-1] + 1)
        first, stop = window.map_frames[used[0]] - self.finalized, window.map_frames[used[-1]] + 1 - self.finalized
        maps = maps[span].astype(np.float32, copy=False)
        weights = np.array(window.weights[span], np.float32)
        sums = maps.sum((1, 2))
        if self._normalized_maps is None:
            self._normalized_maps = maps[:0]
        self._normalized_maps = _grown(self._normalized_maps, stop)
        self._sums, self._weights = _grown(self._sums, stop), _grown(self._weights, stop)
        self._normalized_maps[first:stop] += maps * (weights / np.maximum(sums, 1e-20))[:, None, None]
        self._sums[first:stop] += sums * weights
        self._weights[first:stop] += weights

        count = window.finalized - self.finalized
        scale = self._sums[:count] / self._weights[:count] ** 2
        result: np.ndarray = self._normalized_maps[:count] * scale[:, None, None]
        self._normalized_maps = self._normalized_maps[count:]
        self._sums, self._weights = self._sums[count:], self._weights[count:]
        self.finalized = window.finalized
        return result


def _grown(values: np.ndarray, length: int) -> np.ndarray:
    """`values` with zeros up to `length`."""
    return np.concatenate([values, np.zeros((max(0, length - len(values)), *values.shape[1:]), values.dtype)])
