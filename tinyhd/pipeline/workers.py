"""Many jobs, one after the other or side by side in processes of their own.

Processes are started anew, never forked, and each computes on its share of the processors. One that dies takes only its
job with it: that job has failed, and another process goes on with the next.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tinyhd.errors import InputError, OptionError, TinyHDError, is_out_of_memory
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.options import BatchOptions, InferenceOptions
from tinyhd.pipeline.annotate import AnnotateResult
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.pipeline.manifest import Plan
from tinyhd.video.reader import probe

JobProgress = Callable[[Job, int, int | None], None]
"""Called with (job, frames done, frames in all or None where that is not known)."""

_REPORT_SECONDS = 0.5
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    plan: Plan
    result: AnnotateResult | None = None
    error: str | None = None
    """One sentence; None: it was done."""
    is_usage: bool = False
    """An option has a value that is not allowed."""
    traceback: str | None = None
    """Where it failed in a way that nobody expects of it."""
    worker: int = 0


def run_jobs(
    plans: Iterable[Plan],
    inference: InferenceOptions,
    options: BatchOptions | None = None,
    *,
    backend: Backend | None = None,
    begin: Callable[[Plan], None] = lambda plan: None,
    progress: JobProgress = lambda job, done, total: None,
) -> Generator[Outcome]:
    """Do jobs; yields how each ended, in the order in which they end.

    Args:
        plans: what is to be done.
        inference: of all jobs: the model is opened once in each process.
        options: how many at once, and the limits.
        backend: used instead of opening one, for jobs in this process.
        begin: called before a job starts.
        progress: called now and then while one runs.

    Raises:
        OptionError, WeightsError: the model cannot be opened.
    """
    options = options or BatchOptions()
    count = options.worker_count
    if count == 0:
        yield from _here(plans, inference, options, backend, begin, progress)
        return
    pool = _Pool(inference, options, count)
    try:
        yield from pool.run(iter(plans), begin, progress)
    finally:
        pool.close()


def check_limits(job: Job, options: BatchOptions) -> None:
    """Refuse an input that is longer or larger than the limits. Raises `InputError`."""
    if options.max_duration is None and options.max_pixels is None:
        return
    info = probe(job.input)
    if options.max_duration is not None and (info.duration_seconds or 0) > options.max_duration:
        raise InputError(
            f"{os.fspath(job.input)!r} lasts {info.duration_seconds:.0f} s, more than --max-duration "
            f"{options.max_duration:g} allows."
        )
    if options.max_pixels is not None and info.width * info.height > options.max_pixels:
        raise InputError(
            f"{os.fspath(job.input)!r} has {info.width}x{info.height} pixels, more than --max-pixels "
            f"{options.max_pixels} allows."
        )


def _attempt(job: Job, options: BatchOptions, backend: Backend | None, progress: Any) -> dict[str, Any]:
    """Fields of an `Outcome`."""
    try:
        check_limits(job, options)
        return {"result": run_job(job, backend=backend, progress=progress)}
    except TinyHDError as error:
        return {"error": str(error), "is_usage": isinstance(error, OptionError)}
    except Exception as error:
        if is_out_of_memory(error):
            return {"error": f"{os.fspath(job.input)!r}: out of memory."}
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _here(
    plans: Iterable[Plan],
    inference: InferenceOptions,
    options: BatchOptions,
    backend: Backend | None,
    begin: Callable[[Plan], None],
    progress: JobProgress,
) -> Iterator[Outcome]:
    for plan in plans:
        if backend is None and plan.job.track is None:
            backend = open_backend(inference)
        begin(plan)
        report = lambda done, total, job=plan.job: progress(job, done, total)  # noqa: E731
        yield Outcome(plan, **_attempt(plan.job, options, backend, report))


# ---- processes


@dataclass
class _Worker:
    """A process, the way to it, and what it is doing."""

    number: int
    process: Any
    pipe: Connection
    plan: Plan | None = None
    began: float = 0.0
    is_ready: bool = False


class _Pool:
    def __init__(self, inference: InferenceOptions, options: BatchOptions, count: int) -> None:
        self._inference, self._options = inference, options
        self._shares = _shares(count)
        self._workers = [self._start(number) for number in range(count)]

    def run(self, plans: Iterator[Plan], begin: Callable[[Plan], None], progress: JobProgress) -> Iterator[Outcome]:
        for worker in self._workers:
            self._next(worker, plans, begin)
        while any(worker.plan for worker in self._workers):
            busy = {worker.pipe: worker for worker in self._workers if worker.plan}
            for pipe in wait(list(busy), _POLL_SECONDS):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    yield self._lost(worker, "the process that worked on it died (out of memory, or a crash)")
                    self._next(worker, plans, begin)
                    continue
                if kind == "progress" and worker.plan:
                    progress(worker.plan.job, *content)
                elif kind == "unusable":
                    raise content
                elif kind == "ended" and worker.plan:
                    plan, worker.plan = worker.plan, None
                    yield Outcome(plan, worker=worker.number, **content)
                    self._next(worker, plans, begin)
            limit = self._options.timeout
            for worker in self._workers:
                if limit is not None and worker.plan and time.monotonic() - worker.began > limit:
                    worker.process.kill()
                    yield self._lost(worker, f"it took longer than --timeout {limit:g} s")
                    self._next(worker, plans, begin)

    def _next(self, worker: _Worker, plans: Iterator[Plan], begin: Callable[[Plan], None]) -> None:
        """Give a worker its next job, where there is one."""
        plan = next(plans, None)
        if plan is None:
            return
        begin(plan)
        worker.plan, worker.began = plan, time.monotonic()
        with contextlib.suppress(OSError):  # it died: seen when its answer is waited for
            worker.pipe.send(plan.job)

    def _lost(self, worker: _Worker, why: str) -> Outcome:
        """A worker is no more; its job has failed and another takes its place."""
        plan = worker.plan
        assert plan is not None
        worker.process.join()
        new = self._start(worker.number)
        worker.process, worker.pipe, worker.plan = new.process, new.pipe, None
        return Outcome(plan, error=f"{os.fspath(plan.job.input)!r}: {why}.", worker=worker.number)

    def _start(self, number: int) -> _Worker:
        # a process on one processor must not wait, spinning, for threads of NumPy's that have none to run on
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_work,
            args=(there, self._inference, self._options, self._shares[number]),
            name=f"tinyhd-worker-{number}",
            daemon=True,
        )
        process.start()
        there.close()
        return _Worker(number, process, here)

    def close(self) -> None:
        """End all workers; what they have not finished leaves nothing."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(10)
            worker.process.kill()
            worker.pipe.close()


def _shares(count: int) -> list[set[int]]:
    """The processors that each of `count` workers computes on; empty where the system cannot be told."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(count)]
    processors = sorted(os.sched_getaffinity(0))
    if count >= len(processors):
        return [{processors[number % len(processors)]} for number in range(count)]
    return [set(processors[number::count]) for number in range(count)]


def _work(pipe: Connection, inference: InferenceOptions, options: BatchOptions, processors: set[int]) -> None:
    """A worker's life: jobs come, how they ended goes back. It ends with the process that started it."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process decides
    signal.signal(signal.SIGTERM, stop)
    if processors:
        os.sched_setaffinity(0, processors)  # OpenVINO, FFmpeg and the encoders take as many threads as there are here
    logging.getLogger("tinyhd").setLevel(logging.CRITICAL)
    backend: Backend | None = None
    last = 0.0

    def progress(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_SECONDS:
            last = time.monotonic()
            pipe.send(("progress", (done, total)))

    with contextlib.suppress(EOFError, OSError):  # the first process is gone
        while True:
            job: Job = pipe.recv()
            if backend is None and job.track is None:
                try:
                    backend = open_backend(inference)
                except TinyHDError as error:
                    pipe.send(("unusable", error))
                    return
            pipe.send(("ended", _attempt(job, options, backend, progress)))
