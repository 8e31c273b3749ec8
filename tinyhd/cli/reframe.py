"""`tinyhd reframe`."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tinyhd.cli.arguments import add_options, read_options, seconds
from tinyhd.cli.commands import DAMAGED, DONE, FAILED
from tinyhd.cli.messages import Progress, data
from tinyhd.errors import OptionError, TinyHDError
from tinyhd.files import REFRAMED_TAG, check_target, make_folder
from tinyhd.options import EncoderOptions, InferenceOptions, ReframeOptions

if TYPE_CHECKING:
    from tinyhd.pipeline.reframe import ReframeResult

log = logging.getLogger("tinyhd.cli")

DESCRIPTION = """Cut a video to another aspect, by a crop that follows attention.

Writes input.reframed.mp4 beside the input. In every shot the crop holds still unless attention leaves it; then it pans,
or is cut to another place. Sound, timestamps and metadata are kept."""

_ONE_INPUT = ("output", "track", "path", "save_path", "keep")


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="videos, still images, folders or globs")
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", metavar="FILE", help="where to write the result, for one input")
    add("--output-dir", metavar="DIR", help="write all outputs into this folder (made if it is not there)")
    add("--overwrite", action="store_true", help="replace outputs that exist; an input is never overwritten")
    add("--preview", action="store_true", help="draw the crop on the source instead of cutting it out")
    add(
        "--path-only",
        action="store_true",
        help="write no video but the path of the crop: .csv (as by default) or .json, to be edited for --path, or "
        ".sendcmd, a script for FFmpeg's filter of that name",
    )
    add("--save-path", metavar="FILE", help="write the path of the crop as well")
    add = parser.add_argument_group("input").add_argument
    add("--track", metavar="FILE", help="what `tinyhd analyze` wrote for this input: the network is not run")
    add("--path", metavar="FILE", help="the crop's path from this .csv or .json file, instead of planning one")
    add(
        "--keep",
        metavar="FILE",
        help='regions that the crop has to hold: {"units": "fractions" or "pixels", "regions": {"logo": [left, top, '
        'right, bottom], "face": [{"time_seconds": 0, "box": [...]}, ...]}}',
    )
    add("--start", type=seconds, metavar="TIME", help="only from here on: seconds or [HH:]MM:SS")
    add("--end", type=seconds, metavar="TIME", help="only up to here")
    add_options(parser, "crop", ReframeOptions)
    add_options(parser, "encoding", EncoderOptions)
    add_options(parser, "inference", InferenceOptions)


def run(_parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Reframe each input; returns the exit status."""
    reframing, encoder = read_options(options, ReframeOptions), read_options(options, EncoderOptions)
    inference = read_options(options, InferenceOptions)
    if options.path is not None and (options.track is not None or options.keep is not None):
        raise OptionError("--path says where the crop lies: leave out --track and --keep.")
    from tinyhd.applications.crop import PATH_SUFFIXES
    from tinyhd.inference.backends import open_backend
    from tinyhd.pipeline.inputs import distinct_stems, expand_inputs
    from tinyhd.pipeline.reframe import default_output, reframe
    from tinyhd.video.reader import probe
    from tinyhd.video.writer import check_encoder

    if options.path_only and options.output is not None and Path(options.output).suffix.lower() not in PATH_SUFFIXES:
        raise OptionError(f"with --path-only the output must end in {', '.join(PATH_SUFFIXES)}.")
    files, is_batch = expand_inputs(options.inputs)
    if is_batch and (named := [name for name in _ONE_INPUT if getattr(options, name) is not None]):
        raise OptionError(f"--{named[0].replace('_', '-')} is for one input.")
    if options.output is not None and options.output_dir is not None:
        raise OptionError("-o and --output-dir both say where to write: leave one out.")
    check_encoder(encoder)
    folder = None if options.output_dir is None else make_folder(Path(options.output_dir))
    backend = open_backend(inference) if options.track is None and options.path is None else None

    failed = damaged = 0
    for file, stem in zip(files, distinct_stems(files, folder), strict=True):
        try:
            output = None if options.output is None else Path(options.output)
            if output is None:
                suffix = ".csv" if options.path_only else default_output(file, probe(file).is_still).suffix
                output = (folder or file.parent) / f"{stem}{REFRAMED_TAG}{suffix}"
            check_target(output, files, options.overwrite)  # the other inputs are not to be overwritten too
            with Progress(file.name, quiet=options.quiet, as_json=options.json_log) as progress:
                result = reframe(
                    file,
                    output,
                    options=reframing,
                    inference=inference,
                    encoder=encoder,
                    backend=backend,
                    track=options.track,
                    path=options.path,
                    keep=options.keep,
                    preview=options.preview,
                    save_path=options.save_path,
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


def _report(result: "ReframeResult") -> None:
    for warning in result.warnings:
        log.warning("%s: %s", result.input, warning, extra=data("warning", input=result.input))
    facts = {name: getattr(result, name) for name in ("input", "output", "frames", "damaged", "path", "size")}
    log.info(
        "%s -> %s: %d frame%s of %dx%d in %.1f s",
        *(result.input, result.output, result.frames, "s" * (result.frames != 1), *result.size),
        result.elapsed_seconds,
        extra=data("done", **facts, elapsed_seconds=round(result.elapsed_seconds, 3)),
    )
