"""The planned crop: where it lies, how it moves, what it has to hold; on made tracks."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from fakes import made_track

from tinyhd.applications import reframing
from tinyhd.applications.crop import CropPath, crop_size
from tinyhd.applications.reframing import STEP_SECONDS, plan_crop
from tinyhd.errors import OptionError
from tinyhd.options import ReframeOptions
from tinyhd.saliency.boxes import MovingBox
from tinyhd.saliency.track import SaliencyTrack

WIDTH, HEIGHT, RATE = 1280, 720, 25
CROP = 404 / WIDTH


def make_track(
    places: Callable[[float], Sequence[tuple[float, float, float]]],
    seconds: float,
    cuts: Sequence[float] = (),
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> SaliencyTrack:
    """A track with spots of attention at `places(time)`: (x, y, weight)."""
    rows, columns = (np.arange(48)[:, None] + 0.5) / 48, (np.arange(64) + 0.5) / 64

    def saliency(time: float) -> np.ndarray:
        spots = (w * np.exp(-(((columns - x) / 0.03) ** 2) - ((rows - y) / 0.03) ** 2) for x, y, w in places(time))
        return sum(spots, np.zeros((48, 64)))

    return made_track(saliency, seconds, RATE, cuts=cuts, size=size)


def boxes(path: CropPath, seconds: float) -> np.ndarray:
    """x, y, width, height of each frame."""
    return np.array([path.at(k / RATE) for k in range(round(seconds * RATE))])


def holds(path: CropPath, place: Callable[[float], float], seconds: float) -> np.ndarray:
    """Of each frame, whether the crop holds what lies there (a fraction of the width)."""
    found = boxes(path, seconds)
    x = WIDTH * np.array([place(k / RATE) for k in range(len(found))])
    return (found[:, 0] <= x) & (x <= found[:, 0] + found[:, 2])


def test_holds_still_where_attention_rests() -> None:
    found = boxes(plan_crop(make_track(lambda t: [(0.8, 0.5, 1)], 4), ReframeOptions()), 4)
    assert (found == found[0]).all()
    assert found[0, 0] + 40 < 0.77 * WIDTH
    assert found[0, 0] + 404 - 40 > 0.83 * WIDTH
    assert found[0, 1:].tolist() == [0, 404, 720]


def test_holds_still_where_attention_stays_inside() -> None:
    path = plan_crop(make_track(lambda t: [(0.4 + 0.08 * np.sin(3 * t), 0.5, 1)], 6), ReframeOptions())
    assert (np.diff(boxes(path, 6), axis=0) == 0).all()
    assert holds(path, lambda t: 0.4 + 0.08 * np.sin(3 * t), 6).all()


def test_follows_with_limited_speed_and_acceleration() -> None:
    def place(t: float) -> float:
        return float(np.clip(0.15 + 0.1 * (t - 2), 0.15, 0.85))

    path = plan_crop(make_track(lambda t: [(place(t), 0.5, 1)], 12), ReframeOptions())
    assert holds(path, place, 12).mean() > 0.98
    assert path.jumps.sum() == 1
    times = np.arange(0, 12, 0.01)
    x = np.interp(times, path.times, path.boxes[:, 0]) / 404
    speed = np.diff(x) / 0.01
    assert 0.2 < abs(speed).max() <= 0.6 + 1e-6
    assert abs(np.diff(speed[::20]) / 0.2).max() <= 0.6 + 1e-6


def test_speed_can_be_limited_or_forbidden() -> None:
    track = make_track(lambda t: [(np.clip(0.1 * t, 0.15, 0.85), 0.5, 1)], 10)
    for limit in (0.2, 0):
        path = plan_crop(track, ReframeOptions(max_speed=limit, jumps=False))
        steps = np.diff(path.boxes[:, 0]) / np.diff(path.times) / 404
        assert abs(steps).max(initial=0) <= limit + 1e-6


def two_places(t: float) -> list[tuple[float, float, float]]:
    """Attention changes from left to right and back every 4 s."""
    return [(0.15, 0.5, 1)] if t // 4 % 2 == 0 else [(0.85, 0.5, 1)]


def test_jumps_where_two_places_compete() -> None:
    track = make_track(two_places, 16)
    path = plan_crop(track, ReframeOptions())
    assert (np.flatnonzero(np.diff(boxes(path, 16)[:, 0])) + 1).tolist() == [100, 200, 300]
    held = plan_crop(track, ReframeOptions(jumps=False))
    assert held.jumps.sum() == 1


def test_does_not_jump_for_a_moment() -> None:
    def place(t: float) -> float:
        return 0.85 if 5 <= t < 5.8 else 0.15

    path = plan_crop(make_track(lambda t: [(place(t), 0.5, 1)], 10), ReframeOptions())
    assert (np.diff(boxes(path, 10), axis=0) == 0).all()


def test_a_new_shot_starts_anew_and_nothing_pans_across_a_cut() -> None:
    cut, options = 3.52, ReframeOptions(jumps=False)  # not at one of the steps
    track = make_track(lambda t: [(0.2 if t < cut else 0.8, 0.5, 1)], 7.3, cuts=[cut])
    found = boxes(plan_crop(track, options), 7.3)[:, 0]
    assert set(np.flatnonzero(np.diff(found)) + 1) == {round(cut * RATE)}
    moving = make_track(lambda t: [(0.2 + 0.15 * t if t < cut else 0.2, 0.5, 1)], 7.3, cuts=[cut])
    found = boxes(plan_crop(moving, options), 7.3)[:, 0]
    frame = round(cut * RATE)
    assert found[frame - 1] - found[frame] > 200
    assert (found[frame:] == found[frame]).all()


@pytest.mark.parametrize("seconds", [0.04, 0.2, 0.36])
def test_very_short_shots(seconds: float) -> None:
    path = plan_crop(make_track(lambda t: [(0.8, 0.5, 1)], seconds), ReframeOptions())
    assert holds(path, lambda t: 0.8, seconds).all()


def test_nothing_to_see_is_the_center() -> None:
    found = boxes(plan_crop(make_track(lambda t: [], 2), ReframeOptions()), 2)
    assert abs(found[:, 0] - (WIDTH - 404) / 2).max() <= 1


def test_moves_vertically_where_the_aspect_wants_it() -> None:
    found = boxes(plan_crop(make_track(lambda t: [(0.5, 0.9, 1)], 2), ReframeOptions(aspect="3:1")), 2)
    assert found[0].tolist() == [0, 720 - 426, 1280, 426] or found[0, 1] > 200


@pytest.mark.parametrize(
    ("size", "ratio", "pixel_aspect", "expected"),
    [
        ((1280, 720), 9 / 16, 1, (404, 720)),
        ((1280, 720), 1, 1, (720, 720)),
        ((1280, 720), 16 / 9, 1, (1280, 720)),
        ((1280, 720), 3, 1, (1280, 426)),
        ((720, 576), 9 / 16, 64 / 45, (228, 576)),
        ((193, 127), 1, 1, (126, 126)),
    ],
)
def test_crop_size(size: tuple[int, int], ratio: float, pixel_aspect: float, expected: tuple[int, int]) -> None:
    assert crop_size(size, ratio, pixel_aspect) == expected


def test_an_aspect_that_does_not_fit() -> None:
    with pytest.raises(OptionError, match="7x720 pixels of a source of 1280x720: choose an aspect nearer"):
        crop_size((1280, 720), 0.01)
    for bad in ({"aspect": "9"}, {"aspect": "0:5"}, {"size": "99x100"}, {"size": "100x100", "aspect": "9:16"}):
        with pytest.raises(OptionError):
            ReframeOptions(**bad)


# ---- what has to be held


def test_keeps_a_box_that_rests() -> None:
    logo = MovingBox("logo", (0.0,), ((0.0, 0.0, 0.1, 0.1),))
    found = boxes(plan_crop(make_track(lambda t: [(0.8, 0.5, 1)], 3), ReframeOptions(), keep=[logo]), 3)
    assert (found[:, 0] == 0).all()


def test_keeps_a_box_that_moves_while_it_is_there() -> None:
    ball = MovingBox("ball", (2.0, 6.0), ((0.6, 0.4, 0.7, 0.5), (0.2, 0.4, 0.3, 0.5)))
    path = plan_crop(make_track(lambda t: [(0.8, 0.5, 1)], 10), ReframeOptions(), keep=[ball])
    found = boxes(path, 10)
    times = np.arange(len(found)) / RATE
    there = (times >= 2) & (times <= 6)
    spans = ball.at(times)[there] * WIDTH
    assert (found[there, 0] <= spans[:, 0] + 4).all()
    assert (found[there, 0] + 404 >= spans[:, 2] - 4).all()
    assert found[0, 0] + 404 > 0.8 * WIDTH
    assert path.warnings == ()


def test_says_where_a_box_is_too_fast() -> None:
    fast = MovingBox("puck", (2.0, 2.6), ((0.0, 0.4, 0.1, 0.5), (0.9, 0.4, 1.0, 0.5)))
    path = plan_crop(make_track(lambda t: [(0.5, 0.5, 1)], 5), ReframeOptions(), keep=[fast])
    (warning,) = path.warnings
    assert "'puck'" in warning


def test_a_box_that_does_not_fit() -> None:
    wide = MovingBox("table", (0.0,), ((0.1, 0.5, 0.6, 0.9),))
    other = MovingBox("logo", (1.0, 2.0), ((0.9, 0.0, 1.0, 0.1), (0.9, 0.0, 1.0, 0.1)))
    track = make_track(lambda t: [(0.5, 0.5, 1)], 3)
    with pytest.raises(OptionError, match=r"too small to keep 'table' at 0.0 s"):
        plan_crop(track, ReframeOptions(), keep=[wide])
    with pytest.raises(OptionError, match=r"too small to keep 'table' and 'logo' at 1.0 s"):
        plan_crop(track, ReframeOptions(), keep=[wide, other])
    found = boxes(plan_crop(track, ReframeOptions(pad="blur"), keep=[wide]), 3)
    assert (found[:, 0] <= 0.1 * WIDTH + 1).all()
    assert (found[:, 0] + found[:, 2] >= 0.6 * WIDTH - 1).all()


def test_padding_is_for_shots_whose_attention_does_not_fit() -> None:
    def spread(t: float) -> list[tuple[float, float, float]]:
        return [(0.5, 0.5, 1)] if t < 3 else [(x, 0.5, 1) for x in (0.1, 0.5, 0.9)]

    track = make_track(spread, 6, cuts=[3.0])
    widths = boxes(plan_crop(track, ReframeOptions(pad="color", min_share=0.6)), 6)[:, 2]
    assert (widths[:75] == 404).all()
    assert (widths[75:] > 0.8 * 404 * 2).all()
    assert (widths[75:] < WIDTH).all()
    assert (boxes(plan_crop(track, ReframeOptions(min_share=0.6)), 6)[:, 2] == 404).all()


# ---- the path is the best one


@pytest.mark.parametrize("seed", range(4))
def test_no_other_path_is_better(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(reframing, "REST_SECONDS", 2 * STEP_SECONDS)
    monkeypatch.setattr(reframing, "_SPEEDS", 1)
    monkeypatch.setattr(reframing, "JUMP_COST", 0.2)
    grid = reframing._Grid(0.6, ReframeOptions(max_speed=0.85))
    assert (len(grid.starts), grid.speeds, grid.jump_places, grid.rest_steps) == (9, 1, 6, 2)
    reward = np.random.default_rng(seed).uniform(0, 0.6, (5, len(grid.starts)))
    found = reframing._best_path(reward, grid)
    rest = grid.rest_steps

    def score(places: Sequence[int], speeds: Sequence[int], jumps: Sequence[bool]) -> float:
        total = reward[0, places[0]] - reframing.PAN_COST * (speeds[0] != 0)
        for k in range(1, len(places)):
            total += reward[k, places[k]]
            if jumps[k]:
                still = range(k, k + rest)
                far = abs(places[k] - places[k - 1]) >= grid.jump_places
                if not far or k < rest or k + rest > len(places) or speeds[k - 1]:
                    return -np.inf
                if any(speeds[j] or places[j] != places[k] or (j > k and jumps[j]) for j in still):
                    return -np.inf
                total -= reframing.JUMP_COST
                continue
            moved = speeds[k - 1] + speeds[k]
            if abs(speeds[k] - speeds[k - 1]) > 1 or places[k] - places[k - 1] != moved:
                return -np.inf
            total -= reframing.DISTANCE_COST * abs(moved) * grid.spacing / grid.length
            total -= reframing.PAN_COST * (speeds[k - 1] == 0 and speeds[k] != 0)
        return float(total)

    def paths(k: int, places: list[int], speeds: list[int], jumps: list[bool]) -> float:
        if k == len(reward):
            return score(places, speeds, jumps)
        best = -np.inf
        for speed in range(-grid.speeds, grid.speeds + 1):
            for place, jump in itertools.product(range(len(grid.starts)), (False, True)):
                follows = k == 0 or jump or place - places[-1] == speed + speeds[-1]
                if follows and (k > 0 or not jump) and (not jump or speed == 0):
                    best = max(best, paths(k + 1, [*places, place], [*speeds, speed], [*jumps, jump]))
        return best

    mine = score(found.places.tolist(), found.speeds.tolist(), found.jumps.tolist())
    assert mine == pytest.approx(paths(0, [], [], []))
