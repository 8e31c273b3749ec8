"""Keeping maps at full resolution: what takes them, and an npz file (`render.grayscale` has images and videos)."""

import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tinyhd.files import AtomicOutput, cannot_write
from tinyhd.video.frame import Frame


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


class NpzWriter(MapsWriter):
    """One file with `maps`, float16 (N, H, W), and `time_seconds`, float64 (N,).

    The maps wait in a temporary file without a name beside it, because their number comes before them in the file.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        super().__init__(path)
        self._output = AtomicOutput(path, overwrite=overwrite)
        try:
            # where the output is there is room; the system's own place may be in memory
            self._maps = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed in the end
        except OSError as error:
            self._output.discard()
            raise cannot_write(path, error) from error
        self._shape: tuple[int, ...] = ()
        self._times: list[float] = []

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        self._shape = saliency.shape
        try:
            self._maps.write(saliency.astype(np.float16).tobytes())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._times.append(frame.time_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._maps:
            if error is not None:
                self._output.discard()
                return
            with self._output:
                self._archive()

    def _archive(self) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(self._times), *self._shape)}
        try:
            self._maps.seek(0)
            with zipfile.ZipFile(self._output.temporary, "w") as archive:
                with archive.open("maps.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(self._maps, member, 2**20)
                with archive.open("time_seconds.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(self._times))
        except OSError as error:
            raise cannot_write(self.path, error) from error
