"""New video files for a dataset: annotated ones, and copies that every browser plays frame for frame."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import OptionError
from tinyhd.files import make_folder
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.video.playback import browser_plays, reencode

from .compute import find_track
from .media import all_videos, check_videos, dataset_of, default_folder, metadata_of
from .progress import REPORT_SECONDS, Cancelled, Progress, ProgressTracker, RunSummary
from .settings import RenderSettings

T = TypeVar("T")

ORIGINAL = "original_filepath"
"""Where `reencode_videos` keeps the path of the file that a sample had before."""

REENCODE_ERROR = "reencode_error"
_PLAYABLE = "playable"


def render_videos(
    samples: SampleCollection,
    settings: RenderSettings,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Write a video with the heat map laid over it for each of some videos, as `tinyhd annotate` does.

    In a grouped dataset the new videos are a slice; otherwise their paths are in a field, which the App can show
    instead of the videos themselves (the choice "media field" of the grid and of a sample). Where a run of
    `compute_saliency` has kept the track of a video with the same model and options, the network is not run again.

    Args:
        samples, is_stopped: as for `compute`.

    Raises:
        OptionError, WeightsError: the work cannot begin.
    """
    check_videos(samples)
    if settings.reencode:
        copied = yield from reencode_videos(samples, is_stopped=is_stopped)
        if copied.cancelled:
            return copied
    dataset = dataset_of(samples)
    videos = all_videos(dataset)
    target: _Slice | _PathField = (
        _Slice(dataset, settings) if dataset.media_type == "group" else _PathField(dataset, settings)
    )
    backend = tinyhd.open_backend(settings.inference)

    def work(sample_id: str, path: str, output: Path, progress: Callable[[int, int | None], None]) -> int:
        result = run_job(
            Job(
                Path(path),
                output,
                inference=settings.inference,
                render=settings.render,
                encoder=settings.encoder,
                track=find_track(videos, sample_id, path, settings.inference, backend),
                overwrite=True,
            ),
            backend=backend,
            progress=progress,
        )
        target.add(sample_id, output)
        return result.frames

    outcome = RunSummary(settings.error_field)
    yield from _each(
        samples,
        work,
        outcome,
        settings.name,
        settings.output_dir,
        is_done=target.has if settings.skip_existing else lambda _id, _path: False,
        is_stopped=is_stopped,
    )
    return outcome


def reencode_videos(
    samples: SampleCollection,
    output_dir: str | None = None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, RunSummary]:
    """Replace videos that browsers cannot play by copies.

    The sample's `filepath` becomes that of an H.264 copy at a constant rate, made beside the file or in `output_dir`,
    and `original_filepath` keeps the old one; the old file stays. At every frame number the App shows the copy as it
    would have shown the source, so that saliency and labels stay where they are.

    Args:
        samples, is_stopped: as for `compute`.
    """
    check_videos(samples)
    videos = all_videos(dataset_of(samples))

    def work(sample_id: str, path: str, output: Path, progress: Callable[[int, int | None], None]) -> int | None:
        info = tinyhd.probe(path)
        if browser_plays(info):
            return None
        frames = reencode(path, output, overwrite=True, progress=lambda done: progress(done, info.frame_count))
        sample = videos[sample_id]
        sample[ORIGINAL] = path
        sample.filepath = str(output)
        sample.metadata = metadata_of(tinyhd.probe(output), frames)
        sample.save()
        return frames

    outcome = RunSummary(REENCODE_ERROR)
    yield from _each(samples, work, outcome, _PLAYABLE, output_dir, lambda _id, _path: False, is_stopped)
    return outcome


# ---- taking them back

PLAYABLE_COPIES = "playable copies"


def made_videos(dataset: fo.Dataset) -> list[str]:
    """What `undo_videos` can take back: names of rendered videos, and `PLAYABLE_COPIES`."""
    schema = dataset.get_field_schema()
    names = [name.removesuffix("_error") for name in schema if name.endswith("_error")]
    slices = dataset.group_slices if dataset.media_type == "group" else ()
    found = [name for name in names if f"{name}_path" in schema or name in slices]
    return found + ([PLAYABLE_COPIES] if ORIGINAL in schema else [])


def undo_videos(dataset: fo.Dataset, name: str) -> int:
    """Remove the files that `render_videos` made under a name, or the copies of `reencode_videos`, whose samples get
    their files back; and the fields or the slice that they were in. How many files.

    Raises:
        OptionError: there are none.
    """
    if name not in made_videos(dataset):
        raise OptionError(f"there are no videos {name!r} in this dataset: {', '.join(made_videos(dataset)) or 'none'}.")
    videos = all_videos(dataset)
    made: list[str] = []
    if name == PLAYABLE_COPIES:
        for sample in videos.exists(ORIGINAL).iter_samples(autosave=True):
            if f".{_PLAYABLE}-" in Path(sample.filepath).name:
                made.append(sample.filepath)
                sample.filepath = sample[ORIGINAL]
                readable = os.path.isfile(sample.filepath)
                sample.metadata = metadata_of(tinyhd.probe(sample.filepath)) if readable else None
        fields = [ORIGINAL, REENCODE_ERROR]
    elif dataset.has_sample_field(f"{name}_path"):
        made = [path for path in dataset.values(f"{name}_path") if path]
        fields = [f"{name}_path", f"{name}_error"]
    else:
        ours = [
            (sample_id, path)
            for sample_id, path in zip(*dataset.select_group_slices(name).values(["id", "filepath"]), strict=True)
            if f".{name}-" in Path(path).name
        ]
        made = [path for _, path in ours]
        dataset.delete_samples([sample_id for sample_id, _ in ours])
        if not len(dataset.select_group_slices(name)):
            dataset.delete_group_slice(name)
        fields = [f"{name}_error"]
    for field in fields:
        if dataset.has_sample_field(field):
            dataset.delete_sample_field(field)
    mark = _PLAYABLE if name == PLAYABLE_COPIES else name
    files = [Path(path) for path in made if f".{mark}-" in Path(path).name]  # as `_each` names them
    for file in files:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in files if file.parent.name in ("annotated", _PLAYABLE, name)}:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing else is in it
    return len(files)


# ---- where annotated videos go in the dataset


class _PathField:
    """A field with the path of a sample's annotated video."""

    def __init__(self, dataset: fo.Dataset, settings: RenderSettings) -> None:
        self._dataset, self._name = dataset, settings.path_field
        if not dataset.has_sample_field(self._name):
            dataset.add_sample_field(self._name, fo.StringField)
        if self._name not in dataset.app_config.media_fields:
            dataset.app_config.media_fields.append(self._name)
            dataset.save()
        self._known = dict(zip(*dataset.values(["id", self._name]), strict=True))

    def has(self, sample_id: str, path: str) -> bool:
        known = self._known.get(sample_id)
        return known is not None and Path(known).is_file()

    def add(self, sample_id: str, output: Path) -> None:
        self._dataset.set_values(self._name, {sample_id: str(output)}, key_field="id")


class _Slice:
    """A slice of the sample's group."""

    def __init__(self, dataset: fo.Dataset, settings: RenderSettings) -> None:
        self._dataset, self._name = dataset, settings.name
        self._videos = all_videos(dataset)
        self._group = dataset.group_field
        view = self._videos.match(fo.ViewField(f"{self._group}.name") == self._name)
        self._known = dict(zip(*view.values([f"{self._group}.id", "filepath"]), strict=True))

    def has(self, sample_id: str, path: str) -> bool:
        group = self._videos[sample_id][self._group]
        if group.name == self._name:
            return True  # one of ours is among the samples
        return group.id in self._known and Path(self._known[group.id]).is_file()

    def add(self, sample_id: str, output: Path) -> None:
        group = self._videos[sample_id][self._group]
        if group.id not in self._known:
            metadata = metadata_of(tinyhd.probe(output))
            element = group.element(self._name)
            self._dataset.add_sample(fo.Sample(filepath=str(output), metadata=metadata, **{self._group: element}))
            self._known[group.id] = str(output)


# ---- one file after the other


def _each(
    samples: SampleCollection,
    work: Callable[[str, str, Path, Callable[[int, int | None], None]], int | None],
    outcome: RunSummary,
    mark: str,
    folder: str | None,
    is_done: Callable[[str, str], bool],
    is_stopped: Callable[[], bool],
) -> Generator[Progress, None, None]:
    """Make a file for each of some videos.

    `work(sample id, path, output, progress)` gives the number of frames written, or None where nothing was to be done.
    """
    dataset, videos = dataset_of(samples), all_videos(dataset_of(samples))
    ids, paths = samples.values(["id", "filepath"])
    if not dataset.has_sample_field(outcome.error_field):
        dataset.add_sample_field(outcome.error_field, fo.StringField)
    if outcome.error_field == REENCODE_ERROR and not dataset.has_sample_field(ORIGINAL):
        dataset.add_sample_field(ORIGINAL, fo.StringField)
    todo = [item for item in zip(ids, paths, strict=True) if not is_done(*item)]
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
                output = target.absolute() / f"{Path(path).stem}.{mark}-{sample_id[-8:]}.mp4"
                frames = yield from _in_thread(
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


def _in_thread(
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
