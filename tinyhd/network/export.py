"""The network as ONNX or OpenVINO file, for use elsewhere, checked against PyTorch."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tinyhd.errors import OptionError, OutputError
from tinyhd.files import check_target, writing
from tinyhd.network.config import CLIP_SHAPE
from tinyhd.network.convert import import_runtime, inference_copy, to_onnx, to_openvino
from tinyhd.network.model import TinyHD

TOLERANCE = 1e-4
"""Largest difference of a map value from PyTorch's that is accepted."""

CHECKED_BATCHES = (1, 3)


def export(model: TinyHD, path: str | os.PathLike[str], *, overwrite: bool = False) -> float:
    """Write the network as `x.onnx`, or as OpenVINO's pair `x.xml` and `x.bin`, and check it against PyTorch.

    The file takes `clip`, float32 (N, 3, 16, 192, 256), normalized with ImageNet's statistics, for any N, and
    gives `maps`, float32 (N, K, H, W). Nothing is written where the check fails.

    Returns:
        the largest difference of a map value from PyTorch's, for batches of 1 and 3 clips of noise.

    Raises:
        OptionError: another suffix, or a package that is needed is not installed.
        OutputError: the file cannot be written, or computes something else.
    """
    target = Path(path)
    if target.suffix not in (".onnx", ".xml"):
        raise OptionError(f"{os.fspath(path)!r} is not a name for a model: it must end in .onnx or .xml (OpenVINO).")
    names = [target] if target.suffix == ".onnx" else [target, target.with_suffix(".bin")]
    for name in names:
        check_target(name, (), overwrite)
    if not target.parent.is_dir():
        raise OutputError(f"{os.fspath(path)!r} cannot be written: there is no folder {os.fspath(target.parent)!r}.")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tinyhd-") as folder:
        temporary = [Path(folder) / name.name for name in names]
        if target.suffix == ".onnx":
            runtime = import_runtime("onnxruntime")
            to_onnx(model, temporary[0])
            session = runtime.InferenceSession(os.fspath(temporary[0]), providers=["CPUExecutionProvider"])
            difference = _difference(model, lambda clips: session.run(None, {"clip": clips})[0])
        else:
            openvino = import_runtime("openvino")
            openvino.save_model(to_openvino(model), temporary[0], compress_to_fp16=False)
            # full precision, which CPUs with bfloat16 would not take of themselves
            compiled = openvino.Core().compile_model(temporary[0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            difference = _difference(model, lambda clips: compiled(clips)[0])
        if not difference <= TOLERANCE:
            raise OutputError(f"the exported model differs from PyTorch's by {difference:.1e}, so it was not written.")
        with writing(target):
            for source, name in zip(temporary, names, strict=True):
                source.replace(name)
    return difference


def _difference(model: TinyHD, run: Callable[[np.ndarray], np.ndarray]) -> float:
    reference = inference_copy(model, plain=True).cpu().float()
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for count in CHECKED_BATCHES:
        clips = torch.randn(count, *CLIP_SHAPE, generator=generator)
        with torch.inference_mode():
            expected = reference(clips).fused.numpy()
        found = run(clips.numpy())
        if found.shape != expected.shape:
            raise OutputError(f"the exported model gives maps of shape {found.shape}, not {expected.shape}.")
        largest = max(largest, float(np.abs(found - expected).max()))
    return largest
