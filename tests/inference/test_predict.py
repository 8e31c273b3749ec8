"""tinyhd.predict: preprocessing, and one map per frame whatever the video, with made frames and with the real thing."""

import copy
import itertools
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import makers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import GrayModel
from torch import Tensor

from tinyhd import predict
from tinyhd.errors import InputError, OptionError
from tinyhd.inference.backends import TorchBackend
from tinyhd.inference.predict import predict_frames, predict_video, preprocess, preprocess_frame
from tinyhd.inference.windows import Windowing
from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD, TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import load_model
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video

MEAN = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(3, 1, 1)


# ---- preprocessing


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 3), (192, 256), (191, 257), (97, 31), (240, 426), (721, 1279), (1920, 1080), (2160, 3840)]
)
def test_preprocess_is_plain_bilinear_interpolation(size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = torch.from_numpy(rgb).permute(2, 0, 1)[None].double() / 255
    expected = (F.interpolate(whole, (192, 256), mode="bilinear", align_corners=False)[0] - MEAN) / STD
    result = preprocess(rgb)
    assert result.shape == (3, 192, 256)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)


def test_preprocess_takes_views() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    torch.testing.assert_close(preprocess(rgb[::2, ::-1]), preprocess(rgb[::2, ::-1].copy()))


@pytest.mark.parametrize("kind", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("size", [(1280, 720), (640, 359), (333, 222), (100, 50)])
@pytest.mark.parametrize("colorspace", [1, 2, 5, 7, 9])
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_frames_are_read_as_by_way_of_rgb(kind: str, size: tuple[int, int], colorspace: int, color_range: int) -> None:
    """Noise has all levels and no two chroma samples alike; here and there a term is rounded the other way."""
    rng = np.random.default_rng(0)
    image = av.VideoFrame(*size, kind)
    for plane in image.planes:
        samples = np.frombuffer(memoryview(plane), np.uint8)
        samples[:] = rng.integers(0, 256, samples.size)
    image.colorspace, image.color_range = colorspace, color_range
    frame = Frame(0, 0, Fraction(0), image)
    levels = torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    difference = (levels * (preprocess_frame(frame) - preprocess(frame.to_rgb()))).abs()
    assert difference.max() < 1.001
    assert difference.mean() < 0.005


@pytest.mark.parametrize(
    "kind",
    [
        *("rotated_90", "rotated_180", "mirrored", "flipped", "interlaced"),
        *("full_range", "bt709", "ten_bit", "odd_size", "jpg"),
    ],
)
def test_frames_of_all_kinds_are_read_as_by_way_of_rgb(tmp_path: Path, kind: str) -> None:
    """Filters leave planes of many layouts in memory."""
    with open_video(makers.HARD_FILES[kind](tmp_path).path) as video:
        for frame in itertools.islice(video, 3):
            torch.testing.assert_close(preprocess_frame(frame), preprocess(frame.to_rgb()), rtol=0, atol=1e-5)


def test_videos_are_not_converted_to_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(frame: Frame) -> np.ndarray:
        raise AssertionError("the whole frame was converted")

    monkeypatch.setattr(Frame, "to_rgb", refuse)
    assert len(list(predict_video(makers.plain(tmp_path, 20).path, GrayModel()))) == 20


def test_thumbnail_is_luma() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    luma = rgb.astype(float) @ [0.299, 0.587, 0.114]
    expected = luma.reshape(24, 8, 32, 8).mean((1, 3))
    result = predict.thumbnail(preprocess(rgb))
    np.testing.assert_allclose(result - result.mean(), expected - expected.mean(), atol=1e-3)


# ---- one map per frame, in order: made frames, and functions in place of the network


@dataclass(eq=False)
class MadeFrame:
    """Frame `index` of scene `scene`: the scene's picture, its number in the corner that `numbers` reads."""

    index: int
    scene: int = 0

    def to_rgb(self) -> np.ndarray:
        rgb = scene_picture(self.scene).copy()
        rgb[:8, :8] = self.index
        rgb[:8, 8:16] = 10 * self.scene
        return rgb

    @property
    def image(self) -> av.VideoFrame:
        return av.VideoFrame.from_ndarray(self.to_rgb(), format="rgb24")


@lru_cache
def scene_picture(scene: int) -> np.ndarray:
    coarse = np.random.default_rng(scene).integers(20, 236, (6, 8, 3), dtype=np.uint8)
    return coarse.repeat(32, 0).repeat(32, 1)


def made(count: int, *cuts: int) -> Iterator[Any]:
    for index in range(count):
        yield MadeFrame(index, sum(index >= cut for cut in cuts))


def red_levels(clips: Tensor, x: int) -> Tensor:
    """(N, 16): the 8-bit red level of each frame at row 4, column x."""
    return ((clips[:, 0, :, 4, x] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255).round()


class Numbers:
    """In place of the network: each map has the value of its frame's number plus 1 all over."""

    def __init__(self, maps_per_clip: int, size: tuple[int, int] = (192, 256)) -> None:
        self.maps_per_clip = maps_per_clip
        self.size = size
        self.batches: list[int] = []
        self.scenes: list[set[float]] = []

    def __call__(self, clips: Tensor) -> Tensor:
        assert clips.shape[1:] == (3, 16, 192, 256)
        self.batches.append(len(clips))
        self.scenes += [set(row.tolist()) for row in red_levels(clips, 12)]
        numbers = red_levels(clips, 4)[:, -self.maps_per_clip :] + 1
        return numbers[:, :, None, None].expand(-1, -1, *self.size)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("maps_per_clip", "options"),
    [
        (16, {}),
        (16, {"overlap": 0}),
        (16, {"overlap": 8}),
        (16, {"overlap": 13}),
        (16, {"windowing": "published"}),
        (1, {}),
        (1, {"windowing": "published"}),
    ],
)
def test_each_frame_gets_its_map(maps_per_clip: int, options: dict[str, Any], batch_size: int) -> None:
    for count in (0, 1, 15, 16, 17, 33) if maps_per_clip == 16 else (0, 1, 18):
        numbers = Numbers(maps_per_clip)
        predictions = list(predict_frames(made(count), numbers, batch_size=batch_size, **options))
        assert [p.frame.index for p in predictions] == list(range(count))
        for number, (frame, saliency, is_cut) in enumerate(predictions):
            assert frame.index == number
            assert saliency.shape == (192, 256)
            assert saliency.dtype == np.float32
            np.testing.assert_allclose(saliency, number + 1, rtol=1e-4)
            assert not is_cut
        assert max(numbers.batches, default=0) <= batch_size


def test_smaller_maps_are_enlarged() -> None:
    small = torch.full((48, 64), 1e-4)
    small[20, 30] = 0.2  # bicubic interpolation swings below zero beside it

    class Peak(Numbers):
        def __call__(self, clips: Tensor) -> Tensor:
            return small.expand(len(clips), 16, 48, 64)

    enlarged = F.interpolate(small[None, None], (192, 256), mode="bicubic", align_corners=False)[0, 0]
    assert enlarged.min() < 0
    for prediction in predict_frames(made(20), Peak(16)):
        np.testing.assert_allclose(prediction.map, enlarged.clamp_min(0), atol=1e-6)
        assert prediction.map.min() == 0


class Windows:
    """In place of the network: maps that differ from window to window in shape and in sum."""

    maps_per_clip = 16

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def __call__(self, clips: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(len(self.given))
        maps = torch.rand((len(clips), 16, 192, 256), generator=generator) * 0.1 * (1 + len(self.given))
        self.given += [m.numpy().astype(np.float64) for m in maps]
        return maps


@pytest.mark.parametrize("options", [{"overlap": 4}, {"overlap": 9}, {"windowing": "published"}])
def test_shared_frames_are_averaged_as_documented(options: dict[str, Any]) -> None:
    windows = Windows()
    result = [p.map for p in predict_frames(made(45), windows, **options)]
    kind = options.get("windowing", "crossfade")
    plan = Windowing(16, kind, options.get("overlap", 0)).plan(45)
    assert len(plan) == len(windows.given)
    for number, saliency in enumerate(result):
        found = [
            (weight, maps[k])
            for window, maps in zip(plan, windows.given, strict=True)
            for k, (frame, weight) in enumerate(zip(window.map_frames, window.weights, strict=True))
            if frame == number and weight
        ]
        total = sum(weight for weight, _ in found)
        shape = sum(weight * m / m.sum() for weight, m in found) / total
        mass = sum(weight * m.sum() for weight, m in found) / total
        np.testing.assert_allclose(saliency, shape * mass, rtol=1e-4)
        if len(found) == 1:
            np.testing.assert_allclose(saliency, found[0][1], rtol=1e-4)


@pytest.mark.parametrize("maps_per_clip", [16, 1])
def test_nothing_crosses_a_cut(maps_per_clip: int) -> None:
    numbers = Numbers(maps_per_clip)
    predictions = list(predict_frames(made(40, 9, 26), numbers, batch_size=4))
    assert [p.frame.index for p in predictions if p.is_cut] == [9, 26]
    assert all(len(scenes) == 1 for scenes in numbers.scenes)
    for number, prediction in enumerate(predictions):
        np.testing.assert_allclose(prediction.map, number + 1, rtol=1e-4)

    numbers = Numbers(maps_per_clip)
    predictions = list(predict_frames(made(40, 9, 26), numbers, cuts=False))
    assert len(predictions) == 40
    assert not any(p.is_cut for p in predictions)
    assert any(len(scenes) > 1 for scenes in numbers.scenes)


@pytest.mark.parametrize(
    ("maps_per_clip", "options", "most"),
    [
        (16, {}, 20),
        (16, {"cuts": False}, 18),
        (16, {"batch_size": 3}, 44),
        (16, {"windowing": "published"}, 36),
        (1, {}, 7),
        (1, {"batch_size": 1}, 4),
    ],
)
def test_few_frames_are_held(
    maps_per_clip: int, options: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays flat: a frame is let go once its map was given and the next one is asked for."""
    alive: weakref.WeakSet[MadeFrame] = weakref.WeakSet()
    images: list[weakref.ref[np.ndarray]] = []

    def source() -> Iterator[Any]:
        for frame in made(70, 30):
            alive.add(frame)
            yield frame

    def recorded(rgb: np.ndarray) -> Tensor:
        array = preprocess(rgb).numpy().copy(order="K")
        images.append(weakref.ref(array))
        return torch.from_numpy(array)

    monkeypatch.setattr(predict, "preprocess", recorded)
    held = held_images = 0
    for prediction in predict_frames(source(), Numbers(maps_per_clip), **options):
        held = max(held, len(alive))
        held_images = max(held_images, sum(image() is not None for image in images))
        del prediction
    assert held <= most
    assert held_images <= 38  # of a window, of what follows it, and a little


def test_maps_come_while_frames_are_read() -> None:
    read = 0

    def source() -> Iterator[Any]:
        nonlocal read
        for frame in made(200):
            read += 1
            yield frame

    predictions = predict_frames(source(), Numbers(16))
    assert read == 0
    next(predictions)
    assert read <= 20


def test_errors_of_the_source_come_through() -> None:
    def source() -> Iterator[Any]:
        yield from made(20)
        raise InputError("the disk is gone")

    with pytest.raises(InputError, match="disk"):
        list(predict_frames(source(), Numbers(16)))


# ---- options


@pytest.mark.parametrize(
    ("maps_per_clip", "options", "match"),
    [
        (16, {"windowing": "hann"}, "crossfade, published"),
        (16, {"overlap": 16}, "0 to 15"),
        (16, {"overlap": 4, "windowing": "published"}, "overlap"),
        (1, {"overlap": 4}, "overlap"),
        (16, {"batch_size": 0}, "1 or more"),
        (16, {"precision": "bfloat16"}, "PyTorch"),
        (16, {"backend": "openvino"}, "PyTorch"),
    ],
)
def test_wrong_options_are_told_at_once(maps_per_clip: int, options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        predict_frames(made(3), Numbers(maps_per_clip), **options)
    with pytest.raises(OptionError, match=match):
        predict_video("no such file", Numbers(maps_per_clip), **options)


@pytest.fixture(scope="module")
def small_model() -> TinyHD:
    torch.manual_seed(0)
    return TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()


def test_precisions(small_model: TinyHD) -> None:
    with pytest.raises(OptionError, match="float32, bfloat16, float16"):
        TorchBackend(small_model, "float64")
    with pytest.raises(OptionError, match="GPU"):
        TorchBackend(small_model, "float16")
    full = np.stack([p.map for p in predict_frames(made(16), small_model, backend="torch")])
    half = np.stack([p.map for p in predict_frames(made(16), small_model, backend="torch", precision="bfloat16")])
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.02)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory(small_model: TinyHD, error: Exception) -> None:
    def fail(_: Tensor) -> None:
        raise error

    small_model = copy.deepcopy(small_model)
    small_model.forward = fail  # type: ignore[assignment]
    with pytest.raises(OptionError, match="batches of 2 clips; use a smaller batch size"):
        list(predict_frames(made(40), small_model, batch_size=2, backend="torch"))


def test_other_errors_are_not_hidden(small_model: TinyHD) -> None:
    def fail(_: Tensor) -> None:
        raise RuntimeError("a bug")

    small_model = copy.deepcopy(small_model)
    small_model.forward = fail  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="a bug"):
        list(predict_frames(made(40), small_model, backend="torch"))


# ---- files


class Still(Numbers):
    """In place of the network: maps of ones."""

    def __call__(self, clips: Tensor) -> Tensor:
        return torch.ones(len(clips), self.maps_per_clip, 48, 64)


@pytest.mark.parametrize("maps_per_clip", [16, 1])
@pytest.mark.parametrize("kind", ["one_frame", "still", "gif", "plain", "vfr", "rotated"])
def test_files_of_all_kinds(tmp_path: Path, kind: str, maps_per_clip: int) -> None:
    file: makers.Made = getattr(makers, kind)(tmp_path)
    predictions = list(predict_video(file.path, Still(maps_per_clip)))
    assert [makers.read_barcode(p.frame.to_rgb()) for p in predictions] == file.numbers
    assert all(p.map.shape == (192, 256) for p in predictions)


def test_parts_of_files_and_open_readers(tmp_path: Path) -> None:
    file = makers.plain(tmp_path, 24)  # 25 frames/s
    part = predict_video(file.path, Still(16), start=0.2, end=0.6)
    assert [makers.read_barcode(p.frame.to_rgb()) for p in part] == list(range(5, 15))
    with open_video(file.path) as reader:
        assert len(list(predict_video(reader, Still(16)))) == 24
    with open_video(file.path) as reader, pytest.raises(OptionError, match="reader"):
        predict_video(reader, Still(16), start=1.0)


def test_the_file_is_closed_when_the_caller_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []

    def recorded(*args: Any, **options: Any) -> Any:
        readers.append(open_video(*args, **options))
        return readers[-1]

    monkeypatch.setattr(predict, "open_video", recorded)
    predictions = predict_video(makers.plain(tmp_path, 40).path, Still(16))
    assert not readers
    next(predictions)
    predictions.close()  # type: ignore[attr-defined]
    assert next(readers[0], None) is None


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        list(predict_video(tmp_path / "none.mp4", Still(16)))


# ---- against the authors' results on a whole video


def block_means(saliency: np.ndarray) -> np.ndarray:
    return saliency.reshape(24, 8, 32, 8).mean((1, 3))


@pytest.mark.timeout(1800)
def test_published_m_on_a_whole_video(shared: Path) -> None:
    golden = np.load(shared / "golden" / "official_rc4_video_0068.npz")
    model = load_model(shared / "weights" / "d123m_rc4_rc1T.pth")
    video = shared / "media" / "dhf1k_0068.avi"
    expected, peaks = golden["m_maps_24x32_mean"], golden["m_peak_yx"]
    count = 0
    for frame, saliency, _ in predict_video(video, model, windowing="published", cuts=False):
        means = block_means(saliency)
        assert np.corrcoef(means.ravel(), expected[count].ravel())[0, 1] >= 0.995, count
        np.testing.assert_allclose(means, expected[count], atol=1e-4, rtol=0)
        assert np.unravel_index(saliency.argmax(), saliency.shape) == tuple(peaks[count])
        assert saliency.max() == pytest.approx(golden["m_max"][count], abs=1e-4)
        assert frame.index == count
        count += 1
    assert count == len(expected) == 540


class Only(TorchBackend):
    """Computes the windows of some frames; the others' maps are ones."""

    def __init__(self, model: TinyHD, frames: Iterable[int]) -> None:
        super().__init__(model)
        self.frames = set(frames)
        self.done = 0

    def __call__(self, clips: Tensor) -> Tensor:
        (clip,) = clips
        self.done += 1
        return super().__call__(clip[None]) if self.done - 1 in self.frames else torch.ones(1, 1, 192, 256)


def test_published_s_on_a_whole_video(shared: Path) -> None:
    golden = np.load(shared / "golden" / "official_rc4_video_0068.npz")
    indices = golden["s_frame_index"].tolist()
    model = Only(load_model(shared / "weights" / "d123s_rc4_rc1T.pth"), indices)
    video = shared / "media" / "dhf1k_0068.avi"
    found: dict[int, np.ndarray] = {}
    for frame, saliency, _ in predict_video(video, model, cuts=False, batch_size=1):
        assert isinstance(frame, Frame)
        if frame.index in indices:
            found[frame.index] = block_means(saliency)
    assert frame.index == 539
    for index, expected in zip(indices, golden["s_maps_24x32_mean"], strict=True):
        np.testing.assert_allclose(found[index], expected, atol=1e-4, rtol=0)
