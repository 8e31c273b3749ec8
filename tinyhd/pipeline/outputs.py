"""Files that are written for one input."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

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
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.png import encode_png
from tinyhd.video.writer import open_writer

_Sink = Callable[[Frame, np.ndarray], None]


def default_output(input: StrPath, is_still: bool) -> Path:
    """`clip.mp4` -> `clip.saliency.mp4`, `photo.jpg` -> `photo.saliency.png`, beside the input."""
    path = Path(input)
    return path.with_name(f"{path.stem}{OUTPUT_TAG}{'.png' if is_still else '.mp4'}")


def check_targets(input: StrPath, targets: Mapping[str, StrPath | None], overwrite: bool) -> None:
    """Say what is wrong with any of the outputs' names before anything is opened for writing."""
    named = {kind: Path(name) for kind, name in targets.items() if name is not None}
    for kind, path in named.items():
        check_target(path, [input], overwrite, folder=kind == "maps" and is_folder_name(targets[kind] or ""))
    if len({os.path.realpath(path) for path in named.values()}) < len(named):
        raise OptionError(f"two outputs have the same name, {os.fspath(next(iter(named.values())))!r}: choose another.")


class Outputs:
    """Everything that is written for one input; `stack` completes it, or removes it where there is an error.

    Attributes:
        warnings, damaged: about sound that could not be used.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        info: VideoInfo,
        start: float | Fraction | None,
        end: float | Fraction | None,
        overwrite: bool,
    ) -> None:
        self._stack, self._info, self._overwrite = stack, info, overwrite
        self._start = None if start is None else Fraction(start)
        self._end = None if end is None else Fraction(end)
        self._origin = self._start or Fraction(0)
        self._raw: list[_Sink] = []
        self._shown: list[_Sink] = []
        self.warnings: list[str] = []

    @property
    def damaged(self) -> bool:
        return bool(self.warnings)

    def draw(self, target: Path, drawing: Overlay, encoder: EncoderOptions) -> None:
        """Write the annotated video, or still image."""
        info, origin = self._info, self._origin
        if info.is_still:
            still = self._stack.enter_context(StillWriter(target, overwrite=self._overwrite))
            self._shown.append(lambda frame, shown: still.write(drawing(frame.image, shown)))
            return
        writer = open_writer(
            target,
            info,
            size=drawing.size,
            options=encoder,
            start=self._start,
            end=self._end,
            overwrite=self._overwrite,
        )
        self.warnings = writer.warnings
        self._stack.enter_context(writer)
        # no cycle through `self`, which would keep the encoder until it is found
        self._shown.append(lambda frame, shown: writer.write(drawing(frame.image, shown), frame.time - origin))

    def save_maps(self, target: StrPath) -> None:
        """Write the maps."""
        shape = (MAP_HEIGHT, MAP_WIDTH)
        maps = open_maps_writer(target, self._info, shape, start=self._origin, overwrite=self._overwrite)
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


class StillWriter(AtomicOutput):
    """Writes an annotated still image as PNG, as a video writer writes videos."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_suffix(path, (".png",), "a still image")
        super().__init__(path, overwrite=overwrite)

    def write(self, image: av.VideoFrame) -> None:
        with writing(self.path):
            self.temporary.write_bytes(encode_png(image.to_ndarray(format="rgb24")))
