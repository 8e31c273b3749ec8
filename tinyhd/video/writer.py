"""Pictures in, files out: an H.264 mp4 that keeps the source's times and sound, or a PNG.

Every frame lies exactly at the time it is given. FFmpeg's mp4 muxer would round where tracks start to 1 ms; its
`movie_timescale` is set so that it does not.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from tinyhd.errors import OptionError, OutputError
from tinyhd.files import AtomicOutput, check_suffix
from tinyhd.options import EncoderOptions
from tinyhd.video.audio import AudioTracks
from tinyhd.video.containers import open_container
from tinyhd.video.encoders import EncoderSettings, _ffmpeg_errors, _reason
from tinyhd.video.frame import VideoInfo

log = logging.getLogger("tinyhd.encode")

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov")


_MIN_TIMESCALE = 10_000  # ticks per second; FFmpeg's mp4 muxer multiplies smaller ones by two until there
_MAX_TIMESCALE = 10_000_000  # for starts; larger ones make long files' durations need 64 bits
_OWN_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder")  # written anew


class VideoWriter:
    """Writes an annotated video; use it in a `with` statement.

    The file appears under its name when the body ends normally. After an exception, Ctrl-C included, nothing is left.
    Encoder, target and sound are opened at once, so what cannot work fails before any work is done.

    Attributes:
        warnings: sentences about sound that could not be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: VideoInfo,
        *,
        size: tuple[int, int] | None = None,
        settings: EncoderSettings | None = None,
        keep_source: bool = True,
        start: Fraction | None = None,
        end: Fraction | None = None,
        overwrite: bool = False,
    ) -> None:
        """
        Args:
            path: must end in .mp4, .m4v or .mov.
            info: of the source: ticks, rate, pixel aspect and colour tags are taken over.
            size: (width, height) of the pictures that will come, even numbers; None: the source's.
            keep_source: take sound and metadata from the file `info.path`.
            start, end: the part of the source that is written, for the sound; seconds.

        Raises:
            OptionError: the encoder cannot be used here.
            OutputError: the file cannot be written.
        """
        self.path = Path(path)
        self._settings = settings or EncoderSettings()
        self._size = size or (info.width, info.height)
        self.warnings: list[str] = []
        check_suffix(self.path, VIDEO_SUFFIXES, "a video")
        self._pending = AtomicOutput(self.path, overwrite=overwrite)
        self._cleanup = contextlib.ExitStack()
        try:
            with self._as_output_error():
                self._output = self._open()
                self._stream = self._add_stream(info)
                self._audio: AudioTracks | None = None
                if keep_source:
                    source = self._cleanup.enter_context(open_container(info.path))
                    self._copy_metadata(source, info)
                    self._audio = AudioTracks(
                        source,
                        self._output,
                        info.start_time + (start or 0),
                        cut_start=start is not None,
                        duration=None if end is None else end - (start or 0),
                    )
                    self.warnings = self._audio.warnings
                self._set_movie_timescale()
                self._open_encoder()
        except BaseException:
            self._abandon()
            raise
        self._last_tick: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
        """Append a picture.

        Args:
            image: of the size given, in any format that the encoder can be given after conversion.
            time: when it is shown, in seconds; later than the one before.
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

    # ---- opening

    def _open(self) -> OutputContainer:
        return av.open(
            f"file:{self._pending.temporary.absolute()}",
            "w",
            format="mov" if self.path.suffix.lower() == ".mov" else "mp4",
            container_options={"movflags": "+faststart"},
            metadata_errors="replace",
        )

    def _add_stream(self, info: VideoInfo) -> VideoStream:
        name = self._settings.name
        # rates such as 90000 are the ticks of files that do not know better
        self._rate = info.frame_rate if info.frame_rate and info.frame_rate <= 1000 else Fraction(25)
        try:
            stream = self._output.add_stream(name, rate=self._rate, options=self._settings.options())
        except ValueError as error:
            raise OptionError(
                f"{self.path.suffix} files cannot hold what {name} makes: use another encoder."
            ) from error
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self._size
        formats = [f.name for f in context.codec.video_formats or []]
        context.pix_fmt = "yuv420p" if not formats or "yuv420p" in formats else formats[0]
        context.time_base = stream.time_base = fine_time_base(info.time_base)
        context.sample_aspect_ratio = info.sample_aspect_ratio
        context.thread_type = "AUTO"  # PyAV's default, slice threads, is slower and compresses worse
        for tag in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(context, tag, getattr(info, tag))
        if name in ("libx265", "hevc_nvenc", "hevc_videotoolbox"):
            context.codec_tag = "hvc1"  # the one that Apple's players know
        return stream

    def _copy_metadata(self, source: InputContainer, info: VideoInfo) -> None:
        kept = {key: value for key, value in source.metadata.items() if key not in _OWN_METADATA}
        self._output.metadata.update(kept)
        video = source.streams[info.stream_index].metadata
        self._stream.metadata.update(
            {key: video[key] for key in ("language", "title", "handler_name") if video.get(key)}
        )

    def _set_movie_timescale(self) -> None:
        """Make the container's clock fine enough for the starts of all tracks."""
        time_base = self._stream.codec_context.time_base
        assert time_base is not None
        scale = time_base.denominator
        common = math.lcm(scale, *(self._audio.rates if self._audio else ()))
        self._output.container_options["movie_timescale"] = str(common if common <= _MAX_TIMESCALE else scale)

    def _open_encoder(self) -> None:
        if self._settings.name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr past FFmpeg's logging
        with _ffmpeg_errors() as messages:
            try:
                self._stream.codec_context.open()
            except (av.error.FFmpegError, ValueError, OSError) as error:
                raise OptionError(self._why_not_opened(error, messages)) from error
        self._output.start_encoding()

    def _why_not_opened(self, error: Exception, messages: list[tuple[int, str, str]]) -> str:
        reason = _reason(error, messages)
        name = self._settings.name
        if "nvenc" in name:
            return (
                f"the encoder {name} needs an NVIDIA GPU with an NVENC unit, which data-centre GPUs such as H100 lack, "
                f"and its driver ({reason}): use --encoder auto or --encoder libx264 instead."
            )
        width, height = self._size
        return f"the encoder {name} cannot be opened for {width}x{height} pictures with these settings: {reason}."

    # ---- closing

    def _finish(self) -> None:
        with self._as_output_error():
            for packet in self._stream.encode(None):
                self._output.mux(packet)
            if self._audio:
                self._audio.write_until(None)
            self._output.close()
        self._cleanup.close()

    def _abandon(self) -> None:
        # closing writes the trailer, which may fail for the reason that brought us here; the file goes anyway
        with contextlib.suppress(Exception):
            self._output.close()
        self._cleanup.close()
        self._pending.discard()

    @contextlib.contextmanager
    def _as_output_error(self) -> Iterator[None]:
        try:
            yield
        except av.error.FFmpegError as error:
            raise OutputError(f"writing {os.fspath(self.path)!r} failed: {error.strerror or error}.") from error


def fine_time_base(time_base: Fraction) -> Fraction:
    """Ticks of which every tick of `time_base` is a whole number, at least 10,000 a second; as the mp4 muxer does."""
    denominator = time_base.denominator
    while denominator < _MIN_TIMESCALE:
        denominator *= 2
    return Fraction(1, denominator)


def check_encoder(options: EncoderOptions) -> None:
    """Refuse what no video can be encoded with. Raises `OptionError`."""
    EncoderSettings(options.codec, options.encoder, options.crf, options.preset)


def open_writer(path: str | os.PathLike[str], info: VideoInfo, *, options: EncoderOptions, **rest: Any) -> VideoWriter:
    return VideoWriter(
        path,
        info,
        settings=EncoderSettings(options.codec, options.encoder, options.crf, options.preset),
        **rest,
    )
