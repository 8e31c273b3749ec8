"""Real videos, one after the other in one process, for a while: what it has in memory, every minute.

    python -m benchmark.soak 30 VIDEOS...           # minutes; files or folders; examples/bunny.mp4 where none is given

Each file is annotated by the embedded model, with statistics and maps beside it; what is written is removed. The exit
status is 1 where a file fails, or where memory grows by more than 5 % from the first half to the second, of the time
after the first tenth (a minute at least) and after all files were done twice.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from benchmark.many import memory_bytes
from tinyhd.errors import TinyHDError
from tinyhd.inference.backends import open_backend
from tinyhd.options import RenderOptions
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.pipeline.inputs import expand_inputs

_EXAMPLE = Path(__file__).parents[1] / "examples" / "bunny.mp4"
_GROWTH, _REPORTS = 0.05, 10
_WARM_MINUTES, _WARM_ROUNDS = 1.0, 2  # and times that all files were done: then caches and pools of memory are full


def main() -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=30.0)
    parser.add_argument("inputs", nargs="*", default=[str(_EXAMPLE)])
    options = parser.parse_args()
    files, _ = expand_inputs(options.inputs)
    jobs = [Job(file, action=action) for file in files for action in ("annotate", "analyze")]
    jobs += [Job(file, render=RenderOptions(normalize="video")) for file in files]
    template = jobs[0].inference
    backend = open_backend(template)
    began = time.monotonic()
    frames = done = failed = 0
    seen: list[tuple[float, int, float]] = []
    next_report = 0.0
    with tempfile.TemporaryDirectory() as place:
        for number, job in enumerate(cycle(jobs)):
            minutes = (time.monotonic() - began) / 60
            if minutes >= next_report or minutes >= options.minutes:
                seen.append((minutes, memory_bytes(), number / len(jobs)))
                next_report += min(1.0, options.minutes / _REPORTS)
                print(
                    f"{minutes:6.1f} min: {done} jobs, {frames} frames, {failed} failed; "
                    f"{seen[-1][1] / 2**20:.0f} MB, {len(os.listdir('/proc/self/fd'))} open files",
                    flush=True,
                )
            if minutes >= options.minutes:
                break
            is_track = job.action == "analyze"
            output = Path(place, f"{number}.track.npz" if is_track else f"{number}.mp4")
            beside = {} if is_track else {"stats": f"{place}/stats.csv", "save_maps": f"{place}/maps.npz"}
            try:
                frames += run_job(replace(job, output=output, overwrite=True, **beside), backend=backend).frames
                done += 1
            except TinyHDError as error:
                failed += 1
                print(error, file=sys.stderr)
            output.unlink(missing_ok=True)
    warm = max(_WARM_MINUTES, options.minutes / 10)
    settled = [memory for minutes, memory, rounds in seen if minutes >= warm and rounds >= _WARM_ROUNDS]
    if len(settled) < 2:
        print(f"{done} jobs, {frames} frames: too few to tell whether memory grows")
        return 1
    half = len(settled) // 2  # it goes up and down with what each job needs
    growth = max(settled[half:]) / max(settled[:half]) - 1
    print(f"{done} jobs, {frames} frames; memory grew by {100 * growth:.1f} % once it had settled")
    return int(growth > _GROWTH or failed > 0)


if __name__ == "__main__":
    sys.exit(main())
