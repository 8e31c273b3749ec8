"""Which files the arguments of a command stand for, and what their outputs are called."""

import csv
import glob
import hashlib
import importlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tinyhd.errors import InputError, OptionError
from tinyhd.files import ENCODED_TAG, OUTPUT_TAG, REFRAMED_TAG, TEMPORARY_PREFIX
from tinyhd.options import BatchOptions
from tinyhd.pipeline.addresses import Address, absolute, as_path, find, is_address, look
from tinyhd.pipeline.fetched import Cache
from tinyhd.video import reader

MEDIA_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".m2ts", ".mts", ".wmv"),
        *(".asf", ".flv", ".ogv", ".ogg", ".3gp", ".3g2", ".mxf", ".vob", ".dv", ".nut"),
        *(".gif", ".apng", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    )
)
"""Names with these endings are taken from a folder."""

_STILL_SUFFIXES = frozenset((".jpg", ".jpeg", ".bmp"))
_EITHER_SUFFIXES = frozenset((".gif", ".apng", ".png", ".webp", ".tif", ".tiff"))
"""Still images, or animations."""


def expand_inputs(
    arguments: Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[list[Path], bool]:
    """Files, folders and globs -> (files, whether they are a batch).

    A folder, here or at an address, stands for the videos and still images in it (not what this tool wrote), sorted; a
    glob (`*`, `?`, `[`, and `**` for subfolders; at an address `*` only) for what it matches, unless a file has that
    very name. Each file comes once. It is a batch where several arguments, a folder or a glob were given, however many
    files they hold.

    Args:
        recursive: take the files in subfolders too.
        include, exclude: patterns such as "*.mkv" or "raw/*" for the name, or the path below the folder, of what is
            taken from folders: any of the first, where there are any, and none of the second.

    Raises:
        InputError: a folder or glob without any file.
    """
    files: list[Path] = []
    names = [os.fspath(argument) for argument in arguments]
    batch = len(names) > 1
    for argument in names:
        path = as_path(argument)
        if isinstance(path, Address):
            if not _is_several(path):
                files.append(path)
                continue
            batch = True
            below = {file: name for file, name in find(path, recursive).items() if _is_media_name(file)}
            wanted = [file for file, name in below.items() if _is_wanted(name, include, exclude)]
            if not wanted:
                is_there = "*" in argument or look(path) is not None
                what = "video or still image that is wanted" if is_there else "such folder or bucket"
                raise InputError(f"there is no {what} at {argument!r}.")
            files += sorted(wanted)
        elif path.is_dir():
            batch = True
            found = [
                child
                for child in (_walk(path) if recursive else path.iterdir())
                if _is_media_name(child)
                and child.is_file()
                and _is_wanted(child.relative_to(path).as_posix(), include, exclude)
            ]
            if not found:
                which = " that is wanted" if include or exclude else ""
                raise InputError(f"there is no video or still image{which} in the folder {argument!r}.")
            files += sorted(found)
        elif not os.path.lexists(path) and glob.has_magic(argument):
            batch = True
            matches = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())
            if not matches:
                raise InputError(f"no file matches {argument!r}.")
            files += matches
        else:
            files.append(path)
    return distinct(files), batch


def distinct(files: Iterable[Path]) -> list[Path]:
    """The files, each once, in the order in which they came first."""
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(str(file) if is_address(file) else os.path.realpath(file), file)
    return list(first.values())


def _walk(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(TEMPORARY_PREFIX))
        yield from (Path(base, name) for name in names)


def _is_wanted(below: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    name = below.rpartition("/")[2]

    def fits(patterns: Sequence[str]) -> bool:
        return any(fnmatch(name, pattern) or fnmatch(below, pattern) for pattern in patterns)

    return (not include or fits(include)) and not fits(exclude)


def read_list(name: str) -> list[dict[str, Any]]:
    """The inputs that a file lists, with their options: rows for `Job.from_mapping`.

    `x.csv` has a header, `x.jsonl` an object a line; both have `input` and, where wanted, `output` and any options.
    Other files, and `-` for standard input, have a name a line; empty lines and those that start with # count nothing.

    Raises:
        InputError: it cannot be read, or is not like that, or lists nothing.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {name!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    rows: list[dict[str, Any]]
    try:
        if name.lower().endswith(".csv"):
            rows = list(csv.DictReader(text.splitlines()))
        elif name.lower().endswith((".jsonl", ".ndjson")):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            lines = (line.strip() for line in text.splitlines())
            rows = [{"input": line} for line in lines if line and not line.startswith("#")]
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or None in row or not isinstance(row.get("input"), str) or not row["input"]:
                raise ValueError(f"row {number} names no input, or has more values than names")
    except ValueError as error:
        raise InputError(f"the list {name!r} is not as it should be: {error}.") from error
    if not rows:
        raise InputError(f"the list {name!r} names no input.")
    return rows


def dataset_files(name: str, view: str | None = None) -> list[str]:
    """The videos and still images of a FiftyOne dataset, or of a view that is saved in it, in their order.

    Raises:
        OptionError: FiftyOne is not installed, or its database does not answer.
        InputError: there is no such dataset or view, or there is neither video nor still image in it.
    """
    try:
        fiftyone = importlib.import_module("fiftyone")
    except ImportError as error:
        raise OptionError("--dataset needs FiftyOne, which is not installed: pip install 'tinyhd[plugin]'.") from error
    try:
        if not fiftyone.dataset_exists(name):
            raise InputError(f"there is no FiftyOne dataset {name!r}: `fiftyone datasets list` prints their names.")
        samples = fiftyone.load_dataset(name)
        if view is not None:
            if not samples.has_saved_view(view):
                raise InputError(f"the FiftyOne dataset {name!r} has no saved view {view!r}.")
            samples = samples.load_saved_view(view)
        kinds, files = ("video", "image"), []
        if samples.media_type in kinds:
            files = samples.values("filepath")
        elif samples.media_type == "group":
            slices = [slice for slice, kind in samples.group_media_types.items() if kind in kinds]
            files = samples.select_group_slices(slices, _allow_mixed=True).values("filepath") if slices else []
    except InputError:
        raise
    except Exception as error:  # of many kinds: its database, its configuration, its version
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise OptionError(f"the FiftyOne dataset {name!r} cannot be read: {reason}.") from error
    if not files:
        raise InputError(f"there is no video or still image in the FiftyOne dataset {name!r}.")
    return files


def in_shard(file: Path, shard: str) -> bool:
    """Whether a file belongs to a part such as "3/16" of all inputs: by a digest of its absolute path, so that every
    machine that sees the same paths agrees. Raises `OptionError` for another form."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise OptionError(f"the shard is {shard!r}; it must be such as 3/16: the third of sixteen parts.")
    digest = hashlib.sha256(os.fsencode(absolute(file))).digest()
    return int.from_bytes(digest[:8], "big") % count == number - 1


def _is_several(address: Address) -> bool:
    """Whether an address is of a folder, or a pattern; a name as of a video is taken for one without asking."""
    text = str(address)
    if address.scheme in ("http", "https"):
        return text.endswith("/")
    if "*" in text or text.endswith("/"):
        return True
    if address.suffix.lower() in MEDIA_SUFFIXES:
        return False
    facts = look(address)
    return facts is not None and facts.is_folder


def is_still(file: Path, options: BatchOptions) -> bool:
    """Whether a file is a still image: by its name where that is enough, at an address; otherwise it is fetched.

    Args:
        options: where to, and how large it may be.

    Raises:
        InputError, OutputError: as `probe` and `Cache.copy`.
    """
    if not isinstance(file, Address):
        return reader.probe(file).is_still
    if file.suffix.lower() in _STILL_SUFFIXES:
        return True
    if file.suffix.lower() in MEDIA_SUFFIXES - _EITHER_SUFFIXES:
        return False
    with Cache(options).copy(file) as copy:
        return reader.probe(copy).is_still


def _is_media_name(path: Path) -> bool:
    ours = path.stem.endswith((OUTPUT_TAG, REFRAMED_TAG, ENCODED_TAG)) or path.name.startswith(TEMPORARY_PREFIX)
    return path.suffix.lower() in MEDIA_SUFFIXES and not ours


def distinct_stems(inputs: Sequence[Path], output_folder: Path | None = None) -> list[str]:
    """The name without suffix for each input's outputs, different from each other in any one folder.

    Outputs lie in `output_folder`, or beside their input where that is None. A file's own stem, `clip`; where
    several share it, their suffixes are added, `clip.avi` and `clip.mp4`; where that is not enough, they are numbered
    in the order given, `clip`, `clip-2`.
    """

    def key(path: Path, stem: str) -> tuple[Path, str]:
        return (output_folder or path.parent, stem.casefold())  # some file systems take A and a for the same

    same_stem = Counter(key(path, path.stem) for path in inputs)
    same_name = Counter(key(path, path.name) for path in inputs)
    taken: set[tuple[Path, str]] = set()
    stems = []
    for path in inputs:
        tell_by_suffix = same_stem[key(path, path.stem)] > 1 and same_name[key(path, path.name)] == 1
        base = path.name if tell_by_suffix else path.stem
        stem, number = base, 1
        while key(path, stem) in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(key(path, stem))
        stems.append(stem)
    return stems
