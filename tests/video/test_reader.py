"""Reading: made files with one difficulty each, refused files, damage, and real clips."""

import ctypes
import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import makers
import numpy as np
import pytest
from makers import HARD_FILES, PATCHES, read_barcode, read_patches

from tinyhd.errors import InputError, OptionError
from tinyhd.video.containers import missing_bytes
from tinyhd.video.demux import repair_times
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video, probe, read_frames

pytestmark = pytest.mark.filterwarnings("error")


def codes(frames: list[Frame]) -> list[int]:
    return [read_barcode(frame.to_rgb()) for frame in frames]


# --- every made file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARD_FILES)
def test_hard_file(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = HARD_FILES[name](tmp_path)
    capfd.readouterr()
    with open_video(made.path) as video:
        info = video.info
        frames = list(video)
    assert capfd.readouterr().err == ""
    assert video.damaged == made.damaged
    assert info.is_still == made.still
    assert (info.width, info.height) == made.size
    if made.numbers is not None:
        assert codes(frames) == made.numbers
    if made.times is not None:
        assert [frame.time for frame in frames] == made.times
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    for frame in frames:
        image = frame.image
        assert (image.width, image.height, image.format.name) == (info.width, info.height, info.pix_fmt)
        assert info.pix_fmt in ("yuv420p", "yuv422p", "yuv444p")
        tags = (image.colorspace, image.color_range, image.color_trc, image.color_primaries)
        assert tags == (info.colorspace, info.color_range, info.color_trc, info.color_primaries)
        assert not image.interlaced_frame
        assert frame.time == frame.pts * info.time_base - info.start_time
        assert (image.pts, image.time_base) == (frame.pts, info.time_base)
    for color, seen in read_patches(frames[0].to_rgb()).items():
        # 12 of 255: the saturated patches lie near the edge of what limited range and tone mapping keep exactly.
        assert np.abs(seen - PATCHES[color]).max() <= 12, color


@pytest.mark.parametrize("name", ["plain", "full_range", "bt709", "high_chroma", "odd_size", "jpg", "webp"])
def test_rgb_is_what_the_decoder_gives(name: str, tmp_path: Path) -> None:
    path = HARD_FILES[name](tmp_path).path
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    seen = [frame.to_rgb() for frame in read_frames(path)]
    assert len(seen) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_plain_8_bit_frames_are_not_converted(tmp_path: Path) -> None:
    path = makers.plain(tmp_path).path
    with av.open(str(path)) as container:
        planes = [[bytes(plane) for plane in frame.planes] for frame in container.decode(video=0)]
    assert [[bytes(plane) for plane in frame.image.planes] for frame in read_frames(path)] == planes


@pytest.mark.parametrize("pix_fmt", ["nv12", "yuyv422", "yuv422p", "yuv411p", "gray", "yuv422p10le", "rgb24"])
def test_other_pixel_formats(pix_fmt: str, tmp_path: Path) -> None:
    codec = {"nv12": "rawvideo", "yuyv422": "rawvideo", "rgb24": "png"}.get(pix_fmt, "ffv1")
    path = makers.make_video(tmp_path / "video.nut", 3, codec=codec, pix_fmt=pix_fmt)
    frames = list(read_frames(path))
    assert codes(frames) == [0, 1, 2]
    for color, seen in read_patches(frames[0].to_rgb()).items():
        expected = np.array(PATCHES[color], float)
        if pix_fmt == "gray":
            expected = np.full(3, expected @ [0.299, 0.587, 0.114])
        assert np.abs(seen - expected).max() <= 6, color


# --- what the file is ---------------------------------------------------------------------------------------


def test_info(tmp_path: Path) -> None:
    info = probe(makers.plain(tmp_path, colorspace=1).path)
    assert info.frame_rate == 25
    assert info.frame_count == 24
    assert info.duration_seconds == pytest.approx(0.96)
    assert (info.start_time, info.sample_aspect_ratio, info.rotation_degrees) == (0, 1, 0)
    assert (info.codec, info.source_pix_fmt, info.colorspace) == ("h264", "yuv420p", 1)
    assert not any((info.is_hdr, info.is_interlaced, info.has_alpha, info.is_mirrored, info.is_still))


def test_info_of_difficult_files(tmp_path: Path) -> None:
    assert probe(makers.non_square(tmp_path).path).sample_aspect_ratio == Fraction(64, 45)
    assert probe(makers.interlaced(tmp_path).path).is_interlaced
    assert probe(makers.alpha(tmp_path).path).has_alpha
    assert probe(makers.still(tmp_path).path).frame_count == 1
    assert probe(makers.late_start(tmp_path).path).start_time == Fraction(7, 5)
    assert probe(makers.mirrored(tmp_path).path).is_mirrored
    hdr = probe(makers.hdr(tmp_path).path)  # the tags are those of the mapped frames
    assert hdr.is_hdr
    assert (hdr.colorspace, hdr.color_trc, hdr.color_primaries) == (1, 1, 1)


def test_avif_is_a_picture(tmp_path: Path) -> None:
    path = makers.make_video(tmp_path / "photo.avif", [6], codec="libsvtav1", options={"preset": "10"}, gop_size=1)
    with open_video(path) as video:
        assert video.info.is_still
        assert codes(list(video)) == [6]


def test_turned_pixels(tmp_path: Path) -> None:
    path = makers.make_video(tmp_path / "turned.mp4", 1, rotation=-90, sample_aspect_ratio=Fraction(64, 45))
    info = probe(path)
    assert info.rotation_degrees == 90
    assert (info.width, info.height) == (makers.HEIGHT, makers.WIDTH)
    assert info.sample_aspect_ratio == Fraction(45, 64)


def test_start_time_is_exact(tmp_path: Path) -> None:
    """FFmpeg gives a container's start in whole microseconds; 6006/90000 s is none."""
    path = makers.make_video(tmp_path / "ntsc.ts", 3, rate=Fraction(30000, 1001), pts=[2, 3, 4], options={"bf": "0"})
    assert probe(path).start_time == Fraction(6006, 90000)
    assert [frame.time for frame in read_frames(path)] == [Fraction(1001 * k, 30000) for k in range(3)]


@pytest.mark.parametrize("b_bias", [0, -100])  # with B-frames; allowed to have them, but without
def test_frames_cut_off_by_an_edit_list(b_bias: int, tmp_path: Path) -> None:
    """Five frames lie before the start that the mp4's edit list gives: FFmpeg decodes but does not show them."""
    path = tmp_path / "edited.mp4"
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    coding = {"bf": "2", "b-bias": str(b_bias), "b_strategy": "1"}
    makers.make_video(path, 24, pts=range(-5, 19), options=coding, container_options=options)
    with open_video(path) as video:
        frames = list(video)
    assert codes(frames) == list(range(5, 24))
    assert [frame.time for frame in frames] == [k / makers.RATE for k in range(19)]
    assert not video.damaged


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    (frame,) = read_frames(makers.exif_photo(tmp_path, orientation).path)
    assert read_barcode(frame.to_rgb()) == 7
    assert abs(frame.to_rgb().astype(int) - makers.picture(7)).mean() < 4


# --- pixels -------------------------------------------------------------------------------------------------


def comb(rgb: np.ndarray) -> float:
    """How much alternate lines differ, in the moving part of the test picture."""
    gray = rgb[makers.HEIGHT * 3 // 8 : makers.HEIGHT * 5 // 8].astype(float).mean(axis=2)
    return float(np.abs(gray[1:-1] - (gray[:-2] + gray[2:]) / 2).mean())


def test_interlaced_frames_lose_their_comb(tmp_path: Path) -> None:
    path = makers.interlaced(tmp_path).path
    with av.open(str(path)) as container:
        before = [comb(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    after = [comb(frame.to_rgb()) for frame in read_frames(path)]
    assert np.mean(after) < np.mean(before) / 3


def test_interlaced_from_the_middle_on_and_one_frame(tmp_path: Path) -> None:
    options = {"flags": "+ildct+ilme", "field_order": "tt", "bf": "0"}
    one = makers.make_video(tmp_path / "one.mpg", [5], codec="mpeg2video", options=options)
    assert codes(list(read_frames(one))) == [5]
    with open_video(makers.joined(tmp_path / "mixed.ts", "mpeg2video", options=options)) as video:
        assert not video.info.is_interlaced
        frames = list(video)
    assert codes(frames) == list(range(24))
    assert [frame.time for frame in frames] == [k / makers.RATE for k in range(24)]


def test_alpha_lies_over_black(tmp_path: Path) -> None:
    rgb = next(read_frames(makers.alpha(tmp_path).path)).to_rgb()
    band = rgb[makers.HEIGHT * 9 // 16]
    assert band.max() <= 2
    pixels = np.dstack([makers.picture(7), np.full((makers.HEIGHT, makers.WIDTH), 255, np.uint8)])
    pixels[:40, :, :3], pixels[:40, :, 3] = 200, 128
    for extension in ("png", "webp"):
        (frame,) = read_frames(makers.still(tmp_path, extension, pixels=pixels).path)
        assert abs(frame.to_rgb()[10:30].astype(int) - 100).max() <= 3


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamps", "repaired"),
    [
        ([0, 10, 20, 30], [0, 10, 20, 30]),
        ([7, 19, 20, 400], [7, 19, 20, 400]),  # uneven is not wrong
        ([5], [5]),
        ([None], [0]),
        ([None, None, None], [0, 10, 20]),
        ([None, 20, 30], [10, 20, 30]),
        ([None, None, 0, 30], [0, 1, 11, 30]),  # nothing lies before the start
        ([None, None, 12, 30], [0, 6, 12, 30]),
        ([0, None, None, 30], [0, 10, 20, 30]),
        ([0, 0, 0, 30], [0, 10, 20, 30]),
        ([0, 0, 10], [0, 5, 10]),  # between neighbors, not past them
        ([0, 0, 0, 3], [0, 1, 2, 3]),
        ([0, 0, 1000], [0, 10, 1000]),  # no more than a duration apart
        ([0, 10, 20, 10, 0, 50], [0, 10, 20, 30, 40, 50]),
        ([0, 10, None], [0, 10, 20]),
        ([100, 110, *range(0, 130, 10)], [*range(100, 250, 10)]),  # a clock that starts again
        ([100, 110, *range(0, 80, 10), 95, 105], [*range(100, 200, 10), 215, 225]),  # its gaps are kept
    ],
)
def test_repair_times(stamps: list[int | None], repaired: list[int]) -> None:
    items = [(k, stamp, Fraction(10)) for k, stamp in enumerate(stamps)]
    assert list(repair_times(items)) == list(enumerate(repaired))


def test_replaced_time_stamps_are_reported(tmp_path: Path) -> None:
    with open_video(makers.repeated_timestamps(tmp_path).path) as video:
        list(video)
    assert video.warnings == ["Some timestamps were missing, repeated or out of order and were replaced."]
    assert not video.damaged


@pytest.mark.parametrize("name", ["plain", "vfr", "late_start", "late_video", "no_timestamps", "interlaced", "gif"])
@pytest.mark.parametrize(("start", "end"), [(None, 0.2), (0.1, None), (Fraction(3, 25), 0.2), (0.48, 0.72), (9, None)])
def test_part_of_a_video(
    name: str, start: float | Fraction | None, end: float | Fraction | None, tmp_path: Path
) -> None:
    path = HARD_FILES[name](tmp_path).path
    everything = list(read_frames(path))
    first, last = (None if time is None else Fraction(str(time)) for time in (start, end))
    expected = [f for f in everything if (first is None or f.time >= first) and (last is None or f.time < last)]
    with open_video(path, start, end) as video:
        part = list(video)
    assert [(f.pts, f.time) for f in part] == [(f.pts, f.time) for f in expected]
    assert codes(part) == codes(expected)
    assert [f.index for f in part] == list(range(len(part)))
    assert not video.damaged


def test_start_seeks(tmp_path: Path) -> None:
    """Two of 200 frames, the last key frame 8 frames before: no more than a few packets are decoded."""
    path = makers.make_video(tmp_path / "long.mp4", 200, width=96, height=64, gop_size=10)
    with open_video(path, 6) as video:
        assert read_barcode(next(video).to_rgb()) == 150
        assert video._source.packet_count < 30


def test_start_at_a_frames_own_time(tmp_path: Path) -> None:
    path = makers.make_video(tmp_path / "thirds.mp4", 24, rate=Fraction(30))
    for frame in list(read_frames(path)):
        assert next(read_frames(path, start=frame.time_seconds)).time == frame.time


@pytest.mark.parametrize(("start", "end"), [(-1, None), (2, 1), (1, 1), (None, 0)])
def test_wrong_part(start: float | None, end: float | None, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        open_video(makers.plain(tmp_path, 1).path, start, end)


# --- resources ----------------------------------------------------------------------------------------------


def open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    return {os.readlink(link) for link in folder.iterdir() if link.exists()}


def test_files_are_closed(tmp_path: Path) -> None:
    path = makers.plain(tmp_path).path
    frames = read_frames(path)
    next(frames)
    assert str(path) in open_files()
    frames.close()  # left early
    assert str(path) not in open_files()
    with open_video(path, 0.2) as video:
        next(video)
        assert str(path) in open_files()
    assert str(path) not in open_files()
    assert list(video) == []
    with pytest.raises(InputError):
        probe(makers.audio_only(tmp_path))
    assert not any("audio_only" in name for name in open_files())


def test_memory_stays_flat(tmp_path: Path) -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    path = tmp_path / "large.avi"
    makers.make_video(path, 90, codec="mpeg4", transform=lambda rgb, _: np.kron(rgb, np.ones((6, 6, 1), np.uint8)))
    resident = []
    for _ in read_frames(path):
        resident.append(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert len(resident) == 90
    assert resident[-1] - resident[20] < 20 * (6 * 192) * (6 * 128) * 1.5  # 70 frames went by, fewer than 20 are held


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
def test_truncated(extension: str, tmp_path: Path) -> None:
    made = makers.truncated(tmp_path, extension)
    assert missing_bytes(made.path) > 0
    with open_video(made.path) as video:
        seen = codes(list(video)[:-4])  # the last packet may be half a picture, and B-frames may refer to it
    assert len(seen) >= 10
    assert seen == list(range(len(seen)))
    assert video.damaged
    assert "shorter than its header says" in video.warnings[0]


@pytest.mark.parametrize(
    "make", [makers.plain, makers.odd_size, makers.foreign_audio, makers.interlaced, makers.late_start]
)
def test_whole_files_miss_nothing(make: object, tmp_path: Path) -> None:
    assert missing_bytes(make(tmp_path).path) == 0  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(6))
def test_bit_flips(seed: int, tmp_path: Path) -> None:
    """Nothing raises, what is whole is right, and there are as many frames as one decoder thread gives."""
    made = makers.bit_flipped(tmp_path, seed)
    expected = 0
    with av.open(str(made.path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                expected += len(packet.decode())
    with open_video(made.path) as video:
        frames = list(video)
    assert len(frames) == expected
    assert codes(frames[:8]) == list(range(8))
    assert video.damaged
    assert all(re.fullmatch(r"[A-Z].*\.", warning) for warning in video.warnings)


def test_the_tail_of_a_truncated_file_is_not_lost(tmp_path: Path) -> None:
    """The half packet at the end must not cost the whole frames that decoder threads still hold."""
    made = makers.truncated(tmp_path)
    with av.open(str(made.path)) as container:
        whole = sum(not packet.is_corrupt and packet.size > 0 for packet in container.demux(video=0))
    assert len(list(read_frames(made.path))) >= whole


def test_damage_is_reported_where_it_lies(tmp_path: Path) -> None:
    path = makers.bit_flipped(tmp_path).path
    with open_video(path, end=0.08) as video:
        assert len(list(video)) == 2
        assert not video.damaged
    with open_video(path, end=1.6) as video:
        list(video)
        assert video.damaged


@pytest.mark.parametrize(
    "tags", [{"primaries": 41}, {"primaries": 0}, {"transfer": 10}, {"transfer": 200}, {"matrix": 14}, {"matrix": 77}]
)
def test_color_tags_that_nobody_knows_are_dropped(tags: dict[str, int], tmp_path: Path) -> None:
    made = makers.wrong_tags(tmp_path, **{"primaries": 1, "transfer": 1, "matrix": 1} | tags)
    with open_video(made.path) as video:
        frames = list(video)
    assert codes(frames) == made.numbers
    info = video.info
    assert (info.color_primaries == 2, info.color_trc == 2, info.colorspace == 2) == (
        "primaries" in tags,
        "transfer" in tags,
        "matrix" in tags,
    )


def test_recording_that_begins_between_key_frames(tmp_path: Path) -> None:
    """The first decodable frame is number 10, and it keeps its own time."""
    path = makers.make_video(tmp_path / "whole.ts", 30, gop_size=10, options={"bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        cut = [packet.pos for packet in container.demux(video=0) if packet.size][4]
    path.write_bytes(path.read_bytes()[cut:])
    with av.open(str(path)) as container:
        pts = [packet.pts for packet in container.demux(video=0) if packet.size]
    frames = [frame for frame in read_frames(path) if frame.pts >= pts[6]]
    assert codes(frames) == list(range(10, 30))
    assert [frame.pts for frame in frames] == pts[6:]


def test_any_cut_of_a_file(tmp_path: Path) -> None:
    data = makers.make_video(tmp_path / "whole.mkv", 12, audio=["aac"]).read_bytes()
    for length in range(0, len(data), len(data) // 23):
        path = tmp_path / "cut.mkv"
        path.write_bytes(data[:length])
        try:
            with open_video(path) as video:
                assert len(list(video)) >= 1
                assert video.damaged
        except InputError as error:
            assert_one_sentence(error)


def test_png_with_garbage_is_damaged(tmp_path: Path) -> None:
    data = makers.still(tmp_path, "png").path.read_bytes()
    path, decoded = tmp_path / "damaged.png", 0
    for seed in range(30):
        random, changed = np.random.default_rng(seed), bytearray(data)
        for position in random.integers(len(data) // 3, len(data) - 20, 12):
            changed[position] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        with suppress(InputError), open_video(path) as image:
            assert len(list(image)) == 1
            decoded += 1
            assert image.damaged
            assert image.warnings
    assert decoded > 3


def test_half_a_jpeg_is_damaged(tmp_path: Path) -> None:
    data = makers.still(tmp_path, "jpg").path.read_bytes()
    path = tmp_path / "half.jpg"
    path.write_bytes(data[: len(data) // 2])
    with open_video(path) as image:
        assert len(list(image)) == 1
        assert image.damaged
    assert image.warnings == ["Some of the file is damaged: only what could be decoded is delivered."]


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("rest", [bytes(5000), b"junk" * 20])
def test_what_lies_behind_a_still_image_does_not_matter(extension: str, rest: bytes, tmp_path: Path) -> None:
    path = makers.still(tmp_path, extension).path
    path.write_bytes(path.read_bytes() + rest)
    with open_video(path) as image:
        assert len(list(image)) == 1
        assert not image.damaged


# --- refused ------------------------------------------------------------------------------------------------


def assert_one_sentence(error: BaseException) -> None:
    assert re.fullmatch(r"[^\n]+\.", str(error)), error


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        probe(path)
    assert_one_sentence(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_files_without_video(tmp_path: Path) -> None:
    assert "no video stream" in refused(makers.audio_only(tmp_path))
    assert "no video stream" in refused(makers.audio_with_cover(tmp_path))
    assert "does not exist" in refused(tmp_path / "missing.mp4")
    assert "folder" in refused(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "empty" in refused(tmp_path / "empty.mp4")
    for name in ("text.mp4", "text.jpg", "text.txt"):
        (tmp_path / name).write_text("Dear diary,\n" * 200)
        refused(tmp_path / name)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    refused(tmp_path / "noise.mp4")
    (tmp_path / "subtitles.mp4").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    refused(tmp_path / "subtitles.mp4")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        assert "regular file" in refused(tmp_path / "pipe.mp4")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = makers.plain(tmp_path, 1).path
    monkeypatch.setattr(Path, "open", denied)  # mode bits do not keep root out
    assert "Permission denied" in refused(path)


@contextmanager
def never_opened(path: Path) -> Iterator[None]:
    """Fail if the file is opened meanwhile (Linux only; elsewhere nothing is checked)."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert watch >= 0
    assert libc.inotify_add_watch(watch, os.fsencode(path), 0x20) >= 0  # IN_OPEN
    try:
        yield
        try:
            events = os.read(watch, 4096)
        except BlockingIOError:
            events = b""
        assert events == b"", f"{path} was opened"
    finally:
        os.close(watch)


def test_never_opened_notices(tmp_path: Path) -> None:
    path = makers.plain(tmp_path, 1).path
    with pytest.raises(AssertionError, match="was opened"), never_opened(path):
        probe(path)


@pytest.mark.parametrize("kind", makers.PLAYLISTS)
@pytest.mark.parametrize("name", ["list.mp4", "list.mkv", "list.jpg", "natural"])
def test_playlists_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    natural = {"hls": "list.m3u8", "concat": "list.ffconcat", "sdp": "list.sdp", "dash": "list.mpd", "imf": "cpl.xml"}
    name = natural[kind] if name == "natural" else name
    target = makers.plain(tmp_path, 2).path
    with never_opened(target):
        refused(makers.playlist(tmp_path, kind, name, target.name))
        refused(makers.playlist(tmp_path, kind, name, str(target)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused(makers.playlist(tmp_path, kind, name, f"http://127.0.0.1:{port}/plain.mp4"))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "text", ["{playlist}", "\ufeff{playlist}", "\n {playlist}", "ignored\n{playlist}", "# x\n{playlist}"]
)
@pytest.mark.parametrize("kind", makers.PLAYLISTS)
def test_disguised_playlists_are_refused(kind: str, text: str, tmp_path: Path) -> None:
    """Whatever gets past the look at the first bytes is stopped by the list of demuxers."""
    target = makers.plain(tmp_path, 2).path
    path = tmp_path / "video.mp4"
    path.write_text(text.format(playlist=makers.PLAYLISTS[kind].format(target=target)))
    with never_opened(target):
        refused(path)


@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat", "list.m3u8"])
@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_the_list_of_demuxers_alone_is_enough(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg knows these two by their content or their name; without the list it would open the target."""
    monkeypatch.setattr("tinyhd.video.containers._is_playlist", lambda head: False)
    target = makers.plain(tmp_path, 2).path
    with never_opened(target):
        refused(makers.playlist(tmp_path, kind, name, target.name))


def test_external_data_is_not_opened(tmp_path: Path) -> None:
    """An mp4 may say that its pictures lie in another file; that file stays closed."""
    target = makers.make_video(tmp_path / "target.mp4", 24)
    path = makers.external_reference(tmp_path, target)
    with never_opened(target):
        refused(path)


# --- names --------------------------------------------------------------------------------------------------

NAMES = [
    *("12:30.mp4", "a%d.mp4", "a%03d.mp4", "-x.mp4", "with space.mp4", 'quote\'s "and" `more`.mp4', "new\nline.mp4"),
    *("ü漢字🎬.mp4", "file:name.mp4", "http:name.mp4", "concat:a|b.mp4", "*.mp4", "a[1]?.mp4", "back\\slash.mp4"),
    *("#hash&amp;$HOME;.mp4", "no extension", ".hidden", "~", "wrong.jpg", "wrong.m3u8", "-"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = makers.plain(tmp_path, 3).path.rename(tmp_path / name)
    assert codes(list(read_frames(path))) == [0, 1, 2]
    monkeypatch.chdir(tmp_path)
    assert codes(list(read_frames(name))) == [0, 1, 2]  # relative, too
    assert probe(name).path == name


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are text there")
def test_name_that_is_no_text(tmp_path: Path) -> None:
    path = makers.plain(tmp_path, 2).path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4"))
    assert codes(list(read_frames(path))) == [0, 1]


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize("name", ["a%d", "a%03d", "*", "a?", "a[1]", "plain"])
def test_picture_names_are_no_patterns(name: str, extension: str, tmp_path: Path) -> None:
    """Beside the picture lies another one that the name would match as a pattern."""
    other = makers.still(tmp_path, extension, number=9).path
    others = [tmp_path / f"{stem}.{extension}" for stem in ("a1", "a001", "a0")]
    for copy in others:
        copy.write_bytes(other.read_bytes())
    path = makers.still(tmp_path, extension, number=3).path.rename(tmp_path / f"{name}.{extension}")
    with never_opened(others[0]):
        assert codes(list(read_frames(path))) == [3]


def test_metadata_that_is_no_text(tmp_path: Path) -> None:
    path = makers.make_video(tmp_path / "tagged.mkv", 2, metadata={"title": "Name"})
    path.write_bytes(path.read_bytes().replace(b"Name", b"\xff\xfe\x80x"))
    assert codes(list(read_frames(path))) == [0, 1]


# --- the makers themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 511, 512, 1023])
def test_barcode(number: int) -> None:
    picture = makers.picture(number)
    assert read_barcode(picture) == number
    assert read_barcode(makers.picture(number, 181, 127)) == number
    assert read_barcode((picture * 0.2).astype(np.uint8)) == number
    for wrong in (picture[:, ::-1], picture[::-1], np.rot90(picture), picture * 0):
        with pytest.raises(makers.BarcodeError):
            read_barcode(wrong)


# --- real clips ---------------------------------------------------------------------------------------------


def test_real_avi(shared: Path) -> None:
    path = shared / "media" / "dhf1k_0068.avi"
    times = [frame.time for frame in read_frames(path)]
    assert times == [Fraction(k, 30) for k in range(540)]


@pytest.mark.parametrize("name", ["021.mp4", "012.mp4"])
def test_real_mp4(name: str, shared: Path) -> None:
    """021: video 1.27 s after 0, sound 0.01 s after 0. 012: H.264 with B-frames stamped in the order of decoding."""
    folder = shared / "data" / "fixations_video" / "muvfet"
    with np.load(folder / "fixations.npz") as fixations:
        count = dict(zip(fixations["video_names"].tolist(), fixations["frames"].tolist(), strict=True))[name]
    with av.open(str(folder / name)) as container:
        (stream,) = container.streams.video
        own_clock = sorted(packet.pts * stream.time_base for packet in container.demux(stream) if packet.size)
        start_seconds = container.start_time / av.time_base
    with open_video(folder / name) as video:
        frames = list(video)
    assert len(frames) == count
    assert [frame.time + video.info.start_time for frame in frames] == own_clock
    assert float(video.info.start_time) == pytest.approx(start_seconds, abs=1e-6)
    assert not video.damaged
    assert video.warnings == []
