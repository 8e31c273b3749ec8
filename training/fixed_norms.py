"""Fine-tuning with fixed statistics of the norms, in half the time on a CPU.

With fixed statistics a BatchNorm is a factor and an offset, which are taken into the weights of the convolution before
it, anew at every step: the weights, gains and biases still learn, small batches do no harm, the network computes what
it will compute later, and no pass over the activations is needed. The depthwise convolutions are computed as PyTorch's
3-D ones, whose backward pass is slow, so that one is made of 2-D ones.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyhd.network.layers import ConvNorm, from_frames, to_frames


class _Depthwise(torch.autograd.Function):
    """A depthwise 3-D convolution; backward tap by tap in 2-D, added in place."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: tuple[int, int, int],
        padding: tuple[int, int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        (step, *stride), (pad, *padding) = ctx.stride, ctx.padding
        clips, channels, length = x.shape[:3]
        taps, out_length = weight.shape[2], gradient.shape[2]
        of_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight)
        for tap in range(taps):
            first = max(0, -((tap - pad) // step))  # ceil((pad - tap) / step)
            last = min(out_length - 1, (length - 1 + pad - tap) // step)
            if last < first:
                continue
            start = first * step - pad + tap
            seen = slice(start, start + (last - first) * step + 1, step)
            part_of_x, of_weight[:, :, tap], _ = torch.ops.aten.convolution_backward(
                to_frames(gradient[:, :, first : last + 1]),
                to_frames(x[:, :, seen]),
                weight[:, :, tap],
                None,
                stride,
                padding,
                [1, 1],
                False,
                [0, 0],
                channels,
                [of_x is not None, True, False],
            )
            if of_x is not None:
                of_x[:, :, seen] += from_frames(part_of_x, clips)
        exact = torch.promote_types(gradient.dtype, torch.float32)
        of_bias = gradient.sum((0, 2, 3, 4), dtype=exact).to(weight.dtype)
        return of_x, of_weight, of_bias, None, None


class _FixedConvNorm(ConvNorm):
    """A `ConvNorm` whose norm's statistics stay as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, T, H, W) -> (N, out, T', H', W')."""
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = conv.weight * gain.view(-1, 1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * gain
        if conv.kernel_size == (1, 1, 1):
            y = from_frames(F.conv2d(to_frames(x), weight[:, :, 0], bias), len(x))
        elif conv.groups > 1 and torch.is_grad_enabled() and weight.requires_grad:
            y = _Depthwise.apply(x, weight.to(x.dtype), bias.to(x.dtype), conv.stride, conv.padding)
        else:
            x = x.contiguous(memory_format=torch.channels_last_3d)
            y = F.conv3d(x, weight.to(x.dtype), bias.to(x.dtype), conv.stride, conv.padding, 1, conv.groups)
        return F.relu6(y) if self.act else y


def fix_norms(model: nn.Module) -> None:
    """Have all norms of `model` keep their statistics, in training too. Its state dict stays of the same form."""
    for module in model.modules():
        if isinstance(module, ConvNorm):
            module.__class__ = _FixedConvNorm
