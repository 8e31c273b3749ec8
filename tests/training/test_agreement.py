"""Agreement between models where there are no fixations."""

from pathlib import Path

import pytest
import torch
from makers import make_video

from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import save_model
from training.agreement import main


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    paths = []
    for seed, multi_output in enumerate((True, False)):
        torch.manual_seed(seed)
        path = tmp_path / f"{seed}.safetensors"
        save_model(TinyHD(TinyHDConfig(multi_output=multi_output, channel_reduction=4)).eval(), path)
        paths.append(str(path))
    return paths[0], paths[1]


def scores(printed: str, group: str) -> list[float]:
    return next([float(v) for v in line.split()[1:]] for line in printed.splitlines() if line.startswith(group))


def test_a_model_agrees_with_itself_and_less_with_another(tmp_path, models, capsys):
    video = str(make_video(tmp_path / "v.mp4", 17))
    common = ["--model", models[1], "--device", "cpu", "--group", "twice", video, video, "--reference", models[1]]
    assert main(common) == 0
    assert scores(capsys.readouterr().out, "twice") == [2, 1, 1, 0]
    assert main([*common, "--reference", models[0]]) == 0
    count, cc, *_ = scores(capsys.readouterr().out, "twice")
    assert count == 2
    assert cc < 0.99


def test_what_cannot_be_scored_is_said(tmp_path, models, capsys):
    video = str(make_video(tmp_path / "short.mp4", 8))
    arguments = ["--model", models[0], "--reference", models[1], "--device", "cpu", "--group", "short"]
    assert main([*arguments, video]) == 1
    assert "lower --first" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "--group short FILE" in capsys.readouterr().err
