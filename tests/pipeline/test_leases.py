"""Several runs that share one folder of outputs by leases."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import ENVIRONMENT, stub_command
from commands import manifest_lines as lines
from fakes import GrayModel
from makers import clip

from tinyhd.cli.main import annotate_main
from tinyhd.errors import OutputError
from tinyhd.pipeline import leases
from tinyhd.pipeline.annotate import AnnotateResult
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.leases import Leases
from tinyhd.pipeline.manifest import DONE, ELSEWHERE, TODO, Manifest
from tinyhd.pipeline.shared import SharedManifest
from tinyhd.video.reader import probe

HASH = GrayModel.model_hash


def died(run: Leases, seconds: float = 1000) -> None:
    """Make a run look as if it had died so long ago."""
    run._ended.set()
    run._thread.join()
    past = time.time() - seconds
    os.utime(run._folder / f"{run._run}.run", (past, past))


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    runs = [Leases(tmp_path) for _ in range(8)]
    died(runs[0])
    assert runs[0].take("a")
    died(runs[0])  # taking beats
    for _ in range(20):  # again and again somebody takes it from the dead, or anew
        got: list[Leases] = []
        barrier = threading.Barrier(7)

        def contend(run: Leases, barrier: Any = barrier, got: list[Leases] = got) -> None:
            barrier.wait()
            if run.take("a"):
                got.append(run)

        threads = [threading.Thread(target=contend, args=(run,)) for run in runs[1:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert got[0].holds("a")
        assert not runs[0].holds("a")
        got[0].release("a")
    for run in runs:
        run.__exit__()
    assert not list(tmp_path.iterdir())


def test_a_lease_is_kept_while_its_run_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    with Leases(tmp_path) as first, Leases(tmp_path) as second:
        assert first.take("a")
        assert first.take("a")
        time.sleep(0.8)
        assert not second.take("a")
        first.release("a")
        assert second.take("a")


def test_what_was_taken_over_is_not_noted(tmp_path: Path) -> None:
    """A run that slept so long that it looked dead does not say that it has done what another does."""
    job = Job(clip(tmp_path / "a.mp4", 4), tmp_path / "a.track.npz", "analyze")
    result = AnnotateResult(job.input, tmp_path / "a.track.npz", 4, 1.0, False, ())
    with SharedManifest(tmp_path, HASH) as first, SharedManifest(tmp_path, HASH) as second:
        plan = first.claim(job)
        assert plan.state == TODO
        first.begin(plan)
        assert second.claim(job).state == ELSEWHERE
        died(first._leases)
        taken = second.claim(job)
        assert (taken.state, taken.attempt) == (TODO, 2)
        second.begin(taken)
        first.end(plan, result)
        assert first.claim(job).state == ELSEWHERE
        (tmp_path / "a.track.npz").write_bytes(b"x")
        second.end(taken, result)
        assert first.claim(job).state == DONE
    assert Counter(line["status"] for line in lines(tmp_path)) == {"started": 2, "done": 1}
    with Manifest(tmp_path, HASH) as alone:
        assert alone.plan(job).state == DONE


def test_with_a_run_that_does_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyhd.pipeline.shared._START_SECONDS", 0.1)
    with Manifest(tmp_path, HASH), pytest.raises(OutputError, match=r"another run is at work in .* with --lease"):
        SharedManifest(tmp_path, HASH)
    with SharedManifest(tmp_path, HASH) as shared:
        with pytest.raises(OutputError, match="another run is at work in"):
            Manifest(tmp_path, HASH)
        died(shared._leases)
        with Manifest(tmp_path, HASH):
            pass


def test_a_lease_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert annotate_main([str(clip(tmp_path / "a.mp4")), "--lease"]) == 2
    assert "--lease is for a folder of outputs: name one with --output-dir" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sharing", [["--lease"], ["--shard"]])
def test_runs_share_the_work(sharing: list[str], tmp_path: Path) -> None:
    """Three runs into one folder, one of them killed: every output whole, none twice, at most one job done again."""
    count = 18
    for k in range(count):
        clip(tmp_path / "v" / f"{k:02d}.mp4", 4, first=k)
    before = "from tinyhd.pipeline import leases; leases.STALE_SECONDS, leases.BEAT_SECONDS = 3.0, 0.2"
    command = stub_command("annotate", "v", "--output-dir", "out", "--quiet", seconds=0.3, before=before)
    by_shard = sharing == ["--shard"]
    own = [["--shard", f"{k}/3"] for k in (1, 2, 3)] if by_shard else [["--lease"]] * 3
    runs = [subprocess.Popen(command + more, cwd=tmp_path, env=ENVIRONMENT) for more in own]
    out = tmp_path / "out"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # each has begun
        manifests = [file for file in out.glob("tinyhd-manifest-*.jsonl") if file.stat().st_size]
        if len(manifests) == 3:
            break
        time.sleep(0.02)
    runs[0].kill()
    codes = [run.wait() for run in runs]
    assert codes[1:] == [0, 0]
    time.sleep(3.1)  # the dead one's lease is stale
    assert subprocess.run([*command, "--lease"], cwd=tmp_path, env=ENVIRONMENT, check=False).returncode == 0

    whole = [path for path in out.glob("*.saliency.mp4") if probe(path).frame_count == 4]
    done = Counter(line["input"] for line in lines(out) if line["status"] == "done")
    started = Counter(line["input"] for line in lines(out) if line["status"] == "started")
    print(
        f"runs: 3, killed: 1; outputs whole: {len(whole)} of {count}; duplicates: {sum(done.values()) - len(done)}; "
        f"losses: {count - len(whole)}; jobs done again: {sum(started.values()) - len(started)}"
    )
    assert len(whole) == count
    assert max(done.values()) == 1
    assert len(done) >= count - 1  # at most one was killed between its output and its line
    assert sum(started.values()) - len(started) <= 1
    assert not list(out.glob(".tinyhd-*.mp4"))
    assert not (out / ".tinyhd-leases").exists()
