"""Saliency of many videos, one after the other, into the dataset.

A video is written when it is complete: first its maps appear, as a folder, then its frames' values, and last the
sample's own numbers. A run that ends early, for whatever reason, leaves whole videos and nothing of the others, and the
next one goes on from there.
"""

import contextlib
import logging
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import TinyHDError
from tinyhd.files import PendingOutput, make_folder
from tinyhd.maps import encode_display_map
from tinyhd.model import TinyHD, TinyHDConfig
from tinyhd.overlay import SmoothedRange, normalize_map
from tinyhd.predict import MapsFunction, predict_video
from tinyhd.reencode import FrameClock, browser_plays
from tinyhd.stats import StatsComputer, VideoStats, VideoSummary, share_in_boxes
from tinyhd.video import VideoInfo, VideoReader, open_video

from .media import all_videos, check_videos, dataset_of, default_folder, metadata_of
from .runs import Run
from .settings import Fields, Settings, detection_path

log = logging.getLogger("tinyhd.plugin")

_FRAMES_AT_ONCE = 500
"""Frames whose values are written to the database in one go."""

_REPORT_SECONDS = 0.5
_SPEED_SECONDS = 10.0  # what "frames per second" looks back on


class Cancelled(Exception):  # noqa: N818 - no error
    """The run is to stop."""


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    sample: int
    """The video at work, from 1 on."""
    samples: int
    name: str
    frame: int
    frames: int | None
    """Of this video, where the file says it."""
    frames_per_second: float
    seconds_left: float | None

    @property
    def fraction(self) -> float:
        """Done, 0 to 1."""
        inside = min(1.0, self.frame / self.frames) if self.frames else 0.0
        return (self.sample - 1 + inside) / self.samples

    @property
    def label(self) -> str:
        """For people."""
        of_frames = f" of {self.frames}" if self.frames else ""
        left = f", {_duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return (
            f"Video {self.sample} of {self.samples} ({self.name}): frame {self.frame}{of_frames}, "
            f"{self.frames_per_second:.1f} frames/s{left}"
        )


@dataclass
class Outcome:
    """What a run has done; `to_dict` is what operators return."""

    field: str
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    frames: int = 0
    seconds: float = 0.0
    cancelled: bool = False
    inexact: int = 0
    """Videos whose frames the App shows at slightly wrong times: variable frame rate, or a late first frame."""
    unplayable: int = 0
    """Videos that browsers do not play."""
    errors: list[str] = field(default_factory=list)
    """The first few, as `name: message`."""

    def to_dict(self) -> dict[str, object]:
        return {**self.__dict__, "seconds": round(self.seconds, 1), "summary": self.summary}

    @property
    def summary(self) -> str:
        """For people, in a few sentences."""
        parts = [f"{_count(self.completed, 'video')} done"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        if self.failed:
            parts.append(f"{self.failed} failed (see {Fields(self.field).error})")
        sentences = [("Cancelled: " if self.cancelled else "") + ", ".join(parts) + "."]
        if self.inexact:
            sentences.append(
                f"{_count(self.inexact, 'video')} with a variable frame rate or a late first frame: the App counts "
                "frames at a constant rate, so heat maps are shown a little early or late there. "
                "Re-encode them with “Make videos playable” to cure that."
            )
        if self.unplayable:
            sentences.append(
                f"{_count(self.unplayable, 'video')} that browsers cannot play: “Make videos playable” re-encodes them."
            )
        return " ".join(sentences)


def compute(
    samples: SampleCollection,
    settings: Settings,
    *,
    network: TinyHD | MapsFunction | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, Outcome]:
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
    outcome = Outcome(settings.field)
    if not paths:
        return outcome
    maps_dir = Path(settings.maps_dir) if settings.maps_dir else default_folder(dataset, next(iter(paths.values())))
    run = Run(dataset, settings, maps_dir.absolute())
    network = network or tinyhd.load_model(settings.model, settings.device)
    make_folder(run.folder)
    with run:
        fields.declare(dataset, settings.detections)
        todo = _wanted(samples, paths, settings)
        _sweep(run.folder, dataset, fields)
        outcome.skipped = len(paths) - len(todo)
        meter = _Meter(len(todo))
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
                    _note_failure(videos, sample_id, fields, path, error, outcome)
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


def finish(work: Generator[Progress, None, Outcome], report: Callable[[Progress], None]) -> Outcome:
    """Run `compute` to its end, telling `report` about progress."""
    while True:
        try:
            report(next(work))
        except StopIteration as end:
            outcome: Outcome = end.value
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


def _note_failure(
    videos: SampleCollection, sample_id: str, fields: Fields, path: str, error: Exception, outcome: Outcome
) -> None:
    expected = isinstance(error, TinyHDError)
    message = str(error) if expected else f"{type(error).__name__}: {error}"
    if not expected:
        log.error("%s failed", path, exc_info=error)
    outcome.failed += 1
    if len(outcome.errors) < 10:
        outcome.errors.append(f"{Path(path).name}: {message}")
    videos.set_values(fields.error, {sample_id: message}, key_field="id")


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

    def frames(self, network: TinyHD | MapsFunction, meter: "_Meter") -> Generator[None]:
        """Compute everything, frame by frame; the maps have their names afterwards."""
        with open_video(self._path) as reader, PendingOutput(self._target, folder=True) as output:
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
            old = self._forget_earlier()
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

    def _forget_earlier(self) -> str | None:
        """Take back what an earlier run gave to this video, and what one left that was killed; its folder of maps."""
        [old] = self._view().values(f"{self._fields.stats}.maps")
        if old:
            self._set(self._fields.stats, None)
        [numbers] = self._view().values(f"{self._fields.heatmap}.spread")
        if any(value is not None for value in numbers or ()):
            self._view().clear_frame_field(self._fields.field)
        return old if isinstance(old, str) else None

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

    def __init__(self, network: TinyHD | MapsFunction, normalize: str) -> None:
        config = network.config if isinstance(network, TinyHD) else TinyHDConfig
        self._fixed = (0.0, config.display_scale) if normalize == "none" else None
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


class _Meter:
    """Counts frames over all videos."""

    def __init__(self, samples: int) -> None:
        self._samples, self._sample = samples, 0
        self._name = ""
        self._frame = 0
        self.frames: int | None = None
        self._before = 0  # frames of the videos done
        self._total = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._reported = 0.0

    def begin(self, name: str) -> None:
        """The next video starts."""
        self._before += self._frame
        self._sample += 1
        self._name, self._frame, self.frames = name, 0, None

    def frame(self) -> None:
        """A frame is done."""
        self._frame += 1
        self._total += 1

    def is_due(self) -> bool:
        """Whether to report."""
        now = time.monotonic()
        if now - self._reported < _REPORT_SECONDS:
            return False
        self._reported = now
        self._recent.append((now, self._total))
        while now - self._recent[0][0] > _SPEED_SECONDS and len(self._recent) > 2:
            self._recent.popleft()
        return True

    def progress(self) -> Progress:
        (first_time, first), (last_time, last) = self._recent[0], self._recent[-1]
        speed = (last - first) / (last_time - first_time) if last_time > first_time else 0.0
        left = None
        if speed > 0 and self.frames:
            # videos to come are taken to be as long as those met so far
            mean = (self._before + self.frames) / self._sample
            frames_left = max(0, self.frames - self._frame) + mean * (self._samples - self._sample)
            left = frames_left / speed
        return Progress(self._sample, self._samples, self._name, self._frame, self.frames, speed, left)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
