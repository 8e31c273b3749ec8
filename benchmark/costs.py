"""What a model costs: parameters, multiply-adds and CPU time. Needs PyTorch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tinyhd.errors import InputError
from tinyhd.inference.backends import fixed_clip, open_backend
from tinyhd.inference.predict import predict_video
from tinyhd.inference.windows import Windowing
from tinyhd.network.config import CLIP_SHAPE
from tinyhd.network.model import plain_convolutions
from tinyhd.network.weights import load_model
from tinyhd.options import InferenceOptions
from tinyhd.video.reader import open_video
from training.unisal import FRAMES_A_SECOND, Unisal, maps_along

FRAME_RATE = 25
"""Frames a second of the video that multiply-adds are given for."""


@dataclass(frozen=True)
class Costs:
    """Independent of the machine."""

    parameters: int
    multiply_adds_per_second: float
    """For a second of video at `FRAME_RATE`, 16:9: at the model's own sampling rate, in default windows."""


def multiply_adds(run: Callable[[], object]) -> float:
    """Of the convolutions and matrix products in `run`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def samples_per_second(rate: float) -> Fraction:
    """That a model sees of a video at `FRAME_RATE` which asks for `rate` (0: every frame)."""
    counts = [Fraction(FRAME_RATE, step) for step in range(1, FRAME_RATE + 1)]
    return min(counts, key=lambda count: abs(count - Fraction(rate))) if rate else counts[0]


def network_costs(name: str) -> Costs:
    """Of a model that tinyhd takes.

    Raises:
        WeightsError: it cannot be loaded.
    """
    network = load_model(name)
    plain_convolutions(network, True)  # counted as usual, with the zeros that they are padded with
    config = network.config
    one = multiply_adds(lambda: network(torch.zeros(1, *CLIP_SHAPE)))
    windows = samples_per_second(config.sampling_rate) / Windowing(config.maps_per_clip).stride
    return Costs(sum(p.numel() for p in network.parameters()), float(one * windows))


def unisal_costs(unisal: Unisal) -> Costs:
    """Of UNISAL's video branch."""
    frame = np.zeros((360, 640, 3), np.uint8)
    one = multiply_adds(lambda: unisal.of_frame(frame, None))
    return Costs(sum(p.numel() for p in unisal.video.parameters()), float(one * samples_per_second(FRAMES_A_SECOND)))


def cpu_seconds_per_second(video: Path, run: Callable[[], object]) -> float:
    """CPU time of this process, all threads together, for a second of `video`.

    Raises:
        InputError: the file cannot be read, or is an image.
    """
    with open_video(video) as reader:
        times = [frame.time for frame in reader]
    if len(times) < 2:
        raise InputError(f"{str(video)!r} is too short to measure time with.")
    began = time.process_time()
    run()
    spent = time.process_time() - began
    return float(spent / ((times[-1] - times[0]) * Fraction(len(times), len(times) - 1)))


def tinyhd_cpu_time(video: Path, options: InferenceOptions) -> float:
    """Of decoding, preprocessing and the network, which is loaded and warm."""
    backend = open_backend(options)
    backend(fixed_clip())

    def run() -> None:
        for _ in predict_video(video, backend, options):
            pass

    return cpu_seconds_per_second(video, run)


def unisal_cpu_time(unisal: Unisal, video: Path) -> float:
    """Of decoding, preprocessing and UNISAL's video branch."""
    unisal.of_frame(np.zeros((360, 640, 3), np.uint8), None)
    return cpu_seconds_per_second(video, lambda: maps_along(unisal, video, pages=False))
