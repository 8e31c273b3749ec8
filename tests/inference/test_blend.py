"""Maps of windows blended into one for each sample: the rhythm of the windows does not show in them."""

from pathlib import Path

import numpy as np

from tinyhd.inference.backends import open_backend
from tinyhd.inference.blend import Blend, equalize
from tinyhd.inference.predict import predict_frames
from tinyhd.inference.windows import Windowing
from tinyhd.options import InferenceOptions
from tinyhd.saliency.focus import focus
from tinyhd.video.reader import open_video

WINDOWING = Windowing(maps_per_clip=16)


def entropies(maps: np.ndarray) -> np.ndarray:
    shares = maps.reshape(len(maps), -1).astype(float)
    shares /= shares.sum(1, keepdims=True)
    return -(shares * np.log2(np.maximum(shares, 1e-20))).sum(1)


def phase_share(values: np.ndarray, period: int) -> float:
    """How much of the variance around a running mean of two periods the phase within a period explains, 0 to 1."""
    length = 2 * period + 1
    padded = np.pad(values, length // 2, mode="reflect")
    fast = values - np.convolve(padded, np.ones(length) / length, "valid")
    phases = np.arange(len(fast)) % period
    means = np.array([fast[phases == phase].mean() for phase in range(period)])
    return float(means[phases].var() / fast.var())


def true_maps(count: int) -> np.ndarray:
    """What people look at: a blob that moves, and is gathered more or less closely, at random but smoothly."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :32]
    walks = np.cumsum(random.normal(size=(3, count)), 1)
    x, y, size = 16 + 3 * np.tanh(walks[0] / 5), 12 + 3 * np.tanh(walks[1] / 5), 4 + np.tanh(walks[2] / 5)
    distance = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
    maps = np.exp(-distance / (2 * size[:, None, None] ** 2))
    return (maps / maps.sum((1, 2), keepdims=True)).astype(np.float32)


def blended(maps: np.ndarray, equalized: bool) -> np.ndarray:
    """The maps as a network gives them whose maps depend on their position in the window."""
    blend = Blend(equalized)
    power = 1 - 0.08 * np.sin(2 * np.pi * np.arange(16) / 16)[:, None, None]
    scale = np.linspace(0.85, 1.2, 16)[:, None, None]
    parts = [blend.add(window, scale * maps[list(window.frames)] ** power) for window in WINDOWING.plan(len(maps))]
    return np.concatenate(parts)


def test_the_rhythm_of_the_windows_is_gone() -> None:
    maps = true_maps(400)
    before, after = blended(maps, False), blended(maps, True)
    for measure in (entropies, lambda m: np.log(m.max((1, 2)))):
        assert phase_share(measure(before), WINDOWING.stride) > 0.3
        assert phase_share(measure(after), WINDOWING.stride) < 0.05
    assert np.ptp(before.sum((1, 2))) > 0.1
    assert np.ptp(after.sum((1, 2))) < 0.02
    # and what is slower than windows is still there
    assert np.corrcoef(entropies(after), entropies(maps))[0, 1] > 0.97


def test_equalized_maps_look_the_same() -> None:
    maps = true_maps(16)
    result = equalize(maps)
    assert result.dtype == np.float32
    assert np.ptp(entropies(result)) < 0.1 * np.ptp(entropies(maps))
    np.testing.assert_allclose(result.sum((1, 2)), maps.sum((1, 2)).mean(), rtol=1e-5)
    for one, other in zip(maps, result, strict=True):
        assert one.argmax() == other.argmax()
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_maps_without_attention_stay_without() -> None:
    maps = true_maps(16)
    maps[3] = 0
    result = equalize(maps)
    assert np.isfinite(result).all()
    assert result[3].max() == 0
    np.testing.assert_array_equal(equalize(np.zeros_like(maps)), 0)


def test_what_windows_do_not_explain_is_kept() -> None:
    maps = true_maps(16)
    maps[8:] = maps.mean()  # from one picture to a blank one
    result = equalize(maps)
    assert entropies(result)[0] < entropies(result)[-1] - 1


def test_on_a_clip_with_the_embedded_model(shared: Path) -> None:
    found: list[np.ndarray] = []
    with open_video(shared / "data/fixations_video/muvfet/053.mp4", end=16) as video:
        options = InferenceOptions(sampling_rate=0)
        for _ in predict_frames(video, open_backend(options), options, on_sample=lambda s: found.append(s.map)):
            pass
    maps = np.stack(found)
    assert phase_share(entropies(maps), WINDOWING.stride) <= 0.05
    assert phase_share(np.array([focus(m) for m in maps]), WINDOWING.stride) <= 0.05
