"""What ships beside a model's file."""

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from fakes import small_network

from tinyhd.inference.backends import converted_hash, fixed_clip
from tinyhd.network.weights import save_model
from training.embed import main


def test_the_converted_network_and_what_the_registry_says_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_network()
    save_model(model, tmp_path / "m.safetensors")
    assert main([str(tmp_path / "m.safetensors")]) == 0
    assert f'converted_sha256="{converted_hash(tmp_path / "m.xml")}"' in capsys.readouterr().out
    found = openvino.compile_model(tmp_path / "m.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(fixed_clip())[0]
    with torch.inference_mode():
        expected = model(torch.from_numpy(fixed_clip())).fused.numpy()
    assert found.shape == expected.shape
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9  # random weights amplify rounding
    size = sum(value.numel() for value in model.parameters())
    assert (tmp_path / "m.bin").stat().st_size < 3 * size  # half precision


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.safetensors")]) == 1
    assert capsys.readouterr().err.startswith("embed: there is neither a model nor a file")
