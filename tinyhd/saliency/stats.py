"""Numbers about attention, frame by frame: where its peak and its center are, how spread it is, and how much of it
falls into regions of interest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tinyhd.saliency.focus import focus
from tinyhd.saliency.regions import Region, share_in_boxes

CENTER_BOX = (0.25, 0.25, 0.75, 0.75)
"""The middle of the picture, a quarter of its area: left, top, right, bottom as fractions."""


@dataclass(frozen=True)
class FrameStats:
    """Attention in one frame. Places are fractions of the picture: x from 0 at the left edge to 1 at the right one, y
    from the top down."""

    frame: int
    """Number of the frame, from 0."""
    time_seconds: float
    """After the container's start."""
    peak: float
    """Largest value of the map as the model gives it."""
    peak_x: float
    peak_y: float
    """Where that is (the middle of the map's pixel)."""
    center_x: float
    center_y: float
    """Center of mass."""
    spread: float
    """Root mean square distance from the center of mass, as a fraction of the picture's diagonal."""
    entropy_bits: float
    """Of the map as a probability distribution: 0 for one pixel, 15.6 for all 192x256 alike."""
    focus: float
    """Percent of the attention that falls on the most attended twentieth of the picture: 5 to 100."""
    regions: dict[str, float] = field(default_factory=dict)
    """For each region the share of the attention that falls into it, 0 to 1."""

    def to_dict(self) -> dict[str, float]:
        """All numbers by column name, those of regions as `region:NAME`."""
        values = {name: value for name, value in self.__dict__.items() if name != "regions"}
        return values | {f"region:{name}": share for name, share in self.regions.items()}


class StatsComputer:
    """Computes `FrameStats` for the maps of one video."""

    def __init__(
        self, width: int, height: int, sample_aspect_ratio: float = 1, regions: "Sequence[Region] | None" = None
    ) -> None:
        """
        Args:
            width, height: of the upright picture in pixels.
            sample_aspect_ratio: width / height of a pixel as shown.
            regions: places of interest, from `read_regions`.

        Raises:
            OptionError: a region lies outside the picture.
        """
        self._size = (width, height)
        shown_width = width * float(sample_aspect_ratio)
        self._stretch = np.array([shown_width, height]) / math.hypot(shown_width, height)
        self._regions = list(regions or ())
        self._masks: np.ndarray | None = None
        for region in self._regions:
            region.check_inside(width, height)

    def __call__(self, saliency: np.ndarray, frame: int, time_seconds: float) -> FrameStats:
        """Numbers about a map, float (H, W), not negative; all maps must have the same size."""
        height, width = saliency.shape
        share = saliency.astype(np.float64)
        total = share.sum()
        share = share / total if total > 0 else np.full(share.shape, 1 / share.size)
        peak_row, peak_column = divmod(int(np.argmax(saliency)), width)
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        columns, rows = share.sum(0), share.sum(1)
        center_x, center_y = float(columns @ x), float(rows @ y)
        variance = np.array([columns @ (x - center_x) ** 2, rows @ (y - center_y) ** 2])
        positive = share[share > 0]
        return FrameStats(
            frame=frame,
            time_seconds=time_seconds,
            peak=float(saliency[peak_row, peak_column]),
            peak_x=float(x[peak_column]),
            peak_y=float(y[peak_row]),
            center_x=center_x,
            center_y=center_y,
            spread=float(np.sqrt(self._stretch**2 @ variance)),
            entropy_bits=max(0.0, float(-(positive * np.log2(positive)).sum())),
            focus=focus(saliency),
            regions=self._region_shares(share),
        )

    def _region_shares(self, share: np.ndarray) -> dict[str, float]:
        if not self._regions:
            return {}
        if self._masks is None:
            self._masks = np.stack([region.coverage(share.shape, *self._size).ravel() for region in self._regions])
        shares = self._masks @ share.ravel()
        return {region.name: float(value) for region, value in zip(self._regions, shares, strict=True)}


# ---- whole videos


class TemporalStats(NamedTuple):
    """What `VideoStats` adds to the numbers of a frame."""

    center_share: float
    """Share of the attention inside `CENTER_BOX`, 0 to 1."""
    peak_speed: float
    """How fast the peak has moved since the frame before, in picture diagonals per second; 0 where a shot starts."""


@dataclass(frozen=True)
class VideoSummary:
    """Attention in a whole video: means over its frames."""

    frame_count: int
    peak_x: float
    peak_y: float
    """Where the mean of all maps, each with sum 1, is largest; fractions of the picture."""
    spread: float
    entropy_bits: float
    focus: float
    center_share: float
    peak_speed: float
    """The rest are means of the numbers that `FrameStats` and `TemporalStats` explain."""


class VideoStats:
    """Sums up the maps of one video."""

    def __init__(self, width: int, height: int, sample_aspect_ratio: float = 1) -> None:
        """The arguments are those of `StatsComputer`."""
        shown_width = width * float(sample_aspect_ratio)
        diagonal = math.hypot(shown_width, height)
        self._stretch = (shown_width / diagonal, height / diagonal)
        self._frames = 0
        self._sums = np.zeros(5)
        self._mean_map: np.ndarray | None = None
        self._last: FrameStats | None = None

    def add(self, saliency: np.ndarray, stats: FrameStats, is_cut: bool = False) -> TemporalStats:
        """Take the next frame's map, float (H, W), and what `StatsComputer` made of it."""
        center_share = float(share_in_boxes(saliency, np.array([CENTER_BOX]))[0])
        speed = 0.0
        if self._last is not None and not is_cut and stats.time_seconds > self._last.time_seconds:
            dx = (stats.peak_x - self._last.peak_x) * self._stretch[0]
            dy = (stats.peak_y - self._last.peak_y) * self._stretch[1]
            speed = math.hypot(dx, dy) / (stats.time_seconds - self._last.time_seconds)
        self._frames += 1
        self._last = stats
        self._sums += (stats.spread, stats.entropy_bits, stats.focus, center_share, speed)
        total = float(saliency.sum())
        if self._mean_map is None:
            self._mean_map = np.zeros(saliency.shape)
        if total > 0:
            self._mean_map += saliency / total
        return TemporalStats(center_share, speed)

    def summary(self) -> VideoSummary:
        """The numbers of all frames so far.

        Raises:
            ValueError: there was none.
        """
        if self._mean_map is None:
            raise ValueError("there is no summary of no frames")
        height, width = self._mean_map.shape
        row, column = divmod(int(np.argmax(self._mean_map)), width)
        spread, entropy, focused, center, speed = (float(value) for value in self._sums / self._frames)
        return VideoSummary(
            frame_count=self._frames,
            peak_x=(column + 0.5) / width,
            peak_y=(row + 0.5) / height,
            spread=spread,
            entropy_bits=entropy,
            focus=focused,
            center_share=center,
            peak_speed=speed,
        )
