"""A narrowed model keeps the channels that matter, wherever they are added, joined and shuffled."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tinyhd.errors import OptionError
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.layers import ConvNorm, InvertedResidual
from tinyhd.network.model import TinyHD
from training.narrow import narrowed

# layers whose outputs are added, and how many channels stay together in them
STAGES = [((1,), 1), ((2, 3), 4), ((4, 5, 6), 4), ((7, 8, 9, 10), 4), ((11, 12, 13), 4)]
STAGES += [((14, 15, 16), 16), ((17,), 16), ((18,), 16)]


def take_statistics(norm: nn.BatchNorm3d, inputs: tuple[Tensor], _output: Tensor) -> None:
    """Those of the batch, so that the norm computes the same in training and after."""
    variance, mean = torch.var_mean(inputs[0], (0, 2, 3, 4), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def silence(layer: ConvNorm, alive: Tensor) -> None:
    layer.norm.weight.mul_(alive)
    layer.norm.bias.mul_(alive)


def half(channels: int, together: int, rng: torch.Generator) -> Tensor:
    groups = channels // together
    alive = torch.zeros(groups)
    alive[torch.randperm(groups, generator=rng)[: groups // 2]] = 1
    return alive.repeat_interleave(together)


@torch.no_grad()
def half_silent(clips: Tensor) -> TinyHD:
    """A model half of whose channels are zero, others at random, with the norms' statistics of `clips`."""
    rng = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    model = TinyHD(TinyHDConfig(decoders=("d1", "d2"), output_stride=4)).to(clips)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(0.1, 0.5)
            module.register_forward_hook(take_statistics)
    layers = model.encoder.layers
    stem = half(32, 1, rng)
    silence(layers[0], stem)
    for stage, together in STAGES:
        last = layers[stage[0]]
        out = last.project if isinstance(last, InvertedResidual) else last
        alive = half(out.conv.out_channels, together, rng)
        for k in stage:
            silence(getattr(layers[k], "project", layers[k]), alive)
    blocks = [m for m in model.modules() if isinstance(m, InvertedResidual)]
    for block in blocks:
        hidden = block.depthwise.conv.out_channels
        silence(block.depthwise, stem if block.expand is None else half(hidden, 1, rng))
    x0, x1, x2, _ = (feature.amax((0, 2, 3, 4)) != 0 for feature in model.train().encoder(clips))
    outs = {"16": x2.repeat_interleave(4), "17": x1.repeat_interleave(4), "18": x1, "19": x0}
    for number, alive in (outs | dict.fromkeys(("20", "21", "22"), x0)).items():
        silence(model.decoders["d2"].blocks[number].project, alive.float())
    model(clips)
    for module in model.modules():
        module._forward_hooks.clear()
    return model.eval()


@pytest.fixture
def clips() -> Tensor:
    """Small and in double precision: the norms of the coarsest layers see few values and would magnify errors."""
    return torch.randn(2, 3, 16, 32, 64, generator=torch.Generator().manual_seed(1)).double()


def test_what_only_drops_silent_channels_computes_the_same(clips: Tensor) -> None:
    wide = half_silent(clips)
    narrow = narrowed(wide, ("d1", "d2"), clips)
    assert narrow.config == TinyHDConfig(channel_reduction=2, decoders=("d1", "d2"), output_stride=4)
    with torch.no_grad():
        given, expected = narrow(clips), wide(clips)  # the narrow one in training
    assert expected.fused.std() > 1e-3
    for name, maps in expected.decoders.items():
        torch.testing.assert_close(given.decoders[name], maps, atol=1e-6, rtol=0)


def test_d3_starts_anew(clips: Tensor) -> None:
    narrow = narrowed(half_silent(clips), ("d1", "d2", "d3"), clips)
    assert narrow(clips).fused.isfinite().all()


def test_norms_that_are_folded_into_the_convolutions_make_no_difference(clips: Tensor) -> None:
    """As they are in the models that come with the package."""
    wide = half_silent(clips)
    folded = copy.deepcopy(wide)
    for module in folded.modules():
        if isinstance(module, ConvNorm):
            conv, norm = module.conv, module.norm
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight.data.mul_(gain.view(-1, 1, 1, 1, 1))
            norm.bias.data.sub_(norm.running_mean * gain)
            norm.weight.data.fill_(1)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
    with torch.no_grad():
        torch.testing.assert_close(folded(clips).fused, wide(clips).fused)
        given, expected = (narrowed(model, ("d1", "d2"), clips)(clips).fused for model in (folded, wide))
    torch.testing.assert_close(given, expected)


def test_only_full_width_is_narrowed(clips: Tensor) -> None:
    with pytest.raises(OptionError, match="only models of channel reduction 1"):
        narrowed(TinyHD(TinyHDConfig(channel_reduction=2, output_stride=4)), ("d1",), clips)
