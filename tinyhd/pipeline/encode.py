"""From a video, and its track where there is one, to the same video encoded with more bits where people look."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from tinyhd.applications.roi import MAP_SUFFIX, OffsetPlan, RoiMapWriter, plan_offsets
from tinyhd.errors import InputError
from tinyhd.files import ENCODED_TAG, StrPath
from tinyhd.inference.backends import Backend
from tinyhd.options import EncoderOptions, InferenceOptions, RoiOptions
from tinyhd.pipeline.analyze import Progress, Seconds, of_two, second_pass, track_of
from tinyhd.pipeline.outputs import Result, check_targets, default_output, frames_writer
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.encoders import resolve_encoder
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import probe
from tinyhd.video.roi import ROI_SETTINGS, RegionMarker, check_roi_encoder


@dataclass(frozen=True)
class EncodeResult(Result):
    """What `encode` has done."""

    bytes: int
    """Of the output."""


def encode(
    input: StrPath,
    output: StrPath | None = None,
    *,
    options: RoiOptions | None = None,
    inference: InferenceOptions | None = None,
    encoder: EncoderOptions | None = None,
    backend: Backend | None = None,
    track: StrPath | SaliencyTrack | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> EncodeResult:
    """Encode a video anew, with more of its bits where people look.

    Sound, times and metadata are kept; frames become upright, progressive and 8-bit. With `crf` the file becomes
    smaller, with `bitrate` what is looked at becomes better. Nothing appears under its name before it is complete;
    after an error or Ctrl-C nothing is left.

    Args:
        input: a video or animation.
        output: .mp4, .m4v or .mov; .txt: no video but a map of regions for SvtAv1EncApp, see `RoiMapWriter`; None:
            `input.encoded.mp4` beside the input.
        options: how strongly what is looked at is favored.
        encoder: libx264, libx265 or libvpx-vp9, and its rate.

    The rest is as for `annotate`; without a track each frame counts twice.

    Raises:
        InputError: the input or the track cannot be read, they do not belong together, or the input is a still image.
        OutputError: the output cannot be written.
        OptionError: a value that is not allowed, or an encoder that ignores regions.
        WeightsError: there is no such model.
    """
    began = time.perf_counter()
    options, encoder = options or RoiOptions(), encoder or EncoderOptions()
    target = default_output(input, False, ENCODED_TAG) if output is None else Path(output)
    map_only = target.suffix.lower() == MAP_SUFFIX
    if not map_only:
        check_roi_encoder(encoder)
    info = probe(input)
    if info.is_still:
        raise InputError(f"{info.path!r} is a still image, which has no bit rate: give a video.")
    check_targets(input, {"output": target}, overwrite)
    passes = 1 if track is not None else 2
    sound: list[str] = []
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        if not map_only:
            # opened first, so that what cannot work fails before the network runs
            facts = {"size": RegionMarker(info).size, "settings": ROI_SETTINGS[resolve_encoder(encoder).name]}
            write, sound = frames_writer(
                stack, target, info, start=start, end=end, options=encoder, overwrite=overwrite, **facts
            )
        planning = track_of(
            input, track, inference=inference, backend=backend, start=start, end=end, progress=of_two(progress)
        )
        with planning as seen:
            plan = plan_offsets(seen, options)
        if map_only:
            table = stack.enter_context(RoiMapWriter(target, plan, overwrite=overwrite))
            use: Callable[[Frame], None] = lambda frame: table.write(frame.time_seconds)  # noqa: E731
        else:
            use = _Marked(write, info, plan)
        reader, frames = second_pass(input, info, use, start=start, end=end, passes=passes, progress=progress)
    if not map_only and info.is_hdr:
        notes.append("The frames are HDR; they were mapped to 8-bit BT.709.")
    if not map_only and resolve_encoder(encoder).name == "libvpx-vp9":
        notes.append("libvpx-vp9 follows regions in its realtime mode only, which costs more bits than they save.")
    return EncodeResult(
        input=Path(input),
        output=target,
        frames=frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=reader.damaged or bool(sound),
        warnings=(*reader.warnings, *sound, *notes),
        bytes=target.stat().st_size,
    )


class _Marked:
    """Frames with their regions, into a video."""

    def __init__(self, write: Callable[[av.VideoFrame, Fraction], None], info: VideoInfo, plan: OffsetPlan) -> None:
        self._write, self._plan = write, plan
        self._mark, self._index = RegionMarker(info), -1

    def __call__(self, frame: Frame) -> None:
        index = self._plan.index(frame.time_seconds)
        if index != self._index:
            self._mark.set_regions(self._plan.regions(index))
            self._index = index
        self._write(self._mark(frame.image), frame.time)
