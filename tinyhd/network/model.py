"""The TinyHD network (Hu et al., "TinyHD: Efficient Video Saliency Prediction with Heterogeneous Decoders using
Hierarchical Maps Distillation", WACV 2023): an inflated MobileNetV2 encoder, three different decoders and their fusion.

Shapes are (N, C, T, H, W) unless said. The comments name features and blocks as the paper's published files do:
x0..x3 are the encoder's hierarchical features, b0..b36 the decoders' blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyhd.network.config import CLIP_LENGTH, TinyHDConfig
from tinyhd.network.layers import ConvNorm, FrameConv3d, InvertedResidual, pixel_shuffle, upsample_space, upsample_time


@dataclass
class TinyHDOutput:
    """Maps with values in (0, 1), meaningful up to scale; K is 16 (M) or 1 (S), H and W the input's over the stride."""

    fused: Tensor
    """(N, K, H, W)."""
    decoders: dict[str, Tensor] = field(default_factory=dict)
    """d1: (N, 4, H, W), its four hierarchical maps; d2 and d3: (N, K, H, W)."""


# MobileNetV2's stages, inflated: (channels, blocks, stride of the first one) at channel reduction 1
_ENCODER_STAGES: tuple[tuple[int, int, tuple[int, int, int]], ...] = (
    (24, 2, (1, 2, 2)),
    (32, 3, (2, 2, 2)),
    (64, 4, (2, 2, 2)),
    (96, 3, (1, 1, 1)),
    (160, 3, (1, 2, 2)),
    (320, 1, (1, 1, 1)),
)


class Encoder(nn.Module):
    """MobileNetV2 inflated to 3-D; gives the hierarchical features x0..x3."""

    def __init__(self, config: TinyHDConfig) -> None:
        super().__init__()
        rc = config.channel_reduction
        stem, channels = 32 // rc, 16 // rc
        layers: list[nn.Module] = [
            ConvNorm(3, stem, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
            InvertedResidual(stem, stem, channels, expand=False),
        ]
        blocks = [(out // rc, first if k == 0 else (1, 1, 1)) for out, n, first in _ENCODER_STAGES for k in range(n)]
        for index, (out, stride) in enumerate(blocks, start=2):
            kernel, padding = (3, 3, 3), (1, 1, 1)
            if config.multi_output and index >= 14:  # M: the clip's time shrinks to one step here
                kernel, padding = ((2, 3, 3) if index == 14 else (1, 3, 3)), (0, 1, 1)
            residual = stride == (1, 1, 1) and channels == out
            layers.append(
                InvertedResidual(
                    *(channels, 6 * channels, out),
                    kernel_size=kernel,
                    stride=stride,
                    padding=padding,
                    residual=residual,
                )
            )
            channels = out
        layers.append(ConvNorm(channels, 1280 // rc))
        self.layers = nn.ModuleList(layers)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, 16, H, W) -> x0 (N, 28/rc, 8, H/2, W/2), x1 (N, 24/rc, 4, H/4, W/4), x2 (N, 136/rc, 2, H/8, W/8),
        x3 (N, 520/rc, 1 for M or 2 for S, H/16, W/16)."""
        outputs = []
        x = clip
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        g0 = outputs[1]
        g1, g2, g3, g4 = (torch.cat(outputs[a:b], 1) for a, b in ((2, 4), (4, 7), (7, 14), (14, 19)))
        x0 = torch.cat([g0, pixel_shuffle(g1)], 1)
        return x0, pixel_shuffle(g2), pixel_shuffle(g3), pixel_shuffle(g4)


def feature_channels(config: TinyHDConfig) -> tuple[int, int, int, int]:
    """Channels of x0, x1, x2, x3."""
    rc = config.channel_reduction
    return 28 // rc, 24 // rc, 136 // rc, 520 // rc


# temporal forms of a decoder block's depthwise convolution: (kernel, stride, padding)
_K3, _K3S2, _K1 = (3, 1, 1), (3, 2, 1), (1, 1, 0)


def _block(in_channels: int, out_channels: int, time: tuple[int, int, int]) -> InvertedResidual:
    kernel, stride, padding = time
    return InvertedResidual(
        in_channels,
        2 * in_channels,
        out_channels,
        kernel_size=(kernel, 3, 3),
        stride=(stride, 1, 1),
        padding=(padding, 1, 1),
    )


class Decoder(nn.Module):
    """Base of the three decoders: `blocks` are keyed by their number in the published files."""

    def __init__(self, shapes: dict[int, tuple[int, int]], forms: dict[int, tuple[int, int, int]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(i): _block(*shapes[i], forms[i]) for i in shapes})

    def b(self, index: int, x: Tensor) -> Tensor:
        """Block `index` applied to `x`."""
        return self.blocks[str(index)](x)


class HierarchicalDecoder(Decoder):
    """D1, after HD2S: four independent branches, one map each. Every branch collapses time to one step."""

    def __init__(self, config: TinyHDConfig) -> None:
        c0, c1, c2, _ = feature_channels(config)
        rc = config.channel_reduction
        c3 = {1: 130, 2: 65, 4: 130}[rc]  # x3 has 520, 260 or 130 channels; a shuffle (rc 1 and 2) leaves a quarter
        # Per branch: input channels, then the blocks' outputs; a block that feeds a shuffle has four times the channels
        # that the next one takes. Left-out stages (output_stride) are the last shuffles of each branch.
        skip = {1: 0, 2: 1, 4: 2}[config.output_stride]
        plans = (
            ((0, 1, 2, 3), c0, (24, 12, 24, 1), (False, True, False)),
            ((4, 5, 6, 7), c1, (14, 14, 28, 1), (True, True, False)),
            ((8, 9, 10, 11), c2, (14, 14, 14, 1), (True, True, True)),
            ((12, 13, 14, 15), c3, (34, 34, 34, 1), (True, True, True)),
        )
        shapes: dict[int, tuple[int, int]] = {}
        self.shuffled: set[int] = set()
        for numbers, channels, outs, shuffles in plans:
            places = [k for k, shuffle in enumerate(shuffles) if shuffle]
            kept = places[: max(0, len(places) - skip)]
            for k, (number, out) in enumerate(zip(numbers, outs, strict=True)):
                shapes[number] = (channels, 4 * out if k in kept else out)
                channels = out
                if k in kept:
                    self.shuffled.add(number)
        last = _K3 if config.multi_output else _K1
        forms = {i: _K3S2 if i in (0, 2, 3, 4, 6, 8) else last for i in shapes}
        if not config.multi_output:
            forms[12] = _K3S2
        super().__init__(shapes, forms)
        self.branches = tuple(numbers for numbers, *_ in plans)
        self.up = upsample_space if rc == 4 else pixel_shuffle

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """x0..x3 -> (N, 4, 1, H, W) before the sigmoid."""
        x0, x1, x2, x3 = features
        maps = []
        for numbers, x in zip(self.branches, (x0, x1, x2, self.up(x3)), strict=True):
            for number in numbers:
                x = self.b(number, x)
                if number in self.shuffled:
                    x = pixel_shuffle(x)
            maps.append(x)
        return torch.cat(maps, 1)


class UNetDecoder(Decoder):
    """D2, after U-Net: from the coarsest features up, adding finer ones on the way."""

    def __init__(self, config: TinyHDConfig) -> None:
        c0, c1, c2, c3 = feature_channels(config)
        rc, stride = config.channel_reduction, config.output_stride
        shuffle_last = rc == 1 and stride == 1
        shapes = {
            16: (c3, 4 * c2),
            17: (c2, 4 * c1),
            18: (c1, c1),
            19: (c1, 4 * c0 if stride < 4 else c0),
            20: (c0, c0),
            21: (c0, c0),
            22: (c0, c0),
            23: (c0 // 4 if shuffle_last else c0, 1),
        }
        form = _K3 if config.multi_output else _K1
        forms = dict.fromkeys((16, 17, 19), form)
        forms |= dict.fromkeys((18, 20, 21, 22, 23), _K3 if config.multi_output else _K3S2)
        super().__init__(shapes, forms)
        self.time: Callable[[Tensor], Tensor] = upsample_time if config.multi_output else _same
        self.shuffle_finest = stride < 4
        self.up_last: Callable[[Tensor], Tensor] = _same
        if stride == 1:
            self.up_last = pixel_shuffle if shuffle_last else upsample_space
        self.time_last = self.time if stride == 1 else _same

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """x0..x3 -> (N, 1, T, H, W) before the sigmoid; T is 16 (M; 8 at output_stride > 1) or 1 (S)."""
        x0, x1, x2, x3 = features
        y = self.time(pixel_shuffle(self.b(16, x3))) + x2
        y = self.time(pixel_shuffle(self.b(17, y))) + self.b(18, x1)
        y = self.b(19, y)
        y = self.time(pixel_shuffle(y) if self.shuffle_finest else y) + self.b(21, self.b(20, x0))
        y = self.time_last(self.up_last(self.b(22, y)))
        return self.b(23, y)


class AggregationDecoder(Decoder):
    """D3, after deep layer aggregation: neighboring resolutions are merged level by level."""

    def __init__(self, config: TinyHDConfig) -> None:
        c0, c1, c2, c3 = feature_channels(config)
        rc, stride = config.channel_reduction, config.output_stride
        # channels of p0..p3: `u` divides them by four where it is a shuffle (rc 1)
        p0, p1, p2, p3 = (c // 4 if rc == 1 else c for c in (c0, c1, c2, c3))
        # channels of q0..q2; the blocks that lead there are four times as wide where a shuffle follows
        q0, q1, q2 = 2, 8, 32
        shapes = {24: (c0, p1), 25: (c1, p2), 26: (c2, p3)}
        shapes |= {27: (p1, 4 * q0), 28: (p2, 4 * q1), 29: (p3, 4 * q2), 30: (p0, q0), 31: (p1, q1), 32: (p2, q2)}
        shapes |= {33: (q0, q0), 34: (q1, q1), 35: (q0, q0), 36: (q0, 1)}
        if stride == 2:  # without the finest level
            shapes = {i: shapes[i] for i in (24, 25, 26, 28, 29, 31, 32, 34)} | {36: (q1, 1)}
        if stride == 4:  # without the two finest levels
            shapes = {i: shapes[i] for i in (25, 26, 29, 32)} | {36: (q2, 1)}
        k1_in_s = (26, 27, 28, 36)
        forms = {i: _K3 if config.multi_output else (_K1 if i in k1_in_s else _K3S2) for i in shapes}
        super().__init__(shapes, forms)
        self.stride = stride
        self.up: Callable[[Tensor], Tensor] = pixel_shuffle if rc == 1 else upsample_space
        self.time: Callable[[Tensor], Tensor] = upsample_time if config.multi_output else _same

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """x0..x3 -> (N, 1, T, H, W) before the sigmoid; T is 16 (M; 8 or 4 at output_stride 2 or 4) or 1 (S)."""

        def u(x: Tensor) -> Tensor:
            return self.time(self.up(x))

        def v(x: Tensor) -> Tensor:
            return self.time(pixel_shuffle(x))

        x0, x1, x2, x3 = features
        p2 = u(x2) + self.b(25, x1)
        p3 = u(x3) + self.b(26, x2)
        q2 = v(self.b(29, p3)) + self.b(32, p2)
        if self.stride == 4:
            return self.b(36, q2)
        p1 = u(x1) + self.b(24, x0)
        q1 = v(self.b(28, p2)) + self.b(31, p1)
        r1 = v(q2) + self.b(34, q1)
        if self.stride == 2:
            return self.b(36, r1)
        q0 = v(self.b(27, p1)) + self.b(30, u(x0))
        r0 = v(q1) + self.b(33, q0)
        return self.b(36, v(r1) + self.b(35, r0))


def _same(x: Tensor) -> Tensor:
    return x


_DECODER_CLASSES: dict[str, Callable[[TinyHDConfig], Decoder]] = {
    "d1": HierarchicalDecoder,
    "d2": UNetDecoder,
    "d3": AggregationDecoder,
}
_MAPS_OF = {"d1": 4, "d2": 1, "d3": 1}


class TinyHD(nn.Module):
    """The whole network. Inputs must be multiples of 32 high and wide (192x256 as published) and 16 frames long."""

    def __init__(self, config: TinyHDConfig | None = None) -> None:
        super().__init__()
        self.config = config or TinyHDConfig()
        self.encoder = Encoder(self.config)
        self.decoders = nn.ModuleDict({name: _DECODER_CLASSES[name](self.config) for name in self.config.decoders})
        self.fusion = nn.Conv2d(sum(_MAPS_OF[name] for name in self.config.decoders), 1, 1)

    def forward(self, clip: Tensor) -> TinyHDOutput:
        """(N, 3, 16, H, W), normalized with ImageNet's mean and standard deviation -> maps.

        Raises:
            ValueError: the clip does not have 16 frames or H or W is no multiple of 32.
        """
        length, height, width = clip.shape[2:]
        if length != CLIP_LENGTH or height % 32 or width % 32:
            raise ValueError(f"a clip is (N, 3, 16, H, W) with H and W multiples of 32, not {tuple(clip.shape)}")
        first = self.encoder.layers[0]
        if isinstance(first, ConvNorm) and not first.conv.plain:
            clip = clip.contiguous(memory_format=torch.channels_last_3d)
        features = self.encoder(clip)
        if self.config.output_stride == 4:  # the finest features are finer than the maps
            features = (F.avg_pool3d(features[0], (1, 2, 2)), *features[1:])
        maps = {name: torch.sigmoid(decoder(features)) for name, decoder in self.decoders.items()}
        steps = max(m.shape[2] for m in maps.values())
        if self.config.multi_output and self.config.output_stride > 1:
            steps = CLIP_LENGTH // 2
        # one 1x1 convolution over the maps of each time step, as a sum: a single map is not repeated for it
        weights = self.fusion.weight.view(-1, 1, 1, 1).split([maps[name].shape[1] for name in self.config.fusion_order])
        assert self.fusion.bias is not None
        total = self.fusion.bias.view(1, 1, 1, 1, 1)
        for name, weight in zip(self.config.fusion_order, weights, strict=True):
            total = total + (weight * _at_steps(maps[name], steps, repeat=False)).sum(1, keepdim=True)
        fused = torch.sigmoid(total)
        target = self.config.maps_per_clip
        per_decoder = {name: m[:, :, 0] if name == "d1" else _at_steps(m, target)[:, 0] for name, m in maps.items()}
        return TinyHDOutput(_at_steps(fused, target)[:, 0], per_decoder)


def _at_steps(maps: Tensor, steps: int, repeat: bool = True) -> Tensor:
    """Maps (N, C, T, H, W) at `steps` moments: doubled in time as often as needed, one map repeated (or left as it
    is)."""
    if maps.shape[2] == 1:
        return maps.expand(-1, -1, steps, -1, -1) if repeat else maps
    while maps.shape[2] < steps:
        maps = upsample_time(maps)
    return maps


def plain_convolutions(model: nn.Module, plain: bool) -> None:
    """Have `model` compute with PyTorch's own 3-D convolutions, or not."""
    for module in model.modules():
        if isinstance(module, FrameConv3d):
            module.plain = plain
