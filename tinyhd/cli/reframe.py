"""`tinyhd reframe`."""

import argparse
from pathlib import Path

from tinyhd.cli.arguments import add_inputs, add_options, add_track
from tinyhd.cli.commands import run_many
from tinyhd.errors import OptionError
from tinyhd.options import EncoderOptions, InferenceOptions, ReframeOptions

DESCRIPTION = """Cut a video to another aspect, by a crop that follows attention.

Writes input.reframed.mp4 beside the input. In every shot the crop holds still unless attention leaves it; then it pans,
or is cut to another place. Sound, timestamps and metadata are kept."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser, "result")
    add_track(parser)
    add = parser.add_argument_group("what is written").add_argument
    add("--preview", action="store_true", help="draw the crop on the source instead of cutting it out")
    add(
        "--path-only",
        action="store_true",
        help="write no video but the path of the crop: .csv (as by default) or .json, to be edited for --path, or "
        ".sendcmd, a script for FFmpeg's filter of that name",
    )
    add("--save-path", metavar="FILE", help="write the path of the crop as well")
    add = parser.add_argument_group("where the crop lies").add_argument
    add("--path", metavar="FILE", help="the crop's path from this .csv or .json file, instead of planning one")
    add(
        "--keep",
        metavar="FILE",
        help='regions that the crop has to hold: {"units": "fractions" or "pixels", "regions": {"logo": [left, top, '
        'right, bottom], "face": [{"time_seconds": 0, "box": [...]}, ...]}}',
    )
    add_options(parser, "crop", ReframeOptions)
    add_options(parser, "encoding", EncoderOptions)
    add_options(parser, "inference", InferenceOptions)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Reframe each input; returns the exit status."""
    if options.path is not None and (options.track is not None or options.keep is not None):
        raise OptionError("--path says where the crop lies: leave out --track and --keep.")
    if options.path_only and options.output is not None:
        from tinyhd.applications.crop import PATH_SUFFIXES

        if Path(options.output).suffix.lower() not in PATH_SUFFIXES:
            raise OptionError(f"with --path-only the output must end in {', '.join(PATH_SUFFIXES)}.")
    return run_many(parser, options)
