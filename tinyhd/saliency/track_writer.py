"""Writes tracks, while the video is read."""

import contextlib
import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self

import numpy as np

from tinyhd.errors import InputError
from tinyhd.files import AtomicOutput, StrPath, check_suffix, writing
from tinyhd.saliency.track import LEVELS, TRACK_FORMAT, TRACK_VERSION, SaliencyTrack, TrackInfo, parse_info

CHUNK_BYTES = 2**20
"""About how much is stored, and read, together."""


class TrackWriter:
    """Writes a track; a context manager. The file appears at the normal end of the body, after `finish`."""

    def __init__(self, target: StrPath | IO[bytes], *, overwrite: bool = False) -> None:
        """
        Args:
            target: a name that ends in .npz, or an open binary file.

        Raises:
            OptionError: another ending.
            OutputError: the file cannot be written.
        """
        self._output: AtomicOutput | None = None
        self._target: Path | IO[bytes]
        if isinstance(target, str | os.PathLike):
            path = Path(target)
            check_suffix(path, (".npz",), "a track")
            self._output = AtomicOutput(path, overwrite=overwrite)
            self._target = self._output.temporary
        else:
            self._target = target
        self._zip = zipfile.ZipFile(self._target, "w", zipfile.ZIP_DEFLATED)
        self._waiting: list[np.ndarray] = []
        self._chunks = 0
        self._peaks: list[float] = []
        self._times: list[float] = []
        self._cuts: list[float] = []
        self._low, self._high = np.inf, -np.inf
        self._shape, self._chunk = (0, 0), 1

    def __enter__(self) -> Self:
        return self

    def add(self, time: float, saliency: np.ndarray) -> None:
        """Append a map, float (h, w), not negative, and when it was seen, in seconds after the container's start."""
        peak = float(saliency.max())
        self._shape = (int(saliency.shape[0]), int(saliency.shape[1]))
        self._chunk = max(1, CHUNK_BYTES // (2 * saliency.size))
        scaled = saliency * (LEVELS / peak) if peak > 0 else np.zeros(saliency.shape)
        self._waiting.append(np.rint(scaled).astype(np.uint16))
        self._low, self._high = min(self._low, float(saliency.min())), max(self._high, peak)
        self._peaks.append(peak)
        self._times.append(float(time))
        if len(self._waiting) == self._chunk:
            self._write_chunk()

    def add_cut(self, time: float) -> None:
        """Note that a new shot starts with the frame at this time."""
        self._cuts.append(float(time))

    def extend(self, track: SaliencyTrack) -> None:
        """Append all samples and cuts of another track, which are later."""
        low, high = track.info.value_range  # of the maps before they were rounded
        low, high = min(low, self._low), max(high, self._high)
        for k, time in enumerate(track.times):
            self.add(time, track.sample(k))
        self._cuts += track.cuts.tolist()
        self._low, self._high = low, high

    def finish(self, info: TrackInfo) -> TrackInfo:
        """Write what is known at the end; the counts, the shape and the range of `info` are filled in and returned.

        Raises:
            InputError: no map was added.
        """
        if not self._times:
            raise InputError(f"{info.source.name!r} has no frame in the part that was asked for.")
        if self._waiting:
            self._write_chunk()
        values = asdict(info) | {
            "samples": len(self._times),
            "shape": self._shape,
            "chunk": self._chunk,
            "value_range": (self._low, self._high),
        }
        self._write_array("peaks", np.array(self._peaks, np.float32))
        self._write_array("times", np.array(self._times))
        self._write_array("cuts", np.array(self._cuts))
        header = {"format": TRACK_FORMAT, "version": TRACK_VERSION, **values}
        with self._errors(), self._zip.open(_member("track.json"), "w") as member:
            member.write(json.dumps(header, indent=1).encode())
        return parse_info(header)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._errors():
                self._zip.close()
        except BaseException:
            if self._output:
                self._output.discard()
            if kind is None:
                raise
        if self._output:
            self._output.__exit__(kind)

    def _write_chunk(self) -> None:
        self._write_array(f"maps_{self._chunks:06d}", np.stack(self._waiting))
        self._waiting.clear()
        self._chunks += 1

    def _write_array(self, name: str, array: np.ndarray) -> None:
        with self._errors(), self._zip.open(_member(f"{name}.npy"), "w") as member:
            np.lib.format.write_array(member, array, allow_pickle=False)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._output.path if self._output else "track")


def _member(name: str) -> zipfile.ZipInfo:
    # a fixed date: the same maps give the same bytes
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
