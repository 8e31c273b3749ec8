"""Colors and opacity of each level of attention."""

from collections.abc import Callable

import av
import numpy as np

from tinyhd.errors import OptionError
from tinyhd.options import RenderOptions
from tinyhd.video.pixel_format import BT470BG, RANGE_LIMITED, UNSPECIFIED

# How a value in [0, 1] is shown by overlay and spotlight: raised to this power, so that secondary regions do not vanish
# beside the main one, then transparent below the first and fully opaque above the second number.
_GAMMA = 0.6
_TRANSPARENT_BELOW, _OPAQUE_ABOVE = 0.02, 0.4
_LIT_ABOVE = 0.5  # spotlight


def color_table(options: RenderOptions) -> np.ndarray:
    """Color and alpha of each of 256 levels of attention: float (256, 4), RGB and alpha in [0, 1].

    Raises:
        OptionError: there is no such color map.
    """
    style, colormap, opacity = options.style, options.colormap, options.effective_opacity
    level = np.linspace(0, 1, 256)
    if style == "heatmap":  # as it is, so that it can be read as a measurement
        return np.column_stack([_colors(colormap)(level), np.ones(256)])
    shown = level**_GAMMA
    if style == "spotlight":
        darkness = opacity * (1 - _smoothstep(shown, 0, _LIT_ABOVE))
        return np.column_stack([np.zeros((256, 3)), darkness])
    return np.column_stack([_colors(colormap)(shown), opacity * _smoothstep(shown, _TRANSPARENT_BELOW, _OPAQUE_ABOVE)])


def to_yuv(rgb: np.ndarray, colorspace: int, color_range: int) -> np.ndarray:
    """Colors RGB in [0, 1], (N, 3) -> 8-bit Y, U, V, uint8 (N, 3), by FFmpeg's scaler.

    Args:
        rgb: the colors.
        colorspace, color_range: numbers of ITU-T H.273 and FFmpeg; untagged is BT.601, limited.
    """
    colors = av.VideoFrame.from_ndarray(np.rint(255 * rgb).astype(np.uint8)[None], format="rgb24")
    yuv = colors.reformat(
        format="yuv444p",
        dst_colorspace=BT470BG if colorspace == UNSPECIFIED else colorspace,
        dst_color_range=color_range or RANGE_LIMITED,
    )
    planes: np.ndarray = yuv.to_ndarray()[:, 0]
    return planes.T


def _colors(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """A color map: values in [0, 1], (N,) -> RGB in [0, 1], (N, 3)."""
    import cmap  # not needed for every style

    try:
        chosen = cmap.Colormap(name)
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError(
            f"there is no color map {name!r}; turbo, inferno, magma, viridis, jet, hot and gray are some that exist."
        ) from error
    return lambda values: np.asarray(chosen(values), float)[:, :3]


def _smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
