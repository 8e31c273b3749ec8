"""Shares of attention in boxes, and numbers of whole videos."""

import math

import numpy as np
import pytest

from tinyhd.saliency.regions import share_in_boxes
from tinyhd.saliency.stats import StatsComputer, VideoStats


def test_share_in_boxes_is_exact_to_parts_of_a_pixel() -> None:
    saliency = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    fine = np.kron(saliency, np.ones((10, 10)))  # each pixel in 10x10
    boxes = np.array([[0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], [0.05, 0.05, 0.1, 0.1], [0.9, 0.9, 1, 1]])
    expected = []
    for left, top, right, bottom in np.rint(boxes * [80, 60, 80, 60]).astype(int):
        expected.append(fine[top:bottom, left:right].sum() / fine.sum())
    assert share_in_boxes(saliency, boxes) == pytest.approx(expected)


def test_share_in_boxes_at_the_edges() -> None:
    saliency = np.ones((4, 4))
    boxes = np.array([[-1, -1, 0.5, 0.5], [0.5, 0.5, 0.5, 1], [0.7, 0.2, 0.3, 0.8], [2, 2, 3, 3]])
    assert share_in_boxes(saliency, boxes).tolist() == [0.25, 0, 0, 0]
    assert share_in_boxes(np.zeros((4, 4)), np.array([[0, 0, 0.5, 1]])).tolist() == [0.5]
    assert share_in_boxes(saliency, np.zeros((0, 4))).shape == (0,)


def test_video_stats() -> None:
    compute, video = StatsComputer(300, 400), VideoStats(300, 400)
    places = [(1, 1), (1, 6), (1, 6), (5, 6)]  # (row, column) of the peak in an 8x8 map
    speeds, centers = [], []
    for k, (row, column) in enumerate(places):
        saliency = np.zeros((8, 8))
        saliency[row, column] = k + 1.0  # how much is no matter
        focus = video.add(saliency, compute(saliency, k, k / 10), is_cut=k == 3)
        speeds.append(focus.peak_speed)
        centers.append(focus.center_share)
    # 5/8 of the width, which is 0.6 diagonals, in a tenth of a second; nothing across a cut
    assert speeds == pytest.approx([0, 0.625 * 0.6 * 10, 0, 0])
    assert centers == [0, 0, 0, 0]
    summary = video.summary()
    assert summary.frame_count == 4
    assert (summary.peak_x, summary.peak_y) == (6.5 / 8, 1.5 / 8)  # twice there
    assert summary.peak_speed == pytest.approx(3.75 / 4)
    assert (summary.spread, summary.entropy_bits) == (0, 0)
    video.add(np.ones((8, 8)), compute(np.ones((8, 8)), 4, 0.4))
    assert video.summary().center_share == pytest.approx(0.25 / 5)
    assert video.summary().entropy_bits == pytest.approx(6 / 5)
    assert math.isfinite(video.summary().spread)


def test_no_frames_have_no_summary() -> None:
    with pytest.raises(ValueError, match="no frames"):
        VideoStats(2, 2).summary()
