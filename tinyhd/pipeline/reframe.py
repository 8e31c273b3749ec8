"""From a video, and its track where there is one, to a crop of another aspect that follows attention."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from tinyhd.applications.crop import PATH_SUFFIXES, CropPath, PathWriter, crop_size, read_path
from tinyhd.applications.reframing import plan_crop
from tinyhd.errors import InputError
from tinyhd.files import REFRAMED_TAG, StrPath
from tinyhd.inference.backends import Backend
from tinyhd.options import EncoderOptions, InferenceOptions, ReframeOptions
from tinyhd.pipeline.analyze import Progress, Seconds, of_two, second_pass, track_of
from tinyhd.pipeline.outputs import Result, check_targets, default_output, frames_writer
from tinyhd.render.crop import Box, CropRenderer, fills
from tinyhd.saliency.boxes import MovingBox, read_boxes
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import probe

_Sink = Callable[[Frame, Box], None]


@dataclass(frozen=True)
class ReframeResult(Result):
    """What `reframe` has done."""

    crop: CropPath
    size: tuple[int, int]
    """(width, height) of the result, pixels."""
    path: Path | None = None
    """Where the path of the crop was written."""


def reframe(
    input: StrPath,
    output: StrPath | None = None,
    *,
    options: ReframeOptions | None = None,
    inference: InferenceOptions | None = None,
    encoder: EncoderOptions | None = None,
    backend: Backend | None = None,
    track: StrPath | SaliencyTrack | None = None,
    path: StrPath | CropPath | None = None,
    keep: StrPath | Sequence[MovingBox] | None = None,
    preview: bool = False,
    save_path: StrPath | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ReframeResult:
    """Cut a video or still image to another aspect, by a crop that follows attention.

    Sound, times and metadata are kept; the result is upright and has square pixels. Nothing appears under its name
    before it is complete; after an error or Ctrl-C nothing is left.

    Args:
        input: a video, animation or still image.
        output: .mp4, .m4v or .mov (.png for a still image); .csv, .json or .sendcmd: only the path of the crop, see
            `PathWriter`; None: `input.reframed.mp4` beside the input.
        options: the aspect or size, padding, how the crop may move.
        path: an edited path of the crop, or a file for `read_path`, instead of planning one.
        keep: boxes that the crop has to hold, or a file for `read_boxes`.
        preview: draw the crop on the source instead of cutting it out.
        save_path: write the path of the crop there as well.

    The rest is as for `annotate`; without a track each frame counts twice.

    Raises:
        InputError: the input, the track, the path or the boxes cannot be read, or they do not belong together.
        OutputError: an output cannot be written.
        OptionError: a value that is not allowed, an aspect or box that does not fit.
        WeightsError: there is no such model.
    """
    began = time.perf_counter()
    options, encoder = options or ReframeOptions(), encoder or EncoderOptions()
    info = probe(input)
    target = default_output(input, info.is_still, REFRAMED_TAG) if output is None else Path(output)
    check_targets(input, {"output": target, "path": save_path}, overwrite)
    size = output_size(info, options)
    passes = 1 if track is not None or path is not None else 2
    with contextlib.ExitStack() as stack:
        job = _Outputs(stack, info, size, overwrite)
        job.open(target, options, encoder, preview, start, end)
        if save_path is not None:
            job.write_path(save_path)
        if path is not None:
            crop = path if isinstance(path, CropPath) else read_path(path, (info.width, info.height))
            _check_fit(crop, size, options, info)
        else:
            if isinstance(keep, str | os.PathLike):
                keep = read_boxes(keep, (info.width, info.height))
            planning = track_of(
                input, track, inference=inference, backend=backend, start=start, end=end, progress=of_two(progress)
            )
            with planning as seen:
                crop = plan_crop(seen, options, keep=keep or (), pixel_aspect=float(info.sample_aspect_ratio))

        def use(frame: Frame) -> None:
            job.write(frame, crop.at(frame.time_seconds))

        reader, frames = second_pass(input, info, use, start=start, end=end, passes=passes, progress=progress)
    return ReframeResult(
        input=Path(input),
        output=target,
        frames=frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=reader.damaged or bool(job.warnings),
        warnings=(*reader.warnings, *job.warnings, *crop.warnings),
        crop=crop,
        size=size,
        path=target if target.suffix.lower() in PATH_SUFFIXES else None if save_path is None else Path(save_path),
    )


def output_size(info: VideoInfo, options: ReframeOptions) -> tuple[int, int]:
    """(width, height) of the result: `size`, or that of the largest crop in square pixels. Raises `OptionError`."""
    pixel_aspect = float(info.sample_aspect_ratio)
    width, height = crop_size((info.width, info.height), options.ratio, pixel_aspect)
    return options.pixels or (max(2, 2 * round(width * pixel_aspect / 2)), height)


def _check_fit(crop: CropPath, size: tuple[int, int], options: ReframeOptions, info: VideoInfo) -> None:
    """Refuse crops of another source, or of another aspect where padding is not allowed."""
    if crop.size != (info.width, info.height):
        raise InputError(
            f"the path is of a source of {crop.size[0]}x{crop.size[1]}, {info.path!r} is {info.width}x{info.height}: "
            "use one that was made for it."
        )
    if options.pad != "none":
        return
    for time_seconds, box in zip(crop.times, crop.boxes, strict=True):
        if not fills(tuple(box), size, float(info.sample_aspect_ratio)):
            raise InputError(
                f"the crop at {time_seconds:.3f} s is {box[2]:g}x{box[3]:g}, which is not the aspect of the result, "
                f"{size[0]}x{size[1]}: change it, choose that aspect, or allow padding (--pad blur or color)."
            )


class _Outputs:
    """What is written for one input; `stack` completes it, or removes it where there is an error."""

    def __init__(self, stack: contextlib.ExitStack, info: VideoInfo, size: tuple[int, int], overwrite: bool) -> None:
        self._stack, self._info, self._size, self._overwrite = stack, info, size, overwrite
        self._sinks: list[_Sink] = []
        self.warnings: list[str] = []

    def open(
        self,
        target: Path,
        options: ReframeOptions,
        encoder: EncoderOptions,
        preview: bool,
        start: Seconds | None,
        end: Seconds | None,
    ) -> None:
        info = self._info
        if target.suffix.lower() in PATH_SUFFIXES:
            self.write_path(target)
            return
        size = (info.width + info.width % 2, info.height + info.height % 2) if preview else self._size
        draw = CropRenderer(info, size, options, preview=preview)
        shown = info if preview else replace(info, sample_aspect_ratio=Fraction(1))
        write, self.warnings = frames_writer(
            self._stack, target, shown, start=start, end=end, size=size, options=encoder, overwrite=self._overwrite
        )
        self._sinks.append(lambda frame, box: write(draw(frame.image, box), frame.time))

    def write_path(self, target: StrPath) -> None:
        info = self._info
        writer = PathWriter(target, (info.width, info.height), self._size, overwrite=self._overwrite)
        self._stack.enter_context(writer)
        self._sinks.append(lambda frame, box: writer.write(frame.time_seconds, box))

    def write(self, frame: Frame, box: Box) -> None:
        for sink in self._sinks:
            sink(frame, box)
