"""The benchmark runs, says what it should, and names neither machine nor folder."""

import json
import platform
import time
from pathlib import Path
from types import SimpleNamespace

import makers
import pytest
import torch
from torch import nn

from benchmark.speed import bandwidth_limits, bytes_moved, interleaved, measure_video
from tinyhd import benchmark
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.export import main
from tinyhd.network.layers import FrameConv3d
from tinyhd.network.model import TinyHD


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyHD:
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()
    monkeypatch.setattr(benchmark, "load_model", lambda name, device: model)
    return model


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: (calls.append("a"), time.sleep(0.01)), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4  # the first of each is the warm-up
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert min(seconds["a"]) >= 0.01


def test_model_only(tiny: TinyHD, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", "torch", "--repeats", "1", "--json", str(tmp_path / "b.json")]) == 0
    result = json.loads((tmp_path / "b.json").read_text())
    published, own, torch_row = result["model_only"]
    assert published["name"] == "eager, published layout"
    assert own["name"] == "eager, own layout"
    assert torch_row["name"] == "torch float32"
    for row in (published, own):
        ratio = torch_row["maps_per_second"] / row["maps_per_second"]
        assert torch_row[f"times {row['name']}"] == pytest.approx(ratio)
    assert own["maps_per_second"] > published["maps_per_second"]
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert platform.node() not in (tmp_path / "b.json").read_text()
    assert "maps/s" in capsys.readouterr().out


class TwoConvolutions(nn.Module):
    """Enough of a TinyHD for `bytes_moved`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = FrameConv3d(3, 4, (3, 3, 3), (2, 2, 2), (1, 1, 1))
        self.norm = nn.BatchNorm3d(4)  # not counted
        self.second = nn.Conv2d(4, 1, 1)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(clip)).amax(2))


def test_bytes_moved() -> None:
    model = TwoConvolutions()
    pixels = 192 * 256
    first = 3 * 16 * pixels + 4 * 3 * 27 + 4 * 8 * pixels // 4
    second = 4 * pixels // 4 + (4 + 1) + pixels // 4
    assert bytes_moved(model, 2) == 2 * (first + second)  # type: ignore[arg-type]
    assert bytes_moved(model, 4) == 4 * (first + second)  # type: ignore[arg-type]
    assert model.first.weight.device.type == "cpu"


def test_bandwidth_limits(tiny: TinyHD) -> None:
    limits = bandwidth_limits(tiny, ["float32", "float16"], 1e9)
    assert limits["float32"] == pytest.approx(16e9 / bytes_moved(tiny, 4))
    assert limits["float16"] == pytest.approx(2 * limits["float32"])


def test_what_gpus_report_too(
    tiny: TinyHD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the measuring itself, which wants a GPU."""
    device = torch.device("cuda:0")
    monkeypatch.setattr(tiny, "parameters", lambda: iter([SimpleNamespace(device=device)]))
    monkeypatch.setattr(benchmark, "copy_bandwidth", lambda device: 2e12)
    monkeypatch.setattr(benchmark, "bytes_moved", lambda model, size: size * 10**9)
    monkeypatch.setattr(benchmark, "measure_video", lambda *arguments: [])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 300 * 2**20)
    asked: list[object] = []
    monkeypatch.setattr(benchmark, "measure_model", lambda *arguments: asked.append(arguments[1:3]) or [])
    assert main(["clip.mp4", "--json", str(tmp_path / "b.json")]) == 0
    assert asked == [(["torch"], ["float32", "float16"])]
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["bandwidth_limit_maps_per_second"] == {"float32": 8000, "float16": 16000}
    assert result["copy_bytes_per_second"] == 2e12
    assert result["end_to_end_peak_gpu_memory_bytes"] == 300 * 2**20
    printed = capsys.readouterr().out
    assert "16000.0 maps/s  the memory's 2000 GB/s allow" in printed
    assert "peak memory of the GPU: 300 MiB" in printed


if torch.cuda.is_available():  # not a skip: there is nothing to require elsewhere

    def test_copy_bandwidth() -> None:
        assert 1e10 < benchmark.copy_bandwidth(torch.device("cuda:0"), 2**28) < 1e14


def test_end_to_end(tiny: TinyHD, tmp_path: Path) -> None:
    source = makers.plain(tmp_path, 40).path
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > '" + str(tmp_path / "arguments") + "'\nsleep 0.1\n")
    ffmpeg.chmod(0o755)
    reencode, annotated = measure_video(source, tiny, ["torch"], 1, str(ffmpeg))
    assert reencode["times_reencode"] == 1
    assert reencode["frames_per_second"] < 400
    assert annotated["times_reencode"] == pytest.approx(reencode["frames_per_second"] / annotated["frames_per_second"])
    arguments = (tmp_path / "arguments").read_text().split()
    for pair in (["-i", str(source)], ["-c:v", "libx264"], ["-crf", "20"], ["-preset", "veryfast"]):
        assert pair[1] == arguments[arguments.index(pair[0]) + 1]
    (alone,) = measure_video(source, tiny, ["torch"], 1, None)
    assert alone["times_reencode"] is None


def test_mistakes_are_one_sentence(tiny: TinyHD, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-file.mp4", "--backend", "torch"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
