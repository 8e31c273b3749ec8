"""The measures of region-of-interest encoding: weighted PSNR, delta rates, and the table on a made clip."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fakes import GrayModel
from makers import make_video, write_fixations

import tinyhd
from benchmark import roi
from benchmark.roi import Encoded, delta_quality, delta_rate, density, measure

SIZE = (192, 128)


def lossless(path: Path, add_right: int = 0, add_left: int = 0, frames: int = 3) -> Path:
    """Gray frames, with a constant error in either half."""

    def gray(_: np.ndarray, k: int) -> np.ndarray:
        rgb = np.full((SIZE[1], SIZE[0], 3), 100 + k, np.uint8)
        rgb[:, SIZE[0] // 2 :] += np.uint8(add_right)
        rgb[:, : SIZE[0] // 2] += np.uint8(add_left)
        return rgb

    tags = {"color_range": 2, "pix_fmt": "yuv420p"}
    return make_video(path, frames, transform=gray, options={"qp": "0", "crf": "0", "preset": "ultrafast"}, **tags)


def test_density_is_where_people_look() -> None:
    points = np.array([[0.25, 0.5]] * 5 + [[2.0, 0.5]])
    found = density(points, SIZE)
    assert found is not None
    assert found.shape == (32, 48)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert (row, column) == (16, 12)
    spread = np.sqrt((found * (np.arange(48) - column) ** 2).sum())
    assert spread / 48 == pytest.approx(roi.SIGMA, rel=0.1)
    assert density(points[1:], SIZE) is None  # the last one is outside


def test_errors_count_where_people_look(tmp_path: Path) -> None:
    source = lossless(tmp_path / "a.mp4")
    worse = lossless(tmp_path / "b.mp4", add_right=8, add_left=2)
    left, right = (density(np.tile([[x, 0.5]], (5, 1)), SIZE) for x in (0.2, 0.8))
    found = {name: measure(source, worse, [where, None, where]) for name, where in (("left", left), ("right", right))}

    def psnr(error: float) -> float:
        return float(10 * np.log10(255**2 / error))

    assert found["left"]["EWPSNR"] == pytest.approx(psnr(4), abs=0.05)
    assert found["right"]["EWPSNR"] == pytest.approx(psnr(64), abs=0.05)
    for one in found.values():
        assert one["PSNR"] == pytest.approx(psnr(34), abs=0.05)
        assert one["XPSNR"] < 60
    assert measure(source, source, [left] * 3)["XPSNR"] == 100


def test_delta_rates() -> None:
    def curve(scale: float, better: float) -> list[Encoded]:
        rates = (100.0, 200.0, 400.0, 800.0)
        return [Encoded(scale * rate, {"PSNR": 30 + 3 * k + better}, 1.0) for k, rate in enumerate(rates)]

    assert delta_rate(curve(1, 0), curve(0.8, 0), "PSNR") == pytest.approx(-20, abs=0.1)
    assert delta_quality(curve(1, 0), curve(1, 0.5), "PSNR") == pytest.approx(0.5, abs=1e-6)
    assert delta_rate(curve(1, 0), curve(1, 0.3)[::-1], "PSNR") == pytest.approx(100 * (2**-0.1 - 1), abs=0.1)


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """People look at what the model finds: a bright part of moving noise, a second after the file's clock begins."""
    grain = np.random.default_rng(0).normal(0, 25, SIZE[::-1])

    def noisy(_: np.ndarray, k: int) -> np.ndarray:
        level = np.full(SIZE[::-1], 60.0)
        level[40:88, 130:178] += 100
        gray = level + np.roll(grain, 2 * k, axis=1) + np.random.default_rng(k).normal(0, 6, level.shape)
        return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)

    make_video(tmp_path / "a.mp4", 40, transform=noisy, options={"crf": "8"}, pts=[25 + k for k in range(40)])
    write_fixations(tmp_path, ["a.mp4"], [(0, viewer, 154 / 192, 0.5, 1000, 10_000) for viewer in range(8)])

    class BrightModel(GrayModel):
        def __call__(self, clips: np.ndarray) -> np.ndarray:
            return super().__call__(clips) ** 4

    monkeypatch.setattr(roi, "analyze", lambda video: tinyhd.analyze(video, backend=BrightModel()))
    part = ["--height", "128", "--start", "0.2", "--seconds", "1"]
    assert roi.main([str(tmp_path), "--encoders", "libx264", *part]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:3] == ["libx264,", "1", "videos"]
    assert float(row[3].rstrip("%")) < -10
    assert float(row[4].rstrip("%")) > -2
    assert roi.main([str(tmp_path), "--rates", "20", "30"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "fixations.npz"]


def test_settings_say_what_the_encoder_gets() -> None:
    settings = roi.Settings(360, 0, 6, "medium", ("22",), 4)
    assert settings.encoder("libx264", "22").crf == 22
    assert settings.encoder("libx264", "22", 2).crf == 20
    given = settings.encoder("libx265", "400k", 2)
    assert dataclasses.astuple(given)[:5] == ("h264", "libx265", None, "medium", "400k")
