"""Whether a faster backend gives the same maps: every frame of videos with fixations, against PyTorch in float32.

    python -m training.backend_agreement --backend openvino --precision float32 bfloat16 --data muvfet

For each backend the lowest correlation (CC) of any frame's map with PyTorch's float32 one, and how far NSS moves, at
most in any frame and in the mean. A backend counts as the same where CC is 0.999 or more in every frame and the mean
NSS moves by 0.01 or less; otherwise the exit status is 1.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyhd.errors import OutputError, TinyHDError
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.predict import Prediction, predict_video
from tinyhd.options import BACKENDS, PRECISIONS, InferenceOptions
from tinyhd.video.reader import open_video
from training import metrics
from training.fixations import VideoFixations, read_video_fixations

LOWEST_CC = 0.999
LARGEST_NSS_CHANGE = 0.01


@dataclass
class Agreement:
    """Over all frames of some videos."""

    backend: str
    precision: str
    frames: int
    lowest_cc: float
    frames_with_fixations: int
    """NSS is of these."""
    mean_nss_torch: float
    mean_nss: float
    largest_nss_change: float
    """In any frame."""

    @property
    def is_same(self) -> bool:
        """Whether the backend counts as the same (see the module)."""
        moved = abs(self.mean_nss - self.mean_nss_torch)
        return self.lowest_cc >= LOWEST_CC and not moved > LARGEST_NSS_CHANGE


def compare(
    videos: Sequence[VideoFixations], reference: Backend, others: dict[tuple[str, str], Backend]
) -> list[Agreement]:
    """The agreement of each of `others`, keyed by backend and precision, with `reference`.

    Raises:
        InputError: a video cannot be read.
    """
    cc: dict[tuple[str, str], list[float]] = {key: [] for key in others}
    nss: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in others}
    for video in tqdm(videos, unit="video"):
        with open_video(video.path) as reader:
            time_base = reader.info.time_base
        runs: list[Iterator[Prediction]] = [predict_video(video.path, maps) for maps in (reference, *others.values())]
        for expected, *found in zip(*runs, strict=True):
            points = video.at(float(1000 * expected.frame.pts * time_base))
            for key, prediction in zip(others, found, strict=True):
                cc[key].append(float(np.corrcoef(expected.map.ravel(), prediction.map.ravel())[0, 1]))
                if len(points):
                    nss[key].append((metrics.nss(expected.map, points), metrics.nss(prediction.map, points)))
    result = []
    for (backend, precision), values in cc.items():
        pairs = np.array(nss[backend, precision]).reshape(-1, 2)
        means = pairs.mean(0) if len(pairs) else np.array([np.nan, np.nan])
        largest = float(np.abs(pairs[:, 1] - pairs[:, 0]).max(initial=0))
        result.append(Agreement(backend, precision, len(values), min(values), len(pairs), *map(float, means), largest))
    return result


def run(arguments: Sequence[str] | None = None) -> int:
    """What the command does; the exit status. Raises `TinyHDError` for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m training.backend_agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="name or path of the model (default: the one that comes with the package)")
    parser.add_argument("--data", required=True, type=Path, help="folder of videos with fixations.npz")
    parser.add_argument("--backend", nargs="+", default=["openvino"], choices=BACKENDS[1:], help="default: openvino")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS[1:], help="default: float32")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(arguments)

    def opened(backend: str, precision: str) -> Backend:
        device = "cpu" if backend == "openvino" else options.device
        return open_backend(InferenceOptions(options.model, device, backend, precision))

    others = {(backend, precision): opened(backend, precision)
              for backend in options.backend for precision in options.precision}  # fmt: skip
    rows = compare(read_video_fixations(options.data), opened("torch", "float32"), others)
    for row in rows:
        print(
            f"{row.backend} {row.precision}: {row.frames} frames, lowest CC {row.lowest_cc:.7f}, "
            f"NSS {row.mean_nss:.4f} (PyTorch {row.mean_nss_torch:.4f}), in a frame off by {row.largest_nss_change:.5f}"
        )
    if options.json:
        try:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        except OSError as error:
            raise OutputError(f"{str(options.json)!r} cannot be written: {error.strerror}.") from error
    return 0 if all(row.is_same for row in rows) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    try:
        return run(arguments)
    except TinyHDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
