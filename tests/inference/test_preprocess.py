"""Frames as the network and the cut detection get them."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import makers
import numpy as np
import pytest

from tinyhd.inference.preprocess import Preprocessor, normalize_rgb
from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD
from tinyhd.video.frame import Frame
from tinyhd.video.reader import open_video


def rgb_frame(rgb: np.ndarray) -> Frame:
    return Frame(0, 0, Fraction(0), av.VideoFrame.from_ndarray(rgb, format="rgb24"))


def block_means(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W, C) -> (rows, columns, C), whatever the size: means over a grid, by parts of pixels."""

    def weights(size: int, parts: int) -> np.ndarray:
        edges, pixels = np.arange(parts + 1)[:, None] * size / parts, np.arange(size)[None]
        return np.clip(np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels), 0, 1) * parts / size

    height, width, _ = image.shape
    return np.einsum("rh,hwk,cw->rck", weights(height, rows), image.astype(float), weights(width, columns))


def test_normalization() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    result = normalize_rgb(rgb)
    assert result.dtype == np.float32
    expected = (rgb / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(result.transpose(1, 2, 0), expected, atol=1e-5)


def test_frames_of_the_networks_size_stay_as_they_are() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Preprocessor().rgb(rgb_frame(rgb)), rgb)


def test_fine_structure_is_averaged_not_sampled() -> None:
    """Stripes and dots finer than the network's pixels come out gray."""
    y, x = np.mgrid[:768, :1024]
    for pattern in (x % 2, y % 2, (x + y) % 2, (x // 2 + y // 2) % 2):
        rgb = np.repeat((255 * pattern).astype(np.uint8)[..., None], 3, 2)
        inside = Preprocessor().rgb(rgb_frame(rgb))[4:-4, 4:-4].astype(int)
        assert abs(inside - 127.5).max() < 12, pattern


@pytest.mark.parametrize("size", [(1, 1), (97, 31), (240, 426), (721, 1279), (1920, 1080)])
def test_any_size_and_aspect_ratio(size: tuple[int, int]) -> None:
    """Places stay where they are: a ramp stays that ramp."""
    height, width = size
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    rgb = np.stack(np.broadcast_arrays(255 * x[None], 255 * y[:, None], 128.0), 2).round().astype(np.uint8)
    result = Preprocessor().rgb(rgb_frame(rgb)).astype(float)
    assert result.shape == (192, 256, 3)
    u, v = (np.arange(256) + 0.5) / 256, (np.arange(192) + 0.5) / 192
    clipped_u, clipped_v = np.clip(u, x[0], x[-1]), np.clip(v, y[0], y[-1])
    assert abs(result[..., 0] - 255 * clipped_u).max() < 4
    assert abs(result[..., 1] - 255 * clipped_v[:, None]).max() < 4
    assert abs(result[..., 2] - 128).max() < 2


@pytest.mark.parametrize(
    "kind",
    [
        *("rotated_90", "rotated_180", "mirrored", "flipped", "interlaced"),
        *("full_range", "bt709", "ten_bit", "odd_size", "jpg"),
    ],
)
def test_frames_of_all_kinds(tmp_path: Path, kind: str) -> None:
    """Upright, by the file's own color matrix and range; filters leave planes of many layouts in memory."""
    preprocess = Preprocessor()
    with open_video(makers.HARD_FILES[kind](tmp_path).path) as video:
        for frame in itertools.islice(video, 3):
            rgb, whole = preprocess.rgb(frame), frame.to_rgb()
            assert makers.read_barcode(rgb) == makers.read_barcode(whole)
            expected = makers.read_patches(whole)
            for name, color in makers.read_patches(rgb).items():
                np.testing.assert_allclose(color, expected[name], atol=3)
            luma = block_means(frame.to_rgb(), 24, 32) @ [0.299, 0.587, 0.114]
            thumbnail = preprocess.thumbnail(frame).astype(float)
            assert np.corrcoef(thumbnail.ravel(), luma.ravel())[0, 1] > 0.995


def test_thumbnails_are_means_of_luma() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    expected = block_means(rgb, 24, 32) @ [0.299, 0.587, 0.114]
    result = Preprocessor().thumbnail(rgb_frame(rgb)).astype(float)
    assert result.shape == (24, 32)
    assert np.corrcoef(result.ravel(), expected.ravel())[0, 1] > 0.99
