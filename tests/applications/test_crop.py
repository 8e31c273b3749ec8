"""A crop's path in files: written, edited, read back, refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinyhd.applications.crop import CropPath, PathWriter, read_path
from tinyhd.errors import InputError, OptionError
from tinyhd.saliency.boxes import read_boxes

SIZE = (640, 360)
HEADER = "time_seconds,x,y,width,height\n"


def test_between_knots_it_moves_and_at_jumps_it_does_not() -> None:
    boxes = np.array([[0, 0, 200, 360], [100, 0, 200, 360], [400, 0, 200, 360], [500, 0, 200, 360]], float)
    path = CropPath(SIZE, np.array([1.0, 2.0, 3.0, 4.0]), boxes, np.array([True, False, True, False]))
    times = (0.0, 1.0, 1.5, 2.0, 2.9, 3.0, 3.5, 9.0)
    assert [path.at(t)[0] for t in times] == [0, 0, 50, 100, 100, 400, 440, 440]  # the last ones stay inside


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"crop{suffix}"
    rows = [(k / 30, (10 * k, 3, 202, 350)) for k in range(5)]
    with PathWriter(file, SIZE, (202, 350)) as writer:
        for time, box in rows:
            writer.write(time, box)
    path = read_path(file, SIZE)
    assert [path.at(time) for time, _ in rows] == [box for _, box in rows]


def test_the_csv_is_as_documented(tmp_path: Path) -> None:
    with PathWriter(tmp_path / "crop.csv", SIZE, (202, 360)) as writer:
        writer.write(1 / 3, (7, 0, 202, 360))
    assert (tmp_path / "crop.csv").read_bytes() == f"{HEADER}0.333333,7,0,202,360\n".encode()


def test_rows_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "crop.csv").write_text(f"{HEADER}0,0,0,202,360\n2,100,0,202,360\n")
    assert read_path(tmp_path / "crop.csv", SIZE).at(1)[0] == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the column time_seconds is missing"),
        ("time_seconds,x,y,width\n0,0,0,9\n", "the column height is missing"),
        (HEADER, "it has no row"),
        (f"{HEADER}0,0,0,202,360\n1,a,0,202,360\n", "line 3 has something else than numbers"),
        (f"{HEADER}0,0,0,202\n", "line 2 has something else than numbers"),
        (f"{HEADER}nan,0,0,202,360\n", "line 2 has something else than numbers"),
        (f"{HEADER}1,0,0,202,360\n1,0,0,202,360\n", "the time after line 2 is not later"),
        (f"{HEADER}1,0,0,202,361\n", "a crop in line 2 that is not inside the source, which is 640x360"),
        (f"{HEADER}1,-1,0,202,360\n", "not inside the source"),
        (f"{HEADER}1,0,0,0,360\n", "not inside the source"),
        ("{}", "a value is missing"),
        ("[]", "a value is missing"),
        ("{", "not as it should be"),
        ('{"frames": [{"time_seconds": 0, "x": null, "y": 0, "width": 9, "height": 9}]}', "frame 1 has something else"),
        ('{"frames": [], "source_size": [99, 9]}', "of a source of 99x9, but this one is 640x360"),
        ('{"frames": [], "source_size": 5}', "a value is missing or of another kind"),
    ],
)
def test_paths_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / ("crop.json" if text[:1] in "{[" and text else "crop.csv")
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_path(file, SIZE)
    assert str(caught.value).count("\n") == 0


def test_names_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"must end in \.csv, \.json, \.sendcmd"):
        PathWriter(tmp_path / "crop.txt", SIZE, SIZE)
    with pytest.raises(OptionError, match=r"must end in \.csv, \.json"):
        read_path(tmp_path / "crop.sendcmd", SIZE)
    with pytest.raises(InputError, match="No such file"):
        read_path(tmp_path / "crop.csv", SIZE)


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def stop() -> None:
        with PathWriter(tmp_path / "crop.csv", SIZE, SIZE) as writer:
            writer.write(0, (0, 0, 9, 9))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop()
    assert not list(tmp_path.iterdir())


# ---- boxes that have to be held


def test_boxes_rest_move_and_end(tmp_path: Path) -> None:
    file = tmp_path / "keep.json"
    moving = [
        {"time_seconds": 1, "box": [0, 0, 64, 36]},
        {"time_seconds": 3, "box": [64, 36, 128, 72]},
        {"time_seconds": 4, "box": None},
        {"time_seconds": 5, "box": [0, 0, 64, 36]},
        {"time_seconds": 6, "box": [0, 0, 64, 36]},
    ]
    regions = {"logo": [576, 0, 640, 36], "ball": moving, "road": [[0, 360], [320, 180], [640, 360]]}
    file.write_text(json.dumps({"units": "pixels", "regions": regions}))
    logo, ball, road = read_boxes(file, SIZE)
    np.testing.assert_allclose(logo.at(np.array([0.0, 99.0])), [[0.9, 0, 1, 0.1]] * 2)
    np.testing.assert_allclose(road.at(np.array([0.0])), [[0, 0.5, 1, 1]])
    found = ball.at(np.array([0.9, 1.0, 2.0, 3.0, 3.9, 4.5, 5.5, 6.1]))
    there = [1, 2, 3, 4, 6]
    np.testing.assert_allclose(found[there, 0], [0, 0.05, 0.1, 0.1, 0], atol=1e-9)
    assert np.isnan(found[[0, 5, 7]]).all()


@pytest.mark.parametrize(
    ("regions", "error", "message"),
    [
        ({"a": [0.5, 0, 1.2, 1]}, OptionError, "'a' reaches outside the picture, which is 640x360; for pixels"),
        ({"a": [0.5, 0, 0.4, 1]}, InputError, "'a' is neither a box"),
        ({"a": [{"time_seconds": 1, "box": [0, 0, 1]}]}, InputError, "'a' is neither a box"),
        ({"a": [{"time_seconds": 1}]}, InputError, "'a' is neither a box"),
        ({"a": [{"box": [0, 0, 1, 1]}]}, InputError, "are not increasing numbers"),
        ({"a": [{"time_seconds": t, "box": [0, 0, 1, 1]} for t in (2, 1)]}, InputError, "are not increasing numbers"),
        ({"a": [{"time_seconds": 1, "box": None}]}, InputError, "'a' starts without a box"),
        ({}, InputError, 'no "regions"'),
    ],
)
def test_boxes_that_are_refused(tmp_path: Path, regions: object, error: type[Exception], message: str) -> None:
    file = tmp_path / "keep.json"
    file.write_text(json.dumps({"regions": regions}))
    with pytest.raises(error, match=message):
        read_boxes(file, SIZE)
