"""From a video file to an annotated one: reading, prediction, drawing and writing put together."""

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

from tinyhd.encode import EncoderSettings, VideoWriter, encode_png
from tinyhd.errors import InputError, OptionError
from tinyhd.files import MARK, PendingOutput, cannot_write, check_suffix, check_target
from tinyhd.maps import MapSpool, is_folder_name, open_maps_writer
from tinyhd.model import MAP_HEIGHT, MAP_WIDTH, TinyHD, TinyHDConfig
from tinyhd.overlay import DEFAULT_COLORMAP, NORMALIZATIONS, Overlay, SmoothedRange, normalize_map
from tinyhd.parallel import ahead
from tinyhd.predict import MapsFunction, Prediction, predict_video
from tinyhd.stats import Region, StatsComputer, StatsWriter, read_regions
from tinyhd.video import Frame, VideoInfo, VideoReader, open_video
from tinyhd.weights import load_model

T = TypeVar("T")
Name = str | os.PathLike[str]
_Sink = Callable[[Frame, np.ndarray], None]
_PREDICT_AHEAD = 12
"""Frames with maps that may wait to be drawn: those of about one window."""
Progress = Callable[[int, int | None], None]
"""Called with (frames done, frames in all or None where that is not known); normalising by video counts each twice."""


@dataclass(frozen=True)
class AnnotateResult:
    """What `annotate` has done."""

    input: Path
    output: Path
    frames: int
    elapsed_seconds: float
    damaged: bool
    """Something of the input did not decode; what did is annotated."""
    warnings: tuple[str, ...]
    """Sentences about the input, such as what is damaged."""
    maps: Path | None = None
    stats: Path | None = None


def annotate(
    input: Name,
    output: Name | None = None,
    *,
    model: Name | TinyHD | MapsFunction | None = None,
    device: str = "auto",
    precision: str = "float32",
    backend: str = "auto",
    batch_size: int | None = None,
    style: str = "overlay",
    colormap: str = DEFAULT_COLORMAP,
    opacity: float | None = None,
    normalize: str = "frame",
    codec: str = "h264",
    encoder: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    windowing: str = "crossfade",
    overlap: int | None = None,
    cuts: bool = True,
    save_maps: Name | None = None,
    stats: Name | None = None,
    regions: Name | Sequence[Region] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AnnotateResult:
    """Show where people look in a video or picture. The keywords are the flags of `tinyhd-annotate`.

    Nothing appears under its name before it is complete; after an error or Ctrl-C nothing is left.

    Args:
        input: a video, animation or picture.
        output: .mp4, .m4v or .mov (.png for a picture); None: `input.saliency.mp4` beside the input.
        model: a name or path for `load_model`, or what that returned; None: the model that comes with the package.
        device: what computes, where `model` is a name: auto, cpu, cuda, cuda:N or mps.
        precision, backend: see `backends.open_backend`; for a `TinyHD` or a name.
        style: overlay, heatmap, side-by-side or spotlight.
        colormap, opacity: see `Overlay`.
        normalize: what is drawn as full attention: the frame's own maximum, smoothed over about a second (frame), that
            of the whole video (video; takes two passes over the file), or a value kept with the model (none).
        codec, encoder, crf, preset: see `EncoderSettings`.
        start, end: only this part, seconds after the container's start. The output starts at 0.
        windowing, overlap, cuts, batch_size: see `predict_frames`.
        save_maps: keep the maps there; see `open_maps_writer`.
        stats: write `FrameStats` there, .csv or .jsonl.
        regions: for `stats`: a file for `read_regions`, or regions.
        overwrite: replace outputs that exist; the input is never overwritten.
        progress: called after every frame; what it raises ends the work.

    Raises:
        InputError: the input cannot be read.
        OutputError: an output cannot be written.
        OptionError: a value that is not allowed, or that this machine cannot do.
        WeightsError: there is no such model.
    """
    began = time.perf_counter()
    if normalize not in NORMALIZATIONS:
        raise OptionError(f"normalize is {normalize!r}; it must be one of {', '.join(NORMALIZATIONS)}.")
    if regions is not None and stats is None:
        raise OptionError("regions are for the statistics: name a file for these as well, with stats (--stats).")
    settings = EncoderSettings(codec, encoder, crf, preset)
    places = read_regions(regions) if isinstance(regions, str | os.PathLike) else regions
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_video(input, start, end))
        info = reader.info
        target = default_output(input, info.is_still) if output is None else Path(output)
        _check_targets(input, target, save_maps, stats, overwrite)
        drawing = Overlay(info, style=style, colormap=colormap, opacity=opacity, for_video=not info.is_still)
        outputs = _Outputs(stack, info, start, end, overwrite)
        outputs.draw(target, drawing, settings)
        if save_maps is not None:
            outputs.save_maps(save_maps)
        if stats is not None:
            outputs.write_stats(stats, places)
        network = load_model(model, device) if model is None or isinstance(model, str | os.PathLike) else model
        predicted = predict_video(
            reader,
            network,
            windowing=windowing,
            overlap=overlap,
            cuts=cuts,
            batch_size=batch_size,
            precision=precision,
            backend=backend,
        )
        # reading and the model have a thread each; drawing and writing stay in this one
        predictions: Iterator[Prediction] = stack.enter_context(contextlib.closing(ahead(predicted, _PREDICT_AHEAD)))

        two_passes = normalize == "video" and not info.is_still
        count = _Counter(progress, _expected_frames(info, start, end), passes=2 if two_passes else 1)
        predictions = outputs.keeping(count.through(predictions))
        shown: Iterator[tuple[Frame, np.ndarray]]
        if two_passes:
            spool = stack.enter_context(contextlib.closing(MapSpool(target.parent)))
            again = stack.enter_context(open_video(input, start, end))
            shown = count.through(_scaled_by_video(predictions, spool, again))
        elif normalize == "none":
            shown = _scaled_fixed(predictions, network)
        else:
            shown = _scaled_by_frame(predictions)
        frames = 0
        for frame, values in shown:
            outputs.show(frame, values)
            frames += 1
        if frames == 0:
            raise InputError(f"{os.fspath(input)!r} has no frame between the times given as start and end.")
        warnings = (*reader.warnings, *outputs.warnings)
    return AnnotateResult(
        input=Path(input),
        output=target,
        frames=frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=reader.damaged,
        warnings=warnings,
        maps=None if save_maps is None else Path(save_maps),
        stats=None if stats is None else Path(stats),
    )


def default_output(input: Name, is_still: bool) -> Path:
    """`clip.mp4` -> `clip.saliency.mp4`, `photo.jpg` -> `photo.saliency.png`, beside the input."""
    path = Path(input)
    return path.with_name(f"{path.stem}{MARK}{'.png' if is_still else '.mp4'}")


def _check_targets(input: Name, target: Path, save_maps: Name | None, stats: Name | None, overwrite: bool) -> None:
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


def _expected_frames(info: VideoInfo, start: float | Fraction | None, end: float | Fraction | None) -> int | None:
    """About how many frames will come."""
    if info.frame_count is None or (start is None and end is None):
        return info.frame_count
    if not info.duration_seconds:
        return None
    seconds = min(float(end) if end is not None else math.inf, info.duration_seconds) - float(start or 0)
    return max(0, round(info.frame_count * seconds / info.duration_seconds))


# ---- scaling of the maps, for display


def _scaled_by_frame(predictions: Iterable[Prediction]) -> Iterator[tuple[Frame, np.ndarray]]:
    smoothed = SmoothedRange()
    for frame, saliency, is_cut in predictions:
        yield frame, normalize_map(saliency, smoothed(saliency, frame.time_seconds, is_cut))


def _scaled_fixed(predictions: Iterable[Prediction], network: object) -> Iterator[tuple[Frame, np.ndarray]]:
    config = getattr(network, "config", None)
    scale = config.display_scale if isinstance(config, TinyHDConfig) else TinyHDConfig.display_scale
    for frame, saliency, _ in predictions:
        yield frame, normalize_map(saliency, (0.0, scale))


def _scaled_by_video(
    predictions: Iterable[Prediction], spool: MapSpool, again: VideoReader
) -> Iterator[tuple[Frame, np.ndarray]]:
    """Put all maps on disk, then read the video `again` beside them."""
    low, high = math.inf, -math.inf
    for _, saliency, _ in predictions:
        spool.append(saliency)
        low, high = min(low, float(saliency.min())), max(high, float(saliency.max()))
    for frame, saliency in itertools.zip_longest(again, spool):
        if frame is None or saliency is None:
            raise InputError(f"{again.info.path!r} was changed while it was read: try again.")
        yield frame, normalize_map(saliency, (low, high))


# ---- outputs


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

    def save_maps(self, target: Name) -> None:
        """Write the maps."""
        shape = (MAP_HEIGHT, MAP_WIDTH)
        maps = open_maps_writer(target, self._info, shape, start=self._origin, overwrite=self._overwrite)
        self._stack.enter_context(maps)
        (self._on_shown if maps.wants_display else self._on_map).append(maps.write)

    def write_stats(self, target: Name, regions: Sequence[Region] | None) -> None:
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


class _PictureWriter(PendingOutput):
    """Writes an annotated picture as PNG, as `VideoWriter` writes videos."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_suffix(path, (".png",), "a picture")
        super().__init__(path, overwrite=overwrite)

    def write(self, image: av.VideoFrame, time: Fraction) -> None:
        try:
            self.temporary.write_bytes(encode_png(image.to_ndarray(format="rgb24")))
        except OSError as error:
            raise cannot_write(self.path, error) from error


class _Counter:
    """Tells `progress` about every frame."""

    def __init__(self, progress: Progress | None, expected: int | None, passes: int) -> None:
        self._progress = progress
        self._total = None if expected is None else expected * passes
        self._done = 0

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items on; each counts once what follows is done with it."""
        for item in items:
            yield item
            self._done += 1
            if self._progress:
                self._progress(self._done, self._total)
