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
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tinyhd.errors import TinyHDError
from tinyhd.inference.backends import Backend, open_backend
from tinyhd.options import BatchOptions, InferenceOptions
from tinyhd.pipeline.fetched import fetch_ahead
from tinyhd.pipeline.manifest import Plan
from tinyhd.pipeline.schedule import JobProgress, Outcome, Schedule, Step, Task, attempt, needs_model

_REPORT_SECONDS = 0.5
_POLL_SECONDS = 0.2


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
        options: how many at once, where, and the limits.
        backend: used instead of opening one, for jobs in this process.
        begin: called before a job starts.
        progress: called now and then while one runs.

    Raises:
        OptionError, WeightsError: the model cannot be opened, or there is no such cluster.
    """
    options = options or BatchOptions()
    if options.ray is not None:
        from tinyhd.pipeline.cluster import everywhere, run_on_ray

        yield from run_on_ray(Schedule(plans, options, begin, everywhere), inference, options, progress)
        return
    count = options.worker_count
    with contextlib.closing(fetch_ahead(plans, options)) as plans:
        schedule = Schedule(plans, options, begin)
        if count == 0:
            yield from _here(schedule, inference, options, backend, progress)
            return
        pool = _Pool(inference, options, count)
        try:
            yield from pool.run(schedule, progress)
        finally:
            pool.close()


def _here(
    schedule: Schedule,
    inference: InferenceOptions,
    options: BatchOptions,
    backend: Backend | None,
    progress: JobProgress,
) -> Iterator[Outcome]:
    while (step := schedule.next()) is not None:
        if backend is None and needs_model(step.task):
            backend = open_backend(inference)
        report = lambda done, total, job=step.plan.job: progress(job, done, total)  # noqa: E731
        yield from schedule.ended(step, attempt(step.task, options, backend, report))


# ---- processes


@dataclass
class _Worker:
    """A process, the way to it, and what it is doing."""

    number: int
    process: Any
    pipe: Connection
    step: Step | None = None
    began: float = 0.0


class _Pool:
    def __init__(self, inference: InferenceOptions, options: BatchOptions, count: int) -> None:
        self._inference, self._options = inference, options
        self._shares = _shares(count)
        self._workers = [self._start(number) for number in range(count)]

    def run(self, schedule: Schedule, progress: JobProgress) -> Iterator[Outcome]:
        while self._feed(schedule):
            busy = {worker.pipe: worker for worker in self._workers if worker.step}
            for pipe in wait(list(busy), _POLL_SECONDS):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.step is not None
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from self._lost(
                        worker, schedule, "the process that worked on it died (out of memory, or a crash)"
                    )
                    continue
                if kind == "progress":
                    progress(worker.step.plan.job, *content)
                elif kind == "unusable":
                    raise content
                elif kind == "ended":
                    step, worker.step = worker.step, None
                    yield from schedule.ended(step, content, worker.number)
            limit = self._options.timeout
            for worker in self._workers:
                if limit is not None and worker.step and time.monotonic() - worker.began > limit:
                    worker.process.kill()
                    yield from self._lost(worker, schedule, f"it took longer than --timeout {limit:g} s")

    def _feed(self, schedule: Schedule) -> bool:
        """Give those who have nothing to do their next step, where there is one; whether anybody works."""
        for worker in self._workers:
            if worker.step is None and (step := schedule.next()) is not None:
                worker.step, worker.began = step, time.monotonic()
                with contextlib.suppress(OSError):  # it died: seen when its answer is waited for
                    worker.pipe.send(step.task)
        return any(worker.step for worker in self._workers)

    def _lost(self, worker: _Worker, schedule: Schedule, why: str) -> list[Outcome]:
        """A worker is no more; its job has failed and another takes its place."""
        step = worker.step
        assert step is not None
        worker.process.join()
        new = self._start(worker.number)
        worker.process, worker.pipe, worker.step = new.process, new.pipe, None
        return schedule.ended(step, {"error": f"{os.fspath(step.plan.job.input)!r}: {why}."}, worker.number)

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
            task: Task = pipe.recv()
            if backend is None and needs_model(task):
                try:
                    backend = open_backend(inference)
                except TinyHDError as error:
                    pipe.send(("unusable", error))
                    return
            pipe.send(("ended", attempt(task, options, backend, progress)))
