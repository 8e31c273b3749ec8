"""From a video, and its track where there is one, to an annotated video and what is kept beside it."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tinyhd.errors import OptionError
from tinyhd.files import StrPath, writing
from tinyhd.inference.backends import Backend
from tinyhd.options import EncoderOptions, InferenceOptions, RenderOptions
from tinyhd.pipeline.analyze import Analysis, Progress, Seconds, analysis
from tinyhd.pipeline.outputs import Outputs, Result, check_targets, default_output
from tinyhd.render.normalize import Normalizer
from tinyhd.render.overlay import Overlay
from tinyhd.saliency.regions import Region, read_regions
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.reader import probe


@dataclass(frozen=True)
class AnnotateResult(Result):
    """What `annotate` has done."""

    maps: Path | None = None
    stats: Path | None = None


def annotate(
    input: StrPath,
    output: StrPath | None = None,
    *,
    inference: InferenceOptions | None = None,
    render: RenderOptions | None = None,
    encoder: EncoderOptions | None = None,
    backend: Backend | None = None,
    track: StrPath | SaliencyTrack | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    save_maps: StrPath | None = None,
    stats: StrPath | None = None,
    regions: StrPath | Sequence[Region] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AnnotateResult:
    """Show where people look in a video or still image.

    Nothing appears under its name before it is complete; after an error or Ctrl-C nothing is left.

    Args:
        input: a video, animation or still image.
        output: .mp4, .m4v or .mov (.png for a still image); None: `input.saliency.mp4` beside the input.
        inference: which model, where, on which frames.
        render: how maps are drawn.
        encoder: how the video is encoded.
        backend: what `open_backend` gave, to be used again; `inference` then only says how windows follow each other.
        track: what `analyze` made of this video: the network is not run.
        start, end: only this part, seconds after the container's start. The output starts at 0.
        save_maps: keep the maps there; see `open_maps_writer`.
        stats: write `FrameStats` there, .csv or .jsonl.
        regions: for `stats`: a file for `read_regions`, or regions.
        overwrite: replace outputs that exist; the input is never overwritten.
        progress: called after every frame; what it raises ends the work. Normalizing by video counts each frame twice.

    Raises:
        InputError: the input or the track cannot be read, or they do not belong together.
        OutputError: an output cannot be written.
        OptionError: a value that is not allowed, or that this machine cannot do.
        WeightsError: there is no such model.
    """
    began = time.perf_counter()
    render, encoder = render or RenderOptions(), encoder or EncoderOptions()
    if regions is not None and stats is None:
        raise OptionError("regions are for the statistics: name a file for these as well, with stats (--stats).")
    named = read_regions(regions) if isinstance(regions, str | os.PathLike) else regions
    info = probe(input)
    target = default_output(input, info.is_still) if output is None else Path(output)
    check_targets(input, {"output": target, "maps": save_maps, "stats": stats}, overwrite)
    with contextlib.ExitStack() as stack:
        drawing = Overlay(info, render, for_video=not info.is_still)
        outputs = Outputs(stack, info, start, end, overwrite)
        if save_maps is not None:
            outputs.save_maps(save_maps)
        if stats is not None:
            outputs.write_stats(stats, named)
        outputs.draw(target, drawing, encoder)  # the last one is completed first; where that fails none is left

        if isinstance(track, str | os.PathLike):
            track = stack.enter_context(SaliencyTrack(track))
        by_video = render.normalize == "video" and not info.is_still
        counter = _Counter(progress, passes=2 if by_video and track is None else 1)
        look = partial(analysis, input, inference=inference, backend=backend, start=start, end=end)
        if by_video and track is None:
            track = stack.enter_context(_temporary_track(look, target.parent, counter))
        with look(track=track) as run:
            normalize = Normalizer(render.normalize, run.display_scale, track.info.value_range if track else None)
            for frame, saliency, is_cut in run:
                outputs.write(frame, saliency, normalize(saliency, frame.time_seconds, is_cut))
                counter.count(run.expected_frames)
    return AnnotateResult(
        input=Path(input),
        output=target,
        frames=run.frames,
        elapsed_seconds=time.perf_counter() - began,
        damaged=run.reader.damaged or outputs.damaged,
        warnings=(*run.reader.warnings, *outputs.warnings),
        maps=_path(save_maps),
        stats=_path(stats),
    )


def _path(name: StrPath | None) -> Path | None:
    return None if name is None else Path(name)


@contextlib.contextmanager
def _temporary_track(
    look: Callable[..., contextlib.AbstractContextManager[Analysis]], folder: Path, counter: "_Counter"
) -> Iterator[SaliencyTrack]:
    """The track of a video in a file without a name in `folder`, where there is room for the output too."""
    with writing(folder):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below
    with file:
        with look(keep=file) as run:
            for _ in run:
                counter.count(run.expected_frames)
        with SaliencyTrack(file) as track:
            yield track


class _Counter:
    """Tells `progress` about every frame."""

    def __init__(self, progress: Progress | None, passes: int) -> None:
        self._progress, self._passes = progress, passes
        self._done = 0

    def count(self, expected: int | None) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, None if expected is None else expected * self._passes)
