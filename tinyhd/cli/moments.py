"""`tinyhd moments`."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tinyhd.cli.arguments import add_options, read_options, seconds
from tinyhd.cli.commands import DAMAGED, DONE, FAILED
from tinyhd.cli.messages import Progress, data
from tinyhd.errors import OptionError, TinyHDError
from tinyhd.options import InferenceOptions, MomentOptions

if TYPE_CHECKING:
    from tinyhd.pipeline.moments import MomentsResult

log = logging.getLogger("tinyhd.cli")

DESCRIPTION = """Find the key moments of a video, as pictures.

Writes pictures of the moments at which attention is most gathered (sharp, well exposed, not near a cut, apart from one
another and unlike), a sheet of all of them, and a JSON file, which also has the spans of focused and of lost
attention."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos, folders or globs")
    add = parser.add_argument_group("output").add_argument
    add("--output-dir", metavar="DIR", required=True, help="write into this folder (made if it is not there)")
    add("--overwrite", action="store_true", help="replace files of an earlier run")
    add = parser.add_argument_group("input").add_argument
    add("--track", metavar="FILE", help="what `tinyhd analyze` wrote for this input: the network is not run")
    add("--start", type=seconds, metavar="TIME", help="only from here on: seconds or [HH:]MM:SS")
    add("--end", type=seconds, metavar="TIME", help="only up to here")
    add_options(parser, "moments", MomentOptions)
    add_options(parser, "inference", InferenceOptions)


def run(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Find the moments of each input; returns the exit status."""
    wanted, inference = read_options(options, MomentOptions), read_options(options, InferenceOptions)
    from tinyhd.inference.backends import open_backend
    from tinyhd.pipeline.inputs import distinct_stems, expand_inputs
    from tinyhd.pipeline.moments import moments

    files, is_batch = expand_inputs(options.inputs)
    if is_batch and options.track is not None:
        raise OptionError("--track is for one input.")
    backend = open_backend(inference) if options.track is None else None
    failed = damaged = 0
    for file, stem in zip(files, distinct_stems(files, Path(options.output_dir)), strict=True):
        try:
            with Progress(file.name, quiet=options.quiet, as_json=options.json_log) as progress:
                result = moments(
                    file,
                    options.output_dir,
                    options=wanted,
                    inference=inference,
                    backend=backend,
                    track=options.track,
                    start=options.start,
                    end=options.end,
                    stem=stem,
                    overwrite=options.overwrite,
                    progress=progress,
                )
            _report(result)
            damaged += result.damaged
        except TinyHDError as error:
            if not is_batch:
                raise
            failed += 1
            log.error("%s", error, extra=data("failed", input=file, error=str(error)))
    return FAILED if failed else DAMAGED if damaged else DONE


def _report(result: "MomentsResult") -> None:
    for warning in result.warnings:
        log.warning("%s: %s", result.input, warning, extra=data("warning", input=result.input))
    times = ", ".join(f"{moment.time_seconds:.2f}" for moment in result.moments)
    log.info(
        "%s -> %s: moments at %s s, in %.1f s",
        *(result.input, result.json, times, result.elapsed_seconds),
        extra=data(
            "done",
            **{"input": result.input, "json": result.json, "sheet": result.sheet},
            moments=[moment.time_seconds for moment in result.moments],
            elapsed_seconds=round(result.elapsed_seconds, 3),
        ),
    )
