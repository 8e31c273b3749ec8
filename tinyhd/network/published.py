"""The published checkpoints' names and shapes."""

import re
from collections.abc import Mapping

from torch import Tensor

from tinyhd.network.config import DECODERS, TinyHDConfig
from tinyhd.network.registry import MODELS


def from_published_key(key: str) -> str:
    """The name in `TinyHD.state_dict()` of a tensor that the published files name `key`.

    Raises:
        KeyError: no published file has such a tensor.
    """
    if match := re.fullmatch(r"decoder\.decoder\.0\.(weight|bias)", key):
        return f"fusion.{match[1]}"
    if match := re.fullmatch(r"encoder\.encoder\.(0|18)\.([01])\.(\w+)", key):
        return f"encoder.layers.{match[1]}.{'conv' if match[2] == '0' else 'norm'}.{match[3]}"
    if match := re.fullmatch(r"encoder\.encoder\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
        # layer 1 has no expansion, its convolutions are numbered from the depthwise one on
        parts = _PARTS_WITHOUT_EXPAND if match[1] == "1" else _PARTS
        return f"encoder.layers.{match[1]}.{parts[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"aggregator\.aggregate_adapter\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
        block = int(match[1])
        return f"decoders.{_decoder_of(block)}.blocks.{block}.{_PARTS[match[2]]}.{match[3]}"
    raise KeyError(key)


_PARTS = {
    "0.0": "expand.conv",
    "0.1": "expand.norm",
    "1.0": "depthwise.conv",
    "1.1": "depthwise.norm",
    "2": "project.conv",
    "3": "project.norm",
}


_PARTS_WITHOUT_EXPAND = {
    "0.0": "depthwise.conv",
    "0.1": "depthwise.norm",
    "1": "project.conv",
    "2": "project.norm",
}


def _decoder_of(block: int) -> str:
    """The decoder of a published block number."""
    return "d1" if block < 16 else "d2" if block < 24 else "d3"


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict in the names and shapes of `TinyHD.state_dict()`.

    Raises:
        KeyError: a name that no published file has.
    """
    renamed = {from_published_key(key): value for key, value in state.items()}
    # M has stored the fusion as a 1x1x1 convolution, (1, K, 1, 1, 1)
    renamed["fusion.weight"] = renamed["fusion.weight"].flatten(1)[:, :, None, None]
    return renamed


def published_config(state: Mapping[str, Tensor], blob: str | None = None) -> TinyHDConfig:
    """The config of a published state dict, from its tensors and, for the fusion order, the file's git blob id.

    Raises:
        KeyError, OptionError: it is not a state dict of TinyHD.
    """
    blocks = {int(key.split(".")[2]) for key in state if key.startswith("aggregator.")}
    found = {_decoder_of(block) for block in blocks}
    decoders = tuple(name for name in DECODERS if name in found)
    known = next((m.config for m in MODELS.values() if m.git_blob_id == blob and m.config is not None), None)
    return TinyHDConfig(
        multi_output=state["decoder.decoder.0.weight"].ndim == 5,
        channel_reduction=32 // state["encoder.encoder.0.0.weight"].shape[0],
        decoders=decoders,
        fusion_order=known.fusion_order if known else (),
    )
