"""Writing: times, sound, tags and containers of the output; encoders; nothing half-written."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import makers
import numpy as np
import pytest
from makers import make_video, read_barcode, rewrite

from tinyhd.errors import OptionError, OutputError
from tinyhd.files import AtomicOutput
from tinyhd.options import CODECS, EncoderOptions
from tinyhd.video import encoders
from tinyhd.video.encoders import NVENC, SOFTWARE, resolve_encoder
from tinyhd.video.ffmpeg_program import resolve_program_encoder
from tinyhd.video.png import encode_png
from tinyhd.video.reader import open_video, read_frames
from tinyhd.video.writer import VideoWriter, check_encoder, fine_time_base

pytestmark = pytest.mark.filterwarnings("error")

no_program = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs an ffmpeg program")
both_ways = pytest.mark.parametrize("program", [None, pytest.param("ffmpeg", marks=no_program)])
"""Built-in, and through an ffmpeg program."""


def resolve(options: EncoderOptions) -> encoders.Encoder:
    return resolve_program_encoder(options) if options.ffmpeg else resolve_encoder(options)


def absolute_times(path: Path) -> list[Fraction]:
    """Presentation times of the video's frames on the container's own clock."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def audio_packets(path: Path, track: int = 0) -> list[tuple[bytes, Fraction]]:
    """(content, time after the container's start) of every packet."""
    with av.open(str(path)) as container:
        start = Fraction(container.start_time or 0, av.time_base)
        packets = container.demux(audio=track)
        return [(bytes(p), p.pts * p.time_base - start) for p in packets if p.size and p.pts is not None]


def boxes(path: Path) -> list[str]:
    """Names of the top-level boxes of an mp4 file."""
    data, position, names = path.read_bytes(), 0, []
    while position < len(data):
        names.append(data[position + 4 : position + 8].decode("latin-1"))
        position += int.from_bytes(data[position : position + 4], "big")
    return names


# ---- times


@pytest.mark.parametrize("name", ["plain", "vfr", "late_video", "late_start", "no_timestamps", "gif", "b_frames_avi"])
def test_frames_lie_at_their_times(tmp_path: Path, name: str) -> None:
    made = makers.HARD_FILES[name](tmp_path)
    target = tmp_path / "out.mp4"
    rewrite(made.path, target)
    source = list(read_frames(made.path))
    assert absolute_times(target) == [frame.time for frame in source]
    assert [read_barcode(f.to_rgb()) for f in read_frames(target)] == [read_barcode(f.to_rgb()) for f in source]


def test_a_late_picture_keeps_its_distance_from_the_sound(tmp_path: Path) -> None:
    # 1/3 s is no whole number of the milliseconds that mp4 files count starts in by default
    pts = [10000 + 1200 * k for k in range(12)]
    source = make_video(tmp_path / "in.mkv", 12, pts=pts, time_base=Fraction(1, 30000), audio=["aac"])
    info_time = next(read_frames(source)).time
    rewrite(source, tmp_path / "out.mp4")
    out_times, out_audio = absolute_times(tmp_path / "out.mp4"), audio_packets(tmp_path / "out.mp4")
    assert out_times[0] == info_time
    assert abs(out_audio[0][1] - audio_packets(source)[0][1]) < Fraction(1, 10_000)

    source = make_video(tmp_path / "exact.mp4", 12, pts=pts, time_base=Fraction(1, 30000), audio=["aac"])
    with open_video(source) as video, VideoWriter(tmp_path / "exact_out.mp4", video.info) as writer:
        for k, frame in enumerate(video):
            writer.write(frame.image, Fraction(10001 + 1200 * k, 30000))
    assert absolute_times(tmp_path / "exact_out.mp4")[0] == Fraction(10001, 30000)


def test_part_of_a_video_starts_at_zero(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 50, audio=["aac"])
    start, end = Fraction("0.41"), Fraction("1.3")  # between two frames
    rewrite(source, tmp_path / "out.mp4", start=start, end=end)
    times = absolute_times(tmp_path / "out.mp4")
    assert [read_barcode(f.to_rgb()) for f in read_frames(tmp_path / "out.mp4")] == list(range(11, 33))
    assert max(abs(t - (Fraction(k, 25) - start)) for t, k in zip(times, range(11, 33), strict=True)) < Fraction(
        1, 25000
    )
    kept, given = audio_packets(tmp_path / "out.mp4"), audio_packets(source)
    first = next(k for k, (data, _) in enumerate(given) if data == kept[0][0])
    assert [data for data, _ in kept] == [data for data, _ in given[first : first + len(kept)]]
    assert all(abs(t - (u - start)) < Fraction(1, 10_000) for (_, t), (_, u) in zip(kept, given[first:], strict=False))
    assert -Fraction(1024, 48000) <= kept[0][1] <= 0
    assert end - start - Fraction(1024, 48000) <= kept[-1][1] < end - start


def test_times_must_increase(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 2)
    image = next(read_frames(source)).image
    with open_video(source) as video, VideoWriter(tmp_path / "out.mp4", video.info) as writer:
        writer.write(image, Fraction(1))
        with pytest.raises(ValueError, match="increase"):
            writer.write(image, Fraction(1))


@pytest.mark.parametrize(
    ("given", "fine"),
    [
        (Fraction(1, 90000), Fraction(1, 90000)),
        (Fraction(1, 25), Fraction(1, 12800)),
        (Fraction(1001, 30000), Fraction(1, 30000)),
        (Fraction(1, 1), Fraction(1, 16384)),
    ],
)
def test_fine_time_base(given: Fraction, fine: Fraction) -> None:
    assert fine_time_base(given) == fine
    assert (given / fine).denominator == 1


# ---- sound


@pytest.mark.parametrize(
    ("name", "codec", "audio"),
    [
        ("in.mp4", "libx264", ["aac", "libmp3lame"]),
        ("in.mkv", "libx264", ["libopus", "flac"]),
        ("in.avi", "mpeg4", ["libmp3lame"]),
    ],
)
def test_packets_of_sound_are_copied(tmp_path: Path, name: str, codec: str, audio: list[str]) -> None:
    source = make_video(tmp_path / name, 24, codec=codec, audio=audio)
    rewrite(source, tmp_path / "out.mp4")
    for track in range(len(audio)):
        given, kept = audio_packets(source, track), audio_packets(tmp_path / "out.mp4", track)
        assert [data for data, _ in kept] == [data for data, _ in given]
        # Matroska rounds to 1 ms
        assert max(abs(t - u) for (_, t), (_, u) in zip(kept, given, strict=True)) <= Fraction(1, 1000)


def test_adts_sound_becomes_playable(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.ts", 25, audio=["aac"])
    rewrite(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples >= 48000


@pytest.mark.parametrize(("extension", "audio"), [("avi", "pcm_s16le"), ("mkv", "ac3"), ("mkv", "pcm_s24le")])
def test_other_sound_becomes_aac(tmp_path: Path, caplog: pytest.LogCaptureFixture, extension: str, audio: str) -> None:
    codec = "mpeg4" if extension == "avi" else "libx264"
    source = make_video(tmp_path / f"in.{extension}", 25, codec=codec, audio=[audio])
    with caplog.at_level(logging.INFO, "tinyhd"):
        rewrite(source, tmp_path / "out.mp4")
    assert [record.getMessage() for record in caplog.records] == [
        f"Audio track 1 is {audio}, which mp4 players do not take; it is encoded to AAC."
    ]
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.codec.canonical_name == "aac"
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
    # the tone of 440 Hz is still there, for the whole second
    spectrum = np.abs(np.fft.rfft(sound[:48000]))
    assert abs(np.argmax(spectrum) - 440) < 2
    assert len(sound) >= 48000


def test_languages_titles_and_dispositions_are_kept(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mp4", 12, audio=["aac", "libmp3lame"], languages=["eng", "deu"], metadata={"title": "A title"}
    )
    rewrite(source, tmp_path / "out.mp4")
    with av.open(str(source)) as given, av.open(str(tmp_path / "out.mp4")) as kept:
        assert kept.metadata["title"] == "A title"
        assert [s.metadata["language"] for s in kept.streams.audio] == ["eng", "deu"]
        assert [s.disposition for s in kept.streams.audio] == [s.disposition for s in given.streams.audio]


def test_damaged_sound_is_reported_and_the_pictures_are_written(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 25, audio=["ac3"])
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        positions = [p.pos for p in container.demux(audio=0) if p.size]
    for position in positions[10:20]:
        data[position + 4 : position + 700] = bytes(696)  # four bytes of Matroska come first
    source.write_bytes(data)
    writer = rewrite(source, tmp_path / "out.mp4")
    assert writer.warnings == ["Some of the audio is damaged and was left out."]
    assert len(absolute_times(tmp_path / "out.mp4")) == 25


def decodes_cleanly(path: Path) -> bool:
    """Whether FFmpeg's decoders have nothing to complain about in the sound."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages, av.open(str(path)) as container:
            for _ in container.decode(audio=0):
                pass
    except av.error.FFmpegError:
        return False
    finally:
        av.logging.set_level(level)
    return not messages


@pytest.mark.parametrize(
    ("extension", "audio"),
    [
        *(("mp4", "aac"), ("mkv", "aac"), ("ts", "aac"), ("mkv", "flac"), ("mp4", "flac"), ("avi", "libmp3lame")),
        *(("ts", "mp2"), ("ts", "ac3"), ("mpg", "mp2"), ("avi", "ac3"), ("mkv", "libopus")),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_damaged_sound_costs_no_frame(extension: str, audio: str, seed: int, tmp_path: Path) -> None:
    """And what is written of it decodes, copied or encoded."""
    made = makers.damaged_sound(tmp_path, extension, audio, seed)
    with open_video(made.path) as video:
        count = len(list(video))
    writer = rewrite(made.path, tmp_path / "out.mp4")
    assert len(absolute_times(tmp_path / "out.mp4")) == count
    assert decodes_cleanly(tmp_path / "out.mp4")
    if audio in ("aac", "flac"):  # the others have no check sums, or conceal
        assert writer.warnings == ["Some of the audio is damaged and was left out."]
        assert not decodes_cleanly(made.path) or audio == "flac"


def test_timestamps_far_behind_the_end_are_not_believed(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.flv", 50, codec="flv", audio=["libmp3lame"])
    data, position, changed = bytearray(source.read_bytes()), 13, 0
    while position < len(data):  # tags: kind, size, timestamp with its highest byte last
        kind, size = data[position], int.from_bytes(data[position + 1 : position + 4], "big")
        if kind == 8 and len(data) // 3 < position < len(data) // 2:
            data[position + 7], changed = 0x10, changed + 1
        position += size + 15
    assert changed > 5
    given = audio_packets(source)
    source.write_bytes(data)
    rewrite(source, tmp_path / "out.mp4")
    kept = audio_packets(tmp_path / "out.mp4")
    assert [content for content, _ in kept] == [content for content, _ in given]
    assert max(abs(t - u) for (_, t), (_, u) in zip(kept, given, strict=True)) < Fraction(1, 20)


def test_durations_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 50, audio=["aac"])
    data = bytearray(source.read_bytes())
    box = data.rindex(b"stts")  # the sound's: number of entries, then (packets, duration) of each
    count = int.from_bytes(data[box + 8 : box + 12], "big")
    data[box + 8 * count + 8 : box + 8 * count + 12] = (0x7E000000).to_bytes(4, "big")
    source.write_bytes(data)
    with av.open(str(source)) as container:
        assert max(p.duration for p in container.demux(audio=0) if p.size) > 2**30
    rewrite(source, tmp_path / "out.mp4")
    assert len(absolute_times(tmp_path / "out.mp4")) == 50
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert (container.duration or 0) / av.time_base < 60


def test_ac3_in_avi(tmp_path: Path) -> None:
    """AVI counts its packets, so that a tick is longer than a frame of AAC."""
    source = make_video(tmp_path / "in.avi", 50, codec="mpeg4", audio=["ac3"])
    writer = rewrite(source, tmp_path / "out.mp4")
    assert writer.warnings == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(sound) == pytest.approx(2 * 48000, abs=2048)
    assert abs(np.argmax(np.abs(np.fft.rfft(sound[:48000]))) - 440) < 2


def test_a_track_that_begins_in_the_middle(tmp_path: Path) -> None:
    made = makers.late_sound_stream(tmp_path)
    writer = rewrite(made.path, tmp_path / "out.mp4")
    assert [read_barcode(f.to_rgb()) for f in read_frames(tmp_path / "out.mp4")] == made.numbers
    assert writer.warnings == []


# ---- container and tags


def test_the_index_lies_in_front(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 12, audio=["aac"])
    rewrite(source, tmp_path / "out.mp4")
    order = boxes(tmp_path / "out.mp4")
    assert order.index("moov") < order.index("mdat")


@pytest.mark.parametrize("name", ["bt709", "full_range", "non_square", "rotated_90"])
def test_tags_and_shape_are_kept(tmp_path: Path, name: str) -> None:
    made = makers.HARD_FILES[name](tmp_path)
    rewrite(made.path, tmp_path / "out.mp4")
    with open_video(made.path) as given, open_video(tmp_path / "out.mp4") as kept:
        for field in (
            *("width", "height", "sample_aspect_ratio"),
            *("colorspace", "color_range", "color_trc", "color_primaries"),
        ):
            assert getattr(kept.info, field) == getattr(given.info, field), field
        assert kept.info.source_pix_fmt in ("yuv420p", "yuvj420p")
        assert kept.info.rotation_degrees == 0
        before, after = next(given).to_rgb(), next(kept).to_rgb()
    for patch, color in makers.read_patches(before).items():
        assert np.abs(makers.read_patches(after)[patch] - color).max() < 6, patch


# ---- encoders


@both_ways
@pytest.mark.parametrize(
    ("options", "codec"),
    [
        ({"crf": 30, "preset": "ultrafast"}, "h264"),
        ({"codec": "hevc", "preset": "ultrafast"}, "hevc"),
        ({"codec": "av1", "preset": "13"}, "av1"),
        ({"codec": "vp9"}, "vp9"),
        ({"encoder": "mpeg4"}, "mpeg4"),
    ],
)
def test_encoders(
    tmp_path: Path, options: dict[str, Any], codec: str, program: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_video(tmp_path / "in.mp4", 8, pts=[0, 3, 4, 9, 10, 12, 20, 21])
    capfd.readouterr()
    rewrite(source, tmp_path / "out.mp4", options=EncoderOptions(**options, ffmpeg=program))
    assert capfd.readouterr() == ("", "")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
        if codec == "hevc":
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    assert absolute_times(tmp_path / "out.mp4") == absolute_times(source)
    assert [read_barcode(f.to_rgb()) for f in read_frames(tmp_path / "out.mp4")] == list(range(8))


def test_svt_does_not_print_to_the_terminal(tmp_path: Path) -> None:
    """It is told so by the environment, once for a process."""
    source = make_video(tmp_path / "in.mp4", 2)
    program = (
        "import sys; from tinyhd.options import EncoderOptions; from tinyhd.video.reader import open_video\n"
        "from tinyhd.video.writer import VideoWriter\n"
        "with open_video(sys.argv[1]) as video:\n"
        "    with VideoWriter(sys.argv[2], video.info, options=EncoderOptions('av1', preset='9')) as writer:\n"
        "        for frame in video: writer.write(frame.image, frame.time)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "SVT_LOG"}
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "out.mp4")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@both_ways
def test_crf_and_preset_reach_the_encoder(tmp_path: Path, program: str | None) -> None:
    source = make_video(tmp_path / "in.mp4", 12)
    sizes = {}
    for crf in (10, 45):
        rewrite(source, tmp_path / f"{crf}.mp4", options=EncoderOptions(crf=crf, preset="medium", ffmpeg=program))
        sizes[crf] = (tmp_path / f"{crf}.mp4").stat().st_size
        assert b"me=hex" in (tmp_path / f"{crf}.mp4").read_bytes()  # x264 notes its settings; faster presets: me=dia
    assert sizes[45] < sizes[10] / 2


@pytest.mark.parametrize(
    "options",
    [{"codec": "h264"}, {"codec": "hevc"}, {"codec": "av1", "preset": "13"}, {"codec": "vp9"}],
)
def test_bitrate_reaches_the_encoder(tmp_path: Path, options: dict[str, Any]) -> None:
    def noise(_: np.ndarray, k: int) -> np.ndarray:
        return np.random.default_rng(k).integers(0, 255, (makers.HEIGHT, makers.WIDTH, 3), np.uint8)

    source = make_video(tmp_path / "in.mp4", 25, transform=noise)
    sizes = {}
    for rate in ("800k", "4M"):
        rewrite(source, tmp_path / f"{rate}.mp4", options=EncoderOptions(**options, bitrate=rate))
        sizes[rate] = (tmp_path / f"{rate}.mp4").stat().st_size
    assert sizes["4M"] > 2 * sizes["800k"]


def test_x264_takes_frames_not_slices(tmp_path: Path) -> None:
    """As FFmpeg does: slice threads, PyAV's default, make larger files more slowly."""
    rewrite(make_video(tmp_path / "in.mp4", 12), tmp_path / "out.mp4")
    assert b"sliced_threads=0" in (tmp_path / "out.mp4").read_bytes()


@both_ways
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "nonsense"}, "no (video )?encoder 'nonsense'"),
        ({"encoder": "aac"}, "has no video encoder 'aac'|'aac' is not a video encoder"),
        ({"encoder": "mpeg4", "crf": 20}, "the encoder mpeg4 has no --crf"),
        ({"encoder": "mpeg4", "preset": "fast"}, "has no --preset"),
        ({"preset": "sluggish"}, "libx264 has no preset 'sluggish'; it must be one of ultrafast"),
        ({"encoder": "h264_nvenc", "preset": "sluggish"}, "must be one of default"),
    ],
)
def test_settings_that_do_not_exist(options: dict[str, Any], message: str, program: str | None) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        check_encoder(EncoderOptions(**options, ffmpeg=program))
    assert len(str(caught.value).splitlines()) == 1


@both_ways
def test_what_becomes_of_crf_and_bitrate(program: str | None) -> None:
    nvenc = resolve(EncoderOptions(encoder="h264_nvenc", crf=23, ffmpeg=program))
    assert nvenc.options == {"rc": "vbr", "cq": "23"}
    x264 = resolve(EncoderOptions(bitrate="2.5M", ffmpeg=program))
    assert x264.options == {"preset": "veryfast", "b": "2500000"}


def test_nvenc_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    source = make_video(tmp_path / "in.mp4", 2)
    options = EncoderOptions(encoder="h264_nvenc")
    match = r"NVIDIA GPU .*data-center GPUs such as H100 .*--encoder libx264"
    with open_video(source) as video, pytest.raises(OptionError, match=match) as caught:
        VideoWriter(tmp_path / "out.mp4", video.info, options=options)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_every_codec_has_an_encoder() -> None:
    assert tuple(SOFTWARE) == CODECS
    assert set(NVENC) <= set(CODECS)


@pytest.fixture
def no_answers_kept() -> Iterator[None]:
    encoders._auto_encoder.cache_clear()
    yield
    encoders._auto_encoder.cache_clear()


@pytest.mark.usefixtures("no_answers_kept")
def test_auto_takes_nvenc_where_it_opens(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tried = []
    monkeypatch.setattr(encoders, "_why_it_does_not_open", tried.append)
    with caplog.at_level("INFO", "tinyhd"):
        names = [
            resolve_encoder(EncoderOptions(codec, "auto")).name for codec in ("h264", "hevc", "av1", "vp9", "h264")
        ]
    assert names == ["h264_nvenc", "hevc_nvenc", "av1_nvenc", "libvpx-vp9", "h264_nvenc"]
    assert tried == ["h264_nvenc", "hevc_nvenc", "av1_nvenc"]
    assert caplog.messages == [
        "Encoding with h264_nvenc.",
        "Encoding with hevc_nvenc.",
        "Encoding with av1_nvenc.",
        "Encoding with libvpx-vp9: there is no NVENC for it.",
    ]
    assert resolve_encoder(EncoderOptions(encoder="auto", crf=23, preset="p4")).options == {
        "rc": "vbr",
        "cq": "23",
        "preset": "p4",
    }
    with pytest.raises(OptionError, match="h264_nvenc has no preset 'veryfast'"):
        resolve_encoder(EncoderOptions(encoder="auto", preset="veryfast"))


@pytest.mark.usefixtures("no_answers_kept")
def test_auto_takes_the_software_encoder_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoders, "_why_it_does_not_open", lambda encoder: "No capable devices found")
    with caplog.at_level("INFO", "tinyhd"):
        assert resolve_encoder(EncoderOptions("av1", "auto")).name == "libsvtav1"
    assert caplog.messages == ["Encoding with libsvtav1: av1_nvenc does not work here (No capable devices found)."]
    assert resolve_encoder(EncoderOptions(encoder="auto")).options == resolve_encoder(EncoderOptions()).options
    with pytest.raises(OptionError, match="libx264 has no preset 'p4'"):
        resolve_encoder(EncoderOptions(encoder="auto", preset="p4"))


@pytest.mark.usefixtures("no_answers_kept")
def test_auto_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The opening itself: an encoder that does, NVENC that does not, and a file."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert encoders._why_it_does_not_open("libx264") is None
    assert encoders._why_it_does_not_open("h264_nvenc")
    assert "no encoder" in (encoders._why_it_does_not_open("nonsense") or "")
    source = make_video(tmp_path / "in.mp4", 4)
    rewrite(source, tmp_path / "out.mp4", options=EncoderOptions(encoder="auto"))
    assert b"x264 - core" in (tmp_path / "out.mp4").read_bytes()  # x264 notes itself
    assert "nvenc" not in capfd.readouterr().err


def test_codecs_that_mp4_cannot_hold(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 2)
    with open_video(source) as video, pytest.raises(OptionError, match="mp4 files cannot hold what huffyuv makes"):
        VideoWriter(tmp_path / "out.mp4", video.info, options=EncoderOptions(encoder="huffyuv"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


# ---- complete or not at all


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", 8, audio=["aac"])


def writing(clip: Path, target: Path, **options: Any) -> Iterator[Path]:
    with open_video(clip) as video, VideoWriter(target, video.info, **options) as writer:
        for frame in video:
            writer.write(frame.image, frame.time)
            yield target


def test_the_name_appears_at_the_end(clip: Path) -> None:
    target = clip.with_name("out.mp4")
    for _ in writing(clip, target):
        assert not target.exists()
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4", "out.mp4"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_after_an_error(clip: Path, error: type[BaseException]) -> None:
    frames = writing(clip, clip.with_name("out.mp4"))
    next(frames)
    with pytest.raises(error):
        frames.throw(error)
    assert [path.name for path in clip.parent.iterdir()] == ["in.mp4"]


def test_nothing_is_replaced_unasked(clip: Path) -> None:
    target = clip.with_name("out.mp4")
    target.write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        list(writing(clip, target))
    assert target.read_text() == "precious"
    frames = writing(clip, target, overwrite=True)
    next(frames)
    assert target.read_text() == "precious"
    list(frames)
    assert len(absolute_times(target)) == 8


def test_a_file_that_appears_meanwhile_is_not_replaced(clip: Path) -> None:
    target = clip.with_name("out.mp4")
    frames = writing(clip, target)
    next(frames)
    target.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        list(frames)
    assert target.read_text() == "precious"
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4", "out.mp4"}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing/out.mp4", OutputError, "there is no folder"),
        ("in.mp4/out.mp4", OutputError, "there is no folder|Not a directory"),
        ("folder.mp4", OutputError, "is a folder"),
        ("x" * 300 + ".mp4", OutputError, "name too long"),
        ("out.avi", OptionError, "must end in .mp4"),
    ],
)
def test_targets_that_cannot_be_written(clip: Path, name: str, error: type[Exception], message: str) -> None:
    (clip.parent / "folder.mp4").mkdir()
    with pytest.raises(error, match=message):
        next(writing(clip, clip.parent / name))
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4", "folder.mp4"}


@pytest.mark.parametrize("missing_bytes", [1, 3000, 8000])
def test_a_full_disk_is_an_error_and_leaves_nothing(clip: Path, missing_bytes: int) -> None:
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    target, options = clip.with_name("out.mp4"), EncoderOptions(crf=0)
    list(writing(clip, target, options=options))
    size = target.stat().st_size
    target.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # a limit on file sizes stands in for the disk: writing beyond it fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing_bytes, before[1]))
        with pytest.raises(OutputError, match=r"out\.mp4' failed"):
            list(writing(clip, target, options=options))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4"}


@pytest.mark.parametrize("name", ["12:30.mp4", "a%d.mp4", "-x.mp4", "with 'quotes' \"and\" space.mp4", "ü\n☃.mp4"])
@both_ways
def test_odd_names(clip: Path, name: str, program: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clip.parent / "a %d 'folder'; $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    list(writing(clip, Path(name), options=EncoderOptions(ffmpeg=program)))
    assert [path.name for path in folder.iterdir()] == [name]
    assert len(list(read_frames(Path(name)))) == 8


def test_a_folder_is_complete_or_not_there(tmp_path: Path) -> None:
    def write(count: int, error: Exception | None = None, overwrite: bool = False) -> None:
        with AtomicOutput(tmp_path / "maps", folder=True, overwrite=overwrite) as pending:
            for k in range(count):
                (pending.temporary / f"{k:06d}.png").write_text(str(count))
            if error:
                raise error

    with pytest.raises(RuntimeError):
        write(3, RuntimeError())
    assert list(tmp_path.iterdir()) == []
    write(3)
    (tmp_path / "maps" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write(2)
    write(2, overwrite=True)
    assert {p.name: p.read_text() for p in (tmp_path / "maps").iterdir()} == {
        "000000.png": "2",
        "000001.png": "2",
        "notes.txt": "mine",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


# ---- pictures


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7, 3), np.uint8), ((5, 7), np.uint8), ((5, 7), np.uint16)])
def test_png(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    path = tmp_path / "x.png"
    path.write_bytes(encode_png(pixels))
    makers.png_chunks(path.read_bytes())
    with av.open(str(path), format="png_pipe") as container:
        frame = next(container.decode(video=0))
        kind = {"gray16be": "gray16le"}.get(frame.format.name, frame.format.name)
        np.testing.assert_array_equal(frame.to_ndarray(format=kind), pixels)
