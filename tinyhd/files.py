"""Outputs that appear under their name only when they are complete."""

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from tinyhd.errors import OptionError, OutputError

StrPath = str | os.PathLike[str]

TEMPORARY_PREFIX = ".tinyhd-"
# which computer, and then which process, so that what a dead one has left can be told from work that goes on
_OWN_PREFIX = f"{TEMPORARY_PREFIX}{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}-"
OUTPUT_TAG = ".saliency"
"""Goes between the stem and the suffix of an output's default name."""
REFRAMED_TAG = ".reframed"
"""The same, of a reframed video."""
ENCODED_TAG = ".encoded"
"""The same, of a video encoded by regions of interest."""


def check_target(path: Path, inputs: Iterable[StrPath], overwrite: bool, *, folder: bool = False) -> None:
    """Refuse to write where an input, or without `overwrite` anything else, lies.

    Raises:
        OutputError: with what to do.
    """
    name = repr(os.fspath(path))
    with writing(path):
        exists = os.path.lexists(path)
        if path.is_dir() and not folder:
            raise OutputError(f"{name} is a folder: name a file in it.")
        if exists and folder and not path.is_dir():
            raise OutputError(f"{name} is a file, but a folder is needed there: choose another name.")
        if exists and any(os.path.exists(i) and os.path.samefile(path, i) for i in inputs if path.exists()):
            raise OutputError(f"the output {name} is an input: choose another name, inputs are never overwritten.")
        if exists and not overwrite and not (folder and not any(path.iterdir())):
            raise OutputError(f"{name} exists already: choose another name, or overwrite it with --overwrite.")


def cannot_write(path: StrPath, error: OSError) -> OutputError:
    """The error to raise for a failed write."""
    return OutputError(f"{os.fspath(path)!r} cannot be written: {error.strerror or error}.")


@contextlib.contextmanager
def writing(path: StrPath) -> Iterator[None]:
    """Writing that fails in the body becomes an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def write_file(path: StrPath, content: bytes) -> None:
    """Write a file whole; one that is there is replaced. Raises `OutputError`."""
    with AtomicOutput(Path(path), overwrite=True) as output, writing(path):
        output.temporary.write_bytes(content)


class AtomicOutput:
    """A file or folder in the making: written under a temporary name beside its own, renamed at the end.

    Used in a `with` statement: the body's normal end renames, an exception removes everything. Whether the place can
    be written shows at once, before any work is done. What writes files derives from it.

    Attributes:
        path: the final name.
        temporary: where to write meanwhile; an empty file, or folder, is there.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, folder: bool = False) -> None:
        self.path, self.overwrite, self.folder = path, overwrite, folder
        mark = hashlib.sha256(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()[:8]
        unique = f"{own_prefix()}{mark}-{secrets.token_hex(4)}"
        self.temporary = path.parent / f"{unique}{'' if folder else path.suffix}"
        check_target(path, (), overwrite, folder=folder)
        if not path.parent.is_dir():
            raise OutputError(f"{os.fspath(path)!r} cannot be written: there is no folder {os.fspath(path.parent)!r}.")
        self._claim = path.parent / f"{_OWN_PREFIX}claim-{mark}"
        self._has_claim = self._take_claim()
        try:
            if folder:
                self.temporary.mkdir()
            else:
                self.temporary.open("xb").close()
        except OSError as error:
            self._release_claim()
            raise cannot_write(path, error) from error

    def _take_claim(self) -> bool:
        """A link to the number of the process that writes here: made at once or not at all, and found without looking
        through the folder, which may be very large. Raises `OutputError` where one that lives has it."""
        if sys.platform == "win32":
            return False
        for _ in range(2):
            try:
                os.symlink(str(os.getpid()), self._claim)
                return True
            except FileExistsError:
                if is_alive(_process_of(self._claim)):
                    raise OutputError(
                        f"{os.fspath(self.path)!r} is being written by another run: wait for its end."
                    ) from None
                self._claim.unlink(missing_ok=True)
            except OSError:  # no such links there, or no writing, which shows at once
                break
        return False

    def _release_claim(self) -> None:
        if self._has_claim:
            self._has_claim = False
            self._claim.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def commit(self) -> None:
        """Give the output its name. Raises `OutputError` where something has appeared there meanwhile."""
        try:
            self._complete()
            check_target(self.path, (), self.overwrite, folder=self.folder)
            if self.folder:
                self._merge()
            else:
                self.temporary.replace(self.path)
        except (OSError, OutputError) as error:
            self.discard()
            raise cannot_write(self.path, error) if isinstance(error, OSError) else error from None
        self._release_claim()

    def _complete(self) -> None:
        """Write what is to be written at the end."""

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
        self._release_claim()
        if self.folder:
            shutil.rmtree(self.temporary, ignore_errors=True)
        else:
            self.temporary.unlink(missing_ok=True)


def own_prefix() -> str:
    """What the names of this process's temporary files and folders start with, for `sweep`."""
    return f"{_OWN_PREFIX}{os.getpid()}-"


def sweep(folder: Path) -> int:
    """Remove the temporary files in a folder that processes of this computer which have died left there; how many."""
    count = 0
    with contextlib.suppress(OSError):
        for child in list(folder.glob(f"{_OWN_PREFIX}*")):
            if not is_alive(_process_of(child)):
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child, ignore_errors=True)
                else:
                    child.unlink(missing_ok=True)
                count += 1
    return count


def _process_of(temporary: Path) -> int:
    """The process that made a temporary file, or a claim, of this computer; 0 where its name is not one of ours."""
    if temporary.is_symlink():
        try:
            return int(os.readlink(temporary))
        except (OSError, ValueError):
            return 0
    number = temporary.name.removeprefix(_OWN_PREFIX).partition("-")[0]
    return int(number) if number.isdigit() else 0


def is_alive(process: int) -> bool:
    """Whether a process of this computer, by its number, is still there; True where that cannot be told."""
    if sys.platform == "win32" or process == 0:  # there is no harmless way to ask for a process there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


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
