"""The manifest of a folder of outputs at an address.

Stores can only replace whole files. So each run writes a few of its own, one after the other, each small enough to be
sent again after every line; together with those of earlier runs they are the manifest.
"""

import hashlib
import re
import secrets
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from tinyhd.files import cannot_write, own_prefix
from tinyhd.options import BatchOptions
from tinyhd.pipeline.addresses import Address, download, find, upload
from tinyhd.pipeline.fetched import Cache
from tinyhd.pipeline.manifest import Manifest, Plan, at_work

_MOST_BYTES = 2**18
"""Of one file."""


class RemoteManifest(Manifest):
    """The manifest of one run whose outputs go to an address: each line is there before the next job starts."""

    def __init__(self, folder: Address, model_hash: str) -> None:
        """As of `Manifest`; of other runs into the same folder, only those of this machine and user are noticed."""
        self._address = folder
        self._cache = Cache(BatchOptions()).folder  # what dead runs left there is swept
        self._passing = tempfile.TemporaryDirectory(dir=self._cache, prefix=f"{own_prefix()}manifest-")
        here = Path(self._passing.name)
        try:
            fetch_manifests(folder, here)
            super().__init__(here, model_hash)
        except BaseException:
            self._passing.cleanup()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._passing.cleanup()

    def _take_place(self, folder: Path) -> tuple[Path, FileLock]:
        mark = hashlib.sha256(str(self._address).rstrip("/").encode()).hexdigest()[:16]
        lock = FileLock(self._cache / f".{mark}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise at_work(self._address) from error
        return _next_name(folder), lock

    def _write(self, plan: Plan, status: str, outputs: list[tuple[str, int]], *more: Any, **facts: Any) -> None:
        super()._write(plan, status, outputs, *more, **facts)
        upload(self.path, self._address / self.path.name)
        if self._file.tell() > _MOST_BYTES:
            self._file.close()
            self.path = _next_name(self.path.parent)
            try:
                self._file = self.path.open("ab+")
            except OSError as error:
                raise cannot_write(self.path, error) from error


def fetch_manifests(folder: Address, here: Path) -> None:
    """Copy the manifests at an address into a folder. Raises `InputError`, `OptionError`."""
    for file in find(folder):
        if re.fullmatch(r"tinyhd-manifest[\w-]*\.jsonl", file.name):
            download(file, here / file.name)


def _next_name(folder: Path) -> Path:
    """Of a file that no other run writes; later ones come later."""
    return folder / f"tinyhd-manifest-{time.time_ns()}-{secrets.token_hex(3)}.jsonl"
