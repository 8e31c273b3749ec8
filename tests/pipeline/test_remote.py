"""Inputs and outputs at addresses: a real S3 server and a web server, both on loopback, and fsspec's memory."""

import contextlib
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
from conftest import skip_or_fail
from fakes import GrayModel

from tinyhd.cli.main import main
from tinyhd.errors import InputError
from tinyhd.options import BatchOptions
from tinyhd.pipeline import addresses, fetched
from tinyhd.pipeline.addresses import Address, as_path
from tinyhd.pipeline.fetched import Cache
from tinyhd.pipeline.remote_manifest import RemoteManifest, fetch_manifests
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.png import encode_png

ROOT = Path(__file__).resolve().parents[2]
COUNT = 6


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """fsspec's file system of an S3 server on loopback; this process and those that it starts know its address."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "s3fs")):
        skip_or_fail('needs moto and s3fs: pip install -c constraints.txt -e ".[dev]"')
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield s3fs.S3FileSystem(use_listings_cache=False)
        _forget()
    server.stop()


def _forget() -> None:
    """fsspec keeps its connections, with the credentials of their time."""
    import fsspec

    addresses._open.cache_clear()
    for scheme in ("s3", "http"):
        with contextlib.suppress(ImportError):
            fsspec.get_filesystem_class(scheme).clear_instance_cache()


@pytest.fixture
def bucket(store: Any) -> Iterator[str]:
    """An empty bucket."""
    name = f"b{time.time_ns()}"
    store.mkdir(name)
    yield name
    store.rm(name, recursive=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, with temporary files of its own, and the stub for every model."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    return tmp_path


def clip(path: Path, count: int = 4, first: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    return makers.make_video(path, range(first, first + count), codec="mpeg4", width=96, height=64)


def manifest(address: str, folder: Path) -> list[dict[str, Any]]:
    """The lines at an address, in order of time."""
    here = folder / "manifests"
    here.mkdir(exist_ok=True)
    fetch_manifests(Address(address), here)
    return [json.loads(line) for file in sorted(here.iterdir()) for line in file.read_text().splitlines()]


def left(folder: Path) -> list[str]:
    """Fetched files, and outputs that were not uploaded."""
    return [
        str(path)
        for path in (folder / "tmp").rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
    ]


_CHILD = """
import sys, time
import tinyhd.inference.backends
from fakes import GrayModel
from tinyhd.cli.main import main

class Slow(GrayModel):
    def __call__(self, clips):
        time.sleep(1)
        return super().__call__(clips)

tinyhd.inference.backends.open_backend = lambda _: Slow()
sys.exit(main(sys.argv[1:]))
"""


def test_from_bucket_to_bucket_killed_and_resumed(
    store: Any, bucket: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(COUNT):
        store.put_file(str(clip(folder / "v.mp4", first=number)), f"{bucket}/in/sub/{number}.mp4")
        (folder / "v.mp4").unlink()
    store.pipe_file(f"{bucket}/in/bad.mp4", b"not a video")
    store.pipe_file(f"{bucket}/in/notes.txt", b"no video")
    command = ["annotate", f"s3://{bucket}/in/", "--recursive", "--output-dir", f"s3://{bucket}/out", "--exclude", "x*"]

    def outputs() -> dict[str, Any]:
        found = store.find(f"{bucket}/out", detail=True)
        return {name.rpartition("/")[2]: info["LastModified"] for name, info in found.items() if name.endswith(".mp4")}

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    child = subprocess.Popen([sys.executable, "-c", _CHILD, *command], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while len(outputs()) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    said = child.communicate()[1].decode()
    assert f"error: 's3://{bucket}/in/bad.mp4' is not a video" in said
    before = outputs()
    assert 2 <= len(before) < COUNT, said

    assert main(command) == 1
    assert "1 failed before (--retry-failed" in capsys.readouterr().err
    assert str(folder) not in said
    after = outputs()
    lines = manifest(f"s3://{bucket}/out", folder)
    done = [line["input"] for line in lines if line["status"] == "done"]
    seen = {line["input"] for line in lines}
    again = Counter(line["input"] for line in lines if line["status"] == "started")
    with capsys.disabled():
        print(
            f"outputs before the kill: {len(before)}, at the end: {len(after)} of {COUNT}; "
            f"losses: {COUNT - len(after)}; duplicates: {len(done) - len(set(done))}; "
            f"begun twice: {sum(n > 1 for n in again.values())}"
        )
    assert len(after) == COUNT
    assert len(seen) == COUNT + 1
    assert all(after[name] == time for name, time in before.items())  # none was done again
    assert len(done) == len(set(done))
    assert sum(count > 1 for count in again.values()) <= 1
    assert not [name for name in store.find(f"{bucket}/out") if "/.tinyhd" in name]

    assert main(command) == 1  # nothing is left to do, and what failed stays so
    assert outputs() == after
    assert f"{COUNT} annotated ({COUNT} before), 1 failed before" in capsys.readouterr().err
    content = store.cat_file(f"{bucket}/in/sub/0.mp4")
    store.pipe_file(f"{bucket}/in/sub/0.mp4", content.replace(b"Lavf", b"lavf"))  # another one of its size: done again
    assert main([*command, "--retry-failed"]) == 1
    assert {name for name, time in outputs().items() if after.get(name) != time} == {"0.saliency.mp4"}
    assert not left(folder)


def test_what_killed_runs_had_fetched_is_removed(folder: Path) -> None:
    place = Cache(BatchOptions()).folder
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    marks = {"0" * 16: f".use-{dead.pid}", "1" * 16: f".use-{os.getpid()}", "2" * 16: f".ahead-{os.getpid()}"}
    for name, mark in marks.items():
        (place / name).mkdir()
        (place / name / f"{mark}-abcdef").touch()
        (place / name / "a.mp4").touch()
    Cache(BatchOptions())
    assert {path.parent.name for path in place.rglob("a.mp4")} == {"1" * 16, "2" * 16}


def test_workers_and_statistics(store: Any, bucket: str, folder: Path) -> None:
    """With the embedded model, in processes of their own."""
    for name in "abc":
        store.put_file(str(clip(folder / f"{name}.mp4")), f"{bucket}/{name}.mp4")
    (folder / "list.txt").write_text("".join(f"s3://{bucket}/{name}.mp4\n" for name in ("a", "b", "c", "gone")))
    command = ["annotate", "--from-file", "list.txt", "--output-dir", f"s3://{bucket}/out", "--workers", "2"]
    assert main([*command, "--stats", f"s3://{bucket}/stats/"]) == 1
    assert sorted(store.find(f"{bucket}/stats")) == [f"{bucket}/stats/{name}.csv" for name in "abc"]
    lines = [line for line in manifest(f"s3://{bucket}/out", folder) if line["status"] != "started"]
    assert {Path(line["input"]).name: line["status"] for line in lines} == {
        **{f"{name}.mp4": "done" for name in "abc"},
        "gone.mp4": "failed",
    }
    for line in lines:
        assert all(store.info(name)["size"] == size > 0 for name, size in line["outputs"])
    assert not left(folder)


def test_every_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a store that knows no multipart uploads: nothing is there under a passing name."""
    import fsspec

    memory, uploaded, upload = fsspec.filesystem("memory"), [], fetched.upload
    monkeypatch.setattr(fetched, "upload", lambda *names: (uploaded.append(str(names[1])), upload(*names)))
    monkeypatch.setattr("tinyhd.pipeline.remote_manifest._MOST_BYTES", 1)
    clip(folder / "v" / "a.mp4", 30)
    (folder / "v" / "p.png").write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    for name in ("a.mp4", "p.png"):
        memory.put_file(str(folder / "v" / name), f"/every/in/{name}")
    out = "memory://every/out"
    for command in ("analyze", "annotate", "reframe", "moments", "encode"):
        inputs = ["memory://every/in/a.mp4"] if command in ("moments", "encode") else ["memory://every/in"]
        more = ["--format", "webp"] if command == "moments" else []
        assert main([command, *inputs, "--output-dir", out, *more]) == 0, capsys.readouterr().err
    assert (
        main(["reframe", "memory://every/in/a.mp4", "--track", f"{out}/a.track.npz", "-o", "memory://every/x.csv"]) == 0
    )
    assert main(["annotate", "memory://every/in", "--output-dir", "memory://every/other", "--dry-run"]) == 0
    assert "memory://every/in/p.png -> memory://every/other/p.saliency.png" in capsys.readouterr().out
    found = {name.removeprefix("/every/") for name in memory.find("/every") if "tinyhd-manifest" not in name}
    pictures = {name for name in found if "moment-" in name}
    of_stills = {"in/p.png", "out/p.track.npz", "out/p.saliency.png", "out/p.reframed.png"}
    endings = ("track.npz", "saliency.mp4", "reframed.mp4", "moments.json", "moments.webp", "encoded.mp4")
    assert found - pictures == {"in/a.mp4", "x.csv"} | of_stills | {f"out/a.{ending}" for ending in endings}
    assert pictures
    # the file that says that all are there comes last; a full manifest is followed by another
    assert [name.removeprefix(f"{out}/") for name in uploaded if "moment" in name][-1] == "a.moments.json"
    lines = [memory.cat_file(name).count(b"\n") for name in memory.find("/every/out") if "tinyhd-manifest" in name]
    assert lines == [1] * 16
    with RemoteManifest(Address(out), ""):
        assert main(["annotate", "memory://every/in", "--output-dir", out]) == 1
    assert f"another run is at work in '{out}': wait for its end, or choose another folder." in capsys.readouterr().err
    assert main(["annotate", "memory://every/in/a.mp4", "-o", f"{out}/a.saliency.mp4"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["batch-report", out, "-o", "report.html"]) == 0
    assert "8 done" in capsys.readouterr().err
    assert not left(folder)


@contextlib.contextmanager
def web(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A web server on loopback; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_from_the_web(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "web").mkdir()
    for name in "ab":
        clip(folder / "web" / "v" / f"{name}.mp4")
    with web(functools.partial(Quiet, directory=str(folder / "web"))) as address:
        assert main(["analyze", f"{address}/v/", "--output-dir", "out"]) == 0
        assert main(["analyze", f"{address}/v/a.mp4?signature=1/2", "-o", "one.track.npz"]) == 0
        assert main(["analyze", f"{address}/v/", "--output-dir", "out"]) == 0
        assert "2 analyzed (2 before)" in capsys.readouterr().err
        assert main(["analyze", f"{address}/v/none.mp4", "--output-dir", "out"]) == 1
        assert f"error: '{address}/v/none.mp4' cannot be read: there is no such file" in capsys.readouterr().err
    assert sorted(path.name for path in (folder / "out").glob("*.npz")) == ["a.track.npz", "b.track.npz"]
    with SaliencyTrack(folder / "one.track.npz") as track:
        assert track.info.source.name == "a.mp4"


class Broken(Quiet):
    """Promises more than it sends."""

    sent = 100000

    def do_HEAD(self, size: int = 100000) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD(self.sent)
        self.wfile.write(b"x" * 70000)
        self.close_connection = True


class Shrunk(Broken):
    """As if the file had become shorter meanwhile."""

    sent = 70000


@pytest.mark.parametrize("server", [Broken, Shrunk])
def test_a_connection_that_breaks(
    folder: Path, capsys: pytest.CaptureFixture[str], server: Callable[..., BaseHTTPRequestHandler]
) -> None:
    clip(folder / "good.mp4")
    with web(server) as address:
        assert main(["analyze", f"{address}/a.mp4", "good.mp4", "--output-dir", "out"]) == 1
    said = capsys.readouterr().err
    print(said)
    sentence = "was cut off: 70000 of 100000 bytes came." if server is Shrunk else "cannot be fetched: "
    assert f"error: '{address}/a.mp4' {sentence}" in said
    assert "1 analyzed, 1 failed" in said
    assert not left(folder)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (
            ["s3://no-such-bucket/a.mp4"],
            1,
            "'s3://no-such-bucket/a.mp4' cannot be read: there is no such file",
        ),
        (
            ["s3://no-such-bucket/"],
            1,
            "there is no such folder or bucket at 's3://no-such-bucket/'.",
        ),
        (["http://127.0.0.1:9/a.mp4"], 1, "'http://127.0.0.1:9/a.mp4' cannot be read: "),
        (["nowhere://x/a.mp4"], 2, "'nowhere://x/a.mp4' is not an address that can be used: "),
        (["v/a.mp4", "--output-dir", "https://127.0.0.1/out"], 2, "nothing can be written to 'https://127.0.0.1/out'"),
        (["v/a.mp4", "--output-dir", "s3://no-such-bucket/out"], 1, "no-such-bucket/out"),
        (["s3://b/a.mp4", "--segment-minutes", "1"], 2, "--segment-minutes is for inputs and outputs in folders"),
        (["v/a.mp4", "--output-dir", "s3://b/out", "--lease"], 2, "use --shard instead"),
    ],
)
def test_sentences(
    store: Any, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, sentence: str
) -> None:
    clip(folder / "v" / "a.mp4")
    others = [] if "--output-dir" in arguments else ["--output-dir", "out"]
    assert main(["analyze", *arguments, *others]) == status
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    print(said)
    assert len(said) == 1
    assert sentence in said[0]
    assert said[0].endswith(".")


def test_without_where_the_output_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "s3://b/a.mp4"]) == 2
    assert "'s3://b/a.mp4' is at an address: say where its output goes, with --output-dir." in capsys.readouterr().err


def test_without_credentials_and_without_packages(
    store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", "nowhere")
    _forget()
    try:
        assert main(["analyze", f"s3://{bucket}/a.mp4", "--output-dir", "out"]) == 1
        assert (
            f"error: 's3://{bucket}/a.mp4' cannot be read: no credentials were found; give" in capsys.readouterr().err
        )
    finally:
        _forget()
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert main(["analyze", f"s3://{bucket}/a.mp4", "--output-dir", "out"]) == 2
    said = capsys.readouterr().err
    assert f"'s3://{bucket}/a.mp4' needs a package that is not installed (" in said
    assert ": pip install 'tinyhd[cloud]'." in said


def test_the_cache_is_bounded_and_filled_ahead(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for two of five files: the next one comes while one is worked on, and no more than two are ever there."""
    import fsspec

    memory = fsspec.filesystem("memory")
    content = clip(folder / "v.mp4", 40).read_bytes()
    for number in range(5):
        memory.pipe_file(f"/bounded/{number}.mp4", content)
    memory.pipe_file("/bounded/large.mp4", content * 4)
    most, events = 0, []
    download, work = addresses.download, GrayModel.__call__

    def watched(address: Any, target: Path, *more: Any) -> None:
        nonlocal most
        events.append(f"fetch {address.name}")
        download(address, target, *more)
        there = sum(path.stat().st_size for path in (folder / "tmp").rglob("*.mp4")) + target.stat().st_size
        most = max(most, there)

    def slow(self: GrayModel, clips: np.ndarray) -> np.ndarray:
        time.sleep(0.3)
        events.append("work")
        return work(self, clips)

    monkeypatch.setattr(fetched, "download", watched)
    monkeypatch.setattr(GrayModel, "__call__", slow)
    limit = 2.5 * len(content) / 1e9
    command = ["analyze", "memory://bounded/", "--output-dir", "out", "--cache-size", f"{limit:.9f}"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "5 analyzed, 1 failed" in said
    assert f"large.mp4' has {4 * len(content) / 1e9:.3g} GB, more than --cache-size" in said
    fetches = [event for event in events if event != "work"]
    print(f"at most {most} bytes of {2.5 * len(content):.0f}; {events}")
    assert len(content) * 2 <= most <= 2.5 * len(content)
    assert sorted(fetches) == [f"fetch {number}.mp4" for number in range(5)]  # each once
    assert events.index("fetch 1.mp4") < events.index("work")
    assert not left(folder)


def test_a_cache_that_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.filesystem("memory").put_file(str(clip(folder / "v.mp4")), "/kept/a.mp4")
    options = BatchOptions(cache_dir=str(folder / "cache"))
    for _ in range(2):
        with Cache(options).copy(Address("memory://kept/a.mp4")) as copy:
            assert copy.read_bytes() == (folder / "v.mp4").read_bytes()
        monkeypatch.setattr(fetched, "download", None)  # it is there
    assert copy.exists()
    # what a dead process was fetching goes, and what it used is free
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (copy.parent / f".use-{dead.pid}-0").touch()
    assert not fetched._marks(copy.parent, ".use")

    # what is in use stays, what is not makes room
    monkeypatch.setattr(fetched, "download", addresses.download)
    fsspec.filesystem("memory").put_file(str(folder / "v.mp4"), "/kept/b.mp4")
    small = Cache(BatchOptions(cache_dir=str(folder / "cache"), cache_size=1.5e-9 * copy.stat().st_size))
    with (
        small.copy(Address("memory://kept/a.mp4")),
        pytest.raises(InputError, match="there is no room for it"),
        small.copy(Address("memory://kept/b.mp4"), wait=False),
    ):
        pass
    assert copy.exists()
    with small.copy(Address("memory://kept/b.mp4"), wait=False):
        assert not copy.exists()


def test_what_tells_a_still_image_is_fetched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To learn what its output is called, and to work on it."""
    import fsspec

    fsspec.filesystem("memory").pipe_file("/still/a.png", encode_png(np.zeros((64, 96, 3), np.uint8)))
    fetches, download = [], addresses.download
    monkeypatch.setattr(fetched, "download", lambda *facts: (fetches.append(facts[0]), download(*facts)))
    assert main(["annotate", "memory://still/a.png", "--output-dir", "out", "--cache-dir", "kept"]) == 0
    assert (folder / "out" / "a.saliency.png").exists()
    assert len(fetches) == 1


def test_addresses_go_where_paths_go() -> None:
    import pickle

    address = as_path("s3://b//x/./clip.mp4")
    assert isinstance(address, Address)
    assert str(address) == os.fspath(address) == "s3://b//x/./clip.mp4"
    assert (address.name, address.stem, address.suffix) == ("clip.mp4", "clip", ".mp4")
    assert str(address.parent / "y.mp4") == "s3://b//x/./y.mp4"
    assert pickle.loads(pickle.dumps(address)) == address == address.absolute()
    assert as_path("https://h/x.mp4?a=b/c.d").name == "x.mp4"
    assert not isinstance(as_path("C:/x.mp4"), Address)
