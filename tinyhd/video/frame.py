"""What a video is made of: its description, and its frames."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

Seconds = float | Fraction

COLOR_TAGS = ("colorspace", "color_range", "color_trc", "color_primaries")
"""What FFmpeg calls them, of frames and of encoders."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known about a video before its frames are read. Sizes and colors are those of the delivered frames."""

    path: str
    width: int  # pixels, upright
    height: int
    rotation_degrees: int  # clockwise turn that was applied to the stored frame: 0, 90, 180 or 270
    is_mirrored: bool  # and mirrored left to right afterwards
    sample_aspect_ratio: Fraction  # width / height of one upright pixel; 1 where the file says nothing
    frame_rate: Fraction | None  # average, frames per second
    frame_count: int | None  # the header's count, or an estimate from rate and duration
    duration_seconds: float | None
    start_time: Fraction  # container's start, seconds on the file's own clock; `Frame.time` counts from here
    time_base: Fraction  # seconds per tick of `Frame.pts`
    is_still: bool  # one image (photo), not a video
    pix_fmt: str  # of `Frame.image`
    colorspace: int  # of `Frame.image`; ITU-T H.273 numbers as in FFmpeg, 2: not tagged (read as BT.601)
    color_range: int  # 1: limited, 2: full, 0: not tagged (read as limited)
    color_trc: int
    color_primaries: int
    is_hdr: bool  # the source is PQ or HLG and was mapped to BT.709
    is_interlaced: bool  # the first frame is; interlaced frames are delivered deinterlaced
    has_alpha: bool  # the source has; delivered frames are flattened over black
    source_pix_fmt: str  # as stored
    codec: str
    container: str  # FFmpeg's name of the demuxer
    stream_index: int


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    index: int  # 0, 1, 2 ... in the order of delivery, which is display order
    pts: int  # timestamp on the file's own clock, in ticks of `VideoInfo.time_base`; strictly increasing
    time: Fraction  # seconds after the container's start
    image: av.VideoFrame  # upright, progressive, opaque, SDR, 8-bit planar YUV, always `VideoInfo`'s size and format

    @property
    def time_seconds(self) -> float:
        return float(self.time)

    def to_rgb(self) -> np.ndarray:
        """The frame as uint8 RGB (height, width, 3), by the matrix it is tagged with, BT.601 where it has no tag."""
        return self.image.to_ndarray(format="rgb24")
