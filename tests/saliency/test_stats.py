"""Numbers about attention, and regions."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.saliency.regions import Region, read_regions
from tinyhd.saliency.stats import FrameStats, StatsComputer
from tinyhd.saliency.table import StatsWriter

pytestmark = pytest.mark.filterwarnings("error")


def spot(row: int, column: int, shape: tuple[int, int] = (192, 256)) -> np.ndarray:
    saliency = np.zeros(shape, np.float32)
    saliency[row, column] = 0.2
    return saliency


# ---- numbers


def test_one_pixel() -> None:
    stats = StatsComputer(640, 360)(spot(48, 64), 7, 0.28)
    assert (stats.frame, stats.time_seconds) == (7, 0.28)
    assert stats.peak == pytest.approx(0.2)
    assert (stats.peak_x, stats.peak_y) == pytest.approx((64.5 / 256, 48.5 / 192))
    assert (stats.center_x, stats.center_y) == pytest.approx((64.5 / 256, 48.5 / 192))
    assert stats.spread == pytest.approx(0, abs=1e-6)
    assert stats.entropy_bits == pytest.approx(0, abs=1e-9)


def test_all_alike() -> None:
    stats = StatsComputer(400, 300)(np.full((192, 256), 0.01, np.float32), 0, 0.0)
    assert (stats.center_x, stats.center_y) == pytest.approx((0.5, 0.5))
    assert stats.entropy_bits == pytest.approx(math.log2(192 * 256))
    # a uniform distribution over a side a has a variance of a^2 / 12, so the RMS distance is diagonal / sqrt(12)
    assert stats.spread == pytest.approx(1 / math.sqrt(12), rel=1e-3)


def test_two_places() -> None:
    saliency = spot(96, 64) + spot(96, 191)  # at 1/4 and 3/4 of the width
    stats = StatsComputer(300, 400, 1.0)(saliency, 0, 0.0)
    assert stats.center_x == pytest.approx(0.5, abs=0.01)
    assert stats.spread == pytest.approx(0.25 * 300 / 500, rel=0.01)
    assert stats.entropy_bits == pytest.approx(1)
    # pixels twice as wide as high: the picture is shown 600 wide
    wide = StatsComputer(300, 400, 2.0)(saliency, 0, 0.0)
    assert wide.spread == pytest.approx(0.25 * 600 / math.hypot(600, 400), rel=0.01)


def test_a_map_of_zeros_counts_as_all_alike() -> None:
    stats = StatsComputer(64, 48)(np.zeros((192, 256), np.float32), 0, 0.0)
    assert stats.entropy_bits == pytest.approx(math.log2(192 * 256))
    assert all(math.isfinite(value) for value in stats.to_dict().values())


# ---- regions


def write(folder: Path, content: Any) -> Path:
    path = folder / "regions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_shares(tmp_path: Path) -> None:
    regions = read_regions(
        write(
            tmp_path,
            {
                "regions": {
                    "left": [0, 0, 0.5, 1],
                    "all": [-1, -1, 2, 2],
                    "lower triangle": [[0, 0], [1, 1], [0, 1]],
                    "hourglass": [[0, 0], [1, 0], [0, 1], [1, 1]],
                }
            },
        )
    )
    uniform = StatsComputer(640, 360, regions=regions)(np.full((192, 256), 0.1, np.float32), 0, 0.0).regions
    assert uniform == pytest.approx({"left": 0.5, "all": 1, "lower triangle": 0.5, "hourglass": 0.5}, abs=2e-3)
    corner = StatsComputer(640, 360, regions=regions)(spot(180, 30), 0, 0.0).regions
    assert corner == pytest.approx({"left": 1, "all": 1, "lower triangle": 1, "hourglass": 1})
    right = StatsComputer(640, 360, regions=regions)(spot(96, 250), 0, 0.0).regions
    assert right == pytest.approx({"left": 0, "all": 1, "lower triangle": 0, "hourglass": 0})


def test_parts_of_map_pixels_count(tmp_path: Path) -> None:
    # the box ends in the middle of map pixel 64
    region = Region("box", ((0, 0), (64.5 / 256, 0), (64.5 / 256, 1), (0, 1)))
    assert StatsComputer(64, 48, regions=[region])(spot(5, 64), 0, 0.0).regions["box"] == pytest.approx(0.5)


def test_pixels(tmp_path: Path) -> None:
    path = write(tmp_path, {"units": "pixels", "regions": {"logo": [320, 0, 640, 180]}})
    shares = StatsComputer(640, 360, regions=read_regions(path))(np.ones((192, 256), np.float32), 0, 0.0).regions
    assert shares == pytest.approx({"logo": 0.25})


def test_regions_outside_the_picture(tmp_path: Path) -> None:
    path = write(tmp_path, {"regions": {"logo": [320, 0, 640, 180]}})
    with pytest.raises(OptionError, match=r"'logo' lies outside the picture.*\"units\": \"pixels\""):
        StatsComputer(640, 360, regions=read_regions(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "Expecting value"),
        ("[]", "not an object"),
        ("{}", 'no "regions"'),
        ({"regions": {}}, 'no "regions"'),
        ({"units": "inches", "regions": {"a": [0, 0, 1, 1]}}, "inches"),
        ({"regions": {"a": [0.5, 0, 0.5, 1]}}, "region 'a' is neither a box"),
        ({"regions": {"a": [0, 0, 1]}}, "region 'a' is neither"),
        ({"regions": {"a": [[0, 0], [1, 1]]}}, "region 'a' is neither"),
        ({"regions": {"a": [[0, 0], [1, 1], [0, "x"]]}}, "region 'a' is neither"),
        ({"regions": {"a": "left"}}, "region 'a' is neither"),
        ('{"regions": {"a": [0, 0, NaN, 1]}}', "region 'a' is neither"),
        ('{"regions": {"a": [0, 0, 1, 1], "a": [0, 0, 1, 1]}}', "used twice"),
    ],
)
def test_wrong_region_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_regions(write(tmp_path, content))


def test_missing_region_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_regions(tmp_path / "missing.json")


# ---- files

LINES = [
    FrameStats(0, 0.0, 0.1, 0.5, 0.25, 0.4, 0.3, 0.1, 12.5, 40.0, {"Größe, x": 0.25}),
    FrameStats(1, 1 / 3, 0.2, 0.5, 0.25, 0.4, 0.3, 0.1, 12.5, 40.0, {"Größe, x": 0.75}),
]


def test_csv(tmp_path: Path) -> None:
    with StatsWriter(tmp_path / "stats.csv") as writer:
        for line in LINES:
            writer.write(line)
        assert not (tmp_path / "stats.csv").exists()
    with (tmp_path / "stats.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time_seconds"]) for row in rows] == [0.0, 1 / 3]
    assert [row["region:Größe, x"] for row in rows] == ["0.25", "0.75"]
    assert list(rows[0])[:5] == ["frame", "time_seconds", "peak", "peak_x", "peak_y"]


def test_json_lines(tmp_path: Path) -> None:
    with StatsWriter(tmp_path / "stats.jsonl") as writer:
        for line in LINES:
            writer.write(line)
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [line.to_dict() for line in LINES]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    writer = StatsWriter(tmp_path / "stats.csv")
    writer.write(LINES[0])
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert list(tmp_path.iterdir()) == []


def test_names_and_existing_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"must end in \.csv, \.jsonl"):
        StatsWriter(tmp_path / "stats.xlsx")
    (tmp_path / "stats.csv").write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        StatsWriter(tmp_path / "stats.csv")
    assert (tmp_path / "stats.csv").read_text() == "precious"
