"""FFmpeg filters that make one frame of each that they are given."""

from fractions import Fraction

import av
import av.filter
from av.filter.context import FilterContext

from tinyhd.video.frame import VideoInfo


class FrameGraph:
    """Filters that start at `source` and end where `finish` is told; they pair frames by a counter, not by their times.

    Python touches no pixel: FFmpeg's filters cut, scale and blend.
    """

    def __init__(self, info: VideoInfo, size: tuple[int, int]) -> None:
        """
        Args:
            info: of the video that frames come from.
            size: (width, height) of these.
        """
        self.graph = av.filter.Graph()
        # waking further threads costs more than it saves at these sizes, and decoder and encoder have their own
        self.graph.threads = 1
        self._tags = f"time_base=1/1000:pixel_aspect=1/1:colorspace={info.colorspace}:range={info.color_range}"
        self.source = self.add_source(size, info.pix_fmt)
        self._count = 0

    def add_source(self, size: tuple[int, int], pix_fmt: str) -> FilterContext:
        """Where further frames come in."""
        return self.graph.add("buffer", f"video_size={size[0]}x{size[1]}:pix_fmt={pix_fmt}:{self._tags}")

    def finish(self, last: FilterContext) -> None:
        """No filter comes after this one."""
        self._sink = self.graph.add("buffersink")
        last.link_to(self._sink)
        self.graph.configure()

    def run(self, image: av.VideoFrame, *others: tuple[FilterContext, av.VideoFrame]) -> av.VideoFrame:
        """What the filters make of a frame, which is not changed, and of those for other sources."""
        pts, time_base = image.pts, image.time_base
        for source, frame in ((self.source, image), *others):
            frame.pts, frame.time_base = self._count, Fraction(1, 1000)
            source.push(frame)
        self._count += 1
        image.pts, image.time_base = pts, time_base
        result = self._sink.pull()
        assert isinstance(result, av.VideoFrame)
        result.pts, result.time_base = pts, time_base
        return result
