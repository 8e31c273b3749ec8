"""What is to be done next, and what has become of it: the same for one process, many, and a cluster."""

import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tinyhd.errors import InputError, OptionError, TinyHDError, is_out_of_memory
from tinyhd.inference.backends import Backend
from tinyhd.options import BatchOptions
from tinyhd.pipeline.analyze import Progress
from tinyhd.pipeline.batch import Job, run_job
from tinyhd.pipeline.fetched import on_this_machine
from tinyhd.pipeline.manifest import Plan
from tinyhd.pipeline.outputs import Result
from tinyhd.pipeline.segments import Film, Join, Part, Scan
from tinyhd.video.reader import probe

log = logging.getLogger("tinyhd.batch")

JobProgress = Callable[[Job, int, int | None], None]
"""Called with (job, frames done, frames in all or None where that is not known)."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    plan: Plan
    result: Result | None = None
    error: str | None = None
    """One sentence; None: it was done."""
    is_usage: bool = False
    """An option has a value that is not allowed."""
    traceback: str | None = None
    """Where it failed in a way that nobody expects of it."""
    worker: int = 0


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


Task = Job | Part
"""What a worker is given: a job, or a part of one."""


def attempt(task: Task, options: BatchOptions, backend: Backend | None, progress: Progress | None) -> dict[str, Any]:
    """Do a task, a job within the limits; fields of an `Outcome`."""
    job = job_of(task)
    try:
        if not isinstance(task, Job):
            return {"result": task.run(backend)}
        with on_this_machine(job, options) as (here, finish):
            check_limits(here, options)
            return {"result": finish(run_job(here, backend=backend, progress=progress))}
    except TinyHDError as error:
        return {"error": str(error), "is_usage": isinstance(error, OptionError)}
    except Exception as error:
        if is_out_of_memory(error):
            return {"error": f"{os.fspath(job.input)!r}: out of memory."}
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def job_of(task: Task) -> Job:
    """The job that a task belongs to."""
    return task if isinstance(task, Job) else task.job


def needs_model(task: Task) -> bool:
    """Whether a task runs the network."""
    return job_of(task).needs_network and not isinstance(task, Join)


@dataclass(eq=False)
class _Begun:
    """A job that is under way."""

    plan: Plan
    film: Film
    stages: Iterator[list[Task]]
    tasks: int = 0
    """Of this stage."""
    left: int = 0
    """Of these, those that have not ended."""
    stage: int = 0
    failed: dict[str, Any] | None = None
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class Step:
    """A task, and what it is for."""

    task: Task
    begun: _Begun

    @property
    def plan(self) -> Plan:
        """Of the job."""
        return self.begun.plan


class Schedule:
    """Hands out steps, in order, and takes back how they ended. A long video has several, where it is to be split."""

    def __init__(
        self,
        plans: Iterable[Plan],
        options: BatchOptions,
        begin: Callable[[Plan], None],
        prepare: Callable[[Job], Job] = lambda job: job,
    ) -> None:
        """
        Args:
            plans: what is to be done; taken when a worker is free, so that there may be very many.
            options: how long segments are.
            begin: called before a job starts.
            prepare: makes of a job the one that workers are given.
        """
        self._plans, self._minutes = iter(plans), options.segment_minutes
        self._begin, self._prepare = begin, prepare
        self._ready: deque[Step] = deque()

    def next(self) -> Step | None:
        """The next step; None where there is none, at least until another has ended."""
        if not self._ready:
            plan = next(self._plans, None)
            if plan is None:
                return None
            self._begin(plan)
            film = Film(self._prepare(plan.job), self._minutes)
            self._advance(_Begun(plan, film, film.stages()))
        return self._ready.popleft()

    def ended(self, step: Step, fields: dict[str, Any], worker: int = 0) -> list[Outcome]:
        """Take how a step ended, as `attempt` gives it; the job that has ended with it, if it has."""
        begun = step.begun
        begun.left -= 1
        if begun.tasks > 1 and fields.get("error") is None:
            what = "stretches scanned" if isinstance(step.task, Scan) else "segments analyzed"
            log.info("%s: %d of %d %s", begun.plan.job.input, begun.tasks - begun.left, begun.tasks, what)
        if fields.get("error") is not None and begun.failed is None:
            begun.failed = fields
            mine = [other for other in self._ready if other.begun is begun]
            begun.left -= len(mine)
            self._ready = deque(other for other in self._ready if other.begun is not begun)
        if begun.left or (begun.failed is None and self._advance(begun)):
            return []
        begun.film.clear()
        fields = begun.failed or fields
        if begun.stage > 1 and fields.get("result") is not None:
            fields["result"] = replace(fields["result"], elapsed_seconds=time.perf_counter() - begun.began)
        return [Outcome(begun.plan, worker=worker, **fields)]

    def _advance(self, begun: _Begun) -> bool:
        """Make the tasks of the next stage ready, where there is one."""
        tasks = next(begun.stages, None)
        if tasks is None:
            return False
        begun.left = begun.tasks = len(tasks)
        begun.stage += 1
        self._ready.extend(Step(task, begun) for task in tasks)
        return True
