"""Keeping raw maps: as one npz file, as 16-bit pictures in a folder, or as a grey video."""

import os
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import av
import numpy as np

from tinyhd.errors import OptionError, OutputError
from tinyhd.files import AtomicOutput, cannot_write
from tinyhd.video.encoders import EncoderSettings
from tinyhd.video.frame import Frame, VideoInfo
from tinyhd.video.png import encode_png
from tinyhd.video.writer import VIDEO_SUFFIXES, VideoWriter

PNG_SCALE = 65535
"""Pixel value of a map value of 1 in the 16-bit pictures; the models' maps lie between 0 and 1."""


_GREY_CRF = 10
_BT709, _LIMITED_RANGE = 1, 1  # numbers of ITU-T H.273 and FFmpeg


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


class _FolderWriter(MapsWriter):
    """A folder of 16-bit grey pictures, 000000.png, 000001.png ...: map value times `PNG_SCALE`."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        super().__init__(path)
        self._pending = AtomicOutput(path, overwrite=overwrite, folder=True)
        self._count = 0

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        pixels = np.rint(np.clip(saliency, 0, 1) * PNG_SCALE).astype(np.uint16)
        try:
            (self._pending.temporary / f"{self._count:06d}.png").write_bytes(encode_png(pixels))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pending.__exit__(kind, error, traceback)


class _VideoWriter(MapsWriter):
    """A grey video of the maps as displayed (8 bits), at the times of the frames."""

    wants_display = True

    def __init__(self, path: Path, overwrite: bool, info: VideoInfo, shape: tuple[int, int], start: Fraction) -> None:
        super().__init__(path)
        self._start = start
        height, width = shape
        shown = info.sample_aspect_ratio * Fraction(info.width, info.height)
        grey = replace(
            info,
            sample_aspect_ratio=shown / Fraction(width, height),
            colorspace=_BT709,
            color_range=_LIMITED_RANGE,
            color_trc=_BT709,
            color_primaries=_BT709,
        )
        settings = EncoderSettings(crf=_GREY_CRF)
        self._video = VideoWriter(
            path, grey, size=(width, height), settings=settings, keep_source=False, overwrite=overwrite
        )

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        height, width = saliency.shape
        image = av.VideoFrame.from_ndarray(
            np.vstack(
                [
                    np.rint(16 + 219 * saliency).astype(np.uint8),
                    np.full((height // 2, width), 128, np.uint8),  # both chroma planes
                ]
            ),
            format="yuv420p",
        )
        self._video.write(image, frame.time - self._start)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._video.__exit__(kind, error, traceback)


def open_maps_writer(
    target: str | os.PathLike[str],
    info: VideoInfo,
    shape: tuple[int, int],
    *,
    start: Fraction = Fraction(0),
    overwrite: bool = False,
) -> MapsWriter:
    """A writer for the maps (H, W) = `shape` of a video from `start` on, by the name of its target.

    - `x.npz`: `maps`, float16 (N, H, W), as the model gives them, and `time_seconds`, float64 (N,).
    - `folder/`, or a name without suffix: 000000.png ..., 16 bits grey, map value x 65535.
    - `x.mp4` (.m4v, .mov): a grey video of the maps as they are displayed, that is normalised, 8 bits; it starts
      at 0 as the annotated video does, while `time_seconds` is the source's.

    Raises:
        OptionError: the name ends in another way.
        OutputError: it cannot be written.
    """
    path = Path(target)
    if is_folder_name(target):
        return _FolderWriter(path, overwrite)
    if path.suffix.lower() == ".npz":
        return _NpzWriter(path, overwrite)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _VideoWriter(path, overwrite, info, shape, start)
    raise OptionError(
        f"maps cannot be saved as {os.fspath(target)!r}: name a .npz file, a folder (ending in /) "
        "or a grey video (.mp4)."
    )


def is_folder_name(target: str | os.PathLike[str]) -> bool:
    """Whether the name of a target for maps means a folder: there is one, it ends in a slash, or has no suffix."""
    return Path(target).is_dir() or os.fspath(target).endswith(("/", os.sep)) or not Path(target).suffix
