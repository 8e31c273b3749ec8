"""PNG files."""

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext


def encode_png(pixels: np.ndarray, *, fast: bool = False) -> bytes:
    """An image as the content of a PNG file.

    Args:
        pixels: uint8 (H, W, 3), RGB, or uint8 or uint16 (H, W), gray.
        fast: in less than half the time, but a fifth larger (measured on maps).
    """
    kind = {(3, "uint8"): "rgb24", (2, "uint8"): "gray", (2, "uint16"): "gray16be"}[pixels.ndim, pixels.dtype.name]
    context = av.CodecContext.create("png", "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt, context.time_base = kind, Fraction(1, 25)
    if fast:
        context.options = {"pred": "up", "compression_level": "2"}
    source = "gray16le" if kind == "gray16be" else kind
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=source)
    if source != kind:
        frame = frame.reformat(format=kind)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
