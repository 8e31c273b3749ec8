"""The maps of overlapping windows blended into one for each sample, at the network's own resolution."""

import numpy as np

from tinyhd.inference.windows import Window

_POWERS = (0.8, 1.25)
"""Of `equalize`; on talk shows 0.95 to 1.06 were needed. More than that is not the window's doing."""


class Blend:
    """Takes the windows of one shot in order; gives each sample's map as soon as no later window changes it.

    A network's maps depend on their position in the window: tinyhd-m's are more gathered in its first third, and larger
    at its end, so that whatever is read off them pulses with the windows. `equalize` takes that away, and where two
    windows' maps are averaged, which blurs them, the average gets the mean of their entropies.

    Where windows share a sample, its maps are divided by their sums, averaged, and multiplied by the mean of the sums,
    with the same weights: no window outweighs another, and the result is still what the network gives.
    """

    def __init__(self, equalize: bool = False) -> None:
        self._equalize = equalize
        self.finalized = 0
        """Samples whose maps were given."""
        # for the samples from there on: weighted sums, over their maps, of the maps divided by their sums, of the sums,
        # of the entropies, and of 1
        self._normalized_maps: np.ndarray | None = None
        self._sums = self._entropies = self._weights = np.empty(0, np.float32)

    def add(self, window: Window, maps: np.ndarray) -> np.ndarray:
        """Take a window's maps, (K, h, w); those of the next n samples that are final with it, float32 (n, h, w)."""
        used = [k for k, weight in enumerate(window.weights) if weight]
        span = slice(used[0], used[-1] + 1)
        first, stop = window.map_frames[used[0]] - self.finalized, window.map_frames[used[-1]] + 1 - self.finalized
        maps = maps.astype(np.float32, copy=False)
        maps = (equalize(maps) if self._equalize else maps)[span]
        weights = np.array(window.weights[span], np.float32)
        sums = maps.sum((1, 2))
        if self._normalized_maps is None:
            self._normalized_maps = maps[:0]
        self._normalized_maps = _grown(self._normalized_maps, stop)
        self._sums, self._weights = _grown(self._sums, stop), _grown(self._weights, stop)
        self._entropies = _grown(self._entropies, stop)
        normalized = maps / np.maximum(sums, 1e-20)[:, None, None]
        self._normalized_maps[first:stop] += normalized * weights[:, None, None]
        self._sums[first:stop] += sums * weights
        self._entropies[first:stop] += _entropies(normalized)[0] * weights
        self._weights[first:stop] += weights

        count = window.finalized - self.finalized
        share = 1 / self._weights[:count]
        result: np.ndarray = self._normalized_maps[:count] * share[:, None, None]
        if self._equalize:
            result = _with_entropies(result, self._entropies[:count] * share)
        result = result * (self._sums[:count] * share)[:, None, None]
        self._normalized_maps = self._normalized_maps[count:]
        self._sums, self._weights = self._sums[count:], self._weights[count:]
        self._entropies = self._entropies[count:]
        self.finalized = window.finalized
        return result


def equalize(maps: np.ndarray) -> np.ndarray:
    """The maps of one window, float32 (K, h, w), not negative, with the mean of their entropies and the mean of their
    sums each: raised to powers near 1, which leaves where people look as it is, and scaled."""
    sums = maps.sum((1, 2), keepdims=True)
    shares = maps / np.maximum(sums, 1e-20)
    result = _with_entropies(shares, _entropies(shares)[0].mean()) * sums.mean()
    return np.where(sums > 0, result, 0).astype(np.float32)


def _entropies(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of maps (K, h, w) that sum to 1 each, and how fast it falls when they are raised to powers: (K,) twice."""
    logs = np.log(np.maximum(shares, 1e-20))
    means = (shares * logs).sum((1, 2))
    return -means, (shares * logs**2).sum((1, 2)) - means**2


def _with_entropies(shares: np.ndarray, wanted: np.ndarray | float) -> np.ndarray:
    """Maps (K, h, w) that sum to 1 each, raised to powers that give them the entropies wanted."""
    entropies, slopes = _entropies(shares)
    powers = 1 + (entropies - wanted) / np.maximum(slopes, 1e-3)
    raised = shares ** np.clip(powers, *_POWERS)[:, None, None]
    result: np.ndarray = raised / np.maximum(raised.sum((1, 2), keepdims=True), 1e-20)
    return result


def _grown(values: np.ndarray, length: int) -> np.ndarray:
    """`values` with zeros up to `length`."""
    return np.concatenate([values, np.zeros((max(0, length - len(values)), *values.shape[1:]), values.dtype)])
