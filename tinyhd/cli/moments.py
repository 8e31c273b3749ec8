"""`tinyhd moments`."""

import argparse

from tinyhd.cli.arguments import add_inputs, add_options, add_track
from tinyhd.cli.commands import run_many
from tinyhd.options import InferenceOptions, MomentOptions

DESCRIPTION = """Find the key moments of a video, as pictures.

Writes pictures of the moments at which attention is most gathered (sharp, well exposed, not near a cut, apart from one
another and unlike), a sheet of all of them, and a JSON file, which also has the spans of focused and of lost
attention."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser, None)
    add_track(parser)
    add_options(parser, "moments", MomentOptions)
    add_options(parser, "inference", InferenceOptions)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Find the moments of each input; returns the exit status."""
    if options.output_dir is None and not options.list_models:
        parser.error("name a folder for the pictures with --output-dir")
    return run_many(parser, options)
