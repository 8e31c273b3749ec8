"""Colors and opacity of each level of attention."""

from collections.abc import Callable

import numpy as np

from tinyhd.errors import OptionError
from tinyhd.options import RenderOptions

# How a value in [0, 1] is shown by overlay and spotlight: raised to this power, so that secondary places do not vanish
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
    if style == "heatmap":  # as it is, so that the picture can be read as a measurement
        return np.column_stack([_colors(colormap)(level), np.ones(256)])
    shown = level**_GAMMA
    if style == "spotlight":
        darkness = opacity * (1 - _smoothstep(shown, 0, _LIT_ABOVE))
        return np.column_stack([np.zeros((256, 3)), darkness])
    return np.column_stack([_colors(colormap)(shown), opacity * _smoothstep(shown, _TRANSPARENT_BELOW, _OPAQUE_ABOVE)])


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
