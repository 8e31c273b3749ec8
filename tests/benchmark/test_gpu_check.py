"""The check of a GPU runs, tells what does not agree or does not work, and needs no PyAV; here on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import small_network

from benchmark import gpu_check
from benchmark.gpu_check import main
from tinyhd.inference.torch_backend import TorchBackend
from tinyhd.network.weights import save_model

PROGRAM = """
import sys
sys.modules["av"] = None
from benchmark import gpu_check
gpu_check.TIMED_SECONDS = 0.01
sys.exit(gpu_check.main(sys.argv[1:]))
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    save_model(small_network(), tmp_path / "small.safetensors")
    return ["--model", str(tmp_path / "small.safetensors"), "--device", "cpu", "--batch-size", "1", "--no-compile"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "TIMED_SECONDS", 0.01)


def test_without_pyav(arguments: list[str], tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", PROGRAM, *arguments, "--precision", "float32", "--json", str(tmp_path / "r.json")]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert row["lowest_cc"] > 0.9999
    assert row["maps_per_second"] > 0
    assert row["maps_per_second_on_device"] > 0
    assert "float32" in run.stdout.splitlines()[-1]


def test_precisions_that_do_not_work_are_rows_with_a_note(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--precision", "float16", "--json", str(tmp_path / "r.json")]) == 0
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert "for GPUs" in row["note"]
    assert "maps_per_second" not in row
    assert "for GPUs" in capsys.readouterr().out


def test_maps_that_do_not_agree(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(TorchBackend):
        def __call__(self, clips: Any) -> Any:
            result = super().__call__(clips)
            if self.precision == "bfloat16":
                result[:, 7] = result[:, 7, ::-1]
            return result

    monkeypatch.setattr(gpu_check, "TorchBackend", Wrong)
    assert main([*arguments, "--precision", "bfloat16"]) == 1
    assert "eager bfloat16 do not agree" in capsys.readouterr().err


def test_time_is_limited(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--minutes", "0"]) == 0
    assert capsys.readouterr().out.count("left out for want of time") == 3


def test_no_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
