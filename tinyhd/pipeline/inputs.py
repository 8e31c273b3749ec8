"""Which files the arguments of a command stand for, and what their outputs are called."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tinyhd.errors import InputError
from tinyhd.files import OUTPUT_TAG, TEMPORARY_PREFIX

MEDIA_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".m2ts", ".mts", ".wmv"),
        *(".asf", ".flv", ".ogv", ".ogg", ".3gp", ".3g2", ".mxf", ".vob", ".dv", ".nut"),
        *(".gif", ".apng", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    )
)
"""Names with these endings are taken from a folder."""


def expand_inputs(arguments: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], bool]:
    """Files, folders and globs -> (files, whether they are a batch).

    A folder stands for the videos and still images in it (not in its subfolders, nor what this tool wrote), sorted; a
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
                raise InputError(f"there is no video or still image in the folder {argument!r}.")
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
