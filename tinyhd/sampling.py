"""The network's input straight from a frame's YUV planes.

Converting a whole frame to RGB costs more than all else that is done to it, and at 1280x720 only one pixel in five is
looked at afterwards. Here those are converted, to the same values as FFmpeg's scaler gives them for 8-bit 4:2:0: each
chroma sample stands for 2x2 pixels, and each term is rounded down.
"""

from functools import lru_cache

import av
import numpy as np

from tinyhd.model import IMAGENET_MEAN, IMAGENET_STD
from tinyhd.overlay import luma_weights
from tinyhd.simd import compiled

_SCALE = 1 / (255 * np.array(IMAGENET_STD, np.float32))
_OFFSET = np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32)


def sample(
    image: av.VideoFrame, rows: tuple[np.ndarray, np.ndarray], columns: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """As `predict.preprocess` of the picture in RGB: float32 (3, len of rows' weights, len of columns').

    Args:
        image: 8-bit yuv420p, read by the matrix that it is tagged with, BT.601 where it has no tag.
        rows, columns: the two source places of each sample, int64 (2, n), and the second one's weight, float32 (n).
    """
    y, u, v = (np.frombuffer(memoryview(plane), np.uint8) for plane in image.planes)
    strides = image.planes[0].line_size, image.planes[1].line_size, image.planes[2].line_size
    result = np.empty((3, len(rows[1]), len(columns[1])), np.float32)
    terms = _terms(int(image.colorspace), image.color_range == 2)
    _sample(y, u, v, strides, *rows, *columns, terms, _SCALE, _OFFSET, result)
    return result


@lru_cache(maxsize=16)
def _terms(colorspace: int, full_range: bool) -> np.ndarray:
    """What each level of Y, V (red), U (green), V (green), U (blue) adds to a colour in 0 to 255: int32 (5, 256)."""
    red, blue = luma_weights(colorspace)
    green = 1 - red - blue
    level = np.arange(256.0)
    y = level if full_range else (level - 16) * 255 / 219
    chroma = (level - 128) * (1 if full_range else 255 / 224)
    to_red, to_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return np.floor([y, to_red, -blue / green * to_blue, -red / green * to_red, to_blue]).astype(np.int32)


@compiled
def _sample(y, u, v, strides, rows, down, columns, across, terms, scale, offset, out):
    width = out.shape[2]
    places = columns.ravel().astype(np.uint64)  # unsigned: Numba looks whether others count from the end
    halves = places // np.uint64(2)
    luma, to_red, to_green_u, to_green_v, to_blue = terms[0], terms[1], terms[2], terms[3], terms[4]
    red = np.empty((2, 2 * width), np.int32)  # two source rows, at the places of all columns' taps
    green, blue = red.copy(), red.copy()
    for j in range(out.shape[1]):
        for k in range(2):
            r = rows[k, j]
            line_y = y[r * strides[0] : (r + 1) * strides[0]]
            line_u = u[r // 2 * strides[1] : (r // 2 + 1) * strides[1]]
            line_v = v[r // 2 * strides[2] : (r // 2 + 1) * strides[2]]
            for i in range(2 * width):
                a, b, d = luma[line_y[places[i]]], line_u[halves[i]], line_v[halves[i]]
                red[k, i] = a + to_red[d]
                green[k, i] = a + to_green_u[b] + to_green_v[d]
                blue[k, i] = a + to_blue[b]
        _mix(red[0], red[1], down[j], across, scale[0], offset[0], out[0, j])
        _mix(green[0], green[1], down[j], across, scale[1], offset[1], out[1, j])
        _mix(blue[0], blue[1], down[j], across, scale[2], offset[2], out[2, j])


@compiled
def _mix(top, bottom, down, across, scale, offset, out):
    """One channel of one row: the four taps of each place, clipped, interpolated and normalised."""
    width = out.size
    top0, top1, bottom0, bottom1 = top[:width], top[width:], bottom[:width], bottom[width:]
    for i in range(width):
        a, b = np.float32(min(max(top0[i], 0), 255)), np.float32(min(max(bottom0[i], 0), 255))
        c, d = np.float32(min(max(top1[i], 0), 255)), np.float32(min(max(bottom1[i], 0), 255))
        left, right = a + down * (b - a), c + down * (d - c)
        out[i] = (left + across[i] * (right - left)) * scale - offset
