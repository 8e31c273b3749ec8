"""Frames in, a video file out: an mp4 that keeps the source's times and sound.

Every frame lies exactly at the time it is given. FFmpeg's mp4 muxer would round where tracks start to 1 ms; its
`movie_timescale` is set so that it does not.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from tinyhd.errors import OptionError, OutputError
from tinyhd.files import AtomicOutput, StrPath, check_suffix
from tinyhd.options import EncoderOptions
from tinyhd.video.audio import KEPT_METADATA, AudioTracks
from tinyhd.video.containers import open_container
from tinyhd.video.encoders import HEVC_TAG, not_opened, resolve_encoder
from tinyhd.video.ffmpeg_log import collect_ffmpeg_errors, error_reason
from tinyhd.video.ffmpeg_program import FFmpegProgram, resolve_program_encoder
from tinyhd.video.frame import COLOR_TAGS, Seconds, VideoInfo

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov")

_MIN_TIMESCALE = 10_000  # ticks per second; FFmpeg's mp4 muxer multiplies smaller ones by two until there
_MAX_TIMESCALE = 10_000_000  # for starts; larger ones make long files' durations need 64 bits
_OWN_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder")  # written anew


def check_encoder(options: EncoderOptions) -> None:
    """Raises `OptionError` where an encoder, or program, is not there or has no such setting."""
    if options.ffmpeg is None:
        resolve_encoder(options)
    else:
        resolve_program_encoder(options)


class VideoWriter:
    """Writes a video, through the built-in FFmpeg or the program that `options.ffmpeg` names; use it in a `with`
    statement.

    The file appears under its name when the body ends normally. After an exception, Ctrl-C included, nothing is left.
    Encoder, target and sound are opened at once, so what cannot work fails before any work is done.

    Attributes:
        warnings: sentences about sound that could not be used.
    """

    def __init__(
        self,
        path: StrPath,
        info: VideoInfo,
        *,
        size: tuple[int, int] | None = None,
        options: EncoderOptions = EncoderOptions(),  # noqa: B008 - frozen
        settings: Mapping[str, str] | None = None,
        keep_source: bool = True,
        start: Seconds | None = None,
        end: Seconds | None = None,
        overwrite: bool = False,
    ) -> None:
        """
        Args:
            path: must end in .mp4, .m4v or .mov.
            info: of the source: ticks, rate, pixel aspect and color tags are taken over.
            size: (width, height) of the frames that will come, even numbers; None: the source's.
            options: how it is encoded.
            settings: of the built-in encoder itself, over those that follow from `options`.
            keep_source: take sound and metadata from the file `info.path`.
            start, end: the part of the source that is written, for the sound; seconds.
            overwrite: replace a file there.

        Raises:
            OptionError: the encoder cannot be used here, or the name ends otherwise.
            OutputError: the file cannot be written.
        """
        self.path, self._size = Path(path), size or (info.width, info.height)
        self.warnings: list[str] = []
        check_suffix(self.path, VIDEO_SUFFIXES, "a video")
        self._target = FFmpegProgram(options) if options.ffmpeg else _BuiltIn(options, settings or {})
        self._last_tick: int | None = None
        self._pending = AtomicOutput(self.path, overwrite=overwrite)
        self._cleanup = contextlib.ExitStack()
        try:
            with self._as_output_error():
                container = "mov" if self.path.suffix.lower() == ".mov" else "mp4"
                self._output = self._target.open(self._pending.temporary.absolute(), container)
                self._stream = self._add_stream(info)
                self._audio: AudioTracks | None = None
                if keep_source:
                    source = self._cleanup.enter_context(open_container(info.path))
                    self._copy_metadata(source, info)
                    first = Fraction(start or 0)
                    self._audio = AudioTracks(
                        source,
                        self._output,
                        info.start_time + first,
                        container=container,
                        cut_start=start is not None,
                        duration=None if end is None else Fraction(end) - first,
                    )
                    self.warnings = self._audio.warnings
                self._target.start(self._output, self._stream, self._movie_timescale())
        except BaseException:
            self._abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._abandon()
            raise
        if kind is None:
            self._pending.commit()
        else:
            self._abandon()

    def write(self, image: av.VideoFrame, time: Fraction) -> None:
        """Append a frame.

        Args:
            image: of the size given, in any pixel format.
            time: when it is shown, in seconds; later than the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        time_base = self._stream.codec_context.time_base
        assert time_base is not None
        tick = round(time / time_base)
        if self._last_tick is not None and tick <= self._last_tick:
            raise ValueError(f"times must increase: {float(time)} s is not later than the frame before")
        self._last_tick = tick
        with self._as_output_error():
            if image.format.name != self._stream.pix_fmt:
                image = image.reformat(format=self._stream.pix_fmt)
            image.pts, image.time_base = tick, time_base
            image.duration = round(1 / (self._rate * time_base))  # what the last frame gets
            image.pict_type = 0  # the source's, which would make encoders repeat its key frames
            for packet in self._stream.encode(image):
                self._output.mux(packet)
            if self._audio:
                self._audio.write_until(time)
            self._target.flush()

    # ---- opening

    def _add_stream(self, info: VideoInfo) -> VideoStream:
        # rates such as 90000 are the ticks of files that do not know better
        self._rate = info.frame_rate if info.frame_rate and info.frame_rate <= 1000 else Fraction(25)
        stream = self._target.add_stream(self._output, self._rate)
        context = stream.codec_context
        context.width, context.height = self._size
        context.time_base = stream.time_base = fine_time_base(info.time_base)
        context.sample_aspect_ratio = info.sample_aspect_ratio
        for tag in COLOR_TAGS:
            setattr(context, tag, getattr(info, tag))
        return stream

    def _copy_metadata(self, source: InputContainer, info: VideoInfo) -> None:
        kept = {key: value for key, value in source.metadata.items() if key not in _OWN_METADATA}
        self._output.metadata.update(kept)
        if info.stream_index >= len(source.streams):  # one that only the reading of a damaged file brings out
            return
        video = source.streams[info.stream_index].metadata
        self._stream.metadata.update({key: video[key] for key in KEPT_METADATA if video.get(key)})

    def _movie_timescale(self) -> int:
        """Ticks a second of the container's clock, fine enough for the starts of all tracks."""
        time_base = self._stream.codec_context.time_base
        assert time_base is not None
        scale = time_base.denominator
        common = math.lcm(scale, *(self._audio.rates if self._audio else ()))
        return common if common <= _MAX_TIMESCALE else scale

    # ---- closing

    def _finish(self) -> None:
        with self._as_output_error():
            for packet in self._stream.encode(None):
                self._output.mux(packet)
            if self._audio:
                self._audio.write_until(None)
            self._output.close()
            self._target.flush()
        failure = self._target.finish()
        if failure:
            raise OutputError(f"writing {os.fspath(self.path)!r} failed: {failure}.")
        self._cleanup.close()

    def _abandon(self) -> None:
        self._target.abort()
        # closing writes the trailer, which may fail for the reason that brought us here; the file goes anyway
        with contextlib.suppress(Exception):
            self._output.close()
        self._cleanup.close()
        self._pending.discard()

    @contextlib.contextmanager
    def _as_output_error(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, BrokenPipeError) as error:
            raise OutputError(f"writing {os.fspath(self.path)!r} failed: {self._target.reason(error)}.") from error


class _BuiltIn:
    """FFmpeg's libraries, as PyAV brings them; `FFmpegProgram` does the same by a program."""

    def __init__(self, options: EncoderOptions, settings: Mapping[str, str]) -> None:
        encoder = resolve_encoder(options)
        self._encoder = replace(encoder, options=encoder.options | dict(settings))

    def open(self, path: Path, container: str) -> OutputContainer:
        """Open it for muxing; nothing is written yet."""
        self._container = container
        options = {"movflags": "+faststart"}
        return av.open(f"file:{path}", "w", format=container, container_options=options, metadata_errors="replace")

    def add_stream(self, output: OutputContainer, rate: Fraction) -> VideoStream:
        """Add the video stream, its pixel format set."""
        name = self._encoder.name
        try:
            stream = output.add_stream(name, rate=rate, options=self._encoder.options)
        except ValueError as error:
            raise OptionError(
                f".{self._container} files cannot hold what {name} makes: use another encoder."
            ) from error
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        formats = [f.name for f in context.codec.video_formats or []]
        context.pix_fmt = "yuv420p" if not formats or "yuv420p" in formats else formats[0]
        context.thread_type = "AUTO"  # PyAV's default, slice threads, is slower and compresses worse
        if self._encoder.is_hevc:
            context.codec_tag = HEVC_TAG
        return stream

    def start(self, output: OutputContainer, stream: VideoStream, movie_timescale: int) -> None:
        """Open the encoder and write the header. Raises `OptionError` where the encoder cannot be opened."""
        output.container_options["movie_timescale"] = str(movie_timescale)
        if self._encoder.name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr past FFmpeg's logging
        with collect_ffmpeg_errors() as messages:
            try:
                stream.codec_context.open()
            except (av.error.FFmpegError, ValueError, OSError) as error:
                size = stream.codec_context.width, stream.codec_context.height
                raise OptionError(not_opened(self._encoder.name, size, error_reason(error, messages))) from error
        output.start_encoding()

    def flush(self) -> None:
        """Hand on what was muxed. Raises `BrokenPipeError` where nobody takes it."""

    def finish(self) -> str | None:
        """Wait until the file is complete, once all is muxed; a string says why it does not become so."""
        return None

    def abort(self) -> None:
        """Stop at once; what was written is worthless."""

    def reason(self, error: Exception) -> str:
        """Why muxing failed, without a full stop."""
        return getattr(error, "strerror", None) or str(error)


def fine_time_base(time_base: Fraction) -> Fraction:
    """Ticks of which every tick of `time_base` is a whole number, at least 10,000 a second; as the mp4 muxer does."""
    denominator = time_base.denominator
    while denominator < _MIN_TIMESCALE:
        denominator *= 2
    return Fraction(1, denominator)


open_writer = VideoWriter
