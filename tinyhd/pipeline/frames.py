"""Some frames of a video, without reading all of it."""

from collections.abc import Iterator, Sequence

from tinyhd.files import StrPath
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video

_SEEK_SECONDS = 10.0
"""Between intervals that are further apart than this the file is not read."""
_SLACK_SECONDS = 1e-6


def frames_in(input: StrPath, intervals: Sequence[tuple[float, float]]) -> Iterator[tuple[Frame, list[int]]]:
    """Each frame that lies in some intervals of time (start, end), ends included, in seconds after the container's
    start, and the numbers of these; in order of time."""
    groups: list[list[int]] = []
    for number in sorted(range(len(intervals)), key=lambda n: intervals[n]):
        if not groups or intervals[number][0] > max(intervals[n][1] for n in groups[-1]) + _SEEK_SECONDS:
            groups.append([])
        groups[-1].append(number)
    for group in groups:
        end = max(intervals[number][1] for number in group) + 1e-3
        with open_video(input, max(intervals[group[0]][0], 0.0), end) as video:
            for frame in video:
                low, high = frame.time_seconds - _SLACK_SECONDS, frame.time_seconds + _SLACK_SECONDS
                if numbers := [n for n in group if intervals[n][0] <= high and low <= intervals[n][1]]:
                    yield frame, numbers
