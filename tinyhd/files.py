"""Names of inputs and outputs, and outputs that appear under their name only when they are complete."""

import glob
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tinyhd.errors import InputError, OptionError, OutputError

StrPath = str | os.PathLike[str]

MEDIA_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".m2ts", ".mts", ".wmv"),
        *(".asf", ".flv", ".ogv", ".ogg", ".3gp", ".3g2", ".mxf", ".vob", ".dv", ".nut"),
        *(".gif", ".apng", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    )
)
"""Names with these endings are taken from a folder."""

TEMPORARY_PREFIX = ".tinyhd-"
OUTPUT_TAG = ".saliency"
"""Goes between the stem and the suffix of an output's default name."""


# ---- inputs


def expand_inputs(arguments: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], bool]:
    """Files, folders and globs -> (files, whether they are a batch).

    A folder stands for the videos and pictures in it (not in its subfolders, and not what this tool wrote), sorted; a
    glob (`*`, `?`, `[`, and `**` for subfolders) for what it matches, unless a file has that very name. Each file
    comes once. It is a batch where several arguments, a folder or a glob were given, however many files they hold.

    Raises:
        InputError: a folder or glob without any file.
    """
    files: list[Path] = []
    names = [os.fspath(argument) for argument in arguments]
    batch = len(names) > 1
    for argument in names:
        path = Path(argument)
        if path.is_dir():
            batch = True
            found = sorted(child for child in path.iterdir() if _is_media(child))
            if not found:
                raise InputError(f"there is no video or picture in the folder {argument!r}.")
            files += found
        elif not os.path.lexists(path) and glob.has_magic(argument):
            batch = True
            found = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())
            if not found:
                raise InputError(f"no file matches {argument!r}.")
            files += found
        else:
            files.append(path)
    unique = {os.path.realpath(file): file for file in reversed(files)}  # the first of equal ones stays
    return [file for file in files if unique[os.path.realpath(file)] is file], batch


def _is_media(path: Path) -> bool:
    ours = path.stem.endswith(OUTPUT_TAG) or path.name.startswith(TEMPORARY_PREFIX)
    return path.suffix.lower() in MEDIA_SUFFIXES and not ours and path.is_file()


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


# ---- outputs


def check_target(
    path: Path, inputs: Iterable[str | os.PathLike[str]], overwrite: bool, *, folder: bool = False
) -> None:
    """Refuse to write where an input, or without `overwrite` anything else, lies.

    Raises:
        OutputError: with what to do.
    """
    name = repr(os.fspath(path))
    try:
        exists = os.path.lexists(path)
        if path.is_dir() and not folder:
            raise OutputError(f"{name} is a folder: name a file in it.")
        if exists and folder and not path.is_dir():
            raise OutputError(f"{name} is a file, but a folder is needed there: choose another name.")
        if exists and any(os.path.exists(i) and os.path.samefile(path, i) for i in inputs if path.exists()):
            raise OutputError(f"the output {name} is an input: choose another name, inputs are never overwritten.")
        if exists and not overwrite and not (folder and not any(path.iterdir())):
            raise OutputError(f"{name} exists already: choose another name, or overwrite it with --overwrite.")
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """The error to raise for a failed write."""
    return OutputError(f"{os.fspath(path)!r} cannot be written: {error.strerror or error}.")


class AtomicOutput:
    """A file or folder in the making: written under a temporary name beside its own, renamed at the end.

    Used in a `with` statement: the body's normal end renames, an exception removes everything. Whether the place can
    be written shows at once, before any work is done.

    Attributes:
        path: the final name.
        temporary: where to write meanwhile; an empty file, or folder, is there.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, folder: bool = False) -> None:
        self.path, self.overwrite, self.folder = path, overwrite, folder
        self.temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{'' if folder else path.suffix}"
        check_target(path, (), overwrite, folder=folder)
        if not path.parent.is_dir():
            raise OutputError(f"{os.fspath(path)!r} cannot be written: there is no folder {os.fspath(path.parent)!r}.")
        try:
            if folder:
                self.temporary.mkdir()
            else:
                self.temporary.open("xb").close()
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def commit(self) -> None:
        """Give the output its name. Raises `OutputError` where something has appeared there meanwhile."""
        try:
            check_target(self.path, (), self.overwrite, folder=self.folder)
            if self.folder:
                self._merge()
            else:
                self.temporary.replace(self.path)
        except (OSError, OutputError) as error:
            self.discard()
            raise cannot_write(self.path, error) if isinstance(error, OSError) else error from None

    def _merge(self) -> None:
        """Replace the numbered pictures of an earlier run; other files in the folder stay."""
        if not self.path.exists():
            self.temporary.rename(self.path)
            return
        for old in self.path.iterdir():
            if re.fullmatch(r"\d{6,}\.png", old.name):
                old.unlink()
        for new in self.temporary.iterdir():
            new.replace(self.path / new.name)
        self.temporary.rmdir()

    def discard(self) -> None:
        """Remove what has been written."""
        if self.folder:
            shutil.rmtree(self.temporary, ignore_errors=True)
        else:
            self.temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """Make sure that a folder is there, for outputs; returns it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if path.exists():
            raise OutputError(f"{os.fspath(path)!r} is a file, but a folder is needed: choose another name.") from error
        raise cannot_write(path, error) from error
    return path


def check_suffix(path: Path, allowed: Sequence[str], what: str) -> None:
    """Raises `OptionError` where a name ends otherwise than `allowed` (lower case, with dots)."""
    if path.suffix.lower() not in allowed:
        raise OptionError(f"{os.fspath(path)!r} is no name for {what}: it must end in {', '.join(allowed)}.")
