"""Batches: what is found, what is done once only, what a killed run leaves, and processes side by side."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import makers
import pytest
from commands import ENVIRONMENT, stub_command
from commands import manifest_lines as lines
from fakes import GrayModel
from makers import clip

from tinyhd.cli.main import annotate_main, main
from tinyhd.errors import OutputError
from tinyhd.files import AtomicOutput, sweep
from tinyhd.options import InferenceOptions
from tinyhd.pipeline.manifest import MANIFEST_NAME
from tinyhd.video.reader import probe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a stub for every model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tinyhd.inference.backends.open_backend", lambda options: GrayModel())
    return tmp_path


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.saliency.*")}


# ---- what is found


def test_folders_lists_and_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("v/a.mp4", "v/sub/b.mp4", "v/sub/c.mkv", "v/raw/d.mp4"):
        clip(folder / name)

    def found(*arguments: str) -> list[str]:
        assert annotate_main([*arguments, "--dry-run"]) == 0
        return [line.split(" -> ")[0] for line in capsys.readouterr().out.splitlines() if " -> " in line]

    assert found("v") == ["v/a.mp4"]
    assert found("v", "--recursive") == ["v/a.mp4", "v/raw/d.mp4", "v/sub/b.mp4", "v/sub/c.mkv"]
    assert found("v", "--recursive", "--include", "*.mp4", "--exclude", "raw/*") == ["v/a.mp4", "v/sub/b.mp4"]
    (folder / "list.txt").write_text("# of today\nv/a.mp4\n\nv/sub/c.mkv\nv/a.mp4\n")
    assert found("--from-file", "list.txt") == ["v/a.mp4", "v/sub/c.mkv"]
    parts = [found("v", "--recursive", "--shard", f"{k}/3") for k in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == found("v", "--recursive")
    assert annotate_main(["v", "--shard", "4/3", "--dry-run"]) == 2
    assert "the shard is '4/3'" in capsys.readouterr().err


def test_options_of_single_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "a.mp4")
    clip(folder / "b.mp4")
    (folder / "list.jsonl").write_text('{"input": "a.mp4"}\n{"input": "b.mp4", "style": "side-by-side"}\n')
    assert annotate_main(["--from-file", "list.jsonl", "--output-dir", "out"]) == 0
    widths = {name: probe(folder / "out" / f"{name}.saliency.mp4").width for name in "ab"}
    assert widths == {"a": 96, "b": 192}
    (folder / "wrong.csv").write_text("input,stile\na.mp4,heatmap\n")
    assert annotate_main(["--from-file", "wrong.csv", "--output-dir", "out2"]) == 1
    assert "there is no option 'stile'" in capsys.readouterr().err
    (folder / "program.jsonl").write_text('{"input": "a.mp4", "ffmpeg": "/bin/sh"}')
    assert annotate_main(["--from-file", "program.jsonl", "--output-dir", "out3"]) == 1
    assert "ffmpeg runs a program" in capsys.readouterr().err
    (folder / "empty.csv").write_text("file\na.mp4\n")
    assert annotate_main(["--from-file", "empty.csv"]) == 1
    assert "row 1 names no input" in capsys.readouterr().err


def test_what_would_be_done_and_how_long(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "v" / "a.mp4", 10)
    command = ["v", "--output-dir", "out"]
    assert annotate_main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "1 input to do.",
        "About 10 frames; how long they would take is not known before some are done there.",
    ]
    assert annotate_main(command) == 0
    seconds = lines(folder / "out")[-1]["seconds"]
    clip(folder / "v" / "b.mp4", 20)
    (folder / "v" / "c.mp4").write_text("not a video")
    assert annotate_main([*command, "--dry-run", "--workers", "2"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "1 input to do; 1 are done already."
    assert said[2].startswith(f"About 20 frames: {20 * seconds / 10 / 2:.1f} s at the ")
    assert said[2].endswith(" frames/s of earlier runs there in each of 2 processes.")
    assert len(lines(folder / "out")) == 2
    assert annotate_main([*command, "--dry-run", "--exclude", "[bc].mp4"]) == 0
    assert capsys.readouterr().out == "0 inputs to do; 1 are done already.\n"


# ---- once only


def test_a_second_run_does_only_what_is_new_or_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in enumerate("abc"):
        clip(folder / "v" / f"{name}.mp4", first=10 * k)
    command = ["v", "--output-dir", "out"]
    assert annotate_main(command) == 0
    before = times(folder / "out")
    assert annotate_main(command) == 0
    assert times(folder / "out") == before
    assert "3 inputs in" in (said := capsys.readouterr().err)
    assert "3 annotated (3 before)" in said

    (folder / "out" / "a.saliency.mp4").unlink()
    clocks = (folder / "v" / "b.mp4").stat()
    clip(folder / "v" / "b.mp4", 5, first=30)
    os.utime(folder / "v" / "b.mp4", ns=(clocks.st_atime_ns, clocks.st_mtime_ns))  # as of a copy that keeps times
    os.utime(folder / "v" / "c.mp4")
    clip(folder / "v" / "d.mp4")
    assert annotate_main(command) == 0
    after = times(folder / "out")
    assert after["c.saliency.mp4"] == before["c.saliency.mp4"]
    assert after["b.saliency.mp4"] != before["b.saliency.mp4"]
    assert set(after) == {f"{name}.saliency.mp4" for name in "abcd"}
    assert [line["attempt"] for line in lines(folder / "out") if line["input"].endswith("b.mp4")] == [1, 1, 2, 2]

    os.truncate(folder / "out" / "c.saliency.mp4", 100)  # as by a disk that lost the rest
    assert annotate_main(command) == 0
    assert probe(folder / "out" / "c.saliency.mp4").width == 96
    after = times(folder / "out")
    assert annotate_main([*command, "--style", "heatmap"]) == 0  # other settings: all again
    assert all(times(folder / "out")[name] != after[name] for name in after)


def test_what_failed_is_done_again_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "v" / "a.mp4")
    (folder / "v" / "b.mp4").write_text("not a video")
    command = ["v", "--output-dir", "out"]
    assert annotate_main(command) == 1
    assert annotate_main(command) == 1
    assert "1 failed" in capsys.readouterr().err


def test_a_run_over_earlier_outputs_that_did_not_end_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, or failed, before it replaced them: they are not taken for its own, and not in the way."""
    clip(folder / "a.mp4")
    command, output = ["a.mp4", "--output-dir", "out"], folder / "out" / "a.saliency.mp4"
    assert annotate_main(command) == 0
    overlay = output.read_bytes()

    command += ["--style", "heatmap"]
    assert annotate_main(command) == 0
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:-1]))
    output.write_bytes(overlay)
    assert annotate_main(command) == 0
    assert output.read_bytes() != overlay

    command += ["--opacity", "0.5"]
    with monkeypatch.context() as patch:
        patch.setattr(GrayModel, "__call__", lambda *_: 1 / 0)
        assert annotate_main(command) == 1
    assert annotate_main([*command, "--retry-failed"]) == 0
    assert [line["status"] for line in lines(folder / "out")][-4:] == ["started", "failed", "started", "done"]


def test_damage_stays_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makers.truncated(folder)
    command = ["truncated.mp4", "--output-dir", "out"]
    assert annotate_main(command) == 3
    assert annotate_main(command) == 3
    assert [line["status"] for line in lines(folder / "out")] == ["started", "damaged"]


def test_without_a_manifest_outputs_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "a.mp4")
    (folder / "out").mkdir()
    (folder / "out" / "a.saliency.mp4").write_text("mine")
    assert annotate_main(["a.mp4", "--output-dir", "out"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (folder / "out" / "a.saliency.mp4").read_text() == "mine"


def test_two_runs_into_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tinyhd.pipeline.manifest import Manifest

    clip(folder / "a.mp4")
    (folder / "out").mkdir()
    with Manifest(folder / "out", "sha256:1"):
        assert annotate_main(["a.mp4", "--output-dir", "out"]) == 1
    assert "another run is at work in 'out'" in capsys.readouterr().err
    assert annotate_main(["a.mp4", "--output-dir", "out"]) == 0


def test_a_foreign_manifest_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "a.mp4")
    (folder / "out").mkdir()
    (folder / "out" / MANIFEST_NAME).write_text("hello\n")
    assert annotate_main(["a.mp4", "--output-dir", "out"]) == 1
    assert "is not a manifest of tinyhd" in capsys.readouterr().err
    assert (folder / "out" / MANIFEST_NAME).read_text() == "hello\n"


def test_a_torn_line_does_no_harm(folder: Path) -> None:
    """Of a run that was killed while it wrote, then of one after it."""
    clip(folder / "a.mp4")
    clip(folder / "b.mp4")
    assert annotate_main(["a.mp4", "--output-dir", "out"]) == 0
    with (folder / "out" / MANIFEST_NAME).open("ab") as file:
        file.write(b'{"input": "/b.mp4", "st')
    for _ in range(3):
        assert annotate_main(["a.mp4", "b.mp4", "--output-dir", "out"]) == 0
    assert [line["status"] for line in lines(folder / "out")] == ["started", "done"] * 2


def test_limits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "a.mp4", 40)
    assert annotate_main(["a.mp4", "--max-pixels", "1000"]) == 1
    assert "has 96x64 pixels, more than --max-pixels 1000 allows" in capsys.readouterr().err
    assert annotate_main(["a.mp4", "--max-duration", "1"]) == 1
    assert "lasts 2 s, more than --max-duration 1 allows" in capsys.readouterr().err
    assert annotate_main(["a.mp4", "--workers", "many"]) == 2


# ---- killed


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_dead_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    code = (
        "import sys, os, pathlib; from tinyhd.files import AtomicOutput\n"
        "AtomicOutput(pathlib.Path('x.mp4')); AtomicOutput(pathlib.Path('maps'), folder=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=False)
    mine = AtomicOutput(tmp_path / "y.mp4")
    assert len(list(tmp_path.iterdir())) == 6
    assert sweep(tmp_path) == 4
    assert {path.is_symlink() for path in tmp_path.iterdir()} == {True, False}
    assert mine.temporary.exists()
    mine.discard()


def test_two_runs_into_one_file(tmp_path: Path) -> None:
    first = AtomicOutput(tmp_path / "y.mp4")
    with pytest.raises(OutputError, match=r"y\.mp4' is being written by another run: wait for its end"):
        AtomicOutput(tmp_path / "y.mp4", overwrite=True)
    AtomicOutput(tmp_path / "z.mp4").discard()
    assert first.temporary.exists()
    first.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = "import os, pathlib; from tinyhd.files import AtomicOutput; AtomicOutput(pathlib.Path('x.mp4')); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True)
    with AtomicOutput(tmp_path / "x.mp4"):
        pass
    assert (tmp_path / "x.mp4").exists()
    assert sweep(tmp_path) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_at_random_moments_it_goes_on(tmp_path: Path) -> None:
    """Twenty times kill -9; at the end every output is there, whole, and was made by one finished attempt."""
    count, kills = 40, 20
    for k in range(count):
        clip(tmp_path / "v" / f"{k:02d}.mp4", count=4, first=k % 30)
    command = stub_command("annotate", "v", "--output-dir", "out", "--quiet", seconds=0.01)
    rng, out, killed = random.Random(0), tmp_path / "out", 0
    for _ in range(kills):
        child = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT)
        began, deadline = len(lines(out)), time.monotonic() + 60
        while child.poll() is None and len(lines(out)) <= began and time.monotonic() < deadline:  # let it begin
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.12))
        child.kill()
        killed += child.wait() == -signal.SIGKILL
        for path in out.glob("*.saliency.mp4"):  # never half-written under its name
            assert probe(path).width == 96
    assert subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=False).returncode == 0
    assert {path.name for path in out.glob("*.saliency.mp4")} == {f"{k:02d}.saliency.mp4" for k in range(count)}
    assert not list(out.glob(".tinyhd-*.mp4"))
    done = [line["input"] for line in lines(out) if line["status"] == "done"]
    print(f"kills survived: {killed}; outputs complete: {count}; duplicates: {len(done) - len(set(done))}")
    assert killed >= 10
    assert len(done) == len(set(done))


# ---- processes side by side, with the embedded model


def test_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        clip(tmp_path / "v" / f"{name}.mp4")
    (tmp_path / "v" / "d.mp4").write_text("not a video")
    command = ["v", "--output-dir", "out", "--workers", "2", "--save-maps", "maps"]
    assert annotate_main(command) == 1
    assert set(times(tmp_path / "out")) == {f"{name}.saliency.mp4" for name in "abc"}
    workers = {line["worker"] for line in lines(tmp_path / "out") if line["status"] == "done"}
    assert workers == {0, 1}
    assert "3 annotated, 1 failed" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads Linux's /proc")
def test_a_worker_that_dies_takes_only_its_job_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    from tinyhd.options import BatchOptions
    from tinyhd.pipeline.batch import Job
    from tinyhd.pipeline.manifest import TODO, Plan
    from tinyhd.pipeline.workers import run_jobs

    plans = [Plan(TODO, Job(clip(tmp_path / f"{name}.mp4", 60 if name == "a" else 3))) for name in "abc"]

    def kill_the_first(job: Job, done: int, total: int | None) -> None:
        if job.input.name == "a.mp4":
            for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)

    monkeypatch.setattr("tinyhd.pipeline.workers._REPORT_SECONDS", 0.0)
    options = BatchOptions(timeout=300)
    outcomes = {o.plan.job.input.name: o for o in run_jobs(plans, InferenceOptions(), options, progress=kill_the_first)}
    assert "the process that worked on it died" in (outcomes["a.mp4"].error or "")
    assert [outcomes[f"{name}.mp4"].error for name in "bc"] == [None, None]
    assert not list(tmp_path.glob("a.saliency*"))


def test_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "a.mp4", 60)
    assert main(["analyze", "a.mp4", "--timeout", "0.05"]) == 1
    assert "it took longer than --timeout 0.05 s" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".tinyhd-")} == {"a.mp4"}


def test_every_command_for_many_goes_on_where_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        clip(folder / f"{name}.mp4", 12)
    (folder / "list.jsonl").write_text('{"input": "a.mp4"}\n{"input": "b.mp4", "aspect": "1:1"}\n')
    for command, endings in (("reframe", ["reframed.mp4"]), ("encode", ["encoded.mp4"]), ("moments", ["moments.json"])):
        rows = ["--from-file", "list.jsonl"] if command == "reframe" else ["a.mp4", "b.mp4"]
        arguments = [command, *rows, "--output-dir", "out"]
        assert main(arguments) == 0
        written = {path: path.stat().st_mtime_ns for path in Path("out").glob("[ab].*")}
        assert {f"{name}.{ending}" for name in "ab" for ending in endings} <= {path.name for path in written}
        assert main(arguments) == 0  # all of it is there, next to what the other commands made
        assert "2 before" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in Path("out").glob("[ab].*")} == written
    assert [line["action"] for line in lines(folder / "out") if line["status"] == "done"] == [
        *["reframe"] * 2, *["encode"] * 2, *["moments"] * 2,
    ]  # fmt: skip
    with av.open("out/b.reframed.mp4") as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 64)
