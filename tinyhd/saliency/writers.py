"""Keeping maps at full resolution: what takes them, and an npz file (`render.grayscale` has images and videos)."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from tinyhd.files import AtomicOutput, cannot_write, writing
from tinyhd.video.frame import Frame


class MapsWriter(Protocol):
    """Takes the maps of one video in order; a context manager. What it writes appears at the normal end of its body."""

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """Add the map, float (H, W), of a frame."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class NpzWriter(AtomicOutput):
    """One file with `maps`, float16 (N, H, W), and `time_seconds`, float64 (N,).

    The maps wait in a temporary file without a name beside it, because their number comes before them in the file.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        super().__init__(path, overwrite=overwrite)
        try:
            # where the output is there is room; the system's own place may be in memory
            self._maps = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed in the end
        except OSError as error:
            super().discard()
            raise cannot_write(path, error) from error
        self._shape: tuple[int, ...] = ()
        self._times: list[float] = []

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """Add the map, float (H, W), of a frame."""
        self._shape = saliency.shape
        with writing(self.path):
            self._maps.write(saliency.astype(np.float16).tobytes())
        self._times.append(frame.time_seconds)

    def _complete(self) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(self._times), *self._shape)}
        with self._maps, zipfile.ZipFile(self.temporary, "w") as archive:
            self._maps.seek(0)
            with archive.open("maps.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(self._maps, member, 2**20)
            with archive.open("time_seconds.npy", "w") as member:
                np.lib.format.write_array(member, np.array(self._times))

    def discard(self) -> None:
        """Remove what has been written."""
        self._maps.close()
        super().discard()
