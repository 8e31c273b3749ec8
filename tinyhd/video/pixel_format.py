"""Every kind of decoded frame made into one kind: upright, progressive, opaque, SDR, 8-bit planar YUV, one size.

All full-resolution work is done by FFmpeg's scaler and filters. What a file is made into follows from its first
frame (`FrameConverter`):

- 8-bit planar YUV that is upright already is passed through untouched, color tags included.
- Other YUV keeps its matrix, range and chroma subsampling (formats with an odd subsampling become 4:2:2 or 4:4:4).
- RGB, palettes and GIFs become yuv444p: still images as JPEG does it (BT.601, full range), which is nearest to
  lossless, moving ones as BT.709 limited range, which players expect.
- Alpha is flattened over black.
- HDR (PQ, HLG) is mapped to BT.709 by FFmpeg's scaler, which tone maps in a perceptual space and leaves colors
  below SDR white (203 cd/m2, ITU-R BT.2408) as they are.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from tinyhd.video.frame import COLOR_TAGS

# Numbers of ITU-T H.273, as FFmpeg uses them.
BT709 = 1
UNSPECIFIED = 2
BT470BG = 5
TRANSFER_PQ, TRANSFER_HLG = 16, 18
RANGE_LIMITED, RANGE_FULL = 1, 2
_KNOWN_TAGS = {
    "colorspace": frozenset((0, 1, 2, 4, 5, 6, 7, 9)),
    "color_trc": frozenset((1, 2, 4, 5, 6, 7, 8, *range(11, 19))),
    "color_primaries": frozenset((1, 2, *range(4, 13), 22)),
}


@dataclass(frozen=True)
class Orientation:
    """How a stored frame is made upright: transposed (x and y exchanged) first, then mirrored."""

    transpose: bool = False
    hflip: bool = False
    vflip: bool = False

    @property
    def rotation_degrees(self) -> int:
        """The clockwise turn: 0, 90, 180 or 270. A mirrored frame counts as turned, then mirrored left to right."""
        if self.transpose:
            return 270 if self.vflip else 90
        return 180 if self.vflip else 0

    @property
    def is_mirrored(self) -> bool:
        return (self.transpose + self.hflip + self.vflip) % 2 == 1

    @property
    def filters(self) -> list[tuple[str, str]]:
        """FFmpeg filters, as (name, arguments)."""
        if self.transpose:
            kind = {(False, False): "cclock_flip", (True, False): "clock", (False, True): "cclock"}
            return [("transpose", kind.get((self.hflip, self.vflip), "clock_flip"))]
        return [("hflip", "")] * self.hflip + [("vflip", "")] * self.vflip


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Read a frame's display matrix (phones' rotation, EXIF orientation), to the nearest quarter turn."""
    data = _display_matrix(frame)
    if data is None:
        return Orientation()
    # Row vectors: (x, y) of the stored frame is shown at (a x + c y, b x + d y), y pointing down.
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, hflip=c < 0, vflip=b < 0)
    return Orientation(hflip=a < 0, vflip=d < 0)


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    while True:
        try:
            data: Any = frame.side_data.get("DISPLAYMATRIX")
            return None if data is None else bytes(data)
        except ValueError as error:
            # PyAV refuses the whole list where it does not know one kind of side data (EXIF, 31, is one).
            unknown = re.match(r"\d+", str(error))
            if unknown is None:
                return None
            (frame,) = FilterChain([("sidedata", f"mode=delete:type={unknown[0]}")], frame).push(frame)


def has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def is_hdr(frame: av.VideoFrame) -> bool:
    return frame.color_trc in (TRANSFER_PQ, TRANSFER_HLG)


class FilterChain:
    """A row of FFmpeg filters that gives one frame for each it is given, for frames of one format and size."""

    def __init__(self, filters: list[tuple[str, str]], like: av.VideoFrame) -> None:
        self.fits = (like.format.name, like.width, like.height)
        self._graph = av.filter.Graph()
        base = like.time_base or Fraction(1, 1000)
        source = self._graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=base)
        nodes = [self._graph.add(name, arguments or None) for name, arguments in filters]
        self._graph.link_nodes(source, *nodes, self._graph.add("buffersink"))
        self._graph.configure()

    def push(self, frame: av.VideoFrame | None) -> list[av.VideoFrame]:
        """Give a frame (None: the end) and take all frames that are ready."""
        self._graph.vpush(frame)
        ready = []
        while True:
            try:
                ready.append(self._graph.vpull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return ready


class Deinterlacer:
    """Turns interlaced frames into progressive ones, one for one; others pass. It runs up to one frame behind."""

    def __init__(self) -> None:
        self._chain: FilterChain | None = None
        self._pts: deque[int] = deque()

    def push(self, frame: av.VideoFrame, pts: int) -> list[tuple[av.VideoFrame, int]]:
        """Give a decoded frame and its timestamp; take the (frame, timestamp) pairs that are ready."""
        ready: list[tuple[av.VideoFrame, int]] = []
        fits = (frame.format.name, frame.width, frame.height)
        if self._chain and self._chain.fits != fits:
            ready = self.flush()
        if self._chain is None:
            if not frame.interlaced_frame or min(frame.width, frame.height) < 4:  # the filter's smallest size
                return [*ready, (frame, pts)]
            self._chain = FilterChain([("bwdif", "mode=send_frame:deint=interlaced")], frame)
        frame.pts = pts
        self._pts.append(pts)
        return ready + self._stamped(self._chain.push(frame))

    def flush(self) -> list[tuple[av.VideoFrame, int]]:
        """The frames still inside; the next frame starts anew."""
        rest = self._stamped(self._chain.push(None)) if self._chain else []
        self._chain = None
        return rest

    def _stamped(self, frames: list[av.VideoFrame]) -> list[tuple[av.VideoFrame, int]]:
        return [(frame, self._pts.popleft()) for frame in frames]


class FrameConverter:
    """Converts decoded frames to the one kind that the first frame decides (see the module)."""

    def __init__(self, first: av.VideoFrame, is_still: bool) -> None:
        _drop_unknown_tags(first)
        self.orientation = orientation_of(first)
        self.has_alpha = has_alpha(first)
        self.is_hdr = is_hdr(first)
        self._stored_size = (first.width, first.height)
        turned = self.orientation.transpose
        self.size = (first.height, first.width) if turned else (first.width, first.height)
        self.pix_fmt = _target_format(first, turned)
        self.tags = _target_tags(first, is_still)
        self._chains: dict[str, FilterChain] = {}
        # One scaler for the whole file: its color tables for HDR take seconds to build.
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Upright 8-bit planar YUV; the same frame object where nothing has to change."""
        _drop_unknown_tags(frame)
        if has_alpha(frame):
            frame = self._flatten(frame)
        if not self._fits(frame):
            frame = self._scale(frame)
        if self.orientation.filters:
            frame = self._filter("orientation", self.orientation.filters, frame)
        for name, value in self.tags.items():
            setattr(frame, name, value)
        return frame

    def _fits(self, frame: av.VideoFrame) -> bool:
        same_kind = (frame.format.name, frame.width, frame.height) == (self.pix_fmt, *self._stored_size)
        return same_kind and all(getattr(frame, name) == value for name, value in self.tags.items())

    def _scale(self, frame: av.VideoFrame) -> av.VideoFrame:
        matrix = self.tags["colorspace"]
        hdr = {"dst_color_trc": BT709, "dst_color_primaries": BT709} if is_hdr(frame) else {}
        return self._scaler.reformat(
            frame,
            *self._stored_size,
            format=self.pix_fmt,
            dst_colorspace=BT470BG if matrix == UNSPECIFIED else matrix,
            dst_color_range=self.tags["color_range"] or RANGE_LIMITED,
            **hdr,
        )

    def _flatten(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Flatten over black, which is to multiply the colors by alpha."""
        frame = frame.reformat(format="gbrap")
        frame.color_range = RANGE_FULL  # RGB always is, but a tag left from YUV would mislead the filter
        return self._filter("alpha", [("premultiply", "inplace=1"), ("format", "gbrp")], frame)

    def _filter(self, key: str, filters: list[tuple[str, str]], frame: av.VideoFrame) -> av.VideoFrame:
        chain = self._chains.get(key)
        if chain is None or chain.fits != (frame.format.name, frame.width, frame.height):
            chain = self._chains[key] = FilterChain(filters, frame)
        (result,) = chain.push(frame)
        return result


def plane_lines(plane: VideoPlane) -> np.ndarray:
    """A plane's memory: uint8 (lines, bytes per line), padding included."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def grown(image: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The frame with its last column and line repeated; 8-bit planar formats."""
    result = av.VideoFrame(width, height, image.format.name)
    for source, target in zip(image.planes, result.planes, strict=True):
        lines = plane_lines(target)
        lines[: source.height, : source.width] = plane_lines(source)[: source.height, : source.width]
        lines[: source.height, source.width : target.width] = lines[: source.height, source.width - 1 : source.width]
        lines[source.height : target.height] = lines[source.height - 1]
    for tag in COLOR_TAGS:
        setattr(result, tag, getattr(image, tag))
    result.pts, result.time_base = image.pts, image.time_base
    return result


def _drop_unknown_tags(frame: av.VideoFrame) -> None:
    """Make color tags that FFmpeg's scaler refuses, which damaged files have, unspecified."""
    for name, known in _KNOWN_TAGS.items():
        if getattr(frame, name) not in known:
            setattr(frame, name, UNSPECIFIED)


def _target_format(first: av.VideoFrame, turned: bool) -> str:
    source = first.format
    if is_hdr(first):
        return "yuv420p"
    if source.is_rgb or source.has_palette:
        return "yuv444p"
    if len(source.components) <= 2:  # gray, with or without alpha
        return "yuv420p"
    subsampling = (16 // source.chroma_width(16), 16 // source.chroma_height(16))
    target = {(1, 1): "yuv444p", (2, 2): "yuv420p", (2, 1): "yuv422p", (4, 1): "yuv422p", (4, 4): "yuv420p"}
    chosen = target.get(subsampling, "yuv444p")
    return "yuv444p" if turned and chosen == "yuv422p" else chosen


def _target_tags(first: av.VideoFrame, is_still: bool) -> dict[str, int]:
    bt709 = dict(zip(COLOR_TAGS, (BT709, RANGE_LIMITED, BT709, BT709), strict=True))
    if is_hdr(first):
        return bt709
    tags = {name: int(getattr(first, name)) for name in COLOR_TAGS}
    if first.format.is_rgb or first.format.has_palette:
        tags |= {"colorspace": BT470BG, "color_range": RANGE_FULL} if is_still else bt709
    return tags
