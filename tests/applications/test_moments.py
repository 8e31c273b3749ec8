"""Key moments and spans: where they lie on curves whose answer is known."""

import numpy as np
import pytest

from tinyhd.applications.moments import (
    CUT_MARGIN_SECONDS,
    Candidate,
    Peak,
    Picture,
    choose,
    find_peaks,
    focused_spans,
    most_promising,
    scattered_spans,
)
from tinyhd.saliency.focus import FocusCurve, smoothed_curve

RATE = 25


def bumps(seconds: float, *at: tuple[float, float], base: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """Times, and a focus that rises above `base` by a height around each (time, height)."""
    times = np.arange(round(seconds * RATE)) / RATE
    values = np.full(len(times), float(base))
    for center, height in at:
        values += height * np.exp(-(((times - center) / 0.6) ** 2))
    return times, values


def curve_of(seconds: float, *at: tuple[float, float], cuts: tuple[float, ...] = (), base: float = 40.0) -> FocusCurve:
    return smoothed_curve(*bumps(seconds, *at, base=base), cuts)


# ---- peaks


def test_peaks_lie_where_attention_is_most_gathered() -> None:
    peaks = find_peaks(curve_of(12, (3, 20), (8, 30)))
    assert [peak.time_seconds for peak in peaks] == pytest.approx([3, 8], abs=0.05)
    assert peaks[1].focus > peaks[0].focus > 50
    assert peaks[0].prominence == pytest.approx(peaks[0].focus - 40, abs=0.5)
    for peak in peaks:
        assert peak.time_seconds - 0.5 <= peak.start_seconds < peak.time_seconds < peak.end_seconds
        assert peak.end_seconds <= peak.time_seconds + 0.5


def test_a_small_bump_beside_a_large_one_is_no_peak() -> None:
    peaks = find_peaks(curve_of(12, (3, 20), (8, 1)))
    assert [peak.time_seconds for peak in peaks] == pytest.approx([3], abs=0.05)


@pytest.mark.parametrize("phase", range(0, 12, 3))
def test_the_rhythm_of_windows_makes_no_peaks_and_moves_none(phase: int) -> None:
    times, values = bumps(20, (4, 15), (9.3, 20), (15.1, 15))
    rhythm = 4 * np.cos(2 * np.pi * (np.arange(len(times)) - phase) / 12)
    peaks = find_peaks(smoothed_curve(times, values + rhythm))
    assert [peak.time_seconds for peak in peaks] == pytest.approx([4, 9.3, 15.1], abs=0.15)


def test_every_shot_has_a_peak_away_from_its_cuts() -> None:
    # attention is most gathered right at the cuts
    curve = curve_of(9, (3, 30), (6, 30), cuts=(3.0, 6.0))
    peaks = find_peaks(curve)
    assert {peak.shot for peak in peaks} == {0, 1, 2}
    for peak in peaks:
        for cut in (0.0, 3.0, 6.0, 9.0):
            assert abs(peak.start_seconds - cut) >= CUT_MARGIN_SECONDS - 1e-6
            assert abs(peak.end_seconds - cut) >= CUT_MARGIN_SECONDS - 1e-6
            assert not peak.start_seconds < cut < peak.end_seconds


def test_shots_of_a_few_frames_have_a_peak_too() -> None:
    peaks = find_peaks(curve_of(4, cuts=(1.0, 1.2, 3.0)))
    assert [peak.shot for peak in peaks if 1.0 <= peak.time_seconds < 1.2] == [1]


def test_one_sample() -> None:
    (peak,) = find_peaks(smoothed_curve([0.0], [50.0]))
    assert (peak.time_seconds, peak.focus) == (0, pytest.approx(50))


def test_most_promising() -> None:
    peaks = find_peaks(curve_of(16, (3, 20), (8, 30), (13, 10)))
    assert most_promising(peaks, 2) == peaks[:2]


# ---- moments


def candidate(
    time: float, focus: float = 60, sharpness: float = 1, exposure: float = 1, look: float = 0, shot: int = 0
):
    peak = Peak(round(time), focus, 10, round(time) - 0.5, round(time) + 0.5, shot)
    thumbnail = np.full((9, 16, 3), look)
    return Candidate(time, peak, focus, Picture(sharpness, exposure, thumbnail))


def test_the_sharp_and_well_exposed_picture_near_a_peak() -> None:
    near = [candidate(3.0, 60, sharpness=20), candidate(3.1, 59, sharpness=80), candidate(3.2, 60, 80, exposure=0.4)]
    (moment,) = choose(near, 5)
    assert moment.time_seconds == 3.1
    assert (moment.sharpness, moment.exposure) == (1, 1)
    assert moment.score == pytest.approx(0.59)


def test_sharpness_is_compared_within_shots() -> None:
    smooth_scene, rough_scene = candidate(3, 80, sharpness=5, shot=0), candidate(6, 60, sharpness=50, shot=1, look=0.5)
    assert [moment.sharpness for moment in choose([smooth_scene, rough_scene], 2)] == [1, 1]


def test_moments_are_unlike() -> None:
    alike = [candidate(3, 80, look=0.2), candidate(6, 78, look=0.205), candidate(9, 50, look=0.9)]
    assert [moment.time_seconds for moment in choose(alike, 2)] == [3, 9]
    assert [moment.time_seconds for moment in choose(alike, 3)] == [3, 9]  # the same picture is not given twice


def test_moments_are_apart() -> None:
    close = [candidate(3, 80, look=0.2), candidate(4, 78, look=0.6), candidate(9, 50, look=0.9)]
    assert [moment.time_seconds for moment in choose(close, 3, apart_seconds=2)] == [3, 9]
    assert [moment.time_seconds for moment in choose(close, 3)] == [3, 4, 9]


def test_no_candidates_no_moments() -> None:
    assert choose([], 5) == []


# ---- spans


def test_focused_spans() -> None:
    (span,) = focused_spans(curve_of(10, (5, 35)))
    assert span.start_seconds == pytest.approx(4.45, abs=0.15)
    assert span.end_seconds == pytest.approx(5.7, abs=0.15)
    assert 60 < span.focus < 75
    assert span.score == pytest.approx(span.focus / 100)


def test_spans_end_at_cuts_and_brief_ones_are_left_out() -> None:
    times = np.arange(100) / RATE
    curve = smoothed_curve(times, np.where(times < 2, 80.0, 70.0), cuts=[2.0, 3.8])
    assert [(s.start_seconds, s.end_seconds) for s in focused_spans(curve)] == [(0, 2.0), (2.0, 3.8)]
    assert scattered_spans(curve) == []


def test_attention_lost() -> None:
    (span,) = scattered_spans(curve_of(10, (5, -25), base=55))
    assert span.start_seconds < 5 < span.end_seconds
    assert span.focus < 40
