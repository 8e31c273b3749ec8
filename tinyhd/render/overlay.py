"""Colored maps blended with the frames of a video.

Maps stay at the model's size until FFmpeg's scaler enlarges the colored map; FFmpeg's overlay filter then blends it
into the YUV planes. Python touches no pixel at full resolution.
"""

from fractions import Fraction

import av
import av.filter
import numpy as np

from tinyhd.options import RenderOptions
from tinyhd.render.colors import color_table, to_yuv
from tinyhd.video.frame import VideoInfo
from tinyhd.video.pixel_format import grown, plane_lines


class Overlay:
    """Draws maps over (or beside, or instead of) the frames of one video."""

    def __init__(
        self,
        info: VideoInfo,
        options: RenderOptions | None = None,
        *,
        for_video: bool = True,
    ) -> None:
        """
        Args:
            info: of the video; its frames' size, format and color tags.
            options: style, color map and opacity; how maps are normalized is `Normalizer`'s.
            for_video: make yuv420p frames with even sizes, odd ones grown by a copy of the last line; otherwise
                they have the frames' own format and size (side by side: even all the same).

        Raises:
            OptionError: there is no such color map.
        """
        options = options or RenderOptions()
        table = color_table(options)
        self._info = info
        self._style, self._for_video = options.style, for_video
        vuya = np.empty((256, 4), np.uint8)
        vuya[:, 2::-1] = to_yuv(table[:, :3], info.colorspace, info.color_range)
        vuya[:, 3] = np.rint(255 * table[:, 3])
        self._table = vuya.view(np.uint32)[:, 0]
        self._graph: _BlendGraph | None = None

        # halves that lie side by side have to start at whole chroma samples
        odd = (info.width % 2, info.height % 2) if for_video or options.style == "side-by-side" else (0, 0)
        self._frame_size = (info.width + odd[0], info.height + odd[1])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames made."""
        width, height = self._frame_size
        return (2 * width if self._style == "side-by-side" else width, height)

    def __call__(self, image: av.VideoFrame, saliency: np.ndarray) -> av.VideoFrame:
        """Blend a map into a frame.

        Args:
            image: a frame of the video; it is not changed.
            saliency: float (H, W) in [0, 1], of any size as long as it is the same for all frames.

        Returns:
            a new frame of `size`, with the frame's color tags.
        """
        levels = (saliency * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        if self._graph is None:
            beside = self._style == "side-by-side"
            self._graph = _BlendGraph(self._info, self._frame_size, levels.shape, beside, self._for_video)
        height, width = levels.shape
        heat = av.VideoFrame(width, height, "vuya")
        lines = plane_lines(heat.planes[0]).view(np.uint32)
        lines[:height, :width] = self._table[levels]
        if self._frame_size != (image.width, image.height):
            image = grown(image, *self._frame_size)
        return self._graph(image, heat)


class _BlendGraph:
    """FFmpeg filters: the colored map is enlarged and laid over the frame by its alpha."""

    def __init__(
        self, info: VideoInfo, size: tuple[int, int], map_shape: tuple[int, ...], side_by_side: bool, for_video: bool
    ) -> None:
        width, height = size
        self._graph = graph = av.filter.Graph()
        # waking further threads costs more than it saves at these sizes, and decoder and encoder have their own
        graph.threads = 1
        tags = f"time_base=1/1000:pixel_aspect=1/1:colorspace={info.colorspace}:range={info.color_range}"
        pix_fmt = "yuv420p" if for_video else info.pix_fmt
        self._frames = graph.add("buffer", f"video_size={width}x{height}:pix_fmt={info.pix_fmt}:{tags}")
        self._heat = graph.add("buffer", f"video_size={map_shape[1]}x{map_shape[0]}:pix_fmt=vuya:{tags}")
        scale = graph.add("scale", f"{width}:{height}:flags=bicubic")
        overlay = graph.add("overlay", f"format={pix_fmt.removesuffix('p')}")
        converted = graph.add("format", pix_fmt)
        self._frames.link_to(converted)
        self._heat.link_to(scale)
        scale.link_to(overlay, 0, 1)
        stack = graph.add("hstack") if side_by_side else None
        if stack:
            split = graph.add("split")
            converted.link_to(split)
            split.link_to(overlay, 1, 0)
            split.link_to(stack)
            overlay.link_to(stack, 0, 1)
        else:
            converted.link_to(overlay)
        self._sink = graph.add("buffersink")
        (stack or overlay).link_to(self._sink)
        graph.configure()
        self._count = 0

    def __call__(self, frame: av.VideoFrame, heat: av.VideoFrame) -> av.VideoFrame:
        pts, time_base = frame.pts, frame.time_base
        # the filter pairs frames by time; a counter does for any timestamps
        for image, buffer in ((frame, self._frames), (heat, self._heat)):
            image.pts, image.time_base = self._count, Fraction(1, 1000)
            buffer.push(image)
        self._count += 1
        frame.pts, frame.time_base = pts, time_base
        result = self._sink.pull()
        assert isinstance(result, av.VideoFrame)
        result.pts, result.time_base = pts, time_base
        return result
