"""Video files, still images and animations in; upright SDR frames with exact timestamps out.

    with open_video("clip.mp4") as video:
        print(video.info.width, video.info.height)
        for frame in video:
            rgb = frame.to_rgb()

Frames come lazily, in display order, as many as FFmpeg decodes. Damage does not stop the reading: what decodes is
delivered, `VideoReader.damaged` is set and `VideoReader.warnings` says what happened.
"""

import itertools
import math
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from typing import Self

import av

from tinyhd.errors import InputError, OptionError
from tinyhd.files import StrPath
from tinyhd.video.containers import MAX_PIXELS, STILL_DEMUXERS, is_damaged_png, missing_bytes
from tinyhd.video.demux import Source, decode_from, is_too_large, repair_times
from tinyhd.video.frame import Frame, Seconds, VideoInfo
from tinyhd.video.pixel_format import Deinterlacer, FrameConverter

_MOST_EARLY_SECONDS = 10
"""A first frame that lies further before the container's start has a wrong timestamp."""
_LONGEST_GAP_SECONDS = 60
"""A frame that lies further behind the one before and the end of the file does so too."""

_DAMAGED = "Some of the file is damaged: only what could be decoded is delivered."


def probe(path: StrPath) -> VideoInfo:
    """Read a file's header and first frame. Raises `InputError` as `open_video` does."""
    with open_video(path) as video:
        return video.info


def read_frames(path: StrPath, start: Seconds | None = None, end: Seconds | None = None) -> Iterator[Frame]:
    """Yield the frames of a file lazily (`open_video` tells about damage as well)."""
    with open_video(path, start, end) as video:
        yield from video


def open_video(path: StrPath, start: Seconds | None = None, end: Seconds | None = None) -> "VideoReader":
    """Open a video, animation or still image.

    Args:
        path: a file; playlists and other formats that refer to further files are refused.
        start: deliver frames from this time on, in seconds after the container's start (the clock of `Frame.time`).
        end: stop before this time.

    Raises:
        InputError: missing, unreadable, refused, without a video stream, or nothing in it decodes.
        OptionError: start or end is negative or end is not after start.
    """
    return VideoReader(path, start, end)


class VideoReader(Iterator[Frame]):
    """An open video: `info`, and one pass over its frames. Close it, or use it in a `with` statement.

    Attributes:
        info: what is known of the video.
        warnings: sentences about damage and repairs met so far; complete once all frames were read.
        damaged: True once something did not decode or is missing.
    """

    def __init__(self, path: StrPath, start: Seconds | None, end: Seconds | None) -> None:
        self._path = path
        self._start, self._end = _checked_range(start, end)
        self.warnings: list[str] = []
        self.damaged = False
        self._source = Source(path)
        try:
            if missing_bytes(path):
                self._note_damage("The file is shorter than its header says, so its end is missing.")
            if is_damaged_png(path):
                self._note_damage(_DAMAGED)
            raw = self._source.frames()
            first = next(raw, None)
            if first is None:
                self._source.close()
                if is_too_large(path):
                    raise InputError(
                        f"{str(path)!r} has frames of more than {MAX_PIXELS:,} pixels, which are refused: scale it "
                        "down first."
                    )
                raise InputError(f"{str(path)!r} has a video stream, but no frame of it could be decoded.")
            is_still = _is_still(self._source)
            self._convert = FrameConverter(first, is_still)
            self.info = _describe(path, self._source, first, self._convert, is_still)
        except BaseException:
            self._source.close()
            raise
        self._frames = self._deliver(itertools.chain([first], raw))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        return next(self._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file and the decoder; reading on gives no more frames."""
        self._frames.close()
        self._source.close()

    def _deliver(self, raw: Iterator[av.VideoFrame]) -> Generator[Frame, None, None]:
        index = 0
        for decoded, pts in self._deinterlaced(self._stamped(self._complete(self._sought(raw)))):
            time = pts * self.info.time_base - self.info.start_time
            if self._start is not None and time < self._start:
                continue
            if self._end is not None and time >= self._end:
                return
            try:
                image = self._convert(decoded)
            except av.error.FFmpegError as error:
                if index == 0:
                    kind = decoded.format.name
                    raise InputError(
                        f"{self.info.path!r} has frames in a pixel format ({kind}) that cannot be used."
                    ) from error
                self._note_damage("Some frames could not be converted and were left out.")
                continue
            image.pts, image.time_base = pts, self.info.time_base
            yield Frame(index, pts, time, image)
            index += 1

    def _sought(self, raw: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Decode from a key frame before `start`."""
        if self._start is None or self.info.is_still:
            yield from raw
            return
        self._source.close()
        target = math.ceil((self._start + self.info.start_time) / self.info.time_base)
        self._source, frames = decode_from(self._path, target)
        yield from frames

    def _complete(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Add the last frames of a damaged file, which a decoder with several threads may keep to itself.

        When one of the frames still inside the decoder turns out damaged at the end of the file, PyAV cannot ask
        for those behind it. So, where fewer frames than packets came out, the last stretch is decoded again with
        one thread.
        """
        count, last_pts = 0, None
        for frame in frames:
            count += 1
            if frame.pts is not None:
                last_pts = frame.pts if last_pts is None else max(last_pts, frame.pts)
            self._collect_damage(self._source)
            yield frame
        source = self._source
        self._collect_damage(source)
        if source.frames_missing <= 0 or self.info.is_still:
            return
        if last_pts is not None:
            again, decoded = decode_from(self._path, last_pts, threads=False)
            rest = (frame for frame in decoded if frame.pts is not None and frame.pts > last_pts)
        elif source.damage:
            again = Source(self._path, threads=False)
            rest = (frame for number, frame in enumerate(again.frames()) if number >= count)
        else:
            return
        with again:
            yield from rest
            self._collect_damage(again)

    def _stamped(self, frames: Iterable[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
        """Give every frame a timestamp, strictly increasing."""
        rate = self.info.frame_rate or Fraction(25)
        usual = max(1 / rate / self.info.time_base, Fraction(1))
        start = math.floor(self.info.start_time / self.info.time_base)
        gap = math.ceil(_LONGEST_GAP_SECONDS / self.info.time_base)
        duration = self.info.duration_seconds
        latest = None if duration is None else start + math.ceil(Fraction(duration) / self.info.time_base) + gap
        repaired = False

        def candidates() -> Iterator[tuple[av.VideoFrame, int | None, Fraction]]:
            for frame in frames:
                nonlocal latest
                stamp = frame.pts if frame.pts is not None else frame.dts
                if stamp is not None and (stamp < start or (latest is not None and stamp > latest)):
                    stamp = None
                if stamp is not None and latest is not None:
                    latest = max(latest, stamp + gap)
                yield frame, stamp, Fraction(frame.duration) if frame.duration > 0 else usual

        for frame, pts in repair_times(candidates(), start):
            if not repaired and pts != frame.pts and not self.info.is_still:
                repaired = True
                self.warnings.append("Some timestamps were missing, repeated or out of order and were replaced.")
            yield frame, pts

    def _deinterlaced(self, frames: Iterator[tuple[av.VideoFrame, int]]) -> Iterator[tuple[av.VideoFrame, int]]:
        deinterlacer = Deinterlacer()
        for frame, pts in frames:
            yield from deinterlacer.push(frame, pts)
        yield from deinterlacer.flush()

    def _collect_damage(self, source: Source) -> None:
        if source.damage:
            self._note_damage(_DAMAGED)

    def _note_damage(self, sentence: str) -> None:
        self.damaged = True
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _is_still(source: Source) -> bool:
    name = source.container.format.name
    heif = source.container.metadata.get("major_brand") in ("heic", "heix", "heim", "mif1", "avif")
    return name in STILL_DEMUXERS or heif or (name == "gif" and source.stream.frames == 1)


def _describe(
    path: StrPath, source: Source, first: av.VideoFrame, convert: FrameConverter, is_still: bool
) -> VideoInfo:
    container, stream = source.container, source.stream
    time_base = stream.time_base or Fraction(1, 25)
    rate = stream.average_rate or stream.guessed_rate or None
    duration: float | None = None
    if stream.duration:
        duration = float(stream.duration * time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    count = 1 if is_still else stream.frames or (round(duration * rate) if duration and rate else None)
    pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = convert.size
    return VideoInfo(
        path=str(path),
        width=width,
        height=height,
        rotation_degrees=convert.orientation.rotation_degrees,
        is_mirrored=convert.orientation.is_mirrored,
        sample_aspect_ratio=1 / pixel_aspect if convert.orientation.transpose else pixel_aspect,
        frame_rate=None if is_still else rate,
        frame_count=count,
        duration_seconds=None if is_still else duration,
        start_time=_start_time(container, first.pts, time_base),
        time_base=time_base,
        is_still=is_still,
        pix_fmt=convert.pix_fmt,
        **convert.tags,
        is_hdr=convert.is_hdr,
        is_interlaced=first.interlaced_frame,
        has_alpha=convert.has_alpha,
        source_pix_fmt=first.format.name,
        codec=stream.codec_context.name,
        container=container.format.name,
        stream_index=stream.index,
    )


def _start_time(container: av.container.InputContainer, first_pts: int | None, time_base: Fraction) -> Fraction:
    """The container's start in seconds, exact: FFmpeg rounds it to microseconds, its streams know it in ticks. Where
    the first frame turns out to be earlier, its time."""
    start = rounded = Fraction(container.start_time or 0, av.time_base)
    for stream in container.streams:
        if stream.start_time is not None and stream.time_base is not None:
            exact = stream.start_time * stream.time_base
            if abs(exact - rounded) <= Fraction(1, av.time_base):
                start = exact
                break
    first = start if first_pts is None else first_pts * time_base
    return first if start - _MOST_EARLY_SECONDS < first < start else start


def _checked_range(start: Seconds | None, end: Seconds | None) -> tuple[Fraction | None, Fraction | None]:
    if start is not None and start < 0:
        raise OptionError(f"start is {float(start)} s: it must not be negative.")
    if end is not None and end <= (start or 0):
        raise OptionError(f"end is {float(end)} s, start {float(start or 0)} s: end must come after start.")
    # A microsecond less than asked for, so that 0.08, which is a little more as a float, means the frame at 2/25 s.
    slack = Fraction(1, 1_000_000)
    return Fraction(start) - slack if start else None, None if end is None else Fraction(end) - slack
