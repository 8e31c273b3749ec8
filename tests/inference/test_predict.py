"""One map per frame whatever the video, samples and what lies between them, with made frames and the real thing."""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import makers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import FakeBackend

from tinyhd.errors import InputError, OptionError
from tinyhd.inference import predict
from tinyhd.inference.predict import Sample, predict_frames, predict_video, sampling_stride
from tinyhd.inference.preprocess import Preprocessor
from tinyhd.inference.torch_backend import TorchBackend
from tinyhd.inference.windows import Windowing
from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD, TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.network.weights import load_model
from tinyhd.options import InferenceOptions
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video

# ---- made frames, and functions in place of the network


@dataclass(eq=False)
class MadeFrame:
    """Frame `index` of scene `scene`: the scene's image, its number in the corner that `red_levels` reads."""

    index: int
    scene: int = 0
    time: Fraction = Fraction(0)

    @cached_property
    def image(self) -> av.VideoFrame:
        rgb = scene_image(self.scene).copy()
        rgb[:8, :8] = self.index
        rgb[:8, 8:16] = 10 * self.scene
        return av.VideoFrame.from_ndarray(rgb, format="rgb24")


@lru_cache
def scene_image(scene: int) -> np.ndarray:
    coarse = np.random.default_rng(scene).integers(20, 236, (6, 8, 3), dtype=np.uint8)
    return coarse.repeat(32, 0).repeat(32, 1)


def made(count: int, *cuts: int, times: Iterable[Fraction] | None = None) -> Iterator[Any]:
    times = [Fraction(k, 25) for k in range(count)] if times is None else times
    for index, time in zip(range(count), times, strict=True):
        yield MadeFrame(index, sum(index >= cut for cut in cuts), time)


def red_levels(clips: np.ndarray, x: int) -> np.ndarray:
    """(N, 16): the 8-bit red level of each frame at row 4, column x."""
    return ((clips[:, 0, :, 4, x] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255).round()


class Numbers(FakeBackend):
    """In place of the network: each map has the value of its frame's number plus 1 all over."""

    def __init__(self, maps_per_clip: int = 16, size: tuple[int, int] = (12, 16)) -> None:
        self.maps_per_clip, self.map_shape = maps_per_clip, size
        self.batches: list[int] = []
        self.scenes: list[set[float]] = []
        self.seen: set[int] = set()

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        assert clips.shape[1:] == (3, 16, 192, 256)
        assert clips.dtype == np.float32
        self.batches.append(len(clips))
        self.scenes += [set(row.tolist()) for row in red_levels(clips, 12)]
        self.seen |= set(red_levels(clips, 4).astype(int).ravel().tolist())
        numbers = red_levels(clips, 4)[:, -self.maps_per_clip :] + 1
        return np.broadcast_to(numbers[:, :, None, None], (*numbers.shape, *self.map_shape)).astype(np.float32)


# ---- one map per frame, in order


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("maps_per_clip", "options"),
    [
        (16, {}),
        (16, {"overlap": 0}),
        (16, {"overlap": 13}),
        (16, {"windowing": "published"}),
        (1, {}),
    ],
)
def test_each_frame_gets_its_map(maps_per_clip: int, options: dict[str, Any], batch_size: int) -> None:
    for count in (0, 1, 16, 17, 33) if maps_per_clip == 16 else (0, 1, 18):
        backend = Numbers(maps_per_clip)
        samples: list[Sample] = []
        predictions = list(
            predict_frames(
                made(count), backend, InferenceOptions(batch_size=batch_size, **options), on_sample=samples.append
            )
        )
        assert [p.frame.index for p in predictions] == list(range(count))
        for number, (_, saliency, is_cut) in enumerate(predictions):
            assert saliency.shape == (192, 256)
            assert saliency.dtype == np.float32
            np.testing.assert_allclose(saliency, number + 1, rtol=1e-4)
            assert not is_cut
        assert max(backend.batches, default=0) <= batch_size
        assert [s.time for s in samples] == [Fraction(k, 25) for k in range(count)]
        assert all(s.map.shape == (12, 16) and s.map.dtype == np.float32 for s in samples)


def test_smaller_maps_are_enlarged() -> None:
    small = np.full((48, 64), 1e-4, np.float32)
    small[20, 30] = 0.2  # bicubic interpolation swings below zero beside it

    class Peak(Numbers):
        def __call__(self, clips: np.ndarray) -> np.ndarray:
            return np.broadcast_to(small, (len(clips), 16, 48, 64))

    enlarged = F.interpolate(torch.from_numpy(small)[None, None], (192, 256), mode="bicubic")[0, 0].numpy()
    assert enlarged.min() < 0
    for prediction in predict_frames(made(20), Peak()):
        np.testing.assert_allclose(prediction.map, enlarged.clip(0), atol=1e-6)
        assert prediction.map.min() == 0


class Windows(FakeBackend):
    """In place of the network: maps that differ from window to window in shape and in sum."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng(len(self.given))
        maps = generator.random((len(clips), 16, 192, 256), np.float32) * np.float32(0.1 * (1 + len(self.given)))
        self.given += [m.astype(np.float64) for m in maps]
        return maps


@pytest.mark.parametrize("options", [{"overlap": 4}, {"overlap": 9}, {"windowing": "published"}])
def test_shared_frames_are_averaged_as_documented(options: dict[str, Any]) -> None:
    windows = Windows()
    result = [p.map for p in predict_frames(made(45), windows, InferenceOptions(**options))]
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
    backend = Numbers(maps_per_clip)
    samples: list[Sample] = []
    options = InferenceOptions(batch_size=4)
    predictions = list(predict_frames(made(40, 9, 26), backend, options, on_sample=samples.append))
    assert [p.frame.index for p in predictions if p.is_cut] == [9, 26]
    assert [s.time * 25 for s in samples if s.is_cut] == [9, 26]
    assert all(len(scenes) == 1 for scenes in backend.scenes)
    for number, prediction in enumerate(predictions):
        np.testing.assert_allclose(prediction.map, number + 1, rtol=1e-4)

    backend = Numbers(maps_per_clip)
    predictions = list(predict_frames(made(40, 9, 26), backend, InferenceOptions(cuts=False)))
    assert len(predictions) == 40
    assert not any(p.is_cut for p in predictions)
    assert any(len(scenes) > 1 for scenes in backend.scenes)


# ---- samples


@pytest.mark.parametrize(
    ("frame_rate", "rate", "expected"),
    [
        (24, 15, 2),
        (Fraction(24000, 1001), 15, 2),
        (25, 15, 2),
        (Fraction(30000, 1001), 15, 2),
        (30, 15, 2),
        (50, 15, 3),
        (60, 15, 4),
        (120, 15, 8),
        (15, 15, 1),
        (19.9, 15, 1),
        (20, 15, 1),  # as far from 15 as 10 is
        (20.1, 15, 2),
        (10, 15, 1),
        (1, 15, 1),
        (60, 0, 1),
        (60, 2.5, 24),
        (25, 1000, 1),
        (None, 15, 1),
    ],
)
def test_sampling_stride(frame_rate: Any, rate: float, expected: int) -> None:
    info: Any = SimpleNamespace(is_still=False, frame_rate=None if frame_rate is None else Fraction(frame_rate))
    assert sampling_stride(rate, info) == expected
    info.is_still = True
    assert sampling_stride(rate, info) == 1


@pytest.mark.parametrize("maps_per_clip", [16, 1])
@pytest.mark.parametrize("every", [2, 3, 8])
@pytest.mark.parametrize("cuts", [(), (9, 26), (2, 40)])
def test_frames_between_samples(maps_per_clip: int, every: int, cuts: tuple[int, ...]) -> None:
    """Uneven times; shots shorter than the stride, and cuts between samples."""
    count = 61
    steps = np.random.default_rng(0).integers(1, 5, count)
    times = [Fraction(int(t), 50) for t in steps.cumsum()]
    backend = Numbers(maps_per_clip)
    samples: list[Sample] = []
    predictions = list(predict_frames(made(count, *cuts, times=times), backend, every=every, on_sample=samples.append))
    assert [p.frame.index for p in predictions] == list(range(count))
    assert [p.frame.index for p in predictions if p.is_cut] == list(cuts)
    starts = [0, *cuts]
    expected_samples = [
        number for start, stop in zip(starts, [*cuts, count], strict=True) for number in range(start, stop, every)
    ]
    assert [times.index(s.time) for s in samples] == expected_samples
    assert [times.index(s.time) for s in samples if s.is_cut] == list(cuts)
    assert backend.seen == set(expected_samples)
    assert all(len(scenes) == 1 for scenes in backend.scenes)
    for start, stop in zip(starts, [*cuts, count], strict=True):
        mine = range(start, stop, every)
        for number in range(start, stop):
            expected = np.interp(float(times[number]), [float(times[m]) for m in mine], [m + 1 for m in mine])
            np.testing.assert_allclose(predictions[number].map, expected, rtol=1e-3)


def test_samples_are_told_before_the_predictions_that_use_them() -> None:
    told: list[tuple[str, Fraction]] = []
    for prediction in predict_frames(
        made(50), Numbers(), every=4, on_sample=lambda s: told.append(("sample", s.time * 25))
    ):
        told.append(("frame", Fraction(prediction.frame.index)))
    for index in range(50):
        later = Fraction(min(48, (index + 3) // 4 * 4))
        assert told.index(("sample", later)) < told.index(("frame", Fraction(index)))


@pytest.mark.parametrize("rate", [0, 15, 50])
def test_videos_are_sampled_at_the_models_rate_or_the_users(tmp_path: Path, rate: int) -> None:
    file = makers.plain(tmp_path, 30)  # 25 frames/s
    expected = {0: 30, 15: 15, 50: 30}[rate]
    for backend_rate, option in ((rate, None), (3, rate)):
        backend = Numbers()
        backend.sampling_rate = backend_rate
        samples: list[Sample] = []
        options = InferenceOptions(sampling_rate=option)
        predictions = list(predict_video(file.path, backend, options, on_sample=samples.append))
        assert [p.frame.index for p in predictions] == list(range(30))
        assert len(samples) == expected


def test_variable_frame_rates_are_sampled_by_number(tmp_path: Path) -> None:
    file = makers.vfr(tmp_path)
    samples: list[Sample] = []
    with open_video(file.path) as reader:
        stride = sampling_stride(5, reader.info)
        predictions = list(predict_video(reader, Still(), InferenceOptions(sampling_rate=5), on_sample=samples.append))
    assert stride > 1
    assert len(predictions) == 24
    assert file.times is not None
    assert [s.time for s in samples] == file.times[::stride]


def test_a_stride_below_1() -> None:
    with pytest.raises(OptionError, match="1 or more"):
        predict_frames(made(3), Numbers(), every=0)


# ---- a stream


@pytest.mark.parametrize(
    ("maps_per_clip", "options", "every", "most"),
    [
        (16, {}, 1, 20),
        (16, {}, 3, 55),
        (16, {"cuts": False}, 1, 18),
        (16, {"batch_size": 3}, 1, 44),
        (16, {"windowing": "published"}, 1, 36),
        (1, {}, 1, 5),
    ],
)
def test_few_frames_are_held(
    maps_per_clip: int, options: dict[str, Any], every: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays flat: a frame is let go once its map was given and the next one is asked for."""
    alive: weakref.WeakSet[MadeFrame] = weakref.WeakSet()
    images: list[weakref.ref[np.ndarray]] = []

    def source() -> Iterator[Any]:
        for frame in made(180, 80):
            alive.add(frame)
            yield frame

    scale = Preprocessor.image

    def recorded(self: Preprocessor, frame: Any) -> np.ndarray:
        array = scale(self, frame)
        images.append(weakref.ref(array))
        return array

    monkeypatch.setattr(Preprocessor, "image", recorded)
    held = held_images = 0
    for prediction in predict_frames(source(), Numbers(maps_per_clip), InferenceOptions(**options), every=every):
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

    predictions = predict_frames(source(), Numbers())
    assert read == 0
    next(predictions)
    assert read <= 20


def test_errors_of_the_source_come_through() -> None:
    def source() -> Iterator[Any]:
        yield from made(20)
        raise InputError("the disk is gone")

    with pytest.raises(InputError, match="disk"):
        list(predict_frames(source(), Numbers()))


class InFlight(Numbers):
    """Begins batches; tells how many are in flight."""

    batch_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = self.most = 0

    def start(self, clips: np.ndarray) -> Any:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

        def finish() -> np.ndarray:
            self.in_flight -= 1
            return self(clips)

        return finish


def test_one_batch_is_in_flight_while_the_next_is_read() -> None:
    backend = InFlight()
    predictions = list(predict_frames(made(150, 70), backend))
    assert [p.frame.index for p in predictions] == list(range(150))
    for number, prediction in enumerate(predictions):
        np.testing.assert_allclose(prediction.map, number + 1, rtol=1e-4)
    assert backend.most == 2
    assert max(backend.batches) == 2
    assert backend.in_flight == 0
    stopped = predict_frames(made(150), backend)
    next(stopped)
    assert backend.in_flight == 1
    stopped.close()  # type: ignore[attr-defined]
    assert backend.in_flight == 0


# ---- options


def test_overlap_is_for_models_with_16_maps() -> None:
    options = InferenceOptions(overlap=4)
    with pytest.raises(OptionError, match="overlap"):
        predict_frames(made(3), Numbers(1), options)
    with pytest.raises(OptionError, match="overlap"):
        predict_video("no such file", Numbers(1), options)


def test_networks_in_memory() -> None:
    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()
    full = np.stack([p.map for p in predict_frames(made(16), model)])
    half = np.stack([p.map for p in predict_frames(made(16), model, InferenceOptions(precision="bfloat16"))])
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.02)


# ---- files


class Still(FakeBackend):
    """In place of the network: maps of ones."""

    map_shape = (48, 64)

    def __init__(self, maps_per_clip: int = 16) -> None:
        self.maps_per_clip = maps_per_clip

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return np.ones((len(clips), self.maps_per_clip, 48, 64), np.float32)


@pytest.mark.parametrize("maps_per_clip", [16, 1])
@pytest.mark.parametrize("kind", ["one_frame", "still", "gif", "plain", "vfr", "rotated"])
def test_files_of_all_kinds(tmp_path: Path, kind: str, maps_per_clip: int) -> None:
    file: makers.Made = getattr(makers, kind)(tmp_path)
    predictions = list(predict_video(file.path, Still(maps_per_clip), InferenceOptions(sampling_rate=8)))
    assert [makers.read_barcode(p.frame.to_rgb()) for p in predictions] == file.numbers
    assert all(p.map.shape == (192, 256) for p in predictions)


def test_parts_of_files_and_open_readers(tmp_path: Path) -> None:
    file = makers.plain(tmp_path, 24)  # 25 frames/s
    part = predict_video(file.path, Still(), start=0.2, end=0.6)
    assert [makers.read_barcode(p.frame.to_rgb()) for p in part] == list(range(5, 15))
    with open_video(file.path) as reader:
        assert len(list(predict_video(reader, Still()))) == 24
    with open_video(file.path) as reader, pytest.raises(OptionError, match="reader"):
        predict_video(reader, Still(), start=1.0)


def test_the_file_is_closed_when_the_caller_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []

    def recorded(*args: Any, **options: Any) -> Any:
        readers.append(open_video(*args, **options))
        return readers[-1]

    monkeypatch.setattr(predict, "open_video", recorded)
    predictions = predict_video(makers.plain(tmp_path, 40).path, Still())
    assert not readers
    next(predictions)
    predictions.close()  # type: ignore[attr-defined]
    assert next(readers[0], None) is None


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        list(predict_video(tmp_path / "none.mp4", Still()))


# ---- against the authors' results on a whole video


@pytest.fixture
def plain_bilinear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames as the authors resize them: bilinear without antialiasing, not rounded."""

    def image(self: Preprocessor, frame: Frame) -> np.ndarray:
        whole = torch.from_numpy(frame.to_rgb()).permute(2, 0, 1)[None].float() / 255
        small = F.interpolate(whole, (192, 256), mode="bilinear", align_corners=False)[0]
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return ((small - mean) / std).numpy()

    monkeypatch.setattr(Preprocessor, "image", image)


def block_means(saliency: np.ndarray) -> np.ndarray:
    return saliency.reshape(24, 8, 32, 8).mean((1, 3))


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("plain_bilinear")
def test_published_m_on_a_whole_video(shared: Path) -> None:
    golden = np.load(shared / "golden" / "official_rc4_video_0068.npz")
    model = load_model(shared / "weights" / "d123m_rc4_rc1T.pth")
    video = shared / "media" / "dhf1k_0068.avi"
    expected, peaks = golden["m_maps_24x32_mean"], golden["m_peak_yx"]
    count = 0
    for frame, saliency, _ in predict_video(video, model, InferenceOptions(windowing="published", cuts=False)):
        means = block_means(saliency)
        assert np.corrcoef(means.ravel(), expected[count].ravel())[0, 1] >= 0.995, count
        np.testing.assert_allclose(means, expected[count], atol=1e-4, rtol=0)
        assert np.unravel_index(saliency.argmax(), saliency.shape) == tuple(peaks[count])
        assert saliency.max() == pytest.approx(golden["m_max"][count], abs=1e-4)
        assert frame.index == count
        count += 1
    assert count == len(expected) == 540


class Only(FakeBackend):
    """Computes the windows of some frames; the others' maps are ones."""

    maps_per_clip = 1

    def __init__(self, model: TinyHD, frames: Iterable[int]) -> None:
        self.backend = TorchBackend(model)
        self.frames = set(frames)
        self.done = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        assert len(clips) == 1
        self.done += 1
        return self.backend(clips) if self.done - 1 in self.frames else np.ones((1, 1, 192, 256), np.float32)


@pytest.mark.usefixtures("plain_bilinear")
def test_published_s_on_a_whole_video(shared: Path) -> None:
    golden = np.load(shared / "golden" / "official_rc4_video_0068.npz")
    indices = golden["s_frame_index"].tolist()
    model = Only(load_model(shared / "weights" / "d123s_rc4_rc1T.pth"), indices)
    video = shared / "media" / "dhf1k_0068.avi"
    found: dict[int, np.ndarray] = {}
    for frame, saliency, _ in predict_video(video, model, InferenceOptions(cuts=False)):
        assert isinstance(frame, Frame)
        if frame.index in indices:
            found[frame.index] = block_means(saliency)
    assert frame.index == 539
    for index, expected in zip(indices, golden["s_maps_24x32_mean"], strict=True):
        np.testing.assert_allclose(found[index], expected, atol=1e-4, rtol=0)
