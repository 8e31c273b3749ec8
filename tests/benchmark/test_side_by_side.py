"""The sheet has a row for each moment of each file, and a column for the frame and each model."""

from pathlib import Path

import numpy as np
import pytest
from fakes import GrayModel
from makers import make_video, picture, still
from PIL import Image

from benchmark import side_by_side
from benchmark.side_by_side import main
from tinyhd.inference.backends import Backend
from tinyhd.options import InferenceOptions


class Inverted(GrayModel):
    """Attends what `GrayModel` does not."""

    model_name = "weights/other.pth"

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return 0.2 - super().__call__(clips)


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(options: InferenceOptions) -> Backend:
        return Inverted() if options.model == "other.pth" else GrayModel()

    monkeypatch.setattr(side_by_side, "open_backend", opened)


def test_rows_and_columns(tmp_path: Path) -> None:
    def growing(_: np.ndarray, number: int) -> np.ndarray:
        rgb = np.zeros((96, 128, 3), np.uint8)
        rgb[:, : 2 * number] = 200
        return rgb

    video = make_video(tmp_path / "a.mp4", 41, transform=growing)
    photo = still(tmp_path).path
    output = tmp_path / "sheet.png"
    command = [str(video), str(photo), "--models", "fake", "other.pth", "--output", str(output), "--width", "128"]
    assert main([*command, "--at", "0.5", "1"]) == 0
    sheet = np.asarray(Image.open(output)).astype(int)
    photo_height = round(128 * picture(0).shape[0] / picture(0).shape[1])
    assert sheet.shape == (16 + 2 * (16 + 96) + 16 + photo_height, 3 * 128, 3)
    middle, end = sheet[32:128], sheet[144:240]
    for row, edge in ((middle, 40), (end, 80)):
        frame, one, other = np.split(row, 3, axis=1)
        assert frame[:, : edge - 4].min() > 180
        assert frame[:, edge + 4 :].max() < 20
        # the colors of attention are where a model has it, the frame where it has not
        colored, plain = np.ptp(one, axis=2), np.ptp(other, axis=2)
        assert colored[:, : edge - 8].min() > 40 > colored[:, edge + 8 :].max()
        assert plain[:, : edge - 8].max() < 40 < plain[:, edge + 8 :].min()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--at", "2"], "--at takes shares"),
        (["--width", "1"], "at least 16 pixels"),
        (["--output", "{}/sheet.xyz"], "end it with .png or .jpg"),
        (["--output", "{}/no/sheet.png"], "there is no folder"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], message: str
) -> None:
    photo = str(still(tmp_path).path)
    arguments = [photo, "--models", "fake", "--output", str(tmp_path / "sheet.png")]
    assert main([*arguments, *(part.format(tmp_path) for part in changed)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert main(["missing.mp4", *arguments[1:]]) == 1
