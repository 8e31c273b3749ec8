"""The check of faster backends: it sees what differs, and says so by its exit status."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeBackend
from makers import make_video

from tinyhd.inference.backends import Backend
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import save_model
from tinyhd.options import InferenceOptions
from training import backend_agreement
from training.backend_agreement import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two videos of 20 frames each, the first of them with fixations."""
    for name in ("0.mp4", "1.mp4"):
        make_video(tmp_path / name, 20)
    one = np.zeros(3)
    np.savez(
        tmp_path / "fixations.npz",
        video_names=np.array(["0.mp4", "1.mp4"]),
        video_index=one.astype(int),
        viewer=np.arange(3),
        t_ms=one,
        duration_ms=one + 400,
        x=one + 0.3,
        y=np.array([0.2, 0.4, 0.6]),
    )
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_model(TinyHD(TinyHDConfig(channel_reduction=4, output_stride=4)).eval(), path)
    return str(path)


def test_the_same_maps(data: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", model, "--data", str(data), "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--backend", "openvino", "torch"]) == 0
    ours, itself = json.loads((tmp_path / "out.json").read_text())
    assert ours["backend"] == "openvino"
    assert ours["frames"] == itself["frames"] == 40
    assert ours["frames_with_fixations"] == 10  # 0.4 s of the first video
    assert 0.999999 < ours["lowest_cc"] < 1.000001
    assert ours["mean_nss"] == pytest.approx(ours["mean_nss_torch"], abs=1e-4)
    assert itself["largest_nss_change"] == 0
    assert "openvino float32: 40 frames, lowest CC" in capsys.readouterr().out


def test_other_maps(data: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame that differs is enough."""
    real = backend_agreement.open_backend

    class Wrong(FakeBackend):
        def __init__(self, backend: Backend) -> None:
            self.backend = backend

        def __call__(self, clips: np.ndarray) -> np.ndarray:
            result = self.backend(clips).copy()
            result[:, 7] = result[:, 7, :, ::-1] + np.linspace(0, 1, result.shape[-1])
            return result

    def opened(options: InferenceOptions) -> Backend:
        backend = real(options)
        return Wrong(backend) if options.backend == "openvino" else backend

    monkeypatch.setattr(backend_agreement, "open_backend", opened)
    assert main(["--model", model, "--data", str(data)]) == 1


def test_mistakes_are_one_sentence(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", model, "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
