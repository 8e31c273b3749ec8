"""`tinyhd encode`."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tinyhd.cli.arguments import add_options, read_options, seconds
from tinyhd.cli.commands import DAMAGED, DONE, FAILED
from tinyhd.cli.messages import Progress, data
from tinyhd.errors import OptionError, TinyHDError
from tinyhd.files import ENCODED_TAG, check_target, make_folder
from tinyhd.options import EncoderOptions, InferenceOptions, RoiOptions

if TYPE_CHECKING:
    from tinyhd.pipeline.encode import EncodeResult

log = logging.getLogger("tinyhd.cli")

DESCRIPTION = """Encode a video with more of its bits where people look.

Writes input.encoded.mp4 beside the input, with libx264, libx265 or libvpx-vp9; or, with an output that ends in .txt, a
map for SvtAv1EncApp --roi-map-file. With --crf the file becomes smaller, with --bitrate what is looked at becomes
better. Sound, timestamps and metadata are kept."""


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos, folders or globs")
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", metavar="FILE", help="where to write the result, for one input")
    add("--output-dir", metavar="DIR", help="write all outputs into this folder (made if it is not there)")
    add("--overwrite", action="store_true", help="replace outputs that exist; an input is never overwritten")
    add = parser.add_argument_group("input").add_argument
    add("--track", metavar="FILE", help="what `tinyhd analyze` wrote for this input: the network is not run")
    add("--start", type=seconds, metavar="TIME", help="only from here on: seconds or [HH:]MM:SS")
    add("--end", type=seconds, metavar="TIME", help="only up to here")
    add_options(parser, "regions", RoiOptions)
    add_options(parser, "encoding", EncoderOptions)
    add_options(parser, "inference", InferenceOptions)


def run(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Encode each input; returns the exit status."""
    regions, encoder = read_options(options, RoiOptions), read_options(options, EncoderOptions)
    inference = read_options(options, InferenceOptions)
    from tinyhd.applications.roi import MAP_SUFFIX
    from tinyhd.inference.backends import open_backend
    from tinyhd.pipeline.encode import encode
    from tinyhd.pipeline.inputs import distinct_stems, expand_inputs
    from tinyhd.video.roi import check_roi_encoder

    files, is_batch = expand_inputs(options.inputs)
    if is_batch and (named := [name for name in ("output", "track") if getattr(options, name) is not None]):
        raise OptionError(f"--{named[0]} is for one input.")
    if options.output is not None and options.output_dir is not None:
        raise OptionError("-o and --output-dir both say where to write: leave one out.")
    if options.output is None or Path(options.output).suffix.lower() != MAP_SUFFIX:
        check_roi_encoder(encoder)
    folder = None if options.output_dir is None else make_folder(Path(options.output_dir))
    backend = open_backend(inference) if options.track is None else None

    failed = damaged = 0
    for file, stem in zip(files, distinct_stems(files, folder), strict=True):
        try:
            output = Path(options.output) if options.output else (folder or file.parent) / f"{stem}{ENCODED_TAG}.mp4"
            check_target(output, files, options.overwrite)  # the other inputs are not to be overwritten too
            with Progress(file.name, quiet=options.quiet, as_json=options.json_log) as progress:
                result = encode(
                    file,
                    output,
                    options=regions,
                    inference=inference,
                    encoder=encoder,
                    backend=backend,
                    track=options.track,
                    start=options.start,
                    end=options.end,
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


def _report(result: "EncodeResult") -> None:
    for warning in result.warnings:
        log.warning("%s: %s", result.input, warning, extra=data("warning", input=result.input))
    facts = {name: getattr(result, name) for name in ("input", "output", "frames", "damaged", "bytes")}
    log.info(
        "%s -> %s: %d frame%s, %.0f kB, in %.1f s",
        *(result.input, result.output, result.frames, "s" * (result.frames != 1), result.bytes / 1000),
        result.elapsed_seconds,
        extra=data("done", **facts, elapsed_seconds=round(result.elapsed_seconds, 3)),
    )
