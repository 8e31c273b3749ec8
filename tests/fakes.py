"""A model for tests that need none: its map of a frame is the frame itself, in grey.

So a map carries the bar code of the frame it belongs to, and costs nothing to compute.
"""

import numpy as np
import torch
from torch import Tensor

from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD

SCALE = 0.2
"""Map value of white."""


class GreyModel:
    """`Backend` with a map for each of a clip's 16 frames: (N, 3, 16, H, W) -> (N, 16, H, W) in 0 to `SCALE`."""

    maps_per_clip = 16

    def __init__(self) -> None:
        self.clips = 0

    def __call__(self, clips: Tensor) -> Tensor:
        self.clips += len(clips)
        mean, std = (torch.tensor(v)[:, None, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (clips * std + mean).clamp(0, 1).mean(1) * SCALE


def as_picture(saliency: np.ndarray) -> np.ndarray:
    """A map of `GreyModel`, (H, W), as the RGB picture that it was: uint8 (H, W, 3)."""
    grey = np.rint(np.clip(saliency / SCALE, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
