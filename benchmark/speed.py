"""How fast this machine is: `python -m benchmark.speed [VIDEO]`.

Model only: maps per second of every backend and precision that this machine has, their agreement (lowest correlation of
a map) with PyTorch in float32 where that is installed, else with the first, and, for comparison, PyTorch's eager mode
on the network as published (full resolution, nn.Conv3d, BatchNorm not folded; the better of 1 and 4 clips at once).
End to end, for VIDEO: annotating it, beside FFmpeg re-encoding it with the same encoder settings.
The repeats of all contestants are interleaved, so that what else the machine does hits all alike; medians are given.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinyhd.errors import InputError, TinyHDError
from tinyhd.inference.backends import Backend, fixed_clip, open_backend
from tinyhd.network.registry import DEFAULT_MODEL, MODELS
from tinyhd.options import BACKENDS, PRECISIONS, EncoderOptions, InferenceOptions
from tinyhd.pipeline.annotate import annotate
from tinyhd.version import __version__
from tinyhd.video.encoders import resolve_encoder
from tinyhd.video.reader import probe
from training.commands import command

BASELINE = "eager, as published"
BASELINE_BATCHES = (1, 4)


def interleaved(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds that each takes, `repeats` times, in turns after one warm-up each."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def open_backends(options: InferenceOptions, backends: Sequence[str], precisions: Sequence[str]) -> dict[str, Backend]:
    """By `backend precision`; what this machine does not have is left out, and said."""
    found: dict[str, Backend] = {}
    for backend in backends:
        for precision in precisions:
            try:
                found[f"{backend} {precision}"] = open_backend(
                    InferenceOptions(options.model, options.device, backend, precision)
                )
            except TinyHDError as error:
                print(f"left out: {backend} {precision}: {error}", file=sys.stderr)
    return found


def as_published(model: str | None, device: str, clips: int) -> Callable[[], object]:
    """A forward pass of the baseline; its weights do not matter."""
    import torch

    from tinyhd.network.config import CLIP_SHAPE
    from tinyhd.network.model import TinyHD, plain_convolutions
    from tinyhd.network.weights import load_model, resolve_device

    target = resolve_device(device)
    network = TinyHD(replace(load_model(model).config, output_stride=1)).to(target).eval()
    plain_convolutions(network, True)
    batch = torch.randn(clips, *CLIP_SHAPE, device=target)

    @torch.inference_mode()
    def run() -> None:
        network(batch).fused.cpu()

    return run


def measure_model(
    backends: Mapping[str, Backend], baseline: Mapping[int, Callable[[], object]], repeats: int, batch_size: int
) -> list[dict[str, Any]]:
    """Rows with `name`, `maps_per_second` and, where it is not the baseline, `times_baseline` and `lowest_cc`."""
    runs: dict[str, Callable[[], object]] = {f"{BASELINE}, {count}": run for count, run in baseline.items()}
    clips = np.repeat(fixed_clip(), batch_size, 0)
    for name, backend in backends.items():
        runs[name] = lambda backend=backend: backend(clips)  # type: ignore[misc]
    seconds = {name: statistics.median(times) for name, times in interleaved(runs, repeats).items()}
    rows: list[dict[str, Any]] = []
    best = max((count * 16 / seconds[f"{BASELINE}, {count}"] for count in baseline), default=None)
    if best is not None:
        rows.append({"name": BASELINE, "maps_per_second": best})
    reference = (backends.get("torch float32") or next(iter(backends.values())))(fixed_clip())[0] if backends else None
    for name, backend in backends.items():
        rate = batch_size * backend.maps_per_clip / seconds[name]
        maps = backend(fixed_clip())[0]
        cc = min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(maps, reference, strict=True))
        rows.append(
            {
                "name": name,
                "maps_per_second": rate,
                "times_baseline": rate / best if best is not None else None,
                "lowest_cc": cc,
            }
        )
    return rows


def measure_video(path: Path, inference: InferenceOptions, repeats: int, ffmpeg: str | None) -> list[dict[str, Any]]:
    """Rows with `name`, `frames_per_second` and `times_reencode`, the duration over that of FFmpeg's re-encoding."""
    frames = probe(path).frame_count or 0
    encoder = resolve_encoder(EncoderOptions())
    settings = [part for key, value in encoder.options.items() for part in (f"-{key}", value)]
    backend = open_backend(inference)  # once: opening is not part of what is measured
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], object]] = {}
        if ffmpeg is not None:
            command = [ffmpeg, "-y", "-loglevel", "error", "-i", str(path), "-an", "-c:v", encoder.name, *settings]
            reencode = [*command, str(Path(folder) / "reencoded.mp4")]
            runs["ffmpeg re-encode"] = lambda: subprocess.run(reencode, check=True)
        runs["annotate"] = lambda: annotate(
            path, Path(folder) / "annotated.mp4", inference=inference, backend=backend, overwrite=True
        )
        seconds = {name: statistics.median(times) for name, times in interleaved(runs, repeats).items()}
    base = seconds.get("ffmpeg re-encode")
    return [
        {"name": name, "frames_per_second": frames / time, "times_reencode": time / base if base else None}
        for name, time in seconds.items()
    ]


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held so far; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    """What the numbers depend on; nothing that names the machine."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    found: dict[str, Any] = {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tinyhd": __version__,
    }
    for name in ("torch", "openvino", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def run(arguments: Sequence[str] | None = None) -> None:
    """What the command does. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser("python -m benchmark.speed", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("video", nargs="?", type=Path, metavar="VIDEO", help="measure end to end with this file too")
    add("--model", metavar="NAME", help="as of tinyhd annotate")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    add("--backend", nargs="+", choices=BACKENDS[1:], default=list(BACKENDS[1:]), help="default: all")
    add("--precision", nargs="+", choices=PRECISIONS[1:], default=list(PRECISIONS[1:]), help="default: all")
    add("--batch-size", type=int, default=1, metavar="N", help="clips at once (default: 1)")
    add("--repeats", type=int, default=5, metavar="N", help="default: 5")
    add("--no-model", action="store_true", help="measure end to end only")
    add("--ffmpeg", metavar="FILE", help="the ffmpeg to compare with, for VIDEO (default: PATH's)")
    add("--json", type=Path, metavar="FILE", help="write the results there")
    options = parser.parse_args(arguments)
    name = options.model or DEFAULT_MODEL or ""
    result: dict[str, Any] = {
        "machine": machine(),
        "model": name if name in MODELS else Path(name).name,
        "repeats": options.repeats,
    }
    inference = InferenceOptions(options.model, options.device)
    if options.video:
        ffmpeg = options.ffmpeg or shutil.which("ffmpeg")
        result["end_to_end"] = measure_video(options.video, inference, options.repeats, ffmpeg)
        result["end_to_end_peak_memory_bytes"] = peak_memory_bytes()
    if not options.no_model:
        backends = open_backends(inference, options.backend, options.precision)
        counts = BASELINE_BATCHES if find_spec("torch") else ()
        baseline = {count: as_published(options.model, options.device, count) for count in counts}
        result["model_only"] = measure_model(backends, baseline, options.repeats, options.batch_size)
    _print(result)
    if options.json:
        try:
            options.json.write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{str(options.json)!r} cannot be written: {error.strerror}.") from error


main = command(run)


def _print(result: Mapping[str, Any]) -> None:
    for row in result.get("model_only", ()):
        ratio = f"{row['times_baseline']:5.1f} x {BASELINE}, " if row.get("times_baseline") else ""
        agreement = f"lowest CC {row['lowest_cc']:.6f}" if "lowest_cc" in row else ""
        print(f"{row['name']:<24}{row['maps_per_second']:8.1f} maps/s  {ratio}{agreement}")
    for row in result.get("end_to_end", ()):
        ratio = "" if row["times_reencode"] is None else f"{row['times_reencode']:5.2f} x the re-encode's time"
        print(f"{row['name']:<24}{row['frames_per_second']:8.1f} frames/s  {ratio}")
    if result.get("end_to_end_peak_memory_bytes"):
        print(f"peak memory: {result['end_to_end_peak_memory_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
