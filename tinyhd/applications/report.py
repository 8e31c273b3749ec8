"""What a report says about attention in videos, as numbers: focus, where attention is lost, regions, and how two videos
differ. `report_page` makes a page of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyhd.applications.moments import Peak, Span, find_peaks, focused_spans, most_promising, scattered_spans
from tinyhd.errors import OptionError
from tinyhd.saliency.boxes import MovingBox
from tinyhd.saliency.focus import FocusCurve, focus_curve
from tinyhd.saliency.regions import Region, share_in_boxes
from tinyhd.saliency.stats import CENTER_BOX
from tinyhd.saliency.track import SaliencyTrack, TrackInfo

ATTENDED_SHARE = 0.1
"""Share of the attention from which on a region counts as attended."""
EDGE_SECONDS = 2.0
"""Length of what is called the first and the last part of a video."""
RESAMPLES, BLOCK_SECONDS, CONFIDENCE = 2000, 1.0, 0.95
"""Of the block bootstrap."""

_MOMENTS = 5


@dataclass(frozen=True)
class RegionFigures:
    """Attention to a region of one video. Shares are of all attention, 0 to 1, means over the time that the region is
    in the picture; None: it is not there."""

    name: str
    share: float | None
    area: float | None
    """Share of the picture's area, which is the share of attention that it would have if that were even."""
    first_attention_seconds: float | None
    """After the video's beginning: when it first is attended; None: never."""
    attended_seconds: float
    present_seconds: float
    first_share: float | None
    """In the first `EDGE_SECONDS`."""
    last_share: float | None
    """In the last `EDGE_SECONDS`."""
    shares: np.ndarray
    """float (N,) at the curve's times; NaN where it is not there."""


@dataclass(frozen=True)
class VideoFigures:
    """Attention in one video."""

    name: str
    info: TrackInfo
    start_seconds: float
    duration_seconds: float
    """From the first sample to the end of the last one."""
    curve: FocusCurve
    weights: np.ndarray
    """float (N,): seconds that each sample stands for."""
    focus: float
    """Mean over time, 5 to 100."""
    center_share: float
    """Mean share of the attention inside the middle quarter of the picture, 0 to 1."""
    center_shares: np.ndarray
    focused: tuple[Span, ...]
    lost: tuple[Span, ...]
    """Where attention is lost, in order of time."""
    moments: tuple[Peak, ...]
    """Where it is most gathered."""
    regions: tuple[RegionFigures, ...]
    cuts: tuple[float, ...]

    @property
    def focused_share(self) -> float:
        """Share of the time, 0 to 1."""
        return _seconds(self.focused) / self.duration_seconds

    @property
    def lost_share(self) -> float:
        """Share of the time, 0 to 1."""
        return _seconds(self.lost) / self.duration_seconds


@dataclass(frozen=True)
class Difference:
    """How a mean differs between the first video and another: `other - first`."""

    what: str
    other: str
    """The other video's name."""
    first_mean: float
    other_mean: float
    difference: float
    low: float
    high: float
    """The interval over frames: 95 % of the differences between videos resampled in blocks of a second."""
    is_share: bool = field(default=True)
    """Whether these are shares, 0 to 1, or points of focus."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def figures(
    track: SaliencyTrack,
    regions: Sequence[MovingBox] = (),
    *,
    name: str | None = None,
    threshold: float = ATTENDED_SHARE,
) -> VideoFigures:
    """Attention in a video, at its track's samples.

    Args:
        track: of the video.
        regions: places of interest, resting or moving.
        name: of the video, where its file's name will not do.
        threshold: share of the attention, above 0 and below 1, from which on a region counts as attended.

    Raises:
        OptionError: the threshold is not allowed.
    """
    if not 0 < threshold < 1:
        raise OptionError(f"the threshold is {threshold:g}; it must be above 0 and below 1.")
    curve = focus_curve(track)
    times = curve.times
    typical = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    weights = np.diff(times, append=times[-1] + typical)
    boxes = [region.at(times) for region in regions]
    size = (track.info.source.width, track.info.source.height)
    masks = [
        Region(region.name, region.outline).coverage(track.info.shape, *size) if region.outline else None
        for region in regions
    ]
    center, shares = np.empty(len(times)), np.full((len(regions), len(times)), np.nan)
    for k, saliency in enumerate(track.own_maps_at(times)):
        total = float(saliency.sum())
        center[k] = share_in_boxes(saliency, np.array([CENTER_BOX]))[0]
        for number, mask in enumerate(masks):
            box = boxes[number][k]
            if mask is not None:
                shares[number, k] = float((saliency * mask).sum()) / total if total > 0 else float(mask.mean())
            elif not np.isnan(box).any():
                shares[number, k] = share_in_boxes(saliency, box[None])[0]
    found = []
    for number, region in enumerate(regions):
        mask = masks[number]
        areas = np.prod(np.clip(boxes[number][:, 2:], 0, 1) - np.clip(boxes[number][:, :2], 0, 1), axis=1)
        if mask is not None:
            areas = np.full(len(times), mask.mean())
        found.append(_region(region.name, shares[number], areas, times, weights, threshold))
    return VideoFigures(
        name=name or track.info.source.name,
        info=track.info,
        start_seconds=float(times[0]),
        duration_seconds=float(weights.sum()),
        curve=curve,
        weights=weights,
        focus=float(np.average(curve.values, weights=weights)),
        center_share=float(np.average(center, weights=weights)),
        center_shares=center,
        focused=tuple(focused_spans(curve)),
        lost=tuple(scattered_spans(curve)),
        moments=tuple(most_promising(find_peaks(curve), _MOMENTS)),
        regions=tuple(found),
        cuts=tuple(cut for cut in track.cuts.tolist() if times[0] < cut <= times[-1]),
    )


def differences(videos: Sequence[VideoFigures]) -> list[Difference]:
    """How the others differ from the first video: mean focus, the share of the center, and of regions of one name.

    The interval is that of a moving block bootstrap over the samples of both videos: how much the difference depends on
    which moments happen to be in them. It knows nothing of errors of the model.
    """
    first, *others = videos
    result = []
    for other in others:
        pairs = [
            ("focus", first.curve.values, other.curve.values, False),
            ("share of the middle quarter of the picture", first.center_shares, other.center_shares, True),
        ]
        by_name = {region.name: region for region in other.regions}
        for region in first.regions:
            if region.name in by_name:
                pairs.append((f"share of {region.name}", region.shares, by_name[region.name].shares, True))
        for what, ours, theirs, is_share in pairs:
            one, two = _present(ours, first.weights), _present(theirs, other.weights)
            if one is None or two is None:
                continue
            means = [float(np.average(values, weights=weights)) for values, weights in (one, two)]
            spread = _resampled(*two, seed=1) - _resampled(*one, seed=0)
            low, high = np.percentile(spread, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]).tolist()
            result.append(Difference(what, other.name, means[0], means[1], means[1] - means[0], low, high, is_share))
    return result


def _present(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    there = ~np.isnan(values)
    return (values[there], weights[there]) if there.any() else None


def _resampled(values: np.ndarray, weights: np.ndarray, seed: int) -> np.ndarray:
    """Weighted means of the values resampled in blocks of `BLOCK_SECONDS`: float (RESAMPLES,)."""
    count = len(values)
    block = min(count, max(1, round(BLOCK_SECONDS / float(np.median(weights)))))
    sums = np.concatenate([[0.0], np.cumsum(np.tile(values * weights, 2))])
    seconds = np.concatenate([[0.0], np.cumsum(np.tile(weights, 2))])
    # circular blocks: each sample is in equally many
    first = np.random.default_rng(seed).integers(0, count, (RESAMPLES, -(-count // block)))
    result: np.ndarray = (sums[first + block] - sums[first]).sum(1) / (seconds[first + block] - seconds[first]).sum(1)
    return result


def _region(
    name: str, shares: np.ndarray, areas: np.ndarray, times: np.ndarray, weights: np.ndarray, threshold: float
) -> RegionFigures:
    there = ~np.isnan(shares)
    attended = there & (np.nan_to_num(shares) >= threshold)

    def mean(values: np.ndarray, part: np.ndarray) -> float | None:
        part = part & there
        return float(np.average(values[part], weights=weights[part])) if part.any() else None

    begin, end = times[0], times[-1] + weights[-1]
    return RegionFigures(
        name=name,
        share=mean(shares, there),
        area=mean(areas, there),
        first_attention_seconds=float(times[attended][0] - begin) if attended.any() else None,
        attended_seconds=float(weights[attended].sum()),
        present_seconds=float(weights[there].sum()),
        first_share=mean(shares, times < begin + EDGE_SECONDS - 1e-6),
        last_share=mean(shares, times >= end - EDGE_SECONDS - 1e-6),
        shares=shares,
    )


def _seconds(spans: Sequence[Span]) -> float:
    return sum(span.end_seconds - span.start_seconds for span in spans)
