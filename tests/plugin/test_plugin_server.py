"""The FiftyOne plugin as the App's server runs it: there each loading of a dataset makes an object of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import makers
import pytest
from plugin_database import environ

pytest_plugins = ["plugin_database"]

COUNT = 20

SERVER = """
import json, sys
import fiftyone as fo, fiftyone.operators as foo
from fiftyone.operators.executor import Executor
import tinyhd
from fakes import GrayModel

assert not fo.config.singleton_cache
tinyhd.open_backend = lambda *_, **__: GrayModel()
name, request = sys.argv[1], json.loads(sys.argv[2])
operator = foo.get_operator("@tinyhd/saliency/" + name)
ctx = foo.ExecutionContext(request, executor=Executor(), operator_uri=operator.uri)
operator.execute(ctx)
work = sys.modules[operator.__module__.rpartition(".")[0] + ".work"]
work.join()
print(json.dumps(work.list_work(fo.load_dataset(request["dataset_name"]))))
"""


@pytest.fixture
def serve(fiftyone_environment: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    """Runs an operator on a view in a process with the server's settings; gives what the App would receive."""

    def serve(name: str, view: Any, **params: Any) -> list[dict[str, Any]]:
        request = {
            "dataset_name": view.dataset_name,
            "view": view.view()._serialize(),
            "params": params,
            "active_fields": ["filepath"],
        }
        env = environ(fiftyone_environment | {"FIFTYONE_SINGLETON_CACHE": "false"})
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", SERVER, name, json.dumps(request)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return serve


@pytest.fixture
def dataset(make_dataset: Callable[..., Any], tmp_path: Path) -> Any:
    """Three videos that nothing was done with yet."""
    return make_dataset(*(makers.make_video(tmp_path / f"{name}.mp4", COUNT) for name in "abc"))


def notice(work: list[dict[str, Any]]) -> str:
    """What the panel tells of the latest work."""
    return work[0]["label"]


def test_compute_resume_and_delete_on_a_selection(fo: ModuleType, dataset: Any, serve: Any) -> None:
    selection = dataset.select(dataset.values("id")[1:])
    assert notice(serve("compute_saliency", selection.limit(1))) == "1 video done."
    dataset.reload()
    assert dataset.values("saliency_stats.frame_count") == [None, COUNT, None]
    assert notice(serve("compute_saliency", selection)) == "1 video done, 1 skipped."
    dataset.reload()
    assert dataset.get_run_info("saliency").config.serialize()["status"] == "completed"
    serve("delete_saliency", selection, field="saliency")
    dataset.reload()
    assert not dataset.has_field("saliency_stats")
    assert dataset.list_runs() == []


def test_annotate_on_a_selection(dataset: Any, serve: Any) -> None:
    assert notice(serve("annotate_videos", dataset.limit(2))) == "2 videos done."
    dataset.reload()
    assert [path is None for path in dataset.values("annotated_path")] == [False, False, True]


def test_moments_on_a_selection(dataset: Any, serve: Any) -> None:
    assert notice(serve("moments", dataset.limit(2))) == "2 videos done."
    dataset.reload()
    assert [labels is None for labels in dataset.values("moments")] == [False, False, True]


def test_reencode_on_a_selection(dataset: Any, serve: Any, tmp_path: Path) -> None:
    sample = dataset.last()
    sample.filepath = str(makers.foreign_audio(tmp_path).path)
    sample.save()
    assert notice(serve("reencode_videos", dataset.skip(1))) == "1 video done, 1 skipped."
    dataset.reload()
    assert [path is None for path in dataset.values("original_filepath")] == [True, True, False]
