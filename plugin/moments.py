"""Key moments of a dataset's videos, and spans of focused attention, as labels on the time line."""

import dataclasses
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import OptionError
from tinyhd.pipeline.moments import MOMENTS_SUFFIX, MomentsResult

from .media import app_rate, last_number, time_labels, whole_videos
from .outputs import declare, run_jobs, tag_of
from .progress import Progress, RunSummary
from .settings import MOMENTS, MomentSettings


def label_moments(
    samples: SampleCollection, settings: MomentSettings, *, is_stopped: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, RunSummary]:
    """Label key moments of some videos, as `tinyhd moments` finds them, and spans of focused and scattered attention.

    What a run of `compute_saliency` has kept is used as in `render_videos`.

    Args:
        samples, is_stopped: as for `compute`.

    Raises:
        OptionError, WeightsError: the work cannot begin.
    """
    labels = _Labels(*whole_videos(samples), settings)
    with tempfile.TemporaryDirectory() as unwanted:
        if not settings.pictures:
            settings = dataclasses.replace(settings, output_dir=unwanted)

        def more(_id: str, _path: str, output: Path) -> dict[str, Path]:
            return {"output": output.with_suffix(MOMENTS_SUFFIX)}

        return (yield from run_jobs(samples, settings, labels, is_stopped, more))


def check_free(dataset: fo.Dataset, name: str) -> None:
    """Raises `OptionError` where a field for moments has something else in it."""
    field = dataset.get_field(name)
    if field is not None and field.description != MOMENTS:
        raise OptionError(f"the dataset has a field {name!r} with something else in it: choose another name.")


def files_of(samples: SampleCollection, name: str) -> list[str]:
    """The pictures of moments that were labelled under a name, the sheets and tables with all of them."""
    pictures, sheets = samples.values([f"{name}.detections.picture", f"{name}_sheet"])
    found = [path for each in pictures for path in each or () if path]
    for sheet in filter(None, sheets):
        found += [sheet, str(Path(sheet).with_suffix(".json"))]
    return [path for path in found if tag_of(name) in Path(path).name]


class _Labels:
    """A field with the labels of each sample."""

    def __init__(self, dataset: fo.Dataset, videos: SampleCollection, settings: MomentSettings) -> None:
        check_free(dataset, settings.name)
        self._videos, self._settings, name = videos, settings, settings.name
        if not dataset.has_sample_field(name):
            document = fo.TemporalDetections
            dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=document, description=MOMENTS)
            dataset.add_sample_field(f"{name}.detections.picture", fo.StringField, description="The file")
        declare(dataset, settings.sheet_field, "The file with the pictures of all key moments")

    def is_own(self, sample_id: str) -> bool:
        return False

    def has(self, sample_id: str) -> bool:
        [labels] = self._videos.select(sample_id).values(self._settings.name)
        return labels is not None

    def add(self, sample_id: str, result: MomentsResult) -> None:
        view, name = self._videos.select(sample_id), self._settings.name
        earlier = files_of(view, name)
        [metadata] = view.values("metadata")
        info = tinyhd.probe(result.input)
        moments = [(moment.time_seconds, moment.time_seconds, moment.score) for moment in result.moments]
        rate, last = app_rate(metadata, info), last_number(metadata, result.frames)
        labels = time_labels(info, rate, last, moments, result.focused, result.scattered)
        new = [str(path) for path in result.pictures] if self._settings.pictures else []
        for label, picture in zip(labels.detections, new, strict=False):  # key moments come first
            label.picture = picture
        sheet = str(result.sheet) if new else None
        self._videos.set_values(name, {sample_id: labels}, key_field="id")
        self._videos.set_values(self._settings.sheet_field, {sample_id: sheet}, key_field="id")
        for path in set(earlier) - {*new, sheet, str(result.output)}:
            Path(path).unlink(missing_ok=True)
