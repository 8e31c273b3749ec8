"""A model for tests that need none: its map of a frame is the frame itself, in gray.

So a map carries the bar code of the frame it belongs to, and costs nothing to compute.
"""

import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyhd.network.config import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from tinyhd.network.model import TinyHD
    from tinyhd.saliency.track import SaliencyTrack

SCALE = 0.2
"""Map value of white."""


class FakeBackend:
    """What every `Backend` has besides its function."""

    maps_per_clip = 16
    map_shape = (192, 256)
    display_scale = SCALE
    sampling_rate = 0.0
    model_name = "fake"
    model_hash = "sha256:" + "0" * 64


class GrayModel(FakeBackend):
    """`Backend` with a map for each of a clip's 16 frames: (N, 3, 16, H, W) -> (N, 16, H, W) in 0 to `SCALE`."""

    def __init__(self, sampling_rate: float = 0.0) -> None:
        self.clips = 0
        self.sampling_rate = sampling_rate

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.clips += len(clips)
        mean, std = (np.array(v, np.float32)[:, None, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (clips * std + mean).clip(0, 1).mean(1) * np.float32(SCALE)


def small_network() -> "TinyHD":
    """A network with random weights that is quick and whose maps are not constant."""
    import torch

    from tinyhd.network.config import TinyHDConfig
    from tinyhd.network.model import TinyHD

    torch.manual_seed(0)
    model = TinyHD(TinyHDConfig(True, 4, ("d2",), output_stride=4)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("norm.weight"):
                weights.mul_(3)
    return model


def made_track(
    saliency: Callable[[float], np.ndarray],
    seconds: float = 10,
    rate: float = 10,
    *,
    cuts: Sequence[float] = (),
    size: tuple[int, int] = (640, 360),
) -> "SaliencyTrack":
    """A track of a video that does not exist, of this size, with the map `saliency(time)` at each of its samples."""
    from tinyhd.saliency.track import SaliencyTrack, TrackInfo, TrackSource
    from tinyhd.saliency.track_writer import TrackWriter

    memory = io.BytesIO()
    with TrackWriter(memory) as writer:
        for cut in cuts:
            writer.add_cut(cut)
        for k in range(round(seconds * rate)):
            writer.add(k / rate, np.asarray(saliency(k / rate), np.float32))
        writer.finish(TrackInfo(TrackSource("clip.mp4", 1, "0" * 64, *size), "made", "sha256:1"))
    return SaliencyTrack(memory)


def as_picture(saliency: np.ndarray) -> np.ndarray:
    """A map of `GrayModel`, (H, W), as the RGB picture that it was: uint8 (H, W, 3)."""
    gray = np.rint(np.clip(saliency / SCALE, 0, 1) * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


class RecordedAttempt:
    """`schedule.attempt` with a slow stand-in for the model; writes down when and where a task starts and ends."""

    def __init__(self, record: Path, seconds: float = 0.4) -> None:
        self._record, self._seconds = record, seconds

    def __call__(self, task: Any, options: Any, _backend: Any, progress: Any) -> dict[str, Any]:
        import ray

        from tinyhd.pipeline.schedule import attempt, job_of

        def note(kind: str) -> None:
            with self._record.open("a") as file:  # short lines are appended whole
                node = ray.get_runtime_context().get_node_id()
                file.write(f"{kind} {job_of(task).input.name} {node} {os.getpid()} {type(task).__name__}\n")

        class Slow(GrayModel):
            def __call__(self, clips: np.ndarray) -> np.ndarray:
                time.sleep(seconds)
                return super().__call__(clips)

        seconds = self._seconds
        note("start")
        fields = attempt(task, options, Slow(), progress)
        note("end")
        return fields


def recorded(record: Path) -> list[list[str]]:
    """What `RecordedAttempt` wrote down: (start or end, input, node, process, kind of task)."""
    return [line.split() for line in record.read_text().splitlines()] if record.exists() else []
