"""Windows as tables."""

import pytest

from tinyhd.inference.windows import Window, Windowing


def spans(windows: list[Window]) -> list[tuple[int, int]]:
    return [(w.frames[0], w.frames[-1]) for w in windows]


def shares(windows: list[Window], length: int) -> list[list[tuple[int, float]]]:
    """For each frame: (window, weight) of the maps that count for it."""
    result: list[list[tuple[int, float]]] = [[] for _ in range(length)]
    for number, window in enumerate(windows):
        for frame, weight in zip(window.map_frames, window.weights, strict=True):
            if weight:
                result[frame].append((number, weight))
    return result


# M, windowing, overlap, length -> first and last frame of each window
SPANS = [
    ("published", 0, 1, [(0, 0)]),
    ("published", 0, 15, [(0, 14)]),
    ("published", 0, 16, [(0, 15)]),
    ("published", 0, 17, [(0, 15), (1, 16)]),
    ("published", 0, 32, [(0, 15), (16, 31)]),
    ("published", 0, 40, [(0, 15), (16, 31), (24, 39)]),
    ("crossfade", 0, 32, [(0, 15), (16, 31)]),
    ("crossfade", 0, 33, [(0, 15), (16, 31), (17, 32)]),
    ("crossfade", 4, 1, [(0, 0)]),
    ("crossfade", 4, 16, [(0, 15)]),
    ("crossfade", 4, 17, [(0, 15), (1, 16)]),
    ("crossfade", 4, 28, [(0, 15), (12, 27)]),
    ("crossfade", 4, 29, [(0, 15), (12, 27), (13, 28)]),
    ("crossfade", 8, 24, [(0, 15), (8, 23)]),
    ("crossfade", 8, 27, [(0, 15), (8, 23), (11, 26)]),
    ("crossfade", 12, 24, [(0, 15), (4, 19), (8, 23)]),
    ("crossfade", 15, 18, [(0, 15), (1, 16), (2, 17)]),
]


@pytest.mark.parametrize(("kind", "overlap", "length", "expected"), SPANS)
def test_spans(kind: str, overlap: int, length: int, expected: list[tuple[int, int]]) -> None:
    assert spans(Windowing(16, kind, overlap).plan(length)) == expected


def test_no_frames_no_windows() -> None:
    for windowing in (Windowing(16), Windowing(16, "published"), Windowing(1)):
        assert windowing.plan(0) == []


def test_short_shots_repeat_their_first_frame_in_front_and_keep_the_last_maps() -> None:
    for kind in ("crossfade", "published"):
        (window,) = Windowing(16, kind).plan(3)
        assert window.frames == (0,) * 14 + (1, 2)
        assert [w > 0 for w in window.weights] == [False] * 13 + [True] * 3
        assert window.finalized == 3


def test_published_last_window_overwrites() -> None:
    table = shares(Windowing(16, "published").plan(40), 40)
    assert [row[0][0] for row in table] == [0] * 16 + [1] * 8 + [2] * 16
    assert all(len(row) == 1 for row in table)
    # 540 frames as in the reference: 33 windows side by side, one over the last 16 frames
    windows = Windowing(16, "published").plan(540)
    assert spans(windows)[-2:] == [(512, 527), (524, 539)]
    assert sum(windows[-2].weights) == 12


def test_crossfade_weights() -> None:
    first, second = Windowing(16, "crossfade", 3).plan(29)
    assert first.weights == second.weights == (0.25, 0.5, 0.75, *[1.0] * 10, 0.75, 0.5, 0.25)
    table = shares([first, second], 29)
    assert table[12] == [(0, 1.0)]
    assert table[13:16] == [[(0, 0.75), (1, 0.25)], [(0, 0.5), (1, 0.5)], [(0, 0.25), (1, 0.75)]]


def test_crossfade_over_half_is_a_triangle() -> None:
    window = Windowing(16, "crossfade", 8).plan(16)[0]
    rising = [(j + 1) / 9 for j in range(8)]
    assert window.weights == pytest.approx([*rising, *rising[::-1]])


def test_the_last_window_fades_in_where_the_one_in_step_would_have() -> None:
    windows = Windowing(16, "crossfade", 4).plan(20)
    assert spans(windows) == [(0, 15), (4, 19)]
    assert windows[0].finalized == 12
    assert windows[1].weights == pytest.approx([0] * 8 + [0.2, 0.4, 0.6, 0.8] + [1] * 4)


@pytest.mark.parametrize("overlap", range(16))
@pytest.mark.parametrize("kind", ["crossfade", "published"])
def test_every_frame_is_covered_and_settled_in_order(kind: str, overlap: int) -> None:
    windowing = Windowing(16, kind, overlap)
    for length in range(1, 70):
        windows = windowing.plan(length)
        table = shares(windows, length)
        assert all(table), (length, table)
        if kind == "published" or overlap <= 8:
            ends = overlap if kind == "crossfade" else 0  # the first rise and the last fall have no counterpart
            for row in table[ends : length - ends]:
                assert sum(weight for _, weight in row) == pytest.approx(1)
        finalized = [w.finalized for w in windows]
        assert finalized == sorted(finalized)
        assert finalized[-1] == length
        for number, window in enumerate(windows):
            later = (f for w in windows[number + 1 :] for f, x in zip(w.map_frames, w.weights, strict=True) if x)
            assert min(later, default=length) >= window.finalized
        assert all(w.frames[0] >= 0 and w.frames[-1] < length and len(w.frames) == 16 for w in windows)


@pytest.mark.parametrize(
    "windowing",
    [Windowing(1), Windowing(16, "published"), *(Windowing(16, "crossfade", n) for n in (0, 4, 8, 15))],
)
def test_growing_shots_get_the_same_windows(windowing: Windowing) -> None:
    """As frames arrive one by one and the end is not known, the windows are those of the whole shot."""
    for length in range(1, 60):
        windows: list[Window] = []
        for here in range(1, length + 1):
            while (w := windowing.window(len(windows), here, complete=False)) is not None:
                assert max(w.frames) < here
                windows.append(w)
        while (w := windowing.window(len(windows), length, complete=True)) is not None:
            windows.append(w)
        assert windows == windowing.plan(length)


def test_crossfade_holds_few_frames_back() -> None:
    """A frame's map is there after at most 16 more frames: memory at high resolutions depends on it."""
    windowing = Windowing(16, "crossfade", 4)
    windows = 0
    for here in range(1, 100):
        while (w := windowing.window(windows, here, complete=False)) is not None:
            windows += 1
            finalized = w.finalized
        if here > 16:
            assert here - finalized <= 16


def test_single_maps_slide_and_belong_to_the_last_frame() -> None:
    windows = Windowing(1).plan(18)
    assert len(windows) == 18
    assert windows[0].frames == (0,) * 16
    assert windows[7].frames == (0,) * 9 + tuple(range(1, 8))
    assert windows[15].frames == tuple(range(16))
    assert windows[17].frames == tuple(range(2, 18))
    assert [w.map_frames for w in windows] == [(i,) for i in range(18)]
    assert [w.finalized for w in windows] == list(range(1, 19))
    assert all(w.weights == (1.0,) for w in windows)
