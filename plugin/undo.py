"""What operators have made of a dataset's videos, taken back."""

import contextlib
import os
from pathlib import Path

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import OptionError

from .media import all_videos, delete_empty_frames, metadata_of
from .moments import files_of
from .outputs import ORIGINAL, PLAYABLE, REENCODE_ERROR, tag_of
from .settings import MOMENTS

PLAYABLE_COPIES = "playable copies"


def made_videos(dataset: fo.Dataset) -> list[str]:
    """What `undo_videos` can take back: names of new videos and of moments, and `PLAYABLE_COPIES`."""
    schema = dataset.get_field_schema()
    slices = dataset.group_slices if dataset.media_type == "group" else ()
    names = [name.removesuffix("_error") for name in schema if name.endswith("_error")]
    found = [name for name in names if f"{name}_path" in schema or f"{name}_source" in schema or name in slices]
    found += [name for name, field in schema.items() if field.description == MOMENTS]
    return found + ([PLAYABLE_COPIES] if ORIGINAL in schema else [])


def undo_videos(dataset: fo.Dataset, name: str) -> int:
    """Remove the files and labels that operators made under a name, or the copies of `reencode_videos`, whose samples
    get their files back; and the fields, samples or slice that they were in. Of how many videos.

    Raises:
        OptionError: there are none.
    """
    if name not in made_videos(dataset):
        raise OptionError(f"there are no videos {name!r} in this dataset: {', '.join(made_videos(dataset)) or 'none'}.")
    mark = PLAYABLE if name == PLAYABLE_COPIES else name
    schema, videos = dataset.get_field_schema(), all_videos(dataset)
    fields = [f"{name}_{part}" for part in ("path", "source", "crop", "sheet", "error")]
    files = [path for path in videos.values(f"{name}_crop") if path] if f"{name}_crop" in schema else []
    labelled = 0
    if name == PLAYABLE_COPIES:
        fields = [ORIGINAL, REENCODE_ERROR]
        for sample in videos.exists(ORIGINAL).iter_samples(autosave=True):
            if tag_of(mark) in Path(sample.filepath).name:
                files.append(sample.filepath)
                sample.filepath = sample[ORIGINAL]
                readable = os.path.isfile(sample.filepath)
                sample.metadata = metadata_of(tinyhd.probe(sample.filepath)) if readable else None
    if name in schema and schema[name].description == MOMENTS:
        files += files_of(videos, name)
        labelled = len(videos.exists(name))
        fields.append(name)
    if f"{name}_path" in schema:
        files += [path for path in videos.values(f"{name}_path") if path]
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
    made = [Path(path) for path in files if tag_of(mark) in Path(path).name]
    for file in made:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in made if file.parent.name == mark}:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing else is in it
    return labelled + sum(file.suffix == ".mp4" for file in made)


def _delete_samples(dataset: fo.Dataset, samples: SampleCollection, mark: str) -> list[str]:
    """Remove the samples that were made under a name; their files."""
    ours = [row for row in zip(*samples.values(["id", "filepath"]), strict=True) if tag_of(mark) in Path(row[1]).name]
    dataset.delete_samples([sample_id for sample_id, _ in ours])
    return [path for _, path in ours]
