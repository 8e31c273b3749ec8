"""The benchmark runs, says what it should, and names neither machine nor folder."""

import json
import platform
import time
from pathlib import Path

import makers
import pytest
import torch

from tinyhd import benchmark
from tinyhd.benchmark import interleaved, main, measure_video
from tinyhd.model import TinyHD, TinyHDConfig


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
