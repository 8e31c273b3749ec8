"""Encoded files: bits go where attention is, the rate is reached; sound, times and tags stay; what is refused."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes import GrayModel
from makers import HARD_FILES, MOVING, make_video

import tinyhd
from tinyhd.applications.roi import plan_offsets
from tinyhd.cli.main import main
from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.options import EncoderOptions, InferenceOptions, RoiOptions
from tinyhd.pipeline.encode import EncodeResult
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.reader import open_video, read_frames
from tinyhd.video.roi import ROI_SETTINGS

pytestmark = pytest.mark.filterwarnings("error")

WIDTH, HEIGHT = 384, 192


def run(source: Path, output: Path | None = None, **options: Any) -> EncodeResult:
    if options.get("track") is None:
        options["backend"] = BrightModel()
    return tinyhd.encode(source, output, **options)


class BrightModel(GrayModel):
    """Attention is where it is bright, and hardly anywhere else."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return super().__call__(clips) ** 4


def noisy(left: Callable[[int], bool]) -> Callable[[np.ndarray, int], np.ndarray]:
    """Moving noise, brighter in the left third or, where not `left`, the right one."""
    grain = np.kron(np.random.default_rng(0).normal(0, 25, (HEIGHT // 4, WIDTH // 4)), np.ones((4, 4)))

    def draw(_: np.ndarray, k: int) -> np.ndarray:
        level = np.full((HEIGHT, WIDTH), 60.0)
        level[:, slice(0, WIDTH // 3) if left(k) else slice(-WIDTH // 3, None)] += 100
        gray = level + np.roll(grain, 3 * k, axis=1) + np.random.default_rng(k).normal(0, 6, level.shape)
        return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)

    return draw


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_video(
        tmp_path / "in.mp4", 50, width=WIDTH, height=HEIGHT, transform=noisy(lambda k: True), options={"crf": "4"}
    )


def sides_psnr(source: Path, encoded: Path, frames: slice = slice(None)) -> tuple[float, float]:
    """PSNR of the left and the right third, without what lies near its border; dB."""
    errors = []
    for a, b in zip(read_frames(source), read_frames(encoded), strict=True):
        first, second = (frame.image.to_ndarray(format="gray").astype(float) for frame in (a, b))
        errors.append((first - second) ** 2)
    error = np.mean(errors[frames], axis=0)
    left, right = error[:, : WIDTH // 3 - 24].mean(), error[:, 24 - WIDTH // 3 :].mean()
    return 10 * np.log10(255**2 / left), 10 * np.log10(255**2 / right)


@pytest.mark.parametrize("encoder", list(ROI_SETTINGS))
def test_bits_go_where_attention_is(tmp_path: Path, source: Path, encoder: str) -> None:
    found, sizes = {}, {}
    for strength in (0, 6):
        target = tmp_path / f"{strength}.mp4"
        options = EncoderOptions(encoder=encoder, bitrate="1.5M" if encoder == "libvpx-vp9" else "400k")
        result = run(source, target, options=RoiOptions(strength), encoder=options)
        assert result.bytes == target.stat().st_size
        sizes[strength] = result.bytes
        found[strength] = sides_psnr(source, target)
        assert any("realtime" in warning for warning in result.warnings) == (encoder == "libvpx-vp9")
    assert sizes[6] < 1.05 * sizes[0]
    if encoder != "libvpx-vp9":  # in two seconds it does not get there, nor does it take low rates for noise
        assert 8 * sizes[6] / 2 == pytest.approx(400_000, rel=0.25)
    assert found[6][0] > found[0][0] + 0.1
    assert found[6][0] - found[6][1] > found[0][0] - found[0][1] + 0.8


def test_with_crf_the_file_becomes_smaller_at_the_cost_of_the_rest(tmp_path: Path, source: Path) -> None:
    encoder = EncoderOptions(crf=28)
    plain = run(source, tmp_path / "plain.mp4", options=RoiOptions(0), encoder=encoder)
    ours = run(source, tmp_path / "ours.mp4", options=RoiOptions(6), encoder=encoder)
    assert ours.bytes < 0.85 * plain.bytes
    looked_at, rest = (
        a - b for a, b in zip(sides_psnr(source, plain.output), sides_psnr(source, ours.output), strict=True)
    )
    assert looked_at < 0.5 * rest


def test_after_a_cut_other_parts_have_the_bits(tmp_path: Path) -> None:
    draw = noisy(lambda k: k < 25)
    source = make_video(tmp_path / "in.mp4", 50, width=WIDTH, height=HEIGHT, transform=draw, options={"crf": "4"})
    track = tmp_path / "in.track.npz"
    tinyhd.analyze(source, track, backend=BrightModel())
    run(source, tmp_path / "out.mp4", track=track, encoder=EncoderOptions(crf=30), options=RoiOptions(8))
    for part, better in ((slice(0, 25), 0), (slice(25, 50), 1)):
        psnr = sides_psnr(source, tmp_path / "out.mp4", part)
        assert psnr[better] > psnr[1 - better] + 1.5


@pytest.mark.parametrize("name", MOVING)
def test_every_frame_is_there_at_its_time(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    result = run(made.path, tmp_path / "out.mp4", options=RoiOptions(8), encoder=EncoderOptions(crf=4))
    with open_video(made.path) as video:
        frames = list(video)
        tick = video.info.time_base
    assert result.damaged == made.damaged
    assert result.frames == len(frames)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        width, height = made.size
        assert (stream.width, stream.height) == (width + width % 2, height + height % 2)
        for frame, given in zip(container.decode(video=0), frames, strict=True):
            assert abs(frame.pts * frame.time_base - given.time) <= tick / 2
            gray, wanted = frame.to_ndarray(format="gray").astype(int), given.image.to_ndarray(format="gray")
            # odd sizes have grown by a copy of the last line
            wanted = np.pad(wanted, ((0, height % 2), (0, width % 2)), "edge")
            assert abs(gray - wanted).mean() < 4
            assert abs(gray - wanted)[-1:].mean() < 12
            assert abs(gray - wanted)[:, -1:].mean() < 12


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p"])
def test_regions_survive_the_conversion_of_frames(tmp_path: Path, pix_fmt: str) -> None:
    facts: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "transform": noisy(lambda k: True)}
    source = make_video(tmp_path / "in.mp4", 25, pix_fmt=pix_fmt, options={"crf": "4"}, **facts)
    run(source, tmp_path / "out.mp4", options=RoiOptions(10), encoder=EncoderOptions(crf=28))
    left, right = sides_psnr(source, tmp_path / "out.mp4")
    assert left > right + 2


def test_sound_and_tags_are_kept(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"audio": ["aac"], "languages": ["fra"], "metadata": {"title": "A title"}}
    source = make_video(tmp_path / "in.mp4", sample_aspect_ratio=Fraction(4, 3), colorspace=1, **facts)
    run(source, tmp_path / "out.mp4")
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        packets = [[bytes(p) for p in container.demux(audio=0) if p.size] for container in (a, b)]
        assert packets[0] == packets[1]
        assert b.metadata["title"] == "A title"
        assert b.streams.audio[0].metadata["language"] == "fra"
        assert b.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert b.streams.video[0].codec_context.colorspace == 1


def test_hdr_is_mapped_and_that_is_said(tmp_path: Path) -> None:
    result = run(HARD_FILES["hdr_pq"](tmp_path).path, tmp_path / "out.mp4")
    assert any("HDR" in warning for warning in result.warnings)
    assert not result.damaged


def test_a_part(tmp_path: Path, source: Path) -> None:
    result = run(source, tmp_path / "out.mp4", start=Fraction(1), end=Fraction(3, 2))
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(k, 25) for k in range(13)] or times == [Fraction(k, 25) for k in range(12)]
    assert result.frames == len(times)
    with pytest.raises(InputError, match="no frame"):
        run(source, tmp_path / "none.mp4", start=Fraction(90))
    assert not (tmp_path / "none.mp4").exists()


def test_a_map_for_svt_instead_of_a_video(tmp_path: Path, source: Path) -> None:
    track = tmp_path / "in.track.npz"
    tinyhd.analyze(source, track, backend=BrightModel())
    result = run(source, tmp_path / "map.txt", track=track, encoder=EncoderOptions("av1"))
    lines = (tmp_path / "map.txt").read_text().splitlines()
    assert result.frames == 50
    assert [len(line.split()) for line in lines] == [1 + 3 * 6] * len(lines)
    with SaliencyTrack(track) as seen:
        plan = plan_offsets(seen, RoiOptions())
    assert len(lines) == len({plan.index(k / 25) for k in range(50)})


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"preset": "ultrafast"}, "libx264 ignores regions with the preset ultrafast"),
        ({"codec": "hevc", "preset": "superfast"}, "libx265 ignores regions with the preset superfast"),
        ({"codec": "av1"}, "SvtAv1EncApp --roi-map-file"),
        ({"encoder": "h264_nvenc"}, "h264_nvenc ignores regions"),
        ({"encoder": "mpeg4"}, "mpeg4 ignores regions"),
        ({"ffmpeg": "ffmpeg"}, "leave out ffmpeg"),
    ],
)
def test_encoders_that_would_ignore_regions(tmp_path: Path, encoder: dict[str, str], message: str) -> None:
    source = make_video(tmp_path / "in.mp4")
    with pytest.raises(OptionError, match=message):
        run(source, tmp_path / "out.mp4", encoder=EncoderOptions(**encoder))
    assert not (tmp_path / "out.mp4").exists()


def test_the_presets_that_are_refused_are_those_that_ignore_regions(tmp_path: Path, source: Path) -> None:
    """Where an encoder's next version changes that, this says so."""
    from tinyhd.video import roi
    from tinyhd.video.writer import VideoWriter

    for name, presets in roi._BLIND_PRESETS.items():
        slower = {"libx264": "superfast", "libx265": "veryfast"}[name]
        for preset in (*presets, slower):
            target, options = tmp_path / f"{name}.{preset}.mp4", EncoderOptions(encoder=name, preset=preset, crf=28)
            with open_video(source) as video, VideoWriter(target, video.info, options=options) as writer:
                mark = roi.RegionMarker(video.info)
                mark.set_regions([(WIDTH // 2, 0, WIDTH // 2, HEIGHT, 10)])
                for frame in video:
                    writer.write(mark(frame.image), frame.time)
            left, right = sides_psnr(source, target)
            assert (left > right + 1) == (preset == slower), (name, preset)


def test_other_bad_input(tmp_path: Path, source: Path) -> None:
    other = make_video(tmp_path / "other.mp4")
    track = tmp_path / "other.track.npz"
    tinyhd.analyze(other, track, backend=GrayModel())
    with pytest.raises(InputError, match="is of another video"):
        run(source, tmp_path / "out.mp4", track=track)
    with pytest.raises(InputError, match="still image"):
        run(HARD_FILES["png"](tmp_path).path, tmp_path / "out.mp4")
    with pytest.raises(OptionError, match=r"\.mp4"):
        run(source, tmp_path / "out.mkv")
    (tmp_path / "out.mp4").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        run(source, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4")
    calls: list[tuple[int, int | None]] = []
    run(source, tmp_path / "out.mp4", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k + 1, 48) for k in range(48)]


def test_bitrates() -> None:
    for text, number in (("800k", 800_000), ("12000", 12_000), ("0.5M", 500_000)):
        assert EncoderOptions(bitrate=text).bits_per_second == number


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a", "b"):
        make_video(folder / f"{name}.mp4")
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    assert main(["encode", str(folder), "--encoder", "libx264", "--bitrate", "100k", "--strength", "3"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["a.encoded.mp4", "a.mp4", "b.encoded.mp4", "b.mp4"]
    assert "24 frames" in capsys.readouterr().err
    # results are no inputs
    assert main(["encode", str(folder), "--output-dir", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.mp4")) == ["a.encoded.mp4", "b.encoded.mp4"]
    one = str(folder / "a.mp4")
    track = tmp_path / "a.track.npz"
    tinyhd.analyze(one, track, backend=GrayModel(), inference=InferenceOptions())
    assert main(["encode", one, "--track", str(track), "-o", str(tmp_path / "x.mov"), "--crf", "30"]) == 0
    assert main(["encode", one, "--track", str(track), "-o", str(tmp_path / "x.txt"), "--codec", "av1"]) == 0
    for wrong in (["--codec", "av1"], ["--crf", "20", "--bitrate", "1M"], ["--bitrate", "fast"], ["--strength", "20"]):
        assert main(["encode", one, "-o", str(tmp_path / "y.mp4"), *wrong]) == 2
    assert main(["encode", str(folder), "-o", str(tmp_path / "y.mp4")]) == 2
    assert not (tmp_path / "y.mp4").exists()
