"""The command `tinyhd`: its subcommands, and exit status. The work is done in `pipeline`.

What takes long to import is imported when work begins, so that `--help` and mistakes are answered at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from tinyhd.cli import batch_report, commands, encode, moments, reframe, report
from tinyhd.cli.arguments import add_inputs, add_options, add_track
from tinyhd.cli.messages import logging_to_stderr, open_missing_streams
from tinyhd.cli.signals import Terminated, ended_by_signals
from tinyhd.errors import OptionError, TinyHDError, is_out_of_memory
from tinyhd.options import EncoderOptions, InferenceOptions, RenderOptions
from tinyhd.version import __version__

log = logging.getLogger("tinyhd.cli")

_DESCRIPTION = "Show where people look in a video, and what follows from it."

_ANNOTATE = """Show where people look in a video.

Writes input.saliency.mp4 (for a still image, input.saliency.png) beside the input: the input with a heat map of visual
attention laid over it, as predicted by TinyHD. Sound, timestamps and metadata are kept."""

_ANALYZE = """Let the model look at a video once, and keep what it saw.

Writes input.track.npz beside the input: a small file from which `tinyhd annotate --track` and the other commands work
without running the network again."""

_EXPORT = """Write a network as an ONNX file or as OpenVINO's pair of files, checked against PyTorch."""

_EPILOG = """exit status: 0 done, 1 something failed, 2 wrong usage, 3 damaged input, done as far as it decodes,
130 interrupted. A name that starts with a dash goes after --, as in: %(prog)s -- -x.mp4"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `tinyhd` with `arguments` (the process's own if None) and return its exit status."""
    parser = argparse.ArgumentParser("tinyhd", description=_DESCRIPTION, epilog="tinyhd COMMAND --help says more.")
    parser.add_argument("--version", action="version", version=f"tinyhd {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, (describe, fill, _) in _COMMANDS.items():
        first_line = describe.partition("\n")[0].rstrip(".")
        fill(_configured(subparsers.add_parser(name, help=first_line[0].lower() + first_line[1:]), describe))
    options = parser.parse_args(arguments)
    return _run(subparsers.choices[options.command], options)


def annotate_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `tinyhd-annotate`, which is `tinyhd annotate`."""
    parser = _configured(argparse.ArgumentParser("tinyhd-annotate"), _ANNOTATE)
    _fill_annotate(parser)
    return _run(parser, parser.parse_args(arguments, argparse.Namespace(command="annotate")))


# the arithmetic that NumPy has to do here is small, and its threads would be in the way of the network's
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    open_missing_streams()
    with logging_to_stderr(options.json_log, options.quiet):
        try:
            with ended_by_signals():
                status: int = _COMMANDS[options.command][2](parser, options)
                sys.stdout.flush()
                return status
        except KeyboardInterrupt:
            log.error("Interrupted; no unfinished file was left.")
            return commands.INTERRUPTED
        except Terminated as signal:
            return signal.exit_status
        except OptionError as error:
            log.error("%s", error)
            return commands.USAGE
        except TinyHDError as error:
            log.error("%s", error)
            return commands.FAILED
        except BrokenPipeError:  # who reads the list has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return commands.FAILED
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.error("Out of memory: close other programs, or raise the limit.")
            return commands.FAILED


def _configured(parser: argparse.ArgumentParser, description: str) -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    add = parser.add_argument_group("messages").add_argument
    add("--quiet", action="store_true", help="say nothing but errors")
    add("--json-log", action="store_true", help="messages and progress as one JSON object a line, on stderr")
    return parser


def _fill_annotate(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser, "annotated video")
    add_track(parser)
    add_options(parser, "rendering", RenderOptions)
    add = parser.add_argument_group("what is kept beside it").add_argument
    add(
        "--save-maps",
        metavar="TO",
        help="raw maps: maps.npz (float16), a folder/ of 16-bit PNGs (value x 65535), or gray.mp4 (as displayed); "
        "with many inputs a folder",
    )
    add(
        "--stats",
        metavar="TO",
        help="stats.csv or .jsonl: time, peak, center of mass, spread and entropy of every frame; with many inputs a "
        "folder",
    )
    add(
        "--regions",
        metavar="FILE",
        help='for --stats, the share of attention in regions: {"units": "fractions" or "pixels", "regions": '
        '{"name": [left, top, right, bottom], "other": [[x, y], [x, y], [x, y], ...]}}',
    )
    add_options(parser, "encoding", EncoderOptions)
    add_options(parser, "inference", InferenceOptions)


def _fill_analyze(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser, "track")
    add_options(parser, "inference", InferenceOptions)


def _fill_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="FILE", help="x.onnx, or x.xml for OpenVINO (with x.bin beside it)")
    parser.add_argument("--model", metavar="NAME", help="as of tinyhd annotate")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


_COMMANDS = {
    "annotate": (_ANNOTATE, _fill_annotate, commands.run_many),
    "analyze": (_ANALYZE, _fill_analyze, commands.run_many),
    "reframe": (reframe.DESCRIPTION, reframe.fill, reframe.run),
    "moments": (moments.DESCRIPTION, moments.fill, moments.run),
    "report": (report.DESCRIPTION, report.fill, report.run),
    "encode": (encode.DESCRIPTION, encode.fill, encode.run),
    "batch-report": (batch_report.DESCRIPTION, batch_report.fill, batch_report.run),
    "export": (_EXPORT, _fill_export, commands.export),
}
