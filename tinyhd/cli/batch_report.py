"""`tinyhd batch-report`."""

import argparse
import logging

from tinyhd.cli.commands import DONE
from tinyhd.cli.messages import data

log = logging.getLogger("tinyhd.cli")

DESCRIPTION = """Say what a batch has done: counts, the slowest, what failed and why.

One HTML page that needs nothing else, and a table with a row for each input; from the manifest that the
commands for many inputs keep in their --output-dir. It may be asked while they are at work."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="the --output-dir of the batch")
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", metavar="FILE", help="the page, ending in .html; default: FOLDER/tinyhd-report.html")
    add("--table", metavar="FILE", help="the table, .csv or .parquet (needs PyArrow); default: beside the page, .csv")
    add("--overwrite", action="store_true", help="replace files that exist")


def run(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Write the report; returns the exit status."""
    from tinyhd.pipeline.batch_report import batch_report

    result = batch_report(options.folder, options.output, table=options.table, overwrite=options.overwrite)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(result.counts.items()))
    log.info(
        "%s and %s: %d input%s (%s)",
        *(result.output, result.table, len(result.rows), "s" * (len(result.rows) != 1), counts),
        extra=data("done", output=result.output, table=result.table, **result.counts),
    )
    return DONE
