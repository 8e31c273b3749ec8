"""Records of runs: what was computed with what, which run is at work, and how to stop and undo one.

A run is recorded in the dataset under the name of its field (`Dataset.register_run`). While it works, its heartbeat
is in the dataset's execution store; a request to stop it goes there too, so that any process can ask.
"""

import contextlib
import datetime
import platform
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.operators.store import ExecutionStore

import tinyhd
from tinyhd.errors import OptionError
from tinyhd.pipeline.analyze import Backend

from . import appearance
from .media import DEFAULT_FOLDER, all_videos, delete_empty_frames
from .progress import describe_error
from .settings import DEFAULT_FIELD, Fields, Settings, detection_fields, detection_path

METHOD = "tinyhd/compute_saliency"
_STORE = "tinyhd_saliency"
HEARTBEAT_SECONDS = 2.0
DEAD_AFTER_SECONDS = 120.0  # a process that has not said a word for so long is gone


def list_runs(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """The records of all runs, newest first: the config's values, `field` and `state` among them."""
    records = []
    for key in dataset.list_runs(method=METHOD):
        info = dataset.get_run_info(key)
        record = info.config.serialize()
        state = record.get("status", "unknown")
        if state == "running" and not is_alive(dataset, key):
            state = "interrupted"
        records.append(record | {"field": key, "state": state})
    return sorted(records, key=lambda record: record["started"], reverse=True)


def find_run(dataset: fo.Dataset, field: str) -> dict[str, Any] | None:
    """The record of the run that a field belongs to."""
    return next((record for record in list_runs(dataset) if record["field"] == field), None)


def check_field(dataset: fo.Dataset, settings: Settings, backend: Backend | None = None) -> dict[str, Any] | None:
    """The record of an earlier run that these settings continue, if there is one.

    Args:
        backend: what computes; without one, only the name of the model is compared, not what is in its file.

    Raises:
        OptionError: the field holds something else.
    """
    record = find_run(dataset, settings.field)
    if record is None:
        taken = Fields(settings.field).taken(dataset)
        if taken:
            raise OptionError(f"the dataset has a field {taken!r} that is not of this plugin: choose another name.")
        return None
    wanted = settings.outcome
    if backend:
        wanted |= {"model": backend.model_name, "model_hash": backend.model_hash}
    elif settings.inference.model:
        wanted |= {"model": settings.inference.model}
    differing = sorted(name for name, value in wanted.items() if record.get(name) != value)
    stats = Fields(settings.field).stats
    has_results = dataset.has_sample_field(stats) and all_videos(dataset).count(f"{stats}.maps")
    if differing and has_results:
        raise OptionError(
            f"the field {settings.field!r} was computed with other settings ({', '.join(differing)}): "
            "choose another field, or delete it first (delete_saliency)."
        )
    return record


def continued(dataset: fo.Dataset, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of `compute_saliency`; those left out are as in the run that they continue, if there is one."""
    record = find_run(dataset, params.get("field") or DEFAULT_FIELD) or {}
    names = set(Settings().outcome) | ({"model"} if record.get("model") in tinyhd.list_models() else set())
    earlier = {name: record[name] for name in names if record.get(name) not in (None, [])}
    return earlier | {name: value for name, value in params.items() if value is not None and value != ""}


def shown_by_others(dataset: fo.Dataset) -> dict[str, Any]:
    """What earlier runs have recorded of the App's appearance: the last one of all takes it back."""
    recorded: dict[str, Any] = {}
    for record in list_runs(dataset):
        recorded |= record.get("appearance") or {}
    return recorded


def last_speed(dataset: fo.Dataset, settings: Settings) -> float | None:
    """Frames per second of the last run in this dataset with such a model on such a device; None: there was none."""
    for record in list_runs(dataset):
        same = record.get("device") == settings.inference.device
        if same and settings.inference.model in (None, record.get("model")) and record.get("seconds"):
            return float(record["frames"] / record["seconds"]) or None
    return None


class Run:
    """A run at work; a context manager that keeps the record true however the work ends.

    Attributes:
        folder: where its maps go.
        status: what the record says at the normal end.
    """

    def __init__(self, dataset: fo.Dataset, settings: Settings, backend: Backend, maps_dir: Path) -> None:
        """
        Raises:
            OptionError: the field belongs to something else, or another process works on it.
        """
        self._dataset, self._settings = dataset, settings
        earlier = check_field(dataset, settings, backend)
        if is_alive(dataset, settings.field):
            raise OptionError(f"a run into the field {settings.field!r} is at work: wait for it, or cancel it first.")
        now = _now()
        config = settings.outcome | {"model": backend.model_name, "model_hash": backend.model_hash}
        config |= {
            "method": METHOD,
            "started": now,
            "updated": now,
            "status": "running",
            "device": settings.inference.device,
            "maps": f"8-bit gray PNG; 255 is {_FULL_SCALE[settings.normalize]}",
            "versions": {"tinyhd": tinyhd.__version__, "fiftyone": fo.__version__, "python": platform.python_version()},
            "folders": list((earlier or {}).get("folders", [])),
        }
        self.folder = self._map_folder(config["folders"], maps_dir)
        self.status = "completed"
        self._config = config
        self._store = _store(dataset)
        self._last_beat = 0.0
        self._store.delete(_cancel_key(settings.field))

    def __enter__(self) -> "Run":
        config = self._dataset.init_run(**self._config)
        self._dataset.register_run(self._settings.field, config, overwrite=True, cleanup=False)
        self.is_stopped()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._store.delete(_alive_key(self._settings.field))
        self._store.delete(_cancel_key(self._settings.field))
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # where no map was written
        if kind is KeyboardInterrupt:
            self.status = "cancelled"
        elif error is not None and kind is not GeneratorExit:
            self.status = "failed"
            self._config["error"] = describe_error(error)
        self.update(status=self.status)

    def update(self, **values: Any) -> None:
        """Change values of the record."""
        self._config |= values | {"updated": _now()}
        if self._dataset.has_run(self._settings.field):  # it may have been deleted meanwhile
            self._dataset.update_run_config(self._settings.field, self._dataset.init_run(**self._config))

    def is_stopped(self) -> bool:
        """Whether somebody asked for the run to stop; says that it is alive. Call often."""
        now = time.monotonic()
        if now - self._last_beat < HEARTBEAT_SECONDS:
            return False
        self._last_beat = now
        self._store.set(_alive_key(self._settings.field), time.time())
        return bool(self._store.get(_cancel_key(self._settings.field)))

    def _map_folder(self, known: list[str], maps_dir: Path) -> Path:
        """A folder of the run's own below `maps_dir`; it is in the record before it is made."""
        for name in known:
            if Path(name).parent == maps_dir:
                return Path(name)
        folder = maps_dir / f"{self._settings.field}-{secrets.token_hex(4)}"
        known.append(str(folder))
        return folder


_FULL_SCALE = {
    "frame": "the frame's maximum, smoothed over a second",
    "video": "the video's maximum",
    "none": "a fixed map value kept with the model",
}


def is_alive(dataset: fo.Dataset, field: str) -> bool:
    """Whether a process works on a field."""
    beat = _store(dataset).get(_alive_key(field))
    return beat is not None and time.time() - beat < DEAD_AFTER_SECONDS


def cancel(dataset: fo.Dataset, field: str) -> bool:
    """Ask a run to stop, which it does within seconds; whether there is one at work."""
    if not is_alive(dataset, field):
        return False
    _store(dataset).set(_cancel_key(field), True)
    return True


def delete_run(dataset: fo.Dataset, field: str) -> None:
    """Remove a run's fields, the numbers it gave to detections, its maps and its record, and nothing else.

    Raises:
        OptionError: there is no such run, or it is at work.
    """
    record = find_run(dataset, field)
    if record is None:
        raise OptionError(f"there is no saliency run {field!r} in this dataset.")
    if is_alive(dataset, field):
        raise OptionError(f"the run {field!r} is at work: cancel it first.")
    fields = Fields(field)
    videos = all_videos(dataset)
    if dataset.has_sample_field(fields.stats):
        if dataset.has_field(f"{fields.stats}.filled_metadata"):
            filled = videos.match(F(f"{fields.stats}.filled_metadata") == True)  # noqa: E712 - for the database
            videos.set_values("metadata", dict.fromkeys(filled.values("id")), key_field="id")
        for name in [name for name in dataset.list_indexes() if name.startswith(f"{fields.stats}.")]:
            dataset.drop_index(name)
    if dataset.has_frame_field(field):
        dataset.delete_frame_field(field)
        delete_empty_frames(dataset)
    for name in fields.of_samples:
        if dataset.has_sample_field(name):
            dataset.delete_sample_field(name)
    appearance.hide(dataset, fields.heatmap, record.get("appearance") or {}, is_last=len(list_runs(dataset)) == 1)
    for name in set(record.get("detections", ())) & set(detection_fields(dataset)):
        path = f"{detection_path(dataset, name)}.{field}"
        if dataset.has_field(path):
            dataset.delete_frame_field(path.removeprefix("frames."))
    for folder in record.get("folders", ()):
        if re.fullmatch(rf"{field}-[0-9a-f]{{8}}", Path(folder).name):  # as `Run` makes them, whatever the record says
            shutil.rmtree(folder, ignore_errors=True)
            if Path(folder).parent.name == DEFAULT_FOLDER:
                with contextlib.suppress(OSError):
                    Path(folder).parent.rmdir()  # where nothing else is in it
    dataset.delete_run(field)


def _store(dataset: fo.Dataset) -> ExecutionStore:
    return ExecutionStore.create(_STORE, dataset._doc.id)


def _alive_key(field: str) -> str:
    return f"alive:{field}"


def _cancel_key(field: str) -> str:
    return f"cancel:{field}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
