"""New files for a dataset's videos: made one after the other, put into the dataset, and taken back."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, TypeVar

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import OptionError
from tinyhd.files import make_folder

from .media import all_videos, dataset_of, default_folder, delete_empty_frames, metadata_of
from .progress import REPORT_SECONDS, Cancelled, Progress, ProgressTracker, RunSummary
from .settings import VideoSettings

T = TypeVar("T")

ORIGINAL = "original_filepath"
"""Where `reencode_videos` keeps the path of the file that a sample had before."""

REENCODE_ERROR = "reencode_error"
PLAYABLE = "playable"

Work = Callable[[str, str, Path, Callable[[int, int | None], None]], int | None]
"""`work(sample id, path, output, progress)` gives the number of frames written, None where nothing was to be done."""


def _tag(mark: str) -> str:
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
    dataset, videos = dataset_of(samples), all_videos(dataset_of(samples))
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
                output = target.absolute() / f"{Path(path).stem}{_tag(mark)}{sample_id[-8:]}.mp4"
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


# ---- where new videos go in the dataset


class Target(Protocol):
    """Where the new videos of an operator go."""

    def is_own(self, sample_id: str) -> bool:
        """Whether a sample is one of them."""

    def has(self, sample_id: str) -> bool:
        """Whether there is one for a sample."""

    def add(self, sample_id: str, output: Path) -> None:
        """Put the video that was made for a sample there."""


def open_target(dataset: fo.Dataset, settings: VideoSettings, as_samples: bool = False) -> Target:
    """A slice of each group in a grouped dataset; otherwise new samples, or a media field."""
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

    def add(self, sample_id: str, output: Path) -> None:
        self._dataset.set_values(self._name, {sample_id: str(output)}, key_field="id")


class _NewSamples:
    """Samples of their own, which know what they were made from."""

    def __init__(self, dataset: fo.Dataset, settings: VideoSettings) -> None:
        self._dataset, self._name, self._source = dataset, settings.name, settings.source_field
        declare(dataset, self._source, "The sample that this one was made from")
        made = dataset.exists(self._source)
        self._own = set(made.values("id"))
        self._known = dict(zip(*made.values([self._source, "filepath"]), strict=True))

    def is_own(self, sample_id: str) -> bool:
        return sample_id in self._own

    def has(self, sample_id: str) -> bool:
        return Path(self._known.get(sample_id, "")).is_file()

    def add(self, sample_id: str, output: Path) -> None:
        if sample_id not in self._known:
            sample = fo.Sample(filepath=str(output), tags=[self._name], metadata=metadata_of(tinyhd.probe(output)))
            sample[self._source] = sample_id
            self._dataset.add_sample(sample)
            self._known[sample_id] = str(output)


class _Slice:
    """A slice of the sample's group."""

    def __init__(self, dataset: fo.Dataset, settings: VideoSettings) -> None:
        self._dataset, self._name = dataset, settings.name
        self._videos = all_videos(dataset)
        self._group = dataset.group_field
        view = self._videos.match(fo.ViewField(f"{self._group}.name") == self._name)
        self._known = dict(zip(*view.values([f"{self._group}.id", "filepath"]), strict=True))

    def is_own(self, sample_id: str) -> bool:
        return bool(self._videos[sample_id][self._group].name == self._name)

    def has(self, sample_id: str) -> bool:
        return Path(self._known.get(self._videos[sample_id][self._group].id, "")).is_file()

    def add(self, sample_id: str, output: Path) -> None:
        group = self._videos[sample_id][self._group]
        if group.id not in self._known:
            metadata = metadata_of(tinyhd.probe(output))
            element = group.element(self._name)
            self._dataset.add_sample(fo.Sample(filepath=str(output), metadata=metadata, **{self._group: element}))
            self._known[group.id] = str(output)


# ---- taking them back

PLAYABLE_COPIES = "playable copies"


def made_videos(dataset: fo.Dataset) -> list[str]:
    """What `undo_videos` can take back: names of rendered and reframed videos, and `PLAYABLE_COPIES`."""
    schema = dataset.get_field_schema()
    slices = dataset.group_slices if dataset.media_type == "group" else ()
    names = [name.removesuffix("_error") for name in schema if name.endswith("_error")]
    found = [name for name in names if f"{name}_path" in schema or f"{name}_source" in schema or name in slices]
    return found + ([PLAYABLE_COPIES] if ORIGINAL in schema else [])


def undo_videos(dataset: fo.Dataset, name: str) -> int:
    """Remove the files that `render_videos` or `reframe_videos` made under a name, or the copies of `reencode_videos`,
    whose samples get their files back; and the fields, samples or slice that they were in. How many videos.

    Raises:
        OptionError: there are none.
    """
    if name not in made_videos(dataset):
        raise OptionError(f"there are no videos {name!r} in this dataset: {', '.join(made_videos(dataset)) or 'none'}.")
    mark = PLAYABLE if name == PLAYABLE_COPIES else name
    schema = dataset.get_field_schema()
    fields = [f"{name}_{part}" for part in ("path", "source", "crop", "error")]
    files = [path for path in dataset.values(f"{name}_crop") if path] if f"{name}_crop" in schema else []
    if name == PLAYABLE_COPIES:
        fields = [ORIGINAL, REENCODE_ERROR]
        for sample in all_videos(dataset).exists(ORIGINAL).iter_samples(autosave=True):
            if _tag(mark) in Path(sample.filepath).name:
                files.append(sample.filepath)
                sample.filepath = sample[ORIGINAL]
                readable = os.path.isfile(sample.filepath)
                sample.metadata = metadata_of(tinyhd.probe(sample.filepath)) if readable else None
    elif f"{name}_path" in schema:
        files += [path for path in dataset.values(f"{name}_path") if path]
    if dataset.media_type == "group" and name in dataset.group_slices:
        files += _delete_samples(dataset, dataset.select_group_slices(name), mark)
        if not len(dataset.select_group_slices(name)):
            dataset.delete_group_slice(name)
    elif f"{name}_source" in schema:
        files += _delete_samples(dataset, dataset.exists(f"{name}_source"), mark)
    for field in fields:
        if field in schema:
            dataset.delete_sample_field(field)
    if dataset.has_frame_field(f"{name}_crop"):
        dataset.delete_frame_field(f"{name}_crop")
        delete_empty_frames(dataset)
    made = [Path(path) for path in files if _tag(mark) in Path(path).name]
    for file in made:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in made if file.parent.name == mark}:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing else is in it
    return sum(file.suffix == ".mp4" for file in made)


def _delete_samples(dataset: fo.Dataset, samples: SampleCollection, mark: str) -> list[str]:
    """Remove the samples that were made under a name; their files."""
    ours = [row for row in zip(*samples.values(["id", "filepath"]), strict=True) if _tag(mark) in Path(row[1]).name]
    dataset.delete_samples([sample_id for sample_id, _ in ours])
    return [path for _, path in ours]
