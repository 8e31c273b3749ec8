"""Maps as grayscale images and videos, for other programs and for viewers that color and stretch them."""

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np

from tinyhd.errors import OptionError
from tinyhd.files import AtomicOutput, writing
from tinyhd.options import EncoderOptions
from tinyhd.saliency.writers import MapsWriter, NpzWriter
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.png import encode_png
from tinyhd.video.writer import VIDEO_SUFFIXES, VideoWriter

DISPLAY_SIDE = 480
"""Largest side of what `encode_display_map` makes: enough to look smooth over a large frame, as maps have no detail."""

PNG_SCALE = 65535
"""Pixel value of a map value of 1 in 16-bit images; the models' maps lie between 0 and 1."""

_CRF = 10
_BT709, _LIMITED_RANGE = 1, 1  # numbers of ITU-T H.273 and FFmpeg


def encode_display_map(shown: np.ndarray, width: int, height: int) -> bytes:
    """A map as a gray 8-bit PNG that viewers stretch over its frame: the frame's aspect, no side over `DISPLAY_SIDE`.

    Args:
        shown: a map as it is displayed, float (H, W) in [0, 1].
        width, height: of the frame as shown, pixels.
    """
    scale = min(1.0, DISPLAY_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    gray = av.VideoFrame.from_ndarray(np.rint(shown * 255).astype(np.uint8), format="gray")
    return encode_png(gray.reformat(*size, interpolation="BICUBIC").to_ndarray(), fast=True)


class _ImagesWriter(AtomicOutput):
    """A folder of 16-bit gray images, 000000.png, 000001.png ...: map value times `PNG_SCALE`."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        super().__init__(path, overwrite=overwrite, folder=True)
        self._count = 0

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        pixels = np.rint(np.clip(saliency, 0, 1) * PNG_SCALE).astype(np.uint16)
        with writing(self.path):
            (self.temporary / f"{self._count:06d}.png").write_bytes(encode_png(pixels))
        self._count += 1


class GrayVideoWriter:
    """A gray video of the maps as displayed, in [0, 1] (8 bits), at the times of the frames."""

    def __init__(self, path: Path, overwrite: bool, info: VideoInfo, shape: tuple[int, int], start: Fraction) -> None:
        self._start = start
        height, width = shape
        shown = info.sample_aspect_ratio * Fraction(info.width, info.height)
        gray = replace(
            info,
            sample_aspect_ratio=shown / Fraction(width, height),
            colorspace=_BT709,
            color_range=_LIMITED_RANGE,
            color_trc=_BT709,
            color_primaries=_BT709,
        )
        options = EncoderOptions(crf=_CRF)
        self._video = VideoWriter(
            path, gray, size=(width, height), options=options, keep_source=False, overwrite=overwrite
        )

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        height, width = saliency.shape
        image = av.VideoFrame.from_ndarray(
            np.vstack(
                [
                    np.rint(16 + 219 * saliency).astype(np.uint8),
                    np.full((height // 2, width), 128, np.uint8),  # both chroma planes
                ]
            ),
            format="yuv420p",
        )
        self._video.write(image, frame.time - self._start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._video.__exit__(kind)


def open_maps_writer(
    target: str | os.PathLike[str],
    info: VideoInfo,
    shape: tuple[int, int],
    *,
    start: Fraction = Fraction(0),
    overwrite: bool = False,
) -> MapsWriter:
    """A writer for the maps (H, W) = `shape` of a video from `start` on, by the name of its target.

    - `x.npz`: `maps`, float16 (N, H, W), as the model gives them, and `time_seconds`, float64 (N,).
    - `folder/`, or a name without suffix: 000000.png ..., 16 bits gray, map value x 65535.
    - `x.mp4` (.m4v, .mov): a gray video of the maps as they are displayed, that is normalized, 8 bits; it starts
      at 0 as the annotated video does, while `time_seconds` is the source's.

    Raises:
        OptionError: the name ends in another way.
        OutputError: it cannot be written.
    """
    path = Path(target)
    if is_folder_name(target):
        return _ImagesWriter(path, overwrite)
    if path.suffix.lower() == ".npz":
        return NpzWriter(path, overwrite)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return GrayVideoWriter(path, overwrite, info, shape, start)
    raise OptionError(
        f"maps cannot be saved as {os.fspath(target)!r}: name a .npz file, a folder (ending in /) "
        "or a gray video (.mp4)."
    )


def is_folder_name(target: str | os.PathLike[str]) -> bool:
    """Whether the name of a target for maps means a folder: there is one, it ends in a slash, or has no suffix."""
    return Path(target).is_dir() or os.fspath(target).endswith(("/", os.sep)) or not Path(target).suffix
