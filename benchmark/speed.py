"""How fast this machine is: `tinyhd-benchmark`, or `python -m tinyhd.benchmark`.

Model only: maps per second of every backend, beside a plain PyTorch forward of the published layout (nn.Conv3d
everywhere, BatchNorm not folded, inference mode, float32, the same threads, the better of 1 and 4 clips at once).
End to end: annotating a file, beside FFmpeg re-encoding the same file with the same encoder settings.
The repeats of all contestants are interleaved, so that what else the machine does hits all alike; medians are given.
On NVIDIA GPUs also how fast the model alone could be, if nothing but the convolutions' reading and writing took time.
"""

import argparse
import copy
import json
import math
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tinyhd
from tinyhd.errors import InputError, TinyHDError
from tinyhd.inference.backends import BACKENDS, PRECISIONS, Backend, open_backend
from tinyhd.network.convert import CLIP_SHAPE, EXTRAS, is_installed
from tinyhd.network.model import TinyHD, plain_convolutions
from tinyhd.network.registry import DEFAULT_MODEL, MODELS
from tinyhd.network.weights import load_model
from tinyhd.options import EncoderOptions
from tinyhd.pipeline.annotate import annotate
from tinyhd.video.encoders import resolve_encoder
from tinyhd.video.reader import probe

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


class Eager:
    """The baseline: a network as it is written down, in PyTorch's eager mode; `clips` at once."""

    def __init__(self, model: TinyHD, clips: int) -> None:
        self.model = copy.deepcopy(model).eval()
        plain_convolutions(self.model, True)
        self.input = torch.randn(clips, *CLIP_SHAPE, device=next(model.parameters()).device)

    @torch.inference_mode()
    def __call__(self) -> None:
        self.model(self.input)
        _finish(self.input.device)


class _Run:
    """One call of a backend."""

    def __init__(self, maps: Backend, clips: int) -> None:
        self.maps, self.input = maps, torch.randn(clips, *CLIP_SHAPE)

    def __call__(self) -> None:
        _finish(self.maps(self.input).device)


def _finish(device: torch.device) -> None:
    """GPUs work on after the call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_model(
    model: TinyHD, backends: Sequence[str], precisions: Sequence[str], repeats: int, batch_size: int
) -> list[dict[str, Any]]:
    """Rows with `name`, `maps_per_second` and, where it is no baseline, its ratio to both baselines.

    The second baseline is only there for models that do not have the published layout: the same network with it (its
    weights do not matter).
    """
    baselines = {"eager, own layout": model}
    if model.config.output_stride != 1:
        published = TinyHD(replace(model.config, output_stride=1)).to(next(model.parameters()).device)
        baselines = {"eager, published layout": published, **baselines}
    runs: dict[str, Callable[[], object]] = {}
    clips: dict[str, int] = {}
    for name, network in baselines.items():
        for count in BASELINE_BATCHES:
            runs[f"{name}, {count} at once"] = Eager(network, count)
            clips[f"{name}, {count} at once"] = count
    for backend in backends:
        for precision in precisions:
            try:
                maps = open_backend(model, backend, precision)
            except TinyHDError as error:
                print(f"left out: {backend} {precision}: {error}", file=sys.stderr)
                continue
            runs[f"{backend} {precision}"] = _Run(maps, batch_size)
            clips[f"{backend} {precision}"] = batch_size
    seconds = interleaved(runs, repeats)
    rate = {
        name: model.config.maps_per_clip * clips[name] / statistics.median(times) for name, times in seconds.items()
    }
    rows: list[dict[str, Any]] = []
    best: dict[str, float] = {}
    for name in baselines:
        best[name] = max(rate[f"{name}, {count} at once"] for count in BASELINE_BATCHES)
        rows.append({"name": name, "maps_per_second": best[name], "is_baseline": True})
    for name in runs:
        if not isinstance(runs[name], Eager):
            ratios = {f"times {baseline}": rate[name] / best[baseline] for baseline in best}
            rows.append({"name": name, "maps_per_second": rate[name], "is_baseline": False, **ratios})
    return rows


def bytes_moved(model: TinyHD, dtype_bytes: int) -> int:
    """Bytes that the convolutions read and write for one clip: each one's input, weights and output once, as the
    network is written. Whatever runs convolution by convolution moves at least these; what lies between is not counted.

    Args:
        model: stays as it is; nothing is computed.
        dtype_bytes: of a number.
    """
    numbers = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal numbers
        numbers += inputs[0].numel() + output.numel() + sum(weights.numel() for weights in module.parameters())

    network = copy.deepcopy(model).to("meta").eval()
    plain_convolutions(network, True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.empty(1, *CLIP_SHAPE, device="meta"))
    return numbers * dtype_bytes


def bandwidth_limits(model: TinyHD, precisions: Sequence[str], bytes_per_second: float) -> dict[str, float]:
    """Maps per second at which `bytes_moved` alone take all the time, by precision."""
    maps = model.config.maps_per_clip
    return {
        precision: maps * bytes_per_second / bytes_moved(model, PRECISIONS[precision].itemsize)
        for precision in precisions
    }


def copy_bandwidth(device: torch.device, size: int = 2**30, repeats: int = 10) -> float:
    """Bytes per second that a CUDA device reads and writes in its own memory, together: the best of some copies.

    Args:
        size: bytes of each copy; far more than the device's caches hold.
    """
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = math.inf
    with torch.cuda.device(device):
        for _ in range(repeats + 1):  # the first is the warm-up, and no faster
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            target.copy_(source)
            ended.record()
            ended.synchronize()
            best = min(best, began.elapsed_time(ended) / 1000)
    return 2 * size / best


def measure_video(
    path: Path, model: TinyHD, backends: Sequence[str], repeats: int, ffmpeg: str | None
) -> list[dict[str, Any]]:
    """Rows with `name`, `frames_per_second` and `times_reencode`, the duration over that of FFmpeg's re-encoding."""
    frames = probe(path).frame_count or 0
    encoder = resolve_encoder(EncoderOptions())
    options = [part for key, value in encoder.options.items() for part in (f"-{key}", value)]
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], object]] = {}
        if ffmpeg is not None:
            command = [ffmpeg, "-y", "-loglevel", "error", "-i", str(path), "-an", "-c:v", encoder.name, *options]
            reencode = [*command, str(Path(folder) / "reencoded.mp4")]
            runs["ffmpeg re-encode"] = lambda: subprocess.run(reencode, check=True)
        for backend in backends:
            maps = open_backend(model, backend)  # once: opening is no part of what is measured
            runs[f"annotate, {backend}"] = lambda maps=maps: annotate(  # type: ignore[misc]
                path, Path(folder) / "annotated.mp4", model=maps, overwrite=True
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
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "tinyhd": tinyhd.__version__,
        "torch": torch.__version__,
    }
    for name in ("numba", "openvino", "onnxruntime"):
        if name not in EXTRAS or is_installed(name):
            found[name] = __import__(name).__version__
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser("tinyhd-benchmark", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help="measure end to end with this file too")
    add("--model", metavar="NAME", help="as of tinyhd-annotate")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    add("--backend", nargs="+", default=None, choices=BACKENDS[1:], help="default: all that are installed")
    add("--precision", nargs="+", choices=PRECISIONS, help="default: float32, and float16 on NVIDIA GPUs")
    add("--batch-size", type=int, default=1, metavar="N", help="clips at once (default: 1)")
    add("--repeats", type=int, default=5, metavar="N", help="default: 5")
    add("--ffmpeg", metavar="FILE", help="the ffmpeg to compare with, for VIDEO (default: imageio-ffmpeg's, or PATH's)")
    add("--json", metavar="FILE", help="write the results there")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except TinyHDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    model = load_model(options.model, options.device)
    device = next(model.parameters()).device
    here = BACKENDS[1:] if device.type == "cpu" else ("torch",)
    installed = [name for name in here if name not in EXTRAS or is_installed(name)]
    backends = options.backend or installed
    on_cuda = device.type == "cuda"
    precisions = options.precision or (["float32", "float16"] if on_cuda else ["float32"])
    result: dict[str, Any] = {"machine": machine(), "model": _name(options.model), "repeats": options.repeats}
    if options.video:
        ffmpeg = options.ffmpeg or _find_ffmpeg()
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        result["end_to_end"] = measure_video(Path(options.video), model, backends, options.repeats, ffmpeg)
        result["end_to_end_peak_memory_bytes"] = peak_memory_bytes()
        if on_cuda:
            result["end_to_end_peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    result["model_only"] = measure_model(model, backends, precisions, options.repeats, options.batch_size)
    if on_cuda:
        result["copy_bytes_per_second"] = bandwidth = copy_bandwidth(device)
        result["bandwidth_limit_maps_per_second"] = bandwidth_limits(model, precisions, bandwidth)
    _print(result)
    if options.json:
        try:
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{options.json!r} cannot be written: {error.strerror}.") from error
    return 0


def _name(model: str | None) -> str:
    """A model's name, without the folder it lies in."""
    name = model or DEFAULT_MODEL or ""
    return name if name in MODELS else Path(name).name


def _find_ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg
    except ImportError:
        return shutil.which("ffmpeg")
    found: str = imageio_ffmpeg.get_ffmpeg_exe()
    return found


def _print(result: Mapping[str, Any]) -> None:
    for row in result["model_only"]:
        ratios = [f"{value:5.1f} x {key.removeprefix('times ')}" for key, value in row.items() if "times" in key]
        print(f"{row['name']:<28}{row['maps_per_second']:8.1f} maps/s  {', '.join(ratios)}")
    for precision, rate in result.get("bandwidth_limit_maps_per_second", {}).items():
        bandwidth = f"the memory's {result['copy_bytes_per_second'] / 1e9:.0f} GB/s allow, convolution by convolution"
        print(f"{'limit, ' + precision:<28}{rate:8.1f} maps/s  {bandwidth}")
    for row in result.get("end_to_end", ()):
        ratio = "" if row["times_reencode"] is None else f"{row['times_reencode']:5.2f} x the re-encode's time"
        print(f"{row['name']:<28}{row['frames_per_second']:8.1f} frames/s  {ratio}")
    if result.get("end_to_end_peak_memory_bytes"):
        print(f"peak memory: {result['end_to_end_peak_memory_bytes'] / 2**20:.0f} MiB")
    if result.get("end_to_end_peak_gpu_memory_bytes"):
        print(f"peak memory of the GPU: {result['end_to_end_peak_gpu_memory_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
