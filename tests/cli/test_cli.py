"""The command: arguments, many inputs, messages, exit status, signals."""

import dataclasses
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import makers
import pytest
from commands import ENVIRONMENT, ROOT, stub_command
from fakes import GrayModel
from makers import clip, read_barcode

import tinyhd
from tinyhd.cli import messages
from tinyhd.cli.main import annotate_main as main
from tinyhd.cli.main import main as main_with_command
from tinyhd.errors import InputError
from tinyhd.options import EncoderOptions, InferenceOptions, RenderOptions
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.inputs import distinct_stems, expand_inputs
from tinyhd.pipeline.manifest import MANIFEST_NAME
from tinyhd.video.reader import probe, read_frames

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> list[InferenceOptions]:
    """Nothing is loaded: every model is the stub. The list is what was asked for."""
    asked: list[InferenceOptions] = []

    def open_backend(options: InferenceOptions) -> GrayModel:
        asked.append(options)
        return GrayModel()

    monkeypatch.setattr("tinyhd.inference.backends.open_backend", open_backend)
    return asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def codes(path: Path) -> list[int]:
    return [read_barcode(frame.to_rgb()) for frame in read_frames(path)]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def outputs(folder: Path) -> set[str]:
    """What a batch has written into its folder, but for its manifest."""
    return {name for name in files(folder) if MANIFEST_NAME not in name}


# ---- one input


def test_one_video(folder: Path, capsys: pytest.CaptureFixture[str], models: list[Any]) -> None:
    clip(folder / "in.mp4")
    assert main(["in.mp4", "--model", "some-model", "--device", "cpu"]) == 0
    assert files(folder) == {"in.mp4", "in.saliency.mp4"}
    assert codes(folder / "in.saliency.mp4") == [0, 1, 2]
    assert models == [InferenceOptions(model="some-model", device="cpu")]
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(r"in\.mp4 -> in\.saliency\.mp4: 3 frames in .* s \(.* frames/s\)\n", output.err)


def test_every_flag_reaches_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def run_job(job: Job, **_: Any) -> Any:
        jobs.append(job)
        raise InputError("enough")

    monkeypatch.setattr("tinyhd.pipeline.schedule.run_job", run_job)
    arguments = (
        "in.mp4 -o out.mp4 --style heatmap --colormap viridis --opacity 0.3 --normalize none --codec hevc --crf 30 "
        "--preset fast --start 1:02.5 --end 2:00:00 --precision bfloat16 --overlap 3 --no-cuts --sampling-rate 0 "
        "--save-maps maps.npz --stats stats.csv --regions regions.json --overwrite --model m --device cpu "
        "--backend openvino --batch-size 2 --track t.npz"
    )
    assert main(arguments.split()) == 1
    assert jobs == [
        Job(
            input=Path("in.mp4"),
            output=Path("out.mp4"),
            render=RenderOptions("heatmap", "viridis", 0.3, "none"),
            encoder=EncoderOptions("hevc", None, 30.0, "fast"),
            start=Fraction("62.5"),
            end=Fraction(7200),
            inference=InferenceOptions("m", "cpu", "openvino", "bfloat16", 2, 0.0, "crossfade", 3, False),
            track=Path("t.npz"),
            save_maps="maps.npz",
            stats="stats.csv",
            regions="regions.json",
            overwrite=True,
        )
    ]


@pytest.mark.parametrize("options", [InferenceOptions, RenderOptions, EncoderOptions])
def test_every_option_is_a_flag(options: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    help = capsys.readouterr().out
    for field in dataclasses.fields(options):
        negated = "no-" if field.default is True else ""
        assert f"--{negated}{field.name.replace('_', '-')}" in help


def test_analyze_then_annotate_from_the_track(folder: Path, models: list[InferenceOptions]) -> None:
    clip(folder / "in.mp4", 20)
    clip(folder / "other.mp4", 20, first=20)
    assert main_with_command(["analyze", "in.mp4"]) == 0
    assert main_with_command(["annotate", "in.mp4", "--track", "in.track.npz", "--stats", "s.csv"]) == 0
    assert len(models) == 1
    assert codes(folder / "in.saliency.mp4") == list(range(20))
    assert main_with_command(["annotate", "other.mp4", "--track", "in.track.npz"]) == 1
    assert files(folder) == {"in.mp4", "other.mp4", "in.track.npz", "in.saliency.mp4", "s.csv"}


def test_a_track_is_used_for_one_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "in.mp4")
    assert main(["in.mp4", "in.mp4", "--track", "in.track.npz"]) == 2
    assert "--track is for one input" in capsys.readouterr().err


def test_a_name_that_starts_with_a_dash(folder: Path) -> None:
    clip(folder / "-x.mp4")
    assert main(["--output=-y.mp4", "--", "-x.mp4"]) == 0
    assert codes(folder / "-y.mp4") == [0, 1, 2]


# ---- exit status


def damaged(folder: Path) -> Path:
    return makers.truncated(folder).path


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.mp4"], 1, "error: 'missing.mp4' does not exist"),
        (["text.mp4"], 1, "error: 'text.mp4' is not a video file"),
        (["in.mp4", "-o", "missing/out.mp4"], 1, "there is no folder 'missing'"),
        (["in.mp4", "-o", "in.mp4", "--overwrite"], 1, "inputs are never overwritten"),
        (["in.mp4", "-o", "text.mp4"], 1, "text.mp4' exists already"),
        (["in.mp4", "-o", "out.xyz"], 2, "must end in .mp4"),
        (["in.mp4", "--colormap", "nonsense"], 2, "no color map 'nonsense'"),
        (["in.mp4", "--encoder", "nonsense"], 2, "no encoder 'nonsense'"),
        (["in.mp4", "--overlap", "16"], 2, "overlap is 16; it must be 0 to 15"),
        (["in.mp4", "--track", "missing.npz"], 1, "the track 'missing.npz' does not exist"),
        (["in.mp4", "--regions", "r.json"], 2, "--stats"),
        (["in.mp4", "in.mp4", "-o", "out.mp4"], 2, "-o is for one input"),
        (["in.mp4", "-o", "out.mp4", "--output-dir", "out"], 2, "-o is for one input"),
        (["truncated.mp4"], 3, "warning: truncated.mp4: The file is shorter than its header says"),
        (["in.mp4", "--output-dir", "text.mp4"], 1, "is a file, but a folder is needed"),
    ],
)
def test_exit_status(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    clip(folder / "in.mp4")
    damaged(folder)
    (folder / "text.mp4").write_text("not a video")
    before = files(folder)
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    if status in (1, 2):
        assert len(error.strip().splitlines()) == 1
        assert files(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["in.mp4", "--style", "poster"],
        ["in.mp4", "--start", "soon"],
        ["in.mp4", "--overlap", "few"],
        ["in.mp4", "--outpu", "x.mp4"],
        ["-x.mp4"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tinyhd-annotate" in capsys.readouterr().err


def test_no_default_model(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    clip(folder / "in.mp4")
    assert main(["in.mp4", "--model", "nonsense"]) == 1
    error = capsys.readouterr().err
    assert "there is neither a model nor a file 'nonsense'" in error
    assert files(folder) == {"in.mp4"}


# ---- many inputs


def test_a_batch_goes_on_after_a_failure(folder: Path, capsys: pytest.CaptureFixture[str], models: list[Any]) -> None:
    for k, name in enumerate(("a.mp4", "c.mp4")):
        clip(folder / "videos" / name, first=10 * k)
    (folder / "videos" / "b.mp4").write_text("not a video")
    (folder / "videos" / "notes.txt").write_text("not even a name of a video")
    assert main(["videos", "--output-dir", "out/new", "--stats", "stats", "--save-maps", "maps"]) == 1
    assert outputs(folder / "out" / "new") == {"a.saliency.mp4", "c.saliency.mp4"}
    assert files(folder / "stats") == {"a.csv", "c.csv"}
    assert files(folder / "maps") == {f"{name}/{k:06d}.png" for name in "ac" for k in range(3)}
    assert codes(folder / "out" / "new" / "c.saliency.mp4") == [10, 11, 12]
    assert len(models) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "b.mp4' is not a video file" in lines[1]
    assert re.fullmatch(r"3 inputs in .* s: 2 annotated, 1 failed\.", lines[-1])


def test_a_batch_with_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(folder / "in.mp4")
    damaged(folder)
    assert main(["in.mp4", "truncated.mp4"]) == 3
    assert "2 annotated (1 of them damaged)" in capsys.readouterr().err


def test_a_bug_in_one_file_is_reported_and_the_rest_done(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(folder / "a.mp4")
    clip(folder / "b.mp4")

    def probe_or_fail(path: Path) -> Any:
        if path.name == "a.mp4":
            raise ZeroDivisionError
        return probe(path)

    monkeypatch.setattr("tinyhd.video.reader.probe", probe_or_fail)
    assert main(["a.mp4", "b.mp4"]) == 1
    assert files(folder) == {"a.mp4", "b.mp4", "b.saliency.mp4"}
    assert "a.mp4 failed in an unexpected way, which is a bug" in capsys.readouterr().err


def test_names_that_collide_are_told_apart(folder: Path) -> None:
    clip(folder / "one" / "clip.mp4", first=10)
    clip(folder / "two" / "clip.mp4", first=20)
    clip(folder / "two" / "clip.avi", first=30)
    makers.still(folder / "two")
    assert main(["one/clip.mp4", "two", "--output-dir", "out", "--style", "spotlight", "--opacity", "0.2"]) == 0
    found = {name: codes(folder / "out" / name)[0] for name in outputs(folder / "out")}
    assert found == {
        "clip.saliency.mp4": 10,
        "clip.avi.saliency.mp4": 30,
        "clip-2.saliency.mp4": 20,
        "still.saliency.png": 7,
    }


def test_outputs_are_not_taken_for_inputs_and_others_are_protected(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip(folder / "a.mp4")
    assert main(["."]) == 0
    assert main(["."]) == 1
    assert "a.saliency.mp4' exists already" in capsys.readouterr().err
    assert main([".", "--overwrite"]) == 0
    assert files(folder) == {"a.mp4", "a.saliency.mp4"}
    # named outright it is an input, and then no output may lie there
    assert main(["a.mp4", "a.saliency.mp4", "--overwrite"]) == 1
    assert "a.saliency.mp4' is an input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a.mp4", "b.mp4"], ["a", "b"]),
        (["a.mp4", "a.avi"], ["a.mp4", "a.avi"]),
        (["x/a.mp4", "y/a.mp4", "z/A.MP4"], ["a", "a-2", "A-3"]),
        (["x/a.mp4", "y/a.mp4", "a-2.mp4"], ["a", "a-2", "a-2-2"]),
        (["a.b.mp4"], ["a.b"]),
    ],
)
def test_distinct_stems(names: list[str], stems: list[str]) -> None:
    assert distinct_stems([Path(name) for name in names], Path("out")) == stems
    assert len({stem.casefold() for stem in stems}) == len(stems)


def test_stems_may_repeat_in_different_folders() -> None:
    assert distinct_stems([Path("x/a.mp4"), Path("y/a.mp4")]) == ["a", "a"]


def test_expand_inputs(folder: Path) -> None:
    for name in ("b.mp4", "a.MOV", "c.saliency.mp4", ".tinyhd-1234.mp4", "sub/d.mkv", "x[1].mp4", "notes.txt"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    def expanded(*arguments: str) -> tuple[list[str], bool]:
        found, batch = expand_inputs(arguments)
        return [path.as_posix() for path in found], batch

    assert expanded("b.mp4") == (["b.mp4"], False)
    assert expanded(".") == (["a.MOV", "b.mp4", "x[1].mp4"], True)
    assert expanded("*.mp4") == (["b.mp4", "c.saliency.mp4", "x[1].mp4"], True)
    assert expanded("**/*.mkv") == (["sub/d.mkv"], True)
    assert expanded("x[1].mp4") == (["x[1].mp4"], False)
    assert expanded("b.mp4", "./b.mp4", ".") == (["b.mp4", "a.MOV", "x[1].mp4"], True)
    assert expanded("missing.mp4") == (["missing.mp4"], False)
    with pytest.raises(InputError, match=r"no file matches '\*\.avi'"):
        expand_inputs(["*.avi"])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="no video or still image in the folder 'empty'"):
        expand_inputs(["empty"])


# ---- messages


def test_json_log(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_PROGRESS_SECONDS", 0.0)
    clip(folder / "in.mp4")
    assert main(["in.mp4", "missing.mp4", "--json-log"]) == 1
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["event"] for entry in entries] == ["progress"] * 2 + ["done", "failed", "summary"]
    assert entries[0]["done"] == 2
    assert entries[0]["total"] == 3
    done = entries[2]
    assert (done["input"], done["output"], done["frames"], done["damaged"]) == ("in.mp4", "in.saliency.mp4", 3, False)
    assert entries[3]["level"] == "error"
    assert (entries[4]["inputs"], entries[4]["failed"]) == (2, 1)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"]) for entry in entries)


def test_plain_lines_of_progress(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_PROGRESS_SECONDS", 0.0)
    clip(folder / "in.mp4")
    assert main(["in.mp4"]) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"in\.mp4: 2/3 frames, \d+\.\d frames/s, \d+ s left", first)


def test_progress_counts_from_the_first_frame(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting takes seconds, or half a minute where kernels are compiled: that is not the speed of the frames."""
    times = [30.0, 35.0, 40.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: times.pop(0))
    with caplog.at_level("INFO", "tinyhd.cli"), messages.Progress("in.mp4", quiet=False, as_json=False) as progress:
        for done in (1, 51, 101):
            progress(done, 301)
    assert caplog.messages == ["in.mp4: 101/301 frames, 10.0 frames/s, 20 s left"]


def test_quiet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged(folder)
    assert main(["truncated.mp4", "--quiet"]) == 3
    assert capsys.readouterr().err == ""
    assert main(["truncated.mp4", "--quiet"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bar_on_a_terminal(folder: Path) -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    clip(folder / "in.mp4")
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    child = subprocess.Popen(stub_command("annotate", "in.mp4"), cwd=folder, env=ENVIRONMENT, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(controller)
    assert child.wait(300) == 0
    assert re.search(rb"in\.mp4: +\d+%\|.*\| \d/3 \[", shown)
    assert b"in.mp4 -> in.saliency.mp4: 3 frames" in shown


def test_list_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"[: ]", line)[0] for line in lines] == tinyhd.list_models()


def test_the_version_is_the_packages() -> None:
    assert importlib.metadata.version("tinyhd") == tinyhd.__version__


def test_help_and_version_do_without_pytorch() -> None:
    code = (
        "import sys; from tinyhd.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'av', 'numpy', 'cmap', 'tqdm'} & set(sys.modules), 'slow imports'\n"
    )
    for flags in (["--help"], ["--version"], ["annotate", "--help"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        assert "tinyhd" in result.stdout


def test_python_m_tinyhd() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tinyhd", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == f"tinyhd {tinyhd.__version__}\n"


def test_public_names() -> None:
    assert len(tinyhd.__all__) <= 21
    for name in tinyhd.__all__:
        assert getattr(tinyhd, name) is not None
    assert callable(tinyhd.annotate)
    assert set(tinyhd.__all__) <= set(dir(tinyhd))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tinyhd.nonsense


# ---- signals


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGHUP], 129),
        ([signal.SIGTERM, signal.SIGINT], 143),
        ([signal.SIGINT] * 5, 130),
    ],
)
def test_interrupted(folder: Path, sent: list[signal.Signals], status: int) -> None:
    clip(folder / "a.mp4")
    clip(folder / "b.mp4", 40)
    command = stub_command("annotate", "a.mp4", "b.mp4", "--stats", "stats", "--save-maps", "maps", seconds=2)
    child = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:  # the last output of a.mp4 is there, and b.mp4 is begun
        if (folder / "maps" / "a").exists() and list(folder.glob(".tinyhd-*.mp4")):
            break
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    for number in sent:
        child.send_signal(number)
        time.sleep(0.02)
    _, error = child.communicate(timeout=60)
    assert child.returncode == status
    assert "Traceback" not in error
    kept = {"a.mp4", "b.mp4", "a.saliency.mp4", "stats/a.csv", *(f"maps/a/{k:06d}.png" for k in range(3))}
    assert files(folder) == kept


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_signal_while_the_process_ends_changes_nothing(folder: Path) -> None:
    clip(folder / "a.mp4", 40)
    slow_end = "import atexit, time; atexit.register(lambda: (print('ends', flush=True), time.sleep(1)))"
    child = subprocess.Popen(
        stub_command("annotate", "a.mp4", seconds=0.5, before=slow_end),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(folder.glob(".tinyhd-*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.terminate()
    assert child.stdout is not None
    assert child.stdout.readline() == "ends\n"
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 143
    assert "Traceback" not in error
