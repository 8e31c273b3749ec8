"""The manifests of several runs that share a folder of outputs.

Each run has a manifest of its own, and reads those of the others once it holds the lease of a job: what they have done
meanwhile is not done again.
"""

import contextlib
import hashlib
import itertools
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from tinyhd.pipeline.batch import Job
from tinyhd.pipeline.leases import HOST, Leases
from tinyhd.pipeline.manifest import ELSEWHERE, TODO, Manifest, Plan, at_work, job_key, manifest_lock
from tinyhd.pipeline.outputs import Result

_START_SECONDS = 5.0
"""Runs that are just starting are in each other's way for a moment."""


class SharedManifest(Manifest):
    """The manifest of one of several runs that share a folder of outputs."""

    def __init__(self, folder: Path, model_hash: str) -> None:
        """As of `Manifest`; only a run that does not share the folder is in the way."""
        super().__init__(folder, model_hash)
        try:
            self._leases = Leases(folder)
        except BaseException:
            super().__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leases.__exit__()
        super().__exit__(kind, error, traceback)

    def claim(self, job: Job, retry_failed: bool = False) -> Plan:
        """What is to be done, once no other run can do it: see `plan`."""
        plan = self.plan(job, retry_failed)
        if plan.state != TODO:
            return plan
        name = _lease_name(job)
        if not self._leases.take(name):
            return Plan(ELSEWHERE, job)
        self.refresh()
        plan = self.plan(job, retry_failed)
        if plan.state != TODO:
            self._leases.release(name)
        return plan

    def end(self, plan: Plan, result: Result | None, error: str | None = None, worker: int = 0) -> None:
        """Note how a job ended, unless another run has taken it over meanwhile; see `Manifest.end`."""
        name = _lease_name(plan.job)
        if self._leases.holds(name):
            super().end(plan, result, error, worker)
        self._leases.release(name)

    def _take_place(self, folder: Path) -> tuple[Path, FileLock]:
        try:  # none that does not share is at work
            with manifest_lock(folder).acquire(timeout=_START_SECONDS):
                pass
        except Timeout as error:
            raise at_work(folder) from error
        for number in itertools.count():
            path = folder / f"tinyhd-manifest-{HOST}-{number}.jsonl"
            lock = FileLock(folder / f".{path.name}.lock")
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                return path, lock
        raise AssertionError


def _lease_name(job: Job) -> str:
    return hashlib.sha256("\n".join(job_key(job)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
