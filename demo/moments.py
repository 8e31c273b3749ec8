"""What the numbers of all frames are condensed to: the moments of most attention, and the lines of the plot."""

from collections.abc import Sequence

from tinyhd.saliency.stats import FrameStats

COUNT = 5
POINTS = 400
"""A plot has about so many points: as many as it has pixels, about."""


def most_attended(stats: Sequence[FrameStats], count: int = COUNT) -> list[FrameStats]:
    """The frames where attention is gathered most closely (lowest entropy), in order of time.

    They lie at least a tenth of the video apart, so that they are different moments; a short video has fewer.
    """
    if not stats:
        return []
    apart = (stats[-1].time_seconds - stats[0].time_seconds) / (2 * count)
    chosen: list[FrameStats] = []
    for candidate in sorted(stats, key=lambda s: (s.entropy_bits, s.frame)):
        if all(abs(candidate.time_seconds - other.time_seconds) > apart for other in chosen):
            chosen.append(candidate)
            if len(chosen) == count:
                break
    return sorted(chosen, key=lambda s: s.frame)


def plot_lines(stats: Sequence[FrameStats], points: int = POINTS) -> dict[str, list[float]]:
    """Lines over time for the plot: `time`, `entropy` (bits) and `spread` (percent of the diagonal), each the mean of
    equally many frames, at most about `points` of them."""
    step = max(1, len(stats) // points)
    groups = [stats[k : k + step] for k in range(0, len(stats), step)]

    def means(name: str, factor: float, digits: int) -> list[float]:
        return [round(factor * sum(getattr(s, name) for s in group) / len(group), digits) for group in groups]

    return {
        "time": [round(group[0].time_seconds, 3) for group in groups],
        "entropy": means("entropy_bits", 1, 3),
        "spread": means("spread", 100, 2),
    }
