"""The sound of a video on its way into the annotated one: copied packet by packet where mp4 can hold it, else AAC."""

import errno
import io
import itertools
import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from tinyhd.video.demux import packets_of

log = logging.getLogger(__name__)

COPIED_CODECS = {"mp4": ("aac", "mp3", "opus", "flac"), "mov": ("aac", "mp3")}
"""Codecs whose packets are copied, by container; browsers and players take them."""

KEPT_METADATA = ("language", "title", "handler_name")
"""What is taken over of each stream's metadata."""

_ERROR_DETECTION = {"aac": "bitstream", "flac": "crccheck+explode"}
"""FFmpeg's `err_detect` with which a decoder refuses what it would otherwise only complain about."""

# what is no fault of the sound
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EROFS, errno.ENOMEM)
_LONGEST_GAP_SECONDS = 60
_MIN_MP3_RATE = 16_000  # Hz; mp4 has no way to hold less
_AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")
_AAC_BITS_PER_SECOND = 96_000  # for each channel


class AudioTracks:
    """All audio tracks of a file, written along with the frames so that nothing piles up in the muxer.

    Damage does not stop the writing: what cannot be decoded is left out, of copied tracks too, and `warnings` says so.
    Create it after the output's video stream and before its header is written.

    Attributes:
        warnings: sentences about what could not be used.
    """

    def __init__(
        self,
        source: InputContainer,
        output: OutputContainer,
        origin: Fraction,
        *,
        container: str = "mp4",
        cut_start: bool = False,
        duration: Fraction | None = None,
    ) -> None:
        """
        Args:
            source: opened for this alone; it stays the caller's to close.
            output: gets one stream for each track.
            origin: the moment on the source's clock, in seconds, that is 0 in the output.
            container: of the file in the end, mp4 or mov.
            cut_start: leave out what ends before `origin`.
            duration: seconds after `origin` where the tracks are cut off; None for their ends.
        """
        self.warnings: list[str] = []
        self._output, self._origin = output, origin
        self._cut_start, self._duration = cut_start, duration
        self._latest = (
            origin + Fraction(source.duration, av.time_base) + _LONGEST_GAP_SECONDS if source.duration else None
        )
        self._tracks: dict[int, _Track] = {}
        for number, stream in enumerate(source.streams.audio, start=1):
            try:
                self._tracks[stream.index] = self._new_track(stream, container, number)
            except (av.error.FFmpegError, ValueError) as error:
                log.info("Audio track %d: %s.", number, error)
                self.warnings.append(f"Audio track {number} is in a format that cannot be read and was left out.")
        used = [source.streams[index] for index in self._tracks]
        self._demuxed = packets_of(source, used) if used else iter(())

    @property
    def rates(self) -> list[int]:
        """Sampling rates of the tracks as written, Hz."""
        return [stream.rate for stream in self._output.streams.audio]

    def write_until(self, time: Fraction | None) -> None:
        """Mux what comes up to `time`, in seconds of the output; None for all the rest."""
        while True:
            try:
                packet = next(self._demuxed, None)
            except av.error.FFmpegError as error:
                self._warn(f"The audio is damaged and ends early ({error.strerror}).")
                packet = None
            if packet is None:
                self._demuxed = iter(())
                return
            at = self._time(packet)
            if at is None or self._is_inside(at, packet):
                self._write(packet)
            if at is not None and time is not None and at > time:
                return

    def _new_track(self, stream: AudioStream, container: str, number: int) -> "_Track":
        # the type stubs do not know that a stream in a codec that FFmpeg lacks has no context
        context: Any = stream.codec_context
        if context is None:
            raise ValueError("FFmpeg has no decoder for it")
        name = context.codec.canonical_name
        if name in COPIED_CODECS[container] and _can_be_muxed(stream, container):
            return _CopiedTrack(stream, self._output, self._origin)
        log.info("Audio track %d is %s, which %s players do not take; it is encoded to AAC.", number, name, container)
        return _EncodedTrack(stream, self._output, self._origin)

    def _write(self, packet: Packet) -> None:
        track = self._tracks[packet.stream.index]
        try:
            for ready in track.packets(packet):
                self._output.mux(ready)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
                raise
            self._warn("Some of the audio is damaged and was left out.")

    def _time(self, packet: Packet) -> Fraction | None:
        """When a packet is heard. One that lies far behind the one before and the end of the file loses its stamps."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return None
        time = stamp * packet.time_base
        if self._latest is not None:
            if time > self._latest:
                packet.pts = packet.dts = None
                return None
            self._latest = max(self._latest, time + _LONGEST_GAP_SECONDS)
        return time - self._origin

    def _is_inside(self, at: Fraction, packet: Packet) -> bool:
        if self._duration is not None and at >= self._duration:
            return False
        return not self._cut_start or at + (packet.duration or 0) * packet.time_base > 0

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _can_be_muxed(stream: AudioStream, container: str) -> bool:
    """Whether the header of a file can describe a stream, which damage may prevent; tried in memory."""
    if stream.codec_context.codec.canonical_name == "mp3" and stream.rate < _MIN_MP3_RATE:
        return False
    try:
        # an index in front: one at the end would leave out tracks without packets, and not be tried
        with av.open(io.BytesIO(), "w", format=container, options={"movflags": "empty_moov"}) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _describe(track: AudioStream, source: AudioStream) -> None:
    track.metadata.update({key: source.metadata[key] for key in KEPT_METADATA if source.metadata.get(key)})
    track.disposition = source.disposition


class _CopiedTrack:
    """Packets as they are, if they decode."""

    def __init__(self, source: AudioStream, output: OutputContainer, origin: Fraction) -> None:
        # opaque: the packets go through as they are, so no encoder is needed
        self._stream = output.add_stream_from_template(source, opaque=True)
        _describe(self._stream, source)
        self._source = source
        strictness = _ERROR_DETECTION.get(source.codec_context.codec.canonical_name)
        if strictness:
            source.codec_context.options = {"err_detect": strictness}
        self._shift = round(origin / source.time_base) if source.time_base else 0
        self._last, self._end = -(2**62), 0
        self._form: tuple[int, str] | None = None

    def packets(self, packet: Packet) -> Iterator[Packet]:
        """What to mux for a packet of the source; an empty packet ends the track.

        Raises:
            av.error.FFmpegError, ValueError: the packet is damaged.
        """
        if packet.size == 0:
            return
        if packet.is_corrupt:
            raise ValueError("the demuxer says that it is damaged")
        frames = self._source.decode(packet)
        if len(frames) > 1:
            raise ValueError("it is several packets without the headers between them")
        for frame in frames:
            form = (frame.sample_rate, frame.layout.name)
            self._form = self._form or form
            if form != self._form:
                raise ValueError(f"it is {form}, the rest {self._form}")
        stamp = packet.dts if packet.dts is not None else packet.pts
        # the muxer takes increasing timestamps only; those of damaged files may not be
        tick = max(self._last + 1, stamp - self._shift) if stamp is not None else self._end
        if packet.duration and not 0 < packet.duration * packet.time_base < _LONGEST_GAP_SECONDS:
            packet.duration = 0  # the muxer refuses those that do not fit into 32 bits
        self._last, self._end = tick, tick + max(1, packet.duration or 0)
        packet.pts = packet.dts = tick
        packet.stream = self._stream
        yield packet


class _EncodedTrack:
    """Decoded, and encoded to AAC."""

    def __init__(self, source: AudioStream, output: OutputContainer, origin: Fraction) -> None:
        self._source, self._origin = source, origin
        supported = av.codec.Codec("aac", "w").audio_rates or []
        rate = source.rate if source.rate in supported else 48_000
        self._stream = output.add_stream("aac", rate=rate)
        layout = source.layout.name if source.layout.name in _AAC_LAYOUTS else "stereo"
        self._stream.layout = layout
        self._stream.bit_rate = _AAC_BITS_PER_SECOND * self._stream.channels
        _describe(self._stream, source)
        self._resampler = self._new_resampler()
        self._end: Fraction | None = None

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler(self._stream.format.name, self._stream.layout.name, self._stream.rate)

    def packets(self, packet: Packet) -> Iterator[Packet]:
        """What to mux for a packet of the source; an empty packet ends the track.

        Raises:
            av.error.FFmpegError: the packet is damaged.
        """
        try:
            frames = self._source.decode(packet)
        except av.error.EOFError:
            frames = []
        for frame in frames:
            yield from self._encoded(frame)
        if packet.size == 0:
            yield from self._flushed()
            yield from self._stream.encode(None)

    def _encoded(self, frame: AudioFrame) -> Iterator[Packet]:
        self._place(frame)
        try:
            resampled = self._resampler.resample(frame)
        except ValueError:  # the source's own format changes here
            yield from self._flushed()
            self._resampler = self._new_resampler()
            resampled = self._resampler.resample(frame)
        yield from itertools.chain.from_iterable(self._stream.encode(part) for part in resampled)

    def _place(self, frame: AudioFrame) -> None:
        """Give a frame a timestamp in samples: ticks of a packet's length, as in AVI, are too coarse for AAC's frames.
        One frame does not begin before the last has ended."""
        stamp = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base - self._origin
        start = max((time for time in (stamp, self._end) if time is not None), default=Fraction(0))
        tick = round(start * frame.sample_rate)
        frame.pts, frame.time_base = tick, Fraction(1, frame.sample_rate)
        self._end = Fraction(tick + frame.samples, frame.sample_rate)

    def _flushed(self) -> Iterator[Packet]:
        for part in self._resampler.resample(None):
            yield from self._stream.encode(part)


_Track = _CopiedTrack | _EncodedTrack
