"""A model for tests that need none: its map of a frame is the frame itself, in gray.

So a map carries the bar code of the frame it belongs to, and costs nothing to compute.
"""

from typing import TYPE_CHECKING

import numpy as np

from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from tinyhd.network.model import TinyHD

SCALE = 0.2
"""Map value of white."""


class FakeBackend:
    """What every `Backend` has besides its function."""

    maps_per_clip = 16
    map_shape = (192, 256)
    display_scale = SCALE
    sampling_rate = 0.0
    model_name = "fake"
    model_hash = "sha256:" + "0" * 64


class GrayModel(FakeBackend):
    """`Backend` with a map for each of a clip's 16 frames: (N, 3, 16, H, W) -> (N, 16, H, W) in 0 to `SCALE`."""

    def __init__(self, sampling_rate: float = 0.0) -> None:
        self.clips = 0
        self.sampling_rate = sampling_rate

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.clips += len(clips)
        mean, std = (np.array(v, np.float32)[:, None, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (clips * std + mean).clip(0, 1).mean(1) * np.float32(SCALE)


def small_network() -> "TinyHD":
    """A network with random weights that is quick and whose maps are not constant."""
    import torch

    from tinyhd.network.config import TinyHDConfig
    from tinyhd.network.model import TinyHD

    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("norm.weight"):
                weights.mul_(3)
    return model


def as_picture(saliency: np.ndarray) -> np.ndarray:
    """A map of `GrayModel`, (H, W), as the RGB picture that it was: uint8 (H, W, 3)."""
    gray = np.rint(np.clip(saliency / SCALE, 0, 1) * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)
