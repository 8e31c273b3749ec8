"""Frames cut to a crop that moves: FFmpeg's filters cut, scale, pad and draw."""

import itertools

import av
from av.filter.context import FilterContext

from tinyhd.options import ReframeOptions
from tinyhd.video.filters import FrameGraph
from tinyhd.video.frame import VideoInfo

Box = tuple[int, int, int, int]

_SAME_ASPECT = 0.02
"""Crops whose aspect differs by less from the output's are stretched to it: whole pixels allow no better."""
_DIMMED = 0.35  # of the brightness, outside the crop of a preview
_BLUR_DIVISOR = 8


def fills(box: Box | tuple[float, ...], size: tuple[int, int], pixel_aspect: float) -> bool:
    """Whether a crop, x, y, width and height, has the aspect of an output of this size."""
    return abs(box[2] * pixel_aspect / box[3] * size[1] / size[0] - 1) <= max(_SAME_ASPECT, 2 / min(*size, *box[2:]))


class CropRenderer:
    """Makes the frames of a reframed video, or of a preview, in which the crop is drawn on the source."""

    def __init__(self, info: VideoInfo, size: tuple[int, int], options: ReframeOptions, *, preview: bool) -> None:
        """
        Args:
            info: of the source.
            size: (width, height) of the result, with square pixels; of a preview, the source's.
            options: how to pad crops of another aspect.
        """
        self._info, self._size, self._options, self._preview = info, size, options, preview
        self._graph: _CropGraph | None = None

    def __call__(self, image: av.VideoFrame, box: Box) -> av.VideoFrame:
        """The picture of a frame, which is not changed, with the crop x, y, width and height."""
        if self._graph is None or self._graph.box_size != box[2:]:
            self._graph = _CropGraph(self._info, self._size, self._options, self._preview, box)
        return self._graph.crop(image, box)


class _CropGraph(FrameGraph):
    """FFmpeg filters for crops of one size; where they lie is told to the filters before each frame."""

    def __init__(
        self, info: VideoInfo, size: tuple[int, int], options: ReframeOptions, preview: bool, box: Box
    ) -> None:
        super().__init__(info, (info.width, info.height))
        self.box_size = box[2:]
        self._followers: list[tuple[FilterContext, int, int]] = []  # filter, offset to the crop
        self._fork: FilterContext | None = None
        self._outputs = itertools.count()  # of the fork
        if preview:
            last = self._draw_on_source(info)
        elif fills(box, size, float(info.sample_aspect_ratio)):
            last = self._chain(self._crop(box), ("scale", f"{size[0]}:{size[1]}:flags=bicubic"))
        else:
            last = self._padded(info, size, options, box)
        if preview and size != (info.width, info.height):
            last = self._chain(last, ("scale", f"{size[0]}:{size[1]}"))
        self.finish(last)

    def crop(self, image: av.VideoFrame, box: Box) -> av.VideoFrame:
        for node, dx, dy in self._followers:
            node.process_command("x", str(box[0] + dx))
            node.process_command("y", str(box[1] + dy))
        return self.run(image)

    def _crop(self, box: Box, within: Box | None = None, source: FilterContext | None = None) -> FilterContext:
        """A filter that cuts out `box`, and follows it; or a part of it."""
        x, y, width, height = within or box
        node = self._chain(source or self.source, ("crop", f"{width}:{height}:{x}:{y}:exact=1"))
        self._followers.append((node, x - box[0], y - box[1]))
        return node

    def _padded(self, info: VideoInfo, size: tuple[int, int], options: ReframeOptions, box: Box) -> FilterContext:
        ratio = box[2] * float(info.sample_aspect_ratio) / box[3]
        width, height = size
        inner = (width, _even(width / ratio)) if ratio > width / height else (_even(height * ratio), height)
        x, y = ((outer - part) // 4 * 2 for outer, part in zip(size, inner, strict=True))
        scale = ("scale", f"{inner[0]}:{inner[1]}:flags=bicubic")
        if options.pad != "blur":
            return self._chain(self._crop(box), scale, ("pad", f"{width}:{height}:{x}:{y}:{options.pad_color}"))
        # the background: the middle of the crop as far as it has the output's aspect, small, blurred and enlarged
        share = width / height / ratio
        part = (box[2] * min(share, 1), box[3] * min(1 / share, 1))
        w, h = (max(1, round(n)) for n in part)
        within = (box[0] + (box[2] - w) // 2, box[1] + (box[3] - h) // 2, w, h)
        split = self._split()
        small = (_even(width / _BLUR_DIVISOR), _even(height / _BLUR_DIVISOR))
        background = self._chain(
            self._crop(box, within, split),
            ("scale", f"{small[0]}:{small[1]}:flags=area"),
            ("gblur", f"{max(small) / 20:.2f}"),
            ("scale", f"{width}:{height}:flags=bicubic"),
        )
        front = self._chain(self._crop(box, source=split), scale)
        return self._laid_over(background, front, x, y)

    def _draw_on_source(self, info: VideoInfo) -> FilterContext:
        split = self._split()
        black = 0 if info.color_range == 2 else 16
        dimmed = self._chain(split, ("lutyuv", f"y={black}+(val-{black})*{_DIMMED}"))
        line = max(2, round(min(info.width, info.height) / 240))
        front = self._chain(self._crop((0, 0, *self.box_size), source=split), ("drawbox", f"0:0:iw:ih:white:{line}"))
        laid = self._laid_over(dimmed, front, 0, 0)
        self._followers.append((laid, 0, 0))
        return laid

    def _laid_over(self, back: FilterContext, front: FilterContext, x: int, y: int) -> FilterContext:
        overlay = self.graph.add("overlay", f"{x}:{y}:format=auto")
        back.link_to(overlay, 0, 0)
        front.link_to(overlay, 0, 1)
        return overlay

    def _split(self) -> FilterContext:
        """The source, to be used twice."""
        self._fork = self._chain(self.source, ("split", None))
        return self._fork

    def _chain(self, node: FilterContext, *filters: tuple[str, str | None]) -> FilterContext:
        for name, arguments in filters:
            following = self.graph.add(name, arguments)
            node.link_to(following, next(self._outputs) if node is self._fork else 0, 0)
            node = following
        return node


def _even(number: float) -> int:
    return max(2, 2 * round(number / 2))
