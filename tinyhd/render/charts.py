"""Charts as inline SVG, whose colors are those of the page around them, light or dark."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyhd.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 6
"""Colors there are for lines: the page's --series-1 and so on."""

# what is drawn in these is shown in the page's own
_VARIABLES = {"#010101": "--ink", "#020202": "--faint", "#030303": "--lost", "#040404": "--focused"}
_VARIABLES |= {f"#0500{number:02d}": f"--series-{number}" for number in range(1, SERIES + 1)}
_INK, _FAINT, _LOST, _FOCUSED = list(_VARIABLES)[:4]
_POINTS = 900
_DASHES = ("-", "--", ":", "-.")


def lines_over_time(
    times: np.ndarray,
    lines: Sequence[tuple[str, np.ndarray]],
    *,
    label: str,
    maximum: float,
    cuts: Sequence[float] = (),
    bands: Sequence[tuple[float, float, bool]] = (),
    marks: Sequence[float] = (),
    key: str = "chart",
) -> str:
    """Values over time, as SVG.

    Args:
        times: float (N,), seconds.
        lines: names and values, float (N,), NaN where there is none; the first of a single line is drawn in ink.
        label: of the vertical axis, from 0 to `maximum`.
        cuts: times of dashed vertical lines.
        bands: start, end, and whether it is a good one, of stretches of time that are shaded.
        marks: times of triangles at the top.
        key: different for all charts of a page.
    """
    figure, axes = _figure(9.6, 2.4)
    span = (float(times[0]), float(max(times[-1], times[0] + 1e-3)))
    for begin, end, is_good in bands:
        axes.axvspan(begin, min(end, span[1]), color=_FOCUSED if is_good else _LOST, alpha=0.18, linewidth=0)
    for cut in cuts:
        axes.axvline(cut, color=_FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    step = max(1, len(times) // _POINTS)
    for number, (name, values) in enumerate(lines):
        color = _INK if len(lines) == 1 and not name else f"#0500{number % SERIES + 1:02d}"
        axes.plot(
            *(times[::step], values[::step]),
            color=color,
            linewidth=1.8,
            label=name or None,
            linestyle=_DASHES[number // SERIES % len(_DASHES)],
        )
    if marks:
        axes.plot(marks, [maximum * 0.97] * len(marks), "v", color=_FOCUSED, markersize=6, linestyle="none")
    axes.set_xlim(*span)
    axes.set_ylim(0, maximum)
    axes.set_xlabel("seconds", color=_INK)
    axes.set_ylabel(label, color=_INK)
    if len(lines) > 1 or lines[0][0]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.2), ncols=6, frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure, key, f"{label} over time")


def intervals(
    names: Sequence[str], values: Sequence[tuple[float, float, float]], *, label: str, key: str = "chart"
) -> str:
    """Differences with their intervals (difference, low, high) around a line at 0, one below the other, as SVG."""
    figure, axes = _figure(9.6, 0.7 + 0.34 * len(names))
    axes.axvline(0, color=_FAINT, linewidth=1)
    for row, (middle, low, high) in enumerate(values):
        axes.plot([low, high], [row, row], color="#050001", linewidth=2.5, solid_capstyle="round")
        axes.plot([middle], [row], "o", color="#050001", markersize=6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label, color=_INK)
    return _svg(figure, key, label)


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError('reports need the extra "report": pip install "tinyhd[report]".') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(_FAINT)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=9)
    return figure, axes


def _svg(figure: "Figure", key: str, title: str) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # text stays text, in the page's font; names of parts differ from chart to chart
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.family": ["sans-serif"]}):
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    drawing = re.sub(r' (width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", drawing)
    drawing = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{key}-", drawing)
    for color, variable in _VARIABLES.items():
        drawing = drawing.replace(color, f"var({variable})")
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
