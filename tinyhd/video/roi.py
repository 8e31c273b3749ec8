"""Frames with regions of interest: FFmpeg's side data, which some encoders follow."""

from collections.abc import Sequence

import av

from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions
from tinyhd.video.encoders import resolve_encoder
from tinyhd.video.filters import FrameGraph
from tinyhd.video.frame import VideoInfo
from tinyhd.video.pixel_format import grown

ROI_SETTINGS: dict[str, dict[str, str]] = {
    "libx264": {},
    "libx265": {},
    "libvpx-vp9": {"deadline": "realtime", "aq-mode": "0"},  # with others it ignores regions
}
"""Encoders that follow regions, and what they have to be given for that."""

_BLIND_PRESETS = {"libx264": ("ultrafast",), "libx265": ("ultrafast", "superfast")}
_QP_RANGE = 51  # what FFmpeg's offset of 1 means to encoders of H.264 and HEVC, for 8 bits


def check_roi_encoder(options: EncoderOptions) -> None:
    """Refuse encoders that would ignore regions without a word. Raises `OptionError`."""
    able = "libx264, libx265 or libvpx-vp9"
    if options.ffmpeg is not None:
        raise OptionError("regions do not reach an ffmpeg program: leave out ffmpeg (--ffmpeg).")
    name = resolve_encoder(options).name
    if name == "libsvtav1":
        raise OptionError(
            f"FFmpeg does not hand regions on to libsvtav1: use {able}, or write a map for SvtAv1EncApp "
            "--roi-map-file, by an output that ends in .txt."
        )
    if name not in ROI_SETTINGS:
        raise OptionError(f"the encoder {name} ignores regions: use {able}.")
    if options.preset in _BLIND_PRESETS.get(name, ()):
        raise OptionError(
            f"{name} ignores regions with the preset {options.preset}, which has no adaptive quantization: use a "
            "slower one."
        )


class RegionMarker:
    """Gives frames regions of interest, by FFmpeg's filter addroi; makes odd sizes even by a copy of the last line."""

    def __init__(self, info: VideoInfo) -> None:
        """
        Args:
            info: of the video that frames come from.
        """
        self._info = info
        self.size = (info.width + info.width % 2, info.height + info.height % 2)
        """(width, height) of the frames made."""
        self._graph: FrameGraph | None = None

    def set_regions(self, regions: Sequence[tuple[int, int, int, int, float]]) -> None:
        """From the next frame on, these hold.

        Args:
            regions: x, y, width and height in pixels, and by how many steps the quantizer is coarser there (of H.264
                and HEVC: six halve its precision); of overlapping ones the first counts.
        """
        # addroi takes no commands, but a graph is built in milliseconds
        self._graph = FrameGraph(self._info, self.size)
        last = self._graph.source
        for x, y, w, h, steps in regions:
            node = self._graph.graph.add("addroi", f"{x}:{y}:{w}:{h}:{steps / _QP_RANGE:.6f}")
            last.link_to(node)
            last = node
        self._graph.finish(last)

    def __call__(self, image: av.VideoFrame) -> av.VideoFrame:
        """The picture of a frame, which is not changed, with the regions that were set last."""
        assert self._graph is not None, "regions were not set"
        if self.size != (image.width, image.height):
            image = grown(image, *self.size)
        return self._graph.run(image)
