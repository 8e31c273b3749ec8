"""Saliency tracks: round trips, interpolation, and what is refused."""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.saliency.resize import enlarge
from tinyhd.saliency.track import SaliencyTrack, TrackInfo, TrackSource, identify, shot_bounds
from tinyhd.saliency.track_writer import CHUNK_BYTES, TrackWriter

SOURCE = TrackSource("clip.mp4", 1000, "0" * 64, 640, 360, frames=9)


def blob(x: float, y: float, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = (rows / shape[0] - y) ** 2 + (columns / shape[1] - x) ** 2
    return (0.01 * np.exp(-distance / 0.02)).astype(np.float32)


def write(
    target: Path | io.BytesIO, maps: Sequence[np.ndarray], times: Sequence[float], cuts: Sequence[float] = ()
) -> TrackInfo:
    with TrackWriter(target) as writer:
        for cut in cuts:
            writer.add_cut(cut)
        for time, saliency in zip(times, maps, strict=True):
            writer.add(time, saliency)
        return writer.finish(TrackInfo(SOURCE, "tinyhd-m", "sha256:1", {"overlap": 4}, 0.012, warnings=("late",)))


def test_round_trip(tmp_path: Path) -> None:
    count = 2 * (CHUNK_BYTES // (2 * 48 * 64)) + 5  # three files of maps, the last one short
    maps = [blob(k / count, 0.5) * (1 + k) for k in range(count)]
    maps[3] = np.zeros((48, 64), np.float32)
    times = [k / 12.5 for k in range(count)]
    written = write(tmp_path / "clip.track.npz", maps, times, cuts=[4.0])
    with SaliencyTrack(tmp_path / "clip.track.npz") as track:
        assert track.info == written
        assert (track.info.samples, track.info.shape, track.info.display_scale) == (count, (48, 64), 0.012)
        assert track.info.value_range == pytest.approx((0, max(m.max() for m in maps)))
        np.testing.assert_array_equal(track.times, times)
        assert track.cuts.tolist() == [4.0]
        for k in range(count):
            assert np.abs(track.sample(k) - maps[k]).max() <= 1e-3 * maps[k].max()


def test_numpy_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "clip.track.npz", [blob(0.3, 0.5)], [0.0])
    with np.load(tmp_path / "clip.track.npz") as content:
        assert content["maps_000000"].max() == 1023
        assert content["times"].tolist() == [0.0]


def test_the_same_maps_give_the_same_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for target in (first, second):
        write(target, [blob(0.2, 0.2), blob(0.8, 0.8)], [0, 1])
    assert first.getvalue() == second.getvalue()


def test_between_samples_maps_are_mixed_but_never_across_a_cut() -> None:
    left, right, after = blob(0.2, 0.5), blob(0.8, 0.5), blob(0.5, 0.1)
    memory = io.BytesIO()
    write(memory, [left, right, after], [0.0, 1.0, 2.0], cuts=[2.0])
    track = SaliencyTrack(memory)
    before, quarter, held, cut = track.own_maps_at([-1.0, 0.25, 1.75, 2.0])
    tolerance = 2e-3 * left.max()
    np.testing.assert_allclose(before, left, atol=tolerance)
    np.testing.assert_allclose(quarter, 0.75 * left + 0.25 * right, atol=tolerance)
    np.testing.assert_allclose(held, right, atol=tolerance)
    np.testing.assert_allclose(cut, after, atol=tolerance)
    assert [track.is_cut(t) for t in (0.0, 1.0, 2.0, 3.0)] == [False, False, True, False]
    (full,) = track.maps_at([0.0])
    np.testing.assert_allclose(full, enlarge(left[None])[0], atol=tolerance)


def test_ten_minutes_are_small_and_memory_is_flat(tmp_path: Path) -> None:
    """15,000 samples: as many as a 10-minute video of 25 frames a second has at most."""
    path, rng = tmp_path / "long.track.npz", np.random.default_rng(0)
    tracemalloc.start()
    try:
        with TrackWriter(path) as writer:
            for k in range(15_000):
                # coarse noise: more than the 1.9 kB a sample that maps of examples/bunny.mp4 take
                noise = np.kron(rng.random((12, 16), np.float32), np.ones((4, 4), np.float32))
                writer.add(k / 25, blob(0.5 + 0.4 * np.sin(k / 50), 0.5) * (0.9 + 0.1 * noise))
            writer.finish(TrackInfo(SOURCE, "m", "h"))
        with SaliencyTrack(path) as track:
            total = sum(float(saliency[24, 32]) for saliency in track.own_maps_at(track.times))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 0
    assert path.stat().st_size <= 50e6
    assert peak < 20e6


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "clip.track.npz"
    write(path, [blob(0.5, 0.5)] * 3, [0, 1, 2])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"is not a track, or a damaged one: make it again with `tinyhd analyze`\.$"):
        SaliencyTrack(path)


def rewritten(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (content | members).items():
            archive.writestr(name, value)


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=pickled)
    return file.getvalue()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("times.npy", npy(np.array([2.0, 1.0, 0.0]))),
        ("times.npy", npy(np.zeros(3, np.int64))),
        ("times.npy", npy(np.array([object()] * 3), pickled=True)),
        ("peaks.npy", npy(np.array([1, np.inf, 1], np.float32))),
        ("peaks.npy", npy(np.ones(2, np.float32))),
        ("track.json", b"{}"),
        ("track.json", b"no json"),
        ("track.json", json.dumps({"format": "other"}).encode()),
        ("maps_000000.npy", npy(np.zeros((3, 9, 9), np.uint16))),
    ],
)
def test_foreign_or_damaged_content(tmp_path: Path, member: str, value: bytes) -> None:
    path = tmp_path / "clip.track.npz"
    write(path, [blob(0.5, 0.5)] * 3, [0, 1, 2])
    rewritten(path, **{member: value})
    with pytest.raises(InputError, match="is not a track, or a damaged one"):
        SaliencyTrack(path).sample(0)


def test_a_track_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "clip.track.npz"
    write(path, [blob(0.5, 0.5)], [0])
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("track.json"))
    rewritten(path, **{"track.json": json.dumps(header | {"version": 2}).encode()})
    with pytest.raises(InputError, match="newer tinyhd"):
        SaliencyTrack(path)


def test_a_missing_track(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        SaliencyTrack(tmp_path / "none.track.npz")


def test_another_video(tmp_path: Path) -> None:
    video, longer, other = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"
    video.write_bytes(b"a" * 1000)
    longer.write_bytes(b"a" * 1001)
    other.write_bytes(b"b" * 1000)
    path = tmp_path / "clip.track.npz"
    with TrackWriter(path) as writer:
        writer.add(0, blob(0.5, 0.5))
        writer.finish(TrackInfo(identify(video, 640, 360), "m", "h"))
    with SaliencyTrack(path) as track:
        track.check_source(video, 640, 360)
        with pytest.raises(
            InputError, match=r"of another video, 'a\.mp4' .its file has 1000 bytes, this one 1001.: ana"
        ):
            track.check_source(longer, 640, 360)
        with pytest.raises(InputError, match="its content is different"):
            track.check_source(other, 640, 360)
        with pytest.raises(InputError, match="frames are 640x360, these 360x640"):
            track.check_source(video, 360, 640)


@pytest.mark.parametrize(
    ("known", "asked", "fits"),
    [
        ((None, None), (None, None), True),
        ((None, None), (3, 5), True),
        ((2, 6), (3, 5), True),
        ((2, 6), (2, 6), True),
        ((2, 6), (None, 5), False),
        ((2, 6), (3, None), False),
        ((None, 6), (0, 6.5), False),
    ],
)
def test_part_of_a_video(
    known: tuple[float | None, float | None], asked: tuple[float | None, float | None], fits: bool
) -> None:
    memory = io.BytesIO()
    source = TrackSource("clip.mp4", 1, "0", 4, 4, 1, *known)
    with TrackWriter(memory) as writer:
        writer.add(3, blob(0.5, 0.5))
        writer.finish(TrackInfo(source, "m", "h"))
    track = SaliencyTrack(memory)
    if fits:
        track.check_range(*asked)
    else:
        with pytest.raises(InputError, match=r"covers the video from .* only: choose a part of that"):
            track.check_range(*asked)


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError), TrackWriter(tmp_path / "clip.track.npz") as writer:
        writer.add(0, np.zeros(()))
    assert list(tmp_path.iterdir()) == []


def test_no_map_is_no_track() -> None:
    with TrackWriter(io.BytesIO()) as writer, pytest.raises(InputError, match="no frame in the part"):
        writer.finish(TrackInfo(SOURCE, "m", "h"))


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"must end in \.npz"):
        TrackWriter(tmp_path / "track.mp4")
    (tmp_path / "x.npz").touch()
    with pytest.raises(OutputError, match="exists already"):
        TrackWriter(tmp_path / "x.npz")


def test_shots() -> None:
    assert shot_bounds([2.0, 5.0], 0, 8) == [(0, 2.0), (2.0, 5.0), (5.0, 8)]
    assert shot_bounds([], 0, 8) == [(0, 8)]
    assert shot_bounds([1.0, 9.0], 2, 8) == [(2, 8)]


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "clip.track.npz"
    write(path, [blob(0.5, 0.5)], [0])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**26,)})
    rewritten(path, **{"times.npy": header.getvalue() + bytes(80)})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="is not a track, or a damaged one"):
            SaliencyTrack(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
