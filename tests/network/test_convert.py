"""Exported models compute what PyTorch computes, for any number of clips."""

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import skip_or_fail

from tinyhd.errors import OptionError, OutputError
from tinyhd.network import export as exporting
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.convert import import_runtime, inference_copy
from tinyhd.network.export import export
from tinyhd.network.model import TinyHD


@pytest.fixture(scope="module")
def tiny() -> TinyHD:
    torch.manual_seed(0)
    return TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()


def needs_onnx() -> None:
    if not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        skip_or_fail("onnx, onnxscript and onnxruntime must be installed")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_written_files_compute_the_same(tiny: TinyHD, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    clips = torch.randn(2, 3, 16, 192, 256)
    if suffix == ".onnx":
        needs_onnx()
        assert export(tiny, path) < 1e-5
        import onnxruntime

        (found,) = onnxruntime.InferenceSession(str(path)).run(["maps"], {"clip": clips.numpy()})
    else:
        assert export(tiny, path) < 1e-5
        import openvino

        found = openvino.compile_model(path)({"clip": clips.numpy()})["maps"]
    assert {p.name for p in tmp_path.iterdir()} == ({"model.onnx"} if suffix == ".onnx" else {"model.xml", "model.bin"})
    with torch.inference_mode():
        np.testing.assert_allclose(found, tiny(clips).fused, atol=1e-5)


def test_a_model_that_differs_is_not_written(tiny: TinyHD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def other(model: TinyHD, plain: bool) -> TinyHD:
        result = inference_copy(model, plain)
        with torch.no_grad():
            result.fusion.bias += 0.01
        return result

    monkeypatch.setattr(exporting, "inference_copy", other)
    with pytest.raises(OutputError, match="differs from PyTorch's by"):
        export(tiny, tmp_path / "model.xml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("model.pt", OptionError, r"\.onnx or \.xml"),
        ("there.xml", OutputError, "exists already"),
        ("none/model.xml", OutputError, "no folder"),
    ],
)
def test_mistakes(tiny: TinyHD, tmp_path: Path, name: str, error: Any, match: str) -> None:
    (tmp_path / "there.xml").touch()
    with pytest.raises(error, match=match):
        export(tiny, tmp_path / name)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("multi_output", [True, False])
def test_folding_changes_nothing(plain: bool, multi_output: bool) -> None:
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(multi_output, 4, ("d2",), output_stride=4)).eval()
    for name, value in model.state_dict().items():  # BatchNorm that does something
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    before = copy.deepcopy(model.state_dict())
    clip = torch.randn(1, 3, 16, 32, 32)
    folded = inference_copy(model, plain)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(clip).fused, model(clip).fused, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_is_missing_is_named() -> None:
    with pytest.raises(
        OptionError, match=r"onnx and no_such_package must be installed .* pip install 'tinyhd\[onnx\]'"
    ):
        import_runtime("onnx", "no_such_package")
