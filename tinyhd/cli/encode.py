"""`tinyhd encode`."""

import argparse
from pathlib import Path

from tinyhd.cli.arguments import add_inputs, add_options, add_track, read_options
from tinyhd.cli.commands import run_many
from tinyhd.options import EncoderOptions, InferenceOptions, RoiOptions

DESCRIPTION = """Encode a video with more of its bits where people look.

Writes input.encoded.mp4 beside the input, with libx264, libx265 or libvpx-vp9; or, with an output that ends in .txt, a
map for SvtAv1EncApp --roi-map-file. With --crf the file becomes smaller, with --bitrate what is looked at becomes
better. Sound, timestamps and metadata are kept."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_inputs(parser, "result")
    add_track(parser)
    add_options(parser, "regions", RoiOptions)
    add_options(parser, "encoding", EncoderOptions)
    add_options(parser, "inference", InferenceOptions)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Encode each input; returns the exit status."""
    encoder = read_options(options, EncoderOptions)
    from tinyhd.applications.roi import MAP_SUFFIX
    from tinyhd.video.roi import check_roi_encoder

    if options.output is None or Path(options.output).suffix.lower() != MAP_SUFFIX:
        check_roi_encoder(encoder)  # what would fail for every input fails here
    return run_many(parser, options)
