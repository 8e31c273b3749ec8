"""Jobs on a real Ray cluster: several nodes on 127.0.0.1, one of which is lost."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fakes
import makers
import numpy as np
import pytest
from commands import ENVIRONMENT, ROOT
from commands import manifest_lines as lines
from makers import clip

from tinyhd.cli.main import annotate_main, main
from tinyhd.options import BatchOptions, InferenceOptions
from tinyhd.pipeline.analyze import analyze
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.manifest import TODO, Plan
from tinyhd.pipeline.workers import run_jobs
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.reader import probe

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray", allow_module_level=True)

STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two nodes of one processor each."""
    before = os.environ.copy()
    os.environ |= {
        "PYTHONPATH": ENVIRONMENT["PYTHONPATH"],  # for the nodes' processes
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # a loaded machine must not make a node look dead, nor hide one that is
        "RAY_health_check_timeout_ms": "60000",
    }
    import ray  # reads the environment
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    ray_constants.ENABLE_RAY_CLUSTER = False  # in case it was imported before
    folder = tempfile.mkdtemp(prefix="thd-")  # sockets lie there: a short name
    common = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **common})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **common)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("v/", "'v/' is not the address of a Ray cluster: give host:port, auto, or none after --ray"),
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        ("ray://nowhere.invalid:10001", "no Ray cluster answers at 'ray://nowhere.invalid:10001'"),
    ],
)
def test_wrong_addresses(address: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(tmp_path / "a.mp4")
    assert main(["analyze", str(tmp_path / "a.mp4"), "--ray", address]) == 2
    assert error in capsys.readouterr().err


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    clip(tmp_path / "a.mp4")
    assert main(["analyze", str(tmp_path / "a.mp4"), "--ray"]) == 2
    assert "--ray needs Ray, which is not installed: pip install 'tinyhd[ray]'" in capsys.readouterr().err


def test_stopped_it_leaves_nothing(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record"
    monkeypatch.setattr("tinyhd.pipeline.cluster.attempt", fakes.RecordedAttempt(record, seconds=2))
    plans = [Plan(TODO, Job(clip(tmp_path / f"{k}.mp4", 40 if k else 6))) for k in range(4)]
    with contextlib.closing(run_jobs(plans, InferenceOptions(), BatchOptions(ray=cluster.address))) as outcomes:
        outcome = next(outcomes)
    assert outcome.error is None
    assert {path.name for path in tmp_path.iterdir()} == {"record", "0.saliency.mp4", *(f"{k}.mp4" for k in range(4))}


def test_a_timeout(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyhd.pipeline.cluster.attempt", fakes.RecordedAttempt(tmp_path / "record"))
    plans = [Plan(TODO, Job(clip(tmp_path / "a.mp4", 6)))]
    (outcome,) = run_jobs(plans, InferenceOptions(), BatchOptions(ray=cluster.address, timeout=0.2))
    assert outcome.error is not None
    assert outcome.error.endswith("a.mp4': it took longer than --timeout 0.2 s.")


def test_the_example_of_ray_data(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's, in its folder, with the embedded model."""
    import ray

    (code,) = re.findall(r"```python\n(import ray\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "a.mp4", 6)
    (tmp_path / "b.mp4").write_text("not a video")
    for name in ("a", "b"):  # the nodes' processes have working folders of their own
        code = code.replace(f'"{name}.', f'"{tmp_path}/{name}.')
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        exec(code, {})
    finally:
        ray.shutdown()
    said = capsys.readouterr().out
    assert f"{tmp_path}/a.track.npz 6 \n" in said
    assert "b.mp4' is not a video" in said
    assert (tmp_path / "a.track.npz").exists()


def test_a_long_video_in_segments(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its segments are computed on both nodes, and their tracks join to the very one of an unsplit run."""
    record = tmp_path / "record"
    monkeypatch.setattr("tinyhd.pipeline.cluster.attempt", fakes.RecordedAttempt(record, seconds=0.1))
    video = makers.make_video(tmp_path / "a.mp4", range(375), codec="mpeg4", width=96, height=64)
    out = tmp_path / "out" / "a.track.npz"
    out.parent.mkdir()
    plans = [Plan(TODO, Job(video, out, "analyze"))]
    options = BatchOptions(ray=cluster.address, segment_minutes=2.5 / 60)
    (outcome,) = run_jobs(plans, InferenceOptions(), options)
    assert outcome.error is None, outcome.error
    assert outcome.result is not None
    assert [path.name for path in out.parent.iterdir()] == [out.name]

    tasks = Counter((kind, task) for kind, _, _, _, task in fakes.recorded(record))
    nodes = {node for _, _, node, _, task in fakes.recorded(record) if task == "Segment"}
    with SaliencyTrack(out) as track, analyze(video, backend=fakes.GrayModel()) as unsplit:
        assert track.info == unsplit.info
        assert track.times.tolist() == unsplit.times.tolist()
        assert track.cuts.tolist() == unsplit.cuts.tolist()
        apart = max(float(np.abs(track.sample(k) - unsplit.sample(k)).max()) for k in range(len(track)))
        apart /= unsplit.info.value_range[1]
        print(f"{tasks['end', 'Segment']} segments on {len(nodes)} nodes, {len(track)} samples: they differ by {apart}")
    assert outcome.result.frames == 375
    assert tasks["start", "Segment"] == tasks["end", "Segment"] >= 4
    assert tasks["end", "Scan"] >= 4
    assert tasks["end", "Join"] == 1
    assert len(nodes) == 2
    assert apart <= 1e-3


def test_inputs_and_outputs_at_addresses(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes fetch what they work on, and put their outputs where they belong."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    for k in range(3):
        clip(tmp_path / "web" / f"{k}.mp4", first=k)
    monkeypatch.setattr("tinyhd.pipeline.cluster.attempt", fakes.RecordedAttempt(tmp_path / "record"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "web")))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        names = [f"http://127.0.0.1:{server.server_port}/{k}.mp4" for k in range(4)]
        command = ["analyze", *names, "--output-dir", f"file://{tmp_path}/out", "--cache-dir", str(tmp_path / "cache")]
        assert main([*command, "--ray", cluster.address]) == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (path,) = (tmp_path / "out").glob("tinyhd-manifest-*.jsonl")
    ended = [line for line in map(json.loads, path.read_text().splitlines()) if line["status"] != "started"]
    assert sorted((Path(line["input"]).name, line["status"]) for line in ended) == [
        *((f"{k}.mp4", "done") for k in range(3)),
        ("3.mp4", "failed"),
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name, *(f"{k}.track.npz" for k in range(3))}
    assert {path.name for path in (tmp_path / "cache").rglob("*.mp4")} == {f"{k}.mp4" for k in range(3)}


def test_a_node_is_lost(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every output is there, whole and made once; at most the job of the lost worker was done again."""
    count = 10
    for k in range(count):
        clip(tmp_path / "v" / f"{k:02d}.mp4", 6, first=k)
    record = tmp_path / "record"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYHD_TEST_RECORD", str(record))
    monkeypatch.setattr("tinyhd.pipeline.cluster.attempt", fakes.RecordedAttempt(record))

    lost: list[str] = []

    def lose_one_that_works() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            events = fakes.recorded(record)
            ended = {job for kind, job, *_ in events if kind == "end"}
            busy = [node for kind, job, node, *_ in events if kind == "start" and job not in ended]
            victims = [node for node in cluster.worker_nodes if node.node_id in busy]
            if len(ended) >= 2 and victims:
                lost.append(victims[0].node_id)
                cluster.remove_node(victims[0], allow_graceful=False)
                return
            time.sleep(0.02)

    thread = Thread(target=lose_one_that_works)
    thread.start()
    status = annotate_main(["v", "--output-dir", "out", "--ray", cluster.address])
    thread.join()
    assert status == 0

    outputs = sorted((tmp_path / "out").glob("*.saliency.mp4"))
    whole = [path for path in outputs if probe(path).frame_count == 6]
    done = [line["input"] for line in lines(tmp_path / "out") if line["status"] == "done"]
    events = fakes.recorded(record)
    starts = Counter(job for kind, job, *_ in events if kind == "start")
    again = sum(starts.values()) - count
    models = len({process for kind, _, _, process, _ in events if kind == "start"})
    print(
        f"nodes lost: {len(lost)}; outputs whole: {len(whole)} of {count}; duplicates: {len(done) - len(set(done))}; "
        f"losses: {count - len(set(done))}; jobs done again: {again}; processes: {models}"
    )
    assert len(lost) == 1
    assert len(whole) == count
    assert len(done) == len(set(done)) == count
    assert again <= 1
    assert models <= 3  # one for each node keeps the model, and at most one more
    assert not list((tmp_path / "out").glob(".tinyhd-*.mp4"))
    assert not sys.modules["ray"].is_initialized()
