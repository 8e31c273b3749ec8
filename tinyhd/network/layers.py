"""Building blocks of TinyHD: inflated convolutions, the inverted-residual block, shuffles and upsampling.

Feature maps are shaped (N, C, T, H, W) everywhere. In memory they are channels-last, which makes the frames of all
clips one batch of 2-D images at no cost: PyTorch's depthwise 3-D convolutions are slow on CPU and GPU alike, so
convolutions are computed as 2-D ones over that batch, one for each temporal tap (`FrameConv3d`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary


def to_frames(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N*T, C, H, W); a view where `x` is channels-last."""
    n, c, t, h, w = x.shape
    return x.transpose(1, 2).reshape(n * t, c, h, w)


def from_frames(x: Tensor, clips: int) -> Tensor:
    """(N*T, C, H, W) -> (N, C, T, H, W), the inverse of `to_frames`."""
    frames, c, h, w = x.shape
    return x.reshape(clips, frames // clips, c, h, w).transpose(1, 2)


class FrameConv3d(nn.Conv3d):
    """`nn.Conv3d` without dilation, computed as 2-D convolutions over frames, one for each temporal tap.

    Same weights and, but for the order of float additions, the same
    result. `plain = True` computes it as PyTorch's own 3-D convolution instead, which is faster where nothing is
    trained.
    """

    plain = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, T, H, W) -> (N, out, T', H', W')."""
        if self.plain:
            return super().forward(x)
        clips, _, length, _, _ = x.shape
        taps, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        out_length = (length + 2 * padding - taps) // stride + 1
        stride_hw, padding_hw = self.stride[1:], self.padding[1:]
        result: Tensor | None = None
        # The tap that meets every output frame comes first: the others are added onto parts of its result.
        for tap in sorted(range(taps), key=lambda k: abs(k - padding)):
            first = max(0, -((tap - padding) // stride))  # ceil((padding - tap) / stride)
            last = min(out_length - 1, (length - 1 + padding - tap) // stride)
            if last < first:
                continue
            start = first * stride - padding + tap
            part = x[:, :, start : start + (last - first) * stride + 1 : stride]
            bias = self.bias if result is None else None
            y = F.conv2d(to_frames(part), self.weight[:, :, tap], bias, stride_hw, padding_hw, 1, self.groups)
            y = from_frames(y, clips)
            if result is None:
                result = y
                assert (first, last) == (0, out_length - 1), "the center tap meets every frame"
            elif (first, last) == (0, out_length - 1):
                result = result + y
            else:
                result = result + F.pad(y, (0, 0, 0, 0, first, out_length - 1 - last))
        assert result is not None
        return result


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm (eps 1e-5, momentum 0.1) and, unless `act` is False, ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (0, 0, 0),
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = FrameConv3d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm3d(out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, T, H, W) -> (N, out, T', H', W')."""
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.act else x


class InvertedResidual(nn.Module):
    """MobileNetV2's block, inflated: 1x1x1 expand, depthwise, 1x1x1 project (Sandler et al., CVPR 2018).

    `residual` adds the input to the output; without `expand` the first convolution is left out (MobileNetV2's
    first block, where `hidden` equals `in_channels`).
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        kernel_size: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (1, 1, 1),
        residual: bool = False,
        expand: bool = True,
    ) -> None:
        super().__init__()
        self.expand = ConvNorm(in_channels, hidden) if expand else None
        self.depthwise = ConvNorm(hidden, hidden, kernel_size, stride, padding, groups=hidden)
        self.project = ConvNorm(hidden, out_channels, act=False)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, T, H, W) -> (N, out, T', H', W')."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


def pixel_shuffle(x: Tensor) -> Tensor:
    """(N, 4C, T, H, W) -> (N, C, T, 2H, 2W), each frame by itself (Shi et al., CVPR 2016)."""
    if has_torch_function_unary(x):
        return handle_torch_function(pixel_shuffle, (x,), x)
    return from_frames(F.pixel_shuffle(to_frames(x), 2), x.shape[0])


def upsample_space(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N, C, T, 2H, 2W), bilinear with aligned corners."""
    if has_torch_function_unary(x):
        return handle_torch_function(upsample_space, (x,), x)
    y = F.interpolate(to_frames(x), scale_factor=2, mode="bilinear", align_corners=True)
    return from_frames(y, x.shape[0])


def upsample_time(x: Tensor) -> Tensor:
    """(N, C, T, H, W) -> (N, C, 2T, H, W), linear with aligned corners (a single frame is repeated)."""
    if has_torch_function_unary(x):
        return handle_torch_function(upsample_time, (x,), x)
    length = x.shape[2]
    if length == 1:
        return x.expand(-1, -1, 2, -1, -1)
    # 2T positions spread over 0..T-1; written as weights, since PyTorch's trilinear kernel is slow for time alone
    position = torch.arange(2 * length, dtype=torch.float64) * ((length - 1) / (2 * length - 1))
    below = position.floor().long().clamp(max=length - 2)
    weight = (position - below).to(x.device, x.dtype).view(1, 1, -1, 1, 1)
    below = below.to(x.device)
    return torch.lerp(x.index_select(2, below), x.index_select(2, below + 1), weight)
