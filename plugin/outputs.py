"""New files for a dataset's videos: made one after the other, and put into the dataset."""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.files import make_folder
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.pipeline.outputs import Result

from .compute import find_track
from .media import all_videos, default_folder, metadata_of, whole_videos
from .progress import REPORT_SECONDS, Cancelled, Progress, ProgressTracker, RunSummary
from .settings import FileSettings, VideoSettings

T = TypeVar("T")

ORIGINAL = "original_filepath"
"""Where `reencode_videos` keeps the path of the file that a sample had before."""

REENCODE_ERROR = "reencode_error"
PLAYABLE = "playable"

Work = Callable[[str, str, Path, Callable[[int, int | None], None]], int | None]
"""`work(sample id, path, output, progress)` gives the number of frames written, None where nothing was to be done."""


def tag_of(mark: str) -> str:
    """In the names of files made under a name."""
    return f".{mark}-"


def declare(dataset: fo.Dataset, name: str, description: str | None = None) -> None:
    """Make sure that samples have a field for text."""
    if not dataset.has_sample_field(name):
        dataset.add_sample_field(name, fo.StringField, description=description)


# ---- one file after the other


def for_each_video(
    samples: SampleCollection,
    work: Work,
    outcome: RunSummary,
    mark: str,
    folder: str | None,
    is_stopped: Callable[[], bool],
    is_done: Callable[[str], bool] = lambda _: False,
) -> Generator[Progress, None, None]:
    """Make a file for each of some videos that are not done."""
    dataset, videos = whole_videos(samples)
    ids, paths = samples.values(["id", "filepath"])
    declare(dataset, outcome.error_field)
    todo = [item for item in zip(ids, paths, strict=True) if not is_done(item[0])]
    outcome.skipped = len(ids) - len(todo)
    meter = ProgressTracker(len(todo))
    began = time.monotonic()
    try:
        for sample_id, path in todo:
            meter.begin(Path(path).name)
            target = Path(folder) if folder else default_folder(dataset, path, mark)
            try:
                make_folder(target)
                # the id keeps videos of the same name apart, also those of later runs
                output = target.absolute() / f"{Path(path).stem}{tag_of(mark)}{sample_id[-8:]}.mp4"
                frames = yield from in_thread(
                    lambda progress, s=sample_id, p=path, o=output: work(s, p, o, progress), meter, is_stopped
                )
            except Cancelled:
                raise
            except Exception as error:
                message = outcome.note_failure(path, error)
                videos.set_values(outcome.error_field, {sample_id: message}, key_field="id")
            else:
                outcome.completed += frames is not None
                outcome.skipped += frames is None
                outcome.frames += frames or 0
                videos.set_values(outcome.error_field, {sample_id: None}, key_field="id")
    except Cancelled:
        outcome.cancelled = True
    finally:
        outcome.seconds = time.monotonic() - began


def in_thread(
    call: Callable[[Callable[[int, int | None], None]], T], meter: ProgressTracker, is_stopped: Callable[[], bool]
) -> Generator[Progress, None, T]:
    """Run `call(progress)` in a thread, and yield where it is; raises `Cancelled` when it is to stop."""
    stop = threading.Event()

    def progress(done: int, total: int | None) -> None:
        if stop.is_set():
            raise Cancelled
        meter.frames = total
        meter.at(done)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, progress)
        try:
            while not future.done():
                wait([future], timeout=REPORT_SECONDS)
                if is_stopped():
                    stop.set()
                elif meter.is_due():
                    yield meter.progress()
        finally:
            stop.set()
        return future.result()


# ---- where it goes in the dataset


class Target(Protocol):
    """Where in a dataset goes what an operator makes of its videos."""

    def is_own(self, sample_id: str) -> bool:
        """Whether a sample is itself of that."""

    def has(self, sample_id: str) -> bool:
        """Whether it is there for a sample."""

    def add(self, sample_id: str, result: Result) -> None:
        """Put there what was made for a sample."""


def open_target(samples: SampleCollection, settings: VideoSettings, as_samples: bool = False) -> Target:
    """A slice of each group in a grouped dataset; otherwise new samples, or a media field."""
    dataset, _ = whole_videos(samples)
    if dataset.media_type == "group":
        return _Slice(dataset, settings)
    return _NewSamples(dataset, settings) if as_samples else _PathField(dataset, settings)


class _PathField:
    """A field with the path of a sample's new video."""

    def __init__(self, dataset: fo.Dataset, settings: VideoSettings) -> None:
        self._dataset, self._name = dataset, settings.path_field
        declare(dataset, self._name)
        if self._name not in dataset.app_config.media_fields:
            dataset.app_config.media_fields.append(self._name)
            dataset.save()
        self._known = dict(zip(*dataset.values(["id", self._name]), strict=True))

    def is_own(self, sample_id: str) -> bool:
        return False

    def has(self, sample_id: str) -> bool:
        return Path(self._known.get(sample_id) or "").is_file()

    def add(self, sample_id: str, result: Result) -> None:
        self._dataset.set_values(self._name, {sample_id: str(result.output)}, key_field="id")


class _NewSamples:
    """Samples of their own, which know what they were made from."""

    def __init__(self, dataset: fo.Dataset, settings: VideoSettings) -> None:
        self._dataset, self._name, self._source = dataset, settings.name, settings.source_field
        made, key = self._find()
        keys, ids, paths = made.values([key, "id", "filepath"])
        self._ids, self._made = set(ids), dict(zip(keys, zip(ids, paths, strict=True), strict=True))

    def _find(self) -> tuple[SampleCollection, str]:
        """The samples that were made before, and the field with their keys."""
        declare(self._dataset, self._source, "The sample that this one was made from")
        return self._dataset.exists(self._source), self._source

    def _key(self, sample_id: str) -> str:
        """What a sample's new one is found by."""
        return sample_id

    def _own(self, sample_id: str) -> dict[str, Any]:
        """Further fields of a sample's new one."""
        return {"tags": [self._name], self._source: sample_id}

    def is_own(self, sample_id: str) -> bool:
        return sample_id in self._ids

    def has(self, sample_id: str) -> bool:
        _, path = self._made.get(self._key(sample_id), ("", ""))
        return Path(path).is_file()

    def add(self, sample_id: str, result: Result) -> None:
        key, path = self._key(sample_id), str(result.output)
        metadata = metadata_of(tinyhd.probe(path))
        if key in self._made:
            made = self._made[key][0]
            sample = self._dataset[made]
            sample.filepath, sample.metadata = path, metadata
            sample.save()
        else:
            made = self._dataset.add_sample(fo.Sample(filepath=path, metadata=metadata, **self._own(sample_id)))
        self._made[key] = made, path


class _Slice(_NewSamples):
    """A slice of the sample's group."""

    def _find(self) -> tuple[SampleCollection, str]:
        group = self._dataset.group_field
        return all_videos(self._dataset).match(fo.ViewField(f"{group}.name") == self._name), f"{group}.id"

    def _group(self, sample_id: str) -> fo.Group:
        return self._dataset[sample_id][self._dataset.group_field]

    def _key(self, sample_id: str) -> str:
        return str(self._group(sample_id).id)

    def _own(self, sample_id: str) -> dict[str, Any]:
        return {self._dataset.group_field: self._group(sample_id).element(self._name)}


# ---- both together


def run_jobs(
    samples: SampleCollection,
    settings: FileSettings,
    target: Target,
    is_stopped: Callable[[], bool],
    more: Callable[[str, str, Path], dict[str, Any]] = lambda *_: {},
    after: Callable[[str, Result], None] = lambda *_: None,
) -> Generator[Progress, None, RunSummary]:
    """Do the job of an operator with each of some videos, and put into the dataset what comes of it.

    Where a run of `compute_saliency` has kept the track of a video with the same model and options, the network is not
    run again.

    Args:
        more: further fields of the `Job`, by sample id, path and output.
        after: called with a sample id and what came of its job, before that goes to the target.
    """
    _, videos = whole_videos(samples)
    backend = tinyhd.open_backend(settings.inference)
    groups = {group: getattr(settings, group) for group in settings.groups()}

    def work(sample_id: str, path: str, output: Path, progress: Callable[[int, int | None], None]) -> int:
        track = find_track(videos, sample_id, path, settings.inference, backend)
        own = {"output": output} | groups | more(sample_id, path, output)
        job = Job(Path(path), action=settings.action, track=track, overwrite=True, **own)
        result = run_job(job, backend=backend, progress=progress)
        after(sample_id, result)
        target.add(sample_id, result)
        return result.frames

    def is_done(sample_id: str) -> bool:
        return target.is_own(sample_id) or (settings.skip_existing and target.has(sample_id))

    outcome = RunSummary(settings.error_field)
    yield from for_each_video(samples, work, outcome, settings.name, settings.output_dir, is_stopped, is_done)
    return outcome
