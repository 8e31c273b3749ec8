"""Pictures of key moments: sharp, well exposed, where attention is gathered; files, formats, crops, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes import GrayModel
from makers import HARD_FILES, make_video, still

import tinyhd
from tinyhd.cli.main import main
from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.options import MomentOptions
from tinyhd.pipeline.moments import MomentsResult, assess, crop_box, find_moments
from tinyhd.saliency.track import SaliencyTrack, TrackInfo, identify
from tinyhd.saliency.track_writer import TrackWriter
from tinyhd.video.reader import probe, read_frames

pytestmark = pytest.mark.filterwarnings("error")

BLURRED, DARK = (24, 25, 26), (27, 28)
"""Frames of `scenes` right at its first peak, which is at 1 s."""


def run(source: Path, folder: Path, **options: Any) -> MomentsResult:
    if options.get("track") is None:
        options["backend"] = GrayModel()
    chosen = {name: options.pop(name) for name in MomentOptions().to_dict() if name in options}
    return tinyhd.moments(source, folder, options=MomentOptions(**chosen), **options)


def scenes(path: Path) -> Path:
    """Two scenes of two seconds; the first has blurred and dark frames where attention is most gathered."""
    random = np.random.default_rng(0)
    coarse = [random.integers(30, 225, (16, 24, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2)]

    def look(_: np.ndarray, k: int) -> np.ndarray:
        rgb = coarse[k // 50]
        if k in BLURRED:
            padded = np.pad(rgb.astype(float), ((8, 8), (8, 8), (0, 0)), mode="edge")
            rgb = sum(padded[i : i + 128, j : j + 192] for i in range(16) for j in range(16)) / 256  # type: ignore[assignment]
        return np.asarray(rgb // 20 if k in DARK else rgb).astype(np.uint8)

    return make_video(path, 100, transform=look, options={"crf": "12"})


def gathered_at(source: Path, target: Path, *peaks: float, x: float = 0.8) -> Path:
    """A track of a video: attention gathers at x, and most at some times; a cut at 2 s."""
    info = probe(source)
    rows, columns = np.mgrid[:24, :32]
    with TrackWriter(target) as writer:
        writer.add_cut(2.0)
        for frame in read_frames(source):
            near = max(np.exp(-(((frame.time_seconds - peak) / 0.7) ** 2)) for peak in peaks)
            size = 8 - 6.5 * near
            distance = (rows / 23 - 0.5) ** 2 * 24**2 + (columns / 31 - x) ** 2 * 32**2
            writer.add(frame.time_seconds, np.exp(-distance / (2 * size**2)).astype(np.float32))
        writer.finish(TrackInfo(identify(source, info.width, info.height), "made", "sha256:1"))
    return target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return scenes(tmp_path / "clip.mp4")


@pytest.fixture
def track(tmp_path: Path, source: Path) -> Path:
    return gathered_at(source, tmp_path / "clip.track.npz", 1.0, 3.0)


def decoded(path: Path) -> np.ndarray:
    (frame,) = read_frames(path)
    return frame.to_rgb()


def test_the_sharp_and_bright_frames_nearest_to_where_attention_is_gathered(
    tmp_path: Path, source: Path, track: Path
) -> None:
    result = run(source, tmp_path / "out", track=track)
    first, second = result.moments
    assert round(first.time_seconds * 25) in (23, 29)
    assert second.time_seconds == pytest.approx(3.0, abs=0.05)
    assert min(first.sharpness, first.exposure, second.sharpness, second.exposure) > 0.9
    assert [path.name for path in result.pictures] == ["clip.moment-01.jpg", "clip.moment-02.jpg"]
    frames = [frame.to_rgb().astype(int) for frame in read_frames(source)]
    for moment, path in zip(result.moments, result.pictures, strict=True):
        assert np.abs(decoded(path) - frames[round(moment.time_seconds * 25)]).mean() < 4


def test_peaks_at_a_cut_are_kept_away_from_it(tmp_path: Path, source: Path) -> None:
    result = run(source, tmp_path / "out", track=gathered_at(source, tmp_path / "cut.npz", 2.0))
    assert len(result.moments) == 2
    assert all(abs(moment.time_seconds - 2.0) >= 0.19 for moment in result.moments)


def test_what_json_says(tmp_path: Path, source: Path, track: Path) -> None:
    result = run(source, tmp_path / "out", track=track, aspect="1:1")
    content = json.loads(result.output.read_text())
    assert content["source"] == "clip.mp4"
    assert "twentieth" in content["focus"]
    for entry, moment in zip(content["moments"], result.moments, strict=True):
        assert (tmp_path / "out" / entry["file"]).exists()
        assert entry["time_seconds"] == pytest.approx(moment.time_seconds, abs=1e-6)
        assert entry["score"] == pytest.approx(moment.focus / 100 * moment.sharpness * moment.exposure, abs=1e-5)
    assert [span["start_seconds"] < span["end_seconds"] for span in content["focused"]] == [True, True]
    assert content["focused"][0]["end_seconds"] <= 2.0


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_formats(tmp_path: Path, source: Path, track: Path, format: str) -> None:
    result = run(source, tmp_path / "out", track=track, format=format)
    for path in (*result.pictures, result.sheet):
        with av.open(str(path)) as file:
            name = file.streams.video[0].codec_context.name
        assert {"mjpeg": "jpeg"}.get(name, name) == format
    assert decoded(result.pictures[0]).shape == (128, 192, 3)
    assert decoded(result.sheet).shape[1] >= 2 * 192


def test_crops_lie_where_attention_is(tmp_path: Path, source: Path, track: Path) -> None:
    result = run(source, tmp_path / "out", track=track, aspect="1:2", format="png")
    assert decoded(result.pictures[0]).shape == (128, 64, 3)
    (box, _) = (entry["box"] for entry in json.loads(result.output.read_text())["moments"])
    assert box[0] < 0.8 < box[2]
    assert (box[1], box[3]) == (0, 1)
    frames = [frame.to_rgb() for frame in read_frames(source)]
    left = round(box[0] * 192)
    whole = frames[round(result.moments[0].time_seconds * 25)]
    difference = decoded(result.pictures[0]).astype(int) - whole[:, left : left + 64]
    assert np.abs(difference).max() <= 3  # of reading it by way of YUV


def test_even_attention_is_cropped_to_the_middle(source: Path) -> None:
    left, top, right, bottom = crop_box(np.ones((24, 32), np.float32), probe(source), 1.0)
    assert (left + right, top + bottom) == pytest.approx((1, 1))


def test_sharpness_counts_where_attention_is() -> None:
    random = np.random.default_rng(0)
    rgb = np.full((128, 192, 3), 128, np.uint8)
    rgb[:, :64] = random.integers(0, 256, (128, 64, 1), dtype=np.uint8)
    image = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
    left, right = np.zeros((48, 64), np.float32), np.zeros((48, 64), np.float32)
    left[:, :16], right[:, 48:] = 1, 1
    assert assess(image, left).sharpness > 100 * assess(image, right).sharpness


def test_exposure() -> None:
    def exposure(levels: np.ndarray) -> float:
        rgb = np.repeat(levels.astype(np.uint8)[..., None], 3, 2)
        image = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        return assess(image, np.ones((48, 64), np.float32)).exposure

    ramp = np.tile(np.linspace(20, 235, 192), (128, 1))
    assert exposure(ramp) == pytest.approx(1, abs=0.02)
    assert exposure(ramp / 12) < 0.25
    assert exposure(np.clip(ramp * 4, 0, 255)) < 0.5
    assert exposure(np.full((128, 192), 128.0)) < 0.05


@pytest.mark.parametrize("name", ["rotated_90", "vfr", "late_video", "late_start", "bt709", "interlaced", "gif"])
def test_all_kinds_of_files(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    result = run(made.path, tmp_path / "out", count=2)
    times = [frame.time_seconds for frame in read_frames(made.path)]
    assert 1 <= len(result.moments) <= 2
    for moment in result.moments:
        assert min(abs(moment.time_seconds - time) for time in times) < 1e-6
    info = probe(made.path)
    assert decoded(result.pictures[0]).shape == (info.height, info.width, 3)


def test_square_pixels_come_out(tmp_path: Path) -> None:
    result = run(HARD_FILES["non_square"](tmp_path).path, tmp_path / "out")
    assert decoded(result.pictures[0]).shape == (128, round(192 * 64 / 45), 3)


def test_damaged_input_is_told(tmp_path: Path) -> None:
    result = run(HARD_FILES["truncated"](tmp_path).path, tmp_path / "out")
    assert result.damaged
    assert result.warnings


def test_a_part(tmp_path: Path, source: Path, track: Path) -> None:
    result = run(source, tmp_path / "out", track=track, start=2.5)
    assert [moment.time_seconds for moment in result.moments] == pytest.approx([3.0], abs=0.05)


def test_without_files(source: Path, track: Path) -> None:
    with SaliencyTrack(track) as seen:
        found = find_moments(source, seen, MomentOptions(count=1))
    assert [each.pixels.shape for each in found] == [(128, 192, 3)]


def test_an_earlier_run_is_replaced_when_asked(tmp_path: Path, source: Path, track: Path) -> None:
    before = run(source, tmp_path / "out", track=track)
    with pytest.raises(OutputError, match="exists already"):
        run(source, tmp_path / "out", track=track)
    other = tmp_path / "out" / "clip2.moment-01.jpg"
    other.write_bytes(b"")
    run(source, tmp_path / "out", track=track, count=1, overwrite=True)
    assert not before.pictures[1].exists()
    assert other.exists()


def test_bad_input(tmp_path: Path, source: Path, track: Path) -> None:
    with pytest.raises(InputError, match=r"is a still image, which has no moments: name a video\.$"):
        run(still(tmp_path).path, tmp_path / "out")
    with pytest.raises(InputError, match="is of another video"):
        run(make_video(tmp_path / "other.mp4"), tmp_path / "out", track=track)
    with pytest.raises(InputError, match="no sample between the times"):
        run(source, tmp_path / "out", track=track, start=50)
    with pytest.raises(OptionError, match="it must be width:height"):
        MomentOptions(aspect="9x16")
    with pytest.raises(OptionError, match="choose an aspect nearer"):
        run(source, tmp_path / "out", track=track, aspect="1:100")
    with pytest.raises(OptionError, match="jpeg, png, webp"):
        replace(MomentOptions(), format="bmp")
    assert not list((tmp_path / "out").iterdir())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    source, folder = make_video(tmp_path / "in.mp4", 30), tmp_path / "out"
    assert main(["moments", str(source), "--output-dir", str(folder), "--count", "2"]) == 0
    assert "moments at" in capsys.readouterr().err
    assert {"in.moments.json", "in.moments.jpg", "in.moment-01.jpg"} <= {path.name for path in folder.iterdir()}
    make_video(tmp_path / "in2.mp4", 30)
    assert main(["moments", str(source), str(tmp_path / "in2.mp4"), "--output-dir", str(tmp_path / "all")]) == 0
    assert (tmp_path / "all" / "in2.moments.json").exists()
    assert main(["moments", str(source), str(source.parent), "--track", "x.npz", "--output-dir", str(folder)]) == 2
    assert "--track is for one input" in capsys.readouterr().err
    sheet = folder / "in.moments.jpg"
    before = sheet.stat().st_mtime_ns
    assert main(["moments", str(source), "--output-dir", str(folder), "--count", "2"]) == 0  # done already
    assert sheet.stat().st_mtime_ns == before
    assert main(["moments", str(source), "--output-dir", str(folder), "--count", "1"]) == 0  # done anew
    assert sheet.stat().st_mtime_ns != before
    (folder / "tinyhd-manifest.jsonl").unlink()
    assert main(["moments", str(source), "--output-dir", str(folder)]) == 1
    assert "exists already" in capsys.readouterr().err
