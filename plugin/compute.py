"""Saliency of many videos, one after the other, into the dataset.

A video is written when it is complete: first its maps appear, as a folder, then its frames' values, and last the
sample's own numbers. A run that ends early, for whatever reason, leaves whole videos and nothing of the others, and the
next one goes on from there.
"""

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.files import AtomicOutput, make_folder
from tinyhd.inference.backends import Backend
from tinyhd.inference.predict import predict_video
from tinyhd.options import InferenceOptions
from tinyhd.render.grayscale import encode_display_map
from tinyhd.render.normalize import SmoothedRange, normalize_map
from tinyhd.saliency.regions import share_in_boxes
from tinyhd.saliency.stats import StatsComputer, VideoStats, VideoSummary
from tinyhd.video.frame import VideoInfo
from tinyhd.video.playback import FrameClock, browser_plays
from tinyhd.video.reader import VideoReader, open_video

from .media import all_videos, check_videos, dataset_of, default_folder, metadata_of
from .progress import Cancelled, Progress, ProgressTracker, RunSummary, count
from .runs import Run
from .settings import Fields, Settings, detection_path

_FRAMES_AT_ONCE = 500
"""Frames whose values are written to the database in one go."""


@dataclass
class ComputeSummary(RunSummary):
    """What a run has done."""

    inexact: int = 0
    """Videos whose frames the App shows at slightly wrong times: variable frame rate, or a late first frame."""
    unplayable: int = 0
    """Videos that browsers do not play."""

    def notes(self) -> list[str]:
        notes = []
        if self.inexact:
            notes.append(
                f"{count(self.inexact, 'video')} with a variable frame rate or a late first frame: the App counts "
                "frames at a constant rate, so heat maps are shown a little early or late there. "
                "“Make videos playable” (reencode_videos) cures that."
            )
        if self.unplayable:
            notes.append(
                f"{count(self.unplayable, 'video')} that browsers cannot play: “Make videos playable” "
                "(reencode_videos) cures that."
            )
        return notes


def compute(
    samples: SampleCollection,
    settings: Settings,
    *,
    network: Backend | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, ComputeSummary]:
    """Do a run; yields progress now and then, returns what was done.

    Args:
        samples: videos, of a dataset or a view.
        network: instead of the model that the settings name.
        is_stopped: asked after every frame whether to stop, besides `runs.cancel`.

    Raises:
        OptionError, WeightsError: the run cannot begin. What is wrong with a video is recorded with it.
    """
    check_videos(samples)
    dataset = dataset_of(samples)
    fields = Fields(settings.field)
    for name in settings.detections:
        detection_path(dataset, name)
    paths = dict(zip(*samples.values(["id", "filepath"]), strict=True))
    outcome = ComputeSummary(fields.error)
    if not paths:
        return outcome
    maps_dir = Path(settings.maps_dir) if settings.maps_dir else default_folder(dataset, next(iter(paths.values())))
    run = Run(dataset, settings, maps_dir.absolute())
    network = network or tinyhd.open_backend(InferenceOptions(settings.model, settings.device))
    make_folder(run.folder)
    with run:
        fields.declare(dataset, settings.detections)
        todo = _wanted(samples, paths, settings)
        _sweep(run.folder, dataset, fields)
        outcome.skipped = len(paths) - len(todo)
        meter = ProgressTracker(len(todo))
        videos = all_videos(dataset)
        began = time.monotonic()
        try:
            for sample_id in todo:
                path = paths[sample_id]
                meter.begin(Path(path).name)
                try:
                    work = _Video(videos, sample_id, path, settings, fields, run.folder)
                    with contextlib.closing(work.frames(network, meter)) as steps:
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
                    outcome.inexact += not work.is_constant
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


def _wanted(samples: SampleCollection, paths: dict[str, str], settings: Settings) -> list[str]:
    """The ids of the videos to compute."""
    fields = Fields(settings.field)
    ids, complete, errors = samples.values(["id", f"{fields.stats}.frame_count", fields.error])
    return [
        sample_id
        for sample_id, frames, error in zip(ids, complete, errors, strict=True)
        if sample_id in paths
        and not (settings.skip_existing and frames is not None)
        and not (settings.skip_failures and error is not None)
    ]


def _sweep(folder: Path, dataset: fo.Dataset, fields: Fields) -> None:
    """Remove what a run that was killed has left in the run's own folder."""
    used = set(all_videos(dataset).values(f"{fields.stats}.maps"))
    for child in folder.iterdir():
        if str(child) not in used:
            shutil.rmtree(child, ignore_errors=True)


def forget(videos: SampleCollection, sample_id: str, fields: Fields) -> str | None:
    """Take back what a run gave to a video, also one that was killed; the folder of its maps, which stays."""
    view = videos.select(sample_id)
    [folder], [numbers] = view.values([f"{fields.stats}.maps", f"{fields.heatmap}.spread"])
    if folder:
        videos.set_values(fields.stats, {sample_id: None}, key_field="id")
    if any(value is not None for value in numbers or ()):
        view.clear_frame_field(fields.field)
    return folder if isinstance(folder, str) else None


class _Video:
    """One video of a run."""

    def __init__(
        self, videos: SampleCollection, sample_id: str, path: str, settings: Settings, fields: Fields, folder: Path
    ) -> None:
        self._videos, self._id, self._path = videos, sample_id, path
        self._settings, self._fields = settings, fields
        self._target = folder / f"{sample_id}-{secrets.token_hex(4)}"  # browsers keep pictures by name
        self._numbers: list[tuple[float, ...]] = []
        self._boxes = [_Boxes(videos, sample_id, name, settings.field) for name in settings.detections]
        self.is_constant = self.is_playable = True

    def frames(self, network: Backend, meter: "ProgressTracker") -> Generator[None]:
        """Compute everything, frame by frame; the maps have their names afterwards."""
        with open_video(self._path) as reader, AtomicOutput(self._target, folder=True) as output:
            info = reader.info
            self._info, self._clock = info, FrameClock(info)
            meter.frames = info.frame_count
            compute = StatsComputer(info.width, info.height, float(info.sample_aspect_ratio))
            self._stats = VideoStats(info.width, info.height, float(info.sample_aspect_ratio))
            shown = _Display(network, self._settings.normalize)
            width = round(info.width * info.sample_aspect_ratio)
            for frame, saliency, is_cut in predict_video(reader, network):
                numbers = compute(saliency, frame.index, frame.time_seconds)
                focus = self._stats.add(saliency, numbers, is_cut)
                self._numbers.append((numbers.peak_x, numbers.peak_y, numbers.spread, numbers.entropy_bits, *focus))
                self._clock.add(frame)
                levels = shown(saliency, frame.time_seconds, is_cut)
                if frame.index % self._settings.stride == 0:
                    png = encode_display_map(levels, width, info.height)
                    (output.temporary / _map_name(frame.index)).write_bytes(png)
                for boxes in self._boxes:
                    boxes.add(frame.index, saliency)
                meter.frame()
                yield
            self._note(reader, info)

    def _note(self, reader: VideoReader, info: VideoInfo) -> None:
        self.is_constant, self.is_playable = self._clock.is_constant, browser_plays(info)
        self._warnings = list(reader.warnings)
        if not self.is_constant:
            self._warnings.append(
                "Variable frame rate or late first frame: heat maps are shown up to "
                f"{self._clock.error_seconds:.2f} s early or late."
            )
        if not self.is_playable:
            self._warnings.append(f"Browsers do not play {info.codec} in this container.")

    def save(self) -> VideoSummary:
        """Write to the database."""
        summary = self._stats.summary()
        try:
            old = forget(self._videos, self._id, self._fields)
            self._save_frames()
            for boxes in self._boxes:
                boxes.save()
            values = dict(summary.__dict__)
            stats = fo.DynamicEmbeddedDocument(
                **values,
                timing_error_seconds=self._clock.error_seconds,
                maps=str(self._target),
                warnings=self._warnings,
            )
            self._set("metadata", self._metadata(summary.frame_count))
            self._set(self._fields.error, None)
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
        numbers, stride = iter(enumerate(self._numbers)), self._settings.stride
        while chunk := list(islice(numbers, _FRAMES_AT_ONCE)):
            labels = {
                index + 1: fo.Heatmap(
                    map_path=str(self._target / _map_name(index - index % stride)),
                    **dict(zip(self._fields.FRAME_NUMBERS, values, strict=True)),
                )
                for index, values in chunk
            }
            self._videos.set_values(self._fields.heatmap, {self._id: labels}, key_field="id", expand_schema=False)

    def _metadata(self, frames: int) -> fo.VideoMetadata:
        [known] = self._view().values("metadata")
        has_rate = isinstance(known, fo.VideoMetadata) and known.frame_rate and known.frame_width
        return known if has_rate else metadata_of(self._info, frames)


class _Display:
    """Maps -> values in [0, 1] as they are stored, by the run's normalisation."""

    def __init__(self, network: Backend, normalize: str) -> None:
        self._fixed = (0.0, network.display_scale) if normalize == "none" else None
        self._smoothed = SmoothedRange()

    def __call__(self, saliency: np.ndarray, time_seconds: float, is_cut: bool) -> np.ndarray:
        return normalize_map(saliency, self._fixed or self._smoothed(saliency, time_seconds, is_cut))


class _Boxes:
    """The detections of one video in one field, and the attention inside each."""

    def __init__(self, videos: SampleCollection, sample_id: str, name: str, attribute: str) -> None:
        dataset = dataset_of(videos)
        self._videos, self._id = videos, sample_id
        self._path = detection_path(dataset, name)
        self._attribute = attribute
        self._is_list = self._path.endswith(".detections") and self._path != f"frames.{name}"
        view = videos.select(sample_id)
        [numbers], [boxes] = view.values(["frames.frame_number", f"{self._path}.bounding_box"])
        self._boxes = {
            number: np.array(found if self._is_list else [found], float)
            for number, found in zip(numbers, boxes, strict=True)
            if found
        }
        self._shares: dict[int, object] = {}

    def add(self, index: int, saliency: np.ndarray) -> None:
        """Take the map of a frame, numbered from 0."""
        boxes = self._boxes.get(index + 1)
        if boxes is None:
            return
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        shares = share_in_boxes(saliency, corners).tolist()
        self._shares[index + 1] = shares if self._is_list else shares[0]

    def save(self) -> None:
        """Write to the database."""
        if self._shares:
            path = f"{self._path}.{self._attribute}"
            self._videos.set_values(path, {self._id: self._shares}, key_field="id", expand_schema=False)


def _map_name(index: int) -> str:
    return f"{index + 1:06d}.png"
