"""What the subcommands do with one input or many, up to where `pipeline` begins; `export`."""

import argparse
import contextlib
import dataclasses
import itertools
import logging
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyhd.choices import convert, field_types
from tinyhd.cli import dry_run
from tinyhd.cli.arguments import read_options
from tinyhd.cli.messages import JobProgress, data
from tinyhd.cli.output_names import OutputNames
from tinyhd.errors import InputError, OptionError, TinyHDError, is_out_of_memory
from tinyhd.files import sweep
from tinyhd.options import GROUPS, BatchOptions

if TYPE_CHECKING:
    from tinyhd.pipeline.batch import Job
    from tinyhd.pipeline.manifest import Plan
    from tinyhd.pipeline.schedule import Outcome

log = logging.getLogger("tinyhd.cli")

DONE, FAILED, USAGE, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130

_ONE_INPUT = ("track", "path", "keep", "save_path")
_DONE_WORDS = {"analyze": "analyzed", "moments": "searched"}  # of others the name and a d
_FACTS = ("input", "output", "frames", "damaged", "maps", "stats", "path", "size", "sheet", "times", "bytes")
"""What is logged of a result, where there is such a thing."""


def run_many(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """One job for each input; returns the exit status."""
    if options.list_models:
        return _list_models()
    if not options.inputs and not options.from_file and not options.dataset:
        parser.error("name at least one video, still image, folder or glob")
    if options.view and not options.dataset:
        parser.error("--view is of a dataset: name one with --dataset")
    batch = read_options(options, BatchOptions)
    template = _template(options)
    from tinyhd.inference.backends import open_backend
    from tinyhd.network.registry import find_model
    from tinyhd.pipeline.addresses import as_path, is_address
    from tinyhd.pipeline.manifest import ELSEWHERE, TODO, Manifest, Plan
    from tinyhd.pipeline.remote_manifest import RemoteManifest
    from tinyhd.pipeline.shared import SharedManifest
    from tinyhd.pipeline.workers import run_jobs
    from tinyhd.render.colors import color_table
    from tinyhd.video.writer import check_encoder

    rows, is_batch = _rows(options)
    if getattr(options, "output", None) is not None and (is_batch or options.output_dir is not None):
        raise OptionError("-o is for one input; with several, a folder or a glob, or with --output-dir, leave it out.")
    if is_batch and (named := [name for name in _ONE_INPUT if template.get(name) is not None]):
        raise OptionError(f"--{named[0].replace('_', '-')} is for one input.")
    needs_network = not template.get("track") and not template.get("path")
    # what would fail for every input fails here
    if "encoder" in template:
        check_encoder(template["encoder"])
    if "render" in template:
        color_table(template["render"])
    # the options of other actions are made once, not for each job
    template = {field: kind() for groups in GROUPS.values() for field, kind in groups.items()} | template
    names = OutputNames([as_path(row["input"]) for row in rows], is_batch, options)
    if batch.segment_minutes and names.has_address:
        raise OptionError("--segment-minutes is for inputs and outputs in folders: leave it out with addresses.")
    tally = _Tally(options.command, len(rows), is_batch)
    with contextlib.ExitStack() as stack:
        manifest: Manifest | None = None
        if options.output_dir is not None and needs_network:
            kind: Any = SharedManifest if batch.lease or options.shard else Manifest
            folder = as_path(options.output_dir)
            if is_address(folder):
                if batch.lease:
                    raise OptionError("--lease needs a folder of outputs that all machines see: use --shard instead.")
                kind = RemoteManifest
            manifest = stack.enter_context(kind(folder, find_model(options.model).hash))
        elif batch.lease:
            raise OptionError("--lease is for a folder of outputs: name one with --output-dir.")
        else:
            for folder in {file.parent for file in names.inputs if not is_address(file)}:
                sweep(folder)

        def plans() -> Iterator[Plan]:
            elsewhere: list[dict[str, Any]] = []
            for row in itertools.chain(rows, elsewhere):  # those last that others were at work on: they may have died
                with tally.failures(row["input"]):
                    job = _job(row, template, names, options)
                    plan = Plan(TODO, job)
                    if manifest:
                        plan = (manifest.plan if options.dry_run else manifest.claim)(job, batch.retry_failed)
                    if plan.state == ELSEWHERE and not any(row is other for other in elsewhere):
                        elsewhere.append(row)
                        continue
                    tally.before(plan)
                    if plan.state != TODO:
                        continue
                    try:
                        job = names.with_output(plan.job)
                    except InputError as error:  # it is not even begun
                        if manifest and not options.dry_run:
                            manifest.end(plan, None, str(error))
                        raise
                    names.check(job)
                    yield dataclasses.replace(plan, job=job)

        if options.dry_run:
            return FAILED if dry_run.say(plans(), tally, manifest, max(1, batch.worker_count)) else DONE
        # a model that cannot be opened fails once, not for every input
        here = batch.worker_count == 0 and batch.ray is None
        backend = open_backend(template["inference"]) if here and needs_network else None
        progress = stack.enter_context(
            JobProgress(batch.worker_count > 1 or batch.ray is not None, quiet=options.quiet, as_json=options.json_log)
        )
        outcomes = run_jobs(
            plans(),
            template["inference"],
            batch,
            backend=backend,
            begin=manifest.begin if manifest else lambda plan: None,
            progress=lambda job, done, total: progress(job.input.name, done, total),
        )
        for outcome in stack.enter_context(contextlib.closing(outcomes)):
            progress.finish(outcome.plan.job.input.name)
            if manifest:
                manifest.end(outcome.plan, outcome.result, outcome.error, outcome.worker)
            tally.after(outcome)
    return tally.finish()


def _rows(options: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """The inputs, with their own options where a list gives some, and whether they are a batch."""
    from tinyhd.pipeline.addresses import as_path
    from tinyhd.pipeline.inputs import dataset_files, distinct, expand_inputs, in_shard, read_list

    files, is_batch = expand_inputs(
        options.inputs, recursive=options.recursive, include=options.include, exclude=options.exclude
    )
    if options.dataset:
        is_batch = True
        files = distinct([*files, *map(as_path, dataset_files(options.dataset, options.view))])
    rows: list[dict[str, Any]] = [{"input": os.fspath(file)} for file in files]
    if options.from_file:
        is_batch = True
        listed: dict[Path, dict[str, Any]] = {}
        for row in read_list(options.from_file):
            listed.setdefault(as_path(row["input"]), row)
        rows += [listed[file] for file in distinct(listed)]
    if options.shard:
        is_batch = True
        rows = [row for row in rows if in_shard(as_path(row["input"]), options.shard)]
    return rows, is_batch


def _template(options: argparse.Namespace) -> dict[str, Any]:
    """What all jobs have in common: fields of `Job`."""
    common: dict[str, Any] = {field: read_options(options, kind) for field, kind in GROUPS[options.command].items()}
    plain = ("start", "end", "regions", "path", "keep", "save_path", "preview")
    common |= {name: getattr(options, name) for name in plain if hasattr(options, name)}
    if getattr(options, "track", None) is not None:
        from tinyhd.pipeline.addresses import as_path

        common["track"] = as_path(options.track)
    return common


def _job(row: dict[str, Any], template: dict[str, Any], names: OutputNames, options: argparse.Namespace) -> "Job":
    from tinyhd.pipeline.addresses import as_path
    from tinyhd.pipeline.batch import Job

    file = as_path(row["input"])
    job = Job(**template, **names.of(file), input=file, action=options.command, overwrite=options.overwrite)
    own = {name: value for name, value in row.items() if name != "input" and value not in (None, "")}
    if not own:
        return job
    for group in GROUPS[options.command]:
        options_of = getattr(job, group)
        given = {name: own.pop(name) for name in field_types(type(options_of)) if name in own}
        if given:  # checked as what comes from elsewhere, then laid over the command's own
            type(options_of).from_mapping(given)
            kinds = field_types(type(options_of))
            values = {name: convert(name, value, kinds[name]) for name, value in given.items()}
            job = dataclasses.replace(job, **{group: dataclasses.replace(options_of, **values)})
    rest = Job.from_mapping({"input": file, "action": options.command, **own})
    return dataclasses.replace(job, **{name: getattr(rest, name) for name in own})


class _Tally:
    """Counts how jobs end, and says so."""

    def __init__(self, command: str, count: int, is_batch: bool) -> None:
        self._command, self._count, self._is_batch = command, count, is_batch
        self._began = time.perf_counter()
        self.failed = self.damaged = self.before_done = self.before_failed = self.elsewhere = 0
        self._is_usage = False

    @contextlib.contextmanager
    def failures(self, name: str) -> Iterator[None]:
        """In a batch an error is counted and the rest goes on."""
        try:
            yield
        except TinyHDError as error:
            if not self._is_batch:
                raise
            self._fail(name, str(error))
        except Exception as error:
            if is_out_of_memory(error):
                self._fail(name, f"{name!r}: out of memory.")
            else:
                self._report_bug(name, traceback.format_exc())

    def before(self, plan: "Plan") -> None:
        """Count what an earlier run has done."""
        if plan.state == "failed":
            self.before_failed += 1
        elif plan.state == "elsewhere":
            self.elsewhere += 1
        elif plan.state != "todo":
            self.before_done += 1
            self.damaged += plan.state == "damaged"

    def after(self, outcome: "Outcome") -> None:
        """Say how a job has ended."""
        job, result = outcome.plan.job, outcome.result
        if result is None:
            self._is_usage = outcome.is_usage and not self._is_batch
            if outcome.traceback:
                self._report_bug(os.fspath(job.input), outcome.traceback)
            else:
                self._fail(os.fspath(job.input), outcome.error or "")
            return
        self.damaged += result.damaged
        for warning in result.warnings:
            log.warning("%s: %s", job.input, warning, extra=data("warning", input=job.input))
        seconds = result.elapsed_seconds
        facts = {name: getattr(result, name) for name in _FACTS if getattr(result, name, None) is not None}
        what = f"{result.frames} frame{'s' * (result.frames != 1)}"
        if "times" in facts:
            what = f"moments at {', '.join(f'{time:.2f}' for time in facts['times'])} s, from {what}"
        if "bytes" in facts:
            what = f"{what}, {facts['bytes'] / 1000:.0f} kB,"
        log.info(
            "%s -> %s: %s in %.1f s (%.1f frames/s)",
            *(job.input, result.output, what, seconds, result.frames / seconds),
            extra=data("done", **facts, elapsed_seconds=round(seconds, 3)),
        )

    def finish(self) -> int:
        """Sum up; the exit status."""
        if self._is_batch:
            done = self._count - self.failed - self.before_failed - self.elsewhere
            parts = [f"{done} {_DONE_WORDS.get(self._command, self._command + 'd')}"]
            details = [f"{self.before_done} before"] * bool(self.before_done)
            details += [f"{self.damaged} of them damaged"] * bool(self.damaged)
            if details:
                parts[0] += f" ({', '.join(details)})"
            if self.failed:
                parts.append(f"{self.failed} failed")
            if self.elsewhere:
                parts.append(f"{self.elsewhere} at work elsewhere")
            if self.before_failed:
                parts.append(f"{self.before_failed} failed before (--retry-failed does them again)")
            seconds = time.perf_counter() - self._began
            extra = data(
                "summary",
                inputs=self._count,
                failed=self.failed + self.before_failed,
                damaged=self.damaged,
                done_before=self.before_done,
                elapsed_seconds=round(seconds, 3),
            )
            log.info(
                "%d input%s in %.1f s: %s.",
                *(self._count, "s" * (self._count != 1), seconds, ", ".join(parts)),
                extra=extra,
            )
        if self._is_usage:
            return USAGE
        return FAILED if self.failed + self.before_failed else DAMAGED if self.damaged else DONE

    def _report_bug(self, name: str, way: str) -> None:
        self.failed += 1
        sentence = "%s failed in an unexpected way, which is a bug in tinyhd; please report it.\n%s"
        log.error(sentence, name, way, extra=data("failed", input=name, traceback=way))

    def _fail(self, name: str, error: str) -> None:
        self.failed += 1
        log.error("%s", error, extra=data("failed", input=name, error=error))


def _list_models() -> int:
    from tinyhd.network.registry import DEFAULT_MODEL, MODELS

    for name, info in MODELS.items():
        mark = " (default)" if name == DEFAULT_MODEL else ""
        print(f"{name}{mark}: {info.provenance}; license: {info.license}")
    return DONE


def export(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """`export`."""
    from tinyhd.network.export import export as write
    from tinyhd.network.weights import load_model

    difference = write(load_model(options.model), options.output, overwrite=options.overwrite)
    log.info("%s: differs from PyTorch by at most %.1e", options.output, difference)
    return DONE
