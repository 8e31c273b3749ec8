"""From decoded frames to what the network and the cut detection look at, with FFmpeg's scaler."""

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from tinyhd.inference.shots import THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH
from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD, MAP_HEIGHT, MAP_WIDTH
from tinyhd.video.frame import Frame

_STD: np.ndarray = np.array(IMAGENET_STD, np.float32)[:, None, None]
_SCALE = 1 / (255 * _STD)
_OFFSET = np.array(IMAGENET_MEAN, np.float32)[:, None, None] / _STD


def normalize_rgb(rgb: np.ndarray) -> np.ndarray:
    """8-bit RGB, (H, W, 3), as the network takes it: float32 (3, H, W), normalized with ImageNet's statistics."""
    result = np.empty((3, *rgb.shape[:2]), np.float32)
    np.multiply(rgb.transpose(2, 0, 1), _SCALE, out=result)
    result -= _OFFSET
    return result


class Preprocessor:
    """Scales the frames of one video. The scalers are kept open, since their tables depend on sizes and formats."""

    def __init__(self) -> None:
        self._image_scaler = VideoReformatter()
        self._thumbnail_scaler = VideoReformatter()

    def rgb(self, frame: Frame) -> np.ndarray:
        """A frame scaled to 192x256 whatever its aspect ratio, bilinear with antialiasing: uint8 (192, 256, 3)."""
        image = self._image_scaler.reformat(
            frame.image, MAP_WIDTH, MAP_HEIGHT, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        return image.to_ndarray()

    def image(self, frame: Frame) -> np.ndarray:
        """A frame as the network takes it: float32 (3, 192, 256), `rgb` normalized with ImageNet's statistics."""
        return normalize_rgb(self.rgb(frame))

    def thumbnail(self, frame: Frame) -> np.ndarray:
        """What `mark_cuts` looks at: means of a frame's luma over a grid, uint8 (24, 32)."""
        small = self._thumbnail_scaler.reformat(
            frame.image, THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT, format="gray", interpolation=Interpolation.AREA
        )
        return small.to_ndarray()
