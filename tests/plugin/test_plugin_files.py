"""The FiftyOne plugin's new video files, its panels, the zoo model, and ways to install it."""

import functools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import makers
import numpy as np
import pytest
from conftest import skip_or_fail
from fakes import GrayModel
from makers import read_barcode
from plugin_database import PLUGIN_FOLDER, environ

import tinyhd
from tinyhd.video.playback import browser_plays

pytest_plugins = ["plugin_database"]

COUNT = 20
Make = Callable[..., Any]
Modules = Callable[[str], Any]


@pytest.fixture
def gray(plugin: Modules, monkeypatch: pytest.MonkeyPatch) -> GrayModel:
    """A model that costs nothing, in place of the trained one."""
    model = GrayModel()
    monkeypatch.setattr(tinyhd, "open_backend", lambda *_, **__: model)
    return model


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    return [makers.make_video(tmp_path / "in" / f"{name}.mp4", COUNT) for name in "ab"]


def operator(name: str) -> Any:
    import fiftyone.operators as foo

    return foo.get_operator(f"@tinyhd/saliency/{name}")


def context(dataset: Any, **params: Any) -> Any:
    import fiftyone.operators as foo
    from fiftyone.operators.executor import Executor

    state = params.pop("state", {})
    request = {"dataset_name": dataset.name, "params": {**params, "panel_id": "p", "panel_state": state}}
    request["current_sample"] = dataset.first().id
    return foo.ExecutionContext(request, executor=Executor())


# ---- annotated videos


def test_annotated_videos_as_a_media_field(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    dataset = make_dataset(*videos, broken)
    result = operator("annotate_videos")(dataset, output_dir=str(tmp_path / "out"), style="heatmap", colormap="gray")
    assert (result["completed"], result["failed"], result["frames"]) == (2, 1, 2 * COUNT)
    first, second, third = dataset.values("annotated_path")
    assert third is None
    assert "broken.mp4" in dataset.values("annotated_error")[2]
    assert Path(first).parent == Path(second).parent == tmp_path / "out"
    assert dataset.app_config.media_fields == ["filepath", "annotated_path"]
    info = tinyhd.probe(first)
    assert (info.width, info.height, info.frame_count) == (makers.WIDTH, makers.HEIGHT, COUNT)
    assert browser_plays(info)
    # what the stub model has seen is the picture: it is read again from the heat map in gray
    assert [read_barcode(frame.to_rgb()) for frame in tinyhd.read_frames(first)] == list(range(COUNT))
    again = operator("annotate_videos")(dataset, output_dir=str(tmp_path / "out"))
    assert (again["skipped"], again["failed"]) == (2, 1)


def test_the_old_name_is_kept_for_a_while(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    assert operator("annotate_videos").config.unlisted
    assert operator("annotate_videos")(dataset, output_dir=str(tmp_path / "out"))["completed"] == 1
    assert operator("render_saliency")(dataset, output_dir=str(tmp_path / "out"))["skipped"] == 1
    for word in ("heatmap", "attention", "saliency"):
        shown = [operator(name).config for name in ("compute_saliency", "render_saliency")]
        assert any(word in config.label.lower() for config in shown)


def test_a_color_map_that_does_not_exist_is_refused_at_once(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path]
) -> None:
    with pytest.raises(tinyhd.TinyHDError, match="no color map 'foo'"):
        operator("render_saliency")(make_dataset(videos[0]), colormap="foo")


def test_rendering_uses_the_track_that_a_run_has_kept(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    clips = gray.clips
    assert operator("render_saliency")(dataset, output_dir=str(tmp_path / "out"))["completed"] == 2
    assert gray.clips == clips


def test_annotated_videos_as_a_slice(fo: ModuleType, plugin: Modules, gray: GrayModel, videos: list[Path]) -> None:
    dataset = fo.Dataset()
    try:
        dataset.add_group_field("group", default="video")
        for path in videos:
            dataset.add_sample(fo.Sample(filepath=str(path), group=fo.Group().element("video")))
        shown = operator("annotate_videos").resolve_input(context(dataset)).to_json()
        assert shown["type"]["properties"]["name"]["view"]["label"] == "Group slice"
        view = dataset.select_group_slices("video")
        assert operator("annotate_videos")(view, name="heat")["completed"] == 2
        assert sorted(dataset.group_slices) == ["heat", "video"]
        for group in dataset.iter_groups():
            assert group["heat"].metadata.frame_rate == 25
            assert Path(group["heat"].filepath).name.startswith(Path(group["video"].filepath).stem + ".heat-")
        again = operator("annotate_videos")(dataset.select_group_slices("video"), name="heat")
        assert (again["completed"], again["skipped"]) == (0, 2)
        heat = dataset.select_group_slices("heat")
        assert len(heat) == 2
        other = str(videos[0].parent / "other")
        wide = {"output_dir": other, "style": "side-by-side", "skip_existing": False}
        again = operator("annotate_videos")(view, name="heat", **wide)
        assert again["completed"] == len(heat) == 2
        assert {(str(Path(s.filepath).parent), s.metadata.frame_width) for s in heat} == {(other, 2 * makers.WIDTH)}
        assert operator("undo_videos")(dataset, "heat")["removed"] == 2
        assert dataset.group_slices == ["video"]
    finally:
        dataset.delete()


def test_annotating_can_be_cancelled(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(plugin("progress"), "REPORT_SECONDS", 0)
    monkeypatch.setattr(plugin("outputs"), "REPORT_SECONDS", 0.001)
    dataset = make_dataset(*videos)
    stream = operator("annotate_videos").start(dataset, {"output_dir": str(tmp_path / "out")}, lambda: False)
    for progress in stream:
        if "Video 2 of 2" in progress.label:
            break
    stream.close()
    assert [path.name[:11] for path in (tmp_path / "out").iterdir()] == ["a.annotated"]
    assert [path is None for path in dataset.values("annotated_path")] == [False, True]


# ---- playable copies


def test_videos_are_made_playable(make_dataset: Make, plugin: Modules, gray: GrayModel, tmp_path: Path) -> None:
    made = [makers.plain(tmp_path), makers.foreign_audio(tmp_path), makers.vfr(tmp_path), makers.late_video(tmp_path)]
    old = [str(m.path) for m in made]
    dataset = make_dataset(*(m.path for m in made))
    assert operator("compute_saliency")(dataset)["unplayable"] == 1
    result = operator("reencode_videos")(dataset)
    assert (result["completed"], result["skipped"], result["failed"]) == (1, 3, 0)
    paths = dataset.values("filepath")
    assert [path == before for path, before in zip(paths, old, strict=True)] == [True, False, True, True]
    assert dataset.values("original_filepath") == [None, old[1], None, None]
    assert all(Path(path).is_file() for path in old)
    assert all(browser_plays(tinyhd.probe(path)) for path in paths)
    # maps stay where they are
    assert operator("compute_saliency")(dataset)["skipped"] == 4
    assert operator("reencode_videos")(dataset)["skipped"] == 4


def test_videos_are_taken_back(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, tmp_path: Path
) -> None:
    paths = [makers.foreign_audio(tmp_path).path, makers.plain(tmp_path).path]
    dataset = make_dataset(*paths)
    before = (sorted(tmp_path.iterdir()), set(dataset.get_field_schema()), list(dataset.app_config.media_fields))
    assert operator("reencode_videos")(dataset)["completed"] == 1
    assert operator("render_saliency")(dataset)["completed"] == 2
    assert plugin("undo").made_videos(dataset) == ["annotated", "playable copies"]
    with pytest.raises(tinyhd.TinyHDError, match="no videos 'other'"):
        operator("undo_videos")(dataset, "other")
    assert operator("undo_videos")(dataset, "annotated")["removed"] == 2
    assert operator("undo_videos")(dataset, "playable copies")["removed"] == 1
    assert dataset.values("filepath") == [str(path) for path in paths]
    after = (sorted(tmp_path.iterdir()), set(dataset.get_field_schema()), list(dataset.app_config.media_fields))
    assert after == before


# ---- reframed videos


def test_reframed_videos_as_a_media_field(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    before = (sorted(videos[0].parent.iterdir()), list(dataset.get_field_schema()), dataset.app_config.to_dict())
    clips = gray.clips
    shown = operator("reframe_videos").resolve_input(context(dataset, advanced=True)).to_json()["type"]["properties"]
    assert {"aspect", "pad", "max_speed", "results", "boxes", "crf", "preset", "batch_size"} <= set(shown)
    assert not {"keep", "ffmpeg"} & set(shown)  # there are no detections; no program from a form
    assert "--" not in json.dumps({name: shown[name] for name in ("aspect", "size", "pad", "pad_color", "min_share")})
    result = operator("reframe_videos")(dataset, aspect="1:1")
    assert (result["completed"], result["failed"], result["frames"]) == (2, 0, 2 * COUNT)
    assert gray.clips == clips  # the run's tracks are used
    sample = dataset.first()
    info = tinyhd.probe(sample.reframed_path)
    assert (info.width, info.height, info.frame_count) == (makers.HEIGHT, makers.HEIGHT, COUNT)
    assert "reframed_path" in dataset.app_config.media_fields
    # the path is beside the video, and on the frames of the source
    rows = Path(sample.reframed_crop).read_text().splitlines()
    assert rows[0] == "time_seconds,x,y,width,height"
    assert len(rows) == COUNT + 1
    for number, row in enumerate(rows[1:], start=1):
        x, y, width, height = (float(cell) for cell in row.split(",")[1:])
        expected = [x / makers.WIDTH, y / makers.HEIGHT, width / makers.WIDTH, height / makers.HEIGHT]
        assert sample.frames[number].reframed_crop.bounding_box == pytest.approx(expected)
    assert operator("reframe_videos")(dataset, aspect="1:1")["skipped"] == 2
    assert operator("undo_videos")(dataset, "reframed")["removed"] == 2
    after = (sorted(videos[0].parent.iterdir()), list(dataset.get_field_schema()), dataset.app_config.to_dict())
    assert after == before
    assert not dataset.has_frame_field("reframed_crop")


def test_reframed_videos_as_samples(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    ids = dataset.values("id")
    reframe = functools.partial(operator("reframe_videos"), dataset, results="new samples", boxes=False)
    assert reframe(output_dir=str(tmp_path / "out"))["completed"] == 2
    new = dataset.match_tags("reframed")
    assert sorted(new.values("reframed_source")) == sorted(ids)
    assert [m.frame_width < m.frame_height for m in new.values("metadata")] == [True, True]
    assert len(list((tmp_path / "out").iterdir())) == 4
    # neither is made again, nor are the new ones cut themselves
    assert reframe(output_dir=str(tmp_path / "out"))["skipped"] == 4
    again = reframe(output_dir=str(tmp_path / "anew"), aspect="1:1", skip_existing=False)
    assert again["completed"] == 2
    assert len(dataset) == 4
    assert {Path(path).parent for path in new.values("filepath")} == {tmp_path / "anew"}
    assert [m.frame_width == m.frame_height for m in new.values("metadata")] == [True, True]
    assert operator("undo_videos")(dataset, "reframed")["removed"] == 2
    assert dataset.values("id") == ids
    assert list((tmp_path / "anew").iterdir()) == []
    assert not [name for name in dataset.get_field_schema() if name.startswith("reframed")]


def test_detections_are_kept_in_the_crop(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    sample = dataset.first()
    for number in range(1, COUNT + 1):
        boxes = [[0.02, 0.1, 0.1, 0.2], [0.1, 0.5, 0.08, 0.2]]  # at the left edge, where the disc is not
        things = [fo.Detection(label="x", bounding_box=box) for box in boxes]
        sample.frames[number] = fo.Frame(things=fo.Detections(detections=things))
    sample.save()
    assert "keep" in operator("reframe_videos").resolve_input(context(dataset)).to_json()["type"]["properties"]
    assert operator("reframe_videos")(dataset, keep=["things"], output_dir=str(tmp_path))["completed"] == 1
    for frame in dataset.first().frames.values():
        left, _, width, _ = frame.reframed_crop.bounding_box
        assert left <= 0.03
        assert left + width >= 0.17
    with pytest.raises(tinyhd.TinyHDError, match="no frame field with detections"):
        operator("reframe_videos")(dataset, keep=["other"])
    with pytest.raises(tinyhd.TinyHDError, match="aspect is '9x16'"):
        operator("reframe_videos")(dataset, aspect="9x16")


def test_detections_as_regions(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, tmp_path: Path
) -> None:
    path = makers.make_video(tmp_path / "long.mp4", 60)
    dataset = make_dataset(path)
    sample = dataset.first()
    for number in (1, 11, 51):  # 25 a second: the last is more than a second after the one before
        things = [
            fo.Detection(label="ball", index=k, bounding_box=[0.1 * k + number / 100, 0.1, 0.1, 0.1]) for k in (1, 2)
        ]
        things.append(fo.Detection(label="logo", bounding_box=[0.95, -0.1, 0.1, 0.2]))
        sample.frames[number] = fo.Frame(things=fo.Detections(detections=things))
    sample.save()
    arguments = (dataset, sample.id, ["things"], tinyhd.probe(path))
    first, second, logo = plugin("boxes").moving_boxes(*arguments, as_one=False)
    assert (first.name, second.name, logo.name) == ("ball 1", "ball 2", "logo")
    assert first.at(np.array([0.2]))[0] == pytest.approx([0.16, 0.1, 0.26, 0.2])  # half way
    assert np.isnan(first.at(np.array([1.0, 2.1]))).all()
    assert first.at(np.array([2.0]))[0][0] == pytest.approx(0.61)
    assert logo.at(np.array([0.0]))[0] == pytest.approx([0.95, 0, 1, 0.1])  # none outside the picture
    [together] = plugin("boxes").moving_boxes(*arguments, as_one=True)
    assert together.at(np.array([0.0]))[0] == pytest.approx([0.11, 0, 1, 0.2])


def test_a_track_beside_the_video_is_used(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    tinyhd.analyze(videos[0], videos[0].with_suffix(".track.npz"), backend=gray).close()
    clips = gray.clips
    dataset = make_dataset(videos[0])
    assert operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))["completed"] == 1
    assert gray.clips == clips
    # with other options it is not what is asked for
    assert operator("compute_saliency")(dataset, field="other", cuts=False, maps_dir=str(tmp_path))["completed"] == 1
    assert gray.clips > clips


# ---- videos encoded by regions


def test_encoded_videos(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    before = (sorted(videos[0].parent.iterdir()), list(dataset.get_field_schema()), dataset.app_config.to_dict())
    clips = gray.clips
    shown = operator("encode_videos").resolve_input(context(dataset, advanced=True)).to_json()["type"]["properties"]
    assert {"strength", "name", "output_dir", "model", "codec", "crf", "bitrate", "preset", "batch_size"} <= set(shown)
    assert not {"problem", "ffmpeg"} & set(shown)
    result = operator("encode_videos")(dataset, strength=0, crf=30)
    assert (result["completed"], result["failed"], result["frames"]) == (2, 0, 2 * COUNT)
    even = [Path(path).stat().st_size for path in dataset.values("encoded_path")]
    assert operator("encode_videos")(dataset, strength=12, crf=30)["skipped"] == 2
    assert operator("encode_videos")(dataset, strength=12, crf=30, skip_existing=False)["completed"] == 2
    paths = dataset.values("encoded_path")
    assert all(Path(path).stat().st_size < 0.95 * size for path, size in zip(paths, even, strict=True))
    assert [read_barcode(frame.to_rgb()) for frame in tinyhd.read_frames(paths[0])] == list(range(COUNT))
    assert gray.clips == clips  # the run's tracks are used
    assert operator("undo_videos")(dataset, "encoded")["removed"] == 2
    after = (sorted(videos[0].parent.iterdir()), list(dataset.get_field_schema()), dataset.app_config.to_dict())
    assert after == before


@pytest.mark.parametrize(
    ("params", "blamed", "sentence"),
    [
        ({"codec": "av1"}, "codec", "does not hand regions on to libsvtav1"),
        ({"encoder": "mpeg4"}, "encoder", "the encoder mpeg4 ignores regions"),
        ({"preset": "ultrafast"}, "preset", "ignores regions with the preset ultrafast"),
    ],
)
def test_encoders_that_ignore_regions_are_refused_in_the_form(
    params: dict[str, str],
    blamed: str,
    sentence: str,
    make_dataset: Make,
    plugin: Modules,
    gray: GrayModel,
    videos: list[Path],
) -> None:
    dataset = make_dataset(videos[0])
    form = operator("encode_videos").resolve_input(context(dataset, advanced=True, **params)).to_json()
    shown = form["type"]["properties"]
    assert sentence in shown["problem"]["view"]["label"]
    assert [name for name, prop in shown.items() if prop.get("invalid")] == [blamed, "problem"]
    with pytest.raises(tinyhd.TinyHDError, match=sentence):
        operator("encode_videos")(dataset, **params)
    assert not dataset.has_field("encoded_path")


# ---- key moments


def test_moments_are_those_of_the_command_line(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    paths = [makers.make_video(tmp_path / "in" / f"{name}.mp4", 60, transform=_gathering) for name in "cd"]
    dataset = make_dataset(*paths)
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    before = (sorted(tmp_path.rglob("*")), list(dataset.get_field_schema()), dataset.app_config.to_dict())
    clips = gray.clips
    assert operator("moments")(dataset, count=3)["completed"] == 2
    assert gray.clips == clips  # the run's tracks are used
    assert sorted(tmp_path.rglob("*")) == before[0]  # no pictures were asked for
    track = tmp_path / "c.track.npz"
    tinyhd.analyze(paths[0], track, backend=gray).close()
    expected = tinyhd.moments(paths[0], tmp_path / "expected", track=track, options=tinyhd.MomentOptions(count=3))
    labels = dataset.first().moments.detections
    keys = [label for label in labels if label.label == "key moment"]
    assert [label.support for label in keys] == [[round(time * 25) + 1] * 2 for time in expected.times]
    assert [label.confidence for label in keys] == pytest.approx([moment.score for moment in expected.moments])
    spans = [label for label in labels if label.label != "key moment"]
    assert len(spans) == len(expected.focused) + len(expected.scattered) > 0
    # a run has the same spans
    stored = [label for label in dataset.first().saliency_moments.detections if label.label != "key moment"]
    assert [(s.label, s.support, s.confidence) for s in spans] == [(s.label, s.support, s.confidence) for s in stored]
    track.unlink()
    shutil.rmtree(tmp_path / "expected")

    assert operator("moments")(dataset, pictures=True)["skipped"] == 2
    assert operator("moments")(dataset, pictures=True, format="png", skip_existing=False)["completed"] == 2
    assert operator("moments")(dataset, pictures=True, count=1, aspect="1:1", skip_existing=False)["completed"] == 2
    [picture] = [p for p in dataset.values("moments.detections.picture")[0] if p]
    assert tinyhd.probe(picture).width == tinyhd.probe(picture).height == makers.HEIGHT
    assert Path(picture).name == f"c.moments-{dataset.first().id[-8:]}.moment-01.jpg"
    sheets = dataset.values("moments_sheet")
    assert len(list(Path(picture).parent.iterdir())) == 6  # for each video a picture, a sheet and JSON; no PNG is left
    assert all(Path(sheet).parent == paths[0].parent / "moments" for sheet in sheets)
    assert operator("undo_videos")(dataset, "moments")["removed"] == 2
    after = (sorted(tmp_path.rglob("*")), list(dataset.get_field_schema()), dataset.app_config.to_dict())
    assert after == before


def _gathering(rgb: np.ndarray, number: int) -> np.ndarray:
    """A picture whose light is gathered in its middle for a second, otherwise even."""
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    inside = np.hypot(x - 0.5 * rgb.shape[1], y - 0.5 * rgb.shape[0]) < 0.12 * rgb.shape[0]
    noise = np.random.default_rng(number).integers(0, 40, rgb.shape)
    dark = 10 if 20 <= number < 45 else 150
    return np.where(inside[..., None], 200 + noise, dark + noise // 4).astype(np.uint8)


def test_moments_in_a_field_of_something_else_are_refused(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path]
) -> None:
    dataset = make_dataset(videos[0])
    dataset.add_sample_field("mine", fo.StringField)
    form = operator("moments").resolve_input(context(dataset, name="mine")).to_json()
    shown = form["type"]["properties"]
    assert "something else in it" in shown["problem"]["view"]["label"]
    assert shown["name"]["invalid"]
    with pytest.raises(tinyhd.TinyHDError, match="'mine' with something else"):
        operator("moments")(dataset, name="mine")


# ---- reports


def test_a_report_on_a_selection(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos, makers.plain(tmp_path).path)
    sample = dataset.first()
    sample.frames[1] = fo.Frame(
        things=fo.Detections(detections=[fo.Detection(label="logo", bounding_box=[0, 0, 1, 1])])
    )
    sample.save()
    operator("compute_saliency")(dataset.limit(1), maps_dir=str(tmp_path / "maps"))
    result = operator("report")(dataset.limit(2), detections=["things"], title="Two <videos>")
    page = Path(result["html"])
    assert page.parent == videos[0].parent / "reports"
    text = page.read_text()
    assert "Two &lt;videos&gt;" in text
    assert "logo" in text
    assert json.loads(page.with_suffix(".json").read_text())["videos"][1]["name"] == "b.mp4"
    assert str(page) in result["summary"]
    # shown in the panel, which opens in the App once it is there
    panel = operator("saliency_reports")
    ctx = context(dataset)
    panel.on_load(ctx)
    told = panel_messages(ctx)
    assert told["report"] == {"file": str(page)}
    assert "TinyHDReport" in json.dumps(panel.render(context(dataset, state=told)).to_json())
    # one of the same name takes its place
    again = operator("report")(dataset.limit(1))
    assert [path.name for path in page.parent.glob("*.html")] == [Path(again["html"]).name]
    with pytest.raises(tinyhd.TinyHDError, match="no report 'other'"):
        operator("undo_videos")(dataset, "report other")
    operator("undo_videos")(dataset, "report report")
    assert not page.parent.exists()
    assert dataset.list_runs() == ["saliency"]
    ctx = context(dataset)
    panel.on_load(ctx)
    assert "no report yet" in json.dumps(panel.render(ctx).to_json())


def test_a_report_is_about_a_few_videos(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr(plugin("reports"), "MAX_VIDEOS", 1)
    dataset = make_dataset(*videos)
    with pytest.raises(tinyhd.TinyHDError, match="1 to 1 videos, these are 2"):
        operator("report")(dataset)
    assert "at most, these are 2" in json.dumps(operator("report").resolve_input(context(dataset)).to_json())


def test_the_app_opens_a_report_that_is_done(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path]
) -> None:
    dataset = make_dataset(videos[0])
    watched = operator("report")._watch(dataset, {})
    panel = operator("saliency_overview")
    ctx = context(dataset)
    panel.on_load(ctx)
    watched.say("1 video done.", 1.0, state="ended")
    ctx = context(dataset, state=panel_messages(ctx))
    panel.on_tick(ctx)
    opened = [r["params"] for r in ctx.executor.to_json()["requests"] if r["operator_uri"] == "open_panel"]
    assert [params["name"] for params in opened] == ["saliency_reports"]


# ---- panels


def panel_messages(ctx: Any) -> dict[str, Any]:
    """What a panel has told the App to set."""
    told: dict[str, Any] = {}
    for request in ctx.executor.to_json()["requests"]:
        json.dumps(request)
        for kind in ("state", "data"):
            told |= request["params"].get(kind) or {}
    return told


def test_panel_over_time(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    panel = operator("saliency_over_time")
    ctx = context(dataset)
    panel.on_load(ctx)
    assert "no saliency yet" in json.dumps(panel.render(ctx).to_json())
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    ctx = context(dataset)
    panel.on_load(ctx)
    told = panel_messages(ctx)
    plot = told["plot"]
    focus, spread, speed = plot["lines"]
    frames = dataset.first().frames
    assert (plot["rate"], plot["first"], plot["step"]) == (25, 1, 1)
    assert list(focus["values"]) == [frames[k].saliency.focus for k in range(1, COUNT + 1)]
    assert spread["values"][3] == frames[4].saliency.spread
    assert max(speed["values"]) > 0
    shown = panel.render(context(dataset, state=told)).to_json()["type"]["properties"]
    assert shown["plot"]["view"]["component"] == "TinyHDSaliencyOverTime"
    # a newer run that is not complete does not come first
    stream = operator("compute_saliency").start(
        dataset, {"field": "newer", "maps_dir": str(tmp_path / "maps")}, lambda: True
    )
    list(stream)
    ctx = context(dataset)
    panel.on_load(ctx)
    assert panel_messages(ctx)["fields"] == ["saliency", "newer"]


def test_panel_overview(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(
        *videos, makers.make_video(tmp_path / "flat.mp4", COUNT, transform=lambda rgb, _: rgb * 0 + 9)
    )
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    panel = operator("saliency_overview")
    ctx = context(dataset)
    panel.on_load(ctx)
    told = panel_messages(ctx)
    assert sorted(told["histogram"][0]["x"]) == sorted(dataset.values("saliency_stats.focus"))
    least = told["least"][0]
    assert (least["id"], least["name"], least["value"]) == (dataset.last().id, "flat.mp4", "5")
    picture = tinyhd.probe(least["picture"])
    assert max(picture.width, picture.height) <= 240
    assert np.abs(next(tinyhd.read_frames(least["picture"])).to_rgb().astype(int) - 9).max() < 12
    assert [row["field"] for row in told["runs"]] == ["saliency"]
    assert told["work"][0]["state"] == "ended"
    shown = json.dumps(panel.render(context(dataset, state=told)).to_json())
    assert "Focus (5 to 100)" in shown
    assert "3 videos done." in shown
    # a click on a bar shows its videos
    ctx = context(dataset, state=told, range=[15.5, 16.0])
    panel.on_bar(ctx)
    [request] = ctx.executor.to_json()["requests"]
    assert request["operator_uri"] == "set_view"
    assert "saliency_stats.focus" in json.dumps(request["params"])
    ctx = context(dataset, state=told | {"runs": [{"field": "saliency"}]}, row=0)
    panel.on_continue(ctx)
    panel.on_delete(ctx)
    [going_on, request] = ctx.executor.to_json()["requests"]
    assert request["params"]["operator_uri"] == "@tinyhd/saliency/delete_saliency"
    assert going_on["params"]["params"] == {"field": "saliency"}


def test_work_is_watched_and_cancelled_in_the_panel(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    panel = operator("saliency_overview")
    watched = plugin("work").Watched(dataset, "Computing", ["frames.saliency"])
    watched.say("Video 1 of 2 (a.mp4): frame 5 of 20", 0.125)
    ctx = context(dataset)
    panel.on_load(ctx)
    told = panel_messages(ctx)
    [entry] = told["work"]
    shown = json.dumps(panel.render(context(dataset, state=told)).to_json(), ensure_ascii=False)
    assert "Video 1 of 2 (a.mp4): frame 5 of 20" in shown
    assert "12 %" in shown
    assert not watched.is_stopped()
    panel.on_stop(context(dataset, state=told, key=entry["key"]))
    watched._asked = 0  # a while later
    assert watched.is_stopped()
    watched.say("Cancelled: 1 video done.", 1.0, state="ended")
    ctx = context(dataset, state=told)
    panel.on_tick(ctx)
    names = [request["operator_uri"] for request in ctx.executor.to_json()["requests"]]
    assert {"notify", "reload_dataset", "set_active_fields"} <= set(names)


# ---- the zoo, and installing


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which it is served on loopback."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def release_archive(folder: Path) -> None:
    """tinyhd-0.1.0.zip with the plugin where a release has it."""
    root = folder / "build" / "tinyhd-0.1.0"
    shutil.copytree(PLUGIN_FOLDER, root / "plugin", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.make_archive(str(folder / "tinyhd-0.1.0"), "zip", folder / "build")
    shutil.rmtree(folder / "build")


def test_zoo_model(
    fo: ModuleType, make_dataset: Make, server: tuple[Path, str], videos: list[Path], tmp_path: Path
) -> None:
    if not shutil.which("ffprobe"):
        skip_or_fail("FiftyOne's apply_model needs ffprobe for videos: install ffmpeg")
    import fiftyone.zoo as foz

    folder, address = server
    release_archive(folder)
    foz.register_zoo_model_source(f"{address}/tinyhd-0.1.0.zip", overwrite=True)
    assert "tinyhd-m" in foz.list_zoo_models(source=f"{address}/tinyhd-0.1.0.zip")
    model = foz.load_zoo_model("tinyhd-m", maps_dir=str(tmp_path / "maps"), ensure_requirements=False)
    assert sys.modules["tinyhd"] is tinyhd  # FiftyOne names a source's module after the source
    dataset = make_dataset(videos[0])
    dataset.apply_model(model, "zoo")
    frames = dataset.first().frames
    assert len(frames) == COUNT
    predictions = list(tinyhd.predict_video(videos[0]))
    for number in (1, COUNT):
        heat = frames[number].zoo
        assert heat.map is None  # not in the database
        levels, expected = heat.get_map(), predictions[number - 1].map
        rows, columns = (np.arange(n) * m // n for n, m in zip((192, 256), levels.shape, strict=True))
        same_size = levels[rows[:, None], columns]
        assert np.corrcoef(same_size.ravel(), expected.ravel())[0, 1] > 0.95
        assert same_size.ravel()[expected.argmax()] > 0.95 * levels.max()


def test_without_tinyhd_the_plugin_says_so(fiftyone_environment: dict[str, str]) -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'tinyhd' else find(name, *a);"
        "sys.modules['tinyhd'] = None;"
        "import fiftyone.operators as foo;"
        "names = {o.name: o for o in foo.list_operators(builtin=False)};"
        "form = names['compute_saliency'].resolve_input(None).to_json();"
        "print(sorted(names), form)"
    )
    env = environ(fiftyone_environment)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=180)
    assert "['compute_saliency', 'render_saliency']" in done.stdout, done.stderr
    assert "fiftyone plugins requirements @tinyhd/saliency --install" in done.stdout


@pytest.mark.parametrize("how", ["release archive", "folder"])
def test_install(how: str, fiftyone_environment: dict[str, str], server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    release_archive(folder)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    env = environ(fiftyone_environment | {"FIFTYONE_PLUGINS_DIR": str(plugins)})
    if how == "folder":
        env["FIFTYONE_PLUGINS_DIR"] = str(PLUGIN_FOLDER)
    else:
        program = [sys.executable, "-c", "from fiftyone.core.cli import main; main()", "plugins"]
        subprocess.run([*program, "download", f"{address}/tinyhd-0.1.0.zip"], env=env, check=True, timeout=180)
    code = (
        "import fiftyone.operators as foo, fiftyone.plugins as fop;"
        "[plugin] = [p for p in fop.list_plugins(builtin=False)];"
        "names = sorted(o.name for o in foo.list_operators(builtin=False));"
        "print(plugin.name, *names)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=180)
    assert done.stdout.split() == [
        "@tinyhd/saliency",
        *("annotate_videos", "cancel_saliency", "compute_saliency", "delete_saliency", "encode_videos", "moments"),
        *("reencode_videos", "reframe_videos", "render_saliency", "report", "saliency_over_time", "saliency_overview"),
        *("saliency_reports", "undo_videos"),
    ], done.stderr
