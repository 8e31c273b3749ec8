"""Maps made visible: scale without flicker, colors, and what is left untouched."""

from pathlib import Path

import av
import cmap
import makers
import numpy as np
import pytest
from makers import HARD_FILES

from tinyhd.errors import OptionError
from tinyhd.options import STYLES, RenderOptions
from tinyhd.render.colors import color_table, to_yuv
from tinyhd.render.normalize import SmoothedRange, normalize_map
from tinyhd.render.overlay import Overlay
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import open_video

pytestmark = pytest.mark.filterwarnings("error")

FORMATS = ["plain", "full_range", "bt709", "high_chroma", "odd_size", "png", "jpg"]


def first_frame(folder: Path, name: str) -> tuple[VideoInfo, Frame]:
    with open_video(HARD_FILES[name](folder).path) as video:
        return video.info, next(video)


def planes(image: av.VideoFrame) -> list[np.ndarray]:
    """Y, U and V, without what pads their lines."""
    return [
        np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].copy()
        for p in image.planes
    ]


def half_map() -> np.ndarray:
    """Full attention in the left half, none in the right."""
    saliency = np.zeros((192, 256), np.float32)
    saliency[:, :128] = 1
    return saliency


# ---- scale


def test_range_follows_the_map_slowly() -> None:
    smoothed, peaks = SmoothedRange(), []
    for k in range(100):  # a peak that flickers by 50 % from frame to frame, at 25 frames/s
        saliency = np.zeros((4, 4), np.float32)
        saliency[1, 1] = 0.1 if k % 2 else 0.15
        peaks.append(smoothed(saliency, k / 25, False)[1])
    changes = np.abs(np.diff(peaks[25:]))
    assert changes.max() < 0.1 * 0.05
    assert np.mean(peaks[50:]) == pytest.approx(0.125, rel=0.02)


def test_range_adapts_within_about_a_second() -> None:
    smoothed = SmoothedRange()
    highs = [smoothed(np.full((2, 2), 0.1 if k < 50 else 0.2, np.float32), k / 25, False)[1] for k in range(100)]
    assert highs[49] == pytest.approx(0.1)
    assert 0.1 < highs[55] < 0.15
    assert highs[74] > 0.18


def test_range_does_not_depend_on_the_frame_rate() -> None:
    def after_one_second(rate: int) -> float:
        smoothed = SmoothedRange()
        return [smoothed(np.full((2, 2), 0.1 if k < rate else 0.2), k / rate, False)[1] for k in range(2 * rate)][-1]

    assert after_one_second(10) == pytest.approx(after_one_second(100), abs=0.004)


def test_range_starts_anew_at_a_cut() -> None:
    smoothed = SmoothedRange()
    for k in range(50):
        smoothed(np.array([[0.01, 0.1]], np.float32), k / 25, False)
    assert smoothed(np.array([[0.02, 0.3]], np.float32), 2.0, True) == pytest.approx((0.02, 0.3))


def test_normalize() -> None:
    saliency = np.array([[0.0, 0.1, 0.2, 0.4]], np.float32)
    np.testing.assert_allclose(normalize_map(saliency, (0.1, 0.3)), [[0, 0, 0.5, 1]], atol=1e-6)
    assert normalize_map(saliency, (0.1, 0.3)).dtype == np.float32
    assert not normalize_map(np.full((2, 2), 0.3, np.float32), (0.3, 0.3)).any()


# ---- colors


@pytest.mark.parametrize("style", STYLES)
def test_alpha_follows_attention(style: str) -> None:
    alpha = color_table(RenderOptions(style, "turbo", 0.5))[:, 3]
    if style == "heatmap":
        assert (alpha == 1).all()
    elif style == "spotlight":
        assert alpha[0] == 0.5
        assert alpha[-1] == 0
        assert (np.diff(alpha) <= 0).all()
    else:
        assert alpha[0] == 0
        assert alpha[-1] == 0.5
        assert (np.diff(alpha) >= 0).all()


@pytest.mark.parametrize("name", ["turbo", "inferno", "viridis", "jet", "magma", "gray"])
def test_heatmap_has_the_colors_of_the_map(name: str) -> None:
    table = color_table(RenderOptions("heatmap", name, 1))[:, :3]
    np.testing.assert_allclose(table[[0, 128, 255]], np.asarray(cmap.Colormap(name)([0, 128 / 255, 1.0]))[:, :3])


def test_a_color_map_that_does_not_exist() -> None:
    with pytest.raises(OptionError, match="no color map 'nonsense'"):
        color_table(RenderOptions(colormap="nonsense"))


@pytest.mark.parametrize("colorspace", [1, 2, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_to_yuv_is_what_ffmpeg_reads_back(colorspace: int, color_range: int) -> None:
    rgb = np.random.default_rng(0).random((256, 3))
    frame = av.VideoFrame(256, 2, "yuv444p")
    for plane, values in zip(frame.planes, to_yuv(rgb, colorspace, color_range).T, strict=True):
        np.frombuffer(memoryview(plane), np.uint8).reshape(2, -1)[:, :256] = values
    frame.colorspace, frame.color_range = colorspace, color_range
    np.testing.assert_allclose(frame.to_ndarray(format="rgb24")[0], rgb * 255, atol=3.1)


# By the definitions in ITU-R BT.601, BT.709 and BT.2020
@pytest.mark.parametrize(
    ("colorspace", "color_range", "red"), [(5, 1, (81, 90, 240)), (1, 1, (63, 102, 240)), (9, 2, (67, 92, 255))]
)
def test_to_yuv(colorspace: int, color_range: int, red: tuple[int, int, int]) -> None:
    white, black = (255, 0) if color_range == 2 else (235, 16)
    expected = [red, (white, 128, 128), (black, 128, 128)]
    yuv = to_yuv(np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]], float), colorspace, color_range)
    np.testing.assert_allclose(yuv, expected, atol=1)


# ---- blend


@pytest.mark.parametrize("for_video", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_where_nobody_looks_the_picture_is_untouched(tmp_path: Path, name: str, for_video: bool) -> None:
    info, frame = first_frame(tmp_path, name)
    result = Overlay(info, for_video=for_video)(frame.image, half_map())
    assert result.format.name == ("yuv420p" if for_video else info.pix_fmt)
    compared = slice(None)
    if for_video and info.pix_fmt != "yuv420p":
        compared = slice(1)  # there are several ways to make fewer chroma samples
    for before, after in zip(planes(frame.image)[compared], planes(result)[compared], strict=True):
        # a map pixel is less than one picture pixel wide here, so two columns around the middle may be mixed
        height, width = before.shape
        np.testing.assert_array_equal(after[:height, width // 2 + 3 : width], before[:, width // 2 + 3 :])


@pytest.mark.parametrize("name", FORMATS)
def test_where_people_look_is_the_color(tmp_path: Path, name: str) -> None:
    info, frame = first_frame(tmp_path, name)
    before = frame.to_rgb().astype(float)
    result = Overlay(info, RenderOptions(opacity=0.5))(frame.image, half_map()).to_ndarray(format="rgb24").astype(float)
    peak = np.asarray(cmap.Colormap("turbo")(1.0).rgba[:3]) * 255
    rows, columns = slice(info.height // 2 - 3, info.height // 2 + 3), slice(info.width // 4, info.width // 3)
    expected = 0.5 * before[rows, columns] + 0.5 * peak
    assert np.abs(result[rows, columns].mean((0, 1)) - expected.mean((0, 1))).max() < 4


def test_unknown_color_tags_are_no_obstacle(tmp_path: Path) -> None:
    made = makers.wrong_tags(tmp_path)
    with open_video(made.path) as video:
        overlay = Overlay(video.info)
        results = [overlay(frame.image, half_map()) for frame in video]
    assert [makers.read_barcode(result.to_ndarray(format="rgb24")) for result in results] == made.numbers


def test_frames_of_another_size_and_format_come_alike(tmp_path: Path) -> None:
    made = makers.size_change(tmp_path)
    with open_video(made.path) as video:
        overlay = Overlay(video.info)
        sizes = {(result.width, result.height) for result in (overlay(frame.image, half_map()) for frame in video)}
    assert sizes == {overlay.size}


def test_spotlight_darkens_where_nobody_looks(tmp_path: Path) -> None:
    info, frame = first_frame(tmp_path, "bt709")
    before = frame.to_rgb().astype(float)
    result = Overlay(info, RenderOptions(style="spotlight", opacity=0.5))(frame.image, half_map()).to_ndarray(
        format="rgb24"
    )
    np.testing.assert_array_equal(result[:, :90], frame.to_rgb()[:, :90])
    assert np.abs(result[:, 110:] - 0.5 * before[:, 110:]).mean() < 2


@pytest.mark.parametrize("name", ["plain", "full_range", "bt709"])
def test_gray_heatmap_can_be_read_back(tmp_path: Path, name: str) -> None:
    info, frame = first_frame(tmp_path, name)
    y, x = np.mgrid[:192, :256] / [[[192]], [[256]]]
    saliency = np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.05).astype(np.float32)
    result = Overlay(info, RenderOptions(style="heatmap", colormap="gray"))(frame.image, saliency).to_ndarray(
        format="rgb24"
    )
    scaled = result.mean(2) / 255
    expected = saliency[::3][:, ::4]  # 64 x 64 samples
    sampled = scaled[np.arange(64) * 2][:, (np.arange(64) * 3)]
    assert np.corrcoef(sampled.ravel(), expected.ravel())[0, 1] > 0.999
    assert np.abs(sampled - expected).max() < 0.03


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("name", "for_video"), [("plain", True), ("odd_size", True), ("odd_size", False)])
def test_size_and_tags(tmp_path: Path, name: str, for_video: bool, style: str) -> None:
    info, frame = first_frame(tmp_path, name)
    overlay = Overlay(info, RenderOptions(style=style), for_video=for_video)
    result = overlay(frame.image, half_map())
    assert (result.width, result.height) == overlay.size
    width, height = overlay.size
    if for_video:
        assert width % 2 == 0
        assert height % 2 == 0
    assert width >= info.width * (2 if style == "side-by-side" else 1)
    for tag in ("colorspace", "color_range", "color_trc", "color_primaries"):
        assert getattr(result, tag) == getattr(info, tag)


def test_odd_pictures_grow_by_a_copy_of_their_edge(tmp_path: Path) -> None:
    info, frame = first_frame(tmp_path, "odd_size")
    assert info.width % 2 == info.height % 2 == 1
    result = Overlay(info)(frame.image, np.zeros((192, 256), np.float32))
    for before, after in zip(planes(frame.image), planes(result), strict=True):
        height, width = before.shape
        np.testing.assert_array_equal(after[:height, :width], before)
        np.testing.assert_array_equal(
            after, np.pad(before, [(0, n - m) for n, m in zip(after.shape, before.shape, strict=True)], "edge")
        )


def test_side_by_side_shows_the_picture_and_the_overlay(tmp_path: Path) -> None:
    info, frame = first_frame(tmp_path, "plain")
    both = planes(Overlay(info, RenderOptions(style="side-by-side"))(frame.image, half_map()))
    overlay = planes(Overlay(info, RenderOptions(style="overlay"))(frame.image, half_map()))
    for picture, drawn, pair in zip(planes(frame.image), overlay, both, strict=True):
        np.testing.assert_array_equal(pair, np.hstack([picture, drawn]))


@pytest.mark.parametrize("style", STYLES)
def test_the_given_picture_is_not_changed(tmp_path: Path, style: str) -> None:
    info, frame = first_frame(tmp_path, "plain")
    before, pts = planes(frame.image), frame.image.pts
    overlay = Overlay(info, RenderOptions(style=style))
    for _ in range(3):
        assert overlay(frame.image, half_map()).pts == pts
    assert frame.image.pts == pts
    for a, b in zip(before, planes(frame.image), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_picture_gets_its_own_map(tmp_path: Path) -> None:
    with open_video(makers.plain(tmp_path, 8).path) as video:
        overlay = Overlay(video.info, RenderOptions(style="heatmap", colormap="gray"))
        for k, frame in enumerate(video):
            result = overlay(frame.image, np.full((192, 256), k / 10, np.float32))
            assert result.to_ndarray(format="rgb24").mean() == pytest.approx(255 * k / 10, abs=1.5)
