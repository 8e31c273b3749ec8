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
def grey(plugin: Modules, monkeypatch: pytest.MonkeyPatch) -> GrayModel:
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
    make_dataset: Make, plugin: Modules, grey: GrayModel, videos: list[Path], tmp_path: Path
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
    # what the stub model has seen is the picture: it is read again from the heat map in grey
    assert [read_barcode(frame.to_rgb()) for frame in tinyhd.read_frames(first)] == list(range(COUNT))
    again = operator("annotate_videos")(dataset, output_dir=str(tmp_path / "out"))
    assert (again["skipped"], again["failed"]) == (2, 1)


def test_annotated_videos_as_a_slice(fo: ModuleType, plugin: Modules, grey: GrayModel, videos: list[Path]) -> None:
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
        assert len(dataset.select_group_slices("heat")) == 2
    finally:
        dataset.delete()


def test_annotating_can_be_cancelled(
    make_dataset: Make, plugin: Modules, grey: GrayModel, videos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(plugin("progress"), "REPORT_SECONDS", 0)
    monkeypatch.setattr(plugin("render"), "REPORT_SECONDS", 0.001)
    dataset = make_dataset(*videos)
    stream = operator("annotate_videos").execute(context(dataset, output_dir=str(tmp_path / "out")))
    for message in stream:
        if "Video 2 of 2" in message.body.params.get("label", ""):
            break
    stream.close()
    assert [path.name[:11] for path in (tmp_path / "out").iterdir()] == ["a.annotated"]
    assert [path is None for path in dataset.values("annotated_path")] == [False, True]


# ---- playable copies


def test_videos_are_made_playable(make_dataset: Make, plugin: Modules, grey: GrayModel, tmp_path: Path) -> None:
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
    make_dataset: Make, plugin: Modules, grey: GrayModel, videos: list[Path], tmp_path: Path
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
    entropy, spread, speed, cursor = told["plot"]
    frames = dataset.first().frames
    assert entropy["x"] == list(range(1, COUNT + 1))
    assert entropy["y"] == [frames[k].saliency.entropy_bits for k in range(1, COUNT + 1)]
    assert spread["y"][3] == frames[4].saliency.spread
    assert max(speed["y"]) > 0
    # the App puts these at the cursor's place as the video plays
    assert told["frame_data"]["frames"][7] == [7, 7]
    shown = panel.render(ctx).to_json()["type"]["properties"]
    assert shown["frame_data"]["view"]["target"] == "plot[3].x"
    assert cursor["x"] == [1, 1]


def test_panel_overview(
    make_dataset: Make, plugin: Modules, grey: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(
        *videos, makers.make_video(tmp_path / "flat.mp4", COUNT, transform=lambda rgb, _: rgb * 0 + 9)
    )
    operator("compute_saliency")(dataset, maps_dir=str(tmp_path / "maps"))
    panel = operator("saliency_overview")
    ctx = context(dataset)
    panel.on_load(ctx)
    told = panel_messages(ctx)
    assert told["histogram"][0]["x"] == dataset.values("saliency_stats.entropy_bits")
    assert told["highest"][0]["video"] == "flat.mp4"
    assert [row["field"] for row in told["runs"]] == ["saliency"]
    assert "completed, " in told["runs"][0]["about"]
    state = {"fields": ["saliency"], "shown": {"field": "saliency", "number": "entropy_bits"}}
    state["ids"] = {"highest": [row["id"] for row in told["highest"]]}
    shown = json.dumps(panel.render(context(dataset, state=state)).to_json())
    assert "Entropy (bits)" in shown
    # a click on the video opens it, one on a bar shows its videos
    ctx = context(dataset, state=state, row=0)
    panel.on_highest(ctx)
    [request] = ctx.executor.to_json()["requests"]
    assert (request["operator_uri"], request["params"]["id"]) == ("open_sample", dataset.last().id)
    ctx = context(dataset, state=state, range=[15.5, 16.0])
    panel.on_bar(ctx)
    [request] = ctx.executor.to_json()["requests"]
    assert request["operator_uri"] == "set_view"
    assert "saliency_stats.entropy_bits" in json.dumps(request["params"])
    ctx = context(dataset, state=state, row=0)
    panel.on_delete(ctx)
    [request] = ctx.executor.to_json()["requests"]
    assert request["params"]["operator_uri"] == "@tinyhd/saliency/delete_saliency"


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
        *("annotate_videos", "cancel_saliency", "compute_saliency", "delete_saliency", "reencode_videos"),
        *("saliency_over_time", "saliency_overview"),
    ], done.stderr
