"""Files at addresses such as s3://bucket/clip.mp4, through fsspec, which is imported where there is one."""

import contextlib
import functools
import importlib
import os
import posixpath
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from tinyhd.errors import InputError, OptionError, OutputError, TinyHDError
from tinyhd.files import TEMPORARY_PREFIX, StrPath

if sys.platform == "win32":
    from pathlib import WindowsPath as _Path
else:
    from pathlib import PosixPath as _Path

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_WEB = ("http", "https")
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Stores in which a file appears only when all of it has come."""
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)
"""What stores call that by which a file's content is told from an earlier one."""
_CONNECT_SECONDS, _READ_SECONDS = 15, 60
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
)


class Address(_Path):
    """An address where paths go: it has a name, a suffix and a parent, but nothing is opened by it."""

    _text: str

    def __new__(cls, text: str) -> Self:
        """
        Args:
            text: scheme://place.
        """
        self: Self = super().__new__(cls, text)
        self._text = text
        return self

    def __str__(self) -> str:
        return self._text

    def __fspath__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Address({self._text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Address, (self._text,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: StrPath) -> "Address":
        return Address(f"{self._text.rstrip('/')}/{os.fspath(name)}")

    @property
    def scheme(self) -> str:
        """Such as s3."""
        return self._text.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """The last part, without what a web server is asked with it."""
        return posixpath.basename(self._place.rstrip("/"))

    @property
    def parent(self) -> "Address":
        """The folder, or bucket."""
        return Address(posixpath.dirname(self._place.rstrip("/")))

    @property
    def _place(self) -> str:
        return re.split(r"[?#]", self._text)[0] if self.scheme in _WEB else self._text

    def absolute(self) -> Self:
        """Itself."""
        return self


def as_path(name: StrPath) -> Path:
    """An `Address` where a name is one, otherwise a path."""
    return Address(os.fspath(name)) if is_address(name) else Path(name)


def is_address(name: object) -> bool:
    """Whether a name, or path, is an address."""
    return isinstance(name, Address) or (isinstance(name, str) and _SCHEME.match(name) is not None)


def absolute(name: StrPath) -> str:
    """The same from any working folder."""
    return os.fspath(name) if is_address(name) else os.path.abspath(name)


class Facts(NamedTuple):
    """What a store says of a file."""

    size: int | None
    """Bytes; None: it does not say."""
    version: str
    """Another one where the content is another, as far as the store tells."""
    is_folder: bool = False


# ---- reading


_listed: dict[str, Facts] = {}
_folders: set[str] = set()


def look(address: StrPath, *, listed: bool = False) -> Facts | None:
    """What is at an address; None: nothing.

    Args:
        listed: what `find` has seen is good enough: a batch of very many does not ask for each.

    Raises:
        OptionError, InputError: it cannot be asked for.
    """
    text = os.fspath(address)
    if listed and (text in _listed or posixpath.dirname(text) in _folders):
        return _listed.get(text)
    store, path = _open(text)
    facts: Facts | None = None
    with _told(text, InputError, "read"):
        try:
            facts = _facts(store.info(path))
        except FileNotFoundError as error:
            cause = error.__cause__  # a web server that does not answer looks the same
            if type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", None) not in (404, 410):
                raise cause from error  # type: ignore[misc]
    if facts is None:
        _listed.pop(text, None)
    elif text in _listed or posixpath.dirname(text) in _folders:
        _listed[text] = facts
    return facts


def find(folder: StrPath, recursive: bool = False) -> dict[Address, str]:
    """The files in a folder, or that a pattern with a * fits, and their names below the folder. Raises as `look`."""
    text = os.fspath(folder).rstrip("/")
    store, path = _open(text)
    path, is_web = path.rstrip("/"), Address(text).scheme in _WEB
    with _told(text, InputError, "listed"):
        if "*" in path:
            found = store.glob(path, detail=True)
            text, path = (name.partition("*")[0].rpartition("/")[0] for name in (text, path))
        else:
            found = store.find(path + "/" * is_web, maxdepth=None if recursive else 1, detail=True)
            for known in [known for known in _listed if posixpath.dirname(known) == text]:
                del _listed[known]
            if not is_web:  # a page of links does not say how large files are
                _folders.add(text)
    files: dict[Address, str] = {}
    for name, info in found.items():
        below, facts = name.removeprefix(f"{path}/"), _facts(info)
        if below and not facts.is_folder and below != name:
            files[Address(f"{text}/{below}")] = below
            if facts.size is not None:
                _listed[f"{text}/{below}"] = facts
    return files


def download(address: StrPath, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Fetch a file; `check` is called now and then, and what it raises ends that. Raises as `look`."""
    text = os.fspath(address)
    store, path = _open(text)
    with _told(text, InputError, "fetched"):
        callback = importlib.import_module("fsspec.callbacks").Callback()
        callback.relative_update = callback.absolute_update = lambda *_: check()
        store.get_file(path, str(target), callback=callback)


# ---- writing


def upload(source: Path, address: StrPath) -> None:
    """Write a file to an address, where it appears when it is complete, in the place of what was there.

    Raises:
        OutputError: it cannot be written.
        OptionError: nothing can be written there.
    """
    text = check_writable(address)
    store, path = _open(text)
    with _told(text, OutputError, "written"):
        if Address(text).scheme in _WHOLE:
            store.put_file(str(source), path)
        else:
            folder, _, name = path.rpartition("/")
            passing = f"{folder}/{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{name}"
            store.makedirs(folder, exist_ok=True)
            try:
                store.put_file(str(source), passing)
                store.mv(passing, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    store.rm_file(passing)
                raise
    size, facts = source.stat().st_size, look(text)
    if facts is None or facts.size not in (None, size):
        raise OutputError(f"{text!r} was not written whole: the store has {facts and facts.size} of {size} bytes.")


def check_writable(address: StrPath) -> str:
    """The address, where something can be written there. Raises `OptionError`."""
    text = os.fspath(address)
    if Address(text).scheme in _WEB:
        raise OptionError(f"nothing can be written to {text!r}: web servers are read only; name a bucket or a folder.")
    return text


# ---- fsspec


@functools.lru_cache(maxsize=4096)
def _open(text: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and its name there."""
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if Address(text).scheme in _WEB:  # the default is five minutes for a file of any size
            times = importlib.import_module("aiohttp").ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS
            )
            options["client_kwargs"] = {"timeout": times}
        store, path = importlib.import_module("fsspec.core").url_to_fs(text, **options)
        return store, path
    except ImportError as error:
        raise OptionError(
            f"{text!r} needs a package that is not installed ({_reason(error)}): pip install 'tinyhd[cloud]'."
        ) from error
    except ValueError as error:
        raise OptionError(f"{text!r} is not an address that can be used: {_reason(error)}.") from error


def _facts(info: dict[str, Any]) -> Facts:
    version = next((f"{key} {info[key]}" for key in _VERSIONS if info.get(key)), "")
    return Facts(info.get("size"), version, info.get("type") == "directory")


@contextlib.contextmanager
def _told(text: str, kind: type[TinyHDError], what: str) -> Iterator[None]:
    """Make one sentence of what the packages for addresses raise, which is of many kinds."""
    try:
        yield
    except TinyHDError:
        raise
    except Exception as error:
        raise kind(f"{text!r} cannot be {what}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if type(error).__name__ in _NO_CREDENTIALS:
        return "no credentials were found; give them as to the provider's own tools, by environment variables or files"
    if isinstance(error, PermissionError):
        return "access is denied, check the credentials"
    if isinstance(error, FileNotFoundError):
        return "there is no such file, folder or bucket"
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().partition("\n")[0].rstrip(".")
