"""Starting weights: ImageNet MobileNetV2 inflated for the encoder, and norms with which decoders start well."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tinyhd.errors import WeightsError
from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD
from tinyhd.network.layers import ConvNorm
from tinyhd.network.model import TinyHD


def load_folded_mobilenet(path: Path) -> list[tuple[Tensor, Tensor]]:
    """The 52 convolutions (weight, bias) of a MobileNetV2 1.0 with BatchNorm folded, in the network's order.

    Args:
        path: .npz with keys `features.<layer>...weight` and `.bias`; the network takes RGB in [-1, 1].

    Raises:
        WeightsError: the file is missing or is no such network.
    """
    try:
        with np.load(path) as stored:
            arrays = {key: stored[key].astype(np.float32) for key in stored.files}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a folded MobileNetV2 (.npz): {error}") from error
    names = [k.removesuffix(".weight") for k in arrays if k.startswith("features.") and k.endswith(".weight")]
    names.sort(key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    if len(names) != 52:
        raise WeightsError(f"{path} holds {len(names)} convolutions; a MobileNetV2 has 52.")
    return [(torch.from_numpy(arrays[f"{n}.weight"]), torch.from_numpy(arrays[f"{n}.bias"])) for n in names]


def reduced(weight: Tensor, shape: torch.Size) -> Tensor:
    """A weight (n, m, kt, k, k) averaged over groups of channels to `shape`, as the paper reduces channels."""
    if weight.shape == shape:
        return weight
    return weight.reshape(-1, *shape).mean(0)


@torch.no_grad()
def inflate_imagenet(model: TinyHD, path: Path, clips: Tensor) -> None:
    """Sets the encoder to MobileNetV2 inflated along time.

    Each kernel is repeated along time and, unlike in the paper, divided by its length, so that a still clip gives what
    the image network gives. The folded norms come back from data: one pass over `clips` sets each BatchNorm such that
    its output has the image network's scale and offset.

    Args:
        model: its encoder is changed in place.
        path: see `load_folded_mobilenet`.
        clips: (N, 3, 16, H, W) normalized clips.

    Raises:
        WeightsError: the file is no MobileNetV2.
    """
    layers = [m for m in model.encoder.modules() if isinstance(m, ConvNorm)]
    handles = []
    for k, (layer, (weight, bias)) in enumerate(zip(layers, load_folded_mobilenet(path), strict=True)):
        if k == 0:  # it takes [-1, 1] where ours takes ImageNet's normalization: 2 (std x + mean) - 1
            std, mean = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_STD, IMAGENET_MEAN))
            bias = bias + (weight * (2 * mean - 1)).sum((1, 2, 3))
            weight = weight * 2 * std
        time = layer.conv.kernel_size[0]
        inflated = weight[:, :, None].expand(-1, -1, time, -1, -1) / time
        layer.conv.weight.copy_(reduced(inflated, layer.conv.weight.shape))
        offset = bias.reshape(-1, layer.norm.num_features).mean(0)
        handles.append(layer.norm.register_forward_pre_hook(_matching(offset)))
    model.encoder.train()
    model.encoder(clips.contiguous(memory_format=torch.channels_last_3d))
    for handle in handles:
        handle.remove()


def _matching(offset: Tensor):  # type: ignore[no-untyped-def]
    def hook(norm: nn.BatchNorm3d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3, 4), correction=0)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean + offset.to(mean))

    return hook


@torch.no_grad()
def take_statistics(model: TinyHD, clips: Tensor) -> None:
    """Gives every norm the statistics of what it gets of `clips`, and a gain and offset with which it computes what it
    did. Models that come with the package need it before their norms see batches: theirs are folded into the
    convolutions.

    Args:
        model: changed in place, left in eval mode.
        clips: (N, 3, 16, H, W) normalized clips.
    """

    def take(norm: nn.BatchNorm3d, inputs: tuple[Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        offset = norm.bias - norm.running_mean * gain
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3, 4), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(gain * (variance + norm.eps).sqrt())
        norm.bias.copy_(offset + mean * gain)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    model.eval()(clips)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def start_decoders(model: TinyHD) -> None:
    """Sets the decoders' last norms and the fusion near where trained networks end.

    With PyTorch's defaults the fused map stays uniform for hundreds of steps: every decoder's sigmoid starts at one
    half everywhere. Trained networks end with small maps on a dark ground.
    """
    for name, last, weight, bias in (
        ("d1", (3, 7, 11, 15), 2.0, -4.5),
        ("d2", (23,), 1.5, -1.0),
        ("d3", (36,), 1.5, -1.0),
    ):
        if name in model.decoders:
            for number in last:
                norm = model.decoders[name].blocks[str(number)].project.norm  # type: ignore[union-attr,index]
                norm.weight.fill_(weight)
                norm.bias.fill_(bias)
    strength = {"d1": [1.0] * 4, "d2": [3.0], "d3": [3.0]}
    values = [w for name in model.config.fusion_order for w in strength[name]]
    model.fusion.weight.copy_(torch.tensor(values).view_as(model.fusion.weight))
    model.fusion.bias.fill_(-4.5)  # type: ignore[union-attr]
