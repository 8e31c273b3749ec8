"""Focus: its definition on maps whose answer is known, and the smoothed course over a video."""

import numpy as np
import pytest
from fakes import made_track

from tinyhd.saliency.focus import focus, focus_curve, smoothed_curve
from tinyhd.saliency.stats import StatsComputer


@pytest.mark.parametrize("shape", [(48, 64), (192, 256), (7, 9), (2, 2)])
def test_even_attention_is_5(shape: tuple[int, int]) -> None:
    assert focus(np.full(shape, 0.3)) == pytest.approx(5)
    assert focus(np.zeros(shape)) == pytest.approx(5)


def test_all_within_a_twentieth_is_100() -> None:
    saliency = np.zeros((40, 50), np.float32)
    saliency[:10, :10] = 1  # a twentieth
    assert focus(saliency) == pytest.approx(100)
    saliency[:10, :10] = np.random.default_rng(0).random((10, 10))
    assert focus(saliency) == pytest.approx(100)


def test_a_share_in_between() -> None:
    saliency = np.zeros((40, 50))
    saliency[:20, :10] = 1  # a tenth, alike: half of it lies in the most attended twentieth
    assert focus(saliency) == pytest.approx(50)


def test_parts_of_a_pixel_count() -> None:
    saliency = np.zeros((7, 9))  # a twentieth is 3.15 pixels
    saliency.flat[:4] = 1
    assert focus(saliency) == pytest.approx(100 * 3.15 / 4)


def test_the_scale_of_the_map_does_not_count() -> None:
    saliency = np.random.default_rng(1).random((48, 64)).astype(np.float32)
    assert focus(saliency * 1e-4) == pytest.approx(focus(saliency), rel=1e-5)


def test_statistics_have_it() -> None:
    saliency = np.zeros((40, 50))
    saliency[:20, :10] = 1
    assert StatsComputer(640, 360)(saliency, 0, 0.0).focus == pytest.approx(50)


def test_smoothing_takes_the_rhythm_of_windows_away_and_leaves_what_is_slow() -> None:
    times = np.arange(300) / 25
    slow = 60 + 10 * np.sin(2 * np.pi * times / 6)
    rhythm = 5 * np.sin(2 * np.pi * np.arange(300) / 12)
    curve = smoothed_curve(times, slow + rhythm)
    inside = slice(24, -24)
    assert np.abs(curve.smooth - slow)[inside].max() < 0.5
    assert curve.values[3] == pytest.approx(slow[3] + 5)


def test_smoothing_does_not_reach_across_cuts() -> None:
    times = np.arange(100) / 25
    curve = smoothed_curve(times, np.where(times < 2, 30.0, 80.0), cuts=[2.0])
    assert curve.shots == ((0, 50), (50, 100))
    np.testing.assert_allclose(curve.smooth, curve.values)


def test_the_curve_of_a_track() -> None:
    even, gathered = np.full((40, 50), 0.5, np.float32), np.zeros((40, 50), np.float32)
    gathered[:5, :5] = 1
    curve = focus_curve(made_track(lambda t: even if t < 0.4 else gathered, 0.8, 25, cuts=[0.4]))
    np.testing.assert_allclose(curve.values, [5] * 10 + [100] * 10, atol=1e-6)
    assert curve.shots == ((0, 10), (10, 20))
