"""Jobs whose inputs or outputs are at addresses: inputs are fetched to a folder of bounded size on the machine that
works on them, outputs are written there and uploaded when they are complete.

    CACHE/COMPUTER/
      KEY/clip.mp4              fetched
      KEY/.part, KEY/.bytes     being fetched; how large it will be, which counts from the start
      KEY/.use-PROCESS-NUMBER   who needs it: while that process lives nobody removes it
      KEY/.ahead-PROCESS-NUMBER whose job has not begun: removed only for one that has
"""

import contextlib
import hashlib
import os
import queue
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from tinyhd.errors import InputError, OptionError, OutputError, TinyHDError
from tinyhd.files import cannot_write, is_alive, own_prefix, sweep
from tinyhd.options import BatchOptions
from tinyhd.pipeline.addresses import Address, as_path, check_writable, download, is_address, look, upload
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.leases import HOST
from tinyhd.pipeline.manifest import Plan
from tinyhd.pipeline.outputs import Result

_INPUTS, _OUTPUTS = ("input", "track"), ("save_maps", "stats", "save_path", "output")
_USE, _AHEAD = ".use", ".ahead"
_POLL_SECONDS = 0.1
_MOST_AHEAD = 4
"""Files that are fetched side by side before they are needed."""


class _LaterError(Exception):
    """There is no room now, or another process is fetching it."""


class Cache:
    """Copies of files at addresses, of all processes of this user on this machine."""

    def __init__(self, options: BatchOptions) -> None:
        """
        Args:
            options: which folder, and how large it may become.

        Raises:
            OutputError: the folder cannot be used.
        """
        self._keep, self._gigabytes = options.cache_dir is not None, options.cache_size
        owner = os.getuid() if hasattr(os, "getuid") else ""
        base = Path(options.cache_dir or Path(tempfile.gettempdir(), f"tinyhd-{owner}"))
        self.folder = base / HOST
        try:
            base.mkdir(mode=0o777 if self._keep else 0o700, parents=True, exist_ok=True)
            if not self._keep and owner != "" and base.stat().st_uid != owner:
                raise OutputError(f"{os.fspath(base)!r} is somebody else's: name a folder with --cache-dir.")
            self.folder.mkdir(exist_ok=True)
            sweep(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._lock = FileLock(self.folder / ".lock")
        if not self._keep:
            self._forget_the_dead()

    def _forget_the_dead(self) -> None:
        """Remove what processes that were killed had fetched for themselves."""
        with self._lock:
            for entry in list(self.folder.iterdir()):
                if entry.is_dir() and _is_entry(entry) and not _marks(entry, _USE) and not _marks(entry, _AHEAD):
                    shutil.rmtree(entry, ignore_errors=True)

    @contextlib.contextmanager
    def copy(self, address: Address, *, wait: bool = True) -> Iterator[Path]:
        """A copy of a file for the time of the body.

        Args:
            wait: for room, where other jobs have it.

        Raises:
            InputError: it cannot be fetched, or there is no room.
        """
        mark = self._get(address, wait)
        try:
            os.utime(mark.parent)
            yield mark.parent / _local_name(address)
        finally:
            self._leave(mark, remove=not self._keep)

    def get_ahead(self, address: Address, check: Callable[[], None]) -> Path:
        """Fetch what will be needed, where there is room; the mark that says so. Raises what comes up."""
        mark = self._get(address, False, check, ahead=True)
        return mark.rename(mark.with_name(mark.name.replace(_USE, _AHEAD)))

    def forget(self, marks: Iterable[Path]) -> None:
        """What was fetched ahead was used, or is not needed."""
        for mark in marks:
            self._leave(mark, remove=not self._keep)

    def _get(self, address: Address, wait: bool, check: Callable[[], None] = lambda: None, ahead: bool = False) -> Path:
        """Fetch a file, where it is not there; this process's mark at it."""
        facts = look(address)
        if facts is None or facts.is_folder:
            raise InputError(f"{str(address)!r} cannot be read: there is no such file or bucket.")
        if facts.size is None:
            raise InputError(f"{str(address)!r} cannot be fetched: the server does not say how large it is.")
        limit = int(self._gigabytes * 1e9)
        if facts.size > limit:
            raise InputError(
                f"{str(address)!r} has {facts.size / 1e9:.3g} GB, more than --cache-size {self._gigabytes:g} allows."
            )
        entry = self.folder / hashlib.sha256(repr((str(address), facts)).encode()).hexdigest()[:16]
        mark = entry / f"{_USE}-{os.getpid()}-{secrets.token_hex(3)}"
        target, part = entry / _local_name(address), entry / ".part"
        while True:
            check()
            try:
                with self._lock:
                    is_there = self._enter(mark, target, facts.size, limit, ahead)
                break
            except _LaterError:
                if not wait:
                    raise InputError(
                        f"{str(address)!r} cannot be fetched: there is no room for it in --cache-size "
                        f"{self._gigabytes:g} GB beside what is in use."
                    ) from None
                time.sleep(_POLL_SECONDS)
            except OSError as error:
                raise cannot_write(entry, error) from error
        if not is_there:
            try:
                download(address, part, check)
                if part.stat().st_size != facts.size:
                    raise InputError(f"{str(address)!r} was cut off: {part.stat().st_size} of {facts.size} bytes came.")
                part.replace(target)
            except BaseException:
                self._leave(mark, remove=True)
                raise
        return mark

    def _enter(self, mark: Path, target: Path, size: int, limit: int, ahead: bool) -> bool:
        """Mark an entry, made where there is none; whether the file is there. Raises `_LaterError`."""
        entry = mark.parent
        if target.exists():
            mark.touch()
            return True
        if _marks(entry, _USE):
            raise _LaterError  # somebody fetches it
        shutil.rmtree(entry, ignore_errors=True)
        others = {child: _bytes(child) for child in self.folder.iterdir() if child.is_dir() and _is_entry(child)}
        # at first what nobody waits for, and what has not been used for long
        order = sorted(others, key=lambda child: (bool(_marks(child, _AHEAD)), child.stat().st_mtime_ns))
        for child in order:
            if sum(others.values()) + size <= limit:
                break
            if not _marks(child, _USE) and not (ahead and _marks(child, _AHEAD)):
                shutil.rmtree(child, ignore_errors=True)
                del others[child]
        if sum(others.values()) + size > limit:
            raise _LaterError
        entry.mkdir()
        (entry / ".bytes").write_text(str(size))
        mark.touch()
        return False

    def _leave(self, mark: Path, remove: bool) -> None:
        with self._lock:
            mark.unlink(missing_ok=True)
            if remove and not _marks(mark.parent, _USE):
                shutil.rmtree(mark.parent, ignore_errors=True)


def _local_name(address: Address) -> str:
    return address.name.lstrip(".")[-60:] or "file"  # stores allow longer names than disks


def _is_entry(folder: Path) -> bool:
    return len(folder.name) == 16 and not folder.name.startswith(".")


def _bytes(entry: Path) -> int:
    try:
        return int((entry / ".bytes").read_text())
    except (OSError, ValueError):
        return 0


def _marks(entry: Path, kind: str) -> list[Path]:
    """Those of processes that live; the others go."""
    found = []
    for mark in entry.glob(f"{kind}-*"):
        if is_alive(int(mark.name.split("-")[1])):
            found.append(mark)
        else:
            mark.unlink(missing_ok=True)
    return found


# ---- jobs


@contextlib.contextmanager
def on_this_machine(job: Job, options: BatchOptions) -> Iterator[tuple[Job, Callable[[Result], Result]]]:
    """A job with files in the place of addresses, for the time of the body, and what is to be done with its result:
    outputs are uploaded, and it has the addresses again. What is raised in the body has them too.

    Raises:
        InputError: an input cannot be fetched.
        OutputError: an output cannot be written.
    """
    inputs = {name: getattr(job, name) for name in _INPUTS if is_address(getattr(job, name))}
    outputs = {name: getattr(job, name) for name in _OUTPUTS if is_address(getattr(job, name))}
    if not inputs and not outputs:
        yield job, lambda result: result
        return
    if job.output is None and "input" in inputs:
        raise OptionError(f"{str(job.input)!r} is at an address: say where the output goes.")
    cache = Cache(options)
    files: dict[str, Any] = {}
    names: dict[str, str] = {}
    folders: dict[Path, str] = {}
    with contextlib.ExitStack() as stack:
        for field, address in inputs.items():
            # a job that has one file does not wait for others that have one: each might for the other
            files[field] = stack.enter_context(cache.copy(address, wait=not files))
            names[os.fspath(files[field])] = str(address)
        for field, address in outputs.items():
            text = check_writable(address)
            passing = tempfile.TemporaryDirectory(dir=cache.folder, prefix=f"{own_prefix()}out-")
            folder = Path(stack.enter_context(passing))
            place, _, name = text.rstrip("/").rpartition("/")
            files[field] = folder / name
            if isinstance(address, str):  # a slash at its end says that it is a folder
                files[field] = f"{folder / name}{os.sep if text.endswith('/') else ''}"
            folders[folder] = names[os.fspath(folder)] = place

        def renamed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(renamed, value))
            if not isinstance(value, str | Path):
                return value
            text = os.fspath(value)
            for local, there in names.items():
                text = text.replace(local, there)
            return as_path(text) if isinstance(value, Path) else text

        def finish(result: Result) -> Result:
            for folder, place in folders.items():
                written = sorted(path for path in folder.rglob("*") if path.is_file())
                # the one that says that all are there comes last
                for path in sorted(written, key=lambda path: path == files.get("output")):
                    upload(path, f"{place}/{path.relative_to(folder).as_posix()}")
            return replace(result, **{field.name: renamed(getattr(result, field.name)) for field in fields(result)})

        try:
            yield replace(job, **files), finish
        except TinyHDError as error:
            raise type(error)(renamed(str(error))) from error


def fetch_ahead(plans: Iterable[Plan], options: BatchOptions) -> Generator[Plan]:
    """Plans as they come; the inputs of the next ones are fetched meanwhile, where they are at addresses."""
    count, plans = max(1, options.worker_count), iter(plans)
    waiting: deque[Plan] = deque()
    wanted: queue.SimpleQueue[Plan | None] = queue.SimpleQueue()
    ended = threading.Event()
    cache: Cache | None = None
    marks: list[Path] = []

    def check() -> None:
        if ended.is_set():
            raise InterruptedError

    def work(cache: Cache) -> None:
        while (plan := wanted.get()) is not None and not ended.is_set():
            with contextlib.suppress(Exception):  # who needs it meets the same, and says it
                if plan in waiting and isinstance(plan.job.input, Address):
                    marks.append(cache.get_ahead(plan.job.input, check))

    try:
        while True:
            # files of this machine need no looking ahead, and what is planned late knows more
            while not waiting or (is_address(waiting[-1].job.input) and len(waiting) <= count):
                plan = next(plans, None)
                if plan is None:
                    break
                waiting.append(plan)
                if not isinstance(plan.job.input, Address):
                    continue
                if cache is None:
                    cache = Cache(options)
                    for _ in range(min(count, _MOST_AHEAD)):
                        threading.Thread(target=work, args=(cache,), name="tinyhd-fetch", daemon=True).start()
                if len(waiting) > 1:
                    wanted.put(plan)
            if not waiting:
                return
            yield waiting.popleft()
    finally:
        ended.set()
        for _ in range(_MOST_AHEAD):
            wanted.put(None)
        if cache is not None:
            cache.forget(marks)
