"""The whole chain on made files: every frame once, in order, at its time, with its own map."""

import csv
import gc
import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import makers
import numpy as np
import pytest
from fakes import SCALE, GrayModel, as_picture
from makers import HARD_FILES, MOVING, STILLS, make_video, read_barcode

import tinyhd
from tinyhd.errors import InputError, OptionError, OutputError, WeightsError
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import save_model
from tinyhd.options import STYLES
from tinyhd.pipeline.annotate import AnnotateResult
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.saliency.regions import Region
from tinyhd.video.reader import open_video, read_frames

pytestmark = pytest.mark.filterwarnings("error")


def run(
    source: Path, output: Path | str | None = None, backend: GrayModel | None = None, **options: Any
) -> AnnotateResult:
    """`run_job` with the stub model, or the one that is named."""
    progress = options.pop("progress", None)
    job = Job.from_mapping({"input": source, "output": output, **options})
    return run_job(job, backend=None if job.inference.model else backend or GrayModel(), progress=progress)


def codes(path: Path) -> list[int]:
    return [read_barcode(frame.to_rgb()) for frame in read_frames(path)]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def gray_levels(path: Path) -> list[np.ndarray]:
    """Luma of every frame from 0 to 1, (H, W)."""
    return [frame.to_rgb().mean(2) / 255 for frame in read_frames(path)]


# ---- every frame, once, at its time


@pytest.mark.parametrize("name", [*MOVING, "hdr_pq"])
def test_every_frame_is_there_at_its_time(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    result = run(made.path, tmp_path / "out.mp4")
    with open_video(made.path) as video:
        source = [(frame.time, frame.to_rgb()) for frame in video]
        tick = video.info.time_base
        assert result.damaged == video.damaged == made.damaged
        if made.damaged:
            assert result.warnings == tuple(video.warnings)
        sizes = (video.info.width, video.info.height)
        aspect = video.info.sample_aspect_ratio
    assert result.frames == len(source)
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.codec.canonical_name == "h264"
    assert len(times) == len(source)
    assert max(abs(a - b) for a, (b, _) in zip(times, source, strict=True)) <= tick / 2
    if made.numbers is not None:
        assert codes(tmp_path / "out.mp4") == made.numbers
    with open_video(tmp_path / "out.mp4") as written:
        assert (written.info.width, written.info.height) == tuple(n + n % 2 for n in sizes)
        assert written.info.sample_aspect_ratio == aspect
        assert written.info.rotation_degrees == 0
        assert written.info.source_pix_fmt in ("yuv420p", "yuvj420p")


@pytest.mark.parametrize("name", STILLS)
def test_still_images_give_png(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    result = run(made.path, style="spotlight", opacity=0.2)
    assert result.output == made.path.with_name(f"{made.path.stem}.saliency.png")
    assert result.frames == 1
    makers.png_chunks(result.output.read_bytes())
    with open_video(result.output) as written:
        assert (written.info.width, written.info.height) == made.size
        assert read_barcode(next(written).to_rgb()) == 7


def test_the_default_name_lies_beside_the_input(tmp_path: Path) -> None:
    made = makers.plain(tmp_path, 3, "12:30 ü.mp4")
    result = run(made.path)
    assert result.output == tmp_path / "12:30 ü.saliency.mp4"
    assert files(tmp_path) == {"12:30 ü.mp4", "12:30 ü.saliency.mp4"}


def test_part_of_a_video(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 50, audio=["aac"])
    result = run(
        source, tmp_path / "out.mp4", start=0.4, end=1.2, save_maps=tmp_path / "m.npz", stats=tmp_path / "s.csv"
    )
    assert result.frames == 20
    assert codes(tmp_path / "out.mp4") == list(range(10, 30))
    with np.load(tmp_path / "m.npz") as saved:
        assert [read_barcode(as_picture(m)) for m in saved["maps"]] == list(range(10, 30))
        np.testing.assert_allclose(saved["time_seconds"], np.arange(10, 30) / 25)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].duration * container.streams.audio[0].time_base == pytest.approx(
            0.8, abs=0.05
        )


def test_an_empty_part_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = makers.plain(tmp_path, 10).path
    with pytest.raises(InputError, match="no frame between"):
        run(source, tmp_path / "out.mp4", start=5)
    assert files(tmp_path) == {"plain.mp4"}


@pytest.mark.parametrize(("extension", "audio"), [("ts", "aac"), ("ts", "ac3"), ("mpg", "mp2"), ("mkv", "flac")])
def test_damaged_sound_is_told_and_costs_no_frame(tmp_path: Path, extension: str, audio: str) -> None:
    made = makers.damaged_sound(tmp_path, extension, audio)
    result = run(made.path, tmp_path / "out.mp4")
    assert result.frames == len(list(read_frames(tmp_path / "out.mp4"))) == len(list(read_frames(made.path)))
    assert result.damaged
    assert "Some of the audio is damaged and was left out." in result.warnings


def test_sound_that_is_damaged_behind_the_last_frame_is_told(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", 5, rate=Fraction(5), audio=["aac"])
    with av.open(str(source)) as container:
        last = [(p.pos, p.size) for p in container.demux(audio=0) if p.size][-1]
    data = bytearray(source.read_bytes())
    data[last[0] + 4 : last[0] + last[1]] = bytes([0x5A]) * (last[1] - 4)
    source.write_bytes(data)
    assert run(source, tmp_path / "out.mp4").damaged


# ---- each frame has its own map


@pytest.mark.parametrize("normalize", ["frame", "video", "none"])
@pytest.mark.parametrize("windowing", ["crossfade", "published"])
def test_heat_map_and_saved_maps_belong_to_the_frames(tmp_path: Path, normalize: str, windowing: str) -> None:
    made = makers.plain(tmp_path, 37)
    model = GrayModel()
    run(
        made.path,
        tmp_path / "heat.mp4",
        backend=model,
        style="heatmap",
        colormap="gray",
        normalize=normalize,
        windowing=windowing,
        save_maps=tmp_path / "maps.npz",
    )
    assert model.clips == {"crossfade": 3, "published": 3}[windowing]
    assert codes(tmp_path / "heat.mp4") == made.numbers
    with np.load(tmp_path / "maps.npz") as saved:
        maps = saved["maps"]
    assert maps.dtype == np.float16
    assert maps.shape == (37, 192, 256)
    assert [read_barcode(as_picture(m)) for m in maps] == made.numbers
    for shown, saliency in zip(gray_levels(tmp_path / "heat.mp4"), maps, strict=True):
        rows, columns = (np.arange(128) + 0.5) * 1.5, (np.arange(192) + 0.5) * 256 / 192
        sampled = saliency[rows.astype(int)][:, columns.astype(int)].astype(float)
        assert np.corrcoef(shown.ravel(), sampled.ravel())[0, 1] > 0.98


def brightness(factors: list[float]) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda rgb, position: np.rint(rgb * factors[position]).astype(np.uint8)


def test_normalizing_by_frame_does_not_flicker_and_by_video_does_not_change_the_scale(tmp_path: Path) -> None:
    factors = [1.0 if k % 2 else 0.7 for k in range(50)]
    source = make_video(tmp_path / "in.mp4", 50, transform=brightness(factors), options={"crf": "4"})

    def white(normalize: str) -> np.ndarray:
        """How full attention is drawn in every frame."""
        target = tmp_path / f"{normalize}.mp4"
        run(source, target, style="heatmap", colormap="gray", normalize=normalize, crf=4)
        return np.array([np.percentile(level, 99) for level in gray_levels(target)])

    by_frame, by_video, fixed = white("frame"), white("video"), white("none")
    # what is drawn follows the maps' own changes, but the scale does not jump after them
    assert by_frame[20::2].std() < 0.03
    assert by_frame[21::2].std() < 0.03
    ratio = by_frame[20::2].mean() / by_frame[21::2].mean()
    assert 0.65 < ratio < 0.9
    assert by_video[1::2].mean() == pytest.approx(1, abs=0.08)
    assert by_video[::2].mean() == pytest.approx(0.7, abs=0.08)
    # white, which the model gives `SCALE`, is full attention where the model knows no other scale
    assert TinyHDConfig.display_scale == SCALE
    assert fixed[::2].mean() == pytest.approx(0.7 * 235 / 255, abs=0.05)


def test_the_scale_starts_anew_at_a_cut(tmp_path: Path) -> None:
    blocks = np.random.default_rng(1).integers(0, 2, (16, 24, 1)).repeat(8, 0).repeat(8, 1).repeat(3, 2)

    def two_shots(rgb: np.ndarray, position: int) -> np.ndarray:
        return rgb if position < 20 else (blocks * 100).astype(np.uint8)

    source = make_video(tmp_path / "in.mp4", [7] * 40, transform=two_shots, options={"crf": "4"})

    def brightest(cuts: bool) -> list[float]:
        target = tmp_path / f"{cuts}.mp4"
        run(source, target, style="heatmap", colormap="gray", cuts=cuts, crf=4)
        return [float(np.percentile(level, 99)) for level in gray_levels(target)]

    assert brightest(True)[20] > 0.9
    assert brightest(False)[20] < 0.6


# ---- styles


@pytest.mark.parametrize("style", STYLES)
def test_styles(tmp_path: Path, style: str) -> None:
    made = makers.plain(tmp_path, 4)
    run(made.path, tmp_path / "out.mp4", style=style, colormap="inferno", opacity=0.3)
    with open_video(tmp_path / "out.mp4") as video:
        wide = style == "side-by-side"
        assert (video.info.width, video.info.height) == (makers.WIDTH * (1 + wide), makers.HEIGHT)
        pictures = [frame.to_rgb() for frame in video]
    left = [picture[:, : makers.WIDTH] for picture in pictures]
    if style != "heatmap":
        assert [read_barcode(picture) for picture in left] == made.numbers
    if wide:
        assert [read_barcode(picture[:, makers.WIDTH :]) for picture in pictures] == made.numbers
        for name, color in makers.read_patches(makers.picture(0)).items():
            assert np.abs(makers.read_patches(left[0])[name] - color).max() < 12


# ---- what is kept beside it


def test_maps_as_images(tmp_path: Path) -> None:
    made = makers.plain(tmp_path, 18)
    result = run(made.path, tmp_path / "out.mp4", save_maps=f"{tmp_path}/maps/")
    assert result.maps == tmp_path / "maps"
    names = sorted(files(tmp_path / "maps"))
    assert names == [f"{k:06d}.png" for k in range(18)]
    for k, name in enumerate(names):
        with av.open(str(tmp_path / "maps" / name), format="png_pipe") as container:
            frame = next(container.decode(video=0))
            assert frame.format.name == "gray16be"
            pixels = frame.to_ndarray(format="gray16le")
        assert pixels.shape == (192, 256)
        assert read_barcode(as_picture(pixels / 65535)) == k


def test_maps_as_a_gray_video(tmp_path: Path) -> None:
    made = makers.vfr(tmp_path)
    run(made.path, tmp_path / "out.mp4", save_maps=tmp_path / "gray.mp4")
    with open_video(tmp_path / "gray.mp4") as video:
        assert (video.info.width, video.info.height) == (256, 192)
        assert video.info.sample_aspect_ratio == Fraction(192, 128) / Fraction(256, 192)
        frames = list(video)
    assert [frame.time for frame in frames] == [frame.time for frame in read_frames(made.path)]
    assert [read_barcode(frame.to_rgb()) for frame in frames] == made.numbers
    assert max(np.ptp(frame.to_rgb().astype(int), axis=2).max() for frame in frames) <= 3  # no color


def test_statistics(tmp_path: Path) -> None:
    made = makers.plain(tmp_path, 20)
    regions = tmp_path / "regions.json"
    regions.write_text(json.dumps({"regions": {"upper": [0, 0, 1, 0.5], "lower": [0, 0.5, 1, 1]}}))
    run(made.path, tmp_path / "out.mp4", stats=tmp_path / "stats.csv", regions=regions, save_maps=tmp_path / "m.npz")
    with (tmp_path / "stats.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    with np.load(tmp_path / "m.npz") as saved:
        maps = saved["maps"].astype(float)
    assert [row["time_seconds"] for row in rows] == pytest.approx([k / 25 for k in range(20)])
    for row, saliency in zip(rows, maps, strict=True):
        share = saliency / saliency.sum()
        assert row["peak"] == pytest.approx(saliency.max(), rel=1e-3)
        assert row["center_y"] == pytest.approx(share.sum(1) @ ((np.arange(192) + 0.5) / 192), rel=1e-3)
        assert row["region:upper"] == pytest.approx(share[:96].sum(), abs=1e-3)
        assert row["region:upper"] + row["region:lower"] == pytest.approx(1)
        assert 0 < row["entropy_bits"] < math.log2(192 * 256)


def test_statistics_are_the_same_in_two_passes(tmp_path: Path) -> None:
    made = makers.plain(tmp_path, 20)
    for normalize in ("frame", "video"):
        run(made.path, tmp_path / f"{normalize}.mp4", normalize=normalize, stats=tmp_path / f"{normalize}.jsonl")
    once, twice = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("frame", "video")
    )
    assert len(once) == len(twice) == 20
    for first, second in zip(once, twice, strict=True):
        assert first == pytest.approx(second, rel=2e-3, abs=1e-3)


# ---- errors


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    made = makers.plain(tmp_path, 40)

    def interrupt(done: int, _total: int | None) -> None:
        if done == 30:
            raise KeyboardInterrupt

    outputs = {"save_maps": f"{tmp_path}/maps/", "stats": tmp_path / "stats.csv"}
    for normalize in ("frame", "video"):
        with pytest.raises(KeyboardInterrupt):
            run(made.path, tmp_path / "out.mp4", progress=interrupt, normalize=normalize, **outputs)
        assert files(tmp_path) == {"plain.mp4"}
    outputs["save_maps"] = tmp_path / "maps.npz"
    with pytest.raises(KeyboardInterrupt):
        run(made.path, tmp_path / "out.mp4", progress=interrupt, **outputs)
    assert files(tmp_path) == {"plain.mp4"}


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    made = makers.plain(tmp_path, 3)
    before = made.path.read_bytes()
    (tmp_path / "link.mp4").hardlink_to(made.path)
    for target in (made.path, tmp_path / "." / "plain.mp4", tmp_path / "link.mp4"):
        with pytest.raises(OutputError, match="inputs are never overwritten"):
            run(made.path, target, overwrite=True)
    assert made.path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"style": "poster"}, OptionError, "style is 'poster'"),
        ({"regions": "regions.json"}, OptionError, "name a file for these as well"),
        ({"stats": "stats.txt"}, OptionError, "must end in .csv"),
        ({"save_maps": "maps.tar"}, OptionError, "name a .npz file"),
        ({"save_maps": "same.mp4", "output": "same.mp4"}, OptionError, "two outputs have the same name"),
        ({"output": "out.png"}, OptionError, "must end in .mp4"),
        ({"model": "nonsense"}, WeightsError, "neither a model nor a file"),
        ({"end": 0.5, "start": 1}, OptionError, "end must come after start"),
    ],
)
def test_wrong_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    made = makers.plain(tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message.replace(".", r"\.")):
        run(made.path, **options)
    assert files(tmp_path) == {"plain.mp4"}


def test_still_images_are_not_written_as_video(tmp_path: Path) -> None:
    made = makers.still(tmp_path)
    with pytest.raises(OptionError, match=r"must end in \.png"):
        run(made.path, tmp_path / "out.mp4")


def test_a_file_without_video_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(InputError):
        run(tmp_path / "text.mp4")
    assert files(tmp_path) == {"text.mp4"}


# ---- the real model, progress, memory


def test_with_weights_from_a_file(tmp_path: Path) -> None:
    save_model(TinyHD(TinyHDConfig(channel_reduction=4, decoders=("d2",), output_stride=4)), tmp_path / "m.safetensors")
    made = makers.plain(tmp_path, 3)
    inference = tinyhd.InferenceOptions(model=str(tmp_path / "m.safetensors"), device="cpu", backend="torch")
    result = tinyhd.annotate(made.path, inference=inference)
    assert codes(result.output) == made.numbers


@pytest.mark.parametrize("normalize", ["frame", "video"])
def test_progress_counts_to_the_end(tmp_path: Path, normalize: str) -> None:
    made = makers.plain(tmp_path, 20)
    calls: list[tuple[int, int | None]] = []
    run(made.path, normalize=normalize, progress=lambda *call: calls.append(call))
    count = 20 if normalize == "frame" else 40
    assert calls == [(k + 1, count) for k in range(count)]


@pytest.mark.parametrize("normalize", ["frame", "video"])
def test_memory_stays_flat(tmp_path: Path, normalize: str) -> None:
    peaks = []
    for count in (72, 216):  # the first is more than all queues hold
        numbers = list(itertools.islice(itertools.cycle(range(40)), count))
        source = make_video(tmp_path / f"{count}.mp4", numbers, width=64, height=48)
        tracemalloc.start()
        run(source, normalize=normalize, save_maps=tmp_path / f"{count}.npz", stats=tmp_path / f"{count}.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # how full the queues are at their fullest is up to the threads; keeping every map would take 144 of them
    assert peaks[1] < peaks[0] + 72 * 192 * 256 * 4


@pytest.mark.parametrize("normalize", ["frame", "video"])
def test_nothing_waits_for_the_garbage_collector(tmp_path: Path, normalize: str) -> None:
    """An encoder holds dozens of frames; where few new objects are made it could stay for many files."""
    source = make_video(tmp_path / "in.mp4", 30)
    regions = [Region("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0)))]
    gc.collect()
    gc.disable()
    try:
        run(source, normalize=normalize, save_maps=tmp_path / "maps.npz", stats=tmp_path / "s.csv", regions=regions)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(thing).__name__ for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left & {
        "VideoCodecContext",
        "OutputContainer",
        "InputContainer",
        "Graph",
        "VideoWriter",
        "MapSpool",
        "ZipFile",
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """The most that a process takes for 1280x720 video: below 1.5 GB, and no more for ten times the length."""
    code = """
import sys
from tinyhd import annotate
annotate(sys.argv[1], sys.argv[2])
status = open("/proc/self/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""
    peaks = []
    for frames in (100, 1000):
        source, target = tmp_path / f"{frames}.mp4", tmp_path / f"{frames}.out.mp4"
        makers.make_video(source, frames, width=1280, height=720, options={"preset": "ultrafast"})
        done = subprocess.run(
            [sys.executable, "-c", code, source, target], capture_output=True, text=True, check=True, timeout=600
        )
        peaks.append(int(done.stdout) * 1024)
    assert max(peaks) < 1.5e9
    assert peaks[1] < peaks[0] * 1.1  # keeping one map for each of 900 frames would take a quarter more
