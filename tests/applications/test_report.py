"""Numbers of a report, on tracks whose attention is known."""

import io

import numpy as np
import pytest
from fakes import made_track as track_of

from tinyhd.applications.report import differences, figures
from tinyhd.errors import OptionError
from tinyhd.saliency.boxes import MovingBox
from tinyhd.saliency.track import SaliencyTrack, TrackInfo, TrackSource
from tinyhd.saliency.track_writer import TrackWriter

LEFT = MovingBox("left", (0.0,), ((0.0, 0.0, 0.5, 1.0),))


def on_the_left(share: float) -> np.ndarray:
    """A map with this share of its attention evenly on the left half, the rest on the right."""
    saliency = np.empty((20, 40))
    saliency[:, :20], saliency[:, 20:] = share, 1 - share
    return saliency


def test_shares_and_times_of_a_region() -> None:
    # 5 % for 4 s, 60 % for 3 s, 20 % for the rest
    seen = track_of(lambda t: on_the_left(0.05 if t < 4 else 0.6 if t < 7 else 0.2), cuts=(4.0, 7.0))
    video = figures(seen, [LEFT], threshold=0.5)
    (left,) = video.regions
    assert left.share == pytest.approx(0.4 * 0.05 + 0.3 * 0.6 + 0.3 * 0.2, abs=1e-3)
    assert left.area == pytest.approx(0.5)
    assert left.first_attention_seconds == pytest.approx(4)
    assert left.attended_seconds == pytest.approx(3)
    assert left.present_seconds == pytest.approx(10)
    assert (left.first_share, left.last_share) == (pytest.approx(0.05, abs=1e-3), pytest.approx(0.2, abs=1e-3))
    assert video.duration_seconds == pytest.approx(10)
    assert video.cuts == (4.0, 7.0)
    (low,) = figures(seen, [LEFT], threshold=0.1).regions
    assert low.attended_seconds == pytest.approx(6)
    (never,) = figures(seen, [LEFT], threshold=0.7).regions
    assert (never.first_attention_seconds, never.attended_seconds) == (None, 0)


def test_a_moving_box_is_followed_and_absent_outside_its_times() -> None:
    def dot(t: float) -> np.ndarray:
        saliency = np.zeros((20, 40))
        saliency[8:12, round(2 + 3 * t) - 1 : round(2 + 3 * t) + 1] = 1  # x goes by 3 pixels, 0.075, a second
        return saliency

    box = MovingBox("dot", (2.0, 8.0), ((0.1, 0.3, 0.3, 0.7), (0.55, 0.3, 0.75, 0.7)))
    (moving,) = figures(track_of(dot), [box]).regions
    assert moving.share == pytest.approx(1)
    assert moving.present_seconds == pytest.approx(6.1)
    assert moving.first_attention_seconds == pytest.approx(2)
    assert moving.first_share is None
    assert np.isnan(moving.shares[:20]).all()
    resting = MovingBox("there", (0.0,), (box.boxes[0],))
    assert figures(track_of(dot), [resting]).regions[0].share < 0.5  # type: ignore[operator]


def test_polygons_count_by_their_outline() -> None:
    triangle = MovingBox("triangle", (0.0,), ((0.0, 0.0, 1.0, 1.0),), ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    (region,) = figures(track_of(lambda t: np.ones((20, 40)), 2), [triangle]).regions
    assert (region.share, region.area) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.5, abs=0.01))


def test_focus_and_where_attention_is_lost() -> None:
    gathered = np.full((20, 40), 1e-6)
    gathered[5:8, 5:8] = 1
    video = figures(track_of(lambda t: gathered if t < 6 else np.ones((20, 40)), cuts=(6.0,)))
    assert video.focus == pytest.approx(0.6 * 100 + 0.4 * 5, abs=0.5)
    ((lost,), (focused,)) = video.lost, video.focused
    assert (lost.start_seconds, lost.end_seconds) == (pytest.approx(6), pytest.approx(10))
    assert (focused.start_seconds, focused.end_seconds) == (pytest.approx(0), pytest.approx(6))
    assert (video.lost_share, video.focused_share) == (pytest.approx(0.4), pytest.approx(0.6))


def test_times_count_by_their_length() -> None:
    memory = io.BytesIO()
    with TrackWriter(memory) as writer:
        for time, share in ((0.0, 0.9), (1.0, 0.1), (4.0, 0.1)):
            writer.add(time, on_the_left(share).astype(np.float32))
        writer.finish(TrackInfo(TrackSource("clip.mp4", 1, "0" * 64, 640, 360), "made", "sha256:1"))
    (left,) = figures(SaliencyTrack(memory), [LEFT]).regions
    assert left.share == pytest.approx((0.9 + 5 * 0.1) / 6, abs=1e-3)  # the last stands for the usual two seconds


def test_a_clear_difference() -> None:
    random = np.random.default_rng(0)
    one, other = (
        figures(track_of(lambda t, mean=mean: on_the_left(np.clip(random.normal(mean, 0.05), 0, 1)), 20), [LEFT])
        for mean in (0.3, 0.5)
    )
    found = {each.what: each for each in differences([one, other])}
    left = found["share of left"]
    assert left.difference == pytest.approx(0.2, abs=0.03)
    assert left.low < left.difference < left.high
    assert left.is_clear
    assert left.high - left.low < 0.06
    assert set(found) == {"focus", "share of the middle quarter of the picture", "share of left"}


def test_the_interval_covers_the_truth_where_frames_depend_on_each_other() -> None:
    # attention drifts: single frames would say far too narrow an interval
    random = np.random.default_rng(1)
    clear = 0
    for _ in range(20):
        videos = []
        for _ in range(2):
            drift = np.convolve(random.normal(size=160), np.ones(10) / 10, "same")[:150]
            videos.append(figures(track_of(lambda t, d=drift: on_the_left(0.5 + 0.2 * d[round(t * 10)]), 15), [LEFT]))
        clear += {each.what: each for each in differences(videos)}["share of left"].is_clear
    assert clear <= 5  # of 20 pairs that do not differ; single frames would find a difference in 11


def test_the_same_video_does_not_differ() -> None:
    video = figures(track_of(lambda t: on_the_left(0.3 + 0.1 * np.sin(t))), [LEFT])
    for each in differences([video, video]):
        assert each.difference == 0
        assert each.low <= 0 <= each.high


def test_what_is_not_allowed() -> None:
    seen = track_of(lambda t: np.ones((20, 40)), 1)
    with pytest.raises(OptionError, match=r"the threshold is 10; it must be above 0 and below 1\."):
        figures(seen, threshold=10)
