"""Reports about attention in videos of a dataset: HTML files that are recorded with the dataset, and their panel."""

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

import tinyhd
from tinyhd.errors import OptionError
from tinyhd.files import make_folder
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.pipeline.report import report
from tinyhd.saliency.track import TRACK_SUFFIX

from .boxes import moving_boxes
from .compute import find_track
from .media import default_folder, whole_videos
from .outputs import in_thread
from .progress import Cancelled, Progress, ProgressTracker, RunSummary
from .settings import ReportSettings, detection_path

METHOD = "tinyhd/report"
MAX_VIDEOS = 12
"""In one report: with more, neither a browser nor a reader copes."""
_FOLDER = "reports"


@dataclass
class ReportSummary(RunSummary):
    """What came of a report."""

    html: str = ""
    """The file."""

    def notes(self) -> list[str]:
        return [f"The report is {self.html}: the panel “Saliency reports” shows it."] if self.html else []


def make_report(
    samples: SampleCollection, settings: ReportSettings, *, is_stopped: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, ReportSummary]:
    """Write a report about some videos, the first of which is what the others are compared with.

    What a run of `compute_saliency` has kept is used as in `render_videos`. The report is recorded with the dataset.

    Args:
        samples, is_stopped: as for `compute`.

    Raises:
        TinyHDError: it cannot be made; nothing is left of it.
    """
    dataset, videos = whole_videos(samples)
    ids, paths = samples.values(["id", "filepath"])
    if not 0 < len(ids) <= MAX_VIDEOS:
        raise OptionError(f"a report is about 1 to {MAX_VIDEOS} videos, these are {len(ids)}: select some.")
    for name in settings.detections:
        detection_path(dataset, name)
    regions = [
        moving_boxes(videos, sample_id, settings.detections, tinyhd.probe(path), as_one=False)
        for sample_id, path in zip(ids, paths, strict=True)
    ]
    folder = Path(settings.output_dir) if settings.output_dir else default_folder(dataset, paths[0], _FOLDER)
    page = make_folder(folder).absolute() / f"{settings.name}-{secrets.token_hex(4)}.html"
    backend = tinyhd.open_backend(settings.inference)
    outcome = ReportSummary("the log")
    meter, began = ProgressTracker(len(ids)), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            tracks = []
            for number, (sample_id, path) in enumerate(zip(ids, paths, strict=True)):
                meter.begin(Path(path).name)
                track = find_track(videos, sample_id, path, settings.inference, backend)
                if track is None:
                    track = Path(scratch) / f"{number}{TRACK_SUFFIX}"
                    job = Job(Path(path), track, action="analyze", inference=settings.inference)
                    yield from in_thread(
                        lambda progress, job=job: run_job(job, backend=backend, progress=progress), meter, is_stopped
                    )
                tracks.append(track)
            yield from in_thread(
                lambda _: report(
                    paths, page, regions=regions, tracks=tracks, threshold=settings.threshold, title=settings.title
                ),
                meter,
                is_stopped,
            )
    except Cancelled:
        outcome.cancelled = True
        return outcome
    finally:
        outcome.seconds = time.monotonic() - began
    with contextlib.suppress(OptionError):
        delete_report(dataset, settings.name)
    record = {"method": METHOD, "name": settings.name, "html": str(page), "videos": ids, "title": settings.title}
    dataset.register_run(_key(settings.name), dataset.init_run(**record), cleanup=False)
    outcome.completed, outcome.html = len(ids), str(page)
    return outcome


def list_reports(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """The records of all reports, newest first: name, html, title, videos (ids)."""
    infos = [dataset.get_run_info(key) for key in dataset.list_runs(method=METHOD)]
    infos.sort(key=lambda info: info.timestamp, reverse=True)
    return [info.config.serialize() for info in infos]


def delete_report(dataset: fo.Dataset, name: str) -> None:
    """Remove a report's files and its record. Raises `OptionError` where there is none."""
    found = next((record for record in list_reports(dataset) if record["name"] == name), None)
    if found is None:
        raise OptionError(f"there is no report {name!r} in this dataset.")
    page = Path(found["html"])
    if page.name.startswith(f"{name}-"):  # as `make_report` names it, whatever the record says
        for file in (page, page.with_suffix(".json")):
            file.unlink(missing_ok=True)
        if page.parent.name == _FOLDER:
            with contextlib.suppress(OSError):
                page.parent.rmdir()  # where nothing else is in it
    dataset.delete_run(_key(name))


def _key(name: str) -> str:
    return f"tinyhd_report_{name}"
