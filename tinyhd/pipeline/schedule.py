"""What is to be done next, and what has become of it: the same for one process, many, and a cluster."""

import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tinyhd.errors import InputError, OptionError, TinyHDError, is_out_of_memory
from tinyhd.inference.backends import Backend
from tinyhd.options import BatchOptions
from tinyhd.pipeline.analyze import Progress
from tinyhd.pipeline.batch import Job, Result, run_job
from tinyhd.pipeline.manifest import Plan
from tinyhd.video.reader import probe

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


def attempt(job: Job, options: BatchOptions, backend: Backend | None, progress: Progress | None) -> dict[str, Any]:
    """Do a job within the limits; fields of an `Outcome`."""
    try:
        check_limits(job, options)
        return {"result": run_job(job, backend=backend, progress=progress)}
    except TinyHDError as error:
        return {"error": str(error), "is_usage": isinstance(error, OptionError)}
    except Exception as error:
        if is_out_of_memory(error):
            return {"error": f"{os.fspath(job.input)!r}: out of memory."}
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


@dataclass(frozen=True, eq=False)
class Step:
    """What a worker is given: a job."""

    plan: Plan
    task: Job


class Schedule:
    """Hands out steps, in order, and takes back how they ended."""

    def __init__(self, plans: Iterable[Plan], begin: Callable[[Plan], None]) -> None:
        """
        Args:
            plans: what is to be done; taken when a worker is free, so that there may be very many.
            begin: called before a job starts.
        """
        self._plans, self._begin = iter(plans), begin

    def next(self) -> Step | None:
        """The next step; None where there is none, at least until another has ended."""
        plan = next(self._plans, None)
        if plan is None:
            return None
        self._begin(plan)
        return Step(plan, plan.job)

    def ended(self, step: Step, fields: dict[str, Any], worker: int = 0) -> list[Outcome]:
        """Take how a step ended, as `attempt` gives it; the jobs that have ended with it."""
        return [Outcome(step.plan, worker=worker, **fields)]
