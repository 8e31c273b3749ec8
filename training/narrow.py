"""A narrower TinyHD out of a wider one: the start of a small model, which then learns from the wide one's maps.

The channels that carry most are kept: of blocks those with the largest product of activation and weight (as Sun et
al., ICLR 2024, rank weights), of what blocks give to each other those that vary most. One pass over clips sets the
norms' statistics anew.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from tinyhd.errors import OptionError
from tinyhd.network.layers import ConvNorm, InvertedResidual
from tinyhd.network.model import TinyHD
from training.backbone import take_statistics

# encoder layers whose outputs are added or shuffled together, and how many neighboring channels must stay together:
# a shuffle makes one channel of four, and d1 shuffles the coarsest features twice
_STAGES = (((0,), 1), ((1,), 1), ((2, 3), 4), ((4, 5, 6), 4), ((7, 8, 9, 10), 4), ((11, 12, 13), 4))
_STAGES += (((14, 15, 16), 16), ((17,), 16), ((18,), 16))


@torch.no_grad()
def narrowed(wide: TinyHD, decoders: tuple[str, ...], clips: Tensor) -> TinyHD:
    """A TinyHD of half the width of `wide`.

    Args:
        wide: of channel reduction 1 and output stride 4. It is not changed.
        decoders: those of the new model; d1 and d2 come out of `wide`, d3, which is built otherwise where channels
            are reduced, starts from random weights.
        clips: (N, 3, 16, H, W) normalized clips.

    Returns:
        A model of channel reduction 2, in training mode.

    Raises:
        OptionError: `wide` is another one.
    """
    if (wide.config.channel_reduction, wide.config.output_stride) != (1, 4):
        raise OptionError(f"only models of channel reduction 1 and output stride 4 can be narrowed, not {wide.config}.")
    narrow = TinyHD(replace(wide.config, channel_reduction=2, decoders=decoders, fusion_order=())).to(
        wide.fusion.weight
    )
    wide = copy.deepcopy(wide)
    take_statistics(wide, clips)
    sizes = _sizes(wide, clips)
    kept = _narrow_encoder(wide, narrow, sizes)
    x0 = torch.cat([kept[1], 16 + _shuffled(kept, (2, 3), (24, 24))])
    x1 = _shuffled(kept, (4, 5, 6), (32, 32, 32))
    x2 = _shuffled(kept, range(7, 14), (64,) * 4 + (96,) * 3)
    x3 = _shuffled(kept, range(14, 19), (160, 160, 160, 320, 1280))
    inputs = {"d1": {0: x0, 4: x1, 8: x2, 12: _groups(x3, 4)}}
    inputs["d2"] = {16: x3, 17: x2, 18: x1, 19: x1, 20: x0, 21: x0, 22: x0, 23: x0}
    outputs = {"d2": {16: _channels(x2, 4), 17: _channels(x1, 4), 18: x1, 19: x0, 20: x0, 21: x0, 22: x0}}
    for name in set(decoders) & {"d1", "d2"} & set(wide.config.decoders):
        for number, block in narrow.decoders[name].blocks.items():  # type: ignore[union-attr,operator]
            source = wide.decoders[name].blocks[number]  # type: ignore[index,union-attr]
            into, out = inputs[name].get(int(number)), outputs.get(name, {}).get(int(number))
            _narrow_block(source, block, sizes, into, out)
    _take_fusion(wide, narrow)
    narrow.train()
    norms = [module for module in narrow.modules() if isinstance(module, nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0
    narrow(clips)
    for norm in norms:
        norm.momentum = 0.1
    return narrow


def _sizes(model: TinyHD, clips: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Root mean square and standard deviation of what each layer gives, by channel."""
    sizes = {}

    def measure(module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        variance, mean = torch.var_mean(output, (0, 2, 3, 4))
        sizes[module] = ((variance + mean**2).sqrt(), variance.sqrt())

    watched = [m for m in model.modules() if isinstance(m, ConvNorm | InvertedResidual)]
    handles = [module.register_forward_hook(measure) for module in watched]
    model.eval()(clips)
    for handle in handles:
        handle.remove()
    return sizes


def _narrow_encoder(wide: TinyHD, narrow: TinyHD, sizes: dict[nn.Module, tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    """Fills the narrow encoder; returns the channels that each layer keeps."""
    kept: dict[int, Tensor] = {}
    for layers, together in _STAGES:
        spread = sum(sizes[wide.encoder.layers[k]][1] for k in layers)
        assert isinstance(spread, Tensor)
        by_group = spread.view(-1, together).sum(1)
        chosen = _channels(by_group.topk(len(by_group) // 2).indices.sort().values, together)
        kept |= dict.fromkeys(layers, chosen)
    for k, (source, target) in enumerate(zip(wide.encoder.layers, narrow.encoder.layers, strict=True)):
        into = kept[k - 1] if k else None
        if isinstance(source, ConvNorm):
            assert isinstance(target, ConvNorm)
            _copy(source, target, kept[k], into)
        else:
            _narrow_block(source, target, sizes, into, kept[k])
    return kept


def _narrow_block(
    source: nn.Module,
    target: nn.Module,
    sizes: dict[nn.Module, tuple[Tensor, Tensor]],
    into: Tensor | None,
    out: Tensor | None,
) -> None:
    assert isinstance(source, InvertedResidual)
    assert isinstance(target, InvertedResidual)
    project = source.project.conv.weight[:, :, 0, 0, 0] * source.project.norm.weight[:, None]
    if out is not None:
        project = project[out]
    use = sizes[source.depthwise][0] * project.norm(dim=0)
    hidden = use.topk(target.depthwise.conv.out_channels).indices.sort().values
    if source.expand is None:  # then these are the channels of the layer before
        assert into is not None
        hidden = into
    else:
        assert target.expand is not None
        _copy(source.expand, target.expand, hidden, into)
    _copy(source.depthwise, target.depthwise, hidden, None)
    _copy(source.project, target.project, out, hidden)


def _copy(source: ConvNorm, target: ConvNorm, out: Tensor | None, into: Tensor | None) -> None:
    """Some of a layer's channels; None: all."""
    rows = slice(None) if out is None else out
    weight = source.conv.weight[rows]
    target.conv.weight.copy_(weight if into is None else weight[:, into])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(target.norm, name).copy_(getattr(source.norm, name)[rows])


def _take_fusion(wide: TinyHD, narrow: TinyHD) -> None:
    counts = {"d1": 4, "d2": 1, "d3": 1}
    order = wide.config.fusion_order
    parts = dict(zip(order, wide.fusion.weight.split([counts[name] for name in order], 1), strict=True))
    new = [parts[name] if name in parts else torch.ones(1, counts[name], 1, 1) for name in narrow.config.fusion_order]
    narrow.fusion.weight.copy_(torch.cat(new, 1))
    assert narrow.fusion.bias is not None
    assert wide.fusion.bias is not None
    narrow.fusion.bias.copy_(wide.fusion.bias)


def _channels(groups: Tensor, size: int) -> Tensor:
    """The channels of groups of `size` neighbors."""
    return (groups[:, None] * size + torch.arange(size)).flatten()


def _groups(channels: Tensor, size: int) -> Tensor:
    """The groups of `size` neighbors that channels, whole groups in order, make up."""
    return channels[::size] // size


def _shuffled(kept: dict[int, Tensor], layers: range | tuple[int, ...], widths: tuple[int, ...]) -> Tensor:
    """The channels kept of layers' outputs, joined and shuffled."""
    starts = [sum(widths[:k]) for k in range(len(widths))]
    return torch.cat([_groups(kept[k] + start, 4) for k, start in zip(layers, starts, strict=True)])
