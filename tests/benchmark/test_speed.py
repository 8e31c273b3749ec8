"""The benchmark runs, says what it should, and names neither machine nor folder."""

import json
import platform
import time
from pathlib import Path

import makers
import numpy as np
import pytest
from fakes import FakeBackend, GrayModel

from benchmark import speed
from benchmark.speed import interleaved, main, measure_model, measure_video
from tinyhd.errors import OptionError
from tinyhd.inference.backends import Backend
from tinyhd.options import InferenceOptions


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: (calls.append("a"), time.sleep(0.01)), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4  # the first of each is the warm-up
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert min(seconds["a"]) >= 0.01


class Slow(FakeBackend):
    """Takes its time; its maps are noise of a seed."""

    def __init__(self, seconds: float, noise: float = 0) -> None:
        self.seconds, self.noise = seconds, noise

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds * len(clips))
        maps = np.random.default_rng(0).random((16, 24, 32)) + self.noise * np.random.default_rng(1).random((24, 32))
        return np.broadcast_to(maps, (len(clips), 16, 24, 32))


def test_model_only() -> None:
    backends: dict[str, Backend] = {"openvino float32": Slow(0.02, 0.1), "torch float32": Slow(0.04)}
    baseline, fast, slow = measure_model(backends, {1: lambda: time.sleep(0.1), 4: lambda: time.sleep(0.3)}, 1, 2)
    assert baseline["maps_per_second"] == pytest.approx(64 / 0.3, rel=0.3)  # four at once are better
    for row in (fast, slow):
        assert row["times_baseline"] == pytest.approx(row["maps_per_second"] / baseline["maps_per_second"])
    assert fast["maps_per_second"] > slow["maps_per_second"]
    assert slow["lowest_cc"] == pytest.approx(1)
    assert 0.9 < fast["lowest_cc"] < 0.9999
    (alone,) = measure_model({"openvino float32": Slow(0.01)}, {}, 1, 1)
    assert alone["times_baseline"] is None


def test_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "open_backend", lambda options: GrayModel())
    source = makers.plain(tmp_path, 40).path
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > '" + str(tmp_path / "arguments") + "'\nsleep 0.1\n")
    ffmpeg.chmod(0o755)
    reencode, annotated = measure_video(source, InferenceOptions(), 1, str(ffmpeg))
    assert reencode["times_reencode"] == 1
    assert reencode["frames_per_second"] < 400
    assert annotated["times_reencode"] == pytest.approx(reencode["frames_per_second"] / annotated["frames_per_second"])
    arguments = (tmp_path / "arguments").read_text().split()
    for pair in (["-i", str(source)], ["-c:v", "libx264"], ["-crf", "20"], ["-preset", "veryfast"]):
        assert pair[1] == arguments[arguments.index(pair[0]) + 1]
    (alone,) = measure_video(source, InferenceOptions(), 1, None)
    assert alone["times_reencode"] is None


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def opened(options: InferenceOptions) -> Backend:
        if options.precision == "float16":
            raise OptionError("not here.")
        return Slow(0.01)

    monkeypatch.setattr(speed, "open_backend", opened)
    monkeypatch.setattr(speed, "as_published", lambda model, device, clips: lambda: time.sleep(0.02))
    assert main(["--repeats", "1", "--json", str(tmp_path / "b.json")]) == 0
    text = (tmp_path / "b.json").read_text()
    result = json.loads(text)
    names = [row["name"] for row in result["model_only"]]
    assert names[1:] == [f"{b} {p}" for b in ("openvino", "torch") for p in ("float32", "bfloat16")]
    assert result["model"] == "tinyhd-m"
    assert platform.node() not in text
    assert str(tmp_path) not in text
    captured = capsys.readouterr()
    assert captured.out.count("maps/s") == 5
    assert "left out: torch float16: not here." in captured.err


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-file.mp4", "--no-model"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
