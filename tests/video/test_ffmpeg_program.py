"""Writing through an ffmpeg program: the same frames, times and sound as the built-in way; nothing left behind."""

import os
import shlex
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import makers
import numpy as np
import pytest
from makers import make_video, read_barcode, rewrite

from tinyhd.errors import OptionError, OutputError
from tinyhd.options import EncoderOptions
from tinyhd.video import ffmpeg_program
from tinyhd.video.reader import open_video, read_frames
from tinyhd.video.writer import VideoWriter, check_encoder

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs an ffmpeg program"),
]

PROGRAM = "ffmpeg"


def contents(path: Path) -> dict[str, Any]:
    """What must be equal: streams, tags, and the times of all packets; the packets themselves of sound. NUT does not
    hold durations, so those of sound, which ends before its last packet does, are left out."""
    with av.open(str(path)) as container:
        streams = []
        for stream in container.streams:
            tags = {key: value for key, value in stream.metadata.items() if key != "encoder"}
            context: Any = stream.codec_context
            facts: list[Any] = [stream.type, context.codec.canonical_name, stream.time_base, tags]
            facts += [stream.start_time, stream.disposition]
            if stream.type == "video":
                facts += [context.codec_tag, stream.duration, stream.sample_aspect_ratio or 1, stream.average_rate]
                facts += [context.colorspace, context.color_range, context.color_trc, context.color_primaries]
            streams.append(facts)
        packets = [
            (p.stream.index, p.pts * p.time_base, bytes(p) if p.stream.type == "audio" else b"")
            for p in container.demux()
            if p.size and p.pts is not None
        ]
        tags = {key: value for key, value in container.metadata.items() if key != "encoder"}
        return {"streams": streams, "packets": sorted(packets), "metadata": tags}


def children() -> set[str]:
    """Processes whose parent is this one (Linux)."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    if not path.exists():
        pytest.skip("needs /proc")
    return set(path.read_text().split())


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "vfr", "late_video", "late_start", "gif", "one_frame", "with_audio", "foreign_audio", "full_range"),
        *("bt709", "non_square", "rotated_90"),
    ],
)
def test_equal_to_the_built_in_way(name: str, tmp_path: Path) -> None:
    made = makers.HARD_FILES[name](tmp_path)
    builtin, program = tmp_path / "builtin.mp4", tmp_path / "program.mp4"
    rewrite(made.path, builtin, options=EncoderOptions())
    before = children()
    rewrite(made.path, program, options=EncoderOptions(ffmpeg=PROGRAM))
    assert children() == before
    assert contents(program) == contents(builtin)
    numbers = [read_barcode(frame.to_rgb()) for frame in read_frames(program)]
    assert numbers == [read_barcode(frame.to_rgb()) for frame in read_frames(made.path)]
    given, kept = next(read_frames(builtin)).to_rgb(), next(read_frames(program)).to_rgb()
    assert np.abs(given.astype(int) - kept).mean() < 1


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("audio", [["libopus", "flac"], ["libmp3lame", "ac3"]])
def test_sound_and_tags_are_kept(audio: list[str], suffix: str, tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mkv", 30, audio=audio, languages=["eng", "deu"], metadata={"title": "A 'title'; $HOME\n=x"}
    )
    for name, options in (("builtin", EncoderOptions()), ("program", EncoderOptions(ffmpeg=PROGRAM))):
        rewrite(source, tmp_path / f"{name}{suffix}", options=options)
    assert contents(tmp_path / f"program{suffix}") == contents(tmp_path / f"builtin{suffix}")
    assert contents(tmp_path / f"program{suffix}")["metadata"]["title"] == "A 'title'; $HOME\n=x"


def test_part_of_a_video(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 50, audio=["aac"])
    part = {"start": Fraction("0.41"), "end": Fraction("1.3")}  # between two frames; the sound begins before
    rewrite(source, tmp_path / "builtin.mp4", options=EncoderOptions(), **part)
    rewrite(source, tmp_path / "program.mp4", options=EncoderOptions(ffmpeg=PROGRAM), **part)
    assert contents(tmp_path / "program.mp4") == contents(tmp_path / "builtin.mp4")


def test_pixel_formats_that_only_an_argument_names(tmp_path: Path) -> None:
    options = EncoderOptions(encoder="mjpeg", ffmpeg=PROGRAM, ffmpeg_args="-pix_fmt yuvj420p")
    rewrite(make_video(tmp_path / "in.mp4", 8), tmp_path / "out.mp4", options=options)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == "mjpeg"
    assert [read_barcode(frame.to_rgb()) for frame in read_frames(tmp_path / "out.mp4")] == list(range(8))


def test_further_arguments(tmp_path: Path) -> None:
    """They are split as a shell would, but no shell reads them."""
    source = make_video(tmp_path / "in.mp4", 4)
    arguments = f"-metadata 'comment=$(touch {tmp_path}/x); `id`' -vf 'negate, hflip'"
    rewrite(source, tmp_path / "out.mp4", options=EncoderOptions(ffmpeg=PROGRAM, ffmpeg_args=arguments))
    assert contents(tmp_path / "out.mp4")["metadata"]["comment"] == f"$(touch {tmp_path}/x); `id`"
    flipped = 255 - next(read_frames(tmp_path / "out.mp4")).to_rgb()[:, ::-1].astype(int)
    assert np.abs(flipped - next(read_frames(source)).to_rgb()).mean() < 12
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ffmpeg": "/no/such/ffmpeg"}, "there is no program '/no/such/ffmpeg'"),
        ({"ffmpeg": "true"}, "'true' is not an ffmpeg program"),
        ({"ffmpeg": sys.executable}, "is not an ffmpeg program"),
        ({"ffmpeg_args": "-vf 'hflip"}, "cannot be split into words: no closing quotation"),
    ],
)
def test_what_does_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        check_encoder(EncoderOptions(**{"ffmpeg": PROGRAM} | options))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_program_that_says_nothing_and_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg_program, "_ANSWER_SECONDS", 0.3)
    before = children()
    with pytest.raises(OptionError, match="not an ffmpeg program"):
        check_encoder(EncoderOptions(ffmpeg=str(script(tmp_path / "slow", "exec sleep 100"))))
    assert children() == before


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_auto_without_a_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    ffmpeg_program._auto_encoder.cache_clear()
    with caplog.at_level("INFO", "tinyhd"):
        encoder = ffmpeg_program.resolve_program_encoder(EncoderOptions(encoder="auto", ffmpeg=PROGRAM))
    assert encoder.name == "libx264"
    assert "h264_nvenc does not work here" in caplog.text
    ffmpeg_program._auto_encoder.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "h264_vaapi"}, "the encoder h264_vaapi cannot be opened for 192x128 frames"),
        ({"ffmpeg_args": "-profile:v nonsense"}, "the encoder libx264 cannot be opened"),
        ({"ffmpeg_args": "-no_such_option 1"}, r"Unrecognized option 'no_such_option'"),
    ],
)
def test_settings_that_do_not_work_fail_before_any_frame(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 2)
    before = children()
    given = EncoderOptions(**{"ffmpeg": PROGRAM} | options)
    with open_video(source) as video, pytest.raises(OptionError, match=message) as caught:
        VideoWriter(tmp_path / "out.mp4", video.info, options=given)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
    assert children() == before


# ---- what ends early


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", 100, audio=["aac"])


def write(clip: Path, at_frame_3: Callable[[int], None]) -> None:
    """Write a file's frames; after the third, something is done with the program's process."""
    before = children()
    with (
        open_video(clip) as video,
        VideoWriter(clip.with_name("out.mp4"), video.info, options=EncoderOptions(ffmpeg=PROGRAM)) as writer,
    ):
        (child,) = children() - before
        for frame in video:
            writer.write(frame.image, frame.time)
            if frame.index == 3:
                at_frame_3(int(child))


def test_a_killed_program_is_one_sentence(clip: Path) -> None:
    before = children()
    with pytest.raises(OutputError, match=r"out\.mp4' failed: the ffmpeg program was stopped by signal 9\.$"):
        write(clip, lambda child: os.kill(child, signal.SIGKILL))
    assert [path.name for path in clip.parent.iterdir()] == ["in.mp4"]
    assert children() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_after_an_error(clip: Path, error: type[BaseException]) -> None:
    def fail(child: int) -> None:
        raise error

    before = children()
    with pytest.raises(error):
        write(clip, fail)
    assert [path.name for path in clip.parent.iterdir()] == ["in.mp4"]
    assert children() == before


@pytest.mark.timeout(60)
def test_ctrl_c_while_the_program_does_not_read(clip: Path) -> None:
    """The pipe is full and the write waits; the interruption comes through."""

    def stop(child: int) -> None:
        os.kill(child, signal.SIGSTOP)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = children()
    with pytest.raises(KeyboardInterrupt):
        write(clip, stop)
    assert [path.name for path in clip.parent.iterdir()] == ["in.mp4"]
    assert children() == before


def test_a_failure_at_the_end_is_an_error(clip: Path) -> None:
    """A program that takes everything and then says that it did not work."""
    real = shlex.quote(shutil.which(PROGRAM) or "")
    failing = script(
        clip.parent / "program",
        f'case "$*" in *pipe:0*faststart*) cat >/dev/null; echo "[mp4 @ 0x1] No space left." >&2; exit 3;; esac\n'
        f'exec {real} "$@"',
    )
    with pytest.raises(OutputError, match=r"out\.mp4' failed: No space left\.$"):
        rewrite(clip, clip.with_name("out.mp4"), options=EncoderOptions(ffmpeg=str(failing)))
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4", "program"}


def test_a_program_that_ends_early_is_an_error(clip: Path) -> None:
    with pytest.raises(OutputError, match=r"the ffmpeg program ended early"):
        rewrite(clip, clip.with_name("out.mp4"), options=EncoderOptions(ffmpeg=PROGRAM, ffmpeg_args="-frames:v 3"))
    assert [path.name for path in clip.parent.iterdir()] == ["in.mp4"]
