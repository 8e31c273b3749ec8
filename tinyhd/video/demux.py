"""From a container to a row of decoded frames: the best stream, seeking, damage, and timestamp repair.

The steps between `containers` (may this file be opened?) and `reader` (what callers use).
"""

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Self, TypeVar

import av
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from tinyhd.errors import InputError
from tinyhd.files import StrPath
from tinyhd.video.containers import MAX_PIXELS, STILL_DEMUXERS, open_container
from tinyhd.video.ffmpeg_log import collect_ffmpeg_errors

T = TypeVar("T")


class Source:
    """One opened container with its best video stream, and counts of what did not decode."""

    def __init__(self, path: StrPath, threads: bool = True) -> None:
        self.container = open_container(path)
        try:
            self.stream = _best_stream(path, self.container)
        except BaseException:
            self.container.close()
            raise
        self._is_still = self.container.format.name in STILL_DEMUXERS
        self.stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        # Frame threads decode several times faster than PyAV's default, slice threads.
        self.stream.thread_type = "AUTO" if threads and not self._is_still else "SLICE"
        self.damage = 0  # errors and corrupt frames
        self.packet_count = self.frame_count = self.error_count = 0
        self._first_packet: Packet[VideoStream] | None = None
        self._sought: float = -math.inf
        self._stamps: deque[int] | None = deque()
        self._last_stamp: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()

    @property
    def frames_missing(self) -> int:
        """Packets that gave neither a frame nor an error. Some codecs have such packets in intact files too."""
        return self.packet_count - self.frame_count - self.error_count

    def seek(self, target: int, margin: int = 0) -> bool:
        """Go to a key frame at or before `target`, `margin` ticks earlier at first; False if none was found there."""
        try:
            self.container.seek(target - margin, stream=self.stream)
            for packet in self.container.demux(self.stream):
                if packet.is_keyframe:
                    self._first_packet, self._sought = packet, target
                    return packet.pts is not None and packet.pts <= target
        except (av.error.FFmpegError, OSError):
            pass
        return False

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode to the end. Never raises for damage."""
        packets = packets_of(self.container, [self.stream])
        if self._first_packet is not None:
            packets = itertools.chain([self._first_packet], packets)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError):
                self.damage += 1
                packet = None  # the rest of the file is lost; what the decoder still holds is not
            self._note_stamp(packet)
            try:
                decoded = self._decode_still(packet) if self._is_still else self.stream.decode(packet)
            except av.error.EOFError:
                decoded = []
            except av.error.FFmpegError:
                self.error_count += 1
                self.damage += 1
                decoded = []
                if self._stamps:
                    self._stamps.popleft()
            self.packet_count += packet is not None and packet.size > 0 and not packet.is_discard
            self.frame_count += len(decoded)
            for frame in decoded:
                self._order_stamp(frame)
                # Frames before the place sought may lack their references in intact files too.
                self.damage += frame.is_corrupt and (frame.pts is None or frame.pts >= self._sought)
                yield frame
            if packet is None or (self._is_still and self.frame_count):  # what follows the image does not matter
                return

    def _decode_still(self, packet: "Packet[VideoStream] | None") -> list[av.VideoFrame]:
        """Decoders of still images complain about damage, but do not mark what they make of it."""
        with collect_ffmpeg_errors(this_thread=True) as messages:
            decoded = self.stream.decode(packet)
        self.damage += any("EXIF" not in text for _, _, text in messages)
        return decoded

    # Some files (H.264 with B-frames in AVI, or in mp4 without its table of offsets) stamp packets in the order of
    # decoding, although the decoder puts them into another order. Then the n-th frame shown gets the n-th stamp.

    def _note_stamp(self, packet: "Packet[VideoStream] | None") -> None:
        if self._stamps is None or packet is None or packet.pts is None:
            return
        if self._last_stamp is None and not packet.is_keyframe:
            return  # a recording that begins in the middle: the decoder waits for a key frame
        if self._last_stamp is not None and packet.pts <= self._last_stamp:
            self._stamps = None  # stamped in the order of display, as it should be
            return
        self._last_stamp = packet.pts
        if not packet.is_discard:  # decoded but not shown, by an edit list
            self._stamps.append(packet.pts)

    def _order_stamp(self, frame: av.VideoFrame) -> None:
        if not self._stamps or frame.pts is None:
            return
        if self.stream.codec_context.has_b_frames:
            frame.pts = self._stamps.popleft()
        while self._stamps and self._stamps[0] <= frame.pts:
            self._stamps.popleft()


def is_too_large(path: StrPath) -> bool:
    """Whether nothing is decoded because frames have more than `MAX_PIXELS`; `InputError` as `open_container`."""
    failing = contextlib.suppress(av.error.FFmpegError, OSError)
    with collect_ffmpeg_errors() as messages, Source(path, threads=False) as source, failing:
        next(source.container.decode(source.stream), None)
    return any("exceeds specified max pixel count" in text for _, _, text in messages)


def packets_of(container: av.container.InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """The packets of some streams in the order of the file, and an empty one for each at the end."""
    while True:
        try:
            yield from container.demux(*streams)
            return
        except IndexError:  # what PyAV raises where a further stream begins in the middle of a file
            pass


def decode_from(path: StrPath, target: int, threads: bool = True) -> tuple[Source, Iterator[av.VideoFrame]]:
    """Open a file and decode from a key frame at or before the tick `target`, or from the start if there is no index.

    Containers without an index (MPEG-TS, MPEG-PS) are sought by position and may land behind the last key frame.
    """
    for margin_seconds in (0, 10):
        source = Source(path, threads)
        time_base = source.stream.time_base
        if time_base and source.seek(target, round(margin_seconds / time_base)):
            return source, source.frames()
        source.close()
    source = Source(path, threads)
    return source, source.frames()


def _best_stream(path: StrPath, container: av.container.InputContainer) -> VideoStream:
    """The default video stream as FFmpeg ranks them; cover art and thumbnails do not count as video."""
    unwanted = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & unwanted]
    if not streams:
        raise InputError(f"{str(path)!r} has no video stream, only {_other_streams(container)}.")
    if any(stream.disposition & Disposition.dependent for stream in streams):
        raise InputError(f"{str(path)!r} is composed of several images (a tiled HEIC): convert it to JPEG first.")
    best = container.streams.best("video")
    chosen = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if chosen.codec_context is None:
        raise InputError(f"{str(path)!r} is in a codec that this FFmpeg cannot decode: convert it to H.264 first.")
    return chosen


def _other_streams(container: av.container.InputContainer) -> str:
    kinds = sorted({"cover art" if stream.type == "video" else stream.type for stream in container.streams})
    return " and ".join(kinds) or "streams of unknown kinds"


# So many frames are held back at most to place frames without a usable timestamp between their neighbors.
LOOKAHEAD = 8


def repair_times(items: Iterable[tuple[T, int | None, Fraction]], start: int = 0) -> Iterator[tuple[T, int]]:
    """Replace missing and repeated timestamps: (item, stamp or None, duration) -> (item, stamp), strictly increasing.

    Good stamps stay as they are. Items without one, or with one that is not later than its predecessor's, are spread
    between their good neighbors, at most a duration apart. Where more than `LOOKAHEAD` of them follow each other the
    clock is taken to have jumped back and goes on from there without the jump. Those at the beginning do not lie before
    `start`. All in ticks.
    """
    last: int | None = None
    jump = 0  # what is added to the file's clock since it last jumped back
    waiting: list[tuple[T, Fraction]] = []

    def spread(after: int, step: Fraction) -> Iterator[tuple[T, int]]:
        for k, (item, _) in enumerate(waiting):
            yield item, after + round(step * (k + 1))
        waiting.clear()

    for item, stamp, duration in items:
        shifted = None if stamp is None else stamp + jump
        if shifted is not None and (last is None or shifted > last + len(waiting)):
            if waiting and last is None:
                count = len(waiting)
                step = max(Fraction(1), min(waiting[0][1], Fraction(shifted - start, count)))
                last = max(shifted - 1, start + count - 1)  # a tick each where there is no room
                yield from spread(last + 1 - round(step * (count + 1)), step)
            elif waiting and last is not None:
                yield from spread(last, min(waiting[0][1], Fraction(shifted - last, len(waiting) + 1)))
            if last is None or shifted > last:
                last = shifted
                yield item, shifted
                continue
        waiting.append((item, duration))
        if len(waiting) >= LOOKAHEAD:
            first_step = waiting[0][1]
            for spread_item, spread_stamp in spread(start - round(first_step) if last is None else last, first_step):
                last = spread_stamp
                yield spread_item, spread_stamp
            if stamp is not None and last is not None:
                jump = last - stamp
    if waiting:
        yield from spread(start - round(waiting[0][1]) if last is None else last, waiting[0][1])
