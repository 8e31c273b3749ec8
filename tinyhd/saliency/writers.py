"""Keeping raw maps: as one npz file, as 16-bit pictures in a folder, or as a grey video."""

import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from tinyhd.errors import OutputError
from tinyhd.files import AtomicOutput, cannot_write
from tinyhd.video.frame import Frame


class MapSpool:
    """Maps on disk, float16, in a temporary file that nobody sees and that goes with the object."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where there is room, such as beside the output (the system's own place may be in memory)."""
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise cannot_write(folder, error) from error
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, saliency: np.ndarray) -> None:
        """Add a map (H, W); all must have the same size. Raises `OutputError` where the disk is full."""
        self._shape = saliency.shape
        try:
            self._file.write(saliency.astype(np.float16).tobytes())
        except OSError as error:
            raise OutputError(f"the maps cannot be kept on disk: {error.strerror or error}.") from error
        self._count += 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """The maps in order, float32 (H, W)."""
        self._file.seek(0)
        for _ in range(self._count):
            data = self._file.read(2 * int(np.prod(self._shape)))
            yield np.frombuffer(data, np.float16).reshape(self._shape).astype(np.float32)

    def write_npy(self, target: IO[bytes]) -> None:
        """All maps as one array (N, H, W) in numpy's file format."""
        header = {"descr": "<f2", "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(target, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, target, 2**20)

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()


class MapsWriter(ABC):
    """Takes the maps of one video in order; a context manager. What it writes appears at the normal end of its body."""

    wants_display = False
    """Whether it wants maps as they are displayed, in [0, 1], not raw ones."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """Add the map, float (H, W), of a frame."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class _NpzWriter(MapsWriter):
    """One file with `maps`, float16 (N, H, W), and `time_seconds`, float64 (N,)."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        super().__init__(path)
        self._pending = AtomicOutput(path, overwrite=overwrite)
        self._spool = MapSpool(path.parent)
        self._times: list[float] = []

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        self._spool.append(saliency)
        self._times.append(frame.time_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._pending.discard()
                return
            with self._pending:
                self._archive()
        finally:
            self._spool.close()

    def _archive(self) -> None:
        try:
            with zipfile.ZipFile(self._pending.temporary, "w") as archive:
                with archive.open("maps.npy", "w", force_zip64=True) as member:
                    self._spool.write_npy(member)
                with archive.open("time_seconds.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(self._times))
        except OSError as error:
            raise cannot_write(self.path, error) from error
