"""Files that are written for one input."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tinyhd.errors import OptionError
from tinyhd.files import OUTPUT_TAG, AtomicOutput, StrPath, cannot_write, check_suffix, check_target
from tinyhd.inference.predict import Prediction
from tinyhd.network.config import MAP_HEIGHT, MAP_WIDTH
from tinyhd.render.overlay import Overlay
from tinyhd.saliency.regions import Region
from tinyhd.saliency.stats import StatsComputer, StatsWriter
from tinyhd.saliency.writers import is_folder_name, open_maps_writer
from tinyhd.video.encoders import EncoderSettings
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.png import encode_png
from tinyhd.video.writer import VideoWriter

_Sink = Callable[[Frame, np.ndarray], None]


def default_output(input: StrPath, is_still: bool) -> Path:
    """`clip.mp4` -> `clip.saliency.mp4`, `photo.jpg` -> `photo.saliency.png`, beside the input."""
    path = Path(input)
    return path.with_name(f"{path.stem}{OUTPUT_TAG}{'.png' if is_still else '.mp4'}")


def _check_targets(
    input: StrPath, target: Path, save_maps: StrPath | None, stats: StrPath | None, overwrite: bool
) -> None:
    """Say what is wrong with any of the outputs' names before anything is opened for writing."""
    targets = [(target, False)]
    if save_maps is not None:
        targets.append((Path(save_maps), is_folder_name(save_maps)))
    if stats is not None:
        targets.append((Path(stats), False))
    for path, is_folder in targets:
        check_target(path, [input], overwrite, folder=is_folder)
    if len({os.path.realpath(path) for path, _ in targets}) < len(targets):
        raise OptionError(f"two outputs have the same name, {os.fspath(target)!r}: choose another for one of them.")


class _Outputs:
    """Everything that is written for one input; `stack` completes it, or removes it where there is an error."""

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
        self._on_map: list[_Sink] = []
        self._on_shown: list[_Sink] = []
        self.warnings: list[str] = []

    def draw(self, target: Path, drawing: Overlay, settings: EncoderSettings) -> None:
        """Write the annotated video, or picture."""
        writer: VideoWriter | _PictureWriter
        if self._info.is_still:
            writer = _PictureWriter(target, overwrite=self._overwrite)
        else:
            writer = VideoWriter(
                target,
                self._info,
                size=drawing.size,
                settings=settings,
                start=self._start,
                end=self._end,
                overwrite=self._overwrite,
            )
            self.warnings = writer.warnings
        self._stack.enter_context(writer)
        origin = self._origin  # no cycle through `self`, which would keep the encoder until it is found
        self._on_shown.append(lambda frame, shown: writer.write(drawing(frame.image, shown), frame.time - origin))

    def save_maps(self, target: StrPath) -> None:
        """Write the maps."""
        shape = (MAP_HEIGHT, MAP_WIDTH)
        maps = open_maps_writer(target, self._info, shape, start=self._origin, overwrite=self._overwrite)
        self._stack.enter_context(maps)
        (self._on_shown if maps.wants_display else self._on_map).append(maps.write)

    def write_stats(self, target: StrPath, regions: Sequence[Region] | None) -> None:
        """Write numbers about each map."""
        info = self._info
        compute = StatsComputer(info.width, info.height, float(info.sample_aspect_ratio), regions)
        table = self._stack.enter_context(StatsWriter(Path(target), overwrite=self._overwrite))
        self._on_map.append(lambda frame, saliency: table.write(compute(saliency, frame.index, frame.time_seconds)))

    def keeping(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Pass predictions on, writing what is made of raw maps."""
        for prediction in predictions:
            for sink in self._on_map:
                sink(prediction.frame, prediction.map)
            yield prediction

    def show(self, frame: Frame, shown: np.ndarray) -> None:
        """Write what is made of a map as displayed, (H, W) in [0, 1]."""
        for sink in self._on_shown:
            sink(frame, shown)


class _PictureWriter(AtomicOutput):
    """Writes an annotated picture as PNG, as `VideoWriter` writes videos."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_suffix(path, (".png",), "a picture")
        super().__init__(path, overwrite=overwrite)

    def write(self, image: av.VideoFrame, time: Fraction) -> None:
        try:
            self.temporary.write_bytes(encode_png(image.to_ndarray(format="rgb24")))
        except OSError as error:
            raise cannot_write(self.path, error) from error
