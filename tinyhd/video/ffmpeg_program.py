"""Encoding through the user's own ffmpeg program, for encoders that PyAV's wheels lack.

Frames, and the sound as the built-in way makes it, go through a pipe in NUT, which keeps their exact times; the program
encodes the frames and copies the sound. No shell is involved.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import av
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions
from tinyhd.video.audio import KEPT_METADATA
from tinyhd.video.encoders import HEVC_TAG, SOFTWARE, Encoder, encoder_settings, not_opened, nvenc_or_software
from tinyhd.video.frame import COLOR_TAGS

_PIX_FMT = "yuv420p"
_SHIFT_SECONDS = 100  # NUT has no times below 0, which sound before the first frame has; the program shifts them back
# NUT has no durations either; without one, the last packet would lie behind the end of its track
_DURATIONS = r"setts=duration=if(DURATION\,DURATION\,if(N\,PTS-PREV_INPTS\,0))"
_ANSWER_SECONDS = 20
_ANSWER_BYTES = 1_000_000
_LONGEST_VALUE = 10_000  # of stream metadata, which are arguments of the program
# what ffmpeg says after the reason for a failure
_NO_REASON = re.compile(
    r"Conversion failed|Error while opening encoder|maybe incorrect parameters|splitting the argument list"
    r"|Error initializing output stream|Could not write header"
)


def resolve_program_encoder(options: EncoderOptions) -> Encoder:
    """The encoder of the program `options.ffmpeg` to use; auto is decided by whether NVENC opens on this machine.

    Raises:
        OptionError: there is no such program or encoder, or it has no such setting.
    """
    program = _find(options.ffmpeg or "")
    _arguments(options)
    name = _auto_encoder(program, options.codec) if options.encoder == "auto" else options.encoder
    name = name or SOFTWARE[options.codec]
    about = _about_encoder(program, name)
    if about is None:
        raise OptionError(f"{program!r} has no video encoder {name!r}; `ffmpeg -encoders` lists what it has.")
    return Encoder(name, encoder_settings(name, options, _own_options(about)))


class FFmpegProgram:
    """A running ffmpeg program that takes frames and sound and writes a file, with the methods of `writer._BuiltIn`."""

    def __init__(self, options: EncoderOptions) -> None:
        self._encoder = resolve_program_encoder(options)
        self._program, self._extra = _find(options.ffmpeg or ""), _arguments(options)
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._muxed: list[bytes] = []

    def open(self, path: Path, container: str) -> OutputContainer:
        self._path, self._container = path, container
        # a file, because a pipe that nobody reads may fill up
        self._errors = self._cleanup.enter_context(tempfile.TemporaryFile(dir=path.parent))  # noqa: SIM115
        # PyAV drops a KeyboardInterrupt that is raised in what it calls, so that is no Python code, and does not wait
        return _open_nut(SimpleNamespace(write=self._muxed.append))

    def add_stream(self, output: OutputContainer, rate: Fraction) -> VideoStream:
        return _add_raw_stream(output, rate)

    def start(self, output: OutputContainer, stream: VideoStream, movie_timescale: int) -> None:
        self._check_encoder_opens(stream)
        time_base = stream.codec_context.time_base
        assert time_base is not None
        arguments: dict[str, object] = {
            "movflags": "+faststart",
            "movie_timescale": movie_timescale,
            "video_track_timescale": time_base.denominator,
            "c:a": "copy",
            "bsf:a": _DURATIONS,
            "strict": "experimental",  # FLAC in mp4, for older versions
            "copypriorss": 1,  # sound before the first frame too
        }
        if self._encoder.is_hevc:
            arguments["tag:v"] = HEVC_TAG
        command = self._command(f"file:{self._path}", self._container, stream, arguments, _stream_facts(output))
        self._process = self._cleanup.enter_context(_running(command, self._errors))
        output.start_encoding()

    def flush(self) -> None:
        assert self._process
        assert self._process.stdin
        for data in self._muxed:
            self._process.stdin.write(data)
        self._muxed.clear()

    def finish(self) -> str | None:
        assert self._process
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # its exit status and what it says tell more
            self._process.stdin.close()
        failure = None if self._process.wait() == 0 else self._said()
        self._cleanup.close()
        return failure

    def abort(self) -> None:
        self._cleanup.close()

    def reason(self, error: Exception) -> str:
        if isinstance(error, BrokenPipeError):
            return self._said()
        return getattr(error, "strerror", None) or str(error)

    def _command(
        self, target: str, container: str, stream: VideoStream, arguments: dict[str, object], extra: list[str]
    ) -> list[str]:
        import ffmpeg  # not needed by others

        context = stream.codec_context
        tags = {tag: int(getattr(context, tag)) for tag in COLOR_TAGS}
        frames = ffmpeg.input("pipe:0", format="nut", copyts=None, itsoffset=-_SHIFT_SECONDS, **tags)
        about = _about_encoder(self._program, self._encoder.name) or ""
        formats = re.search(r"Supported pixel formats: (.*)", about)
        if formats is None or _PIX_FMT in formats[1].split():
            arguments["pix_fmt"] = _PIX_FMT
        if context.sample_aspect_ratio:  # which PyAV cannot write into NUT
            arguments["aspect"] = context.sample_aspect_ratio * Fraction(context.width, context.height)
        own = {f"{name}:v": value for name, value in self._encoder.options.items()}
        output = ffmpeg.output(
            frames,
            target,
            format=container,
            map="0",
            fps_mode="passthrough",
            enc_time_base=str(context.time_base),
            **{"c:v": self._encoder.name},
            **tags,
            **own,
            **arguments,
        )
        *built, last = ffmpeg.get_args(output)
        return [self._program, "-hide_banner", "-nostdin", "-v", "error", "-y", *built, *extra, *self._extra, last]

    def _check_encoder_opens(self, stream: VideoStream) -> None:
        """Encode a black frame to nowhere, so that what cannot work fails before any work is done."""
        data = io.BytesIO()
        with _open_nut(data) as output:
            context = stream.codec_context
            trial = _add_raw_stream(output, Fraction(25))
            trial.width, trial.height = context.width, context.height
            frame = av.VideoFrame(context.width, context.height, _PIX_FMT)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            frame.pts = 0
            for packet in [*trial.encode(frame), *trial.encode(None)]:
                output.mux(packet)
        with tempfile.TemporaryFile(dir=self._path.parent) as errors:
            with _running(self._command("-", "null", stream, {}, []), errors) as process:
                with contextlib.suppress(BrokenPipeError):
                    process.communicate(data.getvalue())
                status = process.wait()
            if status:
                size = context.width, context.height
                raise OptionError(not_opened(self._encoder.name, size, _last_error(errors, status)))

    def _said(self) -> str:
        assert self._process
        return _last_error(self._errors, self._process.wait())


def _open_nut(file: object) -> OutputContainer:
    return av.open(
        file,
        "w",
        format="nut",
        container_options={"output_ts_offset": str(_SHIFT_SECONDS), "avoid_negative_ts": "disabled"},
        metadata_errors="replace",
        buffer_size=2**20,
    )


def _add_raw_stream(output: OutputContainer, rate: Fraction) -> VideoStream:
    stream = output.add_stream("rawvideo", rate=rate)
    stream.pix_fmt = _PIX_FMT
    return stream


def _stream_facts(output: OutputContainer) -> list[str]:
    """What NUT does not hold of each stream: language, title, whether it is played by default."""
    facts = []
    for stream in output.streams:
        for key in KEPT_METADATA:
            if value := stream.metadata.get(key):
                facts += [f"-metadata:s:{stream.index}", f"{key}={value[:_LONGEST_VALUE]}"]
        names = "+".join(str(flag.name) for flag in Disposition if flag and flag in stream.disposition)
        facts += [f"-disposition:{stream.index}", names or "0"]
    return facts


# ---- the program itself


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise OptionError(f"there is no program {program!r}: give the path of an ffmpeg program with --ffmpeg.")
    if not _answer(found, "-version").startswith("ffmpeg version"):
        raise OptionError(f"{program!r} is not an ffmpeg program: give the path of one with --ffmpeg.")
    return found


def _arguments(options: EncoderOptions) -> list[str]:
    try:
        return shlex.split(options.ffmpeg_args or "")
    except ValueError as error:
        raise OptionError(f"--ffmpeg-args cannot be split into words: {str(error).lower()}.") from error


@lru_cache  # asked for every file; the log says it once
def _auto_encoder(program: str, codec: str) -> str:
    def why_it_does_not_open(encoder: str) -> str | None:
        command = [program, "-v", "error", "-f", "lavfi", "-i", "color=size=256x256", "-frames:v", "1"]
        with tempfile.TemporaryFile() as errors:
            with _running([*command, "-pix_fmt", "yuv420p", "-c:v", encoder, "-f", "null", "-"], errors) as process:
                status = process.wait()
            return _last_error(errors, status) if status else None

    return nvenc_or_software(codec, why_it_does_not_open)


def _about_encoder(program: str, name: str) -> str | None:
    """What the program says about one of its video encoders; None: it has none of that name."""
    answer = _answer(program, "-hide_banner", "-h", f"encoder={name}")
    return answer if answer.startswith(f"Encoder {name} ") and "Supported pixel formats" in answer else None


def _own_options(about: str) -> dict[str, list[str]]:
    """An encoder's own options and the values that each lists, from the program's help."""
    options: dict[str, list[str]] = {}
    values: list[str] = []
    for line in about.splitlines():
        if option := re.match(r"  -(\S+) +<", line):
            values = options.setdefault(option[1], [])
        elif value := re.match(r"     (\S+) +-?\d+ +E\.", line):
            values.append(value[1])
    return options


@lru_cache
def _answer(program: str, *arguments: str) -> str:
    """What a program prints, which may be any program: only so much, and only for so long."""
    try:
        process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise OptionError(f"{program!r} cannot be run: {error.strerror or error}.") from error
    timer = threading.Timer(_ANSWER_SECONDS, process.kill)
    timer.start()
    try:
        assert process.stdout
        return process.stdout.read(_ANSWER_BYTES).decode(errors="replace")
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _running(command: list[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that does not outlive the body."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={"SVT_LOG": "1", **os.environ},  # libsvtav1 prints more than errors otherwise
            start_new_session=True,  # Ctrl-C is for this process, which then stops that one
        )
    except OSError as error:
        raise OptionError(f"{command[0]!r} cannot be run: {error.strerror or error}.") from error
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # what is still buffered has nowhere to go
            assert process.stdin
            process.stdin.close()


def _last_error(errors: IO[bytes], status: int) -> str:
    """Why the program failed, by what it printed, without a full stop."""
    errors.seek(0)
    lines = [
        re.sub(r"^(\[[^]]*\] *)+", "", line).strip() for line in errors.read().decode(errors="replace").splitlines()
    ]
    lines = [line for line in lines if line]
    telling = [line for line in lines if not _NO_REASON.search(line)] or lines
    if telling:
        return telling[-1].rstrip(".")
    if status == 0:
        return "the ffmpeg program ended early"
    return f"the ffmpeg program was stopped by signal {-status}" if status < 0 else f"its exit status is {status}"
