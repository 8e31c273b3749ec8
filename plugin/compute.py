"""Saliency of many videos, one after the other, into the dataset.

A video is written when it is complete: first its maps and its track appear, as a folder, then its frames' values, and
last the sample's own statistics. A run that ends early, for whatever reason, leaves whole videos and nothing of the
others, and the next one goes on from there.
"""

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.applications.moments import find_peaks, focused_spans, most_promising, scattered_spans
from tinyhd.errors import TinyHDError
from tinyhd.files import AtomicOutput, make_folder
from tinyhd.options import InferenceOptions
from tinyhd.pipeline.analyze import Backend, analysis
from tinyhd.render.grayscale import encode_display_map
from tinyhd.render.normalize import Normalizer
from tinyhd.render.stills import encode_still
from tinyhd.saliency.focus import FocusCurve, focus_curve, smoothed_curve
from tinyhd.saliency.stats import StatsComputer, VideoStats, VideoSummary
from tinyhd.saliency.track import TRACK_SUFFIX, SaliencyTrack
from tinyhd.video.playback import browser_plays

from . import appearance
from .boxes import SharesInBoxes
from .media import (
    THUMBNAIL,
    app_frames,
    app_rate,
    dataset_of,
    default_folder,
    metadata_of,
    time_labels,
    whole_videos,
    without_faint,
)
from .progress import Cancelled, Progress, ProgressTracker, RunSummary, count
from .runs import Run, list_runs, shown_by_others
from .settings import STATISTICS, Fields, Settings, detection_path, seen

_THUMBNAIL_SIDE = 240
TRACK = "saliency.track.npz"
"""In the folder of a video's maps: what the model saw, for everything else that is made of it."""

MOMENTS = 10
"""Key moments of a video, at most."""

FRAMES_AT_ONCE = 500
"""Frames whose values are written to the database in one go."""


@dataclass
class ComputeSummary(RunSummary):
    """What a run has done."""

    unplayable: int = 0
    """Videos that not every browser plays."""

    def notes(self) -> list[str]:
        if not self.unplayable:
            return []
        return [
            f"Not every browser plays {count(self.unplayable, 'video')}: “Make videos playable” "
            "(reencode_videos) cures that."
        ]


def compute(
    samples: SampleCollection,
    settings: Settings,
    *,
    backend: Backend | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, ComputeSummary]:
    """Do a run; yields progress now and then, returns what was done.

    Args:
        samples: videos, of a dataset or a view.
        backend: instead of what the settings name.
        is_stopped: asked after every frame whether to stop, besides `runs.cancel`.

    Raises:
        OptionError, WeightsError: the run cannot begin. What is wrong with a video is recorded with it.
    """
    dataset, videos = whole_videos(samples)
    fields = Fields(settings.field)
    for name in settings.detections:
        detection_path(dataset, name)
    paths = dict(zip(*samples.values(["id", "filepath"]), strict=True))
    outcome = ComputeSummary(fields.error)
    if not paths:
        return outcome
    maps_dir = Path(settings.maps_dir) if settings.maps_dir else default_folder(dataset, next(iter(paths.values())))
    backend = backend or tinyhd.open_backend(settings.inference)
    run = Run(dataset, settings, backend, maps_dir.absolute())
    make_folder(run.folder)
    with run:
        is_new = not dataset.has_frame_field(fields.field)
        fields.declare(dataset, settings.detections)
        if is_new:
            run.update(appearance=appearance.show(dataset, fields.heatmap, shown_by_others(dataset)))
        todo = wanted(samples, settings)
        _sweep(run.folder, videos, fields)
        outcome.skipped = len(paths) - len(todo)
        meter = ProgressTracker(len(todo))
        began = time.monotonic()
        try:
            for sample_id in todo:
                path = paths[sample_id]
                meter.begin(Path(path).name)
                try:
                    work = _Video(videos, sample_id, path, settings, run.folder)
                    with contextlib.closing(work.frames(backend, meter)) as steps:
                        for _ in steps:
                            if run.is_stopped() or is_stopped():
                                raise Cancelled
                            if meter.is_due():
                                yield meter.progress()
                    summary = work.save()
                except Cancelled:
                    raise
                except Exception as error:
                    message = outcome.note_failure(path, error)
                    videos.set_values(fields.error, {sample_id: message}, key_field="id")
                else:
                    outcome.completed += 1
                    outcome.frames += summary.frame_count
                    outcome.unplayable += not work.is_playable
                if run.is_stopped():
                    raise Cancelled
        except Cancelled:
            outcome.cancelled, run.status = True, "cancelled"
        except GeneratorExit:
            run.status = "cancelled"
            raise
        finally:
            outcome.seconds = time.monotonic() - began
            done = {"completed": outcome.completed, "skipped": outcome.skipped, "failed": outcome.failed}
            run.update(**done, frames=outcome.frames, seconds=round(outcome.seconds, 1))
    return outcome


def wanted(samples: SampleCollection, settings: Settings) -> list[str]:
    """The ids of the videos that a run will compute."""
    fields = Fields(settings.field)
    if not dataset_of(samples).has_sample_field(fields.stats):
        return list(samples.values("id"))
    ids, complete, errors = samples.values(["id", f"{fields.stats}.frame_count", fields.error])
    return [
        sample_id
        for sample_id, frames, error in zip(ids, complete, errors, strict=True)
        if not (settings.skip_existing and frames is not None) and not (settings.skip_failures and error is not None)
    ]


def _sweep(folder: Path, videos: SampleCollection, fields: Fields) -> None:
    """Remove what a run that was killed has left in the run's own folder."""
    used = set(videos.values(f"{fields.stats}.maps"))
    for child in folder.iterdir():
        if str(child) not in used:
            shutil.rmtree(child, ignore_errors=True)


def forget(videos: SampleCollection, sample_id: str, fields: Fields) -> str | None:
    """Take back what a run gave to a video, also one that was killed; the folder of its maps, which stays."""
    view = videos.select(sample_id)
    [folder], [values] = view.values([f"{fields.stats}.maps", f"{fields.heatmap}.spread"])
    if folder:
        videos.set_values(fields.stats, {sample_id: None}, key_field="id")
    if any(value is not None for value in values or ()):
        view.clear_frame_field(fields.field)
    return folder if isinstance(folder, str) else None


def find_track(
    videos: SampleCollection, sample_id: str, path: str, inference: InferenceOptions, backend: Backend
) -> Path | None:
    """The track of a video with the same model and options, and of the file as it is now, so that nothing needs to be
    computed again: one that a run of the dataset has kept, or that `tinyhd analyze` has put beside the file."""
    wanted = seen(inference.to_dict()) | {"model_hash": backend.model_hash}
    candidates = [Path(path).with_suffix(TRACK_SUFFIX)]
    for run in list_runs(dataset_of(videos)):
        if all(run.get(name) == value for name, value in wanted.items()):
            [folder] = videos.select(sample_id).values(f"{Fields(run['field']).stats}.maps")
            candidates.append(Path(folder or "") / TRACK)
    return next((track for track in candidates if track.is_file() and _is_of(track, path, wanted)), None)


def _is_of(track: Path, video: str, wanted: dict[str, object]) -> bool:
    try:
        info = tinyhd.probe(video)
        with SaliencyTrack(track) as found:
            found.check_source(video, info.width, info.height)
            found.check_range(None, None)
            known = found.info.inference | {"model_hash": found.info.model_hash}
    except TinyHDError:
        return False
    return all(known.get(name) == value for name, value in wanted.items())


def _thumbnail(image: av.VideoFrame, pixel_aspect: float) -> bytes:
    """A small picture of a frame, as it looks: JPEG."""
    scale = min(1.0, _THUMBNAIL_SIDE / max(image.width * pixel_aspect, image.height))
    width, height = max(1, round(image.width * pixel_aspect * scale)), max(1, round(image.height * scale))
    return encode_still(image.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray(), "jpeg")


class _Video:
    """One video of a run."""

    def __init__(self, videos: SampleCollection, sample_id: str, path: str, settings: Settings, folder: Path) -> None:
        self._videos, self._id, self._path = videos, sample_id, path
        self._settings, self._fields = settings, Fields(settings.field)
        self._target = folder / f"{sample_id}-{secrets.token_hex(4)}"  # browsers keep images by name
        self._names: list[str] = []  # of frames' maps
        self._rows: list[tuple[float, ...]] = []  # frames' times, and `STATISTICS` without focus
        self._shown: list[int] = []  # the frame at each frame number of the App
        self._boxes = [SharesInBoxes(videos, sample_id, name, settings.field) for name in settings.detections]
        [self._metadata] = self._view().values("metadata")
        self.is_playable = True

    def frames(self, backend: Backend, meter: ProgressTracker) -> Generator[None]:
        """Compute everything, frame by frame; the maps have their names afterwards."""
        with AtomicOutput(self._target, folder=True) as output:
            track = output.temporary / TRACK
            known = find_track(self._videos, self._id, self._path, self._settings.inference, backend)
            if known:
                shutil.copyfile(known, track)
            elif self._settings.normalize == "video":  # its range has to be known first
                with analysis(self._path, inference=self._settings.inference, backend=backend, keep=track) as run:
                    for _ in run:
                        meter.frames = 2 * run.expected_frames if run.expected_frames else None
                        meter.frame()
                        yield
            yield from self._store(backend, track, output.temporary, meter)

    def _store(self, backend: Backend, track: Path, folder: Path, meter: ProgressTracker) -> Generator[None]:
        """The maps of all frames as images, and their statistics."""
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(SaliencyTrack(track)) if track.exists() else None
            run = stack.enter_context(
                analysis(
                    self._path,
                    inference=self._settings.inference,
                    backend=backend,
                    track=found,
                    keep=None if found else track,
                )
            )
            self._info = info = run.info
            meter.frames = meter.frames or run.expected_frames
            shape = (info.width, info.height, float(info.sample_aspect_ratio))
            compute, self._stats = StatsComputer(*shape), VideoStats(*shape)
            normalize = Normalizer(
                self._settings.normalize, run.display_scale, found.info.value_range if found else None
            )
            name, stride, best = "", self._settings.stride, 0.0
            self._rate = app_rate(self._metadata, info)
            for numbers, (frame, saliency, is_cut) in app_frames(run, self._rate, info):
                stats = compute(saliency, frame.index, frame.time_seconds)
                temporal = self._stats.add(saliency, stats, is_cut)
                if stats.focus > 1.05 * best:
                    best = stats.focus
                    (folder / THUMBNAIL).write_bytes(_thumbnail(frame.image, shape[2]))
                shown = without_faint(normalize(saliency, frame.time_seconds, is_cut))
                if frame.index % stride == 0:
                    name = f"{frame.index + 1:06d}.png"
                    png = encode_display_map(shown, round(info.width * info.sample_aspect_ratio), info.height)
                    (folder / name).write_bytes(png)
                self._names.append(name)
                self._rows.append(
                    (
                        frame.time_seconds,
                        stats.entropy_bits,
                        stats.spread,
                        temporal.center_share,
                        stats.peak_x,
                        stats.peak_y,
                        temporal.peak_speed,
                    )
                )
                for number in numbers:
                    self._shown.append(frame.index)
                    for boxes in self._boxes:
                        boxes.add(number, saliency)
                meter.frame()
                yield
            self.is_playable = browser_plays(info)
            self._warnings = list(run.reader.warnings)
        if not self.is_playable:
            self._warnings.append(f"Not every browser plays {info.codec} in this container.")
        with SaliencyTrack(track) as kept:
            self._columns, self._curve = smooth_columns(np.array(self._rows), kept)

    def save(self) -> VideoSummary:
        """Write to the database."""
        summary = self._stats.summary()
        try:
            old = forget(self._videos, self._id, self._fields)
            self._save_frames()
            for boxes in self._boxes:
                boxes.save()
            known = isinstance(self._metadata, fo.VideoMetadata) and self._metadata.frame_rate
            fills = not (known and self._metadata.frame_width)
            stats = fo.DynamicEmbeddedDocument(
                **summary.__dict__,
                maps=str(self._target),
                warnings=self._warnings,
                filled_metadata=fills,
            )
            if fills:
                self._set("metadata", metadata_of(self._info, summary.frame_count))
            self._set(self._fields.error, None)
            self._set(self._fields.moments, self._moments())
            self._set(self._fields.stats, stats)
        except BaseException:
            shutil.rmtree(self._target, ignore_errors=True)
            raise
        if old:
            shutil.rmtree(old, ignore_errors=True)
        return summary

    def _set(self, name: str, value: object) -> None:
        self._videos.set_values(name, {self._id: value}, key_field="id")

    def _view(self) -> SampleCollection:
        return self._videos.select(self._id)

    def _save_frames(self) -> None:
        numbers = iter(enumerate(self._shown, start=1))
        while chunk := list(islice(numbers, FRAMES_AT_ONCE)):
            labels = {
                number: fo.Heatmap(
                    map_path=str(self._target / self._names[index]),
                    **{name: float(column[index]) for name, column in self._columns.items()},
                )
                for number, index in chunk
            }
            self._videos.set_values(self._fields.heatmap, {self._id: labels}, key_field="id", expand_schema=False)

    def _moments(self) -> fo.TemporalDetections:
        """Labels on the time line."""
        peaks = most_promising(find_peaks(self._curve), MOMENTS)
        found = [(peak.start_seconds, peak.end_seconds, peak.focus / 100) for peak in peaks]
        spans = focused_spans(self._curve), scattered_spans(self._curve)
        return time_labels(self._info, self._rate, len(self._shown), found, *spans)


_SMOOTHED = ("entropy_bits", "spread", "center_share")


def smooth_columns(rows: np.ndarray, track: SaliencyTrack) -> tuple[dict[str, np.ndarray], FocusCurve]:
    """Statistics by name, one value for each frame, free from the rhythm of the network's windows; and the focus.

    Args:
        rows: (N, 7): each frame's time in seconds, and its `STATISTICS` besides focus.
        track: of the video.
    """
    times, *values = rows.T
    columns = dict(zip([name for name in STATISTICS if name != "focus"], values, strict=True))
    curve = focus_curve(track)
    columns["focus"] = np.interp(times, curve.times, curve.smooth)
    for name in _SMOOTHED:
        at_samples = np.interp(curve.times, times, columns[name])
        columns[name] = np.interp(times, curve.times, smoothed_curve(curve.times, at_samples, track.cuts).smooth)
    return columns, curve
