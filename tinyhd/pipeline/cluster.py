"""Many jobs on a Ray cluster: a task is one video, by its path on storage that all nodes see.

Ray decides where a task runs, does it again elsewhere where a node or a process is lost, and asks for more nodes while
tasks wait. They are Ray's stateless tasks: an actor whose node is lost would hold its video until another node comes,
and a fixed number of actors would not follow a cluster that grows. The processes that Ray keeps for them hold the model
from one video to the next. Nothing but paths, options and counts goes through Ray, and only the process that started
the run writes the manifest.
"""

import contextlib
import dataclasses
import functools
import importlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyhd.errors import InputError, OptionError, TinyHDError
from tinyhd.inference.backends import open_backend
from tinyhd.options import BatchOptions, InferenceOptions
from tinyhd.pipeline.addresses import is_address
from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.manifest import exists, output_names
from tinyhd.pipeline.schedule import JobProgress, Outcome, Schedule, Step, Task, attempt, job_of, needs_model
from tinyhd.version import __version__

LOCAL = "local"
"""In the place of an address: a Ray of one's own, on this machine."""

_RETRIES = 2
_POLL_SECONDS = 1.0
_COUNT_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_PATIENCE_SECONDS = 10.0
_STORE_BYTES = 80 * 2**20
"""Of a local Ray's object store: little more than the least, as nothing large goes through it."""


def run_on_ray(
    schedule: Schedule, inference: InferenceOptions, options: BatchOptions, progress: JobProgress
) -> Generator[Outcome]:
    """Do what `schedule` hands out on `options.ray`; see `workers.run_jobs`.

    Raises:
        OptionError: Ray is not installed, there is no such cluster, or its nodes cannot run this tinyhd.
        WeightsError: the model cannot be opened there.
    """
    if options.cache_dir is not None:
        options = dataclasses.replace(options, cache_dir=os.path.abspath(options.cache_dir))
    with connected(options.ray or LOCAL) as ray:
        resources = _resources(ray, inference)
        task = ray.remote(max_retries=_RETRIES, max_calls=0, **resources)(_work)
        running: dict[Any, Step] = {}
        try:
            for room in _room(ray, resources, options):
                while len(running) < room and (step := schedule.next()) is not None:
                    running[task.remote(attempt, step.task, inference, options, resources["num_cpus"], __version__)] = (
                        step
                    )
                if not running:
                    return
                for reference in ray.wait(list(running), timeout=_POLL_SECONDS)[0]:
                    step = running.pop(reference)
                    fields = _result(ray, reference, step)
                    if fields.get("result") is not None:
                        progress(step.plan.job, fields["result"].frames, fields["result"].frames)
                    yield from schedule.ended(step, fields)
        finally:
            _cancel(ray, list(running))


def _room(ray: Any, resources: dict[str, float], options: BatchOptions) -> Iterator[int]:
    """Again and again, how many tasks may be under way: twice as many as the cluster can run, so that no node waits
    and a cluster that can grow does; or as many as `workers` says."""
    cpus, gpus = resources["num_cpus"], resources["num_gpus"]
    counted, room = -_COUNT_SECONDS, 0
    while True:
        if options.workers not in (None, "auto"):
            room = int(options.workers)
        elif time.monotonic() - counted >= _COUNT_SECONDS:
            there = ray.cluster_resources()
            at_once = min(there.get(kind, 0) // amount for kind, amount in (("CPU", cpus), ("GPU", gpus)) if amount)
            counted, room = time.monotonic(), 2 * max(1, int(at_once))
        yield room


def _resources(ray: Any, inference: InferenceOptions) -> dict[str, float]:
    """What one task takes: a GPU, or two processors, or one where no node has more."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if inference.device.startswith("cuda") or (inference.device == "auto" and any(node.get("GPU") for node in nodes)):
        return {"num_cpus": 1, "num_gpus": 1}
    most = max((node.get("CPU", 0) for node in nodes), default=0)
    return {"num_cpus": 1 if most == 1 else 2, "num_gpus": 0}


def everywhere(job: Job) -> Job:
    """The job as nodes with other working folders understand it, and so that it can be done again: where its outputs
    are not there now, those that it finds are of a task that was lost."""
    absolute: dict[str, Any] = {}
    for field in ("input", "output", "track", "save_maps", "stats", "regions", "path", "keep", "save_path"):
        name = getattr(job, field)
        if isinstance(name, Path):
            absolute[field] = name.absolute()
        elif isinstance(name, str) and not is_address(name):  # a trailing slash says that it is a folder
            absolute[field] = os.path.join(os.getcwd(), name)
    model = job.inference.model
    if model is not None and os.path.exists(model):
        absolute["inference"] = dataclasses.replace(job.inference, model=os.path.abspath(model))
    fresh = job.output is not None and not any(exists(name) for name in output_names(job))
    return dataclasses.replace(job, **absolute, overwrite=job.overwrite or fresh)


def _result(ray: Any, reference: Any, step: Step) -> dict[str, Any]:
    """What a task gave, or the sentence that says why there is nothing."""
    try:
        fields: dict[str, Any] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise OptionError(f"the nodes of the Ray cluster cannot run tinyhd {__version__}: {error.cause}.") from error
    except ray.exceptions.RayError as error:
        why = f"the process or the node that worked on it was lost {_RETRIES + 1} times ({type(error).__name__})"
        return {"error": f"{os.fspath(step.plan.job.input)!r}: {why}."}
    if "unusable" in fields:
        raise fields["unusable"]
    job, result = step.plan.job, fields.get("result")
    if result is not None and job.output is not None and result.output == job.output.absolute():
        fields["result"] = dataclasses.replace(result, input=job.input, output=job.output)  # as the caller names them
    return fields


def _cancel(ray: Any, references: list[Any]) -> None:
    """End tasks: at first so that they can clear up, then at once."""
    for force in (False, True):
        for reference in references:
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=force)
        if references:
            with contextlib.suppress(Exception):
                _, references = ray.wait(references, num_returns=len(references), timeout=_PATIENCE_SECONDS)


class JobRows:
    """Jobs for `map_batches` of `ray.data`: from rows as a list for --from-file has them, to what became of each."""

    def __init__(self, **options: Any) -> None:
        """
        Args:
            options: fields of `Job`, and options by name, of all rows.
        """
        self._options = options

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `Job.from_mapping` (`input`, `output` ...) -> input, output, frames, seconds, error ("": none)."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        done = [self._row({**self._options, **row}) for row in rows]
        return {
            name: np.array([row[name] for row in done]) for name in ("input", "output", "frames", "seconds", "error")
        }

    def _row(self, values: dict[str, Any]) -> dict[str, Any]:
        row = {"input": str(values.get("input", "")), "output": "", "frames": 0, "seconds": 0.0}
        try:
            job = Job.from_mapping(values)
        except TinyHDError as error:
            return {**row, "error": str(error)}
        fields = attempt(job, BatchOptions(), None, None)
        if (result := fields.get("result")) is not None:
            row |= {"output": str(result.output), "frames": result.frames, "seconds": result.elapsed_seconds}
        return {**row, "error": fields.get("error", "")}


# ---- connections


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The package `ray`, connected for the time of the body; where it was before, it stays so.

    Args:
        address: host:port, ray://host:port, auto for the cluster of this machine, or `LOCAL`, which is started, unless
            the environment variable RAY_ADDRESS names a cluster.

    Raises:
        OptionError: Ray is not installed, or there is no cluster.
    """
    if address != LOCAL:
        _check_address(address)
    is_local = address == LOCAL and not os.environ.get("RAY_ADDRESS")
    if is_local or re.match(r"(ray://)?(127\.|localhost:|\[::1\])", address):
        # the servers are for this machine only, at the address that is given; read when Ray is imported
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise OptionError("--ray needs Ray, which is not installed: pip install 'tinyhd[ray]'.") from error
    if ray.is_initialized():
        yield ray
        return
    handlers = _handlers()
    logging.getLogger("ray").setLevel(logging.ERROR)
    facts: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if is_local:
        facts |= {"address": "local", "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    elif address != LOCAL:
        facts["address"] = address
    try:
        ray.init(**facts)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = "be started here" if is_local else f"be reached at {address!r}"
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise OptionError(f"a Ray cluster cannot {where}: {reason}.") from error
    finally:
        for number, handler in handlers.items():  # Ray sets its own
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse at once what Ray would try for minutes. Raises `OptionError`."""
    if address == "auto":
        return
    match = re.fullmatch(r"(?:ray://)?(\[[0-9A-Fa-f:]+\]|[^\s/:\[\]]+):(\d{1,5})", address)
    if not match:
        raise OptionError(
            f"{address!r} is not the address of a Ray cluster: give host:port, auto, or none after --ray."
        )
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OptionError(f"no Ray cluster answers at {address!r} ({error}): check the address.") from error


def _handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


# ---- on the nodes


def _work(
    do: Callable[..., dict[str, Any]],
    task: Task,
    inference: InferenceOptions,
    options: BatchOptions,
    processors: int,
    version: str,
) -> dict[str, Any]:
    """Do a job in a process of Ray's; fields of an `Outcome`, or the error that ends the run."""
    if version != __version__:
        return {
            "unusable": OptionError(f"a node of the Ray cluster has tinyhd {__version__}, not {version}: update it.")
        }
    _settle(processors)
    backend = None
    if needs_model(task):
        try:
            backend = open_backend(inference)
        except TinyHDError as error:
            return {"unusable": error}
    with _limited(job_of(task), options.timeout) as progress:
        return do(task, options, backend, progress)


@contextlib.contextmanager
def _limited(job: Job, seconds: float | None) -> Iterator[Callable[[int, int | None], None] | None]:
    """A `Progress` that ends a job which takes too long; where not even that is called, the process ends."""
    if seconds is None:
        yield None
        return
    began = time.monotonic()

    def check(_done: int, _total: int | None) -> None:
        if time.monotonic() - began > seconds:
            raise InputError(f"{os.fspath(job.input)!r}: it took longer than --timeout {seconds:g} s.")

    timer = threading.Timer(seconds + _PATIENCE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        yield check
    finally:
        timer.cancel()


@functools.cache
def _settle(count: int) -> socket.socket | None:
    """Keep this process to `count` processors that no other one on this machine is kept to, so that OpenVINO, FFmpeg
    and the encoders take as many threads. What is returned holds the place while the process lives."""
    logging.getLogger("tinyhd").setLevel(logging.CRITICAL)
    if sys.platform != "linux" or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    for first in range(0, len(allowed) - count + 1, count):
        place = socket.socket(socket.AF_UNIX)
        try:
            place.bind(f"\0tinyhd-processors-{allowed[first]}")  # a name that ends with the process
        except OSError:
            place.close()
            continue
        os.sched_setaffinity(0, allowed[first : first + count])
        return place
    return None
