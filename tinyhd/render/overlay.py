"""Colored maps blended with the frames of a video.

Maps stay at the model's size until FFmpeg's scaler enlarges the colored map; FFmpeg's overlay filter then blends it
into the YUV planes.
"""

import av
import numpy as np

from tinyhd.options import RenderOptions
from tinyhd.render.colors import color_table, to_yuv
from tinyhd.video.filters import FrameGraph
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
        return self._graph.run(image, (self._graph.heat, heat))


class _BlendGraph(FrameGraph):
    """FFmpeg filters: the colored map is enlarged and laid over the frame by its alpha."""

    def __init__(
        self, info: VideoInfo, size: tuple[int, int], map_shape: tuple[int, ...], side_by_side: bool, for_video: bool
    ) -> None:
        width, height = size
        super().__init__(info, size)
        graph = self.graph
        pix_fmt = "yuv420p" if for_video else info.pix_fmt
        self.heat = self.add_source((map_shape[1], map_shape[0]), "vuya")
        scale = graph.add("scale", f"{width}:{height}:flags=bicubic")
        overlay = graph.add("overlay", f"format={pix_fmt.removesuffix('p')}")
        converted = graph.add("format", pix_fmt)
        self.source.link_to(converted)
        self.heat.link_to(scale)
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
        self.finish(stack or overlay)
