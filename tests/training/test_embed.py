"""What ships beside a model's file."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino
import pytest
import torch
from fakes import small_network

from tinyhd.inference.backends import converted_hash, fixed_clip
from tinyhd.network.convert import from_converted, inference_copy
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import save_model
from training.embed import main


def test_the_converted_network_and_what_the_registry_says_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_network()
    save_model(model, tmp_path / "m.safetensors")
    assert main([str(tmp_path / "m.safetensors"), str(tmp_path / "m.xml")]) == 0
    assert f'sha256="{converted_hash(tmp_path / "m.xml")}"' in capsys.readouterr().out
    layers = ElementTree.parse(tmp_path / "m.xml").iter("layer")
    precise = [layer.attrib["name"] for layer in layers if layer.find("rt_info/attribute[@name='precise']") is not None]
    assert precise
    assert all(".encoder.layers.1." in name for name in precise)
    found = openvino.compile_model(tmp_path / "m.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(fixed_clip())[0]
    with torch.inference_mode():
        expected = model(torch.from_numpy(fixed_clip())).fused.numpy()
    assert found.shape == expected.shape
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9  # random weights amplify rounding
    size = sum(value.numel() for value in model.parameters())
    assert (tmp_path / "m.bin").stat().st_size < 3 * size  # half precision


def test_the_weights_come_back_from_the_converted_network(tmp_path: Path) -> None:
    model = small_network()
    save_model(model, tmp_path / "m.safetensors")
    assert main([str(tmp_path / "m.safetensors"), str(tmp_path / "m.xml")]) == 0
    again = TinyHD(model.config)
    again.load_state_dict(from_converted((tmp_path / "m.xml").read_bytes() + (tmp_path / "m.bin").read_bytes()))
    expected, found = inference_copy(model, plain=True), inference_copy(again, plain=True)
    for (name, a), b in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-6, msg=name)


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.safetensors"), str(tmp_path / "m.xml")]) == 1
    assert capsys.readouterr().err.startswith("error: there is neither a model nor a file")
