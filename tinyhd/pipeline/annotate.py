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

import numpy as np

from tinyhd.errors import InputError, OptionError
from tinyhd.files import StrPath
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.inference.predict import Prediction, predict_video
from tinyhd.inference.prefetch import prefetch
from tinyhd.network.config import TinyHDConfig
from tinyhd.network.model import TinyHD
from tinyhd.options import InferenceOptions
from tinyhd.pipeline.outputs import _check_targets, _Outputs, default_output
from tinyhd.render.colors import DEFAULT_COLORMAP
from tinyhd.render.normalize import NORMALIZATIONS, SmoothedRange, normalize_map
from tinyhd.render.overlay import Overlay
from tinyhd.saliency.regions import Region, read_regions
from tinyhd.saliency.writers import MapSpool
from tinyhd.video.encoders import EncoderSettings
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import VideoReader, open_video

T = TypeVar("T")

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
    input: StrPath,
    output: StrPath | None = None,
    *,
    model: StrPath | TinyHD | Backend | None = None,
    device: str = "auto",
    precision: str = "auto",
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
    save_maps: StrPath | None = None,
    stats: StrPath | None = None,
    regions: StrPath | Sequence[Region] | None = None,
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
        options = InferenceOptions(
            model=os.fspath(model) if isinstance(model, str | os.PathLike) else None,
            device=device,
            backend=backend,
            precision=precision,
            batch_size=batch_size,
            windowing=windowing,
            overlap=overlap,
            cuts=cuts,
        )
        network = open_backend(options) if model is None or isinstance(model, str | os.PathLike) else model
        predicted = predict_video(reader, network, options)
        # reading and the model have a thread each; drawing and writing stay in this one
        predictions: Iterator[Prediction] = stack.enter_context(contextlib.closing(prefetch(predicted, _PREDICT_AHEAD)))

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
    scale = getattr(network, "display_scale", TinyHDConfig.display_scale)
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
