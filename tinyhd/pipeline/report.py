"""From videos, and their tracks where there are some, to a report: one HTML file, and JSON beside it."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tinyhd.applications.report import ATTENDED_SHARE, Difference, VideoFigures, differences, figures
from tinyhd.applications.report_page import ModelFacts, StripFrame, as_json, html
from tinyhd.errors import InputError, OptionError
from tinyhd.files import StrPath, check_suffix, check_target, write_file
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.options import InferenceOptions, RenderOptions
from tinyhd.pipeline.analyze import Progress, track_of
from tinyhd.pipeline.frames import frames_in
from tinyhd.pipeline.moments import rounded
from tinyhd.render.normalize import normalize_map
from tinyhd.render.overlay import Overlay
from tinyhd.render.stills import encode_still, scaled
from tinyhd.saliency.boxes import MovingBox, read_boxes
from tinyhd.saliency.track import SaliencyTrack
from tinyhd.video.frame import VideoInfo
from tinyhd.video.reader import probe

_STRIP, _STRIP_SIDE = 10, 320
"""Frames of a film strip, and their longer side in pixels."""

Regions = StrPath | Sequence[MovingBox]


@dataclass(frozen=True)
class ReportResult:
    """What `report` has found and written."""

    output: Path
    json: Path
    videos: tuple[VideoFigures, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    damaged: bool
    elapsed_seconds: float


def report(
    inputs: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    regions: Regions | Sequence[Regions] | None = None,
    tracks: Sequence[StrPath | SaliencyTrack] | None = None,
    threshold: float = ATTENDED_SHARE,
    title: str | None = None,
    inference: InferenceOptions | None = None,
    backend: Backend | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ReportResult:
    """Write a report about attention in one or more videos; the first is what others are compared with.

    Args:
        inputs: videos or animations.
        output: ends in .html; all numbers go to a file of the same name that ends in .json.
        regions: places of interest: a file for `read_boxes` or boxes, for all videos; or a list with one of these for
            each video.
        tracks: what `analyze` made of each video: the network is not run.
        threshold: share of the attention from which on a region counts as attended, above 0 and below 1.
        title: of the page.

    The rest is as for `annotate`.

    Raises:
        InputError: an input, a track or regions cannot be read, they do not belong together, or it is a still image.
        OutputError: an output cannot be written.
        OptionError: a value that is not allowed, a region outside the frame, or what draws charts is not installed.
        WeightsError: there is no such model.
    """
    began = time.perf_counter()
    files = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    page = Path(output)
    check_suffix(page, (".html", ".htm"), "a report")
    table = page.with_suffix(".json")
    for path in (page, table):
        check_target(path, files, overwrite)
    if not files:
        raise OptionError("a report needs at least one video.")
    if tracks is not None and len(tracks) != len(files):
        raise OptionError(f"there are {len(files)} videos and {len(tracks)} tracks: give one for each.")
    infos = [probe(file) for file in files]
    if still := [info for info in infos if info.is_still]:
        raise InputError(f"{still[0].path!r} is a still image: name a video.")
    places = _regions(regions, infos)
    if tracks is None:
        backend = backend or open_backend(inference or InferenceOptions())
    names = _distinct([Path(file).name for file in files])
    videos, strips, warnings, damaged = [], [], [], False
    for number, (file, info) in enumerate(zip(files, infos, strict=True)):
        track = tracks[number] if tracks is not None else None
        with track_of(file, track, inference=inference, backend=backend, progress=progress) as seen:
            video = figures(seen, places[number], name=names[number], threshold=threshold)
            videos.append(video)
            strips.append(_film_strip(file, info, seen, video))
            warnings += [f"{names[number]}: {warning}" for warning in seen.info.warnings]
            damaged |= seen.info.damaged
    if len({video.info.model_hash for video in videos}) > 1:
        raise InputError("the tracks were made by different models, which cannot be compared: analyze with one model.")
    found = differences(videos)
    model = model_facts(videos[0].info.model_hash)
    text = html(videos, strips, found, model, title=title, threshold=threshold)
    content = rounded(as_json(videos, found, model, threshold))
    write_file(page, text.encode())
    write_file(table, json.dumps(content, ensure_ascii=False).encode())
    return ReportResult(
        output=page,
        json=table,
        videos=tuple(videos),
        differences=tuple(found),
        warnings=tuple(warnings),
        damaged=damaged,
        elapsed_seconds=time.perf_counter() - began,
    )


def model_facts(model_hash: str) -> ModelFacts:
    """What is on record about a model that comes with the package; nothing about others."""
    for file in resources.files("tinyhd").joinpath("models").iterdir():
        if file.name.endswith(".json"):
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts.get("model_hash") == model_hash:
                return ModelFacts(tuple(facts["measured"]), facts.get("focus", ""), tuple(facts["limits"]))
    return ModelFacts()


def _regions(regions: Regions | Sequence[Regions] | None, infos: Sequence[VideoInfo]) -> list[list[MovingBox]]:
    """Those of each video."""
    if regions is None:
        return [[] for _ in infos]
    is_one = isinstance(regions, str | os.PathLike) or all(isinstance(each, MovingBox) for each in regions)
    each_video: list = [regions] * len(infos) if is_one else list(regions)  # type: ignore[arg-type]
    if len(each_video) == 1:
        each_video *= len(infos)
    if len(each_video) != len(infos):
        raise OptionError(
            f"there are {len(infos)} videos and {len(each_video)} files of regions: give one, or one each."
        )
    return [
        read_boxes(given, (info.width, info.height)) if isinstance(given, str | os.PathLike) else list(given)
        for given, info in zip(each_video, infos, strict=True)
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with a number where one comes again."""
    return [f"{name} ({names[: k + 1].count(name)})" if name in names[:k] else name for k, name in enumerate(names)]


def _film_strip(file: StrPath, info: VideoInfo, track: SaliencyTrack, video: VideoFigures) -> list[StripFrame]:
    """Frames from about the middles of equal parts of the video, with their heat maps."""
    middles = video.start_seconds + video.duration_seconds * (np.arange(_STRIP) + 0.5) / _STRIP
    times = sorted({float(video.curve.times[np.abs(video.curve.times - middle).argmin()]) for middle in middles})
    draw = Overlay(info, RenderOptions(), for_video=False)
    width, height = info.width * float(info.sample_aspect_ratio), float(info.height)
    scale = min(1.0, _STRIP_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    found: list[StripFrame] = []
    for frame, _ in frames_in(file, [(at, at) for at in times]):
        (saliency,) = track.maps_at([frame.time_seconds])
        shown = normalize_map(saliency, (float(saliency.min()), float(saliency.max())))
        pictures = (frame.to_rgb(), draw(frame.image, shown).to_ndarray(format="rgb24"))
        plain, heat = (encode_still(scaled(pixels, *size), "jpeg") for pixels in pictures)
        value = float(np.interp(frame.time_seconds, video.curve.times, video.curve.smooth))
        found.append(StripFrame(frame.time_seconds, value, plain, heat))
    return found
