"""The measures of reframing on made files: shares, motion, hindsight, overlap with drawn crops."""

from pathlib import Path

import numpy as np
import pytest
from fakes import GrayModel
from makers import make_video, write_fixations

import tinyhd
from benchmark import reframing
from benchmark.reframing import Clip, motion, overlap, read_annotation, share_inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video with something bright at 0.8 of its width, which is where people look, from 2 s on its clock on."""

    def bright(_: np.ndarray, k: int) -> np.ndarray:
        rgb = np.zeros((128, 192, 3), np.uint8)
        rgb[50:70, 144:164] = 255
        return rgb

    video = make_video(tmp_path / "a.mp4", 25, transform=bright, pts=[50 + k for k in range(25)])
    tinyhd.analyze(video, tmp_path / "a.track.npz", backend=GrayModel())
    looks = [(0, 0, 0.1, 0.5, 0, 2000), (0, 0, 0.8, 0.5, 2000, 10000), (0, 0, 0.5, 0.5, 2400, 200)]
    write_fixations(tmp_path, ["a.mp4"], looks)
    return tmp_path


def test_fixations_belong_to_the_frames_shown_meanwhile(folder: Path) -> None:
    ((_, clip),) = reframing.read_clips(folder)
    counts = [len(points) for points in clip.fixations]
    assert counts == [1] * 10 + [2] * 5 + [1] * 10  # the first ends where the video begins
    np.testing.assert_allclose(clip.fixations[0], [[0.8 * 192, 64]], rtol=1e-6)


def test_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reframing.main([str(folder), "--tracks", str(folder)]) == 0
    lines = {line[:34].strip(): line[34:].split() for line in capsys.readouterr().out.splitlines()[3:]}
    # of five frames the third fixation, at the center, is one of two
    assert lines["center"] == [f"{5 * 0.5 / 25:.3f}", "0.00", "0%"]
    assert lines["tinyhd reframe"] == ["0.900", "0.00", "89%"]  # a crop that holds the third one too has them all
    assert lines["same planner in hindsight"][0] == "1.000"


def test_share_and_motion() -> None:
    points = [np.array([[10.0, 10.0], [90.0, 10.0]]), np.empty((0, 2)), np.array([[50.0, 10.0]])]
    clip = Clip((100, 20), np.arange(3.0), points)
    assert share_inside(clip, np.array([0, 0, 50, 20])) == pytest.approx(0.75)
    boxes = np.array([[0, 0, 30, 20], [10, 0, 30, 20], [60, 0, 30, 20], [60, 0, 30, 20]], float)
    assert motion(boxes, (100, 20), np.array([True, False, True, False])) == pytest.approx(50)


def test_overlap_with_drawn_crops(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = np.array([[0, 0, 9, 9], [0, 0, 9, 9]])
    theirs = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [0, 0, 1, 1]])
    assert overlap(ours, theirs) == pytest.approx((1 + 50 / 150) / 2)
    (folder / "annotator_1").mkdir()
    for name, row in (("a_1-3.txt", "132,-5,174,128\n"), ("a_3-1.txt", "0,28,192,92\n")):
        (folder / "annotator_1" / name).write_text(row * 25)
    assert read_annotation(folder / "annotator_1" / "a_1-3.txt")[0].tolist() == [132, 0, 174, 128]
    assert reframing.main([str(folder), "--tracks", str(folder), "--retargetvid", str(folder)]) == 0
    lines = [line.split(" (")[0].split() for line in capsys.readouterr().out.splitlines()]
    values = {" ".join(words[:-1]): float(words[-1]) for words in lines}
    assert values["1:3 center"] == 0
    assert values["1:3 tinyhd reframe"] > 75
    assert values["3:1 center"] == pytest.approx(100 * 61 / 69, abs=0.1)


@pytest.mark.parametrize("text", ["", "1,2,3\n", "a,b,c,d\n"])
def test_annotations_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(text)
    with pytest.raises(tinyhd.TinyHDError, match=r"the annotation .* cannot be read"):
        read_annotation(file)
    assert reframing.main([str(tmp_path)]) == 1
    assert "fixations.npz' cannot be read" in capsys.readouterr().err
