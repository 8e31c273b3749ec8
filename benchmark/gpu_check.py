"""What PyTorch does on this machine's GPU: `python -m benchmark.gpu_check`, in under 8 minutes, without PyAV.

For every precision and number of windows at once, in eager mode and through torch.compile: whether the maps agree with
the CPU's in float32 (lowest correlation of a map, and the largest difference in parts of the largest value), maps per
second as users have them (from main memory and back, one batch in flight) and with everything on the GPU, and the most
memory it took. What there is no time for is left out and said. The exit status is 1 where maps do not agree.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyhd.errors import OptionError, TinyHDError
from tinyhd.inference.backends import fixed_clip
from tinyhd.inference.torch_backend import DTYPES, DeviceError, TorchBackend
from tinyhd.network.weights import load_model, resolve_device
from tinyhd.version import __version__

BATCH_SIZES = (1, 4, 16)
LOWEST_CC = {"float32": 0.9999, "float16": 0.9995, "bfloat16": 0.9995}
TIMED_SECONDS = 3.0
REPEATS = 20


def rows(modes: Sequence[str], precisions: Sequence[str], batch_sizes: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """What is measured, the most useful first."""
    for mode in modes:
        for precision in precisions:
            for batch_size in batch_sizes:
                yield mode, precision, batch_size


def measure(backend: TorchBackend, batch_size: int, reference: np.ndarray) -> dict[str, Any]:
    """One row: agreement on `fixed_clip`, speed and memory. Raises `DeviceError` where the GPU cannot do it."""
    clips = np.repeat(fixed_clip(), batch_size, 0)
    on_gpu = backend.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(backend.device)
    began = time.perf_counter()
    found = backend(clips)[-1]
    first_seconds = time.perf_counter() - began
    cc = min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(found, reference, strict=True))
    maps = batch_size * backend.maps_per_clip
    row = {
        "lowest_cc": cc,
        "largest_difference": float(abs(found - reference).max() / reference.max()),
        "first_call_seconds": first_seconds,
        "maps_per_second": maps / _seconds(_in_flight(backend, clips)),
        "maps_per_second_on_device": maps / _seconds(_on_device(backend, clips)),
        "peak_memory_mib": torch.cuda.max_memory_allocated(backend.device) / 2**20 if on_gpu else None,
    }
    if backend.reduced_to is not None and backend.reduced_to < batch_size:
        raise DeviceError("out of memory")
    return row


def _in_flight(backend: TorchBackend, clips: np.ndarray) -> Callable[[], None]:
    """A call that begins one batch and waits for the one before, as predictions do."""
    start = backend.start
    if start is None:

        def call() -> None:
            backend(clips)

        return call
    waiting = [start(clips)]

    def step() -> None:
        waiting.append(start(clips))
        waiting.pop(0)()

    return step


def _on_device(backend: TorchBackend, clips: np.ndarray) -> Callable[[], None]:
    batch = torch.from_numpy(clips).to(backend.device)
    dtype = DTYPES[backend.precision]

    @torch.inference_mode()
    def step() -> None:
        with torch.autocast(backend.device.type, dtype, enabled=dtype != torch.float32):
            backend.model(batch)
        if backend.device.type == "cuda":
            torch.cuda.synchronize(backend.device)

    return step


def _seconds(step: Callable[[], None]) -> float:
    """Median duration of a call, after one that is not counted."""
    step()
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < TIMED_SECONDS:
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def check(
    model_name: str | None, device: torch.device, combinations: Sequence[tuple[str, str, int]], minutes: float
) -> list[dict[str, Any]]:
    """All rows, printed as they come; rows that could not be measured have a `note`."""
    began = time.perf_counter()
    reference = TorchBackend(load_model(model_name))(fixed_clip())[0]
    model = load_model(model_name, device)
    found: list[dict[str, Any]] = []
    longest = {"eager": 0.0, "compile": 0.0}
    print(f"{'':8} {'':9} {'windows':>7} {'maps/s':>9} {'on GPU':>9} {'lowest CC':>10} {'difference':>10} "
          f"{'memory':>10} {'first call':>10}")  # fmt: skip
    for mode, precision, batch_size in combinations:
        row: dict[str, Any] = {"mode": mode, "precision": precision, "batch_size": batch_size}
        row_began = time.perf_counter()
        if row_began - began + longest[mode] > 60 * minutes:
            row["note"] = "left out for want of time"
        else:
            try:
                backend = TorchBackend(model, precision)
                if mode == "compile":
                    torch._dynamo.reset()
                    backend.model = torch.compile(backend.model, dynamic=False)  # type: ignore[assignment]
                row |= measure(backend, batch_size, reference)
            except Exception as error:  # whatever a compiler or driver comes up with: the other rows go on
                row["note"] = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
            longest[mode] = max(longest[mode], time.perf_counter() - row_began)
        found.append(row)
        print(_line(row), flush=True)
    return found


def _line(row: dict[str, Any]) -> str:
    start = f"{row['mode']:8} {row['precision']:9} {row['batch_size']:7}"
    if "note" in row:
        return f"{start} {row['note'][:100]}"
    memory = "" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:.0f} MiB"
    return (
        f"{start} {row['maps_per_second']:9.1f} {row['maps_per_second_on_device']:9.1f} {row['lowest_cc']:10.6f} "
        f"{row['largest_difference']:10.5f} {memory:>10} {row['first_call_seconds']:9.1f}s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m benchmark.gpu_check", description=__doc__)
    parser.add_argument("--model", metavar="NAME", help="as of tinyhd annotate")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N, mps, or cpu to try the script")
    parser.add_argument("--precision", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    parser.add_argument("--batch-size", nargs="+", type=int, default=list(BATCH_SIZES), metavar="N")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--minutes", type=float, default=7.0, metavar="N", help="begin nothing after that (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
        if min(options.batch_size) < 1:
            raise OptionError("--batch-size must be 1 or more.")
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        print(f"tinyhd {__version__}, PyTorch {torch.__version__}, {gpu}")
        modes = ["eager"] if options.no_compile else ["eager", "compile"]
        result = check(options.model, device, list(rows(modes, options.precision, options.batch_size)), options.minutes)
    except TinyHDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wrong = [row for row in result if "lowest_cc" in row and not row["lowest_cc"] >= LOWEST_CC[row["precision"]]]
    if options.json:
        facts = {"gpu": gpu, "torch": torch.__version__, "tinyhd": __version__, "rows": result}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    for row in wrong:
        print(f"The maps of {row['mode']} {row['precision']} do not agree with the CPU's.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
