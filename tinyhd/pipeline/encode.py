"""From a video, and its track where there is one, to the same video encoded with more bits where people look."""

import contextlib
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tinyhd.applications.roi import MAP_SUFFIX, OffsetPlan, RoiMapWriter, plan_offsets
from tinyhd.errors import InputError
from tinyhd.files import ENCODED_TAG, StrPath
from tinyhd.inference.backends import Backend
from tinyhd.options import EncoderOptions, InferenceOptions, RoiOptions
from tinyhd.pipeline.analyze import Progress, Seconds, track_of
from tinyhd.pipeline.outputs import check_targets
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.encoders import resolve_encoder
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.reader import open_video, probe
from tinyhd.video.roi import ROI_SETTINGS, RegionMarker, check_roi_encoder
from tinyhd.video.writer import VideoWriter, open_writer


@dataclass(frozen=True)
class EncodeResult:
    """What `encode` has done."""

    input: Path
    output: Path
    frames: int
    elapsed_seconds: float
    damaged: bool
    """Something of the input did not decode; what did is encoded."""
    warnings: tuple[str, ...]
    """Sentences about the input."""
    bytes: int
    """Of the output."""


def default_output(input: StrPath) -> Path:
    """`clip.mkv` -> `clip.encoded.mp4`, beside the input."""
    path = Path(input)
    return path.with_name(f"{path.stem}{ENCODED_TAG}.mp4")


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
        inference: which model, where, on which frames.
        encoder: libx264, libx265 or libvpx-vp9, and its rate.
        backend: what `open_backend` gave, to be used again.
        track: what `analyze` made of this video: the network is not run.
        start, end: only this part, seconds after the container's start. The output starts at 0.
        overwrite: replace an output that exists; the input is never overwritten.
        progress: called after every frame; what it raises ends the work. Without a track each frame counts twice.

    Raises:
        InputError: the input or the track cannot be read, they do not belong together, or the input is a still image.
        OutputError: the output cannot be written.
        OptionError: a value that is not allowed, or an encoder that ignores regions.
        WeightsError: there is no such model.
    """
    began = time.perf_counter()
    options, encoder = options or RoiOptions(), encoder or EncoderOptions()
    target = default_output(input) if output is None else Path(output)
    map_only = target.suffix.lower() == MAP_SUFFIX
    if not map_only:
        check_roi_encoder(encoder)
    info = probe(input)
    if info.is_still:
        raise InputError(f"{info.path!r} is a still image, which has no bit rate: give a video.")
    check_targets(input, {"output": target}, overwrite)
    passes = 1 if track is not None else 2
    first = None if start is None else Fraction(start)
    with contextlib.ExitStack() as stack:
        writer: VideoWriter | None = None
        if not map_only:
            # opened first, so that what cannot work fails before the network runs
            writer = open_writer(
                target,
                info,
                size=RegionMarker(info).size,
                options=encoder,
                settings=ROI_SETTINGS[resolve_encoder(encoder).name],
                start=first,
                end=None if end is None else Fraction(end),
                overwrite=overwrite,
            )
            stack.enter_context(writer)
        planning = track_of(
            input,
            track,
            inference=inference,
            backend=backend,
            start=start,
            end=end,
            progress=(lambda done, total: progress(done, total and total * 2)) if progress else None,
        )
        with planning as seen:
            plan = plan_offsets(seen, options)
        sink: _Video | _Map
        sink = _Video(writer, info, plan, first or Fraction(0)) if writer else _Map(stack, target, plan, overwrite)
        frames = 0
        with open_video(input, start, end) as reader:
            for frame in reader:
                sink.write(frame)
                frames += 1
                if progress:
                    total = info.frame_count if start is None and end is None else None
                    progress(frames if passes == 1 else frames + (total or frames), total and total * passes)
        if not frames:
            raise InputError(f"{info.path!r} has no frame between the times given as start and end.")
        warnings = list(writer.warnings) if writer else []
        damaged = reader.damaged or bool(warnings)
        if writer and info.is_hdr:
            warnings.append("The frames are HDR; they were mapped to 8-bit BT.709.")
        if writer and resolve_encoder(encoder).name == "libvpx-vp9":
            warnings.append(
                "libvpx-vp9 follows regions in its realtime mode only, which costs more bits than they save."
            )
    return EncodeResult(
        input=Path(input),
        output=target,
        frames=frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=damaged,
        warnings=(*reader.warnings, *warnings),
        bytes=target.stat().st_size,
    )


class _Video:
    """Frames with their regions, into a video."""

    def __init__(self, writer: VideoWriter, info: VideoInfo, plan: OffsetPlan, origin: Fraction) -> None:
        self._writer, self._plan, self._origin = writer, plan, origin
        self._mark, self._index = RegionMarker(info), -1

    def write(self, frame: Frame) -> None:
        index = self._plan.index(frame.time_seconds)
        if index != self._index:
            self._mark.set_regions(self._plan.regions(index))
            self._index = index
        self._writer.write(self._mark(frame.image), frame.time - self._origin)


class _Map:
    """Frames' regions, into a file for SvtAv1EncApp."""

    def __init__(self, stack: contextlib.ExitStack, target: Path, plan: OffsetPlan, overwrite: bool) -> None:
        self._writer = stack.enter_context(RoiMapWriter(target, plan, overwrite=overwrite))

    def write(self, frame: Frame) -> None:
        self._writer.write(frame.time_seconds)
