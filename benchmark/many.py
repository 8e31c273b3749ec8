"""Very many jobs in one batch: how long a resumed run takes to start, and what the process that hands out jobs needs.

    python -m benchmark.many 100000                 # all of it in a temporary folder, removed at the end
    python -m benchmark.many 1000 --real            # each job reads its file and writes its track, with a stub network

The inputs are links to one small picture. Without `--real` a job only writes an output of 100 bytes, so that what is
measured is the batch itself: finding files, planning, the manifest with its two writes to the disk for each job.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinyhd.pipeline.batch import Job

_LINKS = 30_000  # a file system may not take more to one file
_REPORTS = 10


class _Stub:
    """A network that sees nothing."""

    maps_per_clip = 16
    map_shape = (48, 64)
    display_scale = 1.0
    sampling_rate = 0.0
    model_name, model_hash = "stub", "sha256:" + "0" * 64

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return np.zeros((len(clips), 16, *self.map_shape), np.float32)


def make_inputs(folder: Path, first: int, last: int) -> None:
    """Names of a picture, numbered."""
    from PIL import Image

    for number in range(first, last):
        source = folder.parent / f"picture-{number // _LINKS}.png"
        if not source.exists():
            Image.new("RGB", (96, 64), "gray").save(source)
        os.link(source, folder / f"{number:08d}.png")


def memory_bytes() -> int:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(folder: Path, is_real: bool) -> dict[str, Any]:
    """The command in this process; when the first job began, and what was in memory then and later."""
    from tinyhd.files import AtomicOutput
    from tinyhd.inference import backends
    from tinyhd.pipeline import schedule
    from tinyhd.pipeline.annotate import AnnotateResult

    real, starts, memory = schedule.run_job, [], list[int]()
    count = len(os.listdir(folder / "in"))

    def run_job(job: Job, **options: Any) -> AnnotateResult:
        if not starts:
            starts.append((time.perf_counter() - began, time.process_time() - began_processor))
        if (len(starts) - 1) % max(1, count // _REPORTS) == 0:
            memory.append(memory_bytes())
        starts.append((0.0, 0.0))
        if is_real:
            return real(job, **options)
        assert job.output is not None
        with AtomicOutput(job.output, overwrite=job.overwrite) as output:
            output.temporary.write_bytes(bytes(100))
        return AnnotateResult(job.input, job.output, 1, 1e-3, False, ())

    schedule.run_job = run_job  # type: ignore[assignment]
    backends.open_backend = lambda options: _Stub()
    from tinyhd.cli.main import main

    os.chdir(folder)
    began, began_processor = time.perf_counter(), time.process_time()
    status = main(["analyze", "in", "--output-dir", "out", "--quiet"])
    first, processor = starts[0] if starts else (float("nan"), float("nan"))
    return {
        "status": status,
        "jobs": len(starts) - 1,
        "seconds": time.perf_counter() - began,
        "start_seconds": first,
        "start_processor_seconds": processor,
        "memory": memory,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(folder: Path, count: int, is_real: bool = False) -> Iterator[dict[str, Any]]:
    """A run over `count` inputs, then the same command with one input more, each in a process of its own."""
    (folder / "in").mkdir()
    for first, last in ((0, count), (count, count + 1)):
        make_inputs(folder / "in", first, last)
        command = [sys.executable, "-m", "benchmark.many", "--child", *["--real"] * is_real, "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
        yield json.loads(done.stdout)


def main() -> None:
    """The command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100_000, help="jobs")
    parser.add_argument("--real", action="store_true", help="read the inputs and write tracks")
    parser.add_argument("--folder", type=Path, help="where to work: an empty folder, kept")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(options.folder, options.real)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        runs = measure(folder, options.count, options.real)
        for name, found in zip(("first run", "run again with one more"), runs, strict=True):
            parts = " ".join(f"{memory / 2**20:.0f}" for memory in found["memory"])
            print(
                f"{name}: {found['jobs']} jobs in {found['seconds']:.1f} s, the first after "
                f"{found['start_seconds']:.1f} s ({found['start_processor_seconds']:.1f} s of processor time); memory "
                f"{parts} MB, at most {found['peak_memory'] / 2**20:.0f} MB",
                flush=True,
            )
        manifest = folder / "out" / "tinyhd-manifest.jsonl"
        outputs = sum(name.endswith(".npz") for name in os.listdir(folder / "out"))
        print(f"manifest: {manifest.stat().st_size / 2**20:.1f} MB; outputs: {outputs}")


if __name__ == "__main__":
    main()
