"""The network prepared for inference: BatchNorm folded into the convolutions, and as OpenVINO or ONNX model.

Converted models take `clip`, float32 (N, 3, 16, 192, 256), normalized, with any N, and give `maps`, float32
(N, K, H, W): the fused maps of `TinyHDOutput`.
"""

import copy
import importlib
import math
import os
import re
import warnings
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tinyhd.errors import OptionError
from tinyhd.network.config import CLIP_SHAPE
from tinyhd.network.layers import ConvNorm
from tinyhd.network.model import TinyHD, plain_convolutions


def inference_copy(model: TinyHD, plain: bool) -> TinyHD:
    """A copy of `model` that computes the same faster: in eval mode, BatchNorm folded into the convolutions.

    Args:
        model: stays as it is.
        plain: use PyTorch's own 3-D convolutions, which are faster than `FrameConv3d`'s on CPUs where nothing is
            trained, and which other runtimes know.
    """
    result = copy.deepcopy(model).eval()
    for module in result.modules():
        if isinstance(module, ConvNorm):
            conv, norm = module.conv, module.norm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            module.norm = nn.Identity()  # type: ignore[assignment]
    plain_convolutions(result, plain)
    return result.requires_grad_(False)


class _Fused(nn.Module):
    """The network with its fused maps as the only output."""

    def __init__(self, model: TinyHD) -> None:
        super().__init__()
        self.model = inference_copy(model, plain=True).cpu().float()

    def forward(self, clip: Tensor) -> Tensor:
        maps: Tensor = self.model(clip).fused
        return maps


def to_openvino(model: TinyHD) -> Any:
    """The network as `openvino.Model`, float32.

    Raises:
        OptionError: OpenVINO is not installed.
    """
    openvino = import_runtime("openvino")
    # the frontend itself, since openvino.convert_model would report its use to Intel
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lengths become constants, which they are; TorchScript is deprecated
        traced = torch.jit.trace(_Fused(model), torch.zeros(2, *CLIP_SHAPE), check_trace=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # must live on until the conversion is done
        converted = frontend.convert(frontend.load(decoder))
    converted.reshape({converted.input(0): openvino.PartialShape([-1, *CLIP_SHAPE])})
    converted.input(0).set_names({"clip"})
    converted.output(0).set_names({"maps"})
    return converted


def mark_precise(path: str | os.PathLike[str]) -> None:
    """Let a saved network compute its most sensitive layer, MobileNetV2's second, in float32 where the others compute
    in bfloat16. It takes less than a tenth more time, and tinyhd-m's maps come five times nearer to float32's."""
    network = ElementTree.parse(path)  # OpenVINO's Python has no way to set the mark that its files have
    for layer in network.iter("layer"):
        if ".encoder.layers.1." in layer.get("name", "") and layer.get("type") != "Const":
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.Element("rt_info")
                layer.insert(1 if layer.find("data") is not None else 0, info)
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    with open(path, "wb") as file:
        network.write(file, encoding="utf-8", xml_declaration=True)
        file.write(b"\n")


def to_onnx(model: TinyHD, path: str | os.PathLike[str]) -> None:
    """Write the network as one ONNX file, float32.

    Raises:
        OptionError: what PyTorch needs to write ONNX is not installed.
    """
    import_runtime("onnx", "onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Fused(model),
            (torch.zeros(2, *CLIP_SHAPE),),
            os.fspath(path),
            input_names=["clip"],
            output_names=["maps"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def from_converted(data: bytes) -> dict[str, Tensor]:
    """The state of a `TinyHD` from what `to_openvino` gave once it was saved: the .xml, which names the weights, and
    the .bin behind it. Norms are folded into the convolutions, so they get statistics and gains that change nothing."""
    text, end, weights = data.partition(b"</net>\n")
    state: dict[str, Tensor] = {}
    for layer in ElementTree.fromstring(text + end).iter("layer"):
        found = re.fullmatch(r"self\.model\.(.+?)(_compressed)?", layer.get("name", ""))
        stored = layer.find("data")
        if found and stored is not None and layer.get("type") == "Const":
            shape = [int(length) for length in stored.attrib["shape"].split(",")]
            kind = {"f16": torch.float16, "f32": torch.float32}[stored.attrib["element_type"]]
            offset = int(stored.attrib["offset"])
            part = bytearray(weights[offset : offset + math.prod(shape) * kind.itemsize])
            state[found[1]] = torch.frombuffer(part, dtype=kind).view(shape).float()
    for key in [key for key in state if key.endswith(".conv.bias")]:
        norm, bias = key.replace(".conv.bias", ".norm"), state.pop(key)
        state |= {f"{norm}.weight": torch.ones_like(bias), f"{norm}.bias": bias}
        state |= {
            f"{norm}.running_mean": torch.zeros_like(bias),
            f"{norm}.running_var": torch.full_like(bias, 1 - 1e-5),
        }
    return state


def import_runtime(*names: str) -> Any:
    """The first of some packages.

    Raises:
        OptionError: one is not installed, or does not work here.
    """
    try:
        first, *_ = [importlib.import_module(name) for name in names]
    except ImportError as error:
        install = "openvino" if names == ("openvino",) else "'tinyhd[onnx]'"
        raise OptionError(
            f"{' and '.join(names)} must be installed for this ({error}): pip install {install}."
        ) from error
    return first
