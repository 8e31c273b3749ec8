"""What goes wrong around a batch: disks, inputs that change, memory, devices, processes, pipes.

Each test prints its counts. After every fault the same command, run again, must complete the work.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import makers
import numpy as np
import pytest
from commands import ENVIRONMENT, ROOT, stub_command
from fakes import GrayModel
from makers import clip

from tinyhd.cli.main import annotate_main
from tinyhd.inference.torch_backend import DeviceError
from tinyhd.options import BatchOptions
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.manifest import MANIFEST_NAME, read_manifest
from tinyhd.pipeline.schedule import attempt
from tinyhd.video.png import encode_png
from tinyhd.video.reader import read_frames

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, signals and limits of Linux")

COUNT = 6


class Faulty(GrayModel):
    """The stub, which does something at each clip."""

    do: Callable[[int], None] = staticmethod(lambda number: None)

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        Faulty.do(self.clips)
        return super().__call__(clips)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with videos in `v`, and the stub for every model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Faulty, "do", staticmethod(lambda number: None))
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: Faulty())
    for number in range(COUNT):
        clip(tmp_path / "v" / f"{number}.mp4", 4, first=number)
    return tmp_path


@contextlib.contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A disk of its own at `path`; what is given changes it: "size=1m", "ro"."""
    path.mkdir()

    def mount(options: str) -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")

    mount(f"size={kilobytes}k")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def statuses(out: Path) -> dict[str, str]:
    return {Path(values["input"]).name: entry.status for values, entry, _ in read_manifest(out / MANIFEST_NAME)}


def whole(out: Path, count: int = 4) -> int:
    """How many outputs are there; each must be whole, and nothing else be there."""
    found = [path for path in out.iterdir() if MANIFEST_NAME not in path.name]
    for path in found:
        assert path.name.endswith(".saliency.mp4")
        assert sum(1 for _ in read_frames(path)) == count
    return len(found)


def one_sentence_each(said: str) -> int:
    """How many errors were said; each must be one line, and no traceback."""
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert all(line.endswith(".") for line in errors)
    return len(errors)


# ---- disks


@pytest.mark.parametrize("kilobytes", [12, 20, 28])
def test_a_full_disk(folder: Path, capsys: pytest.CaptureFixture[str], kilobytes: int) -> None:
    """It fills up while an output, or the manifest, is written; with more room the same command goes on."""
    out = folder / "out"
    with small_disk(out, kilobytes) as change:
        assert annotate_main(["v", "--output-dir", "out"]) == 1
        errors, before = one_sentence_each(capsys.readouterr().err), whole(out)
        assert before < COUNT
        assert errors >= 1
        change("size=4m")
        assert annotate_main(["v", "--output-dir", "out", "--retry-failed"]) == 0
        assert set(statuses(out).values()) == {"done"}
        print(f"disk of {kilobytes} kB: {before} outputs, {errors} errors; with more room {whole(out)} of {COUNT}")
        assert whole(out) == COUNT


def test_no_room_for_the_first_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    with small_disk(out, 64):
        with contextlib.suppress(OSError), (out / "filler").open("wb") as file:
            file.write(bytes(2**17))
        with contextlib.suppress(OSError), (out / "filler2").open("wb", buffering=0) as file:
            while file.write(bytes(1)):
                pass
        assert annotate_main(["v", "--output-dir", "out"]) == 1
        assert "cannot be written: No space left on device." in (said := capsys.readouterr().err)
        assert one_sentence_each(said) == 1
        assert not list(out.glob("*.mp4"))


def test_a_full_disk_for_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model computes without its cache."""
    with small_disk(folder / "cache", 16):
        with contextlib.suppress(OSError), (folder / "cache" / "filler").open("wb") as file:
            file.write(bytes(2**15))
        environment = ENVIRONMENT | {"TINYHD_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "tinyhd", "analyze", "v/0.mp4", "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert one_sentence_each(done.stderr) == 0
    assert (folder / "v" / "0.track.npz").exists()


def test_a_read_only_disk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    with small_disk(out, 4096) as change:
        assert annotate_main(["v/0.mp4", "v/1.mp4", "--output-dir", "out"]) == 0
        change("ro")
        capsys.readouterr()
        assert annotate_main(["v", "--output-dir", "out"]) == 1
        assert "cannot be written: Read-only file system." in (said := capsys.readouterr().err)
        assert one_sentence_each(said) == 1
        change("rw")
        assert annotate_main(["v", "--output-dir", "out"]) == 0
        assert whole(out) == COUNT


def test_a_folder_that_vanishes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    Faulty.do = staticmethod(lambda number: shutil.rmtree(out) if number == 2 else None)
    assert annotate_main(["v", "--output-dir", "out"]) == 1
    errors = one_sentence_each(capsys.readouterr().err)
    Faulty.do = staticmethod(lambda number: None)
    assert annotate_main(["v", "--output-dir", "out"]) == 0
    print(f"folder vanished: {errors} errors; run again {whole(out)} of {COUNT}")
    assert errors >= 1
    assert whole(out) == COUNT


# ---- inputs that change while they are read


def replace(path: Path) -> None:
    clip(path, 9, first=30)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [replace, truncate, Path.unlink, lambda path: os.truncate(path, 0)])
def test_an_input_that_changes_meanwhile(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    """What became of it does not matter, as long as it is told or done again, and the others are done."""
    changed = folder / "v" / "2.mp4"
    Faulty.do = staticmethod(lambda number: change(changed) if number == 2 else None)
    assert annotate_main(["v", "--output-dir", "out"]) in (0, 1, 3)
    one_sentence_each(capsys.readouterr().err)
    found = statuses(folder / "out")
    assert [found[f"{k}.mp4"] for k in range(COUNT) if k != 2] == ["done"] * (COUNT - 1)

    Faulty.do = staticmethod(lambda number: None)
    clip(changed, 4, first=60)
    assert annotate_main(["v", "--output-dir", "out"]) == 0
    numbers = [makers.read_barcode(f.to_rgb()) for f in read_frames(folder / "out" / "2.saliency.mp4")]
    assert numbers == [60, 61, 62, 63]
    assert whole(folder / "out") == COUNT


def test_an_input_that_was_replaced_while_it_was_read_is_done_again(folder: Path) -> None:
    """Although its file is now as it was when the work on it ended."""
    Faulty.do = staticmethod(lambda number: replace(folder / "v" / "2.mp4") if number == 2 else None)
    assert annotate_main(["v", "--output-dir", "out"]) in (0, 1, 3)
    Faulty.do = staticmethod(lambda number: None)
    assert annotate_main(["v", "--output-dir", "out"]) == 0
    numbers = [makers.read_barcode(f.to_rgb()) for f in read_frames(folder / "out" / "2.saliency.mp4")]
    assert numbers == list(range(30, 39))


# ---- memory and devices


_CUDA = "device cuda has failed (CUDA error: an illegal memory access was encountered); use --device cpu."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "'v/2.mp4': out of memory."),
        (RuntimeError("can't start new thread"), "'v/2.mp4': out of memory."),
        (DeviceError(_CUDA), _CUDA),
    ],
)
def test_a_model_that_fails(folder: Path, capsys: pytest.CaptureFixture[str], error: Exception, sentence: str) -> None:
    def fail(number: int) -> None:
        if number == 2:
            Faulty.do = staticmethod(lambda number: None)
            raise error

    Faulty.do = staticmethod(fail)
    assert annotate_main(["v", "--output-dir", "out"]) == 1
    said = capsys.readouterr().err
    assert f"error: {sentence}" in said
    assert one_sentence_each(said) == 1
    assert whole(folder / "out") == COUNT - 1
    assert annotate_main(["v", "--output-dir", "out", "--retry-failed"]) == 0
    assert whole(folder / "out") == COUNT


def test_a_bug(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told with the way there, in whatever process it was met, and the others are done."""

    def fail(number: int) -> None:
        if number == 2:
            Faulty.do = staticmethod(lambda number: None)
            raise ZeroDivisionError

    Faulty.do = staticmethod(fail)
    assert annotate_main(["v", "--output-dir", "out"]) == 1
    said = capsys.readouterr().err
    assert "error: v/2.mp4 failed in an unexpected way, which is a bug in tinyhd; please report it." in said
    assert "in fail\n    raise ZeroDivisionError" in said
    assert whole(folder / "out") == COUNT - 1
    Faulty.do = staticmethod(lambda number: 1 // 0)
    assert "ZeroDivisionError" in attempt(Job(folder / "v" / "0.mp4"), BatchOptions(), Faulty(), None)["traceback"]


@pytest.mark.parametrize(("megabytes", "workers"), [(200, "1"), (400, "1"), (400, "2"), (900, "1")])
def test_a_limit_on_memory(folder: Path, megabytes: int, workers: str) -> None:
    """Too little for the embedded model, or hardly enough."""
    limit = megabytes * 2**20
    done = subprocess.run(
        [sys.executable, "-m", "tinyhd", "annotate", "v/0.mp4", "--workers", workers],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"{megabytes} MB: exit status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode in (0, 1)
    assert "a bug in tinyhd" not in done.stderr
    output = folder / "v" / "0.saliency.mp4"
    assert output.exists() == (done.returncode == 0)
    if output.exists():
        assert sum(1 for _ in read_frames(output)) == 4


@contextlib.contextmanager
def memory_group(megabytes: int) -> Iterator[Path]:
    """A control group with so much memory, version 2 or 1; the file that takes the processes that are to be in it."""
    base = Path("/sys/fs/cgroup")
    is_new = (base / "cgroup.controllers").exists()
    group = (base if is_new else base / "memory") / f"tinyhd-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        limits = ("memory.max", "memory.swap.max") if is_new else ("memory.limit_in_bytes",)
        try:
            for name, size in zip(limits, (megabytes * 2**20, 0), strict=False):
                (group / name).write_text(str(size))
        except OSError as error:
            pytest.skip(f"the memory of a control group cannot be limited here: {error}")
        yield group / "cgroup.procs"
    finally:
        for left in range(100, -1, -1):  # multiprocessing's helpers end a little later
            try:
                group.rmdir()
                break
            except OSError:
                if not left:
                    raise
                time.sleep(0.1)


def test_a_control_group_with_too_little_memory(folder: Path) -> None:
    """The kernel kills the process that works on a huge picture: it has failed, and the others go on."""
    (folder / "v" / "2.png").write_bytes(encode_png(np.zeros((8000, 8000), np.uint8)))
    command = [sys.executable, "-m", "tinyhd", "annotate", "v", "--output-dir", "out", "--workers", "2"]
    with memory_group(900) as processes:
        done = subprocess.run(
            command,
            preexec_fn=lambda: processes.write_text(str(os.getpid())),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    found = statuses(folder / "out")
    failed = [name for name, status in found.items() if status == "failed"]
    print(f"outputs whole: {whole(folder / 'out')} of {COUNT}; failed: {failed}: {done.stderr.splitlines()[:1]}")
    assert done.returncode == 1
    assert failed == ["2.png"]
    assert "2.png': the process that worked on it died (out of memory, or a crash)." in done.stderr
    assert one_sentence_each(done.stderr) == 1
    assert whole(folder / "out") == COUNT


# ---- processes


def start(folder: Path, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(stub_command(*arguments, seconds=0.3), cwd=folder, env=ENVIRONMENT, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_workers_too(folder: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tinyhd", "annotate", "v", "--output-dir", "out", "--workers", "2", "--quiet"],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    manifest = folder / "out" / MANIFEST_NAME
    deadline = time.monotonic() + 120
    while not (manifest.exists() and manifest.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}.get(number, 128 + number)
    assert "Traceback" not in said
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    print(f"{number.name}: {len(workers)} processes, {len(left)} left")
    assert len(workers) >= 2
    assert not left
    assert annotate_main(["v", "--output-dir", "out"]) == 0
    assert whole(folder / "out") == COUNT


# ---- pipes


@pytest.mark.parametrize("how", ["closed", "full", "broken"])
def test_nobody_listens(folder: Path, how: str) -> None:
    """stderr is closed, on a full disk, or a pipe that nobody reads: the work is done all the same."""
    if how == "closed":
        done = start(folder, "annotate", "v", "--output-dir", "out", preexec_fn=lambda: os.close(2))
    elif how == "full":
        with open("/dev/full", "w") as full:
            done = start(folder, "annotate", "v", "--output-dir", "out", stderr=full)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        done = start(folder, "annotate", "v", "--output-dir", "out", stderr=writing)
        os.close(writing)
    status = done.wait(120)
    print(f"stderr {how}: exit status {status}, {whole(folder / 'out')} of {COUNT}")
    assert status == 0
    assert whole(folder / "out") == COUNT


def test_a_list_that_nobody_reads_to_its_end(folder: Path) -> None:
    """As in `tinyhd annotate v --dry-run | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    child = start(folder, "annotate", "v", "--dry-run", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, said = child.communicate(timeout=60)
    assert "Traceback" not in said
    assert "Exception" not in said
