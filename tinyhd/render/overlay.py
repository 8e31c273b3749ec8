"""Saliency maps made visible: their scale, their colours, and the blend with the picture.

Maps stay at the model's size until FFmpeg's scaler enlarges the coloured map; FFmpeg's overlay filter then blends it
into the YUV planes. Python touches no pixel at full resolution.
"""

from fractions import Fraction

import av
import av.filter
import numpy as np
from av.video.plane import VideoPlane

from tinyhd.options import RenderOptions
from tinyhd.render.colors import color_table
from tinyhd.video.frame import VideoInfo

# ---- scale


# ---- colours


# Luma weights of red and blue by matrix (ITU-T H.273); untagged video is read as BT.601
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)


def luma_weights(colorspace: int) -> tuple[float, float]:
    """Weights of red and blue in the luma of the matrix with this H.273 number."""
    return _LUMA_WEIGHTS.get(colorspace, _BT601)


def to_yuv(rgb: np.ndarray, colorspace: int, full_range: bool) -> np.ndarray:
    """Colours RGB in [0, 1], (N, 3) -> 8-bit Y, U, V, uint8 (N, 3), by the matrix with this H.273 number."""
    red, blue = luma_weights(colorspace)
    y = rgb @ [red, 1 - red - blue, blue]
    u, v = (rgb[:, 2] - y) / (2 - 2 * blue), (rgb[:, 0] - y) / (2 - 2 * red)
    scale, offset, chroma = (255, 0, 255) if full_range else (219, 16, 224)
    yuv = np.column_stack([offset + scale * y, 128 + chroma * u, 128 + chroma * v])
    return np.clip(np.rint(yuv), 0, 255).astype(np.uint8)


# ---- blend


class Overlay:
    """Draws maps over (or beside, or instead of) the pictures of one video."""

    def __init__(
        self,
        info: VideoInfo,
        options: RenderOptions | None = None,
        *,
        for_video: bool = True,
    ) -> None:
        """
        Args:
            info: of the video; its frames' size, format and colour tags.
            options: style, color map and opacity.
            for_video: make yuv420p pictures with even sizes, odd ones grown by a copy of the last line; otherwise
                pictures have the frames' own format and size (side by side: even all the same).

        Raises:
            OptionError: a value that is not allowed.
        """
        options = options or RenderOptions()
        table = color_table(options)
        self._info = info
        self._style, self._for_video = options.style, for_video
        full_range = info.color_range == 2
        vuya = np.empty((256, 4), np.uint8)
        vuya[:, 2::-1] = to_yuv(table[:, :3], info.colorspace, full_range)
        vuya[:, 3] = np.rint(255 * table[:, 3])
        self._table = vuya.view(np.uint32)[:, 0]
        self._graph: _BlendGraph | None = None

        # halves that lie side by side have to start at whole chroma samples
        odd = (info.width % 2, info.height % 2) if for_video or options.style == "side-by-side" else (0, 0)
        self._picture_size = (info.width + odd[0], info.height + odd[1])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the pictures made."""
        width, height = self._picture_size
        return (2 * width if self._style == "side-by-side" else width, height)

    def __call__(self, image: av.VideoFrame, saliency: np.ndarray) -> av.VideoFrame:
        """Blend a map into a frame.

        Args:
            image: a frame of the video; it is not changed.
            saliency: float (H, W) in [0, 1], of any size as long as it is the same for all frames.

        Returns:
            a new picture of `size`, with the frame's colour tags.
        """
        levels = (saliency * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        if self._graph is None:
            beside = self._style == "side-by-side"
            self._graph = _BlendGraph(self._info, self._picture_size, levels.shape, beside, self._for_video)
        height, width = levels.shape
        heat = av.VideoFrame(width, height, "vuya")
        lines = _lines(heat.planes[0]).view(np.uint32)
        lines[:height, :width] = self._table[levels]
        if self._picture_size != (image.width, image.height):
            image = _grown(image, *self._picture_size)
        return self._graph(image, heat)


def _lines(plane: VideoPlane) -> np.ndarray:
    """A plane's memory: uint8 (lines, bytes per line), padding included."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def _grown(image: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The picture with its last column and line repeated; 8-bit planar formats."""
    result = av.VideoFrame(width, height, image.format.name)
    for source, target in zip(image.planes, result.planes, strict=True):
        lines = _lines(target)
        lines[: source.height, : source.width] = _lines(source)[: source.height, : source.width]
        lines[: source.height, source.width : target.width] = lines[: source.height, source.width - 1 : source.width]
        lines[source.height : target.height] = lines[source.height - 1]
    for tag in ("colorspace", "color_range", "color_trc", "color_primaries"):
        setattr(result, tag, getattr(image, tag))
    result.pts, result.time_base = image.pts, image.time_base
    return result


class _BlendGraph:
    """FFmpeg filters: the coloured map is enlarged and laid over the picture by its alpha."""

    def __init__(
        self, info: VideoInfo, size: tuple[int, int], map_shape: tuple[int, ...], side_by_side: bool, for_video: bool
    ) -> None:
        width, height = size
        self._graph = graph = av.filter.Graph()
        # waking further threads costs more than it saves at these sizes, and decoder and encoder have their own
        graph.threads = 1
        tags = f"time_base=1/1000:pixel_aspect=1/1:colorspace={info.colorspace}:range={info.color_range}"
        pix_fmt = "yuv420p" if for_video else info.pix_fmt
        self._picture = graph.add("buffer", f"video_size={width}x{height}:pix_fmt={info.pix_fmt}:{tags}")
        self._heat = graph.add("buffer", f"video_size={map_shape[1]}x{map_shape[0]}:pix_fmt=vuya:{tags}")
        scale = graph.add("scale", f"{width}:{height}:flags=bicubic")
        overlay = graph.add("overlay", f"format={pix_fmt.removesuffix('p')}")
        converted = graph.add("format", pix_fmt)
        self._picture.link_to(converted)
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

    def __call__(self, picture: av.VideoFrame, heat: av.VideoFrame) -> av.VideoFrame:
        pts, time_base = picture.pts, picture.time_base
        # the filter pairs frames by time; a counter does for any timestamps
        for frame, buffer in ((picture, self._picture), (heat, self._heat)):
            frame.pts, frame.time_base = self._count, Fraction(1, 1000)
            buffer.push(frame)
        self._count += 1
        picture.pts, picture.time_base = pts, time_base
        result = self._sink.pull()
        assert isinstance(result, av.VideoFrame)
        result.pts, result.time_base = pts, time_base
        return result
