"""Command-line arguments made from the dataclasses of `tinyhd.options`, and the ones that only commands have."""

import argparse
import re
from fractions import Fraction
from typing import Any

from tinyhd.choices import Options, OptionsT, choices, convert, field_types
from tinyhd.errors import OptionError
from tinyhd.options import BatchOptions
from tinyhd.version import __version__


def add_options(parser: argparse.ArgumentParser, title: str, cls: type[Options]) -> None:
    """A group of arguments, one for each field: `batch_size` becomes --batch-size, a true `cuts` --no-cuts."""
    add = parser.add_argument_group(title).add_argument
    kinds, defaults = field_types(cls), cls()
    for name, choice in choices(cls).items():
        flag, default, help = name.replace("_", "-"), getattr(defaults, name), choice.help.replace("%", "%%")
        if kinds[name] is bool:
            negated = "no-" if default else ""
            prefix = "do not " if default else ""
            action = "store_false" if default else "store_true"
            add(f"--{negated}{flag}", dest=name, action=action, help=prefix + help)
            continue
        if default is not None:
            help += f"; default: {default}"
        facts: dict[str, Any] = {"choices": choice.allowed} if choice.allowed else {"metavar": choice.metavar}
        if choice.bare is not None:
            facts |= {"nargs": "?", "const": choice.bare}
        add(f"--{flag}", dest=name, default=default, type=_converter(name, kinds[name]), help=help, **facts)


def add_inputs(parser: argparse.ArgumentParser, output: str | None) -> None:
    """What all commands for one input or many take. `output`: what is written for one; None: files in a folder."""
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="videos, still images, folders, globs or addresses")
    parser.add_argument("--version", action="version", version=f"tinyhd {__version__}")
    parser.add_argument("--list-models", action="store_true", help="print the names that --model knows, and end")
    add = parser.add_argument_group("output").add_argument
    if output:
        add("-o", "--output", metavar="FILE", help=f"where to write the {output}, for one input")
    add("--output-dir", metavar="DIR", help="write all outputs into this folder; run again, it goes on where it was")
    add("--overwrite", action="store_true", help="replace outputs that exist; an input is never overwritten")
    add = parser.add_argument_group("input").add_argument
    add("--recursive", action="store_true", help="take what is in the subfolders of folders too")
    add("--include", action="append", default=[], metavar="PATTERN", help="take only such names from folders: *.mkv")
    add("--exclude", action="append", default=[], metavar="PATTERN", help="do not take such names from folders")
    add(
        "--from-file",
        metavar="FILE",
        help="a list of inputs: a name a line (- for standard input), or x.csv or x.jsonl with input and any options",
    )
    add("--dataset", metavar="NAME", help="the videos and still images of a FiftyOne dataset")
    add("--view", metavar="NAME", help="of --dataset, only what is in this saved view")
    add("--shard", metavar="K/N", help="only the Kth of N parts of the inputs, for several machines")
    add("--start", type=seconds, metavar="TIME", help="only from here on: seconds or [HH:]MM:SS")
    add("--end", type=seconds, metavar="TIME", help="only up to here")
    add_options(parser, "many inputs", BatchOptions)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and end")


def add_track(parser: argparse.ArgumentParser) -> None:
    """`--track`."""
    help = "what `tinyhd analyze` wrote for this input: the network is not run"
    parser.add_argument("--track", metavar="FILE", help=help)


def read_options(arguments: argparse.Namespace, cls: type[OptionsT]) -> OptionsT:
    """The options of a group. Raises `OptionError`."""
    return cls(**{name: getattr(arguments, name) for name in choices(cls)})


def _converter(name: str, kind: type) -> Any:
    def parse(text: str) -> Any:
        try:
            return convert(name, text, kind)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error).partition("; ")[2].rstrip(".") + f", not {text!r}") from error

    return parse


def seconds(text: str) -> Fraction:
    """90, 90.5, 1:30 or 0:01:30.5 -> seconds; for `argparse`."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: give seconds or [HH:]MM:SS")
    hours, minutes, rest = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(rest)
