"""Files that are written for one input."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tinyhd.errors import OptionError
from tinyhd.files import OUTPUT_TAG, AtomicOutput, StrPath, check_suffix, check_target, writing
from tinyhd.options import EncoderOptions
from tinyhd.render.grayscale import GrayVideoWriter, is_folder_name, open_maps_writer
from tinyhd.render.overlay import Overlay
from tinyhd.saliency.regions import Region
from tinyhd.saliency.resize import MAP_HEIGHT, MAP_WIDTH
from tinyhd.saliency.stats import StatsComputer
from tinyhd.saliency.table import StatsWriter
from tinyhd.video.frame import Frame, Seconds, VideoInfo
from tinyhd.video.png import encode_png
from tinyhd.video.writer import VideoWriter

_Sink = Callable[[Frame, np.ndarray], None]


def default_output(input: StrPath, is_still: bool, tag: str = OUTPUT_TAG) -> Path:
    """`clip.mp4` -> `clip.saliency.mp4`, `photo.jpg` -> `photo.saliency.png`, beside the input."""
    path = Path(input)
    return path.with_name(f"{path.stem}{tag}{'.png' if is_still else '.mp4'}")


def check_targets(input: StrPath, targets: Mapping[str, StrPath | None], overwrite: bool) -> None:
    """Say what is wrong with any of the outputs' names before anything is opened for writing."""
    named = {kind: Path(name) for kind, name in targets.items() if name is not None}
    for kind, path in named.items():
        check_target(path, [input], overwrite, folder=kind == "maps" and is_folder_name(targets[kind] or ""))
    if len({os.path.realpath(path) for path in named.values()}) < len(named):
        raise OptionError(f"two outputs have the same name, {os.fspath(next(iter(named.values())))!r}: choose another.")


@dataclass(frozen=True)
class Result:
    """What every action tells of what it has done with one input."""

    input: Path
    output: Path
    frames: int
    elapsed_seconds: float
    damaged: bool
    """Something of the input did not decode; what did is used."""
    warnings: tuple[str, ...]
    """Sentences about the input, such as what is damaged, and about what could not be done."""


class Outputs:
    """Everything that is written for one input; `stack` completes it, or removes it where there is an error.

    Attributes:
        warnings, damaged: about sound that could not be used.
    """

    def __init__(
        self, stack: contextlib.ExitStack, info: VideoInfo, start: Seconds | None, end: Seconds | None, overwrite: bool
    ) -> None:
        self._stack, self._info, self._start, self._end, self._overwrite = stack, info, start, end, overwrite
        self._raw: list[_Sink] = []
        self._shown: list[_Sink] = []
        self.warnings: list[str] = []

    @property
    def damaged(self) -> bool:
        return bool(self.warnings)

    def draw(self, target: Path, drawing: Overlay, encoder: EncoderOptions) -> None:
        """Write the annotated video, or still image."""
        write, self.warnings = frames_writer(
            self._stack,
            target,
            self._info,
            start=self._start,
            end=self._end,
            size=drawing.size,
            options=encoder,
            overwrite=self._overwrite,
        )
        # no cycle through `self`, which would keep the encoder until it is found
        self._shown.append(lambda frame, shown: write(drawing(frame.image, shown), frame.time))

    def save_maps(self, target: StrPath) -> None:
        """Write the maps."""
        shape = (MAP_HEIGHT, MAP_WIDTH)
        maps = open_maps_writer(target, self._info, shape, start=Fraction(self._start or 0), overwrite=self._overwrite)
        self._stack.enter_context(maps)
        (self._shown if isinstance(maps, GrayVideoWriter) else self._raw).append(maps.write)

    def write_stats(self, target: StrPath, regions: Sequence[Region] | None) -> None:
        """Write statistics of each map."""
        info = self._info
        compute = StatsComputer(info.width, info.height, float(info.sample_aspect_ratio), regions)
        table = self._stack.enter_context(StatsWriter(Path(target), overwrite=self._overwrite))
        self._raw.append(lambda frame, saliency: table.write(compute(saliency, frame.index, frame.time_seconds)))

    def write(self, frame: Frame, saliency: np.ndarray, shown: np.ndarray) -> None:
        """Take a frame, its map as the model gives it, and as it is displayed, in [0, 1]; both (H, W)."""
        for sink in self._raw:
            sink(frame, saliency)
        for sink in self._shown:
            sink(frame, shown)


def frames_writer(
    stack: contextlib.ExitStack, target: Path, info: VideoInfo, *, start: Seconds | None, overwrite: bool, **facts: Any
) -> tuple[Callable[[av.VideoFrame, Fraction], None], list[str]]:
    """What writes frames, with their times in the source, to a video or, for a still image, as PNG; `stack` completes
    or removes the file. And sentences about sound that could not be used, which may become more.

    Args:
        facts: more for `VideoWriter`, of a video.
    """
    if info.is_still:
        check_suffix(target, (".png",), "a still image")
        still = stack.enter_context(AtomicOutput(target, overwrite=overwrite))

        def write(image: av.VideoFrame, _time: Fraction) -> None:
            with writing(target):
                still.temporary.write_bytes(encode_png(image.to_ndarray(format="rgb24")))

        return write, []
    writer = VideoWriter(target, info, start=start, overwrite=overwrite, **facts)
    stack.enter_context(writer)
    origin = Fraction(start or 0)
    return (lambda image, time: writer.write(image, time - origin)), writer.warnings
