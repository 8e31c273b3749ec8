"""What a batch has done so far: one line of JSON for each attempt, kept in the folder of its outputs.

    {"input": "/videos/a.mp4", "action": "annotate", "status": "started", "attempt": 1, "fresh": true, ...}
    {"input": "/videos/a.mp4", "action": "annotate", "status": "done", "frames": 250, "seconds": 4.2, ...}

Lines are only ever added, and each is on the disk before the next job starts, so that a run can be killed at any moment
and goes on where it was: outputs appear under their names when they are complete, and what is here says whose they are.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from filelock import FileLock, Timeout

from tinyhd.choices import Options
from tinyhd.errors import InputError, OutputError, TinyHDError
from tinyhd.files import StrPath, cannot_write, sweep
from tinyhd.options import GROUPS
from tinyhd.pipeline.addresses import absolute, find, is_address, look
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.leases import in_use
from tinyhd.pipeline.outputs import Result, default_output
from tinyhd.video.reader import probe

MANIFEST_NAME = "tinyhd-manifest.jsonl"

TODO, DONE, DAMAGED, FAILED, ELSEWHERE = "todo", "done", "damaged", "failed", "elsewhere"

_STARTED = "started"
_HASHED_BYTES, _TAIL_BYTES = 2**20, 2**16
_LINE_START = b'{"input": '
_OWN_SETTINGS = tuple(
    field.name
    for field in fields(Job)
    if field.name not in {"input", "output", "overwrite", *(group for groups in GROUPS.values() for group in groups)}
)
_NOT_SETTINGS = ("device", "backend", "batch_size")  # what computes, not what


class Entry(NamedTuple):
    """The last that is known of an input."""

    status: str
    """started, done, damaged or failed."""
    attempt: int
    settings: str
    model: str
    size: int
    mtime_ns: int
    content: str
    fresh: bool
    """Whether the attempt might replace what it found: there was nothing, or it was of an earlier one."""
    outputs: tuple[tuple[str, int], ...]
    """Their names and sizes; of a begun attempt of what it found, 0: nothing."""
    time: float
    """When it was written, seconds since 1970."""


@dataclass(frozen=True)
class Plan:
    """What is to be done with an input."""

    state: str
    """todo, or how it ended before: done, damaged, failed; elsewhere: another run is at work on it."""
    job: Job
    attempt: int = 1


class Manifest:
    """The manifest of a folder of outputs, for one run at a time; a context manager.

    Attributes:
        frames, seconds: of all that earlier runs have done, and how long it took the processes that did it.
    """

    def __init__(self, folder: Path, model_hash: str) -> None:
        """
        Args:
            folder: of the outputs; it exists.
            model_hash: of the model that computes.

        Raises:
            OutputError: another run is at work there, or it cannot be written.
            InputError: the manifest is not one.
        """
        self._folder, self._model = folder, model_hash
        self.frames, self.seconds = 0, 0.0
        self._entries: dict[tuple[str, str], Entry] = {}
        self._read: dict[Path, int] = {}
        try:
            self.path, self._lock = self._take_place(folder)
        except OSError as error:
            raise cannot_write(folder / MANIFEST_NAME, error) from error
        try:
            sweep(folder)
            self._file: IO[bytes] = self.path.open("ab+")
            self.refresh()
            _cut_torn_line(self._file)
        except OSError as error:
            self._lock.release()
            raise cannot_write(self.path, error) from error
        except BaseException:
            self._lock.release()
            raise

    def _take_place(self, folder: Path) -> tuple[Path, FileLock]:
        """The manifest to write, and what keeps others from it."""
        lock = manifest_lock(folder)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise at_work(folder) from error
        if in_use(folder):
            lock.release()
            raise at_work(folder)
        return folder / MANIFEST_NAME, lock

    def refresh(self) -> None:
        """Read what is new in the manifests of the folder."""
        for path in manifests(self._folder):
            if path == self.path and path in self._read:
                continue
            self._read.setdefault(path, 0)
            for values, entry, end in read_manifest(path, self._read[path]):
                self._read[path] = end
                known = self._entries.get((values["action"], values["input"]))
                if known is None or (known.attempt, known.time) <= (entry.attempt, entry.time):
                    self._entries[values["action"], values["input"]] = entry
                self.frames += values.get("frames", 0)
                self.seconds += values.get("seconds", 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        sweep(self._folder)  # what workers that were lost have left
        self._lock.release()

    def plan(self, job: Job, retry_failed: bool = False) -> Plan:
        """What is to be done, given what was done before: finished jobs are not repeated while their input, settings,
        model and outputs are the same; failed ones only where `retry_failed` says so."""
        entry = self._entries.get(job_key(job))
        if entry is None:
            return Plan(TODO, job)
        todo = Plan(TODO, job, entry.attempt + 1)
        if (entry.settings, entry.model) != (settings_hash(job), self._model) or not _same_input(job.input, entry):
            # the outputs, where they are still there, are of an earlier run of ours
            is_ours = entry.status in (DONE, DAMAGED) or entry.fresh
            return replace(todo, job=replace(job, overwrite=job.overwrite or is_ours))
        again = replace(todo, job=replace(job, overwrite=job.overwrite or entry.fresh))
        if entry.status == FAILED:
            return again if retry_failed else replace(todo, state=FAILED)
        sizes, noted = [_size(name) for name, _ in entry.outputs], [size for _, size in entry.outputs]
        if entry.status == _STARTED:
            if entry.fresh and None not in sizes and not any(noted):  # killed between the last output and its line here
                return replace(todo, state=DONE, attempt=entry.attempt)
            return again
        if sizes == noted:
            return replace(todo, state=entry.status)
        return replace(todo, job=replace(job, overwrite=True))

    def claim(self, job: Job, retry_failed: bool = False) -> Plan:
        """What is to be done, and by nobody else; see `plan`."""
        return self.plan(job, retry_failed)

    def begin(self, plan: Plan) -> None:
        """Note that a job begins. Raises `OutputError` where that cannot be written."""
        outputs = [(name, _size(name) or 0) for name in output_names(plan.job)]
        fresh = plan.job.overwrite or not any(exists(name) for name, _ in outputs)
        self._write(plan, _STARTED, outputs, fresh=fresh)

    def end(self, plan: Plan, result: Result | None, error: str | None = None, worker: int = 0) -> None:
        """Note how a job ended: its result, or the sentence that says what went wrong. Raises `OutputError`."""
        facts: dict[str, Any] = {"worker": worker}
        begun = self._entries.get(job_key(plan.job))
        if begun is not None and (begun.status, begun.attempt) == (_STARTED, plan.attempt):
            # a file that was replaced meanwhile is not what was worked on
            facts["identity"] = begun.size, begun.mtime_ns, begun.content
        if result is None:
            self._write(plan, FAILED, [], error=error, fresh=plan.job.overwrite, **facts)
            return
        outputs = [
            (name, _size(name, listed=False) or 0) for name in output_names(replace(plan.job, output=result.output))
        ]
        facts |= {"frames": result.frames, "seconds": round(result.elapsed_seconds, 3)}
        self._write(plan, DAMAGED if result.damaged else DONE, outputs, warnings=list(result.warnings), **facts)

    def _write(
        self,
        plan: Plan,
        status: str,
        outputs: list[tuple[str, int]],
        identity: tuple[int, int, str] | None = None,
        **facts: Any,
    ) -> None:
        job, name = plan.job, _name(plan.job.input)
        size, mtime_ns, content = identity or _identity(job.input)
        entry = Entry(
            status, plan.attempt, settings_hash(job), self._model, size, mtime_ns, content, facts.get("fresh", False),
            tuple(outputs), round(time.time(), 3),
        )  # fmt: skip
        line = {"input": name, "action": job.action, **entry._asdict(), **facts}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._entries[job_key(job)] = entry


def _cut_torn_line(file: IO[bytes]) -> None:
    """Remove a last line that a run did not complete, because it was killed or the disk was full."""
    end = file.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start and b"\n" not in tail:
        start = max(0, start - _TAIL_BYTES)
        file.seek(start)
        tail = file.read(end - start)
    file.truncate(start + tail.rfind(b"\n") + 1)


def manifests(folder: Path) -> list[Path]:
    """The manifests in a folder: of runs that had it for themselves, and of those that shared it."""
    return [path for path in (folder / MANIFEST_NAME, *sorted(folder.glob("tinyhd-manifest-*.jsonl"))) if path.exists()]


def manifest_lock(folder: Path) -> FileLock:
    """What a run holds that has the folder for itself."""
    return FileLock(folder / f".{MANIFEST_NAME}.lock")


def at_work(folder: Path) -> OutputError:
    """The error of a run that would be in another's way."""
    ways = ", or choose another folder"
    if not is_address(folder):
        ways = ", choose another folder, or start all of them with --lease to share the work"
    return OutputError(f"another run is at work in {os.fspath(folder)!r}: wait for its end{ways}.")


def read_manifest(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], Entry, int]]:
    """The lines of a manifest from a byte on, each as it is, as an `Entry`, and the byte where it ends; one that a run
    did not complete is left out.

    Raises:
        InputError: it is not a manifest.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            start += len(line)
            try:
                values = json.loads(line.decode("utf-8", "surrogateescape"))
                outputs = tuple((str(name), int(size)) for name, size in values["outputs"])
                shared = {name: sys.intern(values[name]) for name in ("status", "settings", "model")}  # kept once
                entry = Entry(**{name: values[name] for name in Entry._fields} | shared | {"outputs": outputs})
                values["input"], values["action"]
            except (ValueError, KeyError, TypeError) as error:
                is_torn = not line.endswith(b"\n") and line[: len(_LINE_START)] == _LINE_START[: len(line)]
                if is_torn or not line.strip():
                    continue
                raise InputError(
                    f"{os.fspath(path)!r} is not a manifest of tinyhd: choose another folder for the outputs."
                ) from error
            yield values, entry, start


def settings_hash(job: Job) -> str:
    """A short digest of all that decides what a job's outputs hold, but for the input and the model's file."""
    groups = tuple(getattr(job, name) for name in GROUPS[job.action])
    return _settings_hash(groups, tuple(str(getattr(job, name)) for name in _OWN_SETTINGS))


@functools.lru_cache(maxsize=256)
def _settings_hash(groups: tuple[Options, ...], own: tuple[str, ...]) -> str:
    values = [{k: v for k, v in group.to_dict().items() if k not in _NOT_SETTINGS} for group in groups]
    return hashlib.sha256(json.dumps([values, own]).encode()).hexdigest()[:16]


def output_names(job: Job) -> list[str]:
    """The names of all files and folders that a job writes."""
    output = job.output or default_output(job.input, probe(job.input).is_still)
    return [absolute(name) for name in (output, job.save_maps, job.stats, job.save_path) if name is not None]


def job_key(job: Job) -> tuple[str, str]:
    """What attempts at a job are found by: its action and its input."""
    return job.action, _name(job.input)


def exists(name: StrPath) -> bool:
    """Whether something is there: a file or folder of this machine, or what an address says."""
    return look(name, listed=True) is not None if is_address(name) else os.path.lexists(name)


def _name(path: Path) -> str:
    return os.fspath(path) if is_address(path) else os.path.realpath(path)


def _identity(path: Path) -> tuple[int, int, str]:
    """Size, time of the last change, and a digest of the first and the last megabyte, or what a store has in its place;
    zeros where it cannot be read."""
    if is_address(path):
        with contextlib.suppress(TinyHDError):
            if (facts := look(path)) is not None:
                return facts.size or 0, 0, facts.version
        return 0, 0, ""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(_HASHED_BYTES))
            if status.st_size > _HASHED_BYTES:
                file.seek(max(_HASHED_BYTES, status.st_size - _HASHED_BYTES))
                digest.update(file.read(_HASHED_BYTES))
            return status.st_size, status.st_mtime_ns, digest.hexdigest()[:16]
    except OSError:
        return 0, 0, ""


def _same_input(path: Path, entry: Entry) -> bool:
    if is_address(path):
        facts = look(path, listed=True)
        return entry.size == 0 if facts is None else (facts.size, facts.version) == (entry.size, entry.content)
    try:
        status = path.stat()
    except OSError:
        return entry.size == 0
    if status.st_size != entry.size:
        return False
    return status.st_mtime_ns == entry.mtime_ns or _identity(path)[2] == entry.content


def _size(name: str, listed: bool = True) -> int | None:
    """Of a file; of a folder how many files are in it; None where there is none."""
    if is_address(name):
        facts = look(name, listed=listed)
        return len(find(name)) if facts is not None and facts.is_folder else facts and facts.size
    try:
        return len(os.listdir(name)) if os.path.isdir(name) else os.path.getsize(name)
    except OSError:
        return None
