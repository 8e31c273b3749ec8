"""A FiftyOne dataset as input of a batch."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import makers
import pytest
from fakes import GrayModel

from tinyhd.cli.main import main

pytest_plugins = ["plugin_database"]


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    names = [tmp_path / folder / f"{name}.mp4" for folder, name in ("ax", "by", "bz")]
    for path in names:
        path.parent.mkdir(exist_ok=True)
        makers.make_video(path, range(3), codec="mpeg4", width=96, height=64)
    return names


def tracks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.track.npz"))


def test_a_dataset_and_a_saved_view(
    fo: ModuleType, make_dataset: Callable[..., Any], videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos, tmp_path / "gone.mp4")
    dataset.save_view("some", dataset.match(fo.ViewField("filepath").ends_with("y.mp4")))
    command = ["analyze", "--dataset", dataset.name, "--output-dir", str(tmp_path / "out")]
    assert main([*command, "--view", "some"]) == 0
    assert tracks(tmp_path / "out") == ["y.track.npz"]
    assert main(command) == 1  # one of its files is not there
    assert tracks(tmp_path / "out") == ["x.track.npz", "y.track.npz", "z.track.npz"]


def test_groups_with_other_media(
    fo: ModuleType, make_dataset: Callable[..., Any], videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset()
    dataset.add_group_field("group", default="left")
    group, scan = fo.Group(), tmp_path / "scan.pcd"
    scan.write_text("")
    slices = {"left": videos[0], "right": videos[1], "points": scan}
    dataset.add_samples([fo.Sample(str(path), group=group.element(name)) for name, path in slices.items()])
    assert main(["analyze", "--dataset", dataset.name, "--output-dir", str(tmp_path / "out")]) == 0
    assert tracks(tmp_path / "out") == ["x.track.npz", "y.track.npz"]


def test_what_is_not_there(
    fo: ModuleType,
    make_dataset: Callable[..., Any],
    videos: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = make_dataset(videos[0])
    for arguments, status, sentence in (
        (["--dataset", "nowhere"], 1, "there is no FiftyOne dataset 'nowhere': `fiftyone datasets list` prints"),
        (["--dataset", dataset.name, "--view", "none"], 1, f"dataset {dataset.name!r} has no saved view 'none'."),
        (["--dataset", make_dataset().name], 1, "there is no video or still image in the FiftyOne dataset"),
    ):
        assert main(["analyze", *arguments]) == status
        assert sentence in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    assert main(["analyze", "--dataset", "any"]) == 2
    assert "--dataset needs FiftyOne, which is not installed: pip install 'tinyhd[plugin]'." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["analyze", "any.mp4", "--view", "v"])
    assert "--view is of a dataset: name one with --dataset" in capsys.readouterr().err
