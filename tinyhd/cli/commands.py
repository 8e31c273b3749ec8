"""What the subcommands do, up to where `pipeline` begins."""

import argparse
import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyhd.cli.arguments import read_options
from tinyhd.cli.messages import Progress, data
from tinyhd.errors import OptionError, TinyHDError
from tinyhd.files import OUTPUT_TAG, check_target, make_folder
from tinyhd.options import EncoderOptions, InferenceOptions, RenderOptions

if TYPE_CHECKING:
    from tinyhd.pipeline.annotate import AnnotateResult
    from tinyhd.pipeline.batch import Job

log = logging.getLogger("tinyhd.cli")

DONE, FAILED, USAGE, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130


def run_many(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """`annotate` and `analyze`: one job for each input."""
    if options.list_models:
        return _list_models()
    if not options.inputs:
        parser.error("name at least one video, still image, folder or glob")
    template = _options(options)  # what is wrong with options is said before anything slow is imported
    from tinyhd.inference.backends import open_backend
    from tinyhd.pipeline.batch import Job, run_job
    from tinyhd.pipeline.inputs import expand_inputs
    from tinyhd.render.colors import color_table
    from tinyhd.video.writer import check_encoder

    files, is_batch = expand_inputs(options.inputs)
    if options.output is not None and (is_batch or options.output_dir is not None):
        raise OptionError("-o is for one input; with several, a folder or a glob, or with --output-dir, leave it out.")
    if template.get("track") and is_batch:
        raise OptionError("--track is for one input.")
    # what would fail for every input fails here
    if options.command == "annotate":
        check_encoder(template["encoder"])
        color_table(template["render"])
    names = _OutputNames(files, is_batch, options)
    backend = None if template.get("track") else open_backend(template["inference"])

    began, failed, damaged = time.perf_counter(), 0, 0
    for file in files:
        try:
            job = Job(**template, **names.of(file), input=file, action=options.command, overwrite=options.overwrite)
            with Progress(file.name, quiet=options.quiet, as_json=options.json_log) as progress:
                result = run_job(job, backend=backend, progress=progress)
            _report(job, result)
            damaged += result.damaged
        except TinyHDError as error:
            if not is_batch:
                raise
            failed += 1
            log.error("%s", error, extra=data("failed", input=file, error=str(error)))
        except Exception:
            failed += 1
            log.exception("%s failed in an unexpected way, which is a bug in tinyhd; please report it.", file)
    if is_batch:
        _summarize(options.command, len(files), failed, damaged, time.perf_counter() - began)
    return FAILED if failed else DAMAGED if damaged else DONE


def _options(options: argparse.Namespace) -> dict[str, Any]:
    """What all jobs have in common: fields of `Job`."""
    common = {
        "inference": read_options(options, InferenceOptions),
        "start": options.start,
        "end": options.end,
    }
    if options.command == "annotate":
        common |= {
            "render": read_options(options, RenderOptions),
            "encoder": read_options(options, EncoderOptions),
            "regions": options.regions,
            "track": None if options.track is None else Path(options.track),
        }
    return common


def _report(job: "Job", result: "AnnotateResult") -> None:
    for warning in result.warnings:
        log.warning("%s: %s", job.input, warning, extra=data("warning", input=job.input))
    seconds = result.elapsed_seconds
    log.info(
        "%s -> %s: %d frame%s in %.1f s (%.1f frames/s)",
        *(job.input, result.output, result.frames, "s" * (result.frames != 1), seconds, result.frames / seconds),
        extra=data(
            "done",
            **{k: v for k, v in dataclasses.asdict(result).items() if k not in ("warnings", "elapsed_seconds")},
            elapsed_seconds=round(seconds, 3),
        ),
    )


class _OutputNames:
    """Where the outputs of each input go."""

    def __init__(self, files: Sequence[Path], is_batch: bool, options: argparse.Namespace) -> None:
        from tinyhd.pipeline.inputs import distinct_stems

        self._options, self._files, self._is_batch = options, files, is_batch
        self._folder = None if options.output_dir is None else make_folder(Path(options.output_dir))
        self._stems = dict(zip(files, distinct_stems(files, self._folder), strict=True))
        # files from anywhere lie side by side in the folders for maps and statistics
        self._side_stems = dict(zip(files, distinct_stems(files, Path()), strict=True))
        self._beside = {name: getattr(options, name, None) for name in ("save_maps", "stats")}
        if is_batch:
            for target in self._beside.values():
                if target is not None:
                    make_folder(Path(target))

    def of(self, file: Path) -> dict[str, Any]:
        """Fields of `Job` for the outputs of an input."""
        names: dict[str, Any] = {"output": self._output(file)}
        for name, target in self._beside.items():
            if target is not None and self._is_batch:
                target = os.path.join(target, self._side_stems[file] + (os.sep if name == "save_maps" else ".csv"))
            if target is not None:
                names[name] = target
        return names

    def _output(self, file: Path) -> Path | None:
        """None: the default name."""
        from tinyhd.pipeline.outputs import default_output
        from tinyhd.saliency.track import TRACK_SUFFIX
        from tinyhd.video.reader import probe

        name: Path | None = None if self._options.output is None else Path(self._options.output)
        folder = self._folder or file.parent
        if name is None and self._options.command == "analyze":
            name = folder / f"{self._stems[file]}{TRACK_SUFFIX}"
        elif self._is_batch or self._folder:
            suffix = default_output(file, probe(file).is_still).suffix
            name = folder / f"{self._stems[file]}{OUTPUT_TAG}{suffix}"
        if name is not None:
            check_target(name, self._files, self._options.overwrite)  # the other inputs are not to be overwritten too
        return name


def _summarize(command: str, count: int, failed: int, damaged: int, seconds: float) -> None:
    parts = [f"{count - failed} {'annotated' if command == 'annotate' else 'analyzed'}"]
    if damaged:
        parts[0] += f" ({damaged} of them damaged)"
    if failed:
        parts.append(f"{failed} failed")
    extra = data("summary", inputs=count, failed=failed, damaged=damaged, elapsed_seconds=round(seconds, 3))
    log.info("%d input%s in %.1f s: %s.", count, "s" * (count != 1), seconds, ", ".join(parts), extra=extra)


def _list_models() -> int:
    from tinyhd.network.registry import DEFAULT_MODEL, MODELS

    for name, info in MODELS.items():
        mark = " (default)" if name == DEFAULT_MODEL else ""
        print(f"{name}{mark}: {info.provenance}; license: {info.licence}")
    return DONE


def export(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """`export`."""
    from tinyhd.network.export import export as write
    from tinyhd.network.weights import load_model

    difference = write(load_model(options.model), options.output, overwrite=options.overwrite)
    log.info("%s: differs from PyTorch by at most %.1e", options.output, difference)
    return DONE
