"""The FiftyOne plugin's runs: forms, immediate and delegated, cancelled and resumed, failed and deleted."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import makers
import numpy as np
import pytest
from fakes import FakeBackend, GrayModel

import tinyhd

pytest_plugins = ["plugin_database"]

URI = "@tinyhd/saliency/compute_saliency"
COUNT = 20
Make = Callable[..., Any]
Modules = Callable[[str], Any]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three small videos; tests do not write beside them."""
    folder = tmp_path_factory.mktemp("videos")
    return [makers.make_video(folder / f"{name}.mp4", COUNT, width=320, height=180) for name in "abc"]


@pytest.fixture
def gray(plugin: Modules, monkeypatch: pytest.MonkeyPatch) -> GrayModel:
    """A model that costs nothing, in place of the trained one."""
    model = GrayModel()
    monkeypatch.setattr(tinyhd, "open_backend", lambda *_, **__: model)
    return model


@pytest.fixture
def talkative(plugin: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress after every frame, and cancelling at once."""
    monkeypatch.setattr(plugin("progress"), "REPORT_SECONDS", 0)
    monkeypatch.setattr(plugin("runs"), "HEARTBEAT_SECONDS", 0)
    monkeypatch.setattr(plugin("base"), "HEARTBEAT_SECONDS", 0)


def operator(name: str = "compute_saliency") -> Any:
    import fiftyone.operators as foo

    return foo.get_operator(f"@tinyhd/saliency/{name}")


def context(dataset: Any, **params: Any) -> Any:
    import fiftyone.operators as foo
    from fiftyone.operators.executor import Executor

    request = {"dataset_name": dataset.name, "params": params, "active_fields": ["filepath"]}
    return foo.ExecutionContext(request, executor=Executor(), operator_uri=URI)


def form(dataset: Any, name: str = "compute_saliency", **params: Any) -> dict[str, Any]:
    """The properties of an operator's form, as the App gets them."""
    shown = operator(name).resolve_type(context(dataset, **params), "inputs").to_json()
    json.dumps(shown)
    return shown["type"]["properties"]


def run_delegated() -> Any:
    from fiftyone.operators.delegated import DelegatedOperationService

    [result] = DelegatedOperationService().execute_queued_operations()
    return result


def completed(dataset: Any, field: str = "saliency") -> list[str]:
    """Names of the videos that have numbers, each checked to be whole."""
    names = []
    for sample in dataset:
        stats = sample[f"{field}_stats"]
        labels = [frame[field] for frame in sample.frames.values() if frame.has_field(field)]
        if stats is None:
            assert not any(labels), sample.filepath
            continue
        assert stats.frame_count == len(labels) == COUNT
        assert all(Path(label.map_path).is_file() for label in labels)
        names.append(Path(sample.filepath).stem)
    return names


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def maps_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def visible(shown: np.ndarray) -> np.ndarray:
    """A displayed map as it is stored: nothing where attention is faint."""
    return np.clip((shown - 0.2) / 0.8, 0, 1)


# ---- what is stored


def test_maps_and_numbers_are_those_of_the_model(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    result = operator()(dataset, maps_dir=str(tmp_path))
    assert (result["completed"], result["failed"], result["frames"]) == (1, 0, COUNT)
    sample = dataset.first()
    predictions = list(tinyhd.predict_video(videos[0], gray))
    assert len(sample.frames) == len(predictions) == COUNT
    for prediction in predictions:
        label = sample.frames[prediction.frame.index + 1].saliency
        row, column = np.unravel_index(prediction.map.argmax(), prediction.map.shape)
        assert label.peak_x == pytest.approx((column + 0.5) / 256)
        assert label.peak_y == pytest.approx((row + 0.5) / 192)
        with av.open(label.map_path) as picture:
            frame = next(picture.decode(video=0))
        assert (frame.format.name, frame.width, frame.height) == ("gray", 320, 180)
        # the model's map is the frame in gray
        assert makers.read_barcode(frame.to_ndarray(format="rgb24")) == prediction.frame.index
        assert frame.to_ndarray().max() > 250
    numbers = sample.saliency_stats
    assert numbers.entropy_bits == pytest.approx(
        np.mean([f.saliency.entropy_bits for f in sample.frames.values()]), abs=0.01
    )
    assert 0 < numbers.center_share < 1
    assert numbers.peak_speed > 0  # the disc moves
    # sorting and filtering are queries of the database
    assert dataset.sort_by("saliency_stats.entropy_bits").values("id") == [sample.id]
    from fiftyone import ViewField

    assert dataset.match_frames(ViewField("saliency.center_share") > 2).count("frames") == 0


def test_stride_thins_maps_not_numbers(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    operator()(dataset, maps_dir=str(tmp_path), stride=8)
    labels = [frame.saliency for frame in dataset.first().frames.values()]
    assert [Path(label.map_path).name for label in labels] == [f"{1 + k // 8 * 8:06d}.png" for k in range(COUNT)]
    assert len(maps_below(tmp_path)) == 3
    assert len({label.entropy_bits for label in labels}) > 10
    assert gray.clips == 2  # the model has seen all frames


def test_fixed_brightness_compares_videos(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    operator()(dataset, field="fixed", maps_dir=str(tmp_path), normalize="none")
    [prediction, *_] = tinyhd.predict_video(videos[0], gray)
    with av.open(dataset.first().frames[1].fixed.map_path) as picture:
        levels = next(picture.decode(video=0)).to_ndarray()
    from tinyhd.network.config import TinyHDConfig

    expected = visible(np.clip(prediction.map / TinyHDConfig.display_scale, 0, 1)).mean() * 255
    assert levels.mean() == pytest.approx(expected, abs=1.5)


def test_attention_inside_detections(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    sample = dataset.first()
    halves = [fo.Detection(label="left", bounding_box=[0, 0, 0.5, 1]), fo.Detection(bounding_box=[0.5, 0, 0.5, 1])]
    sample.frames[3] = fo.Frame(
        things=fo.Detections(detections=halves), one=fo.Detection(label="all", bounding_box=[0, 0, 1, 1])
    )
    sample.frames[4] = fo.Frame(things=fo.Detections())
    sample.save()
    assert set(form(dataset)) >= {"detections"}
    operator()(dataset, maps_dir=str(tmp_path), detections=["things", "one"])
    frame = dataset.first().frames[3]
    left, right = frame.things.detections
    maps = [prediction.map for prediction in tinyhd.predict_video(videos[0], gray)]
    assert left.saliency == pytest.approx(maps[2][:, :128].sum() / maps[2].sum(), abs=1e-4)
    assert left.saliency + right.saliency == pytest.approx(1)
    assert left.label == "left"
    assert frame.one.saliency == pytest.approx(1)
    assert "things.detections.saliency" in dataset.get_frame_field_schema(flat=True)


def test_metadata_is_filled_without_ffprobe(
    make_dataset: Make, plugin: Modules, gray: GrayModel, tmp_path: Path
) -> None:
    dataset = make_dataset(makers.rotated(tmp_path).path)
    operator()(dataset, maps_dir=str(tmp_path / "maps"))
    found = dataset.first().metadata
    assert (found.frame_width, found.frame_height, found.frame_rate) == (makers.WIDTH, makers.HEIGHT, 25)
    assert found.total_frame_count == 24


def test_maps_lie_where_the_app_shows_their_frames(
    make_dataset: Make, plugin: Modules, gray: GrayModel, tmp_path: Path
) -> None:
    made = [makers.vfr(tmp_path).path, makers.late_video(tmp_path).path, makers.plain(tmp_path).path]
    # nothing at all before 0.4 s: players start at 0 there too
    made.append(makers.make_video(tmp_path / "from_400_ms.mp4", COUNT, pts=range(10, 10 + COUNT)))
    dataset = make_dataset(*made)
    assert operator()(dataset, maps_dir=str(tmp_path / "maps"))["completed"] == len(made)
    for sample in dataset:
        rate = sample.metadata.frame_rate
        with tinyhd.video.reader.open_video(sample.filepath) as reader:
            start = reader.info.start_time
            times = [float(start + frame.time) for frame in reader]
        shown = {number: read_map(frame.saliency) for number, frame in sample.frames.items()}
        assert sorted(shown) == list(range(1, len(shown) + 1))
        for number, index in shown.items():
            middle = (number - 0.5) / rate  # half of the time the App has this number, it shows this frame
            started = [k for k, time in enumerate(times) if time <= middle + 1e-6]
            assert index == (started[-1] if started else 0), (sample.filepath, number)
        assert sample.saliency_stats.frame_count == len(times)


def read_map(label: Any) -> int:
    """The number of the frame that a map of `GrayModel` shows."""
    with av.open(label.map_path) as image:
        return makers.read_barcode(next(image.decode(video=0)).to_ndarray(format="rgb24"))


def test_a_second_field_needs_no_network(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    operator()(dataset, maps_dir=str(tmp_path))
    clips = gray.clips
    operator()(dataset, field="video_scale", maps_dir=str(tmp_path), normalize="video")
    assert gray.clips == clips
    first, second = (dataset.values(f"{name}_stats.entropy_bits") for name in ("saliency", "video_scale"))
    assert second == pytest.approx(first, abs=1e-3)
    assert completed(dataset, "video_scale") == ["a", "b", "c"]
    # other options make another track
    operator()(dataset.limit(1), field="other", maps_dir=str(tmp_path), overlap=8)
    assert gray.clips > clips
    # so does another file
    clips = gray.clips
    sample = dataset.first()
    sample.filepath = str(makers.make_video(tmp_path / "new.mp4", COUNT, width=320, height=180, rate=Fraction(20)))
    sample.save()
    assert operator()(dataset.limit(1), field="again", maps_dir=str(tmp_path))["completed"] == 1
    assert gray.clips > clips


def test_brightness_by_video(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    operator()(dataset, maps_dir=str(tmp_path), normalize="video")
    maps = [prediction.map for prediction in tinyhd.predict_video(videos[0], gray)]
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    for number in (1, COUNT):
        with av.open(dataset.first().frames[number].saliency.map_path) as image:
            levels = next(image.decode(video=0)).to_ndarray()
        expected = visible((maps[number - 1] - low) / (high - low)).mean() * 255
        assert levels.mean() == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("params", [{"strid": 5}, {"normalise": "none"}, {"batchsize": 4}])
@pytest.mark.parametrize("name", ["compute_saliency", "annotate_videos"])
def test_unknown_parameters_are_errors(
    name: str, params: dict[str, Any], make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path]
) -> None:
    with pytest.raises(tinyhd.TinyHDError, match=f"no parameter '{next(iter(params))}'"):
        operator(name)(make_dataset(videos[0]), **params)


def test_every_option_reaches_the_model(
    make_dataset: Make, plugin: Modules, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def open_backend(options: Any) -> GrayModel:
        asked.append(options)
        return GrayModel()

    monkeypatch.setattr(tinyhd, "open_backend", open_backend)
    dataset = make_dataset(videos[0])
    given = {"device": "cpu", "backend": "torch", "precision": "float32", "batch_size": 4, "overlap": 6, "cuts": False}
    operator()(dataset, maps_dir=str(tmp_path), **given, sampling_rate=10)
    assert asked == [tinyhd.InferenceOptions(**given, sampling_rate=10)]
    shown = form(dataset, advanced=True)
    names = {field.name for field in dataclasses.fields(tinyhd.InferenceOptions)}
    assert names <= set(shown)
    assert not {"batch_size", "precision"} & set(form(dataset))
    from tinyhd.choices import choices

    offered = set(form(dataset, "render_saliency", advanced=True))
    for kind in (tinyhd.InferenceOptions, tinyhd.RenderOptions, tinyhd.EncoderOptions):
        for name, choice in choices(kind).items():
            assert (name in offered) != choice.runs_program  # programs are not started for whoever uses the App
    assert shown["batch_size"]["type"]["min"] == 1
    assert {"float16", "bfloat16"} <= set(shown["precision"]["type"]["values"])


# ---- runs


def test_in_the_app_it_goes_on_by_itself(
    make_dataset: Make, plugin: Modules, gray: GrayModel, talkative: None, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    ctx = context(dataset, maps_dir=str(tmp_path))
    assert operator().execute(ctx) == {}
    assert operator().resolve_output(context(dataset)) is None  # nothing that locks the App
    [request] = ctx.executor.to_json()["requests"]
    assert (request["operator_uri"], request["params"]["name"]) == ("open_panel", "saliency_overview")
    plugin("work").join()
    [entry] = plugin("work").list_work(dataset)
    assert (entry["state"], entry["label"], entry["fields"]) == ("ended", "3 videos done.", ["frames.saliency"])
    dataset.reload()
    assert completed(dataset) == ["a", "b", "c"]


def test_progress(
    make_dataset: Make, plugin: Modules, gray: GrayModel, talkative: None, videos: list[Path], tmp_path: Path
) -> None:
    found = list(operator().start(make_dataset(*videos), {"maps_dir": str(tmp_path)}, lambda: False))
    assert [p.fraction for p in found] == sorted(p.fraction for p in found)
    assert any("Video 2 of 3 (b.mp4): frame 5 of 20" in p.label and "frames/s" in p.label for p in found)


def test_a_waiting_caller_gets_a_result(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    import fiftyone.operators as foo

    dataset = make_dataset(*videos)
    params = {"maps_dir": str(tmp_path), "no_stream": True}
    result = foo.execute_operator(URI, {"view": dataset.limit(2)}, params=params).result
    assert (result["completed"], result["cancelled"]) == (2, False)
    assert completed(dataset) == ["a", "b"]


def test_delegated(
    make_dataset: Make, plugin: Modules, gray: GrayModel, talkative: None, videos: list[Path], tmp_path: Path
) -> None:
    from fiftyone.operators.delegated import DelegatedOperationService

    dataset = make_dataset(*videos)
    queued = operator()(dataset.limit(2), maps_dir=str(tmp_path), delegate=True)
    assert queued.delegated
    assert not dataset.has_frame_field("saliency")
    result = run_delegated()
    assert result.result["completed"] == 2
    assert result.outputs_schema is not None
    operation = DelegatedOperationService().get(queued.result["id"])
    assert operation.run_state == "completed"
    assert operation.status.progress > 0.9
    assert "Video 2 of 2" in operation.status.label
    assert completed(dataset) == ["a", "b"]


def test_delegated_run_stops_when_marked_failed(
    make_dataset: Make, plugin: Modules, gray: GrayModel, talkative: None, videos: list[Path], tmp_path: Path
) -> None:
    from bson import ObjectId
    from fiftyone.operators.delegated import DelegatedOperationService

    dataset = make_dataset(*videos)
    operation = ObjectId(str(operator()(dataset, maps_dir=str(tmp_path), delegate=True).result["id"]))

    def fail_in_second(clips: Any) -> Any:
        if gray.clips == 2:  # each video takes two
            DelegatedOperationService().set_failed(operation)
        return GrayModel.__call__(gray, clips)

    for name in dir(FakeBackend):
        if not name.startswith("_"):
            setattr(fail_in_second, name, getattr(FakeBackend, name))
    tinyhd.open_backend = lambda *_, **__: fail_in_second  # type: ignore[assignment] # `gray` restores it
    run_delegated()
    assert completed(dataset) == ["a"]
    assert plugin("runs").find_run(dataset, "saliency")["state"] == "cancelled"


@pytest.mark.parametrize("how", ["cancel_saliency", "closed"])
def test_cancel_leaves_whole_videos_and_resume_goes_on(
    how: str,
    make_dataset: Make,
    plugin: Modules,
    gray: GrayModel,
    talkative: None,
    videos: list[Path],
    tmp_path: Path,
) -> None:
    dataset = make_dataset(*videos)
    stream = operator().start(dataset, {"maps_dir": str(tmp_path)}, lambda: False)
    for progress in stream:
        if "Video 2 of 3" in progress.label:
            break
    if how == "closed":
        stream.close()
    else:
        assert operator("cancel_saliency")(dataset)["cancelled"]
        outcome = plugin("progress").finish(stream, lambda _: None)
        assert "Cancelled: 1 video done" in outcome.summary
    assert completed(dataset) == ["a"]
    assert len(maps_below(tmp_path)) == COUNT  # nothing of the second
    assert plugin("runs").find_run(dataset, "saliency")["state"] == "cancelled"
    assert not operator("cancel_saliency")(dataset)["cancelled"]
    before = dataset.first().saliency_stats.maps

    result = operator()(dataset, maps_dir=str(tmp_path))
    assert (result["completed"], result["skipped"]) == (2, 1)
    assert completed(dataset) == ["a", "b", "c"]
    assert dataset.first().saliency_stats.maps == before
    [record] = plugin("runs").list_runs(dataset)
    assert record["state"] == "completed"


def test_a_run_goes_on_with_its_settings(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos[:2])
    chosen = {"field": "thin", "stride": 4, "normalize": "none", "overlap": 8, "cuts": False}
    operator()(dataset.limit(1), maps_dir=str(tmp_path), **chosen)
    shown = form(dataset, field="thin", advanced=True)
    assert {name: shown[name]["default"] for name in chosen} == chosen
    assert "goes on with the run 'thin'" in shown["goes_on"]["view"]["label"]
    assert "problem" not in form(dataset, field="thin", stride=None)
    assert "other settings (stride)" in form(dataset, field="thin", stride=1)["problem"]["view"]["label"]
    assert "goes_on" not in form(dataset, field="other")
    result = operator()(dataset, field="thin", maps_dir=str(tmp_path))
    assert (result["completed"], result["skipped"]) == (1, 1)
    assert len(maps_below(tmp_path)) == 2 * COUNT / 4
    # one that has not ended is what the form offers
    list(operator().start(dataset, {"field": "begun", "maps_dir": str(tmp_path)}, lambda: True))
    assert form(dataset)["field"]["default"] == "begun"


def test_what_a_killed_run_left_is_swept(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos[:2])
    operator()(dataset, maps_dir=str(tmp_path))
    # as if it had been killed between the second video's frames and its numbers
    second = dataset.last()
    left = Path(second.saliency_stats.maps)
    second["saliency_stats"] = None
    second.save()
    (left.parent / ".tinyhd-half").mkdir()
    assert operator()(dataset, maps_dir=str(tmp_path))["completed"] == 1
    assert completed(dataset) == ["a", "b"]
    assert not left.exists()
    assert len(maps_below(tmp_path)) == 2 * COUNT
    assert not list(tmp_path.rglob(".tinyhd-*"))


def test_computing_again_takes_new_names_and_removes_the_old_maps(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    operator()(dataset, maps_dir=str(tmp_path))
    before = maps_below(tmp_path)
    operator()(dataset, maps_dir=str(tmp_path), skip_existing=False)
    after = maps_below(tmp_path)
    assert len(before) == len(after) == COUNT
    assert not set(before) & set(after)
    assert completed(dataset) == ["a"]


def test_bad_videos_are_counted_and_do_not_stop_the_run(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt.mp4"
    corrupt.write_bytes(videos[0].read_bytes()[:300] + bytes(5000))
    sound = makers.audio_only(tmp_path).rename(tmp_path / "sound.mp4")
    dataset = make_dataset(videos[0], corrupt, tmp_path / "missing.mp4", sound, videos[1])
    maps = tmp_path / "maps"
    result = operator()(dataset, maps_dir=str(maps))
    assert (result["completed"], result["failed"]) == (2, 3)
    assert "3 failed (see saliency_error)" in result["summary"]
    errors = dataset.values("saliency_error")
    assert [error is None for error in errors] == [True, False, False, False, True]
    assert "missing.mp4" in errors[2]
    assert not any("Traceback" in (error or "") for error in errors)
    assert len(maps_below(maps)) == 2 * COUNT
    # again: failures are tried again unless they are to be skipped
    again = operator()(dataset, maps_dir=str(maps))
    assert (again["completed"], again["skipped"], again["failed"]) == (0, 2, 3)
    again = operator()(dataset, maps_dir=str(maps), skip_failures=True)
    assert (again["skipped"], again["failed"]) == (5, 0)
    # a video that was mended loses its error
    corrupt.write_bytes(videos[0].read_bytes())
    operator()(dataset, maps_dir=str(maps))
    assert dataset.values("saliency_error")[1] is None


def test_a_run_without_results_does_not_keep_its_settings(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "missing.mp4", videos[0])
    assert operator()(dataset.limit(1), maps_dir=str(tmp_path), stride=3)["failed"] == 1
    assert operator()(dataset, maps_dir=str(tmp_path), stride=2)["completed"] == 1
    with pytest.raises(tinyhd.TinyHDError, match="stride"):
        operator()(dataset, maps_dir=str(tmp_path), stride=3)


def test_an_unexpected_error_of_one_video_is_recorded_too(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    dataset = make_dataset(*videos[:2])
    save = plugin("compute")._Video._save_frames
    calls: list[int] = []

    def fail_first(self: Any) -> None:
        calls.append(1)
        save(self)
        if len(calls) == 1:
            raise RuntimeError("broken")

    monkeypatch.setattr(plugin("compute")._Video, "_save_frames", fail_first)
    result = operator()(dataset, maps_dir=str(tmp_path))
    assert (result["completed"], result["failed"]) == (1, 1)
    assert dataset.values("saliency_error") == ["RuntimeError: broken", None]
    assert len(maps_below(tmp_path)) == COUNT
    operator()(dataset, maps_dir=str(tmp_path))
    assert completed(dataset) == ["a", "b"]


def test_an_error_that_ends_a_run_is_shown(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no space left")

    dataset = make_dataset(videos[0])
    with monkeypatch.context() as broken:
        broken.setattr(plugin("compute"), "wanted", fail)
        operator().execute(context(dataset, maps_dir=str(tmp_path)))
        plugin("work").join()
    [entry] = plugin("work").list_work(dataset)
    assert (entry["state"], entry["label"]) == ("failed", "RuntimeError: no space left")
    record = dataset.get_run_info("saliency").config.serialize()
    assert (record["status"], record["error"]) == ("failed", "RuntimeError: no space left")
    assert "no space left" in plugin("forms").describe_run(plugin("runs").list_runs(dataset)[0])
    # an error that is met before the run begins, of this and of the other operators
    for name, params in (("compute_saliency", {"stride": 0}), ("annotate_videos", {"name": "not a name"})):
        operator(name).execute(context(dataset, **params))
        plugin("work").join()
        assert plugin("work").list_work(dataset)[0]["state"] == "failed"


def test_one_run_at_a_time_in_a_field(
    make_dataset: Make, plugin: Modules, gray: GrayModel, talkative: None, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    with contextlib.closing(operator().start(dataset, {"maps_dir": str(tmp_path)}, lambda: False)) as stream:
        next(stream)
        with pytest.raises(tinyhd.TinyHDError, match="is at work"):
            operator()(dataset, maps_dir=str(tmp_path))
        with pytest.raises(tinyhd.TinyHDError, match="cancel it first"):
            operator("delete_saliency")(dataset)
        assert form(dataset, "cancel_saliency")["field"]["default"] == "saliency"
    assert "nothing" in form(dataset, "cancel_saliency")


def test_statistics_are_described_and_can_be_sorted_by(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos[:2])
    operator()(dataset, maps_dir=str(tmp_path))
    indexes = dataset.list_indexes()  # what “Sort by” offers
    for name in plugin("settings").STATISTICS:
        assert f"saliency_stats.{name}" in indexes
        assert dataset.get_field(f"saliency_stats.{name}").description
        assert dataset.get_field(f"frames.saliency.{name}").description
    assert dataset.sort_by("saliency_stats.focus").first().saliency_stats.focus > 5


def test_moments_follow_the_content_not_the_windows(
    fo: ModuleType, make_dataset: Make, plugin: Modules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Pulsing(GrayModel):
        """Maps that are a disc, more gathered in the middle of the video, and at the beginning of each window."""

        def __call__(self, clips: np.ndarray) -> np.ndarray:
            self.clips += len(clips)
            y, x = np.mgrid[-1:1:192j, -1:1:256j]
            middle = np.exp(-(((clips.mean((1, 3, 4)) * 0.25 + 0.45).clip(0, 1) - 0.5) ** 2) / 0.02)
            width = 0.5 - 0.3 * middle + 0.04 * (np.arange(16) / 16)
            return np.exp(-(x**2 + y**2) / width[..., None, None] ** 2).astype(np.float32) * 0.2

    monkeypatch.setattr(tinyhd, "open_backend", lambda *_, **__: Pulsing())
    count = 120
    path = makers.make_video(
        tmp_path / "fading.mp4", count, transform=lambda rgb, k: np.full_like(rgb, round(255 * k / count))
    )
    dataset = make_dataset(path)
    operator()(dataset, maps_dir=str(tmp_path / "maps"))
    sample = dataset.first()
    found = sample.saliency_moments.detections
    assert {label.label for label in found} <= {"key moment", "focused", "scattered"}
    peaks = [label for label in found if label.label == "key moment"]
    values = np.array([sample.frames[k].saliency.focus for k in range(1, count + 1)])
    assert len(peaks) == 1  # not one for each window
    assert peaks[0].support[0] - 2 <= values.argmax() + 1 <= peaks[0].support[1] + 2
    assert 0 < peaks[0].confidence <= 1
    for name in ("focus", "entropy_bits", "spread", "center_share"):
        values = np.array([sample.frames[k].saliency[name] for k in range(1, count + 1)])
        fast = values - np.convolve(np.pad(values, 12, mode="edge"), np.ones(25) / 25, "valid")
        fast = fast[24:96]
        phases = np.array([fast[k::12].mean() for k in range(12)])
        assert phases.var() <= 0.0005 * values.var(), name


def test_the_record_of_a_run(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    operator()(dataset, maps_dir=str(tmp_path), stride=2)
    assert dataset.list_runs() == ["saliency"]
    record = dataset.get_run_info("saliency").config.serialize()
    assert (record["model"], record["model_hash"]) == (gray.model_name, gray.model_hash)
    assert (record["overlap"], record["cuts"]) == (None, True)
    assert record["stride"] == 2
    assert record["normalize"] == "frame"
    assert "maximum" in record["maps"]
    assert record["versions"]["tinyhd"] == tinyhd.__version__
    assert record["versions"]["fiftyone"] == fo.__version__
    assert record["started"].startswith("20")
    assert (record["status"], record["completed"], record["failed"]) == ("completed", 3, 0)
    assert [Path(folder).parent for folder in record["folders"]] == [tmp_path]


# ---- forms


def test_form(make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path) -> None:
    dataset = make_dataset(*videos)
    shown = form(dataset)
    assert {"view_target", "field", "model", "device", "stride", "normalize", "maps_dir", "skip_existing"} <= set(shown)
    assert shown["field"]["default"] == "saliency"
    assert "published/d123m_rc4_rc1T" in json.dumps(shown["model"])
    assert str(videos[0].parent / "saliency") in shown["maps_dir"]["view"]["description"]
    assert "detections" not in shown
    assert "no_stream" not in shown


def test_form_estimates_time_and_disk(
    make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(*videos)
    label = form(dataset)["estimate"]["view"]["label"]
    assert label.startswith("3 videos, about 60 frames: ")
    assert label.endswith("kB of disk for the maps.")
    # the time by the last run, for the videos that are not done
    operator()(dataset.limit(1), maps_dir=str(tmp_path))
    label = form(dataset)["estimate"]["view"]["label"]
    assert label.startswith("2 videos (1 more done already), about 40 frames: about ")
    assert "seconds by the last run" in label


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"field": "filepath2"}, None),
        ({"field": "no good"}, "not a field name"),
        ({"field": "mine"}, "not of this plugin"),
        ({"field": "saliency", "stride": 3}, "other settings (stride)"),
        ({"model": "nonsense"}, "neither a name nor a readable file"),
    ],
)
def test_form_says_what_is_wrong(
    params: dict[str, Any],
    sentence: str | None,
    fo: ModuleType,
    make_dataset: Make,
    plugin: Modules,
    gray: GrayModel,
    videos: list[Path],
    tmp_path: Path,
) -> None:
    dataset = make_dataset(videos[0])
    dataset.add_frame_field("mine", fo.StringField)
    operator()(dataset, maps_dir=str(tmp_path))
    shown = form(dataset, **params)
    if sentence is None:
        assert "problem" not in shown
        return
    assert sentence in shown["problem"]["view"]["label"]
    assert any(prop.get("invalid") for prop in shown.values())
    if "model" in params:
        return  # a stub takes the model's place here
    with pytest.raises(tinyhd.TinyHDError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        operator()(dataset, maps_dir=str(tmp_path), **params)


def test_errors_in_the_app_name_no_flags(plugin: Modules) -> None:
    describe = plugin("progress").describe_error
    assert describe(tinyhd.TinyHDError("there is no GPU; use --device cpu.")) == "there is no GPU; use device cpu."


def test_only_whole_videos(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    sample = dataset.first()
    sample["events"] = fo.TemporalDetections(detections=[fo.TemporalDetection(label="x", support=[1, 4])])
    sample.save()
    with pytest.raises(tinyhd.TinyHDError, match="whole videos"):
        operator()(dataset.to_clips("events"), maps_dir=str(tmp_path))
    pictures = fo.Dataset()
    try:
        pictures.add_sample(fo.Sample(filepath=str(makers.still(tmp_path).path)))
        assert "type image, not videos" in form(pictures)["unusable"]["view"]["label"]
    finally:
        pictures.delete()


def test_a_slice_of_a_grouped_dataset(
    fo: ModuleType, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = fo.Dataset()
    try:
        dataset.add_group_field("group", default="front")
        for k in range(2):
            group = fo.Group()
            for name, path in (("front", videos[k]), ("back", videos[2])):
                dataset.add_sample(fo.Sample(filepath=str(path), group=group.element(name)))
        ctx = context(dataset, maps_dir=str(tmp_path))
        operator().execute(ctx)
        plugin("work").join()
        dataset.reload()
        assert completed(dataset.select_group_slices("front")) == ["a", "b"]
        assert dataset.select_group_slices("back").values("saliency_stats") == [None, None]
        operator("delete_saliency")(dataset)
        assert not dataset.has_frame_field("saliency")
    finally:
        dataset.delete()


# ---- deleting


def test_delete_removes_that_run_only(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    sample = dataset.first()
    box = fo.Detection(label="x", bounding_box=[0, 0, 1, 1], score=0.5)
    sample.frames[1] = fo.Frame(things=fo.Detections(detections=[box]))
    sample.save()
    dataset.add_dynamic_frame_fields()
    (tmp_path / "mine.txt").write_text("kept")
    for field in ("saliency", "other"):
        operator()(dataset, field=field, maps_dir=str(tmp_path), detections=["things"])
    assert "field" in form(dataset, "delete_saliency")
    folder = Path(dataset.get_run_info("saliency").config.folders[0])
    other_files = files_below(Path(dataset.get_run_info("other").config.folders[0]))

    result = operator("delete_saliency")(dataset, "saliency")
    assert "deleted" in result["summary"]
    assert not folder.exists()
    assert dataset.list_runs() == ["other"]
    assert files_below(tmp_path) == sorted([tmp_path / "mine.txt", *other_files])
    assert not {"saliency_stats", "saliency_moments", "saliency_error"} & set(dataset.get_field_schema())
    assert set(dataset.get_frame_field_schema()) >= {"things", "other"}
    assert "saliency" not in dataset.get_frame_field_schema()
    kept = dataset.first().frames[1].things.detections[0]
    assert (kept.score, kept.other) == (0.5, pytest.approx(1))
    assert not kept.has_field("saliency")
    assert completed(dataset, "other") == ["a"]
    with pytest.raises(tinyhd.TinyHDError, match="no saliency run"):
        operator("delete_saliency")(dataset, "saliency")
    # delegated, through the same code
    operator("delete_saliency")(dataset, "other", delegate=True)
    assert "deleted" in run_delegated().result["summary"]
    assert files_below(tmp_path) == [tmp_path / "mine.txt"]
    assert dataset.list_runs() == []


def test_deleting_leaves_the_dataset_as_it_was(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, tmp_path: Path
) -> None:
    paths = [makers.make_video(tmp_path / f"{name}.mp4", COUNT) for name in "ab"]
    dataset = make_dataset(*paths)
    sample = dataset.last()
    sample.frames[2] = fo.Frame(things=fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1])]))
    sample["metadata"] = fo.VideoMetadata(frame_rate=25, frame_width=320, duration=0.8)
    sample.save()

    def state() -> Any:
        return (
            dataset.to_dict(include_frames=True)["samples"],
            sorted(dataset.list_indexes()),
            dataset.app_config.to_dict(),
            list(dataset.get_field_schema()),
            list(dataset.get_frame_field_schema()),
            sorted(tmp_path.iterdir()),
        )

    def without_times(value: Any) -> Any:
        text = json.dumps(value[0], default=str, sort_keys=True)
        return re.sub(r'"last_modified_at": (\{[^}]*\}|"[^"]*")', "", text), *value[1:]

    before = without_times(state())
    operator()(dataset)
    assert without_times(state()) != before
    operator("delete_saliency")(dataset)
    assert without_times(state()) == before


def test_heat_maps_are_colored_by_value_and_ticked(
    fo: ModuleType, make_dataset: Make, plugin: Modules, gray: GrayModel, videos: list[Path], tmp_path: Path
) -> None:
    dataset = make_dataset(videos[0])
    dataset.app_config.color_scheme = fo.ColorScheme(color_pool=["#ff0000"], color_by="field")
    dataset.save()
    for field in ("saliency", "other"):
        operator()(dataset, field=field, maps_dir=str(tmp_path))
    dataset.reload()
    scheme, active = dataset.app_config.color_scheme, dataset.app_config.active_fields
    assert (scheme.color_by, scheme.color_pool) == ("field", ["#ff0000"])  # as the user wants it
    assert {"frames.saliency", "frames.other"} <= set(active.paths)
    operator("delete_saliency")(dataset)
    dataset.reload()
    scheme, active = dataset.app_config.color_scheme, dataset.app_config.active_fields
    assert scheme.color_pool == ["#ff0000"]
    assert "frames.saliency" not in active.paths
    # where nothing was chosen
    fresh = make_dataset(videos[1])
    for field in ("saliency", "other"):
        operator()(fresh, field=field, maps_dir=str(tmp_path))
    assert fresh.app_config.color_scheme.color_by == "value"
    operator("delete_saliency")(fresh)
    assert fresh.app_config.color_scheme.color_by == "value"
    operator("delete_saliency")(fresh, "other")
    assert (fresh.app_config.color_scheme, fresh.app_config.active_fields) == (None, None)


@pytest.fixture(autouse=True)
def _no_queue_left(fo: ModuleType) -> Iterator[None]:
    yield
    from fiftyone.operators.delegated import DelegatedOperationService

    service = DelegatedOperationService()
    for left in service.list_operations():
        service.delete_operation(left.id)
