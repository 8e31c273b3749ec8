"""Copies at a constant rate, and telling which files need one."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import makers
import pytest
from makers import Made, read_barcode

from tinyhd.errors import InputError, OutputError
from tinyhd.video.playback import browser_plays, constant_rate, reencode
from tinyhd.video.reader import probe, read_frames


def clock_error(path: Path) -> float:
    """How far frames lie at most from where a viewer looks for them that counts at a constant rate, in frames."""
    rate = constant_rate(probe(path))
    return max(abs(float(frame.time * rate - frame.index)) for frame in read_frames(path))


@pytest.mark.parametrize("maker", [makers.plain, makers.foreign_audio, makers.odd_size])
def test_a_constant_rate_stays_frame_for_frame(maker: Callable[[Path], Made], tmp_path: Path) -> None:
    made = maker(tmp_path)
    assert clock_error(made.path) <= 0.5
    copy = tmp_path / "copy.mp4"
    assert reencode(made.path, copy) == len(made.numbers or [])
    frames = list(read_frames(copy))
    assert [read_barcode(frame.to_rgb()) for frame in frames] == made.numbers
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(24)]
    assert browser_plays(probe(copy))


@pytest.mark.parametrize("maker", [makers.vfr, makers.late_video])
def test_each_tick_shows_what_the_source_shows_then(maker: Callable[[Path], Made], tmp_path: Path) -> None:
    made = maker(tmp_path)
    assert clock_error(made.path) > 0.5
    copy = tmp_path / "copy.mp4"
    reported: list[int] = []
    count = reencode(made.path, copy, progress=reported.append)
    assert reported == list(range(1, count + 1))
    assert clock_error(copy) < 0.025
    assert made.times is not None
    times = [float(time) for time in made.times]
    half = 0.5 / float(probe(made.path).frame_rate or 25)
    frames = list(read_frames(copy))
    for frame in frames:
        number = read_barcode(frame.to_rgb())
        until = times[number + 1] if number + 1 < len(times) else float("inf")
        since = times[number] if number else 0.0
        assert since <= frame.time_seconds + half + 1e-6
        assert until > frame.time_seconds + half - 1e-6
    assert frames[-1].time_seconds == pytest.approx(times[-1], abs=2 * half)


def test_what_browsers_play(tmp_path: Path) -> None:
    for name in ("plain", "rotated_90", "rotated_180", "mirrored", "non_square", "full_range", "with_audio"):
        assert browser_plays(probe(makers.HARD_FILES[name](tmp_path).path), same_times=True), name
    for name, codec in (("a.webm", "libvpx-vp9"), ("b.webm", "libvpx"), ("c.mp4", "libvpx-vp9"), ("D.M4V", "libx264")):
        path = makers.make_video(tmp_path / name, 4, codec=codec, container="mp4" if name == "D.M4V" else None)
        assert browser_plays(probe(path)), name


def test_what_browsers_do_not_play(tmp_path: Path) -> None:
    hevc = makers.plain(tmp_path, name="hevc.mp4", codec="libx265").path
    wrong_name = makers.plain(tmp_path, name="name.mp4").path.rename(tmp_path / "name.webm")
    for path in (
        *(hevc, wrong_name, makers.plain(tmp_path, name="matroska.mkv").path),
        *(makers.foreign_audio(tmp_path).path, makers.ten_bit(tmp_path).path, makers.high_chroma(tmp_path).path),
    ):
        assert not browser_plays(probe(path)), path


def test_a_file_that_starts_late_has_other_times_in_browsers(tmp_path: Path) -> None:
    late = makers.make_video(tmp_path / "late.mp4", 24, pts=range(12, 36))
    assert browser_plays(probe(late))
    assert not browser_plays(probe(late), same_times=True)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a still image"):
        reencode(makers.still(tmp_path).path, tmp_path / "copy.mp4")
    made = makers.plain(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        reencode(made.path, made.path)
    assert not list(tmp_path.glob(".tinyhd-*"))
