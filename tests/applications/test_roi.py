"""Planned offsets of the quantizer: where, how much, how steady; and the file of them for SvtAv1EncApp."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import made_track

from tinyhd.applications import roi
from tinyhd.applications.roi import OffsetPlan, RoiMapWriter, plan_offsets, svt_offsets
from tinyhd.errors import OptionError, OutputError
from tinyhd.options import RoiOptions
from tinyhd.saliency.track import SaliencyTrack

RATE = 15
SIZE = (1280, 720)


def make_track(
    place: Callable[[float], tuple[float, float] | None],
    seconds: float = 4,
    cuts: Sequence[float] = (),
    size: tuple[int, int] = SIZE,
) -> SaliencyTrack:
    """A track with a spot of attention at `place(time)`; None: even attention everywhere."""
    rows, columns = (np.arange(48)[:, None] + 0.5) / 48, (np.arange(64) + 0.5) / 64

    def saliency(time: float) -> np.ndarray:
        spot = place(time)
        if spot is None:
            return np.ones((48, 64))
        return np.exp(-(((columns - spot[0]) / 0.1) ** 2) - ((rows - spot[1]) / 0.1) ** 2)

    return made_track(saliency, seconds, RATE, cuts=cuts, size=size)


def drawn(plan: OffsetPlan, index: int) -> np.ndarray:
    """The offset of each pixel, (height, width), -1 where two regions overlap."""
    width, height = plan.size
    pixels = np.zeros((height, width), int)
    for x, y, w, h, steps in plan.regions(index):
        inside = pixels[y : y + h, x : x + w]
        assert inside.shape == (h, w)
        inside[:] = np.where(inside == 0, steps, -1)
    return pixels


def at(plan: OffsetPlan, time: float, x: float, y: float) -> int:
    rows, columns = plan.offsets.shape[1:]
    return int(plan.offsets[plan.index(time), int(y * rows), int(x * columns)])


def test_coarser_away_from_attention_and_never_by_more_than_the_strength() -> None:
    plan = plan_offsets(make_track(lambda t: (0.8, 0.3)), RoiOptions(strength=5))
    assert at(plan, 2, 0.8, 0.3) == 0
    assert at(plan, 2, 0.2, 0.8) == 5
    assert plan.offsets.min() == 0
    assert plan.offsets.max() == 5
    assert len(np.unique(plan.offsets)) >= 4  # by degrees, no edge
    assert (plan.offsets == 0).mean() < 0.2


def test_half_strength_where_attention_is_twice_the_mean() -> None:
    weights = np.array(
        [2, 2 * 2 ** (1 / 3), 2 * 2 ** (-1 / 3), 0.01, 50]
    )  # in terms of the mean, which the rest makes 1
    rest = np.full(1000, (1005 - weights.sum()) / 1000)
    found = roi._offsets(np.append(weights, rest)[None] * 7, 4)[0]
    np.testing.assert_allclose(found[:5], [2, 1, 3, 4, 0], atol=1e-6)


def test_even_attention_leaves_the_encoder_alone() -> None:
    plan = plan_offsets(make_track(lambda t: None), RoiOptions())
    assert plan.regions(0) == []
    assert len(plan.times) == 1
    black = plan_offsets(make_track(lambda t: (9.0, 9.0)), RoiOptions())
    assert not black.offsets.any()


def test_offsets_change_slowly() -> None:
    plan = plan_offsets(make_track(lambda t: (0.2, 0.5) if t < 2 else (0.8, 0.5), 4), RoiOptions(strength=4))
    steps = np.abs(np.diff(plan.offsets.astype(int), axis=0))
    assert steps.max() == 1
    assert np.diff(plan.times).min() >= roi.STEP_SECONDS - 1e-9
    assert (at(plan, 0.5, 0.2, 0.5), at(plan, 3.5, 0.2, 0.5)) == (0, 4)


def test_noise_in_the_maps_does_not_make_offsets_flicker() -> None:
    spots = np.random.default_rng(0).normal(0.5, 0.02, (100, 2))
    plan = plan_offsets(make_track(lambda t: tuple(spots[round(t * RATE)]), 6), RoiOptions())
    changed = (np.diff(plan.offsets, axis=0) != 0).mean((1, 2))
    assert changed.mean() < 0.02


def test_a_cut_starts_anew() -> None:
    cut = 2.1
    plan = plan_offsets(make_track(lambda t: (0.2, 0.5) if t < cut else (0.8, 0.5), 4, [cut]), RoiOptions())
    for time, (here, there) in ((cut - 0.01, (0.2, 0.8)), (cut, (0.8, 0.2)), (cut - 1, (0.2, 0.8))):
        assert at(plan, time, here, 0.5) == 0, time
        assert at(plan, time, there, 0.5) == 4, time
    assert len(plan.times) == 2  # nothing else changes
    assert plan.times[1] == cut


@pytest.mark.parametrize("size", [SIZE, (720, 1280), (191, 127), (64, 2000), (20, 20)])
def test_regions_are_the_grid(size: tuple[int, int]) -> None:
    plan = plan_offsets(make_track(lambda t: (0.7, 0.3), 1, size=size), RoiOptions())
    assert max(plan.offsets.shape[1:]) == roi.CELLS
    width, height = size
    rows, columns = plan.offsets.shape[1:]
    ys = np.searchsorted([round(k * height / rows) for k in range(rows)], np.arange(height), side="right") - 1
    xs = np.searchsorted([round(k * width / columns) for k in range(columns)], np.arange(width), side="right") - 1
    if min(width / columns, height / rows) >= 1:
        np.testing.assert_array_equal(drawn(plan, 0), plan.offsets[0][ys][:, xs])
    assert len(plan.regions(0)) < 120


def test_the_map_for_svt(tmp_path: Path) -> None:
    plan = plan_offsets(make_track(lambda t: (0.2, 0.5) if t < 2 else (0.8, 0.5), 4, [2.0]), RoiOptions(strength=12))
    times = [k / 25 for k in range(100)]
    with RoiMapWriter(tmp_path / "map.txt", plan) as writer:
        for time in times:
            writer.write(time)
    lines = [[int(n) for n in line.split()] for line in (tmp_path / "map.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == [0, 50]
    blocks = np.array([line[1:] for line in lines]).reshape(2, 12, 20)
    for grid in blocks:
        assert grid.min() == 0
        assert grid.max() == 60  # 12 of 51 steps of QP, of 255 of AV1
        assert len(np.unique(grid)) <= 8
    assert blocks[0, 6, 4] == blocks[1, 6, 16] == 0
    assert blocks[0, 6, 16] == blocks[1, 6, 4] == 60


def test_svt_blocks_are_means_of_cells() -> None:
    grid = np.array([[0, 4], [4, 4]])
    np.testing.assert_array_equal(svt_offsets(grid, (128, 128)), [[0, 20], [20, 20]])
    np.testing.assert_array_equal(svt_offsets(grid, (64, 64)), [[15]])
    assert svt_offsets(grid, (130, 65)).shape == (2, 3)


def test_maps_that_cannot_be_written(tmp_path: Path) -> None:
    plan = plan_offsets(make_track(lambda t: None, 1), RoiOptions())
    with pytest.raises(OptionError, match=r"\.txt"):
        RoiMapWriter(tmp_path / "map.csv", plan)
    (tmp_path / "map.txt").write_text("mine")
    with pytest.raises(OutputError):
        RoiMapWriter(tmp_path / "map.txt", plan)

    def fail() -> None:
        with RoiMapWriter(tmp_path / "other.txt", plan):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["map.txt"]
