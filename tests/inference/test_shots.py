"""tinyhd.cuts: made cuts, fades, flashes and motion."""

from collections.abc import Iterator

import numpy as np
import pytest

from tinyhd.inference.shots import FRAMES_AFTER, change, mark_cuts

HEIGHT, WIDTH = 24, 32


def picture(seed: int, contrast: float = 50.0, mean: float = 120.0) -> np.ndarray:
    """A random scene: a few smooth blobs, (24, 96), wide enough to pan over."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, : 3 * WIDTH]
    plane = np.zeros(y.shape)
    for _ in range(24):
        cy, cx, size = rng.uniform(0, HEIGHT), rng.uniform(0, 3 * WIDTH), rng.uniform(2, 7)
        plane += rng.choice([-1, 1]) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * size**2))
    return mean + contrast * (plane - plane.mean()) / plane.std()


def shot(seed: int, length: int, *, step: float = 0.0, noise: float = 1.5, contrast: float = 50.0) -> list[np.ndarray]:
    """`length` thumbnails of a scene, panned by `step` thumbnail pixels per frame, with noise."""
    rng = np.random.default_rng(seed + 1000)
    scene = picture(seed, contrast)
    columns = np.arange(scene.shape[1])
    frames = []
    for k in range(length):
        x = np.arange(WIDTH) + 2 * WIDTH - abs(k * step % (4 * WIDTH) - 2 * WIDTH)  # to and fro
        moved = np.stack([np.interp(x, columns, row) for row in scene])
        frames.append(np.clip(moved + noise * rng.standard_normal(moved.shape), 0, 255))
    return frames


def cuts(frames: list[np.ndarray]) -> list[int]:
    marked = list(mark_cuts(range(len(frames)), lambda k: frames[k]))
    assert [k for k, _ in marked] == list(range(len(frames)))
    return [k for k, is_cut in marked if is_cut]


@pytest.mark.parametrize("step", [0.0, 0.3, 1.0])
def test_cuts_are_found(step: float) -> None:
    found = []
    for seed in range(20):
        frames = shot(2 * seed, 20, step=step) + shot(2 * seed + 1, 15, step=step) + shot(2 * seed + 50, 12, step=step)
        found += cuts(frames)
    assert set(found) == {20, 35}
    assert len(found) >= 34  # of 40: now and then two random scenes are alike


def test_cuts_near_the_ends() -> None:
    assert cuts(shot(1, 2) + shot(2, 10)) == [2]
    assert cuts(shot(1, 10) + shot(2, 2)) == [10]
    assert cuts(shot(1, 1) + shot(2, 1)) == [1]


def test_nothing_and_little() -> None:
    assert cuts([]) == []
    assert cuts(shot(1, 1)) == []
    assert cuts(shot(1, 3)) == []


@pytest.mark.parametrize("step", [0.0, 0.5, 2.0, 5.0])
def test_motion_is_no_cut(step: float) -> None:
    for seed in range(10):
        assert cuts(shot(seed, 40, step=step)) == [], seed


def test_motion_that_starts_and_stops_is_no_cut() -> None:
    for seed in range(10):
        scene = shot(seed, 30, step=5.0)
        assert cuts([scene[0]] * 12 + scene + [scene[-1]] * 12) == [], seed


def test_dissolve_is_no_cut() -> None:
    for seed in range(10):
        a, b = shot(seed, 40), shot(seed + 30, 40)
        share = np.clip((np.arange(40) - 12) / 16, 0, 1)
        assert cuts([(1 - s) * x + s * y for s, x, y in zip(share, a, b, strict=True)]) == [], seed


def test_fade_through_black_is_no_cut() -> None:
    for seed in range(10):
        a, b = shot(seed, 20), shot(seed + 30, 20)
        down = [x * s for s, x in zip(np.linspace(1, 0, 20), a, strict=True)]
        up = [x * s for s, x in zip(np.linspace(0, 1, 20), b, strict=True)]
        assert cuts(down + up) == [], seed


@pytest.mark.parametrize("length", range(1, FRAMES_AFTER + 1))
@pytest.mark.parametrize("level", [0.0, 255.0])
def test_flashes_and_dropped_frames_are_no_cuts(length: int, level: float) -> None:
    for seed in range(10):
        frames = shot(seed, 40, step=0.3)
        frames[20 : 20 + length] = [np.full((HEIGHT, WIDTH), level)] * length
        assert cuts(frames) == [], seed


def test_a_light_that_goes_on_is_no_cut() -> None:
    frames = shot(3, 30, contrast=30)
    assert cuts([x if k < 15 else np.clip(x * 1.3 + 40, 0, 255) for k, x in enumerate(frames)]) == []


def test_cut_over_a_black_frame_is_one_cut() -> None:
    (found,) = cuts([*shot(1, 20), np.zeros((HEIGHT, WIDTH)), *shot(2, 20)])
    assert found in (20, 21)


def test_noise_on_black_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    assert cuts([np.abs(2 * rng.standard_normal((HEIGHT, WIDTH))) for _ in range(40)]) == []


def test_decisions_come_two_frames_late() -> None:
    """Look-ahead is memory: every frame that is waited for is held at full size."""
    read: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for k, frame in enumerate(shot(1, 30)):
            read.append(k)
            yield frame

    for k, _ in enumerate(mark_cuts(source(), lambda frame: frame)):
        assert len(read) <= k + 1 + FRAMES_AFTER


def test_change_is_a_distance_up_to_brightness() -> None:
    a, b = picture(1)[:, :WIDTH], picture(2)[:, :WIDTH]
    a, b = a - a.mean(), b - b.mean()
    assert change(a, a) == pytest.approx(0)
    assert change(a, b) == pytest.approx(change(b, a))
    assert change(a, 0.9 * a) < 0.02
    assert change(a, b) > 0.5
    assert change(a, -a) > 1.5
