"""Reframed files: every frame at its time, cut where the path says; sound, rotation, padding, preview."""

from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest
from fakes import GrayModel
from makers import HARD_FILES, MOVING, make_video

import tinyhd
from tinyhd.applications.crop import CropPath
from tinyhd.cli.main import main
from tinyhd.errors import InputError, OptionError, OutputError
from tinyhd.options import InferenceOptions, ReframeOptions
from tinyhd.pipeline.reframe import ReframeResult
from tinyhd.video.reader import open_video, read_frames

pytestmark = pytest.mark.filterwarnings("error")


def run(source: Path, output: Path | None = None, **options: Any) -> ReframeResult:
    if options.get("path") is None and options.get("track") is None:
        options["backend"] = GrayModel()
    chosen = {name: options.pop(name) for name in ReframeOptions().to_dict() if name in options}
    return tinyhd.reframe(source, output, options=ReframeOptions(**{"aspect": "1:1", **chosen}), **options)


def fixed(x: int, y: int, width: int, height: int, size: tuple[int, int] = (192, 128)) -> CropPath:
    return CropPath(size, np.zeros(1), np.array([[x, y, width, height]], float), np.ones(1, bool))


def sliding(frames: int = 24, width: int = 96) -> CropPath:
    """A crop that moves by 4 pixels a frame, full height."""
    boxes = np.array([[4 * k, 0, width, 128] for k in range(frames)], float)
    return CropPath((192, 128), np.arange(frames) / 25, boxes, np.zeros(frames, bool))


def pictures(path: Path) -> list[np.ndarray]:
    return [frame.to_rgb() for frame in read_frames(path)]


@pytest.mark.parametrize("name", MOVING)
def test_every_frame_is_there_at_its_time(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    result = run(made.path, tmp_path / "out.mp4")
    with open_video(made.path) as video:
        times = [frame.time for frame in video]
        tick = video.info.time_base
    assert result.damaged == made.damaged
    assert result.frames == len(times)
    with av.open(str(tmp_path / "out.mp4")) as container:
        found = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == result.size
    assert max(abs(a - b) for a, b in zip(found, times, strict=True)) <= tick / 2
    height = made.size[1] - made.size[1] % 2
    assert result.size == (height, height)


@pytest.mark.parametrize("width", [96, 97])
def test_the_frames_are_cut_where_the_path_says(tmp_path: Path, width: int) -> None:
    source = make_video(tmp_path / "in.mp4", options={"qp": "1"})
    run(source, tmp_path / "out.mp4", path=sliding(width=width), aspect="3:4", encoder=tinyhd.EncoderOptions(crf=4))
    for k, (full, cut) in enumerate(zip(pictures(source), pictures(tmp_path / "out.mp4"), strict=True)):
        assert cut.shape == (128, 96, 3)
        assert abs(cut.astype(int) - full[:, 4 * k : 4 * k + 96]).mean() < 3 if width == 96 else 9


def test_crops_follow_attention(tmp_path: Path) -> None:
    # the model's attention is the brightness: a white bar moves from left to right, with a cut in the middle
    def bar(left: int) -> np.ndarray:
        rgb = np.zeros((128, 192, 3), np.uint8)
        rgb[:, left : left + 12] = 255
        return rgb

    source = make_video(tmp_path / "in.mp4", 80, transform=lambda _, k: bar(20 if k < 40 else 150))
    track = tinyhd.analyze(source, backend=GrayModel(), inference=InferenceOptions(cuts=False))
    track.cuts = np.array([40 / 25])
    run(source, tmp_path / "out.mp4", track=track, aspect="9:16")
    for rgb in pictures(tmp_path / "out.mp4"):
        assert (rgb.mean((0, 2)) > 200).sum() >= 11


@pytest.mark.parametrize("name", ["rotated_90", "rotated_270", "mirrored"])
def test_rotated_sources_are_cut_upright(tmp_path: Path, name: str) -> None:
    made = HARD_FILES[name](tmp_path)
    run(made.path, tmp_path / "out.mp4", path=fixed(0, 0, 128, 128, made.size))
    full, cut = pictures(made.path)[5], pictures(tmp_path / "out.mp4")[5]
    assert abs(cut.astype(int) - full[:128, :128]).mean() < 4


def test_sound_is_kept(tmp_path: Path) -> None:
    made = HARD_FILES["with_audio"](tmp_path)
    run(made.path, tmp_path / "out.mp4")
    with av.open(str(made.path)) as source, av.open(str(tmp_path / "out.mp4")) as result:
        packets = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (source, result)]
        assert packets[0] == packets[1]
        assert [s.language for s in result.streams.audio] == ["eng", "deu"]


def test_a_part(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", options={"qp": "1"})
    result = run(source, tmp_path / "out.mp4", start=0.2, end=0.6, path=sliding(), aspect="3:4")
    assert result.frames == 10
    full, cut = pictures(source), pictures(tmp_path / "out.mp4")
    assert abs(cut[0].astype(int) - full[5][:, 20:116]).mean() < 6
    assert next(iter(read_frames(tmp_path / "out.mp4"))).time == 0
    run(source, tmp_path / "crop.csv", start=0.2, end=0.6)
    assert (tmp_path / "crop.csv").read_text().splitlines()[1].startswith("0.200000,")


def test_square_pixels_come_out(tmp_path: Path) -> None:
    made = HARD_FILES["non_square"](tmp_path)
    result = run(made.path, tmp_path / "out.mp4")
    assert result.crop.boxes[0, 2:].tolist() == [90, 128]
    assert result.size == (128, 128)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)


def test_the_size_is_as_wanted(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 3)
    assert pictures(run(source, size="360x640", aspect=None).output)[0].shape == (640, 360, 3)


@pytest.mark.parametrize("pad", ["blur", "color"])
def test_wider_crops_are_padded(tmp_path: Path, pad: str) -> None:
    source = make_video(tmp_path / "in.mp4", 3, options={"qp": "1"})
    run(
        source,
        tmp_path / "out.mp4",
        path=fixed(0, 0, 192, 128),
        pad=pad,
        pad_color="#ff0000",
        aspect="1:2",
        size="192x384",
    )
    full, padded = pictures(source)[1], pictures(tmp_path / "out.mp4")[1].astype(int)
    assert abs(padded[128:256] - full).mean() < 4
    if pad == "color":
        assert abs(padded[:126] - (254, 0, 0)).max() < 12
    else:
        # the middle of the source, blurred: as bright as it is, without its edges
        assert abs(padded[258:].mean() - full[64:, 64:128].mean()) < 30
        assert abs(np.diff(padded[:126], axis=1)).max() < 20


def test_the_preview_shows_the_crop_on_the_source(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", options={"qp": "1"})
    run(source, tmp_path / "out.mp4", path=sliding(), aspect="3:4", preview=True)
    for k, (full, shown) in enumerate(zip(pictures(source), pictures(tmp_path / "out.mp4"), strict=True)):
        x = 4 * k
        inside, outside = np.s_[8:-8, x + 8 : x + 88], np.s_[:, x + 104 :] if x < 80 else np.s_[:, : x - 8]
        assert abs(shown[inside].astype(int) - full[inside]).mean() < 6
        assert 0.2 < shown[outside].mean() / full[outside].mean() < 0.5


def test_odd_sizes_have_a_preview(tmp_path: Path) -> None:
    made = HARD_FILES["odd_size"](tmp_path)
    run(made.path, tmp_path / "out.mp4", preview=True)
    width, height = made.size
    assert pictures(tmp_path / "out.mp4")[0].shape == (height + height % 2, width + width % 2, 3)


def test_still_images(tmp_path: Path) -> None:
    made = HARD_FILES["exif_photo"](tmp_path)
    result = run(made.path)
    assert result.output == made.path.with_name("exif_6.reframed.png")
    (cut,) = pictures(result.output)
    assert cut.shape == (128, 128, 3)
    x = result.crop.at(0)[0]
    assert abs(cut.astype(int) - pictures(made.path)[0][:, x : x + 128]).mean() < 4


# ---- paths


def test_a_written_path_renders_the_same(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 48)
    first = run(source, tmp_path / "a.mp4", save_path=tmp_path / "crop.json", aspect="9:16")
    assert first.path == tmp_path / "crop.json"
    run(source, tmp_path / "b.mp4", path=first.path, aspect="9:16")
    for a, b in zip(pictures(tmp_path / "a.mp4"), pictures(tmp_path / "b.mp4"), strict=True):
        assert np.abs(a.astype(int) - b).mean() < 1  # the same crop; a pixel more or less of it is far above that


def test_the_sendcmd_script_cuts_the_same(tmp_path: Path) -> None:
    source = HARD_FILES["late_start"](tmp_path).path
    run(source, tmp_path / "out.mp4", path=sliding(), aspect="3:4", save_path=tmp_path / "crop.sendcmd")
    graph = av.filter.Graph()
    with av.open(str(source)) as container:
        nodes = [
            graph.add_buffer(template=container.streams.video[0]),
            graph.add("setpts", "PTS-STARTPTS"),  # as the ffmpeg program does
            graph.add("sendcmd", f"f={tmp_path / 'crop.sendcmd'}"),
            graph.add("crop", "w=96:h=128:x=0:y=0"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        cut = []
        for frame in container.decode(video=0):
            graph.push(frame)
            cut.append(graph.vpull().to_ndarray(format="rgb24"))
    for mine, other in zip(pictures(tmp_path / "out.mp4"), cut, strict=True):
        assert abs(mine.astype(int) - other).mean() < 6


# ---- what is refused


def test_a_track_of_another_video(tmp_path: Path) -> None:
    source, other = make_video(tmp_path / "in.mp4"), make_video(tmp_path / "other.mp4", 20)
    track = tinyhd.analyze(other, backend=GrayModel())
    with pytest.raises(InputError, match=r"is of another video, 'other.mp4'"):
        run(source, tmp_path / "out.mp4", track=track)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "other.mp4"}


def test_a_path_that_does_not_fit(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4")
    with pytest.raises(InputError, match=r"0\.000 s is 192x128, which is not the aspect of the result, 128x128"):
        run(source, path=fixed(0, 0, 192, 128))
    with pytest.raises(InputError, match=r"the path is of a source of 640x360, .* is 192x128"):
        run(source, path=fixed(0, 0, 100, 100, (640, 360)))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_other_bad_input(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 3)
    with pytest.raises(OptionError, match="choose an aspect nearer"):
        run(source, aspect="1:100")
    with pytest.raises(OptionError, match="is no name for a video"):
        run(source, tmp_path / "out.txt")
    (tmp_path / "keep.json").write_text('{"regions": {"logo": [0.5, 0, 2, 1]}}')
    with pytest.raises(OptionError, match="'logo' reaches outside"):
        run(source, keep=tmp_path / "keep.json")
    with pytest.raises(OutputError, match="is an input"):
        run(source, source)


# ---- the command


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    source = make_video(tmp_path / "in.mp4", 10)
    assert main(["reframe", str(source), "--aspect", "1:1", "--path-only"]) == 0
    assert (tmp_path / "in.reframed.csv").read_text().count("\n") == 11
    assert main(["reframe", str(source), "--aspect", "1:1", "--path", str(tmp_path / "in.reframed.csv")]) == 0
    assert pictures(tmp_path / "in.reframed.mp4")[0].shape == (128, 128, 3)
    make_video(tmp_path / "in2.mp4", 5)
    # reframed videos of before are not taken from the folder
    assert main(["reframe", str(tmp_path), "--output-dir", str(tmp_path / "all"), "--quiet"]) == 0
    assert {path.name for path in (tmp_path / "all").glob("*.mp4")} == {"in.reframed.mp4", "in2.reframed.mp4"}
    capsys.readouterr()
    for wrong, message in (
        (["--path-only", "-o", "x.mp4"], "the output must end in .csv, .json, .sendcmd"),
        (["--path", "x.csv", "--track", "x.npz"], "leave out --track and --keep"),
        (["--aspect", "9x16"], "it must be width:height"),
        (["--output-dir", str(tmp_path / "all"), "-o", "x.mp4"], "or with --output-dir, leave it out"),
    ):
        assert main(["reframe", str(source), *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["reframe", str(source), str(tmp_path / "in2.mp4"), "--keep", "x.json"]) == 2
    assert "--keep is for one input" in capsys.readouterr().err
