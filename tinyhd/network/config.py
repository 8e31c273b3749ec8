"""What a TinyHD network is made of, and the sizes it works with. No PyTorch."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from tinyhd.errors import OptionError

CLIP_LENGTH = 16
"""Frames that the network sees at once."""

MAP_HEIGHT, MAP_WIDTH = 192, 256
"""Size in pixels of the frames that the published models were trained on, and of the maps they give."""

CLIP_SHAPE = (3, CLIP_LENGTH, MAP_HEIGHT, MAP_WIDTH)
"""Of one clip, as the network takes it."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values in [0, 1], which inputs are normalized with."""

DECODERS = ("d1", "d2", "d3")


@dataclass(frozen=True)
class TinyHDConfig:
    """What a TinyHD network is made of; stored with its weights.

    Raises:
        OptionError: a field has a value that no TinyHD has.
    """

    multi_output: bool = True
    """True: one map for each of the clip's 16 frames (the paper's M); False: one map, for the last frame (S)."""
    channel_reduction: int = 1
    """Divisor of the encoder's channel counts: 1, 2 or 4."""
    decoders: tuple[str, ...] = DECODERS
    """The decoders that are fused: any non-empty subset of d1, d2, d3, in that order."""
    fusion_order: tuple[str, ...] = ()
    """Order in which the fusion weights take the decoders' maps; () for the order of `decoders`."""
    output_stride: int = 1
    """Input pixels per map pixel: 1 as published; 2 or 4 leave out the last one or two upsampling stages of every
    decoder, and the last upsampling in time, which then comes after the fusion (not in the paper: most of the cost
    and little of the accuracy lies there)."""
    display_scale: float = 0.2
    """Map value that is drawn as full attention where maps are not normalized: their usual maximum."""
    sampling_rate: float = 0.0
    """Frames a second that it was trained on, and that it sees of a video where nothing else is asked for; 0: every
    frame, whatever the frame rate."""

    def __post_init__(self) -> None:
        # JSON has lists only
        object.__setattr__(self, "decoders", tuple(self.decoders))
        object.__setattr__(self, "fusion_order", tuple(self.fusion_order) or self.decoders)
        if self.channel_reduction not in (1, 2, 4):
            raise OptionError(f"channel_reduction is {self.channel_reduction!r}; it must be 1, 2 or 4.")
        if not self.decoders or self.decoders != tuple(d for d in DECODERS if d in self.decoders):
            raise OptionError(f"decoders is {self.decoders!r}; it must be one or more of {DECODERS}, in that order.")
        if sorted(self.fusion_order) != sorted(self.decoders):
            raise OptionError(f"fusion_order is {self.fusion_order!r}; it must hold each of {self.decoders} once.")
        if self.output_stride not in (1, 2, 4):
            raise OptionError(f"output_stride is {self.output_stride!r}; it must be 1, 2 or 4.")
        if not 0 <= self.sampling_rate < math.inf:
            raise OptionError(f"sampling_rate is {self.sampling_rate!r}; it must be 0 or more.")

    @property
    def maps_per_clip(self) -> int:
        """Maps per clip: 16, or 1 that belongs to the clip's last frame."""
        return CLIP_LENGTH if self.multi_output else 1

    @property
    def map_shape(self) -> tuple[int, int]:
        """Height and width of the maps, in pixels."""
        return MAP_HEIGHT // self.output_stride, MAP_WIDTH // self.output_stride

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)
