"""`tinyhd report`."""

import argparse
import logging

from tinyhd.cli.arguments import add_options, read_options
from tinyhd.cli.commands import DAMAGED, DONE
from tinyhd.cli.messages import Progress, data
from tinyhd.options import InferenceOptions

log = logging.getLogger("tinyhd.cli")

DESCRIPTION = """Write a report about attention in a video, or compare several.

One HTML file that needs nothing else: a film strip with heat maps, focus over time, where attention is lost, attention
to regions, differences between videos, and what all of it means. All numbers are written beside it as JSON."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos; the first is what others are compared with")
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", metavar="FILE", required=True, help="where to write the report, ending in .html")
    add("--title", metavar="TEXT", help="of the page")
    add("--overwrite", action="store_true", help="replace files that exist; an input is never overwritten")
    add = parser.add_argument_group("input").add_argument
    add(
        "--regions",
        metavar="FILE",
        action="append",
        help='places of interest: {"units": "fractions" or "pixels", "regions": {"logo": [left, top, right, bottom], '
        '"road": [[x, y], [x, y], [x, y], ...], "face": [{"time_seconds": 0, "box": [...]}, ...]}}, the last of which '
        "moves; given once for all videos, or once for each",
    )
    add(
        "--threshold",
        metavar="X",
        type=float,
        default=0.1,
        help="share of the attention from which on a region counts as attended; default: 0.1",
    )
    add(
        "--track",
        metavar="FILE",
        action="append",
        help="what `tinyhd analyze` wrote for the input: the network is not run; given once for each video",
    )
    add_options(parser, "inference", InferenceOptions)


def run(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Write the report; returns the exit status."""
    inference = read_options(options, InferenceOptions)
    from tinyhd.pipeline.report import report

    with Progress("report", quiet=options.quiet, as_json=options.json_log) as progress:
        result = report(
            options.inputs,
            options.output,
            regions=options.regions,
            tracks=options.track,
            threshold=options.threshold,
            title=options.title,
            inference=inference,
            overwrite=options.overwrite,
            progress=progress,
        )
    for warning in result.warnings:
        log.warning("%s", warning, extra=data("warning"))
    log.info(
        "%s and %s: %d video%s in %.1f s",
        *(result.output, result.json, len(result.videos), "s" * (len(result.videos) != 1), result.elapsed_seconds),
        extra=data("done", output=result.output, json=result.json, elapsed_seconds=round(result.elapsed_seconds, 3)),
    )
    return DAMAGED if result.damaged else DONE
