"""Exported models compute what PyTorch computes, for any number of clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import skip_or_fail

from tinyhd import export as exporting
from tinyhd.errors import OptionError, OutputError
from tinyhd.inference.backends import TorchBackend
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.convert import is_installed
from tinyhd.network.export import export, main
from tinyhd.network.model import TinyHD


@pytest.fixture(scope="module")
def tiny() -> TinyHD:
    torch.manual_seed(0)
    return TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()


def needs(*wanted: str) -> None:
    if not all(is_installed(what) for what in wanted):
        skip_or_fail(f"{', '.join(wanted)} must be installed")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_written_files_compute_the_same(tiny: TinyHD, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    clips = torch.randn(2, 3, 16, 192, 256)
    if suffix == ".onnx":
        needs("onnx", "onnxruntime")
        assert export(tiny, path) < 1e-5
        import onnxruntime

        (found,) = onnxruntime.InferenceSession(str(path)).run(["maps"], {"clip": clips.numpy()})
    else:
        needs("openvino")
        assert export(tiny, path) < 1e-5
        import openvino

        found = openvino.compile_model(path)({"clip": clips.numpy()})["maps"]
    assert {p.name for p in tmp_path.iterdir()} == ({"model.onnx"} if suffix == ".onnx" else {"model.xml", "model.bin"})
    np.testing.assert_allclose(found, TorchBackend(tiny)(clips).numpy(), atol=1e-5)


def test_a_model_that_differs_is_not_written(tiny: TinyHD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openvino")

    class Other(TorchBackend):
        def __call__(self, clips: torch.Tensor) -> torch.Tensor:
            return super().__call__(clips) + 1e-3

    monkeypatch.setattr(exporting, "TorchBackend", Other)
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


def test_the_command(
    tiny: TinyHD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("openvino")
    monkeypatch.setattr(exporting, "load_model", lambda name: tiny)
    assert main([str(tmp_path / "m.xml")]) == 0
    assert "differs from PyTorch by at most" in capsys.readouterr().out
    assert main([str(tmp_path / "m.xml")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([str(tmp_path / "m.zip")]) == 2
