"""The sound of a video on its way into the annotated one: copied packet by packet where mp4 can hold it, else AAC."""

import itertools
import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Protocol

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

log = logging.getLogger(__name__)

COPIED_CODECS = {"mp4": ("aac", "mp3", "opus", "flac"), "mov": ("aac", "mp3")}
"""Codecs whose packets are copied, by container; browsers and players take them."""

KEPT_METADATA = ("language", "title", "handler_name")
"""What is taken over of each stream's metadata."""

_MIN_MP3_RATE = 16_000  # Hz; mp4 has no way to hold less
_AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")
_AAC_BITS_PER_SECOND = 96_000  # for each channel


class _Track(Protocol):
    def packets(self, packet: Packet) -> Iterator[Packet]:
        """What to mux for a packet of the source; an empty packet ends the track."""


class AudioTracks:
    """All audio tracks of a file, written along with the pictures so that nothing piles up in the muxer.

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
        self._tracks: dict[int, _Track] = {}
        for number, stream in enumerate(source.streams.audio, start=1):
            # the type stubs do not know that a stream in a codec that FFmpeg lacks has no context
            context: Any = stream.codec_context
            if context is None:
                self.warnings.append(f"Audio track {number} is in a format that cannot be read and was left out.")
            elif _can_copy(stream, container):
                self._tracks[stream.index] = _CopiedTrack(stream, output, origin)
            else:
                name = context.codec.canonical_name
                log.info(
                    "Audio track %d is %s, which %s players do not take; it is encoded to AAC.", number, name, container
                )
                self._tracks[stream.index] = _EncodedTrack(stream, output, origin, self.warnings)
        used = [source.streams[index] for index in self._tracks]
        self._demuxed = source.demux(used) if used else iter(())

    @property
    def rates(self) -> list[int]:
        """Sampling rates of the tracks as written, Hz."""
        return [stream.rate for stream in self._output.streams.audio]

    def write_until(self, time: Fraction | None) -> None:
        """Mux what comes up to `time`, in seconds of the output; None for all the rest."""
        try:
            for packet in self._demuxed:
                at = self._time(packet)
                if at is None or self._is_inside(at, packet):
                    for ready in self._tracks[packet.stream.index].packets(packet):
                        self._output.mux(ready)
                if at is not None and time is not None and at > time:
                    return
        except (av.error.InvalidDataError, av.error.EOFError) as error:
            self.warnings.append(f"The sound is damaged and ends early ({error.strerror}).")
            self._demuxed = iter(())

    def _time(self, packet: Packet) -> Fraction | None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        return None if stamp is None else stamp * packet.time_base - self._origin

    def _is_inside(self, at: Fraction, packet: Packet) -> bool:
        if self._duration is not None and at >= self._duration:
            return False
        return not self._cut_start or at + (packet.duration or 0) * packet.time_base > 0


def _can_copy(stream: AudioStream, container: str) -> bool:
    name = stream.codec_context.codec.canonical_name
    return name in COPIED_CODECS[container] and not (name == "mp3" and stream.rate < _MIN_MP3_RATE)


def _describe(track: AudioStream, source: AudioStream) -> None:
    track.metadata.update({key: source.metadata[key] for key in KEPT_METADATA if source.metadata.get(key)})
    track.disposition = source.disposition


class _CopiedTrack:
    def __init__(self, source: AudioStream, output: OutputContainer, origin: Fraction) -> None:
        # opaque: the packets go through as they are, so no encoder is needed
        self._stream = output.add_stream_from_template(source, opaque=True)
        _describe(self._stream, source)
        self._shift = round(origin / source.time_base) if source.time_base else 0
        self._next = -(2**62)

    def packets(self, packet: Packet) -> Iterator[Packet]:
        if packet.size == 0:
            return
        stamp = packet.dts if packet.dts is not None else packet.pts
        # the muxer takes increasing time stamps only; those of damaged files may not be
        tick = max(self._next, stamp - self._shift) if stamp is not None else max(self._next, 0)
        self._next = tick + 1
        packet.pts = packet.dts = tick
        packet.stream = self._stream
        yield packet


class _EncodedTrack:
    def __init__(self, source: AudioStream, output: OutputContainer, origin: Fraction, warnings: list[str]) -> None:
        self._source, self._origin, self._warnings = source, origin, warnings
        supported = av.codec.Codec("aac", "w").audio_rates or []
        rate = source.rate if source.rate in supported else 48_000
        self._stream = output.add_stream("aac", rate=rate)
        layout = source.layout.name if source.layout.name in _AAC_LAYOUTS else "stereo"
        self._stream.layout = layout
        self._stream.bit_rate = _AAC_BITS_PER_SECOND * self._stream.channels
        _describe(self._stream, source)
        self._resampler = self._new_resampler()
        self._failed = False

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler(self._stream.format.name, self._stream.layout.name, self._stream.rate)

    def packets(self, packet: Packet) -> Iterator[Packet]:
        for frame in self._decoded(packet):
            yield from self._encoded(frame)
        if packet.size == 0:
            yield from self._flushed()
            yield from self._stream.encode(None)

    def _decoded(self, packet: Packet) -> list[AudioFrame]:
        try:
            return self._source.decode(packet)
        except av.error.FFmpegError as error:
            if not self._failed and not isinstance(error, av.error.EOFError):
                self._failed = True
                self._warnings.append("Some of the sound is damaged and was left out.")
            return []

    def _encoded(self, frame: AudioFrame) -> Iterator[Packet]:
        if frame.pts is not None and frame.time_base:
            frame.pts -= round(self._origin / frame.time_base)
        try:
            resampled = self._resampler.resample(frame)
        except ValueError:  # the source's own format changes here
            yield from self._flushed()
            self._resampler = self._new_resampler()
            resampled = self._resampler.resample(frame)
        yield from itertools.chain.from_iterable(self._stream.encode(part) for part in resampled)

    def _flushed(self) -> Iterator[Packet]:
        for part in self._resampler.resample(None):
            yield from self._stream.encode(part)
