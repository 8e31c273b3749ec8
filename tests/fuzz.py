"""Hostile files: small seeds of many kinds, damaged in a fixed row of ways, annotated in one batch that must survive.

    python tests/fuzz.py 3000            # prints the counts; exit status 1 where one is wrong

`mutations` are the same for the same number. The batch runs in a process of its own with a stub for the network and
limited memory; one that hangs or dies loses the file it was at, and goes on, which is counted.
"""

import argparse
import contextlib
import json
import os
import queue
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import makers

from tinyhd.errors import TinyHDError
from tinyhd.pipeline.manifest import MANIFEST_NAME
from tinyhd.video.reader import read_frames

SECONDS_PER_FILE = 60
"""After this long without a word the batch counts as hanging: on a busy machine no file needs a tenth of it."""
ADDRESS_SPACE = 4 * 2**30
RESIDENT = 2**30
"""Bytes that the process may ask for, and that it may use."""

_FRAMES, _WIDTH, _HEIGHT = 8, 96, 64

_VIDEOS: tuple[tuple[str, str, str, str], ...] = (  # container, encoder, pixel format, sound
    ("mp4", "libx264", "yuv420p", "aac"),
    ("mp4", "libx265", "yuv420p10le", ""),
    ("mp4", "libsvtav1", "yuv420p", ""),
    ("mp4", "mpeg4", "yuv420p", "libmp3lame"),
    ("mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
    ("mov", "mjpeg", "yuvj420p", ""),
    ("mov", "libx264", "yuv444p", "aac"),
    ("mkv", "libx264", "yuv420p", "flac"),
    ("mkv", "libx265", "yuv420p", ""),
    ("mkv", "libvpx-vp9", "yuv420p", "libopus"),
    ("mkv", "prores_ks", "yuv422p10le", ""),
    ("webm", "libvpx-vp9", "yuv420p", "libopus"),
    ("webm", "libsvtav1", "yuv420p", ""),
    ("avi", "mpeg4", "yuv420p", "libmp3lame"),
    ("avi", "mjpeg", "yuvj420p", "pcm_s16le"),
    ("avi", "libx264", "yuv420p", ""),
    ("ts", "libx264", "yuv420p", "aac"),
    ("ts", "libx265", "yuv420p", "mp2"),
    ("flv", "libx264", "yuv420p", "aac"),
    ("flv", "flv", "yuv420p", "libmp3lame"),
    ("ogv", "libvpx", "yuv420p", "libopus"),
)
_STILLS = ("png", "jpg", "webp")


def make_seeds(folder: Path) -> list[Path]:
    """Intact files, one of each kind."""
    small = {"width": _WIDTH, "height": _HEIGHT}
    seeds = [
        makers.make_video(
            folder / f"{codec}.{container}", _FRAMES, codec=codec, pix_fmt=pix_fmt, audio=[audio] * bool(audio), **small
        )
        for container, codec, pix_fmt, audio in _VIDEOS
    ]
    seeds += [makers.still(folder, kind, pixels=makers.picture(7, _WIDTH, _HEIGHT)).path for kind in _STILLS]
    return [*seeds, makers.gif(folder).path, makers.apng(folder).path]


def mutate(data: bytes, other: bytes, rng: random.Random) -> tuple[str, bytes]:
    """(what was done, the damaged file). `other` is the file of another kind."""
    out = bytearray(data)
    size = len(out)

    def block() -> slice:
        first = rng.randrange(size)
        return slice(first, min(size, first + rng.choice((4, 64, 512, 4096))))

    kind = rng.choice(("flip", "header", "truncate", "head", "zero", "ones", "swap", "repeat", "number", "splice"))
    match kind:
        case "flip":  # bits anywhere
            for _ in range(rng.choice((1, 8, 64))):
                out[rng.randrange(size)] ^= 1 << rng.randrange(8)
        case "header":  # bits at either end, where headers and indices are
            for _ in range(rng.choice((1, 4, 16))):
                near = rng.randrange(min(size, 1024))
                out[near if rng.random() < 0.7 else size - 1 - near] ^= 1 << rng.randrange(8)
        case "truncate":
            del out[rng.randrange(1, size) :]
        case "head":  # nothing but a header, or zeros behind it
            keep = rng.randrange(1, min(size, 2048))
            out[keep:] = bytes(rng.choice((0, size - keep)))
        case "zero" | "ones":
            for _ in range(rng.choice((1, 4))):
                at = block()
                out[at] = (b"\0" if kind == "zero" else b"\xff") * (at.stop - at.start)
        case "swap":
            first, second = block(), block()
            out[first], out[second] = out[second], out[first]
        case "repeat":
            at = block()
            out[at.start : at.start] = out[at] * rng.choice((1, 16))
        case "number":  # absurd sizes, lengths and counts
            for _ in range(rng.choice((1, 3))):
                at = rng.randrange(max(1, min(size, 1024) - 4))
                at = at if rng.random() < 0.7 else max(0, size - 4 - at)
                out[at : at + 4] = rng.choice(
                    (b"\xff" * 4, b"\x7f" + b"\xff" * 3, bytes(4), b"\0\0\x40\0", b"\0\x40\0\0")
                )
        case "splice":
            cut = rng.randrange(1, size)
            out[cut:] = other[min(cut, len(other) - 1) :]
    return kind, bytes(out)


def make_corpus(folder: Path, numbers: Iterable[int]) -> None:
    """Write the damaged files with these numbers."""
    with tempfile.TemporaryDirectory() as place:
        seeds = [(path, path.read_bytes()) for path in make_seeds(Path(place))]
    for number in numbers:
        rng = random.Random(number)
        path, data = seeds[number % len(seeds)]
        kind, damaged = mutate(data, rng.choice(seeds)[1], rng)
        (folder / f"{number:05d}-{kind}-{path.stem}{path.suffix}").write_bytes(damaged)


@dataclass
class Result:
    """What became of the files."""

    statuses: Counter[str] = field(default_factory=Counter)
    """done, damaged, failed."""
    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    """Errors that are not one sentence."""
    partial: list[str] = field(default_factory=list)
    """Outputs that are not whole, or of inputs that failed, or under temporary names."""
    started: list[str] = field(default_factory=list)
    """Programs that were run, and addresses that were asked."""
    errors: Counter[str] = field(default_factory=Counter)
    """Without names and numbers."""
    peak_bytes: int = 0

    @property
    def wrong(self) -> dict[str, Any]:
        """All that should not be."""
        lists = ("crashes", "hangs", "tracebacks", "sentences", "partial", "started")
        wrong: dict[str, Any] = {name: found for name in lists if (found := getattr(self, name))}
        return wrong | ({"peak_bytes": self.peak_bytes} if self.peak_bytes > RESIDENT else {})

    def __str__(self) -> str:
        ended = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"files fuzzed: {self.statuses.total()} ({ended}); crashes: {len(self.crashes)}; hangs: {len(self.hangs)}; "
            f"tracebacks: {len(self.tracebacks)}; unclear errors: {len(self.sentences)}; partial outputs: "
            f"{len(self.partial)}; programs run: {len(self.started)}; peak memory: {self.peak_bytes / 2**20:.0f} MB"
        )


_CHILD = f"""
import atexit, resource, sys
import tinyhd.inference.backends
from fakes import GrayModel
from tinyhd.cli.main import annotate_main

def note_memory():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:  # on Linux that counts what the parent had when it started this
        with open("/proc/self/status") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except OSError:
        pass
    with open("peak", "a") as file:
        print(peak, file=file)

def note_programs(event, arguments):
    if event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"):
        with open("started", "a") as file:
            print(event, ascii(arguments), file=file)

sys.addaudithook(note_programs)
atexit.register(note_memory)
resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
tinyhd.inference.backends.open_backend = lambda _: GrayModel()
sys.exit(annotate_main(["in", "--output-dir", "out", "--stats", "stats", "--json-log"]))
"""


def run(folder: Path, numbers: Iterable[int]) -> Result:
    """Annotate the damaged files with these numbers, in an empty folder."""
    inputs, out = folder / "in", folder / "out"
    inputs.mkdir()
    make_corpus(inputs, numbers)
    result = Result()
    while True:
        end = _batch(folder, result)
        if end in (0, 1, 3):
            break
        guilty = _last_started(out)
        if guilty is None:
            raise RuntimeError(f"the batch ended with {end} before it began a file")
        (result.hangs if end == "hang" else result.crashes).append(guilty.name)
        result.statuses["lost"] += 1
        guilty.rename(folder / f"guilty-{guilty.name}")
    with contextlib.suppress(FileNotFoundError):  # in kilobytes, but for macOS
        scale = 1 if sys.platform == "darwin" else 1024
        result.peak_bytes = max(int(line) for line in (folder / "peak").read_text().split()) * scale
    with contextlib.suppress(FileNotFoundError):
        result.started = (folder / "started").read_text().splitlines()
    _check(folder, result)
    return result


def _batch(folder: Path, result: Result) -> int | str:
    """Run the command until it ends; its exit status, or "hang"."""
    here = Path(__file__).resolve().parent
    paths = [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "SVT_LOG": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(child.stderr, lines), daemon=True).start()
    try:
        while (line := lines.get(timeout=SECONDS_PER_FILE)) is not None:
            try:
                event = json.loads(line)
            except ValueError:  # not of the log: what Python or a library prints
                if line.startswith(("Traceback", "Fatal Python error")):
                    result.tracebacks.append(line)
                continue
            if "traceback" in event:
                result.tracebacks.append(f"{event['message']} {event['traceback']}")
    except queue.Empty:
        child.kill()
        child.wait()
        return "hang"
    return child.wait()


def _pump(source: Any, lines: "queue.Queue[str | None]") -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _entries(out: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError), (out / MANIFEST_NAME).open(errors="surrogateescape") as file:
        yield from map(json.loads, file)


def _last_started(out: Path) -> Path | None:
    last = None
    for entry in _entries(out):
        last = Path(entry["input"]) if entry["status"] == "started" else None
    return last


_SENTENCE = re.compile(r"[^\n]+\.")
_NAMES_OF_ERRORS = re.compile(r"\b[A-Za-z]*(Error|Exception|Traceback)\b|\[Errno|<.* object at")


def _check(folder: Path, result: Result) -> None:
    """Compare what lies there with what the manifest says."""
    out = folder / "out"
    expected: set[Path] = set()
    for entry in _entries(out):
        if entry["status"] == "started":
            continue
        name = Path(entry["input"]).name
        result.statuses[entry["status"]] += 1
        if entry["status"] == "failed":
            error = entry["error"]
            result.errors[re.sub(r"\d+", "N", error.replace(repr(f"in/{name}"), "X"))] += 1
            if not _SENTENCE.fullmatch(error) or _NAMES_OF_ERRORS.search(error.replace(name, "")):
                result.sentences.append(f"{name}: {error}")
            continue
        for path, size in entry["outputs"]:
            expected.add(Path(path))
            if not size or Path(path).stat().st_size != size:
                result.partial.append(f"{name}: {path}")
        try:
            count = sum(1 for _ in read_frames(entry["outputs"][0][0]))
        except TinyHDError as error:
            result.partial.append(f"{name}: {error}")
            continue
        if count != entry["frames"]:
            result.partial.append(f"{name}: {count} of {entry['frames']} frames")
    present = {path for place in (out, folder / "stats") for path in place.iterdir()}
    result.partial += [path.name for path in present - expected if MANIFEST_NAME not in path.name]


def main() -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=3000, help="files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--folder", type=Path, help="keep everything there; it must be empty or not exist")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        result = run(folder, range(options.first, options.first + options.count))
    print(result)
    for error, count in result.errors.most_common():
        print(f"{count:6d}  {error}")
    print(json.dumps(result.wrong, indent=1) if result.wrong else "nothing is wrong")
    return bool(result.wrong)


if __name__ == "__main__":
    sys.exit(main())
