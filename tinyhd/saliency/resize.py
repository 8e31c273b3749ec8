"""Maps from the network's own resolution to the size that is promised to callers."""

from functools import lru_cache

import numpy as np

MAP_HEIGHT, MAP_WIDTH = 192, 256
"""Size in pixels of the maps that callers get."""


def enlarge(maps: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) at full size, float32 (N, 192, 256): bicubic, which keeps the peaks that bilinear flattens."""
    if maps.shape[1:] == (MAP_HEIGHT, MAP_WIDTH):
        return maps.astype(np.float32, copy=False)
    rows, columns = _bicubic(maps.shape[1], MAP_HEIGHT), _bicubic(maps.shape[2], MAP_WIDTH)
    # two matrix products; bicubic may swing a little below zero
    return np.maximum(rows @ maps.astype(np.float32, copy=False) @ columns.T, 0)


@lru_cache(maxsize=16)
def _bicubic(size: int, out_size: int) -> np.ndarray:
    """Bicubic interpolation along a line as a matrix, float32 (out_size, size): Keys' kernel with a = -0.75, half-pixel
    centers, edges repeated; the same as PyTorch's `F.interpolate(mode="bicubic", align_corners=False)`."""
    a = -0.75
    position = (np.arange(out_size) + 0.5) * (size / out_size) - 0.5
    first = np.floor(position).astype(int)
    matrix = np.zeros((out_size, size))
    for tap in range(-1, 3):
        x = np.abs(position - (first + tap))
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(matrix, (np.arange(out_size), np.clip(first + tap, 0, size - 1)), np.where(x <= 1, near, far))
    result: np.ndarray = matrix.astype(np.float32)
    return result
