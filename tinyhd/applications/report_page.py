"""A report as one HTML page that needs nothing else, and as JSON."""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np

from tinyhd.applications.moments import FOCUSED, SCATTERED
from tinyhd.applications.report import (
    ATTENDED_SHARE,
    BLOCK_SECONDS,
    EDGE_SECONDS,
    RESAMPLES,
    Difference,
    RegionFigures,
    VideoFigures,
)
from tinyhd.errors import OptionError
from tinyhd.render.charts import intervals, lines_over_time
from tinyhd.saliency.focus import FOCUS_DEFINITION
from tinyhd.version import __version__


@dataclass(frozen=True)
class StripFrame:
    """A frame of the film strip."""

    time_seconds: float
    focus: float
    plain: bytes
    """A JPEG file."""
    heat: bytes
    """The same with its heat map."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model's accuracy."""

    measured: tuple[dict[str, Any], ...] = ()
    """Of each data set: `data`, `nss`, `auc_judd`, `cc`, `sim`."""
    focus: str = ""
    """A sentence about how well focus follows people."""
    limits: tuple[str, ...] = ()


def html(
    videos: Sequence[VideoFigures],
    strips: Sequence[Sequence[StripFrame]],
    differences: Sequence[Difference],
    model: ModelFacts,
    *,
    title: str | None = None,
    threshold: float = ATTENDED_SHARE,
) -> str:
    """The page.

    Args:
        videos: one or more, the first being what others are compared with.
        strips: frames of each.
        differences: of the others from the first.
        model: of the model that has made the tracks.
        title: of the page; None: from the videos' names.
        threshold: share from which on regions were counted as attended.

    Raises:
        OptionError: Jinja or Matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise OptionError('reports need the extra "report": pip install "tinyhd[report]".') from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, seconds=_seconds, points=_points, signed=_signed, data=_data)
    text = resources.files("tinyhd.applications").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        title=title or _title([video.name for video in videos]),
        videos=[
            {"figures": video, "strip": strip, **_charts(video, number)}
            for number, (video, strip) in enumerate(zip(videos, strips, strict=True))
        ],
        focus_together=_together(videos) if len(videos) > 1 else "",
        region_names=list(dict.fromkeys(region.name for video in videos for region in video.regions)),
        differences=differences,
        difference_charts=_difference_charts(differences),
        model=model,
        threshold=threshold,
        focus_definition=FOCUS_DEFINITION,
        edge=EDGE_SECONDS,
        focused=FOCUSED,
        scattered=SCATTERED,
        block=BLOCK_SECONDS,
        resamples=RESAMPLES,
        version=__version__,
    )


def _title(names: Sequence[str]) -> str:
    return f"Attention in {' and '.join(names) if len(names) < 3 else f'{names[0]} and {len(names) - 1} other videos'}"


def as_json(
    videos: Sequence[VideoFigures], differences: Sequence[Difference], model: ModelFacts, threshold: float
) -> dict[str, Any]:
    """All numbers of the report, ready for JSON; times are seconds after each file's own start."""
    return {
        "tinyhd": __version__,
        "definitions": {
            "focus": FOCUS_DEFINITION,
            "share": "of the predicted attention, 0 to 1, mean over the time that a region is in the picture",
            "attended": f"a region whose share is at least {threshold:g}",
            "first_attention_seconds": "after the first frame",
            "lost": f"focus falls to {SCATTERED:g}",
            "focused": f"focus rises to {FOCUSED:g}",
            "interval": f"95 %, block bootstrap over frames, blocks of {BLOCK_SECONDS:g} s, {RESAMPLES} resamples",
        },
        "videos": [
            {
                "name": video.name,
                "model": video.info.model,
                "model_hash": video.info.model_hash,
                "start_seconds": video.start_seconds,
                "duration_seconds": video.duration_seconds,
                "cuts": list(video.cuts),
                "focus": video.focus,
                "focused_share": video.focused_share,
                "lost_share": video.lost_share,
                "center_share": video.center_share,
                "focused": [asdict(span) for span in video.focused],
                "lost": [asdict(span) for span in video.lost],
                "most_gathered": [{"time_seconds": p.time_seconds, "focus": p.focus} for p in video.moments],
                "regions": [_region(region) for region in video.regions],
                "over_time": {
                    "time_seconds": video.curve.times.tolist(),
                    "focus": video.curve.values.tolist(),
                    "focus_smoothed": video.curve.smooth.tolist(),
                    "center_share": video.center_shares.tolist(),
                    **{f"region:{region.name}": _without_nan(region.shares) for region in video.regions},
                },
            }
            for video in videos
        ],
        "differences": [asdict(each) | {"is_clear": each.is_clear} for each in differences],
        "measured_accuracy": list(model.measured),
        "focus_accuracy": model.focus,
        "limits": list(model.limits),
    }


def _region(region: RegionFigures) -> dict[str, Any]:
    return {name: value for name, value in vars(region).items() if name != "shares"}


def _charts(video: VideoFigures, number: int) -> dict[str, Any]:
    times = video.curve.times - video.start_seconds
    begin = video.start_seconds
    cuts = [cut - begin for cut in video.cuts]
    bands = [(s.start_seconds - begin, s.end_seconds - begin, True) for s in video.focused]
    bands += [(s.start_seconds - begin, s.end_seconds - begin, False) for s in video.lost]
    focus = lines_over_time(
        times,
        [("", video.curve.smooth)],
        label="focus",
        maximum=100,
        cuts=cuts,
        bands=bands,
        marks=[peak.time_seconds - begin for peak in video.moments],
        key=f"focus{number}",
    )
    regions = None
    if video.regions:
        highest = max(float(np.nanmax(r.shares)) if r.present_seconds else 0.0 for r in video.regions)
        regions = lines_over_time(
            times,
            [(region.name, 100 * region.shares) for region in video.regions],
            label="share of attention, %",
            maximum=min(100.0, max(10.0, 10 * np.ceil(11 * highest))),
            cuts=cuts,
            key=f"regions{number}",
        )
    return {"focus_chart": focus, "region_chart": regions}


def _together(videos: Sequence[VideoFigures]) -> str:
    """Focus of all videos, each from its own beginning."""
    times = np.linspace(0, max(video.duration_seconds for video in videos), 600)
    lines = []
    for video in videos:
        own = video.curve.times - video.start_seconds
        values = np.interp(times, own, video.curve.smooth)
        lines.append((video.name, np.where(times <= video.duration_seconds, values, np.nan)))
    return lines_over_time(times, lines, label="focus", maximum=100, key="together")


def _difference_charts(differences: Sequence[Difference]) -> list[str]:
    charts = []
    several = len({each.other for each in differences}) > 1
    for is_share, label in (
        (False, "difference of mean focus, points"),
        (True, "difference of shares, percent points"),
    ):
        rows = [each for each in differences if each.is_share == is_share]
        factor = 100 if is_share else 1
        names = [f"{each.what} ({each.other})" if several else each.what for each in rows]
        values = [(factor * each.difference, factor * each.low, factor * each.high) for each in rows]
        if rows:
            charts.append(intervals(names, values, label=label, key=f"difference{is_share:d}"))
    return charts


def _without_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _points(value: float) -> str:
    return f"{value:.0f}"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0:+.1f}".replace("-", "\N{MINUS SIGN}")


def _data(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
